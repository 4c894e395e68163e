"""What PyTorch does around an operation: transforms, hooks, modes, devices without memory."""

import copy
import itertools
import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo.compiled_autograd
import torch.autograd.forward_ad as forward_ad
import torch.fx.experimental.proxy_tensor
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import fusedgrad
from unary_functions import UNARY

Function = Callable[..., Tensor]

# a function, how many tensors it takes, the node of the graph that it records
CASES: dict[str, tuple[Function, int, str]] = {
    **{name: (getattr(fusedgrad, name), 1, row.node) for name, row in UNARY.items()},
    "pow with a number": (lambda x: fusedgrad.pow(x, 2.5), 1, "PowScalar"),
    "pow": (fusedgrad.pow, 2, "Pow"),
    "loss": (
        lambda x, t, w: fusedgrad.binary_cross_entropy(x, t, w, reduction="none"),
        3,
        "BinaryCrossEntropy",
    ),
    "loss of logits": (
        lambda x, t, w, p: fusedgrad.binary_cross_entropy_with_logits(x, t, w, pos_weight=p),
        4,
        "BinaryCrossEntropyWithLogits",
    ),
}

cases = pytest.mark.parametrize(("function", "count", "node"), CASES.values(), ids=CASES.keys())


def operands(count: int, *shape: int) -> list[Tensor]:
    tensors = (torch.empty(shape, dtype=torch.float64) for _ in range(count))
    return [tensor.uniform_(0.1, 0.9).requires_grad_() for tensor in tensors]


def gradients(function: Function, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(function(*inputs).sum(), inputs)


def equal(left: Sequence[Tensor], right: Sequence[Tensor]) -> bool:
    return all(map(torch.equal, left, right))


# torch.func


@cases
@pytest.mark.parametrize("out_dim", [0, 1, -1])
@pytest.mark.parametrize("in_dim", [0, 1, -1])
def test_vmap_takes_any_dimension_in_and_out(
    function: Function, count: int, node: str, in_dim: int, out_dim: int
) -> None:
    def total(*tensors: Tensor) -> Tensor:
        return function(*tensors).sum()[None, None]

    inputs = [tensor.detach() for tensor in operands(count, 3, 4, 3)]
    slices = zip(*(tensor.unbind(in_dim) for tensor in inputs), strict=True)
    looped = torch.stack([total(*values) for values in slices], out_dim)
    batched = torch.vmap(total, in_dims=in_dim, out_dims=out_dim)(*inputs)
    torch.testing.assert_close(batched, looped)


@cases
@pytest.mark.parametrize("chunk_size", [None, 1, 2])
def test_nested_and_chunked_vmap_agree_with_a_loop(
    function: Function, count: int, node: str, chunk_size: int | None
) -> None:
    inputs = [tensor.detach() for tensor in operands(count, 5, 2, 3)]
    nested = torch.vmap(torch.vmap(function, in_dims=1), chunk_size=chunk_size)(*inputs)
    for i, j in itertools.product(range(5), range(3)):
        torch.testing.assert_close(nested[i, j], function(*(x[i, :, j] for x in inputs)))


@cases
@pytest.mark.parametrize("chunk_size", [1, 2])
def test_chunked_jacobians_are_whole_ones(
    function: Function, count: int, node: str, chunk_size: int
) -> None:
    inputs = [tensor.detach() for tensor in operands(count, 3)]
    positions = tuple(range(count))
    chunked = torch.func.jacrev(function, positions, chunk_size=chunk_size)(*inputs)
    for actual, expected in zip(
        chunked, torch.func.jacfwd(function, positions)(*inputs), strict=True
    ):
        torch.testing.assert_close(actual, expected)


def of_first(function: Function, inputs: Sequence[Tensor]) -> Function:
    """The function of its first tensor, as a sum."""
    return lambda x: function(x, *inputs[1:]).sum()


def by_autograd(function: Function, order: int, x: Tensor) -> Tensor:
    """All the derivatives of an order, one gradient in another."""
    if order == 0:
        return function(x)
    x = x.detach().requires_grad_()

    def derive(values: Tensor, order: int) -> Tensor:
        if order == 0:
            return values
        rows = [
            torch.autograd.grad(v, x, create_graph=True, materialize_grads=True)[0]
            for v in values.reshape(-1)
        ]
        return derive(torch.stack(rows).reshape(*values.shape, *x.shape), order - 1)

    return derive(function(x), order).detach()


NESTED = {
    "fff": ("jacfwd",) * 3,
    "ffff": ("jacfwd",) * 4,
    "rrrr": ("jacrev",) * 4,
    "frfr": ("jacfwd", "jacrev", "jacfwd", "jacrev"),
    "rrff": ("jacrev", "jacrev", "jacfwd", "jacfwd"),
}


@cases
@pytest.mark.parametrize("kinds", NESTED.values(), ids=NESTED.keys())
def test_jacobians_nest_to_any_depth(
    function: Function, count: int, node: str, kinds: Sequence[str]
) -> None:
    inputs = [tensor.detach() for tensor in operands(count, 2)]
    nested = total = of_first(function, inputs)
    for kind in kinds:
        nested = getattr(torch.func, kind)(nested)
    expected = by_autograd(total, len(kinds), inputs[0])
    torch.testing.assert_close(nested(inputs[0]), expected, rtol=1e-9, atol=1e-9)


@cases
def test_every_mixed_derivative_of_third_order_agrees_in_both_modes(
    function: Function, count: int, node: str
) -> None:
    inputs = tuple(tensor.detach() for tensor in operands(count, 2))
    positions = tuple(range(count))

    def total(*tensors: Tensor) -> Tensor:
        return (function(*tensors) * torch.tensor([1.0, 2.0], dtype=torch.float64)).sum()

    forward = reverse = total
    for _ in range(3):
        forward = torch.func.jacfwd(forward, positions)
        reverse = torch.func.jacrev(reverse, positions)
    left, right = (torch.utils._pytree.tree_leaves(f(*inputs)) for f in (forward, reverse))
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@cases
def test_functionalize_leaves_values_and_gradients(
    function: Function, count: int, node: str
) -> None:
    inputs = [tensor.detach() for tensor in operands(count, 3)]
    total = of_first(function, inputs)
    functional = torch.func.functionalize(torch.func.grad(total))
    assert torch.equal(functional(inputs[0]), torch.func.grad(total)(inputs[0]))
    graph = torch.fx.experimental.proxy_tensor.make_fx(functional)(inputs[0])
    assert torch.equal(graph(inputs[0]), functional(inputs[0]))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize(
    "loss", [fusedgrad.binary_cross_entropy, fusedgrad.binary_cross_entropy_with_logits]
)
@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0)], ids=str)
def test_losses_of_an_empty_batch_or_sample(
    loss: Function, reduction: str, shape: tuple[int, ...]
) -> None:
    theirs = getattr(torch.nn.functional, loss.__name__)
    x = torch.rand(shape)

    def results(loss: Function) -> list[Tensor]:
        def value(x: Tensor, t: Tensor) -> Tensor:
            return loss(x, t, reduction=reduction)

        gradient = torch.func.grad(lambda x, t: value(x, t).sum())
        return [torch.vmap(function)(x, x) for function in (value, gradient)]

    for ours, expected in zip(results(loss), results(theirs), strict=True):
        torch.testing.assert_close(ours, expected, equal_nan=True)


@cases
def test_compiled_autograd_runs_the_nodes(function: Function, count: int, node: str) -> None:
    inputs = operands(count, 3)
    expected = gradients(function, inputs)
    value = function(*inputs).sum()
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
        torch.autograd.backward(value)
    for tensor, gradient in zip(inputs, expected, strict=True):
        torch.testing.assert_close(tensor.grad, gradient)


def test_compiled_autograd_knows_the_number_and_the_order() -> None:
    x = torch.rand(3, dtype=torch.float64, requires_grad=True)
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
        for exponent in (2.5, 3.5):
            x.grad = None
            torch.autograd.backward(fusedgrad.pow(x, exponent).sum())
            assert x.grad is not None
            torch.testing.assert_close(x.grad, exponent * x.detach() ** (exponent - 1))


def test_forward_mode_goes_over_reverse_mode() -> None:
    x = torch.rand(3, dtype=torch.float64, requires_grad=True)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))  # type: ignore[no-untyped-call]
        y = fusedgrad.tanh(dual)
        tangent = forward_ad.unpack_dual(y).tangent  # type: ignore[no-untyped-call]
        (of_dual,) = torch.autograd.grad(y.sum(), x, retain_graph=True, create_graph=True)
        moved = forward_ad.unpack_dual(of_dual).tangent  # type: ignore[no-untyped-call]
    (of_tangent,) = torch.autograd.grad(tangent.sum(), x)
    (first,) = torch.autograd.grad(torch.tanh(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(tangent, first)
    torch.testing.assert_close(of_tangent, second)
    torch.testing.assert_close(moved, second)


def test_per_sample_gradients_of_a_network() -> None:
    network = nn.Sequential(nn.Linear(3, 4), fusedgrad.nn.Tanh(), nn.Linear(4, 1)).double()
    parameters = {name: p.detach() for name, p in network.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor, target: Tensor) -> Tensor:
        logits = torch.func.functional_call(network, parameters, (x,))
        return fusedgrad.binary_cross_entropy_with_logits(logits, target)

    inputs, targets = operands(1, 5, 3)[0].detach(), operands(1, 5, 1)[0].detach()
    batched = torch.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(parameters, inputs, targets)
    for i in range(5):
        expected = torch.func.grad(loss)(parameters, inputs[i], targets[i])
        for name, gradient in expected.items():
            torch.testing.assert_close(batched[name][i], gradient)


# what is saved for the backward


@cases
@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "non-reentrant"])
def test_checkpoint_recomputes_the_same_gradient(
    function: Function, count: int, node: str, reentrant: bool
) -> None:
    inputs = operands(count, 2, 3)
    torch.autograd.backward(checkpoint(function, *inputs, use_reentrant=reentrant).sum())
    for tensor, expected in zip(inputs, gradients(function, inputs), strict=True):
        assert tensor.grad is not None
        assert torch.equal(tensor.grad, expected)


@cases
def test_saved_tensors_may_lie_on_disk(
    function: Function, count: int, node: str, tmp_path: Path
) -> None:
    names = (tmp_path / str(i) for i in itertools.count())

    def pack(tensor: Tensor) -> Path:
        torch.save(tensor, path := next(names))
        return path

    inputs = operands(count, 2, 3)
    with saved_tensors_hooks(pack, torch.load):
        value = function(*inputs)
    assert len(list(tmp_path.iterdir())) == count  # the inputs and nothing else
    assert equal(torch.autograd.grad(value.sum(), inputs), gradients(function, inputs))


@cases
def test_saved_tensors_may_be_offloaded_and_differentiated_twice(
    function: Function, count: int, node: str
) -> None:
    inputs = operands(count, 2, 3)

    def second() -> tuple[Tensor, ...]:
        first = torch.autograd.grad(function(*inputs).sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(g.sum() for g in first), inputs)  # type: ignore[arg-type]

    expected = second()
    with save_on_cpu():
        assert equal(second(), expected)


@cases
@pytest.mark.filterwarnings("ignore:Anomaly", "ignore:Error detected")
def test_anomaly_mode_names_the_function(function: Function, count: int, node: str) -> None:
    inputs = operands(count, 3)
    with torch.autograd.detect_anomaly():
        value = function(*inputs)
        nan = torch.full_like(value, torch.nan)
        with pytest.raises(RuntimeError, match=rf"'fusedgrad::{node}Backward' returned nan values"):
            torch.autograd.grad(value, inputs, nan)


@cases
def test_inference_tensors_do_not_record(function: Function, count: int, node: str) -> None:
    with torch.inference_mode():
        inputs = [torch.rand(3) for _ in range(count)]
        assert function(*inputs).is_inference()
    assert not function(*inputs).requires_grad  # outside, of inference tensors
    with torch.no_grad():
        assert function(*operands(count, 3)).grad_fn is None


# modes and subclasses


class Calls(TorchFunctionMode):
    def __init__(self) -> None:
        self.functions: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.functions.append(func)
        return func(*args, **(kwargs or {}))


PUBLIC: list[tuple[Function, int]] = [
    (fusedgrad.sigmoid, 1),
    (fusedgrad.tanh, 1),
    (fusedgrad.pow, 2),
    (fusedgrad.binary_cross_entropy, 2),
    (fusedgrad.binary_cross_entropy_with_logits, 2),
]


@pytest.mark.parametrize(("function", "count"), PUBLIC)
def test_a_torch_function_mode_sees_the_call(function: Function, count: int) -> None:
    inputs = operands(count, 3)
    with Calls() as mode:
        value = function(*inputs)
    assert mode.functions[0] is function
    assert torch.equal(value, function(*inputs))


class Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


@cases
def test_a_dispatch_mode_sees_one_operator_each_way(
    function: Function, count: int, node: str
) -> None:
    inputs = operands(count, 3)
    with Operators() as mode:
        value = function(*inputs)
        torch.autograd.grad(value, inputs, torch.ones_like(value))
    ours = [name.split(".")[0] for name in mode.names if name.startswith("fusedgrad::")]
    assert len(ours) == 2
    assert ours[1] == ours[0] + "_backward"


class Wrapper(Tensor):
    """Holds a tensor, and runs every operator on what it holds."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "Wrapper":
        wrapper = Tensor._make_wrapper_subclass(cls, held.shape, dtype=held.dtype)
        wrapper.held = held
        return wrapper

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        def held(value: Any) -> Any:
            return value.held if isinstance(value, Wrapper) else value

        arguments, keywords = torch.utils._pytree.tree_map(held, (args, kwargs or {}))
        return torch.utils._pytree.tree_map_only(Tensor, Wrapper, func(*arguments, **keywords))


@cases
def test_a_wrapper_subclass_is_differentiated(function: Function, count: int, node: str) -> None:
    inputs = operands(count, 3)
    wrapped = [Wrapper(tensor.detach()).requires_grad_() for tensor in inputs]
    value = function(*wrapped)
    assert isinstance(value, Wrapper)
    assert torch.equal(value.held, function(*inputs))
    for actual, expected in zip(
        torch.autograd.grad(value.sum(), wrapped), gradients(function, inputs), strict=True
    ):
        assert isinstance(actual, Wrapper)
        assert torch.equal(actual.held, expected)


# tensors without memory, and other layouts


def form(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.requires_grad


@cases
def test_fake_tensors_have_the_form_of_results_and_gradients(
    function: Function, count: int, node: str
) -> None:
    inputs = operands(count, 2, 3)
    expected = [function(*inputs), *gradients(function, inputs)]
    with FakeTensorMode():
        inputs = operands(count, 2, 3)
        actual = [function(*inputs), *gradients(function, inputs)]
    assert list(map(form, actual)) == list(map(form, expected))


@cases
def test_fake_tensors_of_an_absent_device_give_results(
    function: Function, count: int, node: str
) -> None:
    inputs = [tensor.detach() for tensor in operands(count, 2, 3)]
    with FakeTensorMode():
        value = function(*(torch.empty(2, 3, dtype=x.dtype, device="cuda") for x in inputs))
    assert value.device.type == "cuda"
    assert form(value) == form(function(*inputs))


@cases
def test_meta_tensors_have_gradients(function: Function, count: int, node: str) -> None:
    inputs = [torch.empty(2, 3, device="meta", requires_grad=True) for _ in range(count)]
    assert {(g.device.type, g.shape) for g in gradients(function, inputs)} == {("meta", (2, 3))}


@cases
def test_channels_last_survives_both_ways(function: Function, count: int, node: str) -> None:
    inputs = [
        x.detach().to(memory_format=torch.channels_last).requires_grad_()
        for x in operands(count, 2, 3, 4, 5)
    ]
    value = function(*inputs)
    results = [*([value] if value.dim() else []), *gradients(function, inputs)]
    if node == "BinaryCrossEntropyWithLogits":
        del results[1]  # PyTorch's is contiguous where there is a pos_weight (test_layouts.py)
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in results)
    plain = [x.detach().contiguous().requires_grad_() for x in inputs]
    for actual, expected in zip(
        gradients(function, inputs), gradients(function, plain), strict=True
    ):
        assert torch.equal(actual, expected)


@pytest.fixture
def _deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@cases
@pytest.mark.usefixtures("_deterministic")
def test_deterministic_algorithms_are_no_obstacle(
    function: Function, count: int, node: str
) -> None:
    inputs = operands(count, 2, 3)
    assert equal(gradients(function, inputs), gradients(function, inputs))


@pytest.mark.parametrize(
    "module",
    [
        fusedgrad.nn.Sigmoid(),
        fusedgrad.nn.Tanh(),
        fusedgrad.nn.BCELoss(weight=torch.tensor([1.0, 2.0, 3.0])),
        fusedgrad.nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2.0, 3.0]), reduction="sum"),
    ],
    ids=lambda module: type(module).__name__,
)
def test_copies_of_a_module_compute_the_same(module: nn.Module) -> None:
    inputs = [
        torch.rand(2, 3) for _ in range(2 if isinstance(module, nn.modules.loss._Loss) else 1)
    ]
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert type(copied) is type(module)
        assert torch.equal(copied(*inputs), module(*inputs))

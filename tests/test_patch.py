"""Unchanged code runs on fusedgrad inside patched() and after convert()."""

# mypy: disable-error-code="no-untyped-call"

import contextlib
import copy
import inspect
import io
import math
import operator
import pickle
import threading
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch import sigmoid as imported_sigmoid

import fusedgrad

Call = Callable[..., Tensor]

SIGMOIDS: dict[str, Call] = {
    "torch.sigmoid": torch.sigmoid,
    "from torch import sigmoid": imported_sigmoid,
    "keyword": lambda x: torch.sigmoid(input=x),
    "keyword of NumPy": lambda x: torch.sigmoid(x=x),  # type: ignore[call-arg]
    "torch.special.expit": torch.special.expit,
    "Tensor.sigmoid": Tensor.sigmoid,
    "method": lambda x: x.sigmoid(),
    "F.sigmoid": F.sigmoid,
    "nn.Sigmoid": nn.Sigmoid(),
    "sigmoid_": lambda x: x.clone().sigmoid_(),
    "torch.sigmoid_": lambda x: torch.sigmoid_(x.clone()),
}
TANHS: dict[str, Call] = {
    "torch.tanh": torch.tanh,
    "Tensor.tanh": Tensor.tanh,
    "method": lambda x: x.tanh(),
    "F.tanh": F.tanh,
    "nn.Tanh": nn.Tanh(),
    "tanh_": lambda x: x.clone().tanh_(),
    "torch.tanh_": lambda x: torch.tanh_(x.clone()),
}


def cubed_in_place(x: Tensor) -> Tensor:
    x = x.clone()
    x **= 3
    return x


POWERS: dict[str, Call] = {
    "torch.pow": lambda x: torch.pow(x, 3),
    "keywords": lambda x: torch.pow(input=x, exponent=3),
    "Tensor.pow": lambda x: x.pow(3),
    "**": lambda x: x**3,
    "builtin pow": lambda x: pow(x, 3),  # type: ignore[dict-item,return-value]
    "operator.pow": lambda x: operator.pow(x, 3),
    "** tensor": lambda x: x ** torch.full_like(x, 3),
    "number **": lambda x: 3**x,
    "number ** of torch": lambda x: torch.pow(3, x),
    "keywords of a number": lambda x: torch.pow(self=3, exponent=x),
    "square": lambda x: torch.square(x),
    "method square": lambda x: x.square(),
    "pow_": lambda x: x.clone().pow_(3),
    "square_": lambda x: x.clone().square_(),
    "torch.square_": lambda x: torch.square_(x.clone()),
    "**=": cubed_in_place,
}
LOSSES: dict[str, Call] = {
    "F.binary_cross_entropy": lambda x: F.binary_cross_entropy(x / 100, torch.ones_like(x)),
    "nn.BCELoss": lambda x: nn.BCELoss()(x / 100, torch.ones_like(x)),
    "F.binary_cross_entropy_with_logits": lambda x: F.binary_cross_entropy_with_logits(
        x, torch.ones_like(x), pos_weight=torch.tensor(2.0)
    ),
    "nn.BCEWithLogitsLoss": lambda x: nn.BCEWithLogitsLoss(reduction="sum")(x, torch.ones_like(x)),
}
SPELLINGS = {
    f"{family}: {name}": (call, node)
    for family, (calls, node) in {
        "sigmoid": (SIGMOIDS, "SigmoidBackward"),
        "tanh": (TANHS, "TanhBackward"),
        "pow": (POWERS, "Pow"),
        "loss": (LOSSES, "BinaryCrossEntropy"),
    }.items()
    for name, call in calls.items()
}

spellings = pytest.mark.parametrize(("call", "node"), SPELLINGS.values(), ids=SPELLINGS.keys())


def functions_of_fusedgrad(result: Tensor) -> list[str]:
    """The nodes of the graph behind `result` that are fusedgrad's."""
    found, nodes = [], [result.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None:
            continue
        # Recorded by an operator, or by a Function.
        if node.name().startswith("fusedgrad::") or hasattr(node, "_forward_cls"):
            found.append(node.name())
        nodes += [function for function, _ in node.next_functions]
    return found


@spellings
def test_every_spelling_runs_on_fusedgrad_inside_and_on_torch_outside(
    call: Call, node: str
) -> None:
    x = torch.tensor([0.5, 15.0], requires_grad=True)
    with fusedgrad.patched():
        inside = call(x)
    outside = call(x)
    (name,) = functions_of_fusedgrad(inside)
    assert node.removesuffix("Backward") in name
    assert functions_of_fusedgrad(outside) == []
    torch.testing.assert_close(inside, outside)


@spellings
def test_gradient_is_pytorchs_where_pytorchs_is_right(call: Call, node: str) -> None:
    x = torch.tensor([0.5, 0.75], dtype=torch.float64, requires_grad=True)
    with fusedgrad.patched():
        (inside,) = torch.autograd.grad(call(x).sum(), x)
    (outside,) = torch.autograd.grad(call(x).sum(), x)
    torch.testing.assert_close(inside, outside)


def test_gradient_does_not_vanish_where_pytorchs_does() -> None:
    x = torch.tensor([20.0], requires_grad=True)
    with fusedgrad.patched():
        (inside,) = torch.autograd.grad(torch.sigmoid(x), x)
    (outside,) = torch.autograd.grad(torch.sigmoid(x), x)
    assert outside.item() == 0
    assert inside.item() == pytest.approx(2.0611536e-9, rel=1e-6)


def test_backward_and_double_backward_inside_the_context() -> None:
    x = torch.randn(5, dtype=torch.complex128, requires_grad=True)  # the formulas of `reference`
    with fusedgrad.patched():
        assert torch.autograd.gradcheck(lambda x: torch.sigmoid(x).tanh() ** 2, x)
        assert torch.autograd.gradgradcheck(lambda x: torch.sigmoid(x).tanh() ** 2, x)


def test_contexts_nest_and_end_with_an_exception() -> None:
    x = torch.tensor([1.0], requires_grad=True)
    with pytest.raises(IndexError), fusedgrad.patched(), fusedgrad.patched():
        torch.sigmoid(x)[1]
    assert not functions_of_fusedgrad(torch.sigmoid(x))
    with fusedgrad.patched():
        with fusedgrad.patched():
            pass
        assert functions_of_fusedgrad(torch.sigmoid(x))


def test_own_functions_work_inside() -> None:
    x = torch.tensor([1.0], requires_grad=True)
    with fusedgrad.patched():
        assert torch.equal(fusedgrad.sigmoid(x), torch.sigmoid(x))


def test_other_threads_are_not_patched() -> None:
    x = torch.tensor([1.0], requires_grad=True)
    results: list[Tensor] = []
    with fusedgrad.patched():
        thread = threading.Thread(target=lambda: results.append(torch.sigmoid(x)))
        thread.start()
        thread.join()
    assert not functions_of_fusedgrad(results[0])


def test_out_is_written_and_returned() -> None:
    x, out = torch.tensor([-100.0]), torch.empty(1)
    with fusedgrad.patched():
        assert torch.sigmoid(x, out=out) is out
        assert torch.equal(out, fusedgrad.sigmoid(x))
        assert torch.square(x, out=out) is out
    assert out.item() == 1e4


@pytest.mark.filterwarnings("ignore:.*quantize_per_tensor")
def test_tensors_that_only_pytorch_has_operations_for() -> None:
    sparse = torch.eye(2).to_sparse()
    quantized = torch.quantize_per_tensor(torch.eye(2), 0.1, 0, torch.quint8)
    nested = torch.nested.nested_tensor([torch.zeros(1), torch.zeros(2)], layout=torch.jagged)
    with fusedgrad.patched():
        assert torch.equal(torch.tanh(sparse).to_dense(), torch.tanh(torch.eye(2)))
        assert torch.sigmoid(quantized).is_quantized
        assert torch.equal(torch.sigmoid(nested).values(), torch.full((3,), 0.5))


def test_operand_that_is_no_number_is_asked_for_its_own_power() -> None:
    class Base:
        def __rpow__(self, other: Any) -> str:
            return "reflected"

    with fusedgrad.patched():
        assert torch.ones(2) ** Base() == "reflected"
        with pytest.raises(TypeError):
            torch.ones(2) ** cast(Any, "2")


IN_PLACE: dict[str, Call] = {
    "sigmoid_": lambda x: x.sigmoid_(),
    "tanh_": lambda x: x.tanh_(),
    "pow_": lambda x: x.pow_(3),
    "square_": lambda x: x.square_(),
    "__ipow__": lambda x: operator.ipow(x, 3),
}
in_place = pytest.mark.parametrize("call", IN_PLACE.values(), ids=IN_PLACE.keys())


@in_place
def test_in_place_returns_the_tensor_and_counts_one_version(call: Call) -> None:
    x = torch.rand(3)
    expected = call(x.clone())
    version = x._version
    with fusedgrad.patched():
        assert call(x) is x
    assert x._version == version + 1
    torch.testing.assert_close(x, expected)


@in_place
def test_in_place_on_a_leaf_that_requires_grad_is_pytorchs_error(call: Call) -> None:
    x = torch.rand(3, requires_grad=True)
    with fusedgrad.patched(), pytest.raises(RuntimeError, match="leaf Variable"):
        call(x)
    with fusedgrad.patched(), torch.no_grad():
        assert call(x) is x


@in_place
def test_in_place_spoils_what_others_saved(call: Call) -> None:
    x = torch.rand(3, requires_grad=True).clone()
    saved = x.sin()
    with fusedgrad.patched():
        call(x)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        saved.sum().backward()


@in_place
def test_in_place_on_a_view_differentiates_the_base(call: Call) -> None:
    grads = []
    for context in (fusedgrad.patched(), torch.enable_grad()):
        leaf = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64, requires_grad=True)
        base = leaf * 2
        with context:
            call(base[1:])
            grads.append(torch.autograd.grad((base * torch.arange(3)).sum(), leaf)[0])
    torch.testing.assert_close(*grads)


@in_place
def test_in_place_carries_tangents(call: Call) -> None:
    def function(x: Tensor) -> Tensor:
        return call(x.clone())

    x, tangent = torch.rand(2, 3, dtype=torch.float64)
    with fusedgrad.patched():
        inside = torch.func.jvp(function, (x,), (tangent,))
    torch.testing.assert_close(inside, torch.func.jvp(function, (x,), (tangent,)))


@in_place
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.arange(3),
        lambda: torch.ones(3, dtype=torch.bool),
        lambda: torch.ones(1).expand(3),
        lambda: torch.ones(2, 3, dtype=torch.complex64),
    ],
    ids=["integers", "bool", "overlapping memory", "complex"],
)
def test_in_place_succeeds_or_fails_as_pytorchs(call: Call, make: Callable[[], Tensor]) -> None:
    def outcome() -> Any:
        try:
            return call(make())
        except RuntimeError:
            return RuntimeError

    with fusedgrad.patched():
        inside = outcome()
    outside = outcome()
    if outside is RuntimeError:
        assert inside is RuntimeError
    else:
        torch.testing.assert_close(inside, outside)


def test_in_place_power_does_not_grow_its_tensor() -> None:
    x = torch.ones(1, 3)
    with fusedgrad.patched(), pytest.raises(RuntimeError, match=r"size \(2, 3\)"):
        x.pow_(torch.ones(2, 3))


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Sequential(nn.Sigmoid()), nn.ReLU())


def test_convert_reaches_modules_at_any_depth_and_returns_the_model() -> None:
    original = model()
    converted = fusedgrad.convert(original)
    assert converted is original
    assert isinstance(converted[1], fusedgrad.nn.Tanh)
    assert isinstance(converted.get_submodule("2.0"), fusedgrad.nn.Sigmoid)
    assert vars(converted[3]).keys() == vars(nn.ReLU()).keys()
    x = torch.randn(4, 2, requires_grad=True)
    assert len(functions_of_fusedgrad(converted(x))) == 2


@pytest.mark.parametrize("name", ["Sigmoid", "Tanh", "BCELoss", "BCEWithLogitsLoss"])
def test_converted_module_keeps_its_class_and_is_an_instance_of_ours(name: str) -> None:
    theirs, ours = getattr(nn, name), getattr(fusedgrad.nn, name)
    module = theirs()
    assert not isinstance(module, ours)
    fusedgrad.convert(module)
    assert type(module) is theirs
    assert [kind for kind in KINDS if isinstance(module, kind)] == [ours]
    assert repr(module) == repr(theirs())
    assert inspect.signature(module.forward) == inspect.signature(theirs().forward)
    del module.forward
    assert not isinstance(module, ours)


KINDS = [
    fusedgrad.nn.Sigmoid,
    fusedgrad.nn.Tanh,
    fusedgrad.nn.BCELoss,
    fusedgrad.nn.BCEWithLogitsLoss,
]


def saved(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)
    return loaded


def replica(module: Any) -> nn.Module:
    """As DataParallel makes one for a device."""
    made: nn.Module = module._replicate_for_data_parallel()
    made._modules = {name: replica(child) for name, child in module.named_children()}
    return made


COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "replica": replica,
    "deepcopy": copy.deepcopy,
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "torch.save": saved,
    "clone and convert": lambda module: fusedgrad.convert(copy.deepcopy(module)),
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES.keys())
def test_copy_of_a_converted_loss_reads_its_own_weights(
    copied: Callable[[nn.Module], nn.Module],
) -> None:
    loss = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([2.0, 3.0]), weight=torch.ones(2))
    original = fusedgrad.convert(loss)
    other: Any = copied(nn.Sequential(original)).get_submodule("0")
    x, target = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    other.reduction = "sum"
    other.pos_weight = torch.tensor([5.0, 7.0])
    other.double()
    assert isinstance(other, fusedgrad.nn.BCEWithLogitsLoss)
    torch.testing.assert_close(other(x, target) / math.log(2), torch.tensor(12.0).double())
    torch.testing.assert_close(original(x.float(), target.float()) / math.log(2), torch.tensor(2.5))


@pytest.mark.parametrize("copied", [*COPIES.values(), copy.copy], ids=[*COPIES.keys(), "copy"])
def test_copy_of_a_converted_activation_is_converted(
    copied: Callable[[nn.Module], nn.Module],
) -> None:
    x = torch.full((1,), 15.0, requires_grad=True)
    converted = fusedgrad.convert(nn.Tanh())
    other = copied(converted)
    assert other is not converted
    assert type(other) is nn.Tanh
    assert len(functions_of_fusedgrad(other(x))) == 1


def test_a_class_that_changes_after_convert_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.full((1,), -2.0)
    module: Any = fusedgrad.convert(nn.Tanh())
    module.__class__ = nn.Softsign
    assert module(x).item() == pytest.approx(-2 / 3)
    module.__class__ = nn.Tanh
    monkeypatch.setattr(nn.Tanh, "forward", lambda self, input: input + 1)
    assert module(x).item() == -1
    assert "forward" not in vars(fusedgrad.convert(nn.Tanh()))


def test_convert_keeps_buffers_options_and_mode() -> None:
    loss = nn.BCEWithLogitsLoss(
        weight=torch.tensor([2.0]), pos_weight=torch.tensor([3.0]), reduction="sum"
    ).eval()
    state = copy.deepcopy(loss.state_dict())
    x, target = torch.randn(2, 1), torch.rand(2, 1)
    expected = loss(x, target)
    fusedgrad.convert(loss)
    assert not loss.training
    assert loss.state_dict().keys() == state.keys()
    torch.testing.assert_close(loss(x, target), expected)


def test_convert_keeps_hooks_and_shared_modules() -> None:
    shared = nn.Sigmoid()
    seen: list[Tensor] = []
    shared.register_forward_hook(lambda module, inputs, output: seen.append(output))
    converted = fusedgrad.convert(nn.Sequential(shared, shared))
    assert converted[0] is converted[1] is shared
    converted(torch.zeros(1))
    assert [output.item() for output in seen] == [0.5, pytest.approx(0.622459)]


def test_convert_leaves_subclasses_alone() -> None:
    class Sigmoid(nn.Sigmoid):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) + 1

    converted = fusedgrad.convert(Sigmoid())
    assert type(converted) is Sigmoid
    assert converted(torch.zeros(1)) == 1.5
    assert not isinstance(converted, fusedgrad.nn.Sigmoid)


def test_convert_twice_is_convert_once() -> None:
    once = fusedgrad.convert(model())
    forward = once[1].forward
    assert fusedgrad.convert(once)[1].forward is forward


def test_convert_leaves_a_forward_of_ones_own_alone() -> None:
    module = nn.Tanh()
    module.forward = torch.sin  # type: ignore[method-assign]
    fusedgrad.convert(module)
    assert torch.equal(module(torch.ones(1)), torch.sin(torch.ones(1)))
    assert not isinstance(module, fusedgrad.nn.Tanh)


def test_converted_model_has_the_state_dict_of_the_original() -> None:
    original = model()
    converted = fusedgrad.convert(copy.deepcopy(original))
    assert converted.state_dict().keys() == original.state_dict().keys()
    original.load_state_dict(converted.state_dict())


def everything(x: Tensor) -> Tensor:
    y = x.clone()
    y **= 2
    logits = F.binary_cross_entropy_with_logits(x, torch.ones_like(x))
    total: Tensor = torch.sigmoid(x) + x.sigmoid() + F.tanh(x) + torch.special.expit(x) + logits
    return total + x**3 + 2**x + y


@pytest.mark.parametrize("inside", [True, False], ids=["entered inside", "entered outside"])
@pytest.mark.parametrize("function", [everything, torch.special.expit], ids=["all", "expit"])
def test_compiled_functions_are_patched_without_a_graph_break(function: Call, inside: bool) -> None:
    torch._dynamo.reset()
    x = torch.tensor([-20.0], requires_grad=True)

    def call(x: Tensor) -> Tensor:
        with fusedgrad.patched() if inside else contextlib.nullcontext():
            return function(x)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    with contextlib.nullcontext() if inside else fusedgrad.patched():
        result = compiled(x)
        (grad,) = torch.autograd.grad(result.sum(), x)
    with fusedgrad.patched():
        expected = function(x)
        (expected_grad,) = torch.autograd.grad(expected.sum(), x)
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(grad, expected_grad)


def test_compiled_gradient_does_not_vanish_where_pytorchs_does() -> None:
    x = torch.tensor([20.0], requires_grad=True)
    compiled = torch.compile(Tensor.sigmoid, fullgraph=True, backend="aot_eager")
    with fusedgrad.patched():
        (inside,) = torch.autograd.grad(compiled(x), x)
    (outside,) = torch.autograd.grad(compiled(x), x)
    assert outside.item() == 0
    assert inside.item() == pytest.approx(2.0611536e-9, rel=1e-6)


def test_an_in_place_form_is_traced_with_and_without_gradients() -> None:
    x = torch.linspace(-2, 2, 5, requires_grad=True)
    with fusedgrad.patched():
        traced: Any = torch.jit.trace(lambda x: (2 * x).tanh_().sigmoid_(), x)
    (grad,) = torch.autograd.grad(traced(x).sum(), x)
    (expected,) = torch.autograd.grad(torch.sigmoid(torch.tanh(2 * x)).sum(), x)
    torch.testing.assert_close(grad, expected)

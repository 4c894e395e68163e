"""patched() beside checkpoints, compilers, transforms, threads and tensors of other classes."""

# mypy: disable-error-code="no-untyped-call"

import contextlib
import math
import os
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._functorch.config as functorch_config
import torch.compiler.config as compiler_config
import torch.nn.functional as F
import torch.utils.checkpoint as checkpoints
from torch import Tensor, nn
from torch.distributed._composable.checkpoint_activation import (
    checkpoint as composable_checkpoint,
)
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.func import grad, vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import fusedgrad

Call = Callable[..., Tensor]

X = torch.tensor([-2.0, 0.5, 3.0, 20.0])
# sigmoid'(x) and tanh'(x), in the tail, where PyTorch's are 0
SIGMOID_OF_20 = 2.0611536e-9
TANH_OF_20 = 1.6993417e-17


def gate(x: Tensor) -> Tensor:
    return torch.sigmoid(x) * torch.tanh(x)


def gradient(function: Call, forward: bool = True, backward: bool = True) -> Tensor:
    """The gradient of the sum, forward and backward inside the context or outside."""
    x = X.clone().requires_grad_()
    with fusedgrad.patched() if forward else contextlib.nullcontext():
        loss = function(x).sum()
    with fusedgrad.patched() if backward else contextlib.nullcontext():
        loss.backward()
    assert x.grad is not None
    return x.grad


def of_fusedgrad(result: Tensor) -> bool:
    return str(result.grad_fn and result.grad_fn.name()).startswith("fusedgrad::")


def nested_checkpoints(f: Call) -> Call:
    def outer(x: Tensor) -> Any:
        return checkpoint(f, x, use_reentrant=False) * 1

    return lambda x: checkpoint(outer, x, use_reentrant=False)


def selective(f: Call) -> Call:
    def contexts() -> Any:
        return checkpoints.create_selective_checkpoint_contexts([torch.ops.aten.mul.Tensor])

    return lambda x: checkpoint(f, x, use_reentrant=False, context_fn=contexts)


class Module(nn.Module):
    def __init__(self, function: Call) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def composed(f: Call) -> Call:
    module = Module(f)
    composable_checkpoint(module)
    return module


CHECKPOINTS: dict[str, Callable[[Call], Call]] = {
    "none": lambda f: f,
    "not reentrant": lambda f: lambda x: checkpoint(f, x, use_reentrant=False),
    "unchecked": lambda f: (
        lambda x: checkpoint(f, x, use_reentrant=False, determinism_check="none")
    ),
    "to the end": lambda f: lambda x: checkpoint(f, x, use_reentrant=False, early_stop=False),
    "reentrant": lambda f: lambda x: checkpoint(f, x, use_reentrant=True),
    "sequential": lambda f: (
        lambda x: checkpoint_sequential([f, nn.Identity()], 2, x, use_reentrant=False)
    ),
    "nested": nested_checkpoints,
    "selective": selective,
    "wrapper": lambda f: checkpoint_wrapper(Module(f)),
    "composable": composed,
    "round a compiled function": lambda f: (
        lambda x: checkpoint(torch.compile(f, backend="aot_eager"), x, use_reentrant=False)
    ),
    "in a compiled function": lambda f: torch.compile(
        lambda x: checkpoint(f, x, use_reentrant=False), backend="aot_eager"
    ),
}


@pytest.mark.parametrize("backward", [True, False], ids=["backward inside", "backward outside"])
@pytest.mark.parametrize("kind", CHECKPOINTS.values(), ids=CHECKPOINTS.keys())
@pytest.mark.parametrize(
    ("function", "last"),
    [
        (torch.sigmoid, SIGMOID_OF_20),
        (torch.tanh, TANH_OF_20),
        (gate, SIGMOID_OF_20),
        (F.tanhshrink, 1.0),
    ],
)
def test_checkpoints_recompute_on_fusedgrad(
    function: Call, last: float, kind: Callable[[Call], Call], backward: bool
) -> None:
    torch._dynamo.reset()
    ours = gradient(kind(function), backward=backward)
    assert ours[3].item() == pytest.approx(last, rel=1e-6)
    torch.testing.assert_close(ours, gradient(function), rtol=1e-6, atol=0)


def test_checkpoint_made_outside_recomputes_on_pytorch() -> None:
    function = CHECKPOINTS["not reentrant"](gate)
    assert torch.equal(gradient(function, forward=False), gradient(gate, False, False))


def test_context_is_entered_by_several_threads_at_once() -> None:
    context, barrier = fusedgrad.patched(), threading.Barrier(2)
    found: dict[str, bool] = {}

    def nested() -> None:
        with fusedgrad.patched():
            with context:
                barrier.wait()
                barrier.wait()
            found["nested"] = of_fusedgrad(torch.sigmoid(X.clone().requires_grad_()))

    thread = threading.Thread(target=nested)
    thread.start()
    barrier.wait()
    with context:
        barrier.wait()
        thread.join()
    found["outside"] = of_fusedgrad(torch.sigmoid(X.clone().requires_grad_()))
    assert found == {"nested": True, "outside": False}


def test_backward_on_another_thread() -> None:
    x = X.clone().requires_grad_()
    with fusedgrad.patched():
        loss = checkpoint(gate, x, use_reentrant=False).sum()
    thread = threading.Thread(target=loss.backward)
    thread.start()
    thread.join()
    torch.testing.assert_close(x.grad, gradient(gate), rtol=1e-6, atol=0)


@pytest.mark.parametrize("inside", [True, False], ids=["forward inside", "backward inside"])
@pytest.mark.parametrize(
    "function",
    [
        torch.sigmoid,
        torch.tanh,
        gate,
        lambda x: x**3,
        lambda x: x**x,
        lambda x: F.binary_cross_entropy_with_logits(x, torch.ones_like(x)),
    ],
    ids=["sigmoid", "tanh", "gate", "pow", "pow of tensors", "loss"],
)
def test_checkpoint_that_does_not_follow_raises(
    function: Call, inside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fusedgrad.patched():
        pass
    # As one made before the first context.
    initialize = checkpoints._CheckpointFrame.__init__
    monkeypatch.setattr(checkpoints._CheckpointFrame, "__init__", initialize.__wrapped__)  # type: ignore[attr-defined]
    unfollowed = CHECKPOINTS["not reentrant"](function)
    with pytest.raises(checkpoints.CheckpointError):
        gradient(unfollowed, forward=inside, backward=not inside)


def scripted(x: Tensor) -> Tensor:
    return torch.sigmoid(x * 1.0) * 1.0


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_scripted_functions_keep_their_gradient_when_optimized() -> None:
    function = torch.jit.script(scripted)
    for _ in range(4):
        assert gradient(function)[3].item() == pytest.approx(SIGMOID_OF_20, rel=1e-6)
    for _ in range(4):
        assert gradient(function, False, False)[3].item() == 0


@pytest.mark.sampled(6)
@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_compiled_functions_know_the_context_they_run_in(backend: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: torch.sigmoid(x) + F.softsign(x) * 0, backend=backend)
    for _ in range(2):
        assert gradient(compiled, False, False)[3].item() == 0
        assert gradient(compiled)[3].item() == pytest.approx(SIGMOID_OF_20, rel=1e-5)


def test_contexts_of_threads_that_overlap_leave_configuration_as_it_was() -> None:
    def state() -> tuple[object, ...]:
        return compiler_config.cache_key_tag, functorch_config.enable_autograd_cache

    before, entered, left = state(), threading.Event(), threading.Event()

    def other() -> None:
        with fusedgrad.patched():
            entered.set()
            left.wait()

    thread = threading.Thread(target=other)
    with fusedgrad.patched():
        thread.start()
        entered.wait()
        inside = state()
    left.set()
    thread.join()
    assert state() == before != inside


def test_compiled_function_without_arguments_knows_the_context() -> None:
    torch._dynamo.reset()
    weight = nn.Parameter(X.clone())
    compiled = torch.compile(lambda: torch.sigmoid(weight).sum(), backend="aot_eager")
    for _ in range(2):
        weight.grad = None
        compiled().backward()
        assert weight.grad is not None
        assert weight.grad[3].item() == 0
        weight.grad = None
        with fusedgrad.patched():
            compiled().backward()
        assert weight.grad[3].item() == pytest.approx(SIGMOID_OF_20, rel=1e-5)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (torch.sigmoid, SIGMOID_OF_20),
        (torch.tanh, TANH_OF_20),
        (torch.special.expit, SIGMOID_OF_20),
    ],
)
def test_transforms_nest(function: Call, expected: float) -> None:
    with fusedgrad.patched():
        assert vmap(grad(function))(X)[3].item() == pytest.approx(expected, rel=1e-6)
        assert grad(lambda x: vmap(function)(x).sum())(X)[3].item() == pytest.approx(expected)
        _, tangent = torch.func.jvp(function, (X,), (torch.ones(4),))  # type: ignore[misc]
    assert tangent[3].item() == pytest.approx(expected, rel=1e-6)


def test_functions_of_python_run_on_fusedgrad_under_transforms() -> None:
    def complement(x: Tensor) -> Tensor:
        return x - F.tanhshrink(x)

    x = torch.tensor([8.0], dtype=torch.float16)
    with fusedgrad.patched():
        second = grad(lambda x: grad(lambda x: complement(x).sum())(x).sum())(x.float())
    assert second.item() == pytest.approx(-2 * 4 / math.exp(16.0), rel=1e-4)


@pytest.mark.parametrize(
    "function",
    [
        F.tanhshrink,
        lambda x: F.lp_pool1d(x.abs()[None], 3.0, 2),
        lambda x: F.local_response_norm(x[None, :, None], 2),
        lambda x: F.gaussian_nll_loss(x, torch.zeros(4), torch.ones(4)),
        torch.special.expit,
        torch.square,
        lambda x: F.sigmoid(x),
        lambda x: F.tanh(x),
        lambda x: torch.float_power(x, 2),
        lambda x: nn.RNN(4, 2)(x[None])[0],
        lambda x: nn.GRUCell(4, 2)(x[None]),
        lambda x: nn.LSTMCell(4, 2)(x[None])[0],
    ],
)
def test_pytorchs_functions_that_call_ours(function: Call) -> None:
    torch.manual_seed(0)
    with fusedgrad.patched():
        nodes, found = [function(X.clone().requires_grad_()).grad_fn], False
    while nodes:
        node = nodes.pop()
        if node is not None:
            found = found or node.name().startswith("fusedgrad::")
            nodes += [function for function, _ in node.next_functions]
    assert found


HANDLED = {torch.sigmoid: lambda value: "its own"}


class Duck:
    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return HANDLED[func](*args) if func in HANDLED else NotImplemented


class Unit(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in HANDLED:
            return HANDLED[func](*args)
        return super().__torch_function__(func, types, args, kwargs or {})


def test_classes_have_their_own_rule_first() -> None:
    unit = torch.ones(2).as_subclass(Unit)
    with fusedgrad.patched():
        assert torch.sigmoid(Duck()) == "its own"  # type: ignore[arg-type]
        assert torch.sigmoid(unit) == "its own"
        assert type(torch.tanh(unit)) is Unit
        assert type(unit**2) is Unit


@pytest.mark.parametrize("function", [torch.sigmoid, torch.tanh, lambda x: x**2, torch.square])
@pytest.mark.filterwarnings("ignore:.*MaskedTensor")
def test_masked_tensors_work_as_outside(function: Call) -> None:
    masked = torch.masked.masked_tensor(X, X > 0)
    with fusedgrad.patched():
        inside = function(masked)
    assert str(inside) == str(function(masked))


class Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def test_modes_of_others_see_the_operator() -> None:
    with fusedgrad.patched(), Operators() as mode:
        result = torch.sigmoid(X)
    assert mode.seen == ["fusedgrad.sigmoid.default"]
    assert torch.equal(result, fusedgrad.sigmoid(X))


def test_higher_order_operators_are_not_in_the_way() -> None:
    with fusedgrad.patched():
        branch = torch.cond(torch.tensor(True), torch.sigmoid, torch.tanh, (X,))
    torch.testing.assert_close(branch, torch.sigmoid(X))


def test_fake_tensors() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with fusedgrad.patched(), FakeTensorMode():
        fake = torch.ones(4, requires_grad=True)
        assert of_fusedgrad(torch.sigmoid(fake))
        assert (fake**2).shape == X.shape


@pytest.mark.parametrize("inference", [torch.no_grad, torch.inference_mode])
def test_values_without_a_gradient_are_fusedgrads(inference: Any) -> None:
    x = torch.linspace(-30, 30, 1001)
    with fusedgrad.patched(), inference():
        assert torch.equal(torch.sigmoid(x), fusedgrad.sigmoid(x))


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.bfloat16])
def test_dtypes_are_pytorchs(dtype: torch.dtype) -> None:
    x = torch.ones(3).to(dtype)
    for function in (torch.sigmoid, torch.tanh, lambda x: x**2, lambda x: 2**x):
        with fusedgrad.patched():
            inside = function(x)
        torch.testing.assert_close(inside, function(x))


def test_autocast_is_pytorchs() -> None:
    x = X.bfloat16()
    for function in (
        torch.sigmoid,
        lambda x: x**2,
        lambda x: F.binary_cross_entropy_with_logits(x, torch.ones_like(x)),
    ):
        with torch.autocast("cpu", torch.bfloat16):
            outside = function(x)
            with fusedgrad.patched():
                inside = function(x)
        assert inside.dtype is outside.dtype


def test_a_child_of_a_fork_stays_patched_and_ends_with_its_context() -> None:
    with fusedgrad.patched(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
        if child == 0:
            os._exit(not of_fusedgrad(torch.sigmoid(X.clone().requires_grad_())))
        assert os.waitpid(child, 0)[1] == 0


def test_other_operations_go_through_no_python_inside() -> None:
    with fusedgrad.patched():
        assert torch.overrides._get_current_function_mode_stack() == []


def test_contexts_may_be_entered_again_and_left_by_exceptions() -> None:
    context = fusedgrad.patched()
    with pytest.raises(IndexError), context, context:
        raise IndexError
    assert not of_fusedgrad(torch.sigmoid(X.clone().requires_grad_()))

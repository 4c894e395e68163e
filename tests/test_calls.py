"""The short way from Python to an operator: what takes it, and what must not."""

import contextlib
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import fusedgrad
from fusedgrad import _C

Call = Callable[[Any], Any]

CALLS: dict[str, Call] = {
    "sigmoid": _C.sigmoid,
    "tanh": _C.tanh,
    "pow with a number": lambda x: _C.pow(x, 2.5),
    "pow with an integer": lambda x: _C.pow(x, 3),
    "pow": lambda x: _C.pow(x, x),
    "binary_cross_entropy": lambda x: _C.binary_cross_entropy(x, x, "mean"),
    "binary_cross_entropy_with_logits": lambda x: _C.binary_cross_entropy_with_logits(x, x, "sum"),
}


class Subclass(torch.Tensor):
    pass


class FunctionMode(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class DispatchMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_an_ordinary_call_is_the_operator(name: str, dtype: torch.dtype) -> None:
    x = torch.tensor([0.25, 0.5], dtype=dtype, requires_grad=True)
    result: Any = CALLS[name](x)
    assert type(result).__name__ == "Tensor"
    assert result.dtype is dtype
    assert str(result.grad_fn.name()).startswith("fusedgrad::")
    assert CALLS[name](torch.nn.Parameter(x.detach())).requires_grad
    with torch.no_grad():
        assert not CALLS[name](x).requires_grad


EXTRAORDINARY: dict[str, Callable[[torch.Tensor], object]] = {
    "a subclass": lambda x: x.as_subclass(Subclass),
    "integers": lambda x: x.long(),
    "complex numbers": lambda x: x.to(torch.complex64),
    "a meta tensor": lambda x: x.to("meta"),
    "a number": lambda x: 0.5,
    "None": lambda x: None,
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kind", EXTRAORDINARY)
def test_other_operands_are_left_to_python(name: str, kind: str) -> None:
    assert CALLS[name](EXTRAORDINARY[kind](torch.tensor([0.25, 0.5]))) is NotImplemented


CONTEXTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "a function mode": FunctionMode,
    "a dispatch mode": DispatchMode,
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kind", CONTEXTS)
def test_modes_see_the_call(name: str, kind: str) -> None:
    x = torch.tensor([0.25, 0.5])
    with CONTEXTS[kind]():
        assert CALLS[name](x) is NotImplemented


@pytest.mark.parametrize("name", CALLS)
def test_transforms_and_forward_mode_see_the_call(name: str) -> None:
    x = torch.tensor([0.25, 0.5])
    seen: list[Any] = []

    def call(y: torch.Tensor) -> torch.Tensor:
        seen.append(CALLS[name](x))  # no operand of the transform, and still inside it
        return y

    torch.func.vmap(call)(x)
    torch.func.grad(lambda y: call(y).sum())(x)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, x)  # type: ignore[no-untyped-call]
        seen.append(CALLS[name](dual))
    assert seen == [NotImplemented] * 3


@pytest.mark.parametrize("name", CALLS)
def test_autocast_sees_the_call(name: str) -> None:
    cast = name not in ("sigmoid", "tanh")
    with torch.autocast("cpu", torch.bfloat16):
        result = CALLS[name](torch.tensor([0.25, 0.5]))
    assert (result is NotImplemented) is cast


@pytest.mark.parametrize("exponent", [True, 2j, 2**80, "2", None])
def test_other_exponents_are_left_to_python(exponent: object) -> None:
    assert _C.pow(torch.ones(2), exponent) is NotImplemented


@pytest.mark.parametrize("reduction", ["median", 1, None, []])
def test_other_reductions_are_left_to_python(reduction: object) -> None:
    x = torch.tensor([0.25, 0.5])
    for loss in (_C.binary_cross_entropy, _C.binary_cross_entropy_with_logits):
        assert loss(x, x, reduction) is NotImplemented
        assert loss(x, x[:1], "mean") is NotImplemented
        assert loss(x, x.double(), "mean") is NotImplemented


def test_a_trace_holds_the_operator() -> None:
    with warnings.catch_warnings(), contextlib.suppress(DeprecationWarning):
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(fusedgrad.sigmoid, torch.zeros(2))  # type: ignore[no-untyped-call]
    x = torch.tensor([1.0, -2.0])
    assert torch.equal(traced(x), fusedgrad.sigmoid(x))


def test_errors_are_pytorchs() -> None:
    with pytest.raises(RuntimeError, match="all elements of input should be between 0 and 1"):
        fusedgrad.binary_cross_entropy(torch.tensor([2.0]), torch.tensor([1.0]))
    with pytest.raises(RuntimeError, match="must match the size of tensor"):
        fusedgrad.pow(torch.ones(2), torch.ones(3))


def test_a_served_loss_still_compares_the_shapes_of_its_operands() -> None:
    @fusedgrad.fuse
    def loss(x: torch.Tensor, t: torch.Tensor) -> Any:
        return binary_cross_entropy_with_logits(x, t, reduction="none")

    x, t = torch.randn(4), torch.rand(4)
    exact = binary_cross_entropy_with_logits(x, t, reduction="none")
    for _ in range(4):
        torch.testing.assert_close(loss(x, t), exact)
    assert loss._ready  # the next such call is served without a frame of Python
    for other in (torch.rand(1), torch.rand(2, 4)):
        with pytest.raises(ValueError, match="one shape"):
            loss(x, other)
    torch.testing.assert_close(loss(x.view(2, 2), t.view(2, 2)), exact.view(2, 2))

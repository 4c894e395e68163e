"""What cannot be fused says so: the operation, the line, and what to do instead."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fusedgrad
from fusedgrad import FuseError
from fusedgrad.fuse.errors import FuseTypeError

X = torch.randn(4)


def _loop(x: Tensor) -> Tensor:
    while x < 1:
        x = x * 2
    return x


def _in_place(x: Tensor) -> Tensor:
    x += 1
    return x


def _item(x: Tensor) -> Tensor:
    x[0] = 1
    return x


OUTER = torch.ones(4)

# function, a part of the message
REFUSED: list[tuple[Callable[..., Any], str]] = [
    (lambda x: torch.where(x > 0, x, -x) if x > 0 else x, "torch.where"),
    (_loop, "control flow that depends on a tensor's values"),
    (_in_place, "in-place operation"),
    (_item, "in-place operation"),
    (lambda x: x.add_(1), r"Tensor.add_ changes its tensor in place"),
    (lambda x: torch.relu_(x), "relu_ is no elementwise operation that fuse knows"),
    (lambda x: torch.exp(x, out=x), "writes into a tensor"),
    (lambda x: torch.nn.functional.silu(x, inplace=True), "writes into a tensor"),
    (lambda x: x.sum(), r"Tensor.sum is no elementwise operation"),
    (lambda x: torch.softmax(x, 0), r"torch.softmax is no elementwise operation"),
    (lambda x: x @ x, "operator.matmul is no elementwise operation"),
    (lambda x: x * x.shape[0], "shape"),
    (lambda x: x[0] * x, "operator.getitem is no elementwise operation"),
    (lambda x: x.view(2, 2), "Tensor.view"),
    (lambda x: x * OUTER, "uses a tensor that is none of its arguments"),
    (lambda x: x + torch.tensor(2.0), "uses a tensor that is none of its arguments"),
    (lambda x: 3.0, "returns float"),
    (lambda x: None, "returns NoneType"),
    (lambda x: [x, "text"], "returns str"),
    (lambda x: (), "depends on none"),
    (lambda x: x > 0, "returns a tensor of bool"),
    (lambda x: float(x) * x, "cannot become a Python number"),
    (lambda x: list(x), "iterating over a tensor"),
    (lambda x: x * len(x), "len()"),
    (lambda x: torch.clamp(x), "one of min and max must not be None"),
    (lambda x: torch.div(x, x, rounding_mode="floor"), "rounding_mode"),
    (lambda x: x // 2, "operator.floordiv is no elementwise operation"),
    (lambda x: torch.nn.functional.gelu(x, approximate="quick"), "approximate is 'quick'"),
    (lambda x: torch.nn.functional.binary_cross_entropy_with_logits(x, x), "reduction='none'"),
    (lambda x: torch.where(x, x, x), "no comparison"),
    (lambda x: x.clamp(least=2), "unexpected keyword argument"),
    (lambda x: torch.nn.functional.dropout(x), "dropout"),
    (lambda x: x + "text", "an operand is str"),
    (lambda x: x * 2j, "an operand is complex"),
]


@pytest.mark.parametrize(("function", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_refusal_names_the_operation_and_the_line(
    function: Callable[..., Any], message: str
) -> None:
    with pytest.raises(FuseError, match=message) as caught:
        fusedgrad.fuse(function)(X)
    assert isinstance(caught.value, (TypeError, ValueError))
    # What a function returns has no line of its own.
    if "returns" not in message and "depends on" not in message:
        assert f"{__file__}:" in str(caught.value)


def test_the_line_is_the_one_with_the_operation() -> None:
    def function(x: Tensor) -> Tensor:
        y = torch.exp(x)
        z = torch.cumsum(y, 0)
        return y + z

    with pytest.raises(FuseError, match=r"torch.cumsum .*`z = torch.cumsum\(y, 0\)`"):
        fusedgrad.fuse(function)(X)


def test_recursion_without_end() -> None:
    @fusedgrad.fuse
    def f(x: Tensor) -> Tensor:
        return f(x) + 1  # type: ignore[no-any-return]

    with pytest.raises(FuseError, match="calls itself without end"):
        f(X)


def test_python_recursion_without_end() -> None:
    def f(x: Tensor) -> Tensor:
        return f(x) + 1

    with pytest.raises(FuseError, match="calls itself without end"):
        fusedgrad.fuse(f)(X)


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        ((), {}, "missing a required argument: 'x'"),
        ((X, X, X), {}, "too many positional arguments"),
        ((X,), {"y": X}, "unexpected keyword argument 'y'"),
        ((1.0,), {}, "at least one tensor"),
        (([X],), {}, "list"),
        ((X, np.ones(4)), {}, "ndarray"),
        ((X.long(), 2), {}, "result of dtype torch.int64"),
        ((X.to(torch.complex64),), {}, "dtype torch.complex64"),
        ((X, X.to(torch.float8_e4m3fn)), {}, "z has dtype torch.float8_e4m3fn"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_call_with_wrong_arguments(
    arguments: tuple[Any, ...], keywords: dict[str, Any], message: str
) -> None:
    f = fusedgrad.fuse(lambda x, z=2.0: x * z)
    f(X, X)  # a kernel that such a call must not reach
    with pytest.raises(FuseError, match=message) as caught:
        f(*arguments, **keywords)
    assert isinstance(caught.value, (TypeError, ValueError))


def test_an_argument_of_no_use_is_named() -> None:
    @fusedgrad.fuse
    def gate(x: Tensor, scale: Any) -> Any:
        return x * scale

    with pytest.raises(FuseTypeError, match=r"gate\(\): scale is None: operator.mul"):
        gate(X, None)
    with pytest.raises(FuseTypeError, match=r"gate\(\): scale is Decimal.*an operand is Decimal"):
        gate(X, Decimal(2))


def test_shapes_that_do_not_broadcast_raise_as_in_pytorch() -> None:
    f = fusedgrad.fuse(lambda x, z: x * z)
    f(X, X)
    with pytest.raises(RuntimeError, match="must match the size"):
        f(X, torch.randn(5))
    with pytest.raises(RuntimeError):
        f(X.requires_grad_(), torch.randn(5))
    X.requires_grad_(False)


def test_fuse_of_no_function() -> None:
    with pytest.raises(TypeError, match="expected a function, got Tensor"):
        fusedgrad.fuse(X)  # type: ignore[call-overload]


def test_derivative_by_no_argument_of_the_function() -> None:
    f = fusedgrad.fuse(lambda x, order=2: x**order)
    for numbers, message in (((), "expected the number"), ((2,), "no argument 2"), ((-1,), "-1")):
        with pytest.raises(FuseError, match=message):
            f.derivative(*numbers)
    with pytest.raises(FuseError, match="'order' is neither a tensor nor a float"):
        f.derivative(1)(X)


def test_value_and_grad_of_outputs_of_unlike_shapes() -> None:
    f = fusedgrad.fuse(lambda x, z: (x, x * z))
    with pytest.raises(FuseError, match="give each a function of its own"):
        f.value_and_grad(torch.randn(3), torch.randn(2, 1))


def test_kernels_refuse_what_they_were_not_checked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from fusedgrad.fuse import kernel

    monkeypatch.setattr(kernel, "_kernels", {})
    monkeypatch.setattr(kernel, "_graphs", {})
    fusedgrad.fuse(lambda x, a=1.5: x * a)(X)
    (number,) = kernel._graphs
    op, dtypes = torch.ops.fusedgrad.fused, [torch.float32]
    for arguments, message in (
        ((10**6, [X], [1.0], dtypes), "there is no kernel"),
        ((-1, [X], [1.0], dtypes), "there is no kernel"),
        ((number, [X, X], [1.0], dtypes), "got 2 inputs, expected 1"),
        ((number, [X], [], dtypes), "got 0 parameters, expected 1"),
        ((number, [X], [1.0], dtypes * 2), "got 2 dtypes, expected 1"),
        ((number, [X.double()], [1.0], dtypes), "a float64 tensor"),
        ((number, [X.long()], [1.0], dtypes), "not implemented for 'Long'"),
        ((number, [X], [1.0], [torch.int32]), "not implemented for 'Int'"),
    ):
        with pytest.raises(RuntimeError, match=message):
            op(*arguments)

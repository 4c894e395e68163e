"""What cannot be fused says so: the operation, the line, and what to do instead."""

import types
from collections.abc import Callable
from decimal import Decimal
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

import fusedgrad
from fusedgrad import FuseError

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


# function, a part of the message
REFUSED: list[tuple[Callable[..., Any], str]] = [
    (lambda x: torch.where(x > 0, x, -x) if x > 0 else x, "torch.where"),
    (_loop, "control flow that depends on a tensor's values"),
    (_in_place, "changes its tensor in place"),
    (_item, "assignment to elements"),
    (lambda x: x.add_(1), r"Tensor.add_ changes its tensor in place"),
    (lambda x: torch.relu_(x), "torch.relu_ changes its tensor in place"),
    (lambda x: torch.exp(x, out=x), "writes into a tensor"),
    (lambda x: torch.nn.functional.silu(x, inplace=True), "changes its tensor in place"),
    (lambda x: x.sum(0), r"Tensor.sum of a dimension"),
    (lambda x: torch.softmax(x, 0), r"torch.softmax is no elementwise operation"),
    (lambda x: x @ x, "Tensor.matmul is no elementwise operation"),
    (lambda x: x * x.shape[0], "shape"),
    (lambda x: x[0] * x, "Tensor.__getitem__ is no elementwise operation"),
    (lambda x: x.view(2, 2), "Tensor.view"),
    (lambda x: 3.0, "returns float"),
    (lambda x: None, "returns NoneType"),
    (lambda x: (), "returns tuple"),
    (lambda x: x * 10**400, "64 bits"),
    (lambda x: x * 3 + x * 2**64, "64 bits"),
    (lambda x: float(x) * x, "cannot become a Python number"),
    (lambda x: list(x), "iterating over a tensor"),
    (lambda x: x * len(x), "len()"),
    (lambda x: torch.nn.functional.glu(x), "glu is no elementwise operation"),
    (lambda x: x * torch.nn.functional.mse_loss(x, x + 1), "a mean or a sum"),
    (lambda x: torch.nn.functional.dropout(x), "dropout"),
    (lambda x: x * 2j, "an operand is complex"),
]


@pytest.mark.parametrize(("function", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_refusal_names_the_operation_and_the_line(
    function: Callable[..., Any], message: str
) -> None:
    with pytest.raises(FuseError, match=message) as caught:
        fusedgrad.fuse(function)(X)
    assert isinstance(caught.value, (TypeError, ValueError, OverflowError))
    # What a function returns has no line of its own.
    if "returns" not in message and "depends on" not in message:
        assert f"{__file__}:" in str(caught.value)


# function: PyTorch's own error is as good as it gets
ERRORS: list[tuple[Callable[..., Any], type[Exception]]] = [
    (lambda x: torch.clamp(x), RuntimeError),
    (lambda x: torch.nn.functional.gelu(x, approximate="quick"), RuntimeError),
    (lambda x: torch.where(x, x, x), RuntimeError),
    (lambda x: x.clamp(least=2), TypeError),
    (lambda x: x + "text", TypeError),
    (lambda x: x * None, TypeError),
    (lambda x: x * Decimal(2), TypeError),
    (lambda x: x.to(torch.float8_e4m3fn) * x, RuntimeError),
    (lambda x: x.long() ** -1, RuntimeError),
    (lambda x: x.undefined, AttributeError),
    (lambda x: [][1], IndexError),
]


@pytest.mark.parametrize(("function", "kind"), ERRORS)
def test_an_error_of_the_function_itself_is_raised_as_it_is(
    function: Callable[..., Any], kind: type[Exception]
) -> None:
    with pytest.raises(kind) as eager:
        function(X)
    with pytest.raises(kind) as fused:
        fusedgrad.fuse(function)(X)
    assert type(fused.value) is type(eager.value)
    assert str(fused.value) == str(eager.value)


def test_a_refusal_that_the_function_catches_is_raised_all_the_same() -> None:
    def function(x: Tensor) -> Tensor:
        try:
            return x * x.shape[0]
        except Exception:
            return x

    with pytest.raises(FuseError, match=r"Tensor\.shape"):
        fusedgrad.fuse(function)(X)


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
        ((1.0,), {}, "returns float"),
        ((X, np.ones(4)), {}, "__array__"),
        ((X.to(torch.complex64),), {}, "dtype torch.complex64"),
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


OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "sparse": lambda x: x.to_sparse(),
    "sparse rows": lambda x: x[None].to_sparse_csr(),
    "MKL-DNN": lambda x: x.to_mkldnn(),
    "nested": lambda x: torch.nested.nested_tensor([x, x[:1]]),
}


@pytest.mark.filterwarnings("ignore:.*nested tensors|.*Sparse")
@pytest.mark.parametrize("kind", OTHERS)
def test_tensors_that_no_kernel_takes_are_pytorchs(kind: str) -> None:
    f, given = fusedgrad.fuse(lambda x: x * 2.0), OTHERS[kind](X)
    for _ in range(2):
        f(X)  # the kernel of dense ones
        found = f(given)
        assert found.layout is given.layout
        first = found.unbind()[0] if found.is_nested else found.to_dense().reshape(4)
        assert torch.equal(first, X * 2)
    with pytest.raises(FuseError, match="expected a dense tensor"):
        fusedgrad.fuse(lambda x: x * given)(X)


def test_a_trace_of_what_it_would_not_see_is_refused() -> None:
    f = fusedgrad.fuse(lambda x: torch.tanh(x) * 3)
    with pytest.raises(FuseError, match=r"inside torch\.jit\.trace"):
        cast(Any, torch.jit).trace(lambda x: f.value_and_grad(x)[1], X)
    with pytest.raises(NotImplementedError, match=r"inside torch\.jit\.trace"):
        cast(Any, torch.jit).trace(lambda x: fusedgrad.jet(f, (x,), ((torch.ones_like(x),),))[1], X)


class _Keeper:
    last: Any = torch.zeros(4)

    def __call__(self, x: Tensor) -> Any:
        self.last = torch.tanh(x)
        return self.last

    def in_a_list(self, x: Tensor) -> list[Tensor]:
        y = (x + 1).mul_(2)
        self.last = [y]
        return [y, y * 2]

    def beside(self, x: Tensor) -> Any:
        return x * 2, types.SimpleNamespace(y=x * 3)

    def of_the_last(self, x: Tensor) -> Tensor:
        self.last = self.last + x
        return x * 2


@pytest.mark.parametrize("name", ["__call__", "in_a_list", "beside", "of_the_last"])
def test_what_is_computed_is_kept_by_nobody(name: str) -> None:
    fused = fusedgrad.fuse(getattr(_Keeper(), name))
    with pytest.raises(FuseError, match=r"(torch.tanh|Tensor.add|Tensor.mul): what it .* is kept"):
        fused(X)
    with pytest.raises(FuseError, match="kept"):
        fused(X)


def test_what_python_itself_keeps_is_no_matter() -> None:
    def calls_itself(x: Tensor) -> Tensor:
        y = torch.tanh(x)

        def times(n: int) -> Tensor:
            return times(n - 1) * y if n else y

        return times(2)

    def catches(x: Tensor) -> tuple[Any, ...]:
        y = x * 2
        kept = [y]
        try:
            raise ValueError
        except ValueError as error:
            caught = error
        return y, kept, kept, x, type(caught)

    torch.testing.assert_close(fusedgrad.fuse(calls_itself)(X), torch.tanh(X) ** 3)
    assert len(fusedgrad.fuse(catches)(X)) == 5


def test_value_and_grad_of_outputs_of_unlike_shapes() -> None:
    f = fusedgrad.fuse(lambda x, z: (x, x * z))
    with pytest.raises(FuseError, match="give each a function of its own"):
        f.value_and_grad(torch.randn(3), torch.randn(2, 1))


def test_kernels_refuse_what_they_were_not_checked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from fusedgrad.fuse import kernel

    monkeypatch.setattr(kernel, "_kernels", {})
    monkeypatch.setattr(kernel, "_graphs", {})
    f = fusedgrad.fuse(lambda x, a=1.5: x * a)
    f(X)
    f(X, 2.5)  # the second kernel takes the number as a parameter
    _, number = kernel._graphs
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

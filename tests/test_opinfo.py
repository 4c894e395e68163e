"""PyTorch's own test inputs for these operations (OpInfo), run against ours.

Values are compared with PyTorch's within its own tolerances, which are wide enough for its errors.
Ours differs on purpose in two places, and is compared with mathematics there: PyTorch rounds the
losses of half types after every step, and its sigmoid of large or infinite complex numbers is NaN.
"""

# mypy: disable-error-code="no-untyped-call"

import functools
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from mpmath import mp, mpc
from torch import Tensor
from torch.autograd.gradcheck import gradcheck, gradgradcheck

import fusedgrad


def patched(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(function)
    def wrapper(*arguments: Any, **keywords: Any) -> Tensor:
        with fusedgrad.patched():
            return function(*arguments, **keywords)

    return wrapper


def reflected_power(exponent: Tensor, base: Any) -> Tensor:
    return patched(torch.Tensor.__rpow__)(exponent, base)


# OpInfo: our operation of the same signature
OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "sigmoid": fusedgrad.sigmoid,
    "tanh": fusedgrad.tanh,
    "square": patched(torch.square),
    "pow": fusedgrad.pow,
    "__rpow__": reflected_power,
    "nn.functional.binary_cross_entropy": fusedgrad.binary_cross_entropy,
    "nn.functional.binary_cross_entropy_with_logits": fusedgrad.binary_cross_entropy_with_logits,
}
WITH_OUT = ("sigmoid", "tanh", "square", "pow")

DTYPES = (torch.float32, torch.bfloat16, torch.int64)
OTHER_DTYPES = (
    torch.bool,
    torch.complex64,
    torch.float64,
    torch.float16,
    torch.complex128,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
)

operations = pytest.mark.parametrize("name", OPERATIONS)
dtypes = pytest.mark.parametrize(
    "dtype",
    [*DTYPES, *(pytest.param(dtype, marks=pytest.mark.slow) for dtype in OTHER_DTYPES)],
    ids=str,
)


@functools.cache
def op_info(name: str) -> Any:
    from torch.testing._internal.common_methods_invocations import op_db  # takes seconds

    return next(op for op in op_db if op.name == name)


def samples(name: str, dtype: torch.dtype, **options: Any) -> Iterator[Any]:
    if dtype in op_info(name).supported_dtypes("cpu"):
        yield from op_info(name).sample_inputs("cpu", dtype, **options)


def outcome(call: Callable[..., Tensor], sample: Any) -> Any:
    """The result, or the type of the exception."""
    try:
        return call(sample.input, *sample.args, **sample.kwargs)
    except Exception as error:
        return type(error)


def float64(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) else value


def assert_pytorchs_or_better(name: str, sample: Any, ours: Any, theirs: Any) -> None:
    message = str(sample)
    if not isinstance(theirs, Tensor):
        assert ours is theirs, message
        return
    assert ours.dtype is theirs.dtype, message
    assert ours.shape == theirs.shape, message
    assert ours.stride() == theirs.stride() or ours.numel() == 0, message
    if "entropy" in name and theirs.dtype in (torch.float16, torch.bfloat16):
        theirs = outcome(op_info(name).op, sample.transform(float64)).to(theirs.dtype)
    if name == "sigmoid" and theirs.is_complex():
        unexpected = theirs.isnan() & sample.input.isfinite()
        numbers = sample.input[unexpected]
        numbers = numbers[torch.randperm(len(numbers))[:50]]
        with mp.workdps(50):
            exact = [complex(1 / (1 + mp.exp(-mpc(z)))) for z in numbers.tolist()]
        torch.testing.assert_close(fusedgrad.sigmoid(numbers), torch.tensor(exact).to(numbers))
        limit = sample.input.real == -math.inf
        assert (ours[limit] == 0).all(), message
        compared = ~(unexpected | limit)
        ours, theirs = ours[compared], theirs[compared]
    torch.testing.assert_close(ours, theirs, equal_nan=True, msg=lambda m: f"{message}\n{m}")


@operations
@dtypes
def test_samples_give_pytorchs_result(name: str, dtype: torch.dtype) -> None:
    for sample in samples(name, dtype):
        theirs = op_info(name)(sample.input, *sample.args, **sample.kwargs)
        assert_pytorchs_or_better(name, sample, outcome(OPERATIONS[name], sample), theirs)


@operations
@dtypes
def test_dtypes_are_taken_where_pytorchs_takes_them(name: str, dtype: torch.dtype) -> None:
    def cast(value: Any) -> Any:
        return value.to(dtype) if isinstance(value, Tensor) else value

    for sample in samples(name, torch.float32):
        sample = sample.transform(cast)
        ours, theirs = outcome(OPERATIONS[name], sample), outcome(op_info(name).op, sample)
        assert isinstance(ours, Tensor) == isinstance(theirs, Tensor), str(sample)


@pytest.mark.sampled(4)
@operations
@dtypes
def test_reference_inputs_give_pytorchs_result(name: str, dtype: torch.dtype) -> None:
    if dtype in op_info(name).supported_dtypes("cpu"):
        for sample in op_info(name).reference_inputs("cpu", dtype):
            ours, theirs = outcome(OPERATIONS[name], sample), outcome(op_info(name).op, sample)
            assert_pytorchs_or_better(name, sample, ours, theirs)


@pytest.mark.parametrize(
    "name", [name for name in OPERATIONS if op_info(name).error_inputs_func is not None]
)
def test_error_inputs_are_pytorchs_errors(name: str) -> None:
    for error in op_info(name).error_inputs("cpu"):
        ours = outcome(OPERATIONS[name], error.sample_input)
        theirs = outcome(op_info(name).op, error.sample_input)
        if theirs is NotImplemented:  # of Python numbers, to Tensor.__rpow__
            assert ours is NotImplemented
        else:
            assert issubclass(ours, error.error_type), str(error.sample_input)


@pytest.mark.filterwarnings("ignore:Casting complex values")
@pytest.mark.parametrize("name", WITH_OUT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
def test_out_is_pytorchs(name: str, dtype: torch.dtype) -> None:
    def written(call: Callable[..., Tensor], sample: Any, make: Callable[[Tensor], Tensor]) -> Any:
        out = make(result)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            returned = outcome(functools.partial(call, out=out), sample)
        if isinstance(returned, type):
            return returned
        assert returned is out
        return out, out.stride(), [warning.category for warning in caught]

    makers: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda result: torch.empty_like(result),
        lambda result: result.new_empty(result.shape[::-1]).T if result.dim() == 2 else result,
        lambda result: result.new_empty(0),
        lambda result: result.new_ones(*result.shape, 2),
        lambda result: torch.empty_like(result, dtype=torch.float64),
        lambda result: torch.empty_like(result, dtype=torch.complex128),
        lambda result: torch.empty_like(result, dtype=torch.int64),
    )
    for sample in samples(name, dtype):
        result = op_info(name)(sample.input, *sample.args, **sample.kwargs)
        for make in makers:
            ours = written(OPERATIONS[name], sample, make)
            theirs = written(op_info(name).op, sample, make)
            if isinstance(theirs, type):
                assert ours is theirs, str(sample)
            else:
                written_to = (one[0].to(result.dtype) for one in (ours, theirs))
                torch.testing.assert_close(*written_to, equal_nan=True)
                assert ours[1:] == theirs[1:], str(sample)


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "square", "pow"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64], ids=str)
def test_in_place_variant_is_pytorchs(name: str, dtype: torch.dtype) -> None:
    in_place = op_info(name).inplace_variant
    for sample in samples(name, dtype):
        ours = outcome(patched(in_place), sample.transform(torch.clone))
        theirs = outcome(in_place, sample.transform(torch.clone))
        assert_pytorchs_or_better(name, sample, ours, theirs)


@operations
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int32], ids=str)
def test_noncontiguous_inputs_give_the_same(name: str, dtype: torch.dtype) -> None:
    for sample in samples(name, dtype, requires_grad=dtype.is_floating_point):
        results = []
        for layout in (sample, sample.noncontiguous()):
            result = OPERATIONS[name](layout.input, *layout.args, **layout.kwargs)
            grad: tuple[Tensor, ...] = ()
            if result.requires_grad:
                tensor = next(
                    value
                    for value in (layout.input, *layout.args)
                    if isinstance(value, Tensor) and value.requires_grad
                )
                grad = torch.autograd.grad(result, tensor, torch.ones_like(result))
            results.append((result, *grad))
        for contiguous, strided in zip(*results, strict=True):
            assert torch.equal(contiguous.nan_to_num(1.5), strided.nan_to_num(1.5)), str(sample)


def differentiable(name: str, dtype: torch.dtype) -> Iterator[tuple[Any, list[Tensor], str]]:
    """Functions of the tensors that require grad, and these."""
    for sample in samples(name, dtype, requires_grad=True):
        arguments = [sample.input, *sample.args, *sample.kwargs.values()]
        moving = [
            i
            for i, value in enumerate(arguments)
            if isinstance(value, Tensor) and value.requires_grad
        ]

        def function(
            *tensors: Tensor, sample: Any = sample, arguments: Any = arguments, moving: Any = moving
        ) -> Tensor:
            values = list(arguments)
            for i, tensor in zip(moving, tensors, strict=True):
                values[i] = tensor
            positional = values[: 1 + len(sample.args)]
            keywords = dict(zip(sample.kwargs, values[1 + len(sample.args) :], strict=True))
            return OPERATIONS[name](*positional, **keywords)

        # torch's own list has negative bases for __rpow__, whose powers are NaN.
        if moving and not function(*(arguments[i] for i in moving)).isnan().any():
            yield function, [arguments[i] for i in moving], str(sample)


DIFFERENTIABLE = pytest.mark.parametrize(
    ("name", "dtype"),
    [
        (name, dtype)
        for name in OPERATIONS
        for dtype in (torch.float64, torch.complex128)
        if dtype is torch.float64 or "entropy" not in name
    ],
    ids=str,
)


@DIFFERENTIABLE
def test_gradcheck_forward_backward_and_batched(name: str, dtype: torch.dtype) -> None:
    for function, tensors, message in differentiable(name, dtype):
        assert gradcheck(
            function,
            tensors,
            check_forward_ad=True,
            check_batched_grad=True,
            check_batched_forward_grad=True,
            fast_mode=True,
        ), message


@DIFFERENTIABLE
def test_gradgradcheck_forward_over_reverse_and_batched(name: str, dtype: torch.dtype) -> None:
    for function, tensors, message in differentiable(name, dtype):
        assert gradgradcheck(
            function,
            tensors,
            check_fwd_over_rev=True,
            check_rev_over_rev=True,
            check_batched_grad=True,
            fast_mode=True,
        ), message

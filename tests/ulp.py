"""Errors in units in the last place, against exact values in mpmath."""

from collections.abc import Callable, Iterable

import mpmath
import torch
from mpmath import mp, mpf
from torch import Tensor

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
HALF_DTYPES = (torch.float16, torch.bfloat16)

# So many that tanh(350) differs from 1 by more than rounding, and its differences hold 50 digits.
DIGITS = 400


def unit(exact: mpf, dtype: torch.dtype) -> mpf:
    """The distance between neighbouring numbers of the dtype at `exact`."""
    info = torch.finfo(dtype)
    _, exponent = mpmath.frexp(max(abs(exact), mpf(info.tiny)))
    return mpmath.ldexp(mpf(info.eps), int(exponent) - 1)


def ulp_error(value: float, exact: mpf, dtype: torch.dtype) -> float:
    """How far `value` is from `exact`, in units in the last place."""
    if abs(exact) > mpf(torch.finfo(dtype).max) + unit(exact, dtype) / 2:
        exact = mpf("inf") * mpmath.sign(exact)
    if mpmath.isinf(exact) or mpmath.isnan(exact):
        same = mpf(value) == exact or (value != value and mpmath.isnan(exact))
        return 0.0 if same else float("inf")
    return float(abs(mpf(value) - exact) / unit(exact, dtype))


def largest_ulp_error(values: Tensor, exact: Iterable[mpf]) -> float:
    """The largest error among `values`, whose exact values come in the same order."""
    pairs = zip(values.flatten().tolist(), exact, strict=True)
    with mp.workdps(DIGITS):
        return max(ulp_error(value, mpf(true), values.dtype) for value, true in pairs)


def exact_values(function: Callable[..., mpf], *inputs: Tensor) -> list[mpf]:
    """`function` at the elements of the inputs, without rounding."""
    columns = zip(*(tensor.flatten().tolist() for tensor in inputs), strict=True)
    with mp.workdps(DIGITS):
        return [function(*map(mpf, column)) for column in columns]


def sigmoid(x: mpf) -> mpf:
    return 1 / (1 + mp.exp(-x))


def softplus(x: mpf) -> mpf:
    return mp.log1p(mp.exp(x))


def loss_of_logits(x: mpf, t: mpf, w: mpf = 1, p: mpf = 1) -> mpf:
    return w * (p * t * softplus(-x) + (1 - t) * softplus(x))


def loss_of_probabilities(p: mpf, t: mpf, w: mpf = 1) -> mpf:
    return -w * (t * mp.log(p) + (1 - t) * mp.log1p(-p))


def derivative(function: Callable[..., mpf], *orders: int) -> Callable[..., mpf]:
    """The derivative of `function`, by its arguments in turn, of these orders."""

    def value(*arguments: mpf) -> mpf:
        if len(orders) == 1:
            return mpmath.diff(lambda x: function(x, *arguments[1:]), arguments[0], orders[0])
        return mpmath.diff(function, arguments[: len(orders)], orders)

    return value

"""Functions that the tests of fuse share: what each computes, and where."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mpmath import mp, mpf
from torch import Tensor

import fusedgrad

_F = torch.nn.functional


@dataclass(frozen=True)
class Case:
    """A function of tensors; `exact` computes it in mpmath."""

    name: str
    function: Callable[..., Tensor]
    exact: Callable[..., mpf]
    # One row of arguments for each element
    points: Sequence[Sequence[float]]


def _sigmoid(x: mpf) -> mpf:
    return 1 / (1 + mp.exp(-x))


def _softplus(x: mpf) -> mpf:
    return mp.log1p(mp.exp(x))


def _normal_cdf(x: mpf) -> mpf:
    return mp.erfc(-x / mp.sqrt(2)) / 2


_LINE = [(x,) for x in (-80.5, -30.0, -9.75, -3.0, -0.5, -1e-3, 1e-3, 0.25, 1.5, 4.0, 12.5, 60.0)]
_POSITIVE = [(x,) for x in (1e-30, 1e-5, 0.1, 0.7, 1.25, 3.0, 50.0, 1e20)]
_PLANE = [(x, z) for x in (-2.5, -0.75, 0.125, 1.0, 3.0) for z in (-3.0, -0.5, 0.25, 2.0)]

CASES = [
    Case(
        "one variable",
        lambda x: fusedgrad.sigmoid(x**2) + fusedgrad.tanh(x**3),
        lambda x: _sigmoid(x**2) + mp.tanh(x**3),
        [(x,) for x in (-3.0, -1.5, -0.25, 1e-3, 0.5, 1.0, 2.5)],
    ),
    Case(
        "two variables",
        lambda x, z: fusedgrad.sigmoid(x**2 + z) + fusedgrad.tanh(x**3 * z**2),
        lambda x, z: _sigmoid(x**2 + z) + mp.tanh(x**3 * z**2),
        _PLANE,
    ),
    Case(
        "skip connection",
        lambda x: fusedgrad.tanh(x + fusedgrad.sigmoid(x**2)),
        lambda x: mp.tanh(x + _sigmoid(x**2)),
        [(x,) for x in (-8.0, -2.0, -0.125, 0.5, 3.0, 9.0)],
    ),
    Case("exp", torch.exp, mp.exp, _LINE),
    Case("expm1", lambda x: torch.expm1(x), mp.expm1, _LINE),
    Case("log", lambda x: x.log(), mp.log, _POSITIVE),
    Case("log1p", lambda x: torch.log1p(x), mp.log1p, [*_POSITIVE, (-0.75,), (-1e-3,)]),
    Case("softplus", lambda x: _F.softplus(x, beta=2), lambda x: _softplus(2 * x) / 2, _LINE),
    Case("logsigmoid", lambda x: _F.logsigmoid(x), lambda x: -_softplus(-x), _LINE),
    Case("sqrt", lambda x: torch.sqrt(x), mp.sqrt, _POSITIVE),
    Case(
        "hypotenuse",
        lambda x, z: torch.sqrt(x * x + abs(z)) - torch.sqrt(z**2 + 1),
        lambda x, z: mp.sqrt(x * x + abs(z)) - mp.sqrt(z**2 + 1),
        _PLANE,
    ),
    Case("rsqrt", lambda x: torch.rsqrt(x), lambda x: 1 / mp.sqrt(x), _POSITIVE[1:]),
    Case("reciprocal", lambda x: 1 / x, lambda x: 1 / x, _POSITIVE[1:-1]),
    Case("sin", lambda x: torch.sin(x), mp.sin, [*_LINE, (1e5,), (3e30,)]),
    Case("cos", lambda x: torch.cos(x), mp.cos, [*_LINE, (1e5,), (3e30,)]),
    Case("erf", lambda x: torch.erf(x), mp.erf, [(x,) for x in (-6.0, -0.75, 0.25, 0.5, 2.0)]),
    Case("silu", lambda x: _F.silu(x), lambda x: x * _sigmoid(x), _LINE),
    Case("gelu", lambda x: _F.gelu(x), lambda x: x * _normal_cdf(x), _LINE[1:]),
    Case(
        "gelu tanh",
        lambda x: _F.gelu(x, approximate="tanh"),
        lambda x: x * _sigmoid(mp.sqrt(8 / mp.pi) * (x + mpf(0.044715) * x**3)),
        [(x,) for x in (-6.0, -3.0, -0.5, 0.25, 2.0, 8.0)],
    ),
    Case("mish", lambda x: _F.mish(x), lambda x: x * mp.tanh(_softplus(x)), _LINE),
    Case("constant power", lambda x: x**2.3, lambda x: x ** mpf(2.3), _POSITIVE[1:-1]),
    Case("negative power", lambda x: x**-1.5, lambda x: x ** mpf(-1.5), _POSITIVE[1:-1]),
    Case("constant base", lambda x: 2.5**x, lambda x: mpf(2.5) ** x, _LINE),
    Case(
        "power",
        lambda x, z: x**z,
        lambda x, z: x**z,
        [(x, z) for x in (0.01, 0.5, 1.5, 30.0) for z in (-2.5, 0.3, 3.5)],
    ),
    Case(
        "quotient",
        lambda x, z: (x - z) / (x * x + z * z),
        lambda x, z: (x - z) / (x * x + z * z),
        _PLANE,
    ),
    Case(
        "pieces",
        lambda x, z: torch.where(x > z, torch.relu(x) * z, torch.abs(x) - torch.clamp(z, -1, 1)),
        lambda x, z: max(x, mpf(0)) * z if x > z else abs(x) - max(min(z, mpf(1)), mpf(-1)),
        _PLANE,
    ),
    Case(
        "extrema",
        lambda x, z: torch.maximum(x * z, z) - torch.minimum(x, z * z),
        lambda x, z: max(x * z, z) - min(x, z * z),
        [(x, z) for x in (-2.5, 0.75, 3.0) for z in (-3.0, 0.5, 2.0)],
    ),
    Case(
        "logistic loss",
        lambda x, t, p: fusedgrad.binary_cross_entropy_with_logits(
            x, t, pos_weight=p, reduction="none"
        ),
        lambda x, t, p: p * t * _softplus(-x) + (1 - t) * _softplus(x),
        [(x, t, p) for x in (-20.0, -0.5, 3.0, 30.0) for t in (0.25, 1.0) for p in (0.5, 2.0)],
    ),
]


def columns(case: Case, dtype: torch.dtype) -> list[Tensor]:
    """The arguments, one tensor for each."""
    return [torch.tensor(column, dtype=dtype) for column in zip(*case.points, strict=True)]


def rows(tensors: Sequence[Tensor]) -> list[list[Any]]:
    """The arguments as the numbers that were rounded to the dtype."""
    return [list(map(mpf, row)) for row in zip(*(t.tolist() for t in tensors), strict=True)]

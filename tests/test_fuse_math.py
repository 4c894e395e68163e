"""The functions of csrc/math that only fused functions use: the bounds that their headers state."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from mpmath import mp, mpf

import fusedgrad
from ulp import ulp_error

_F = torch.nn.functional
SAMPLES = 1500


@dataclass(frozen=True)
class Stated:
    """A function, what it is, the domain's least number, and the largest error in ULP."""

    name: str
    function: Any
    exact: Callable[[mpf], mpf]
    bound: float
    positive: bool = False
    order: int = 0  # of the derivative that it is reached as
    of_double: float | None = None  # the bound in double, where it is another
    witness: str = "0x1p+0"  # where a scan of float found the largest (docs/accuracy.md)


STATED = [
    Stated("exp", torch.exp, mp.exp, 1.05, witness="-0x1.3352f2p+5"),
    Stated("expm1", torch.expm1, mp.expm1, 1.45, witness="0x1.0fb868p+4"),
    Stated("log", torch.log, mp.log, 0.55, positive=True),
    Stated("log1p", torch.log1p, mp.log1p, 0.55, positive=True),
    Stated("softplus", _F.softplus, lambda x: mp.log1p(mp.exp(x)), 1.3),
    Stated("sin", torch.sin, mp.sin, 0.51, of_double=0.8),
    Stated("cos", torch.cos, mp.cos, 0.51, of_double=0.8),
    Stated("erf", torch.erf, mp.erf, 2.75, witness="0x1.0439fcp-1"),
    Stated(
        "erf_derivative",
        torch.erf,
        lambda x: 2 * mp.exp(-x * x) / mp.sqrt(mp.pi),
        2.2,
        order=1,
    ),
    Stated(
        "normal_cdf",
        torch.special.ndtr,
        lambda x: mp.erfc(-x / mp.sqrt(2)) / 2,
        5.05,
        witness="-0x1.e5061cp+0",
    ),
    Stated("normal_pdf", torch.special.ndtr, mp.npdf, 2.65, order=1, witness="0x1.ee4d9cp+0"),
    Stated("silu", _F.silu, lambda x: x / (1 + mp.exp(-x)), 3.3, witness="-0x1.7c038cp+2"),
    Stated(
        "gelu",
        _F.gelu,
        lambda x: x * mp.erfc(-x / mp.sqrt(2)) / 2,
        5.1,
        witness="-0x1.d4f024p+0",
    ),
    Stated("pow_constant", lambda x: x**2.3, lambda x: x ** mpf(2.3), 1.0, positive=True),
    Stated(
        "pow_derivative<3, 0>",
        lambda x: x ** torch.full_like(x, 2.5),
        lambda x: mpf(2.5) * mpf(1.5) * mpf(0.5) / mp.sqrt(x),
        1.5,
        positive=True,
        order=3,
    ),
]


def _samples(stated: Stated, dtype: torch.dtype) -> torch.Tensor:
    """Numbers of every binade, more of them where the function moves."""
    generator = random.Random(stated.name)
    least = -149 if dtype is torch.float32 else -1074
    # exp(2^900) would have more digits than mpmath can count.
    most = (
        20
        if stated.name in ("exp", "expm1", "softplus", "normal_cdf", "silu", "gelu")
        else -least * 0.85
    )
    exponents = [generator.uniform(-20, 7) for _ in range(2 * SAMPLES // 3)]
    exponents += [generator.uniform(least, most) for _ in range(SAMPLES // 3)]
    signs = (1, 1) if stated.positive else (-1, 1)
    numbers = [generator.choice(signs) * 2.0**e for e in exponents]
    numbers.append(float.fromhex(stated.witness))
    return torch.tensor(numbers, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("stated", STATED, ids=lambda stated: stated.name)
def test_error_is_within_the_bound_that_the_header_states(
    stated: Stated, dtype: torch.dtype
) -> None:
    x = _samples(stated, dtype)
    if stated.name.startswith("pow_derivative"):
        power = fusedgrad.fuse(lambda x, e: x**e)
        values = power.derivative(0, 0, 0)(x, torch.full_like(x, 2.5))
    else:
        fused = fusedgrad.fuse(stated.function)
        values = (fused.derivative(*[0] * stated.order) if stated.order else fused)(x)
    with mp.workdps(340 if stated.name in ("sin", "cos") else 60):
        errors = [
            (ulp_error(value, stated.exact(mpf(at)), dtype), at)
            for at, value in zip(x.tolist(), values.tolist(), strict=True)
        ]
    bound = stated.of_double or stated.bound if dtype is torch.float64 else stated.bound
    assert max(errors)[0] <= bound, max(errors)
    # The bound is not so loose that nothing could break it.
    assert max(errors)[0] >= bound / 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_log1p_below_zero(dtype: torch.dtype) -> None:
    x = -torch.rand(SAMPLES, dtype=torch.float64).to(dtype).clamp(max=1 - 2**-20)
    values = fusedgrad.fuse(torch.log1p)(x)
    with mp.workdps(60):
        for at, value in zip(x.tolist(), values.tolist(), strict=True):
            assert ulp_error(value, mp.log1p(mpf(at)), dtype) <= 0.55

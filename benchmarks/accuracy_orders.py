"""`python -m benchmarks.accuracy_orders`: the largest errors of derivatives of several orders.

The kernels of the families D_n(g, x) = g f^(n)(x), with g = 1, at every number of the half types
and at half a million samples of the others. The exact value is computed in long double by formulas
that share nothing with csrc/math, and the worst case of each cell again by mpmath, whose number is
the one that is printed. f^(n) of sigmoid and tanh has zeros, beside which it has no digits to
compare: an error is measured in ULP of the larger of |f^(n)| and a quarter of the scale
sqrt(f^(n)^2 + f^(n+1)^2), which is |f^(n)| itself except near a zero. --write puts the table into
docs/accuracy.md.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import mpmath
import numpy as np
import torch
from mpmath import mp, mpf

import fusedgrad  # noqa: F401  (registers the operators)
from benchmarks.report import DOCS, markdown, write_between_markers

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
ORDERS = (1, 2, 3, 4, 8)
SAMPLES = 2**18
EXPONENT = 3.5

Array = Any  # of long double
_OPS = torch.ops.fusedgrad


def _logistic(x: Array, order: int, scale: int) -> Array:
    """By z' = -z t and t' = 2 z for z = sigmoid'(x), t = tanh(x / 2)."""
    t = np.tanh(scale * x / 2)
    a = np.exp(-np.abs(scale * x))
    z = a / (1 + a) ** 2
    terms = {(1, 0): 1}  # the coefficient of z^i t^j
    for _ in range(order - 1):
        following: dict[tuple[int, int], int] = {}
        for (i, j), c in terms.items():
            for key, factor in (((i, j + 1), -i * c), ((i + 1, j - 1), 2 * j * c)):
                following[key] = following.get(key, 0) + factor
        terms = following
    factor = 1 if scale == 1 else 2 ** (order + 1)
    return factor * sum(c * z**i * t**j for (i, j), c in terms.items() if c)


def _power(x: Array, order: int) -> Array:
    return math.prod(EXPONENT - k for k in range(order)) * x ** np.longdouble(EXPONENT - order)


def _logistic_in_mpmath(x: mpf, order: int, scale: int) -> mpf:
    factor = 1 if scale == 1 else mpf(2) ** (order + 1)
    return factor * mpmath.diff(lambda v: 1 / (1 + mp.exp(-v)), scale * x, order)


@dataclass(frozen=True)
class Family:
    """A function: its kernel, and its derivatives in long double and in mpmath."""

    kernel: Callable[[torch.Tensor, int], torch.Tensor]
    exact: Callable[[Array, int], Array]
    in_mpmath: Callable[[mpf, int], mpf]
    positive: bool = False  # whether only positive inputs are taken


FAMILIES = {
    "sigmoid": Family(
        lambda x, n: _OPS.sigmoid_backward(torch.ones_like(x), x, n),
        lambda x, n: _logistic(x, n, 1),
        lambda x, n: _logistic_in_mpmath(x, n, 1),
    ),
    "tanh": Family(
        lambda x, n: _OPS.tanh_backward(torch.ones_like(x), x, n),
        lambda x, n: _logistic(x, n, 2),
        lambda x, n: _logistic_in_mpmath(x, n, 2),
    ),
    f"pow(x, {EXPONENT})": Family(
        lambda x, n: _OPS.pow_backward.Tensor_Scalar(torch.ones_like(x), x, EXPONENT, n),
        _power,
        lambda x, n: mp.fprod(mpf(EXPONENT) - k for k in range(n)) * x ** (mpf(EXPONENT) - n),
        positive=True,
    ),
}


def inputs(dtype: torch.dtype, positive: bool, samples: int) -> torch.Tensor:
    """Every number of a half type, samples of the others: all binades, and where f varies."""
    if dtype.itemsize == 2:
        x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    else:
        generator = torch.Generator().manual_seed(0)
        wide = torch.rand(samples, dtype=torch.float64, generator=generator)
        least, most = (-20, 10) if not positive else (-30, 30)
        binades = torch.exp2(least + (most - least) * wide[: samples // 2])
        x = torch.cat([binades, 20 * wide[samples // 2 :]])
        x = torch.cat([x, -x]).to(dtype)
    x = x[x.isfinite()]
    return x[x > 0] if positive else x


def _ulp(values: Array, dtype: torch.dtype) -> Array:
    info = torch.finfo(dtype)
    _, exponent = np.frexp(np.maximum(np.abs(values), np.longdouble(info.tiny)))
    return np.ldexp(np.longdouble(info.eps), exponent - 1)


def worst(family: Family, order: int, dtype: torch.dtype, samples: int) -> tuple[float, float]:
    """The largest error in ULP, by mpmath, and where."""
    x = inputs(dtype, family.positive, samples)
    got = family.kernel(x, order).double().numpy().astype(np.longdouble)
    wide = x.double().numpy().astype(np.longdouble)
    with np.errstate(all="ignore"):
        exact, following = family.exact(wide, order), family.exact(wide, order + 1)
    if family.positive:
        following = np.zeros_like(exact)  # no zeros to be beside
    scale = np.maximum(np.abs(exact), np.hypot(exact, following) / 4)
    inside = np.abs(exact) < np.longdouble(torch.finfo(dtype).max)
    errors = np.where(inside, np.abs(got - exact) / _ulp(scale, dtype), 0)
    at = int(np.argmax(errors))
    with mp.workdps(60):
        true = family.in_mpmath(mpf(float(wide[at])), order)
        error = abs(mpf(float(got[at])) - true) / mpf(float(_ulp(scale, dtype)[at]))
    return float(error), float(wide[at])


def rows(samples: int) -> Iterator[list[str]]:
    """A line for each function and order."""
    for name, family in FAMILIES.items():
        for order in ORDERS:
            cells = []
            for dtype in DTYPES:
                error, at = worst(family, order, dtype, samples)
                where = at.hex() if dtype is torch.float64 else f"{at:.9g}"
                cells.append(f"{error:.2f} at {where}")
            yield [name, str(order), *cells]


def main() -> None:
    """Prints the table, and writes it where --write asks for it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put it into docs/accuracy.md")
    parser.add_argument("--quick", action="store_true", help="few samples")
    options = parser.parse_args()
    heading = ["function", "order", *(str(dtype).removeprefix("torch.") for dtype in DTYPES)]
    table = markdown(heading, rows(2**12 if options.quick else SAMPLES), left=1)
    print(table)
    if options.write:
        write_between_markers("orders", table, DOCS / "accuracy.md")


if __name__ == "__main__":
    main()

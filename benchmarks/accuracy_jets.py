"""`python -m benchmarks.accuracy_jets`: the largest errors of jets of fused functions, in ULP.

Against mpmath's Taylor coefficients. Each function is moved along two curves: with velocity 1,
which gives the function's derivatives, and one with all derivatives of the argument. Derivatives
of order three and more have zeros within the range, near which no ULP of them is kept by any
formula: an error is given in ULP of the sum of the magnitudes of the terms of Faà di Bruno's
formula, each derivative at its largest within a distance of min(x, 1/x) / 8. In the tails, where
there is no zero, that is an ULP of the result itself to within a few bits.

The arguments are bfloat16 numbers, so that exact values serve all dtypes. The table stands in
docs/accuracy.md between markers; --quick takes a tenth of the points.
"""

import argparse
import functools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import mpmath
import torch
from mpmath import mp, mpf
from torch import Tensor

import fusedgrad
from benchmarks.report import DOCS, markdown, write_between_markers

_F = torch.nn.functional
HIGHEST = 8
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# So many that differences of tanh(30), which is 1 for 26 of them, hold 70
DIGITS = 100
MARKER = "jets"


def _sigmoid(x: mpf) -> mpf:
    return 1 / (1 + mp.exp(-x))


def _softplus(x: mpf) -> mpf:
    return mp.log1p(mp.exp(x))


def _normal_cdf(x: mpf) -> mpf:
    return mp.erfc(-x / mp.sqrt(2)) / 2


@dataclass(frozen=True)
class Case:
    """A function of one variable, what it is, and from where to where it is measured."""

    name: str
    function: Callable[[Tensor], Tensor]
    exact: Callable[[mpf], mpf]
    largest: float = 60.0
    positive: bool = False


CASES = (
    Case("sigmoid", lambda x: fusedgrad.sigmoid(x), _sigmoid),
    Case("tanh", lambda x: fusedgrad.tanh(x), mp.tanh, 30),
    Case("x**3", lambda x: x**3, lambda x: x**3, 20),
    Case("x**-1.5", lambda x: x**-1.5, lambda x: x ** mpf(-1.5), 60, positive=True),
    Case("x**2.5", lambda x: x**2.5, lambda x: x ** mpf(2.5), 60, positive=True),
    Case("loss, target 0", lambda x: _loss(x, 0.0), _softplus),
    Case("loss, target 1", lambda x: _loss(x, 1.0), lambda x: _softplus(-x)),
    Case("exp", lambda x: torch.exp(x), mp.exp, 10),
    Case("log", lambda x: torch.log(x), mp.log, 60, positive=True),
    Case("sqrt", lambda x: torch.sqrt(x), mp.sqrt, 60, positive=True),
    Case("1/x", lambda x: 1 / x, lambda x: 1 / x, 60, positive=True),
    Case("sin", lambda x: torch.sin(x), mp.sin),
    Case("erf", lambda x: torch.erf(x), mp.erf, 8),
    Case("silu", lambda x: _F.silu(x), lambda x: x * _sigmoid(x)),
    Case("gelu", lambda x: _F.gelu(x), lambda x: x * _normal_cdf(x), 10),
    Case("softplus", lambda x: _F.softplus(x), _softplus),
)


def _loss(x: Tensor, target: float) -> Tensor:
    return fusedgrad.binary_cross_entropy_with_logits(
        x, torch.full_like(x, target), reduction="none"
    )


@dataclass
class Error:
    """The largest error, and the argument and its derivatives where it was found."""

    ulp: float = 0.0
    witness: tuple[float, ...] = field(default=())


def points(case: Case, count: int, seed: int = 20261129) -> Iterator[float]:
    """Arguments in the middle and in both tails."""
    generator = random.Random(f"{case.name} {seed}")
    for _ in range(count):
        low = 0.05 if case.positive else 1e-3
        size = math.exp(generator.uniform(math.log(low), math.log(case.largest)))
        yield _short(size if case.positive else generator.choice((-1.0, 1.0)) * size)


def _short(x: float) -> float:
    return torch.tensor(x, dtype=torch.bfloat16).item()


def curve(x: float, order: int, pure: bool) -> list[float]:
    """The derivatives of the argument, small enough that half types hold all results."""
    if pure:
        return [1.0]
    generator = random.Random(x)
    scale = min(1.0, abs(x))
    return [_short(generator.uniform(-1, 1) * scale) for _ in range(order)]


def _bell(series: Sequence[mpf], order: int) -> list[list[mpf]]:
    """B[n][k], the partial Bell polynomials of the derivatives of the argument."""
    x = [mpf(0), *series, *[mpf(0)] * order]
    found = [[mpf(0)] * (order + 1) for _ in range(order + 1)]
    found[0][0] = mpf(1)
    for n in range(1, order + 1):
        for k in range(1, n + 1):
            found[n][k] = sum(
                (mp.binomial(n - 1, i - 1) * x[i] * found[n - i][k - 1] for i in range(1, n + 1)),
                mpf(0),
            )
    return found


@functools.cache
def exact_jet(
    case: Case, x: float, series: tuple[float, ...], order: int
) -> tuple[list[mpf], list[mpf]]:
    """The derivatives along the curve, and the magnitudes that errors are relative to."""
    with mp.workdps(DIGITS):
        at = mpf(x)
        away = min(abs(at), 1 / abs(at)) / 8
        factors = [mp.factorial(k) for k in range(order + 1)]
        nearby = [
            [f * c for f, c in zip(factors, mpmath.taylor(case.exact, u, order), strict=True)]
            for u in (at, at - away, at + away)
        ]
        largest = [max(abs(d) for d in each) for each in zip(*nearby, strict=True)]
        exact_series = [mpf(s) for s in series]
        bell = _bell(exact_series, order)
        magnitudes = _bell([abs(s) for s in exact_series], order)
        values, sizes = [nearby[0][0]], [abs(nearby[0][0])]
        for n in range(1, order + 1):
            values.append(sum(nearby[0][k] * bell[n][k] for k in range(1, n + 1)))
            sizes.append(sum(largest[k] * magnitudes[n][k] for k in range(1, n + 1)))
        return values, sizes


def _unit(size: mpf, dtype: torch.dtype) -> mpf:
    info = torch.finfo(dtype)
    _, exponent = mpmath.frexp(max(size, mpf(info.tiny)))
    return mpmath.ldexp(mpf(info.eps), int(exponent) - 1)


def errors(case: Case, dtype: torch.dtype, order: int, count: int) -> list[Error]:
    """The largest error of each order, from 0, of a jet of this order."""
    jet = fusedgrad.fuse(case.function).jet(order)
    found = [Error() for _ in range(order + 1)]
    for pure in (True, False):
        own = list(points(case, count))
        series = [tuple(curve(x, order, pure)) for x in own]
        columns = [torch.tensor(c, dtype=dtype) for c in (own, *zip(*series, strict=True))]
        exact = [exact_jet(case, x, s, order) for x, s in zip(own, series, strict=True)]
        for k, result in enumerate(jet(tuple(columns))):
            for x, s, got, (values, sizes) in zip(own, series, result.tolist(), exact, strict=True):
                if sizes[k] > torch.finfo(dtype).max:
                    continue
                with mp.workdps(DIGITS):
                    ulp = float(abs(mpf(got) - values[k]) / _unit(sizes[k], dtype))
                if not ulp <= found[k].ulp:
                    found[k] = Error(ulp, (x, *s))
    return found


def table(count: int) -> str:
    """The largest errors of all functions, orders and dtypes."""
    parts: list[str] = []
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        rows: list[list[Any]] = []
        for case in CASES:
            found = errors(case, dtype, HIGHEST, count)
            worst = max(range(HIGHEST + 1), key=lambda k: found[k].ulp)
            witness = ", ".join(float(v).hex() for v in found[worst].witness[:2])
            more = ", …" if len(found[worst].witness) > 2 else ""
            rows.append(
                [case.name, *(f"{e.ulp:.2f}" for e in found), f"order {worst}: `{witness}{more}`"]
            )
        header = [name, *(f"order {k}" for k in range(HIGHEST + 1)), "largest at"]
        parts.append(markdown(header, rows))
    return "\n\n".join(parts)


def main() -> None:
    """Write the table into docs/accuracy.md, or with --quick print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    text = table(6 if quick else 30)
    if quick:
        print(text)
    else:
        write_between_markers(MARKER, text, DOCS / "accuracy.md")


if __name__ == "__main__":
    main()

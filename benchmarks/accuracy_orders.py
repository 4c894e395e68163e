"""`python -m benchmarks.accuracy_orders`: the largest errors of derivatives of several orders.

The derivatives of the operations by one argument, as autograd takes them or by the family's kernel,
and those of pow of two tensors by each so often, at every number of the half types and at half a
million samples of the others. The exact value is computed in long double by formulas that share
nothing with csrc/math, and the worst case of each cell again by mpmath, whose number is the one
that is printed. Beside a zero of f^(n) there are no digits to compare: an error is measured in ULP
of the larger of |f^(n)| and a scale. That of sigmoid, tanh and the loss of logits is a quarter of
sqrt(f^(n)^2 + f^(n+1)^2); that of pow of two tensors and of the loss of probabilities is the sum of
the magnitudes of the terms of f^(n). --write puts the table into docs/accuracy.md, with the rule
that an error of order n keeps.
"""

import argparse
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mpmath
import numpy as np
import torch
from mpmath import mp, mpf

import fusedgrad
from benchmarks.report import DOCS, markdown, write_between_markers

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
SAMPLES = 2**18
EXPONENTS = (3.5, float.fromhex("0x1.266666p+1"))  # 2.3 in float32: products round in double, too
TARGET = 0.375  # of every dtype
LEAST_PROBABILITY = 2.0**-39  # above which PyTorch and fusedgrad do not bound the derivative

Array = Any  # of long double
Inputs = tuple[torch.Tensor, ...]
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


def _logit_derivative(x: Array, order: int) -> Array:
    return _logistic(x, order - 1, 1) if order > 1 else 1 / (1 + np.exp(-x)) - TARGET


def _logistic_in_mpmath(x: mpf, order: int, scale: int) -> mpf:
    factor = 1 if scale == 1 else mpf(2) ** (order + 1)
    return factor * mpmath.diff(lambda v: 1 / (1 + mp.exp(-v)), scale * x, order)


def _by_autograd(
    function: Callable[..., torch.Tensor], inputs: Inputs, by: Sequence[int]
) -> torch.Tensor:
    """The derivative by each of the inputs so often."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    y = function(*leaves)
    for leaf, count in zip(leaves, by, strict=False):
        for _ in range(count):
            (y,) = torch.autograd.grad(y, leaf, torch.ones_like(y), create_graph=True)
    return y.detach()


def _loss_of_logits(x: torch.Tensor) -> torch.Tensor:
    target = torch.full_like(x, TARGET)
    return fusedgrad.binary_cross_entropy_with_logits(x, target, reduction="none")


def _loss_of_probabilities(p: torch.Tensor) -> torch.Tensor:
    return fusedgrad.binary_cross_entropy(p, torch.full_like(p, TARGET), reduction="none")


def _loss_terms(p: Any, order: int) -> tuple[Any, Any]:
    factorial = math.factorial(order - 1)
    left = (-1) ** order * factorial * TARGET / p**order
    return left, factorial * (1 - TARGET) / (1 - p) ** order


def _power_terms(x: Any, y: Any, by_x: int, by_y: int, log: Callable[[Any], Any]) -> list[Any]:
    """Those of x^y's derivative by x and by y so often: numbers times ln(x)^i y^k x^(y - by_x)."""
    terms = {(0, 0): 1}  # the coefficient of ln(x)^i y^k
    steps = [*range(by_x), *[None] * by_y]  # by x first: a factor y - k each
    for step in steps:
        following: dict[tuple[int, int], int] = {}
        for (i, k), c in terms.items():
            if step is None:  # x^y ln(x), and the coefficient by y
                more = {(i + 1, k): c, (i, k - 1): k * c}
            else:
                more = {(i, k + 1): c, (i, k): -step * c}
            for key, value in more.items():
                following[key] = following.get(key, 0) + value
        terms = following
    power = x ** (y - by_x)
    return [c * log(x) ** i * y**k * power for (i, k), c in terms.items() if c]


def _wave(exact: Callable[[Array, int], Array]) -> Callable[[Array, int], Array]:
    """The scale of what swings about 0."""
    return lambda x, n: np.hypot(exact(x, n), exact(x, n + 1)) / 4


def _sum_of_magnitudes(terms: Iterable[Any]) -> Any:
    return sum(map(np.abs, terms))


@dataclass(frozen=True)
class Family:
    """A function: its derivatives, also in long double and in mpmath, and what bounds an error."""

    derivative: Callable[[Inputs, int], torch.Tensor]
    exact: Callable[..., Array]  # of the inputs and the order
    in_mpmath: Callable[..., mpf]
    rule: Callable[[int], float]  # the largest error of order n, in ULP; half types keep 0.51
    rule_in_words: str
    scale: Callable[..., Array] | None = None
    domain: str = "all"  # or a key of RANGES
    orders: Sequence[int] = (1, 2, 3, 4, 8)


def _logistic_family(name: str, scale: int) -> Family:
    operator = getattr(_OPS, f"{name}_backward")

    def exact(x: Array, n: int) -> Array:
        return _logistic(x, n, scale)

    return Family(
        lambda inputs, n: operator(torch.ones_like(inputs[0]), inputs[0], n),
        exact,
        lambda x, n: _logistic_in_mpmath(x, n, scale),
        lambda n: 2.5 * n,
        "2.5 n",
        _wave(exact),
    )


def _power_of_number(exponent: float) -> Family:
    return Family(
        lambda inputs, n: _OPS.pow_backward.Tensor_Scalar(
            torch.ones_like(inputs[0]), inputs[0], exponent, n
        ),
        lambda x, n: (
            math.prod(np.longdouble(exponent) - k for k in range(n))
            * x ** np.longdouble(exponent - n)
        ),
        lambda x, n: mp.fprod(mpf(exponent) - k for k in range(n)) * x ** (mpf(exponent) - n),
        lambda n: 1.5 + n / 4,
        "1.5 + n / 4",
        domain="positive",
    )


def _power_of_tensors(by_y: int) -> Family:
    def terms(x: Array, y: Array, n: int) -> list[Array]:
        return _power_terms(x, y, n - by_y, by_y, np.log)

    return Family(
        lambda inputs, n: _by_autograd(fusedgrad.pow, inputs, (n - by_y, by_y)),
        lambda x, y, n: sum(terms(x, y, n)),
        lambda x, y, n: mp.fsum(_power_terms(x, y, n - by_y, by_y, mp.log)),
        lambda n: 2.5 + 0.75 * by_y + n / 2,
        f"{2.5 + 0.75 * by_y:g} + n / 2",
        lambda x, y, n: _sum_of_magnitudes(terms(x, y, n)),
        domain="power",
        orders=range(max(1, by_y), 5),
    )


FAMILIES = {
    "sigmoid": _logistic_family("sigmoid", 1),
    "tanh": _logistic_family("tanh", 2),
    **{f"pow(x, {exponent:.2g})": _power_of_number(exponent) for exponent in EXPONENTS},
    **{f"pow(x, y), by y {by_y} times": _power_of_tensors(by_y) for by_y in range(5)},
    f"loss of logits, target {TARGET}": Family(
        lambda inputs, n: _by_autograd(_loss_of_logits, inputs, (n,)),
        _logit_derivative,
        lambda x, n: (
            _logistic_in_mpmath(x, n - 1, 1) if n > 1 else 1 / (1 + mp.exp(-x)) - mpf(TARGET)
        ),
        lambda n: max(5.0, 2.5 * (n - 1)),
        "2.5 (n - 1), at least 5",
        _wave(_logit_derivative),
    ),
    f"loss of probabilities, target {TARGET}": Family(
        lambda inputs, n: _by_autograd(_loss_of_probabilities, inputs, (n,)),
        lambda x, n: sum(_loss_terms(x, n)),
        lambda x, n: mp.fsum(_loss_terms(x, n)),
        lambda n: 3 + n / 2,
        "3 + n / 2",
        lambda x, n: _sum_of_magnitudes(_loss_terms(x, n)),
        domain="probabilities",
    ),
}

# The binades from which half the samples are, and up to where the rest is.
RANGES = {
    "all": (-20, 10, 20.0),
    "positive": (-30, 30, 20.0),
    "power": (-8, 8, 4.0),
    "probabilities": (-39, -1, 1.0),
}


def inputs_of(dtype: torch.dtype, domain: str, samples: int) -> Inputs:
    """Every number of a half type, samples of the others: all binades, and where f varies."""
    generator = torch.Generator().manual_seed(0)
    if dtype.itemsize == 2:
        x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    else:
        least, most, end = RANGES[domain]
        wide = torch.rand(samples, dtype=torch.float64, generator=generator)
        binades = torch.exp2(least + (most - least) * wide[: samples // 2])
        mirrored = (lambda x: 1 - x) if domain == "probabilities" else torch.neg
        x = torch.cat([binades, end * wide[samples // 2 :]])
        x = torch.cat([x, mirrored(x)]).to(dtype)
    if domain == "all":
        return (x[x.isfinite()],)
    if domain == "probabilities":
        return (x[(x > LEAST_PROBABILITY) & (x < 1 - LEAST_PROBABILITY)],)
    x = x[(x > 0) & x.isfinite()]
    if domain == "positive":
        return (x,)
    x = x[:: max(1, len(x) // (2 * samples))]
    exponents = torch.rand(len(x), dtype=torch.float64, generator=generator)
    return x, (20 * exponents - 10).to(dtype)


def _ulp(values: Array, dtype: torch.dtype) -> Array:
    info = torch.finfo(dtype)
    _, exponent = np.frexp(np.maximum(np.abs(values), np.longdouble(info.tiny)))
    return np.ldexp(np.longdouble(info.eps), exponent - 1)


def worst(
    family: Family, order: int, dtype: torch.dtype, samples: int
) -> tuple[float, tuple[float, ...]]:
    """The largest error in ULP, by mpmath, and where; nowhere, if every exact value overflows."""
    inputs = inputs_of(dtype, family.domain, samples)
    got = family.derivative(inputs, order).double().numpy().astype(np.longdouble)
    wide = [x.double().numpy().astype(np.longdouble) for x in inputs]
    with np.errstate(all="ignore"):
        scale = magnitude = np.abs(family.exact(*wide, order))
        exact = family.exact(*wide, order)
        if family.scale is not None:
            scale = np.maximum(magnitude, family.scale(*wide, order))
        inside = scale < np.longdouble(torch.finfo(dtype).max)
        errors = np.where(inside, np.abs(got - exact) / _ulp(scale, dtype), -1)
    at = int(np.argmax(errors))
    if errors[at] < 0:
        return 0.0, ()
    witness = tuple(float(x[at]) for x in wide)
    with mp.workdps(60):
        true = family.in_mpmath(*map(mpf, witness), order)
        error = abs(mpf(float(got[at])) - true) / mpf(float(_ulp(scale, dtype)[at]))
    return float(error), witness


def rows(samples: int) -> Iterator[list[str]]:
    """A line for each function and order."""
    for name, family in FAMILIES.items():
        for order in family.orders:
            cells = []
            for dtype in DTYPES:
                error, at = worst(family, order, dtype, samples)
                where = ", ".join(x.hex() if dtype is torch.float64 else f"{x:.9g}" for x in at)
                cells.append(f"{error:.2f} at {where}" if at else "overflows")
            yield [name, str(order), *cells, f"{family.rule(order):g}"]
        yield [name, "n", *["" for _ in DTYPES], family.rule_in_words]


def main() -> None:
    """Prints the table, and writes it where --write asks for it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put it into docs/accuracy.md")
    parser.add_argument("--quick", action="store_true", help="few samples")
    options = parser.parse_args()
    heading = ["function", "order", *(str(dtype).removeprefix("torch.") for dtype in DTYPES)]
    heading.append("rule")
    table = markdown(heading, rows(2**12 if options.quick else SAMPLES), left=1)
    print(table)
    if options.write:
        write_between_markers("orders", table, DOCS / "accuracy.md")


if __name__ == "__main__":
    main()

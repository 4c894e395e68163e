"""What rounding may do to each function of csrc/math, term by term: `python -m tools.error_budget`.

A running error analysis (Higham, Accuracy and Stability of Numerical Algorithms, section 3.3), to
first order: every operation that rounds adds half a unit in the last place of its result, carried
to the end by the derivative of what follows; the minimax polynomials add the error that stands
above them in csrc/math. The terms of one point are added as if all were at their worst with the
same sign, and the largest sum over a dense grid is the bound. The scan beside it is what the kernel
does on the numbers of the whole range: it must stay below, and does not come close where the worst
cases of the terms do not meet.

`--write` puts the table in docs/accuracy.md.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

import fusedgrad
from benchmarks.report import DOCS, markdown, write_between_markers
from fusedgrad import _C

Array = NDArray[np.float64]

MATH = Path(__file__).resolve().parent.parent / "csrc" / "math"
DIGITS = {"float": 24, "double": 53}
DTYPES = {"float": "float32", "double": "float64"}
LN2 = float(np.log(2))
TERMS = ("reduction", "minimax", "polynomial", "intermediate", "result")

_FUNCTION = re.compile(
    r"  // [^\n]*: 2\^-(?P<bits>[\d.]+)\n"
    r"  FUSEDGRAD_HOST_DEVICE static (?P<type>float|double) (?P<name>\w+)\(\w+ \w+\) \{\n"
    r"(?P<body>.*?)\n  \}",
    re.DOTALL,
)
_ZEROS = re.compile(r"\.?0+p")
_LITERAL = re.compile(r"-?0x[0-9a-f.]+p[+-]?\d+")


@dataclass(frozen=True)
class Polynomial:
    """One of csrc/math's: coefficients from the constant up, and the error stated above it."""

    coefficients: Sequence[float]
    minimax: float

    def __call__(self, u: Array, digits: int) -> tuple[Array, Array]:
        """The value by Horner's rule, and what its fused multiply-adds may lose."""
        value = np.full_like(u, self.coefficients[-1])
        error = np.zeros_like(u)
        for coefficient in reversed(self.coefficients[:-1]):
            value = value * u + coefficient
            error = error * np.abs(u) + half_ulp(value, digits)
        return value, error


@cache
def polynomials(file: str) -> dict[tuple[str, str], Polynomial]:
    """Those of a header, by type and name."""
    found = {}
    for match in _FUNCTION.finditer((MATH / file).read_text()):
        numbers = [float.fromhex(n) for n in _LITERAL.findall(match["body"])]
        key = match["type"], match["name"]
        found[key] = Polynomial(numbers[::-1], 2.0 ** -float(match["bits"]))
    return found


def half_ulp(value: Array, digits: int) -> Array:
    """Half the distance of neighbouring numbers at a value, as if there were no least exponent."""
    _, exponent = np.frexp(value)
    return np.where(value == 0, 0.0, np.ldexp(1.0, exponent - digits - 1))


@dataclass
class Budget:
    """A result, and what each term may add to its error."""

    value: Array
    digits: int
    errors: dict[str, Array] = field(default_factory=dict)

    def add(self, term: str, error: Array) -> None:
        present = self.errors.get(term, np.zeros_like(self.value))
        self.errors[term] = present + np.abs(error)

    def rounded(self) -> Budget:
        """With the rounding of the result itself."""
        self.add("result", half_ulp(self.value, self.digits))
        return self

    def in_ulp(self) -> dict[str, Array]:
        unit = 2 * half_ulp(self.value, self.digits)
        return {term: self.errors.get(term, 0 * unit) / unit for term in TERMS}

    def worst(self) -> dict[str, float]:
        """The terms where their sum is largest."""
        terms = self.in_ulp()
        at = int(np.nanargmax(sum(terms.values())))
        return {term: float(error[at]) for term, error in terms.items()}


class Arithmetic:
    """The building blocks of csrc/math/elementary.h in one type."""

    def __init__(self, type_name: str) -> None:
        self.type_name = type_name
        self.digits = DIGITS[type_name]

    def polynomial(self, name: str, file: str = "approximations.h") -> Polynomial:
        return polynomials(file)[self.type_name, name]

    def half_ulp(self, value: Array) -> Array:
        return half_ulp(value, self.digits)

    def budget(self, value: Array) -> Budget:
        return Budget(value, self.digits)

    def exp(self, y: Array) -> tuple[Array, dict[str, Array], Array, Array]:
        """lifted_exp(y): exp(y), the relative errors of the pair; expm1(r) and exp(r)."""
        n = np.rint(y / LN2)
        r = y - n * LN2
        p, p_error = self.polynomial("expm1")(r, self.digits)
        expm1, exp_r = np.expm1(r), np.exp(r)
        errors = {
            # y - n ln2 is exact: both are multiples of 2^-25 (double 2^-54), and so is their
            # difference, below 1/2. What remains is the rounding of r by the lower part of ln2.
            "reduction": np.where(n != 0, self.half_ulp(r), 0.0),
            "minimax": self.polynomial("expm1").minimax * np.abs(expm1) / exp_r,
            "polynomial": (r * r * p_error + self.half_ulp(r * r) * np.abs(p)) / exp_r,
        }
        return np.exp(y), errors, expm1, exp_r

    def rounded_exp(self, y: Array) -> tuple[Array, dict[str, Array]]:
        """value().hi: the sum of the pair's upper parts, rounded, after expm1 was."""
        a, errors, expm1, exp_r = self.exp(y)
        rounding = (self.half_ulp(expm1) + self.half_ulp(exp_r)) / exp_r
        return a, errors | {"intermediate": rounding}

    def atanh(self, s: Array) -> dict[str, Array]:
        """twice_atanh of a pair 2s: absolute errors of 2 atanh(s), before its parts are added."""
        z = s * s
        p, p_error = self.polynomial("atanh")(z, self.digits)
        tail = z * p
        product = 2 * np.abs(s) * tail
        tail_error = z * p_error + self.half_ulp(z) * p + self.half_ulp(tail)
        return {
            "minimax": self.polynomial("atanh").minimax * np.abs(2 * np.arctanh(s)),
            "polynomial": 2 * np.abs(s) * tail_error + self.half_ulp(product),
        }


def _include(budget: Budget, errors: dict[str, Array], by: Array) -> Budget:
    """The errors of an ingredient, times the derivative by it."""
    for term, error in errors.items():
        budget.add(term, error * by)
    return budget


def positive() -> Array:
    """Densely from 2^-20 to 100, where the functions of exp(-x) have their worst points."""
    return np.concatenate([np.exp2(np.linspace(-20, 1, 200_001)), np.linspace(1, 100, 400_001)])


def sigmoid(m: Arithmetic) -> Budget:
    """1 / (1 + exp(-x)) left of 0, by a quotient whose operands' roundings are put back."""
    return _reciprocal_of_one_plus_exp(m, positive())


def sigmoid_right(m: Arithmetic) -> Budget:
    """The same right of 0."""
    return _reciprocal_of_one_plus_exp(m, -positive())


def _reciprocal_of_one_plus_exp(m: Arithmetic, y: Array) -> Budget:
    a, errors, expm1, exp_r = m.exp(y)
    result = m.budget(1 / (1 + a))
    factor = result.value * a / (1 + a)
    _include(result, errors, factor)
    result.add("intermediate", factor * m.half_ulp(expm1) / exp_r)
    return result.rounded()


def sigmoid_derivative(m: Arithmetic) -> Budget:
    """a / (1 + a (a + 2)): the rounding of a counts for (1 - a) / (1 + a) of itself."""
    a, errors = m.rounded_exp(-positive())
    denominator = (1 + a) ** 2
    result = m.budget(a / denominator)
    _include(result, errors, result.value * (1 - a) / (1 + a))
    lost = m.half_ulp(a + 2) * a + m.half_ulp(denominator)
    result.add("intermediate", result.value * lost / denominator)
    return result.rounded()


def sigmoid_second_derivative(m: Arithmetic) -> Budget:
    """density * tanh(x/2), each from pairs and rounded once."""
    a, errors, _, _ = m.exp(-positive())
    density, tanh = a / (1 + a) ** 2, (1 - a) / (1 + a)
    result = m.budget(density * tanh)
    _include(result, errors, a * (1 - 4 * a + a * a) / (1 + a) ** 4)
    result.add("intermediate", m.half_ulp(density) * tanh + m.half_ulp(tanh) * density)
    return result.rounded()


def tanh(m: Arithmetic) -> Budget:
    """(1 - a) / (1 + a), expm1 a pair in the numerator and rounded in the denominator."""
    a, errors, expm1, exp_r = m.exp(-2 * positive())
    result = m.budget((1 - a) / (1 + a))
    _include(result, errors, 2 * a / (1 + a) ** 2)
    rounding = m.half_ulp(expm1) / exp_r
    result.add("intermediate", result.value * a / (1 + a) * rounding)
    return result.rounded()


def _log1p_of_exp(m: Arithmetic, x: Array) -> tuple[Array, dict[str, Array]]:
    """log(1 + exp(-x)) and its absolute errors, before it is rounded."""
    a, errors, expm1, exp_r = m.exp(-x)
    budget = m.budget(np.log1p(a))
    _include(budget, errors, a / (1 + a))
    budget.add("intermediate", a / (1 + a) * m.half_ulp(expm1) / exp_r)
    _include(budget, m.atanh(a / (2 + a)), np.ones_like(a))
    return budget.value, budget.errors


def loss(m: Arithmetic) -> Budget:
    """x + log(1 + exp(-x)), the loss of logits for target 0, and softplus, right of 0."""
    x = positive()
    tail, errors = _log1p_of_exp(m, x)
    result = _include(m.budget(x + tail), errors, np.ones_like(x))
    result.add("intermediate", m.half_ulp(tail))
    return result.rounded()


def loss_tail(m: Arithmetic) -> Budget:
    """log(1 + exp(-|x|)), the same left of 0.

    The quotient is no longer lifted: next to the least normal float it and what corrects it are
    each rounded to a multiple of 2^-149, and their sum is then exact.
    """
    x = positive()
    value, errors = _log1p_of_exp(m, x[x < 87.3])
    result = _include(m.budget(value), errors, np.ones_like(value)).rounded()
    if m.type_name == "float":
        result.add("intermediate", np.full_like(value, 2 * 2.0**-150))
        result.errors["result"][value < 2.0**-125] = 0
    return result


def soft_loss(m: Arithmetic) -> Budget:
    """(1 - t) x + log(1 + exp(-x)) for t = 0.3."""
    x = positive()
    tail, errors = _log1p_of_exp(m, x)
    result = _include(m.budget(0.7 * x + tail), errors, np.ones_like(x))
    linear = m.half_ulp(np.array(0.7)) * x + m.half_ulp(0.7 * x)
    result.add("intermediate", m.half_ulp(tail) + linear)
    return result.rounded()


def loss_derivative(m: Arithmetic) -> Budget:
    """a times the reciprocal of 1 + a; as a float, a quotient of doubles rounded to floats."""
    if m.type_name == "float":
        x = np.concatenate([-positive(), positive()])
        n = np.rint(-x / LN2)
        r = -x - n * LN2
        b = r / np.tanh(r / 2)
        u, v = b - r, np.exp2(n) * (b + r)
        result = m.budget(u / (u + v))
        rounding = m.half_ulp(u) / u + m.half_ulp(u + v) / (u + v)
        result.add("intermediate", result.value * rounding)
        return result.rounded()
    a, errors = m.rounded_exp(-positive())
    result = m.budget(a / (1 + a))
    _include(result, errors, result.value / (1 + a))
    result.add("intermediate", a * m.half_ulp(1 / (1 + a)))
    return result.rounded()


def exp(m: Arithmetic) -> Budget:
    _, errors, expm1, exp_r = m.exp(np.linspace(-80, 80, 800_001))
    result = m.budget(exp_r)  # the power of two changes nothing
    _include(result, errors, exp_r)
    result.add("intermediate", m.half_ulp(expm1))
    return result.rounded()


def expm1(m: Arithmetic) -> Budget:
    """2 (power (1 + expm1(r)) - 1/2): for n = 0 the first sum is exact."""
    x = np.concatenate([-positive(), positive()])
    x = x[np.abs(x) < 80]
    value, errors, _, _ = m.exp(x)
    power = np.exp2(np.rint(x / LN2) - 1)
    result = _include(m.budget(np.expm1(x)), errors, value)
    rest = np.minimum(m.half_ulp(np.maximum(power, 0.5)), np.minimum(power, 0.5))
    lost = m.half_ulp(result.value) + 2 * np.where(np.abs(np.log2(power)) > m.digits - 2, rest, 0)
    result.add("intermediate", np.where(power == 0.5, 0, lost))
    return result.rounded()


def _log_of(m: Arithmetic, exponent: float, fraction: Array) -> Budget:
    """exponent * ln2 + 2 atanh(s), s = f / (2 + f): pairs, added up last."""
    s = fraction / (2 + fraction)
    result = m.budget(exponent * LN2 + np.log1p(fraction))
    _include(result, m.atanh(s), np.ones_like(s))
    low = 2 * np.arctanh(s) - 2 * s
    result.add("intermediate", m.half_ulp(low) + m.half_ulp(m.half_ulp(result.value) + np.abs(low)))
    return result.rounded()


def log(m: Arithmetic) -> Budget:
    """Next to 1, and for the exponents that leave the least of the sum."""
    fraction = np.linspace(np.sqrt(0.5) - 1, np.sqrt(2) - 1, 100_000)
    parts = [_log_of(m, exponent, fraction) for exponent in (0, 1, -1, 2, -2, 5, 100)]
    errors = {t: np.concatenate([p.errors[t] for p in parts]) for t in parts[0].errors}
    return Budget(np.concatenate([p.value for p in parts]), m.digits, errors)


def _array(name: str) -> list[float]:
    """The numbers of a constant array of approximations.h."""
    text = (MATH / "approximations.h").read_text()
    found = re.search(rf" {name}\[\] = \{{(.*?)\}};", text, re.DOTALL)
    assert found is not None, name
    return [float.fromhex(number) for number in _LITERAL.findall(found[1])]


def power(m: Arithmetic) -> Budget:
    """2^(n + f) from y = e log2|x|, a pair, its logarithm good to 2^-64; a float in double."""
    if m.type_name == "float":
        return _power_in_double(m)
    f = np.linspace(-0.5, 0.5, 400_001)
    _, p_error = m.polynomial("exp2")(f, m.digits)
    result = m.budget(np.exp2(f))
    result.add("reduction", result.value * LN2 * (m.half_ulp(f) + 1075 * 2.0**-64))
    result.add("minimax", m.polynomial("exp2").minimax * result.value)
    result.add("polynomial", np.abs(f) * p_error)
    return result.rounded()


def _power_in_double(m: Arithmetic) -> Budget:
    """exp2(e log2|x|), |e log2|x|| <= 150, where of log2's polynomial the last terms are floats."""
    f = np.linspace(np.sqrt(0.5) - 1, np.sqrt(2) - 1, 100_001)
    log = np.log2(1 + f)
    c = _array("kLog2Tail")
    square = f * f
    tail, error = c[6] * np.ones_like(f), np.zeros_like(f)
    for low, high in ((c[4], c[5]), (c[2], c[3]), (c[0], c[1])):
        inner = low + high * f
        value = tail * square + inner
        moved = error * square + np.abs(tail) * m.half_ulp(square)
        tail, error = value, moved + m.half_ulp(inner) + m.half_ulp(value)
    # As large as a power's significand may be beside its last place
    result = m.budget(np.full_like(f, 2 - 2.0**-20))
    with np.errstate(divide="ignore", invalid="ignore"):
        magnified = np.where(f == 0, 0, LN2 * 150 / np.abs(log)) * result.value
    result.add("minimax", magnified * _error_of_array("kLog2") * np.abs(log))
    result.add("minimax", _error_of_array("kExp2") * result.value)
    result.add("polynomial", magnified * error * f**6)
    return result.rounded()


def _error_of_array(name: str) -> float:
    """The error stated above a constant array of approximations.h."""
    text = (MATH / "approximations.h").read_text()
    found = re.search(rf": 2\^-([\d.]+)\n  static constexpr \w+ {name}\[\]", text)
    assert found is not None, name
    return float(2.0 ** -float(found[1]))


def power_derivative(m: Arithmetic) -> Budget:
    """e x^(e-1): a power, rounded, times e; for a float the product is in double."""
    result = power(m)
    if m.type_name == "float":
        return result
    result.add("intermediate", result.errors.pop("result"))
    # A product's last place may stand as much as twice as high for what is rounded before.
    result.errors = {term: 2 * error for term, error in result.errors.items()}
    return result.rounded()


def _gaussian(m: Arithmetic, x: Array, scale: float) -> Budget:
    """exp(-scale x^2), with what x^2 lost put back to first order."""
    a, errors, _, exp_r = m.exp(-scale * x * x)
    result = _include(m.budget(a), errors, a)
    result.add("intermediate", 2 * m.half_ulp(exp_r) / exp_r * a)
    return result


def _scaled_complement(m: Arithmetic, a: Array) -> Budget:
    """exp(a^2) erfc(a) = s P(1 - 2 s), s = c / (a + c); in double less about what s loses."""
    polynomial = m.polynomial("scaled_complement", "normal_approximations.h")
    is_double = m.digits > 24
    c = 3.0 if is_double else 1.5
    s = c / (a + c)
    t = 1 - 2 * s
    p, p_error = polynomial(t, m.digits)
    slope = np.polyval(np.polyder(polynomial.coefficients[::-1]), t)
    result = m.budget(s * p)
    ds = s * m.half_ulp(a + c) / (a + c) + m.half_ulp(s)
    corrected = p * (1 + 0.9 * s + 1.48 * s * s) if is_double else 0
    result.add("intermediate", ds * np.abs(p - 2 * s * slope - corrected))
    result.add("intermediate", s * np.abs(slope) * m.half_ulp(t))
    result.add("minimax", polynomial.minimax * result.value)
    result.add("polynomial", s * p_error)
    result.add("intermediate", (2 if is_double else 1) * m.half_ulp(result.value))
    return result


def _product(m: Arithmetic, first: Budget, second: Budget, factor: float) -> Budget:
    result = m.budget(factor * first.value * second.value)
    _include(result, first.errors, np.abs(factor * second.value))
    return _include(result, second.errors, np.abs(factor * first.value))


def _erf_slope(m: Arithmetic, x: Array) -> Budget:
    """erf(x) / x by a polynomial of x^2."""
    polynomial = m.polynomial("erf_slope", "normal_approximations.h")
    z = x * x
    p, p_error = polynomial(z, m.digits)
    result = m.budget(p)
    slope = np.polyval(np.polyder(polynomial.coefficients[::-1]), z)
    result.add("minimax", polynomial.minimax * p)
    result.add("polynomial", p_error + np.abs(slope) * m.half_ulp(z))
    return result


def _joined(parts: Sequence[Budget]) -> Budget:
    errors = {
        term: np.concatenate([p.errors.get(term, np.zeros_like(p.value)) for p in parts])
        for term in TERMS
    }
    return Budget(np.concatenate([p.value for p in parts]), parts[0].digits, errors)


def erf(m: Arithmetic) -> Budget:
    x = np.linspace(1e-6, 0.5, 200_001)
    slope = _erf_slope(m, x)
    small = _include(m.budget(x * slope.value), slope.errors, x).rounded()
    x = np.linspace(0.5, 6, 400_001)
    complement = _product(m, _gaussian(m, x, 1), _scaled_complement(m, x), 1)
    complement.add("intermediate", m.half_ulp(complement.value))
    large = _include(m.budget(1 - complement.value), complement.errors, np.ones_like(x)).rounded()
    return _joined([small, large])


def erf_derivative(m: Arithmetic) -> Budget:
    """2/sqrt(pi) exp(-x^2), the constant rounded too."""
    constant = 2 / np.sqrt(np.pi)
    gaussian = _gaussian(m, np.linspace(0, 9, 400_001), 1)
    result = _include(m.budget(constant * gaussian.value), gaussian.errors, np.array(constant))
    result.add("intermediate", m.half_ulp(np.array(constant)) * gaussian.value)
    return result.rounded()


def normal_cdf(m: Arithmetic) -> Budget:
    """The lower tail, erfc(a) / 2 for a = |x| / sqrt(2), which the constant and a product round."""
    x = np.linspace(0.71, 13, 400_001)
    a = x * np.sqrt(0.5)
    complement = _scaled_complement(m, a)
    moved = a * np.abs(2 * a * complement.value - 2 / np.sqrt(np.pi))
    rounding = m.half_ulp(np.array(np.sqrt(0.5))) / np.sqrt(0.5) + m.half_ulp(a) / a
    complement.add("intermediate", moved * rounding)
    return _product(m, _gaussian(m, x, 0.5), complement, 0.5).rounded()


def silu(m: Arithmetic) -> Budget:
    """-t a / (1 + a) at x = -t, and t minus that at t."""
    t = positive()
    a, errors = m.rounded_exp(-t)
    tail = _include(m.budget(t * a / (1 + a)), errors, t * a / (1 + a) ** 2)
    lost = m.half_ulp(t * a) / (t * a) + m.half_ulp(1 + a) / (1 + a)
    tail.add("intermediate", tail.value * lost)
    right = _include(m.budget(t - tail.value), tail.errors, np.ones_like(t))
    right.add("intermediate", m.half_ulp(tail.value))
    return _joined([tail.rounded(), right.rounded()])


def gelu(m: Arithmetic) -> Budget:
    """-t Φ(-t) at x = -t, and t minus that at t."""
    t = np.concatenate([np.exp2(np.linspace(-20, 1, 200_001)), np.linspace(1, 12, 400_001)])
    a, errors = m.rounded_exp(-t * t / 2)
    gaussian = _include(m.budget(a), errors, a)
    gaussian.add("intermediate", m.half_ulp(a))
    argument = t * np.sqrt(0.5)
    complement = _scaled_complement(m, argument)
    moved = argument * np.abs(2 * argument * complement.value - 2 / np.sqrt(np.pi))
    rounding = m.half_ulp(np.array(np.sqrt(0.5))) / np.sqrt(0.5) + m.half_ulp(argument) / argument
    complement.add("intermediate", moved * rounding)
    factor = _include(m.budget(t * complement.value / 2), complement.errors, t / 2)
    factor.add("intermediate", m.half_ulp(factor.value))
    tail = _product(m, gaussian, factor, 1)
    right = _include(m.budget(t - tail.value), tail.errors, np.ones_like(t))
    right.add("intermediate", m.half_ulp(tail.value))
    return _joined([tail.rounded(), right.rounded()])


def sine(m: Arithmetic) -> Budget:
    """A float in double: what is left of its polynomials' error, then one rounding."""
    x = np.linspace(1e-6, np.pi / 4, 100_001)
    found = polynomials("trigonometric_approximations.h")
    sin, cos = m.budget(np.sin(x)), m.budget(np.cos(x))
    sin.add("minimax", found["double", "sin"].minimax * sin.value)
    cos.add("minimax", found["double", "cos"].minimax * np.ones_like(x))
    return _joined([sin.rounded(), cos.rounded()])


@dataclass(frozen=True)
class Found:
    """The largest error that a scan has met, and where."""

    ulp: float
    at: float


# By the type that is scanned, of a stride
Scans = Mapping[str, Callable[[int], Found]]


def library_scan(*names_and_parameters: tuple[str, float]) -> Scans:
    """Of kernels of the library, against the C library in a wider type (csrc/accuracy)."""

    def scan(type_name: str, stride: int) -> Found:
        dtype = DTYPES[type_name]
        results = []
        for name, parameter in names_and_parameters:
            if type_name == "float":
                results.append(_C.scan(name, dtype, 0, 2**32, stride, parameter))
                continue
            for sign in (0, 2**63):
                begin, end = (sign + _bits(limit) for limit in (2.0**-30, 800.0))
                step = (end - begin) // (2**32 // stride // 64 + 1000)
                results.append(_C.scan(name, dtype, begin, end, step, parameter))
        worst = max(results, key=lambda errors: errors.max_ulp)
        return Found(worst.max_ulp, worst.input)

    return {type_name: partial(scan, type_name) for type_name in DIGITS}


def _bits(value: float) -> int:
    return int(np.array(value).view(np.uint64)[()])


def fused_scan(
    function: Callable[[Any], Any],
    exact: Callable[[Any], Any],
    least: float,
    most: float,
    order: int = 0,
) -> Scans:
    """Of a fused function between two sizes, in float, against double."""

    def scan(stride: int) -> Found:
        fused = fusedgrad.fuse(function)
        kernel = fused.derivative(*[0] * order) if order else fused
        low, high = (int(np.float32(limit).view(np.uint32)) for limit in (least, most))
        worst = Found(0.0, 0.0)
        for first in range(low, high, stride << 20):
            bits = np.arange(first, min(high, first + (stride << 20)), stride, dtype=np.uint32)
            for x in (bits.view(np.float32), -bits.view(np.float32)):
                with np.errstate(all="ignore"):
                    want = np.asarray(exact(torch.from_numpy(x).double()))
                got = kernel(torch.from_numpy(x)).numpy().astype(np.float64)
                inside = np.isfinite(want) & (np.abs(want) > 2.0**-126)
                unit = 2 * half_ulp(np.where(inside, want, 1.0), DIGITS["float"])
                error = np.where(inside, np.abs(got - want) / unit, 0.0)
                at = int(np.argmax(error))
                if error[at] > worst.ulp:
                    worst = Found(float(error[at]), float(x[at]))
        return worst

    return {"float": scan}


def _exact_softplus(x: Tensor) -> Tensor:
    return x.clamp(min=0) + (-x.abs()).exp().log1p()


def _exact_erf_derivative(x: Tensor) -> Tensor:
    return (-x * x).exp() * (2 / math.sqrt(math.pi))


def _exact_silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def _exact_gelu(x: Tensor) -> Tensor:
    return x * (-x / math.sqrt(2)).erfc() / 2


def _exact_ndtr(x: Tensor) -> Tensor:
    return (-x / math.sqrt(2)).erfc() / 2


@dataclass(frozen=True)
class Row:
    """A function, its budgets over parts of its range, and its scan."""

    title: str
    budgets: tuple[Callable[[Arithmetic], Budget], ...]
    scans: Scans

    def worst(self, type_name: str) -> dict[str, float]:
        """The terms of the largest budget."""
        found = [budget(Arithmetic(type_name)).worst() for budget in self.budgets]
        return max(found, key=lambda terms: sum(terms.values()))


POWERS = (2.5, 10.0, -7.3, 1 / 3)
LOSS = "binary_cross_entropy_with_logits"
ROWS = (
    Row("sigmoid", (sigmoid, sigmoid_right), library_scan(("sigmoid", 0))),
    Row("sigmoid′", (sigmoid_derivative,), library_scan(("sigmoid_derivative", 0))),
    Row("sigmoid″", (sigmoid_second_derivative,), library_scan(("sigmoid_second_derivative", 0))),
    Row("tanh", (tanh,), library_scan(("tanh", 0))),
    Row("tanh′", (sigmoid_derivative,), library_scan(("tanh_derivative", 0))),
    Row("tanh″", (sigmoid_second_derivative,), library_scan(("tanh_second_derivative", 0))),
    Row("BCE with logits, target 0 or 1", (loss, loss_tail), library_scan((LOSS, 0), (LOSS, 1))),
    Row("BCE with logits, target 0.3", (soft_loss,), library_scan((LOSS, 0.3))),
    Row(
        "its gradient, target 0 or 1",
        (loss_derivative,),
        library_scan((f"{LOSS}_derivative", 0), (f"{LOSS}_derivative", 1)),
    ),
    Row("pow", (power,), library_scan(*(("pow", e) for e in POWERS))),
    Row(
        "pow by x", (power_derivative,), library_scan(*(("pow_base_derivative", e) for e in POWERS))
    ),
    Row("exp", (exp,), fused_scan(torch.exp, torch.exp, 2**-20, 88)),
    Row("expm1", (expm1,), fused_scan(torch.expm1, torch.expm1, 2**-20, 88)),
    Row("log", (log,), fused_scan(torch.log, torch.log, 2**-100, 2**100)),
    Row("log1p", (log,), fused_scan(torch.log1p, torch.log1p, 2**-20, 2**100)),
    Row("softplus", (loss, loss_tail), fused_scan(F.softplus, _exact_softplus, 2**-20, 100)),
    Row("sin, cos", (sine,), fused_scan(torch.sin, torch.sin, 2**-20, 2**20)),
    Row("erf", (erf,), fused_scan(torch.erf, torch.erf, 2**-20, 6)),
    Row("erf′", (erf_derivative,), fused_scan(torch.erf, _exact_erf_derivative, 2**-20, 9, 1)),
    Row("silu", (silu,), fused_scan(F.silu, _exact_silu, 2**-20, 90)),
    Row("gelu", (gelu,), fused_scan(F.gelu, _exact_gelu, 2**-20, 13)),
    Row("Φ (ndtr)", (normal_cdf,), fused_scan(torch.special.ndtr, _exact_ndtr, 2**-20, 13)),
)


def table(stride: int) -> str:
    """A line for each function and type."""
    rows = []
    for row in tqdm(ROWS, file=sys.stderr):
        for type_name in DIGITS:
            if row.budgets == (sine,) and type_name == "double":
                continue  # the C library's beyond moderate arguments
            terms = row.worst(type_name)
            found = row.scans[type_name](stride) if type_name in row.scans else None
            cells = [row.title, type_name, *(f"{terms[term]:.2f}" for term in TERMS)]
            cells.append(f"{sum(terms.values()):.2f}")
            at = _ZEROS.sub("p", found.at.hex()) if found else ""
            cells += [f"{found.ulp:.2f}" if found else "", at]
            rows.append(cells)
    heading = ["function", "type", *TERMS, "at most", "scan", "at x ="]
    return markdown(heading, rows, left=2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tools.error_budget")
    parser.add_argument("--stride", type=int, default=61, help="scan every n-th float only")
    parser.add_argument("--write", action="store_true", help="put the table in docs/accuracy.md")
    options = parser.parse_args(arguments)
    text = (
        "In ULP; the terms at the worst point. The scan meets one float32 in "
        f"{options.stride} (pow with the exponents 5/2, 10, -7.3 and 1/3), and of float64 a sample "
        f"of the range where the functions vary.\n\n{table(options.stride)}"
    )
    print(text)
    if options.write:
        write_between_markers("budget", text, DOCS / "accuracy.md")


if __name__ == "__main__":
    main()

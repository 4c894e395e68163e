"""Find the coefficients of csrc/math/approximations.h again: `python tools/minimax.py [--check]`.

Remez's exchange in mpmath, once per approximation and format, then rounding to the format. The
error printed above each polynomial is that of the rounded coefficients in exact arithmetic.
`--check` fails when the file differs from what is found.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import mpmath
from mpmath import mp, mpf

HEADER = Path(__file__).resolve().parent.parent / "csrc" / "math" / "approximations.h"
PRECISION = {"float": 24, "double": 53}
Real = Callable[[mpf], mpf]

mp.prec = 160


def rounded(value: mpf, precision: int) -> mpf:
    """`value` to the nearest number of `precision` bits."""
    with mp.workprec(precision):
        return +value


def hexadecimal(value: mpf) -> str:
    """A C++ hexadecimal literal for a number of at most 53 bits."""
    assert mpf(float(value)) == value
    sign, rest = ("-", float(-value).hex()) if value < 0 else ("", float(value).hex())
    mantissa, exponent = rest.split("p")
    return f"{sign}{mantissa.rstrip('0').rstrip('.')}p{exponent}"


@dataclass(frozen=True)
class Approximation:
    """function(u) = sum of c_i u**(first + i), of the least maximum of |error(u)| * weight(u)."""

    name: str
    variable: str
    text: str
    function: Real
    weight: Real
    interval: tuple[mpf, mpf]
    first: int
    terms: dict[str, int]

    def value(self, coefficients: Sequence[mpf], u: mpf) -> mpf:
        return mpmath.polyval(list(reversed(coefficients)), u) * u**self.first

    def scale(self, u: mpf) -> mpf:
        """The weight with the sign of u**first, across which a minimax error alternates."""
        return -self.weight(u) if u < 0 and self.first % 2 else self.weight(u)

    def error(self, coefficients: Sequence[mpf], u: mpf) -> mpf:
        return (self.value(coefficients, u) - self.function(u)) * self.scale(u)


def chebyshev_points(interval: tuple[mpf, mpf], count: int) -> list[mpf]:
    low, high = interval
    return [
        (low + high) / 2 - (high - low) / 2 * mpmath.cos(mpmath.pi * (2 * i + 1) / (2 * count))
        for i in range(count)
    ]


def extrema(error: Real, grid: Sequence[mpf]) -> list[mpf]:
    """The place of the largest |error| between each two sign changes."""
    values = [error(u) for u in grid]
    best: list[tuple[mpf, mpf]] = []
    for u, value in zip(grid, values, strict=True):
        if value == 0:
            continue
        if not best or (value > 0) != (best[-1][1] > 0):
            best.append((u, value))
        elif abs(value) > abs(best[-1][1]):
            best[-1] = (u, value)
    return [u for u, _ in best]


def remez(approximation: Approximation, terms: int) -> list[mpf]:
    """The minimax coefficients, not rounded."""
    grid = chebyshev_points(approximation.interval, 40 * (terms + 1))
    low, high = approximation.interval
    # Not symmetric: u = 0, where the error vanishes, must be no point.
    points = chebyshev_points((low, high - (high - low) / 16), terms + 1)
    coefficients: list[mpf] = []
    for _ in range(20):
        system, right = mpmath.matrix(terms + 1), mpmath.matrix(terms + 1, 1)
        for row, u in enumerate(points):
            for column in range(terms):
                system[row, column] = u ** (approximation.first + column)
            system[row, terms] = (-1) ** row / approximation.scale(u)
            right[row] = approximation.function(u)
        solution = mpmath.lu_solve(system, right)
        coefficients = [solution[i] for i in range(terms)]

        def error(u: mpf, found: Sequence[mpf] = coefficients) -> mpf:
            return approximation.error(found, u)

        peaks = extrema(error, grid)
        while len(peaks) > terms + 1:
            peaks.pop(0 if abs(error(peaks[0])) < abs(error(peaks[-1])) else -1)
        sizes = [abs(error(u)) for u in peaks]
        if len(peaks) < terms + 1 or max(sizes) - min(sizes) < max(sizes) / 1000:
            break
        points = peaks
    return coefficients


HALF_LOG_2 = mpmath.log(2) / 2 * mpf("1.0005")
SQUARE_ROOT_2 = mpmath.sqrt(2) * (1 + mpf(2) ** -20)


def atanh_rest(z: mpf) -> mpf:
    """atanh(s)/s - 1 for z = s**2, by its series near 0, where that cancels."""
    if z < mpf("1e-9"):
        return z / 3 + z**2 / 5 + z**3 / 7 + z**4 / 9
    s = mpmath.sqrt(z)
    return mpmath.atanh(s) / s - 1


def expm1_rest(r: mpf) -> mpf:
    return mpmath.expm1(r) - r


PART = mpf(15) / 64  # of r coth(r/2) and r, so that the sums of logistic_loss.h stay below 1


def part_of_r_coth_half_r(z: mpf) -> mpf:
    """A part of r coth(r/2) for z = r**2, by its series near 0."""
    if z < mpf("1e-9"):
        return PART * (2 + z / 6 - z**2 / 360 + z**3 / 15120)
    r = mpmath.sqrt(z)
    return PART * r * mpmath.coth(r / 2)


APPROXIMATIONS = [
    Approximation(
        "expm1",
        "r",
        "expm1(r) - r = r^2 * polynomial, |r| <= log(2)/2; error relative to expm1(r)",
        expm1_rest,
        lambda r: 1 / abs(mpmath.expm1(r)),
        (-HALF_LOG_2, HALF_LOG_2),
        2,
        {"float": 5, "double": 11},
    ),
    Approximation(
        "part_of_r_coth_half_r",
        "z",
        "15/64 r coth(r/2) = polynomial, z = r^2 <= (log(2)/2)^2; "
        "error of exp(r), the quotient of the sums with 15/64 r: less than a third of",
        part_of_r_coth_half_r,
        lambda z: mpf(1),
        (mpf(0), HALF_LOG_2**2),
        0,
        {"double": 5},
    ),
    Approximation(
        "exp2",
        "f",
        "exp2(f) - 1 = f * polynomial, |f| <= 1/2; error relative to exp2(f)",
        lambda f: mpf(2) ** f - 1,
        lambda f: mpf(2) ** -f,
        (mpf("-0.5002"), mpf("0.5002")),
        1,
        {"float": 6, "double": 11},
    ),
    Approximation(
        "atanh",
        "z",
        "atanh(s)/s - 1 = z * polynomial, z = s^2 <= 1/9; error relative to atanh(s)/s",
        atanh_rest,
        lambda z: 1 / (1 + atanh_rest(z)),
        (mpf(0), mpf(1) / 9),
        1,
        {"float": 5, "double": 10},
    ),
    Approximation(
        "log2",
        "z",
        "2/log(2) * (atanh(q)/q - 1 - z/3) = z^2 * polynomial, z = q^2 <= (3 - sqrt(8))^2; "
        "absolute error",
        lambda z: 2 / mpmath.log(2) * (atanh_rest(z) - z / 3),
        lambda z: mpf(1),
        (mpf(0), ((SQUARE_ROOT_2 - 1) / (SQUARE_ROOT_2 + 1)) ** 2),
        2,
        {"float": 3, "double": 8},
    ),
    Approximation(
        "reciprocal",
        "d",
        "1/d = polynomial, 1 <= d <= 2; error relative to 1/d",
        lambda d: 1 / d,
        lambda d: d,
        (mpf(1), mpf(2)),
        0,
        {"float": 3, "double": 5},
    ),
    Approximation(
        "reciprocal_near_two",
        "d",
        "1/d = polynomial, 1 + 1/sqrt(2) <= d <= 1 + sqrt(2); error relative to 1/d",
        lambda d: 1 / d,
        lambda d: d,
        (1 + 1 / SQUARE_ROOT_2, 1 + SQUARE_ROOT_2),
        0,
        {"float": 3, "double": 4},
    ),
    # For half types on a device
    Approximation(
        "log2_of_quotient",
        "z",
        "2/log(2) * atanh(s)/s = polynomial, z = s^2 <= 1/9; relative error",
        lambda z: 2 / mpmath.log(2) * (1 + atanh_rest(z)),
        lambda z: mpmath.log(2) / 2 / (1 + atanh_rest(z)),
        (mpf(0), mpf(1) / 9),
        0,
        {"float": 5},
    ),
    Approximation(
        "log1p",
        "a",
        "log(1 + a) = a * polynomial, 0 <= a <= 1; relative error",
        mpmath.log1p,
        lambda a: 1 / abs(mpmath.log1p(a)),
        (mpf(0), mpf(1)),
        1,
        {"float": 7},
    ),
    Approximation(
        "minus_log1m",
        "v",
        "-log(1 - v) = v * polynomial, 0 <= v <= 1/2; relative error",
        lambda v: -mpmath.log1p(-v),
        lambda v: 1 / abs(mpmath.log1p(-v)),
        (mpf(0), mpf(1) / 2),
        1,
        {"float": 7},
    ),
]


# The powers of floats are computed in double, with the digits that a float needs. The terms of
# log2 from the sixth on are so small that a float holds what matters of them.
POWER = [
    Approximation(
        "kLog2",
        "f",
        "log2(1 + f) = f * polynomial, 1/sqrt(2) <= 1 + f <= sqrt(2); relative error",
        lambda f: mpmath.log(1 + f, 2),
        lambda f: 1 / abs(mpmath.log(1 + f, 2)),
        (1 / SQUARE_ROOT_2 - 1, SQUARE_ROOT_2 - 1),
        1,
        {"double": 5, "float": 7},
    ),
    Approximation(
        "kExp2",
        "f",
        "exp2(f) - 1 = f * polynomial, |f| <= 1/2; error relative to exp2(f)",
        lambda f: mpf(2) ** f - 1,
        lambda f: mpf(2) ** -f,
        (mpf("-0.5002"), mpf("0.5002")),
        1,
        {"double": 6},
    ),
]


# For half types, of whose results 2^-17 is enough.
BRIEF = [
    replace(POWER[1], name="exp2", terms={"float": 5}),
    replace(POWER[0], name="log2", terms={"float": 9}),
]


LOG2_E = 1 / mpmath.log(2)

# Written as a number and what its rounding leaves.
CONSTANTS = {
    "Ln2": mpmath.log(2),
    "TwoOverLn2": 2 / mpmath.log(2),
    "TwoThirdsOverLn2": 2 / (3 * mpmath.log(2)),
}


def description(approximation: Approximation, coefficients: Sequence[mpf]) -> list[str]:
    grid = chebyshev_points(approximation.interval, 1000)
    bits = -mpmath.log(max(abs(approximation.error(coefficients, u)) for u in grid), 2)
    lines = ["", *(f"  // {line}" for line in approximation.text.split("; "))]
    lines[-1] += f": 2^-{mpmath.nstr(bits, 4)}"
    return lines


def polynomial(a: Approximation, type_name: str) -> list[str]:
    """A function of a number of that type."""
    suffix = "f" if type_name == "float" else ""
    found = [rounded(c, PRECISION[type_name]) for c in remez(a, a.terms[type_name])]
    *rest, last = (f"{hexadecimal(c)}{suffix}" for c in found)
    return [
        *description(a, found),
        f"  FUSEDGRAD_HOST_DEVICE static {type_name} {a.name}({type_name} {a.variable}) {{",
        f"    {type_name} p = {last};",
        *(f"    p = fma(p, {a.variable}, {c});" for c in reversed(rest)),
        "    return p;",
        "  }",
    ]


def render_power() -> list[str]:
    """Arrays of coefficients, the lowest first, each with the type of its terms."""
    lines = [
        "",
        "// For powers of floats in double",
        "// clang-format off",
        "struct PowerApproximations {",
    ]
    for a in POWER:
        found = remez(a, sum(a.terms.values()))
        precisions = [PRECISION[name] for name, count in a.terms.items() for _ in range(count)]
        found = [rounded(c, p) for c, p in zip(found, precisions, strict=True)]
        lines += description(a, found)[a is POWER[0] :]  # no empty line below the brace
        for type_name, count in a.terms.items():
            suffix, tail = ("f", "Tail") if type_name == "float" else ("", "")
            lines.append(f"  static constexpr {type_name} {a.name}{tail}[] = {{")
            lines += [f"      {hexadecimal(c)}{suffix}," for c in found[:count]]
            lines.append("  };")
            found = found[count:]
    return [*lines, "};", "// clang-format on"]


def render() -> str:
    lines = [
        "// Written by tools/minimax.py, which finds every number here again: change it there.",
        "#pragma once",
        "",
        '#include "math/platform.h"',
        "",
        "namespace fusedgrad::math {",
        "",
        "// Constants, each with what its rounding left, and minimax polynomials.",
        "template <class T>",
        "struct Approximations;",
    ]
    for type_name, precision in PRECISION.items():
        suffix = "f" if type_name == "float" else ""
        lines += ["", "template <>", f"struct Approximations<{type_name}> {{"]
        literal = f"{hexadecimal(rounded(LOG2_E, precision))}{suffix}"
        lines.append(f"  static constexpr {type_name} kLog2E = {literal};")
        for name, value in CONSTANTS.items():
            hi = rounded(value, precision)
            for part, number in (("", hi), ("Lo", rounded(value - hi, precision))):
                literal = f"{hexadecimal(number)}{suffix}"
                lines.append(f"  static constexpr {type_name} k{name}{part} = {literal};")
        for a in APPROXIMATIONS:
            if type_name in a.terms:
                lines += polynomial(a, type_name)
        lines.append("};")
    lines += ["", "// For half types, in float", "struct BriefApproximations {"]
    for a in BRIEF:
        lines += polynomial(a, "float")[a is BRIEF[0] :]  # no empty line below the brace
    lines += ["};", *render_power(), "", "}  // namespace fusedgrad::math", ""]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, do not write")
    arguments = parser.parse_args()
    text = render()
    if not arguments.check:
        HEADER.write_text(text)
        return 0
    written = HEADER.read_text().splitlines()
    difference = list(difflib.unified_diff(written, text.splitlines(), lineterm=""))
    print("\n".join(difference))
    return 1 if difference else 0


if __name__ == "__main__":
    sys.exit(main())

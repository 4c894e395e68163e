"""Find the numbers of normal, trigonometric and inverse_trigonometric_approximations.h again.

By the exchange of tools/minimax.py: `python -m tools.full_range`, `--check` as there.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import mpmath
from mpmath import mpf

from tools.minimax import PRECISION, Approximation, chebyshev_points, hexadecimal, remez, rounded

MATH = Path(__file__).resolve().parent.parent / "csrc" / "math"
LARGEST_POWER = 104  # of a float with 25 bits before its point; the last one is infinity's


def scaled_complement(t: mpf, c: mpf) -> mpf:
    """exp(a^2) erfc(a) / s for t = 1 - 2s, s = c / (a + c)."""
    s = (1 - t) / 2
    if s < mpf("1e-6"):  # a is so large that its asymptotic series is exact
        a = c / s - c if s else mpf("inf")
        return (1 - 1 / (2 * a**2) + 3 / (4 * a**4)) / (mpmath.sqrt(mpmath.pi) * c * (1 - s))
    a = c / s - c
    return mpmath.exp(a**2) * mpmath.erfc(a) / s


def _scaled_integral(t: mpf, n: int) -> mpf:
    """exp(a^2) times integral number n of erfc from a, over s^(n+1), by its recurrence."""
    s = (1 - t) / 2
    if s < mpf("1e-5"):
        a = 3 / s - 3 if s else mpf("inf")
        tail = 1 - mpf((n + 1) * (n + 2)) / (4 * a**2)
        tail += mpf((n + 1) * (n + 2) * (n + 3) * (n + 4)) / (32 * a**4)
        return 2 / mpmath.sqrt(mpmath.pi) * tail / (6 - 6 * s) ** (n + 1)
    a = 3 / s - 3
    before, value = 2 / mpmath.sqrt(mpmath.pi), mpmath.exp(a**2) * mpmath.erfc(a)
    for k in range(1, n + 1):
        before, value = value, (before - 2 * a * value) / (2 * k)
    return value / s ** (n + 1)


def slope(z: mpf) -> mpf:
    """erf(x) / x for z = x^2."""
    if z < mpf("1e-12"):
        return 2 / mpmath.sqrt(mpmath.pi) * (1 - z / 3 + z**2 / 10 - z**3 / 42)
    return mpmath.erf(mpmath.sqrt(z)) / mpmath.sqrt(z)


def arctangent_rest(z: mpf) -> mpf:
    """(atan(r) / r - 1) / z for z = r^2."""
    if z < mpf("1e-12"):
        return -mpf(1) / 3 + z / 5 - z**2 / 7
    r = mpmath.sqrt(z)
    return (mpmath.atan(r) / r - 1) / z


def sine_rest(z: mpf) -> mpf:
    """(sin(r) / r - 1) / z for z = r^2."""
    if z < mpf("1e-12"):
        return -mpf(1) / 6 + z / 120 - z**2 / 5040
    r = mpmath.sqrt(z)
    return (mpmath.sin(r) / r - 1) / z


def cosine_rest(z: mpf) -> mpf:
    """(cos(r) - 1) / z for z = r^2."""
    if z < mpf("1e-12"):
        return -mpf(1) / 2 + z / 24 - z**2 / 720
    return (mpmath.cos(mpmath.sqrt(z)) - 1) / z


def cosine_rest_of_rest(z: mpf) -> mpf:
    """(cos(r) - 1 + z/2) / z^2 for z = r^2."""
    if z < mpf("1e-8"):
        return mpf(1) / 24 - z / 720 + z**2 / 40320 - z**3 / 3628800
    return (mpmath.cos(mpmath.sqrt(z)) - 1 + z / 2) / z**2


EIGHTH_TURN = (mpf(0), (mpmath.pi / 4) ** 2 * mpf("1.001"))

NORMAL = [
    # What rounding a + c loses counts the less the smaller c is, which in double takes more terms.
    *(
        Approximation(
            "scaled_complement",
            "t",
            f"exp(a^2) erfc(a) = s * polynomial, s = {c}/(a + {c}), t = 1 - 2s, a >= 0; "
            "relative error",
            partial(scaled_complement, c=mpf(c)),
            lambda t, c=c: 1 / scaled_complement(t, mpf(c)),  # type: ignore[misc]
            (mpf(-1), mpf(1)),
            0,
            terms,
        )
        for c, terms in (("1.5", {"float": 13}), ("3", {"double": 28}))
    ),
    *(
        Approximation(
            f"scaled_complement_{n}",
            "t",
            f"exp(a^2) times integral {n} of erfc = s^{n + 1} * polynomial, s and t as above; "
            "relative error",
            partial(_scaled_integral, n=n),
            lambda t, n=n: 1 / _scaled_integral(t, n),  # type: ignore[misc]
            (mpf(-1), mpf(1)),
            0,
            {"double": 28},
        )
        for n in (1, 2)
    ),
    Approximation(
        "erf_slope",
        "z",
        "erf(x) = x * polynomial, z = x^2 <= 1/4; relative error",
        slope,
        lambda z: 1 / slope(z),
        (mpf(0), mpf("0.25")),
        0,
        {"float": 5, "double": 9},
    ),
]

# The first two for a float, reduced in double
TRIGONOMETRIC = [
    Approximation(
        "sin",
        "z",
        "sin(r) = r + r z * polynomial, z = r^2 <= (pi/4)^2; error relative to sin(r)/r",
        sine_rest,
        lambda z: z,
        EIGHTH_TURN,
        0,
        {"double": 4},
    ),
    Approximation(
        "cos",
        "z",
        "cos(r) = 1 + z * polynomial, z = r^2 <= (pi/4)^2; error relative to 1",
        cosine_rest,
        lambda z: z,
        EIGHTH_TURN,
        0,
        {"double": 4},
    ),
    Approximation(
        "sin_of_double",
        "z",
        "sin(r) = r + r z * polynomial, z = r^2 <= (pi/4)^2; error relative to sin(r)/r",
        sine_rest,
        lambda z: z,
        EIGHTH_TURN,
        0,
        {"double": 7},
    ),
    Approximation(
        "cos_of_double",
        "z",
        "cos(r) = 1 - z/2 + z^2 * polynomial, z = r^2 <= (pi/4)^2; error relative to 1",
        cosine_rest_of_rest,
        lambda z: z * z,
        EIGHTH_TURN,
        0,
        {"double": 7},
    ),
]


INVERSE_TRIGONOMETRIC = [
    Approximation(
        "atan",
        "z",
        "atan(r) = r + r z * polynomial, z = r^2 <= tan(pi/8)^2; error relative to atan(r)/r",
        arctangent_rest,
        lambda z: z,
        (mpf(0), mpmath.tan(mpmath.pi / 8) ** 2 * mpf("1.001")),
        0,
        {"float": 4, "double": 11},
    ),
]


def half_pi_parts() -> list[mpf]:
    """pi/2 as three doubles, of which the first two have 40 bits."""
    with mpmath.workprec(400):
        parts: list[mpf] = []
        for bits in (40, 40, 53):
            parts.append(rounded(mpmath.pi / 2 - sum(parts), bits))
        return parts


def function(a: Approximation, type_name: str) -> list[str]:
    """The lines of one polynomial."""
    suffix = "f" if type_name == "float" else ""
    found = [rounded(c, PRECISION[type_name]) for c in remez(a, a.terms[type_name])]
    grid = chebyshev_points(a.interval, 500)
    bits = -mpmath.log(max(abs(a.error(found, u)) for u in grid), 2)
    lines = ["", *(f"  // {line}" for line in a.text.split("; "))]
    lines[-1] += f": 2^-{mpmath.nstr(bits, 4)}"
    lines.append(
        f"  FUSEDGRAD_HOST_DEVICE static {type_name} {a.name}({type_name} {a.variable}) {{"
    )
    *rest, last = (f"{hexadecimal(c)}{suffix}" for c in found)
    lines.append(f"    {type_name} p = {last};")
    lines += [f"    p = fma(p, {a.variable}, {c});" for c in reversed(rest)]
    return [*lines, "    return p;", "  }"]


def header(body: list[str]) -> str:
    """A whole file."""
    lines = [
        "// Written by tools/full_range.py, which finds every number here again.",
        "#pragma once",
        "",
        '#include "math/platform.h"',
        "",
        "namespace fusedgrad::math {",
        *body,
        "",
        "}  // namespace fusedgrad::math",
        "",
    ]
    return "\n".join(lines).replace("{\n\n  //", "{\n  //")


def normal() -> str:
    """normal_approximations.h."""
    return header(_by_type("Normal", NORMAL))


def inverse_trigonometric() -> str:
    """inverse_trigonometric_approximations.h."""
    return header(_by_type("InverseTrigonometric", INVERSE_TRIGONOMETRIC))


def _by_type(name: str, approximations: Sequence[Approximation]) -> list[str]:
    body = ["", "template <class T>", f"struct {name}Approximations;"]
    for type_name in PRECISION:
        body += ["", "template <>", f"struct {name}Approximations<{type_name}> {{"]
        each = (a for a in approximations if type_name in a.terms)
        body += [line for a in each for line in function(a, type_name)]
        body.append("};")
    return body


def power_modulo(k: int) -> tuple[mpf, mpf]:
    """2^k modulo 2 pi, nearest 0, as two doubles."""
    with mpmath.workprec(400):
        value = mpf(2) ** k
        value -= 2 * mpmath.pi * mpmath.nint(value / (2 * mpmath.pi)) if k else 0
        hi = rounded(value, 53)
        return hi, rounded(value - hi, 53)


def trigonometric() -> str:
    """trigonometric_approximations.h."""
    body = ["", "struct TrigonometricApproximations {"]
    body += [line for a in TRIGONOMETRIC for line in function(a, "double")]
    body += ["", "  // pi/2 in parts, the first two of 40 bits"]
    body.append("  static constexpr double kHalfPi[] = {")
    body += [f"      {hexadecimal(part)}," for part in half_pi_parts()]
    body.append("  };")
    body += ["};", "", "// 2^k modulo 2 pi, and what its rounding left"]
    pairs = [power_modulo(k) for k in range(LARGEST_POWER + 1)]
    for name, numbers in zip(("", "Lo"), zip(*pairs, strict=True), strict=True):
        body.append(f"constexpr double kPowerModulo{name}[] = {{")
        body += [f"    {hexadecimal(number)}," for number in numbers]
        body.append("};")
    return header(body)


def main() -> int:
    """Writes the headers, or with --check compares them."""
    different = 0
    texts = {
        "normal": normal(),
        "trigonometric": trigonometric(),
        "inverse_trigonometric": inverse_trigonometric(),
    }
    for name, text in texts.items():
        path = MATH / f"{name}_approximations.h"
        if "--check" not in sys.argv[1:]:
            path.write_text(text)
            continue
        old, new = path.read_text().splitlines(), text.splitlines()
        difference = list(difflib.unified_diff(old, new, lineterm=""))
        print("\n".join(difference))
        different |= bool(difference)
    return int(different)


if __name__ == "__main__":
    sys.exit(main())

"""IEEE arithmetic that numpy does not have: fused multiply-add, directed rounding, wide products.

Everything works on arrays and is exact: a result is the real result rounded once. numpy's errors
must be silenced by the caller (np.errstate), since the hard cases are computed first and repaired
afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_HALF_ULP_MASK = np.uint64(0x1FFFFFFF)  # the bits of a double below the last bit of a float
_HALF_ULP = np.uint64(0x10000000)
_TINY32 = 2.0**-126
_SPLIT = 134217729.0  # 2^27 + 1, Veltkamp's constant for 53 bits


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """Sum and its exact rounding error (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def two_product(a: Array, b: Array) -> tuple[Array, Array]:
    """Product and its exact rounding error (Dekker), away from overflow and underflow."""
    product = a * b
    scaled = a * _SPLIT
    a_high = scaled - (scaled - a)
    a_low = a - a_high
    scaled = b * _SPLIT
    b_high = scaled - (scaled - b)
    b_low = b - b_high
    return product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


def to_odd(value: Array, error: Array) -> Array:
    """Round value + error to odd: the neighbour with an odd last bit unless the value is exact.

    A sum rounded to odd in double can be rounded again to a shorter format without double rounding.
    """
    bits = value.view(np.int64)
    inexact = (error != 0) & np.isfinite(error) & np.isfinite(value) & ((bits & 1) == 0)
    step = np.where((error > 0) == (value > 0), 1, -1)
    return np.where(inexact, bits + step, bits).view(np.float64)


def fma_odd(a: Array, b: Array, c: Array) -> Array:
    """a * b + c of floats, as a double rounded to odd; the product is exact in double."""
    product = a.astype(np.float64) * b.astype(np.float64)
    return to_odd(*two_sum(*np.broadcast_arrays(product, c.astype(np.float64))))


def fma_f32(a: Array, b: Array, c: Array) -> Array:
    """a * b + c rounded once to float.

    The product is exact in double. Rounding the sum to double first can go wrong only where that
    lands exactly between two floats, or where the result is subnormal: those lanes are done again
    by way of rounding to odd.
    """
    total = a.astype(np.float64) * b.astype(np.float64) + c.astype(np.float64)
    result: Array = total.astype(np.float32)
    hard = (total.view(np.uint64) & _HALF_ULP_MASK) == _HALF_ULP
    hard |= np.abs(total) < _TINY32
    if hard.any():
        lanes = np.flatnonzero(hard)
        a, b, c = (x[lanes] if x.size == total.size else x for x in (a, b, c))
        result[lanes] = fma_odd(a, b, c).astype(np.float32)
    return result


def fma_f16(a: Array, b: Array, c: Array) -> Array:
    """a * b + c of half floats: exact in double, or too far from a tie to be rounded wrongly."""
    total = a.astype(np.float64) * b.astype(np.float64) + c.astype(np.float64)
    return total.astype(np.float16)


def fma_bf16(a: Array, b: Array, c: Array) -> Array:
    """a * b + c of bfloat16 values held in floats, as a float rounded to odd."""
    return double_to_float_odd(fma_odd(a, b, c))


def double_to_float_odd(value: Array) -> Array:
    """Double to float, rounded to odd."""
    result: Array = round_f32(value, np.zeros(1), "rz")
    bits = result.view(np.uint32)
    inexact = np.isfinite(value) & (result.astype(np.float64) != value)
    odd: Array = (bits | inexact.astype(np.uint32)).view(np.float32)
    return odd


def fma_f64(a: Array, b: Array, c: Array) -> Array:
    """a * b + c rounded once to double.

    Boldo and Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using
    rounding to odd" (2008). It needs an exact product and no overflow on the way; the other lanes
    are computed with integers, one by one.
    """
    a, b, c = np.broadcast_arrays(a, b, c)
    product, error = two_product(a, b)
    t_high, t_low = two_sum(c, error)
    v_high, v_low = two_sum(product, t_high)
    result: Array = v_high + to_odd(*two_sum(t_low, v_low))
    size = np.abs(product)
    safe = (size > 2.0**-900) & (size < 2.0**1000) & (np.abs(c) < 2.0**1000)
    safe &= (np.abs(a) < 2.0**990) & (np.abs(b) < 2.0**990)
    if not safe.all():
        lanes = np.flatnonzero(~safe)
        a, b, c = a[lanes], b[lanes], c[lanes]
        finite = np.isfinite(a) & np.isfinite(b)
        plain = np.where(finite & np.isinf(c), c, a * b + c)  # a product beyond the range is finite
        exact = finite & np.isfinite(c) & (a != 0) & (b != 0)
        for i in np.flatnonzero(exact):
            plain[i] = _fma_integer(float(a[i]), float(b[i]), float(c[i]))
        result[lanes] = plain
    return result


def _fma_integer(a: float, b: float, c: float) -> float:
    """a * b + c for finite numbers: division of Python integers is correctly rounded."""
    (an, ad), (bn, bd), (cn, cd) = (x.as_integer_ratio() for x in (a, b, c))
    numerator = an * bn * cd + cn * ad * bd
    if numerator == 0:
        return a * b + c if c == 0 else 0.0
    try:
        size = abs(numerator) / (ad * bd * cd)
    except OverflowError:
        size = float("inf")
    return -size if numerator < 0 else size


def round_f32(value: Array, error: Array, mode: str) -> Array:
    """value + error, error below the last bit of value, rounded to float in the given mode."""
    nearest: Array = value.astype(np.float32)
    below = value - nearest.astype(np.float64)  # exact
    below = np.where(below == 0, error, below)
    if mode == "rm":
        wrong, goal = below < 0, -np.inf
    elif mode == "rp":
        wrong, goal = below > 0, np.inf
    elif mode == "rz":
        wrong, goal = (below < 0) == (nearest > 0), 0.0
        wrong &= (below != 0) & ~np.isnan(below)
    else:
        raise ValueError(mode)
    stepped = np.nextafter(nearest, np.float32(goal))
    return np.where(wrong & ~np.isnan(nearest), stepped, nearest).astype(np.float32)


def _addends(operation: str, x: list[Array]) -> list[Array]:
    """The two numbers that add, sub and fma add."""
    if operation == "fma":
        return [x[0] * x[1], x[2]]
    return [x[0], -x[1] if operation == "sub" else x[1]] if operation in ("add", "sub") else []


def _negative_zero(result: Array, exact_zero: Array, addends: list[Array]) -> Array:
    """Rounding down, a sum that is exactly zero is -0 unless both addends are +0."""
    if not addends:
        return result
    zero = exact_zero & (np.signbit(addends[0]) | np.signbit(addends[1]))
    return np.where(zero, result.dtype.type(-0.0), result)


def directed_f32(operation: str, mode: str) -> Callable[..., Array]:
    """add, sub, mul, div, fma, sqrt, rcp of floats in a directed rounding mode."""

    def compute(*operands: Array) -> Array:
        x = [o.astype(np.float64) for o in np.broadcast_arrays(*operands)]
        addends = _addends(operation, x)
        if operation in ("add", "sub"):
            value, error = two_sum(*addends)
        elif operation == "mul":
            value, error = x[0] * x[1], np.zeros(1)
        elif operation == "fma":
            value, error = two_sum(*addends)
        elif operation in ("div", "rcp"):
            numerator, denominator = x if operation == "div" else (np.ones(1), x[0])
            value = numerator / denominator
            # the remainder's sign says on which side of the quotient the real one lies
            error = (numerator - value * denominator) * np.sign(denominator)
        else:
            value = np.sqrt(x[0])
            error = x[0] - value * value
        result = round_f32(value, np.nan_to_num(error), mode)
        return _negative_zero(result, value == 0, addends) if mode == "rm" else result

    return compute


def directed_f64(operation: str, mode: str) -> Callable[..., Array]:
    """The same for doubles: the error of the nearest result tells whether to step.

    Lanes where that error could underflow or overflow are computed with integers, one by one.
    """

    def compute(*operands: Array) -> Array:
        x = list(np.broadcast_arrays(*operands))
        if operation in ("add", "sub"):
            value, error = two_sum(*_addends(operation, x))
        elif operation == "mul":
            value, error = two_product(x[0], x[1])
        elif operation == "fma":
            value, error = fma_f64(*x), np.zeros(x[0].shape)  # finite lanes are all hard
        elif operation in ("div", "rcp"):
            numerator, denominator = x if operation == "div" else (np.ones(1), x[0])
            value = numerator / denominator
            error = fma_f64(-value, denominator, numerator) * np.sign(denominator)
        else:
            value = np.sqrt(x[0])
            error = fma_f64(-value, value, x[0])
        goal = {"rm": -np.inf, "rp": np.inf, "rz": 0.0}[mode]
        wrong = {"rm": error < 0, "rp": error > 0, "rz": (error < 0) == (value > 0)}[mode]
        wrong &= (error != 0) & np.isfinite(value) & np.isfinite(error)
        result = np.where(wrong, np.nextafter(value, goal), value)
        if mode == "rm":
            result = _negative_zero(result, value == 0, _addends(operation, x))
        easy = [(np.abs(v) > 2.0**-400) & (np.abs(v) < 2.0**400) for v in x]
        hard = np.full(value.shape, operation == "fma") | ~np.logical_and.reduce(easy)
        hard &= np.logical_and.reduce([np.isfinite(v) for v in x])
        for i in np.flatnonzero(hard):
            result[i] = _directed_integer(operation, [float(v[i]) for v in x], mode)
        return result

    return compute


def _directed_integer(operation: str, x: list[float], mode: str) -> float:
    """One directed operation on finite doubles, with rational numbers."""
    plain = _plain(operation, x)
    f = [Fraction(v) for v in x]
    if operation == "sqrt":
        if f[0] <= 0:
            return plain
        below = Fraction(plain) ** 2
        if (mode == "rp" and below < f[0]) or (mode != "rp" and below > f[0]):
            return math.nextafter(plain, math.inf if mode == "rp" else 0.0)
        return plain
    if operation in ("div", "rcp"):
        if f[-1] == 0:
            return plain
        real = (f[0] if operation == "div" else 1) / f[-1]
    elif operation == "mul":
        real = f[0] * f[1]
    else:
        real = (
            f[0] * f[1] + f[2]
            if operation == "fma"
            else f[0] + (f[1] if operation == "add" else -f[1])
        )
    if real == 0:
        if operation in ("mul", "div", "rcp"):
            return plain
        addends = (
            (x[0] * x[1], x[2])
            if operation == "fma"
            else (x[0], -x[1] if operation == "sub" else x[1])
        )
        if operation == "fma" and addends[0] == 0 and f[0] * f[1] != 0:
            return -0.0 if mode == "rm" else 0.0
        if all(math.copysign(1, v) < 0 for v in addends):
            return -0.0
        return -0.0 if mode == "rm" and any(math.copysign(1, v) < 0 for v in addends) else 0.0
    try:
        nearest = real.numerator / real.denominator
    except OverflowError:
        nearest = math.inf if real > 0 else -math.inf
    sign = 1 if real > 0 else -1
    if nearest == 0:
        nearest = math.copysign(0.0, sign)
    up = (math.isfinite(nearest) and Fraction(nearest) < real) or nearest == -math.inf
    down = (math.isfinite(nearest) and Fraction(nearest) > real) or nearest == math.inf
    toward_zero = mode == "rz" or (mode == "rm") == (sign > 0)
    if toward_zero and (down if sign > 0 else up):
        nearest = math.nextafter(nearest, 0.0)
    elif not toward_zero and (up if sign > 0 else down) and math.isfinite(nearest):
        nearest = math.nextafter(nearest, sign * math.inf)
    return nearest


def _plain(operation: str, x: list[float]) -> float:
    """The operation to nearest, where that is what numpy does."""
    y = [np.float64(v) for v in x]
    results: dict[str, Callable[[], Any]] = {
        "mul": lambda: y[0] * y[1],
        "div": lambda: y[0] / y[1],
        "rcp": lambda: 1.0 / y[0],
        "sqrt": lambda: np.sqrt(y[0]),
    }
    return float(results[operation]()) if operation in results else 0.0


def flush(x: Array) -> Array:
    """Subnormal floats become zeros of the same sign (.ftz)."""
    small = np.abs(x) < np.float32(_TINY32)
    return np.where(small, np.copysign(np.float32(0), x), x) if small.any() else x


def saturate(x: Array) -> Array:
    """Clamp to [0, 1]; NaN becomes 0 (.sat)."""
    clamped: Array = np.fmin(np.fmax(x, x.dtype.type(0)), x.dtype.type(1))
    return clamped


def float_to_bf16(x: Array) -> Array:
    """float32 to the bits of bfloat16, to nearest even; NaN becomes 0x7fff as on the device."""
    bits = x.view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(
        16
    )
    return np.where(np.isnan(x), np.uint16(0x7FFF), rounded.astype(np.uint16))


def bf16_to_float(bits: Array) -> Array:
    """The bits of bfloat16 to float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def float_minimum(a: Array, b: Array) -> Array:
    """The smaller one; a number beats NaN; -0 is smaller than +0."""
    return _ordered(np.fmin(a, b), a, b, np.bitwise_or)


def float_maximum(a: Array, b: Array) -> Array:
    """The larger one; a number beats NaN; +0 is larger than -0."""
    return _ordered(np.fmax(a, b), a, b, np.bitwise_and)


def _ordered(result: Array, a: Array, b: Array, signs: np.ufunc) -> Array:
    zeros = (a == 0) & (b == 0)
    if zeros.any():
        word = np.dtype(f"u{result.dtype.itemsize}")
        result = np.where(zeros, signs(a.view(word), b.view(word)).view(result.dtype), result)
    return result


def multiply_high_u64(a: Array, b: Array) -> Array:
    """The upper 64 bits of an unsigned product."""
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    a0, a1, b0, b1 = a & low, a >> shift, b & low, b >> shift
    middle = a1 * b0 + ((a0 * b0) >> shift)
    other = a0 * b1 + (middle & low)
    high: Array = a1 * b1 + (middle >> shift) + (other >> shift)
    return high


def multiply_high(a: Array, b: Array) -> Array:
    """The upper half of a product of 16, 32 or 64 bit integers, signed or not."""
    bits = a.dtype.itemsize * 8
    if bits < 64:
        wide = np.dtype(f"{a.dtype.kind}{bits // 4}")
        product = a.astype(wide) * b.astype(wide)
        upper: Array = (product >> wide.type(bits)).astype(a.dtype)
        return upper
    high = multiply_high_u64(a.view(np.uint64), b.view(np.uint64))
    if a.dtype.kind == "i":
        zero = np.uint64(0)
        high = high - np.where(a < 0, b.view(np.uint64), zero)
        high = high - np.where(b < 0, a.view(np.uint64), zero)
    return high.view(a.dtype)


def divide(a: Array, b: Array) -> Array:
    """Integer quotient, towards zero; all ones for a zero divisor."""
    zero = b == 0
    divisor = np.where(zero, b.dtype.type(1), b)
    # subtracting the remainder first makes the floor of a negative quotient exact
    quotient = (a - np.fmod(a, divisor)) // divisor
    return np.where(zero, ~np.zeros(1, a.dtype), quotient)


def remainder(a: Array, b: Array) -> Array:
    """Integer remainder with the sign of the dividend; the dividend for a zero divisor."""
    zero = b == 0
    return np.where(zero, a, np.fmod(a, np.where(zero, b.dtype.type(1), b)))


def float_to_integer(x: Array, dtype: np.dtype[Any]) -> Array:
    """An integral float to an integer type, clamped to its range; NaN becomes 0."""
    limits = np.iinfo(dtype)
    value = np.nan_to_num(x.astype(np.float64), nan=0.0, posinf=np.inf, neginf=-np.inf)
    low, high = value <= float(limits.min), value >= float(limits.max)
    inside = np.where(low | high, 0.0, value).astype(dtype)
    return np.where(low, dtype.type(limits.min), np.where(high, dtype.type(limits.max), inside))

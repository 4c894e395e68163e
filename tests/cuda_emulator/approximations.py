"""The approximate instructions, and how far the device may stray from the real result.

The bounds are those that the PTX ISA (9.1) states for each instruction under "Floating Point
Instructions" and "Half Precision Floating Point Instructions",
https://docs.nvidia.com/cuda/parallel-thread-execution/#floating-point-instructions. By default a
result is the real one rounded. With worst_case "low" or "high" it is moved down or up by the whole
documented error, and with "mixed" one or the other, as the operand's bits decide, so that two
results' errors add up where those of one sign would cancel: a bound which holds in all three modes
leans on nothing but the documentation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .arithmetic import flush, round_f32

Array = NDArray[Any]
WorstCase = Literal["low", "high", "mixed"] | None


def _ulp(value: Array) -> Array:
    """The distance between floats at a real number; 0 at 0, which only an infinity divides to."""
    exponent = np.frexp(np.where(np.isfinite(value), value, 0.0))[1]
    distance: Array = np.where(value == 0, 0.0, np.ldexp(1.0, np.maximum(exponent, -125) - 24))
    return distance


def _lg2_error(a: Array, value: Array) -> Array:
    near_one = (a > 0.5) & (a < 2)
    return np.where(near_one, 2.0**-22, 2.0**-22 * np.abs(value))


def _trigonometric_error(a: Array, value: Array) -> Array:
    """Beyond 100 pi nothing is promised: there the result may be anything from -2 to 2."""
    inside = np.where(np.abs(a) <= 100 * np.pi, 2.0**-14.7, 1.0)
    return np.where(np.abs(a) <= 2 * np.pi, 2.0**-20.5, inside)


# name -> (real function in double, bound on the absolute error given operand and value)
_FUNCTIONS: dict[str, tuple[Callable[..., Array], Callable[..., Array]]] = {
    # "2 ulp from correctly rounded result"; a power is never negative
    "ex2": (np.exp2, lambda a, v: np.where(a == 0, 0, np.minimum(2.5 * _ulp(v), v))),
    "lg2": (np.log2, _lg2_error),
    "rcp": (lambda a: 1.0 / a, lambda a, v: _ulp(v)),
    "rsqrt": (lambda a: 1.0 / np.sqrt(a), lambda a, v: 2.0**-22.9 * v),
    "sqrt": (np.sqrt, lambda a, v: 2.0**-23 * v),
    "sin": (np.sin, lambda a, v: np.where(a == 0, 0, _trigonometric_error(a, v))),
    "cos": (np.cos, lambda a, v: np.where(a == 0, 0, _trigonometric_error(a, v))),
    "tanh": (np.tanh, lambda a, v: 2.0**-11 * np.abs(v)),
    "div": (lambda a, b: a / b, lambda a, b, v: 2.0 * _ulp(v)),
    "div_full": (lambda a, b: a / b, lambda a, b, v: 2.0 * _ulp(v)),
}

# the same for halves: relative for ex2, absolute for tanh
_HALF_ERROR = {
    ("ex2", "f16"): 2.0**-9.9,
    ("ex2", "bf16"): 2.0**-7,
    ("tanh", "f16"): 2.0**-10.987,
    ("tanh", "bf16"): 2.0**-8,
}


def _sign(worst_case: WorstCase, a: Array) -> Array:
    """Where the results of an operand are moved: -1, 1, or 0 for nowhere."""
    if worst_case == "mixed":
        bits = np.ascontiguousarray(a, np.float64).view(np.uint64)
        mixed: Array = (bits * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(63)) * 2.0 - 1.0
        return mixed
    return np.full(a.shape, {"low": -1.0, "high": 1.0, None: 0.0}[worst_case])


def _perturb(value: Array, error: Array, sign: Array) -> Array:
    """The float furthest from the real value, in the wanted direction, within the error."""
    movable = np.isfinite(value.astype(np.float32)) & (error > 0)
    zero = np.zeros(1)
    far = np.where(movable, value + sign * error, value)
    moved = np.where(sign < 0, round_f32(far, zero, "rp"), round_f32(far, zero, "rm"))
    return np.where(movable, moved, value.astype(np.float32)).astype(np.float32)


def approximate_f32(name: str, ftz: bool, worst_case: WorstCase) -> Callable[..., Array]:
    """name.approx{.ftz}.f32."""
    function, bound = _FUNCTIONS[name]

    def compute(*operands: Array) -> Array:
        if ftz:
            operands = tuple(flush(x) for x in operands)
        real = [x.astype(np.float64) for x in operands]
        value = function(*real)
        if name == "div":
            # documented: for a divisor above 2^126 the quotient is 0, NaN for an infinite dividend
            huge = (np.abs(real[1]) > 2.0**126) & np.isfinite(real[1])
            value = np.where(huge, real[0] * np.sign(real[1]) * 0.0, value)
        result: Array
        if worst_case is None:
            result = value.astype(np.float32)
        else:
            result = _perturb(value, bound(*real, value), _sign(worst_case, real[-1]))
        return flush(result) if ftz else result

    return compute


def approximate_half(name: str, kind: str, worst_case: WorstCase) -> Callable[..., Array]:
    """name.approx{.ftz}.{f16, bf16}: on float16, or on bfloat16 values held in floats."""
    function, _ = _FUNCTIONS[name]
    error = _HALF_ERROR[name, kind]

    def compute(a: Array) -> Array:
        value = function(a.astype(np.float64))
        value = value + _sign(worst_case, a) * error * (np.abs(value) if name == "ex2" else 1.0)
        result: Array = value.astype(np.float16 if kind == "f16" else np.float32)
        return result

    return compute


def approximate_f64(name: str, ftz: bool, worst_case: WorstCase) -> Callable[..., Array]:
    """rcp and rsqrt.approx.ftz.f64: the lower word is neither read nor computed.

    The PTX ISA calls them gross and states no bound; 2^-20 is a unit of that word's last place.
    Without .ftz there is rsqrt alone, for which the CUDA programming guide states an ULP.
    """
    function, _ = _FUNCTIONS[name]

    def compute_exactly(a: Array) -> Array:
        value = function(a)
        if worst_case is None:
            return value
        moved = np.nextafter(value, _sign(worst_case, a) * np.inf)
        return np.where(np.isfinite(value) & (value != 0), moved, value)

    if not ftz:
        return compute_exactly

    upper_word = np.uint64(0xFFFFFFFF00000000)

    def compute(a: Array) -> Array:
        a = (a.view(np.uint64) & upper_word).view(np.float64)
        tiny = np.abs(a) < 2.0**-1022
        a = np.where(tiny, np.copysign(0.0, a), a)
        value = function(a)
        value = np.where(
            np.isfinite(value), value + _sign(worst_case, a) * 2.0**-20 * np.abs(value), value
        )
        value = np.where(np.abs(value) < 2.0**-1022, np.copysign(0.0, value), value)
        return (value.view(np.uint64) & upper_word).view(np.float64)

    return compute

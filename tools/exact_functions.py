"""The operations of fused expressions in mpmath: the oracle of tests and of function_errors.py."""

from collections.abc import Callable
from typing import Any

import mpmath
from mpmath import mp, mpf


def _sigmoid(x: mpf) -> mpf:
    return 1 / (1 + mp.exp(-x))


def _softplus(x: mpf) -> mpf:
    return mp.log1p(mp.exp(x))


def _loss_slope(x: mpf, t: mpf, p: mpf) -> mpf:
    return (1 - t) * _sigmoid(x) - p * t * _sigmoid(-x)


def _derived(function: Callable[[mpf], mpf], order: int) -> Callable[[mpf], mpf]:
    return lambda x: mpmath.diff(function, x, order)


def _xlog(log: Callable[[mpf], mpf]) -> Callable[[mpf, mpf], mpf]:
    return lambda x, y: mpf(0) if x == 0 else x * log(y)


def integral_of_erfc(x: mpf, order: int) -> mpf:
    """exp(x^2) times erfc, integrated so many times from x."""
    before, value = 2 / mp.sqrt(mp.pi), mp.exp(x * x) * mp.erfc(x)
    for k in range(1, order + 1):
        before, value = value, (before - 2 * x * value) / (2 * k)
    return value


def log_of_normal(x: mpf) -> mpf:
    """log Φ(x)."""
    return mp.log(mp.erfc(-x / mp.sqrt(2)) / 2) if x < 0 else mp.log1p(-mp.erfc(x / mp.sqrt(2)) / 2)


def inverse_mills(x: mpf) -> mpf:
    """φ(x) / Φ(x)."""
    return mp.npdf(x) / (mp.erfc(-x / mp.sqrt(2)) / 2)


def quantile(p: mpf) -> mpf:
    """The inverse of Φ."""
    if p > 0.5:
        return -quantile(1 - p)
    log = mp.log(p)
    return mpmath.findroot(
        lambda x: log_of_normal(x) - log, -mp.sqrt(-2 * log) if p < 0.02 else mpf(-0.5)
    )


def inverse_erf(y: mpf) -> mpf:
    """The inverse of erf."""
    if abs(y) < 0.5:
        return mpmath.findroot(lambda x: mp.erf(x) - y, y * mp.sqrt(mp.pi) / 2) if y else y
    return mp.sign(y) * -quantile((1 - abs(y)) / 2) / mp.sqrt(2)


def kummer(z: mpf, twice_a: int, b: int) -> mpf:
    """exp(-z) M(a, b, z)."""
    return mp.exp(-z) * mp.hyp1f1(mpf(twice_a) / 2, b, z)


def _scaled_bessel_1(x: mpf) -> mpf:
    return mp.exp(-abs(x)) * mp.besseli(1, x)


def _sign_of(x: mpf, y: mpf) -> mpf:
    return abs(x) * (1 if y >= 0 else -1)


def rounded(x: mpf) -> mpf:
    """To the nearest whole number, the even one of two."""
    return mp.nint(x)


def truncated(x: mpf) -> mpf:
    """Without the fraction."""
    return mp.floor(x) if x > 0 else mp.ceil(x)


_LOSS = "binary_cross_entropy_with_logits"
_FUNCTIONS: dict[str, Callable[..., mpf]] = {
    "number": mpf,
    "negate": lambda a: -a,
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
    "less": lambda a, b: a < b,
    "less_equal": lambda a, b: a <= b,
    "greater": lambda a, b: a > b,
    "greater_equal": lambda a, b: a >= b,
    "equal": lambda a, b: a == b,
    "not_equal": lambda a, b: a != b,
    "and": lambda a, b: a and b,
    "or": lambda a, b: a or b,
    "not": lambda a: not a,
    "where": lambda c, a, b: a if c else b,
    "sqrt": mp.sqrt,
    "hypotenuse": lambda x, b: mp.sqrt(x * x + b),
    "hypotenuse_slope": lambda x, b: x / mp.sqrt(x * x + b),
    "exp": mp.exp,
    "expm1": mp.expm1,
    "log": mp.log,
    "log1p": mp.log1p,
    "softplus": _softplus,
    "sigmoid": _sigmoid,
    "sigmoid_derivative": lambda x: _sigmoid(x) * _sigmoid(-x),
    "sigmoid_second_derivative": lambda x: -_sigmoid(x) * _sigmoid(-x) * mp.tanh(x / 2),
    "tanh": mp.tanh,
    "tanh_derivative": lambda x: mp.sech(x) ** 2,
    "tanh_second_derivative": lambda x: -2 * mp.tanh(x) * mp.sech(x) ** 2,
    "sin": mp.sin,
    "cos": mp.cos,
    "erf": mp.erf,
    "erf_derivative": lambda x: 2 * mp.exp(-x * x) / mp.sqrt(mp.pi),
    "normal_cdf": lambda x: mp.erfc(-x / mp.sqrt(2)) / 2,
    "normal_pdf": lambda x: mp.exp(-x * x / 2) / mp.sqrt(2 * mp.pi),
    "silu": lambda x: x * _sigmoid(x),
    "silu_derivative": lambda x: _sigmoid(x) * (1 + x * _sigmoid(-x)),
    "gelu": lambda x: x * mp.erfc(-x / mp.sqrt(2)) / 2,
    "gelu_derivative": lambda x: mp.erfc(-x / mp.sqrt(2)) / 2 + x * mp.npdf(x),
    "abs": abs,
    "sign": mp.sign,
    "relu": lambda x: max(x, mpf(0)),
    "minimum": min,
    "maximum": max,
    "clamp": lambda x, low, high: min(max(x, low), high),
    "clamp_min": max,
    "clamp_max": min,
    "weighted": lambda w, x: w * x,
    "bounded": lambda x: max(mpf(-10000), min(mpf(10000), x)),
    "xor": lambda a, b: bool(a) != bool(b),
    "signbit": lambda x: x < 0,
    "floor": mp.floor,
    "ceil": mp.ceil,
    "trunc": truncated,
    "round": rounded,
    "copysign": _sign_of,
    "fmod": lambda x, y: x - y * truncated(x / y),
    "remainder": lambda x, y: x - y * mp.floor(x / y),
    "truncated_quotient": lambda x, y: truncated(x / y),
    "floored_quotient": lambda x, y: mp.floor(x / y),
    "hypot": lambda x, y: mp.sqrt(x * x + y * y),
    "hypot_slope": lambda x, y: x / mp.sqrt(x * x + y * y),
    "atan2_slope": lambda x, y: x / (x * x + y * y),
    "cathetus_reciprocal": lambda x: 1 / mp.sqrt(1 - x * x),
    "cathetus": lambda x: mp.sqrt(1 - x * x),
    "outer_cathetus": lambda x: mp.sqrt(x * x - 1),
    "log_chosen": lambda is_log, x, y: mp.log(x) if is_log else mp.log1p(y),
    "one_minus_square": lambda x: 1 - x * x,
    "expm1_rest": lambda x: mp.expm1(x) - x,
    "exp2": lambda x: mpf(2) ** x,
    "log2": lambda x: mp.log(x) / mp.log(2),
    "log10": lambda x: mp.log(x) / mp.log(10),
    "logit": lambda x: mp.log(x) - mp.log1p(-x),
    "entr": lambda x: -x * mp.log(x) if x else mpf(0),
    "xlogy": _xlog(mp.log),
    "xlog1py": _xlog(mp.log1p),
    "log_of_probability": lambda x: max(mp.log(x), mpf(-100)),
    "gap": lambda a, b: a - b,
    "logaddexp": lambda a, b: max(a, b) + _softplus(-abs(a - b)),
    "logaddexp2": lambda a, b: max(a, b) + _softplus(-abs(a - b) * mp.log(2)) / mp.log(2),
    "tanhshrink": lambda x: x - mp.tanh(x),
    "softsign": lambda x: x / (1 + abs(x)),
    "softsign_derivative": lambda x: 1 / (1 + abs(x)) ** 2,
    "mish_second_derivative": _derived(lambda x: x * mp.tanh(_softplus(x)), 2),
    "mish": lambda x: x * mp.tanh(_softplus(x)),
    "mish_derivative": lambda x: (
        mp.tanh(_softplus(x)) + x * mp.sech(_softplus(x)) ** 2 * _sigmoid(x)
    ),
    "tan": mp.tan,
    "sinc": lambda x: mp.sincpi(x),
    "sinc_derivative": lambda x: (mp.cospi(x) - mp.sincpi(x)) / x if x else x,
    "sinc_second_derivative": lambda x: (
        -(mp.pi**2) * mp.sincpi(x) - 2 * (mp.cospi(x) - mp.sincpi(x)) / x**2
        if x
        else -(mp.pi**2) / 3
    ),
    "asin": mp.asin,
    "acos": mp.acos,
    "atan": mp.atan,
    "atan_derivative": lambda x: 1 / (1 + x * x),
    "atan2": mp.atan2,
    "sinh": mp.sinh,
    "cosh": mp.cosh,
    "asinh": mp.asinh,
    "acosh": mp.acosh,
    "atanh": mp.atanh,
    "erfc": mp.erfc,
    "erfcx": lambda x: integral_of_erfc(x, 0),
    "erfcx_1": lambda x: integral_of_erfc(x, 1),
    "erfcx_2": lambda x: integral_of_erfc(x, 2),
    "erfinv": inverse_erf,
    "log_ndtr": log_of_normal,
    "inverse_mills": inverse_mills,
    "inverse_mills_derivative": lambda x: -inverse_mills(x) * (x + inverse_mills(x)),
    "mills_excess": lambda x: x + inverse_mills(x),
    "ndtri": quantile,
    "erfinv_derivative": lambda y: mp.sqrt(mp.pi) / 2 * mp.exp(inverse_erf(y) ** 2),
    "erfinv_second_derivative": _derived(inverse_erf, 2),
    "ndtri_derivative": lambda p: 1 / mp.npdf(quantile(p)),
    "lgamma": lambda x: mp.log(abs(mp.gamma(x))),
    "i0": lambda x: mp.besseli(0, x),
    "i1": lambda x: mp.besseli(1, x),
    "i0e": lambda x: mp.exp(-abs(x)) * mp.besseli(0, x),
    "i1e": _scaled_bessel_1,
    "i1e_derivative": _derived(_scaled_bessel_1, 1),
    "i1e_second_derivative": _derived(_scaled_bessel_1, 2),
    _LOSS: lambda x, t, p: p * t * _softplus(-x) + (1 - t) * _softplus(x),
    f"{_LOSS}_input_derivative": _loss_slope,
    f"{_LOSS}_target_derivative": lambda x, p: p * _softplus(-x) - _softplus(x),
    f"{_LOSS}_pos_weight_derivative": lambda x, t: t * _softplus(-x),
}


def exact(name: str, value: Any = None) -> Callable[..., mpf]:
    """An operation in mpmath."""
    if name == "polygamma":
        return lambda x: mp.polygamma(value, x)
    if name == "bessel_i":
        return lambda x: mp.besseli(value, x)
    if name == "kummer":
        return lambda z: kummer(z, *value)
    if name == "exp2_times":
        return lambda x: value * mpf(2) ** x
    return _FUNCTIONS[name]

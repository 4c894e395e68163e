"""What a fused function may call, and the expression each call stands for.

functions.py declares the functions of one element under PyTorch's names; here are the compositions
of them, `_COMPOSITIONS` and `_LOSSES`, each under its names and with the signature of PyTorch's.
"""

from __future__ import annotations

import functools
import inspect
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import nn

from fusedgrad import functional, torch_versions
from fusedgrad.fuse.errors import FuseTypeError, FuseValueError
from fusedgrad.fuse.expression import Expression, apply, constant, make, power, where, wrap
from fusedgrad.fuse.expression import number as as_number
from fusedgrad.fuse.functions import FUNCTIONS, LOSS

_F = nn.functional
_T = torch.Tensor
Value = Expression | int | float
Builder = Callable[..., Any]


def _number(value: Any) -> Expression:
    """An operand that is a number, where PyTorch would promote a bool."""
    if not isinstance(value, (Expression, int, float)):
        raise FuseTypeError(f"an operand is {type(value).__name__}, expected a tensor or a number")
    return as_number(wrap(value))


def _condition(value: Any) -> Expression:
    """An operand that is true or false: of a number, whether it is not 0."""
    expression = wrap(value)
    return expression if expression.is_condition else apply("not_equal", expression, 0)


def _both(a: Expression, b: Expression) -> Expression:
    return make("and", a, b)


def _either(a: Expression, b: Expression) -> Expression:
    return make("or", a, b)


def _is(comparison: str, a: Value, b: Value) -> Expression:
    return apply(comparison, a, b)


def _is_nan(x: Expression) -> Expression:
    return apply("not_equal", x, x)


def _fixed(value: Any, name: str) -> int:
    if not isinstance(value, int):
        raise FuseValueError(
            f"{name} is a number that changes from call to call, expected one that stays"
        )
    return value


# ------------------------------------------------------------------------------------- arithmetic


def _add(input: Value, other: Value, *, alpha: Value = 1) -> Expression:
    return _number(input) + _number(other) * _number(alpha)


def _subtract(input: Value, other: Value, *, alpha: Value = 1) -> Expression:
    a, b = _number(input), _number(other) * _number(alpha)
    if a.operation == "expm1" and a.arguments[0] is b:
        return apply("expm1_rest", b)  # x^2/2 and so on, next to 0
    return a - b


def _reverse_subtract(input: Value, other: Value, *, alpha: Value = 1) -> Expression:
    return _subtract(other, input, alpha=alpha)


def _multiply(input: Value, other: Value) -> Expression:
    return _number(input) * _number(other)


def _divide(input: Value, other: Value, *, rounding_mode: str | None = None) -> Expression:
    if rounding_mode is None:
        return _number(input) / _number(other)
    rounding = {"trunc": "truncated_quotient", "floor": "floored_quotient"}[rounding_mode]
    return apply(rounding, _number(input), _number(other))


def _floor_divide(input: Value, other: Value) -> Expression:
    return apply("floored_quotient", _number(input), _number(other))


def _remainder(input: Value, other: Value) -> Expression:
    return apply("remainder", _number(input), _number(other))


def _power_of(input: Value, exponent: Value) -> Expression:
    base, by = _number(input), _number(exponent)
    if by.operation == "constant" and by.value == 0:
        return make("power", base, value=0)  # 1, at the shape of the base
    return power(base, by)


def _negative(input: Value) -> Expression:
    return -_number(input)


def _identity(input: Value, *_: Any, **__: Any) -> Expression:
    return _number(input)


def _square(input: Value) -> Expression:
    return _number(input) ** 2


def _sqrt(input: Value) -> Expression:
    x = _number(input)
    if x.operation == "add":
        for square, rest in (x.arguments, x.arguments[::-1]):
            base = _base_of_square(square)
            if base is not None:
                return apply("hypotenuse", base, rest)  # whose derivatives do not cancel
    return apply("sqrt", x)


def _base_of_square(e: Expression) -> Expression | None:
    if e.operation == "power" and e.value == 2:
        return e.arguments[0]
    if e.operation == "multiply" and e.arguments[0] is e.arguments[1]:
        return e.arguments[0]
    return None


def _rsqrt(input: Value) -> Expression:
    return 1 / apply("sqrt", _number(input))


def _reciprocal(input: Value) -> Expression:
    return 1 / _number(input)


def _addcmul(input: Value, tensor1: Value, tensor2: Value, *, value: Value = 1) -> Expression:
    return _number(input) + _number(value) * (_number(tensor1) * _number(tensor2))


def _addcdiv(input: Value, tensor1: Value, tensor2: Value, *, value: Value = 1) -> Expression:
    return _number(input) + _number(value) * (_number(tensor1) / _number(tensor2))


def _lerp(input: Value, end: Value, weight: Value) -> Expression:
    # From the nearer end, as in PyTorch, and so that equal ends give themselves
    start, stop, w = _number(input), _number(end), _number(weight)
    difference = stop - start
    from_start = start + w * difference
    from_stop = stop - difference * (1 - w)
    if w.operation == "constant":
        return from_start if abs(w.value) < 0.5 else from_stop
    return where(_is("less", apply("abs", w), 0.5), from_start, from_stop)


def _ldexp(input: Value, other: Value) -> Expression:
    return _number(input) * apply("exp2", _number(other))


def _deg2rad(input: Value) -> Expression:
    return _number(input) * (math.pi / 180)


def _rad2deg(input: Value) -> Expression:
    return _number(input) * (180 / math.pi)


def _frac(input: Value) -> Expression:
    x = _number(input)
    return x - apply("trunc", x)


def _round(input: Value, *, decimals: int = 0) -> Expression:
    x, places = _number(input), _fixed(decimals, "decimals")
    scale = 10.0 ** abs(places)
    if places == 0:
        return apply("round", x)
    if places < 0:
        return apply("round", x / scale) * scale
    return apply("round", x * scale) / scale


# ------------------------------------------------------------------------- comparisons and choices


def _clamp(input: Value, min: Value | None = None, max: Value | None = None) -> Expression:
    if min is None and max is None:
        raise FuseValueError("one of min and max must not be None")
    x = _number(input)
    shares = torch_versions.CLAMP_SHARES and any(map(_is_of_tensors, (min, max)))
    if min is None or max is None:
        bound = _number(max if min is None else min)
        if shares:
            return apply("minimum" if min is None else "maximum", x, bound)
        return apply("clamp_max" if min is None else "clamp_min", x, bound)
    return apply("clamp_by_tensors" if shares else "clamp", x, _number(min), _number(max))


def _is_of_tensors(value: Value | None) -> bool:
    return isinstance(value, Expression) and value.operation != "parameter"


def _clamp_max(input: Value, max: Value) -> Expression:
    return _clamp(input, max=max)


def _where_of(condition: Value, input: Value, other: Value) -> Expression:
    return where(_condition(condition), _number(input), _number(other))


def _masked_fill(input: Value, mask: Value, value: Value) -> Expression:
    return where(_condition(mask), _number(value), _number(input))


def _fmax(input: Value, other: Value) -> Expression:
    a, b = _number(input), _number(other)
    return where(_either(_is("greater_equal", a, b), _is_nan(b)), a, b)


def _fmin(input: Value, other: Value) -> Expression:
    a, b = _number(input), _number(other)
    return where(_either(_is("less_equal", a, b), _is_nan(b)), a, b)


def _heaviside(input: Value, values: Value) -> Expression:
    x = _number(input)
    step = where(_is("equal", x, 0), _number(values), as_number(_is("greater", x, 0)))
    return where(_is_nan(x), math.nan, step)


def _nan_to_num(
    input: Value,
    nan: Value | None = None,
    posinf: Value | None = None,
    neginf: Value | None = None,
    *,
    dtype: torch.dtype,
) -> Expression:
    x, info = _number(input), torch.finfo(dtype)
    high = _number(info.max if posinf is None else posinf)
    low = _number(info.min if neginf is None else neginf)
    # What rounds to infinity, for a half type less than the kernel's
    least = info.max + info.eps / 2 * 2.0 ** (math.frexp(info.max)[1] - 1)
    above = where(_is("greater_equal", x, least), high, x)
    infinite = where(_is("less_equal", x, -least), low, above)
    return where(_is_nan(x), _number(0 if nan is None else nan), infinite)


def _isnan(input: Value) -> Expression:
    return _is_nan(_number(input))


def _isinf(input: Value) -> Expression:
    return _is("equal", apply("abs", _number(input)), math.inf)


def _isfinite(input: Value) -> Expression:
    return _is("less", apply("abs", _number(input)), math.inf)


def _isposinf(input: Value) -> Expression:
    return _is("equal", _number(input), math.inf)


def _isneginf(input: Value) -> Expression:
    return _is("equal", _number(input), -math.inf)


def _isclose(
    input: Value, other: Value, rtol: Value = 1e-5, atol: Value = 1e-8, equal_nan: bool = False
) -> Expression:
    a, b = _number(input), _number(other)
    difference, allowed = apply("abs", a - b), _number(atol) + apply("abs", _number(rtol) * b)
    near = _both(_is("less", difference, math.inf), _is("less_equal", difference, allowed))
    close = _either(_is("equal", a, b), near)
    return _either(close, _both(_is_nan(a), _is_nan(b))) if equal_nan else close


# ---------------------------------------------------------------- logarithms and the gamma function


def _logit(input: Value, eps: Value | None = None) -> Expression:
    x = _number(input)
    if eps is None:
        return apply("logit", x)
    low = _number(eps)
    return apply("logit", apply("between", x, low, 1 - low))


def _polygamma(n: int, input: Value) -> Expression:
    return make("polygamma", _number(input), value=_fixed(n, "n"))


def _polygamma_method(input: Value, n: int) -> Expression:
    return _polygamma(n, input)


def _digamma(input: Value) -> Expression:
    return _polygamma(0, input)


def _mvlgamma(input: Value, p: int) -> Expression:
    x, count = _number(input), _fixed(p, "p")
    terms = [apply("lgamma", x - i / 2) for i in range(count)]
    return sum(terms, start=constant(count * (count - 1) / 4 * math.log(math.pi)))


# ------------------------------------------------------------------------------------ activations


def _softplus(input: Value, beta: Value = 1, threshold: Value = 20) -> Expression:
    # PyTorch's default threshold, above which it returns the input, is for formulas that overflow.
    x, b, most = _number(input), _number(beta), _number(threshold)
    scaled = b * x
    smooth = apply("softplus", scaled) / b
    if most.operation == "constant":
        return smooth if most.value == 20 else where(_is("greater", scaled, most), x, smooth)
    linear = _both(_is("greater", scaled, most), _is("not_equal", most, 20))
    return where(linear, x, smooth)


def _logsigmoid(input: Value) -> Expression:
    return -apply("softplus", -_number(input))


def _gelu(input: Value, approximate: str = "none") -> Expression:
    x = _number(input)
    if approximate == "none":
        return apply("gelu", x)
    if approximate != "tanh":
        raise FuseValueError(f"approximate is {approximate!r}, expected 'none' or 'tanh'")
    # (1 + tanh(u)) / 2 = sigmoid(2 u), which keeps the digits of the lower tail. Beyond 1e4 it is
    # 0 or 1, and would meet infinity.
    near = apply("bounded", x)
    gate = apply("sigmoid", math.sqrt(8 / math.pi) * (near + 0.044715 * near**3))
    return where(_is("greater", x, 1e4), x, near * gate)


def _threshold(input: Value, threshold: Value, value: Value) -> Expression:
    x = _number(input)
    return where(_is("less_equal", x, _number(threshold)), _number(value), x)


def _hardtanh(input: Value, min_val: Value = -1.0, max_val: Value = 1.0) -> Expression:
    # Flat on its bounds, where clamp is not.
    x, low, high = _number(input), _number(min_val), _number(max_val)
    above = where(_is("greater_equal", x, high), high, x)
    return where(_is("less_equal", x, low), low, above)


def _relu6(input: Value) -> Expression:
    return _hardtanh(input, 0.0, 6.0)


def _hardsigmoid(input: Value) -> Expression:
    return _hardtanh(_number(input), -3.0, 3.0) / 6 + 0.5


def _hardswish(input: Value) -> Expression:
    x = _number(input)
    above = where(_is("less", x, 3), x * ((x + 3) / 6), x)
    return where(_is("less_equal", x, -3), 0, above)


def _hardshrink(input: Value, lambd: Value = 0.5) -> Expression:
    x, most = _number(input), _number(lambd)
    inside = _both(_is("greater_equal", x, -most), _is("less_equal", x, most))
    return where(inside, 0, x)


def _softshrink(input: Value, lambd: Value = 0.5) -> Expression:
    x, most = _number(input), _number(lambd)
    above = where(_is("greater", x, most), x - most, 0 * x)
    return where(_is("less", x, -most), x + most, above)


def _leaky_relu(input: Value, negative_slope: Value = 0.01) -> Expression:
    x = _number(input)
    return where(_is("greater", x, 0), x, x * _number(negative_slope))


def _elu(
    input: Value, alpha: Value = 1.0, scale: Value = 1.0, input_scale: Value = 1.0
) -> Expression:
    x, s = _number(input), _number(scale)
    below = apply("expm1", x * _number(input_scale)) * (_number(alpha) * s)
    return where(_is("greater", x, 0), x * s, below)


def _celu(input: Value, alpha: Value = 1.0) -> Expression:
    x, a = _number(input), _number(alpha)
    return where(_is("greater", x, 0), x, a * apply("expm1", x / a))


def _selu(input: Value) -> Expression:
    return _elu(input, 1.6732632423543772848170429916717, 1.0507009873554804934193349852946)


# ----------------------------------------------------------------------------------------- losses


def _weighted(weight: Value | None, loss: Expression) -> Expression:
    return loss if weight is None else apply("weighted", _number(weight), loss)


def _binary_cross_entropy_with_logits(
    input: Value, target: Value, weight: Value | None = None, pos_weight: Value | None = None
) -> Expression:
    p = _number(1 if pos_weight is None else pos_weight)
    return _weighted(weight, apply(LOSS, _number(input), _number(target), p))


def _binary_cross_entropy(input: Value, target: Value, weight: Value | None = None) -> Expression:
    x, t = _number(input), _number(target)
    hit = apply("weighted", t, apply("log_of_probability", x))
    miss = apply("weighted", 1 - t, apply("log_of_probability", 1 - x))
    # Outside PyTorch raises: a call whose result is NaN asks it (function._within_bounds).
    inside = [_both(_is("greater_equal", v, 0), _is("less_equal", v, 1)) for v in (x, t)]
    return _weighted(weight, where(_both(*inside), -(hit + miss), math.nan))


def _mse_loss(input: Value, target: Value, weight: Value | None = None) -> Expression:
    return _scaled((_number(input) - _number(target)) ** 2, weight)


def _l1_loss(input: Value, target: Value, weight: Value | None = None) -> Expression:
    return _scaled(apply("abs", _number(input) - _number(target)), weight)


def _scaled(loss: Expression, weight: Value | None) -> Expression:
    return loss if weight is None else loss * _number(weight)


def _smooth_l1_loss(input: Value, target: Value, beta: Value = 1.0) -> Expression:
    distance, b = apply("abs", _number(input) - _number(target)), _number(beta)
    near = 0.5 * (distance * distance) / b
    return where(_is("less", distance, b), near, distance - 0.5 * b)


def _huber_loss(
    input: Value, target: Value, delta: Value = 1.0, weight: Value | None = None
) -> Expression:
    distance, d = apply("abs", _number(input) - _number(target)), _number(delta)
    near, far = 0.5 * (distance * distance), d * (distance - 0.5 * d)
    return _scaled(where(_is("less", distance, d), near, far), weight)


def _soft_margin_loss(input: Value, target: Value) -> Expression:
    return apply("softplus", -(_number(target) * _number(input)))


def _hinge_embedding_loss(input: Value, target: Value, margin: Value = 1.0) -> Expression:
    x, t = _number(input), _number(target)
    missing = apply("clamp_min", _number(margin) - x, 0)
    return where(_is("equal", t, 1), 0, missing) + where(_is("equal", t, -1), 0, x)


def _margin_ranking_loss(
    input1: Value, input2: Value, target: Value, margin: Value = 0
) -> Expression:
    lead = _number(target) * (_number(input1) - _number(input2))
    return apply("clamp_min", _number(margin) - lead, 0)


def _poisson_nll_loss(
    input: Value, target: Value, log_input: bool = True, full: bool = False, eps: Value = 1e-8
) -> Expression:
    x, t = _number(input), _number(target)
    loss = apply("exp", x) - t * x if log_input else x - t * apply("log", x + _number(eps))
    if full:
        stirling = t * apply("log", t) - t + 0.5 * apply("log", 2 * math.pi * t)
        loss = loss + where(_is("greater", t, 1), stirling, 0)
    return loss


def _gaussian_nll_loss(
    input: Value, target: Value, var: Value, full: bool = False, eps: Value = 1e-6
) -> Expression:
    x, t, given = _number(input), _number(target), _number(var)
    # As PyTorch: a bound on the value alone. PyTorch reads the values and raises below 0.
    bounded = where(_is("less", given, 0), math.nan, apply("maximum", given, _number(eps)))
    variance = make("replaced", bounded, given)
    loss = 0.5 * (apply("log", variance) + (x - t) ** 2 / variance)
    return loss + 0.5 * math.log(2 * math.pi) if full else loss


def _kl_div(input: Value, target: Value, log_target: bool = False) -> Expression:
    x, t = _number(input), _number(target)
    if log_target:
        return apply("exp", t) * (t - x)
    return apply("xlogy", t, t) - apply("weighted", t, x)


# ------------------------------------------------------------------------------------ the registry


@dataclass(frozen=True, slots=True)
class Rule:
    """What is done with a call: `build` makes the expression of it."""

    name: str
    build: Builder
    in_place: bool = False
    # "itself" if the result is the argument where the dtype stays, "memory" if it shares memory
    same: str = ""
    asked: Any = None  # PyTorch's own, of which the result's dtype is asked
    # Of a loss, its arguments apart from those that say how it is reduced
    unreduced: Callable[[tuple[Any, ...], dict[str, Any]], Any] | None = None
    inplace: int | None = None  # the place of an argument of that name


def _call(operation: str, kind: Callable[[Any], Expression] = _number) -> Builder:
    def build(input: Value, *others: Value, **named: Value) -> Expression:
        return apply(operation, *map(kind, (input, *others, *named.values())))

    return build


# By the names that functions of torch, methods of tensors and the rest share; the first is that of
# the rule. Each has a form in place where PyTorch has one.
_COMPOSITIONS: dict[str, Builder] = {
    "add __add__ __radd__ __iadd__": _add,
    "sub subtract __sub__ __isub__": _subtract,
    "rsub __rsub__": _reverse_subtract,
    "mul multiply __mul__ __rmul__ __imul__": _multiply,
    "div divide true_divide __truediv__ __div__ __itruediv__ __idiv__": _divide,
    "__rtruediv__ __rdiv__": lambda input, other: _divide(other, input),
    "floor_divide __floordiv__ __ifloordiv__": _floor_divide,
    "__rfloordiv__": lambda input, other: _floor_divide(other, input),
    "remainder __mod__ __imod__": _remainder,
    "__rmod__": lambda input, other: _remainder(other, input),
    "pow __pow__ __ipow__": _power_of,
    "__rpow__": lambda input, other: _power_of(other, input),
    "float_power": _power_of,
    "neg negative __neg__": _negative,
    "positive __pos__": _identity,
    "square": _square,
    "sqrt": _sqrt,
    "rsqrt": _rsqrt,
    "reciprocal": _reciprocal,
    "abs absolute __abs__": _call("abs"),
    "addcmul": _addcmul,
    "addcdiv": _addcdiv,
    "lerp": _lerp,
    "ldexp": _ldexp,
    "deg2rad": _deg2rad,
    "rad2deg": _rad2deg,
    "frac": _frac,
    "round": _round,
    "eq __eq__": _call("equal"),
    "ne not_equal __ne__": _call("not_equal"),
    "lt less __lt__": _call("less"),
    "le less_equal __le__": _call("less_equal"),
    "gt greater __gt__": _call("greater"),
    "ge greater_equal __ge__": _call("greater_equal"),
    "isclose": _isclose,
    "isnan": _isnan,
    "isinf": _isinf,
    "isfinite": _isfinite,
    "isposinf": _isposinf,
    "isneginf": _isneginf,
    "logical_and __and__ __rand__ __iand__ bitwise_and": _call("and", _condition),
    "logical_or __or__ __ror__ __ior__ bitwise_or": _call("or", _condition),
    "logical_xor __xor__ __rxor__ __ixor__ bitwise_xor": _call("xor", _condition),
    "logical_not __invert__ bitwise_not": _call("not", _condition),
    "maximum": _call("maximum"),
    "minimum": _call("minimum"),
    "fmax": _fmax,
    "fmin": _fmin,
    "clamp clip": _clamp,
    "clamp_min": _clamp,
    "clamp_max": _clamp_max,
    "masked_fill": _masked_fill,
    "heaviside": _heaviside,
    "nan_to_num": _nan_to_num,
    "logit": _logit,
    "digamma psi": _digamma,
    "mvlgamma multigammaln": _mvlgamma,
    "softplus": _softplus,
    "logsigmoid": _logsigmoid,
    "gelu": _gelu,
    "threshold": _threshold,
    "hardtanh": _hardtanh,
    "relu6": _relu6,
    "hardsigmoid": _hardsigmoid,
    "hardswish": _hardswish,
    "hardshrink": _hardshrink,
    "softshrink": _softshrink,
    "leaky_relu prelu": _leaky_relu,
    "elu": _elu,
    "celu": _celu,
    "selu": _selu,
}
_LOSSES: dict[str, Builder] = {
    "binary_cross_entropy_with_logits": _binary_cross_entropy_with_logits,
    "binary_cross_entropy": _binary_cross_entropy,
    "mse_loss": _mse_loss,
    "l1_loss": _l1_loss,
    "smooth_l1_loss": _smooth_l1_loss,
    "huber_loss": _huber_loss,
    "soft_margin_loss": _soft_margin_loss,
    "hinge_embedding_loss": _hinge_embedding_loss,
    "margin_ranking_loss": _margin_ranking_loss,
    "poisson_nll_loss": _poisson_nll_loss,
    "gaussian_nll_loss": _gaussian_nll_loss,
    "kl_div": _kl_div,
}
# Of a bool result, these compare numbers, and those join conditions.
COMPARISONS = frozenset(
    {*("eq", "ge", "gt", "le", "lt", "ne", "isclose", "isnan", "isinf", "isfinite")}
    | {*("isposinf", "isneginf", "signbit")}
)
# Those that jump where a number is, which PyTorch rounds to the tensors' dtype before
ROUNDED = frozenset(("eq", "ge", "gt", "le", "lt", "ne", "clamp", "clamp_min", "clamp_max")) | {
    *("remainder", "__rmod__", "fmod", "hardshrink")
}
# Whose derivatives do
EXTREMES = frozenset(("maximum", "minimum", "fmax", "fmin"))
LOGICAL = frozenset(("logical_and", "logical_or", "logical_not", "logical_xor"))
# The places of arguments that are conditions
CHOSEN_BY = {"where": 0, "where_method": 1, "masked_fill": 1}
# Arguments that must have the shape of the first, where PyTorch demands it or else means another
OF_ONE_SHAPE = {
    "binary_cross_entropy_with_logits": ("target",),
    "binary_cross_entropy": ("target",),
    "gaussian_nll_loss": ("var",),
    "mse_loss": ("weight",),
    "l1_loss": ("weight",),
    "huber_loss": ("weight",),
}
# Whose ints are no numbers that a kernel takes anew: each is an operation of its own
OF_FIXED_NUMBERS = frozenset(("round", "polygamma", "polygamma_method", "mvlgamma"))
# Of which PyTorch checks the values
BOUNDED = frozenset(("binary_cross_entropy",))
# Builders that take the result's dtype
TYPED = frozenset(("nan_to_num",))
# Through which no gradient goes
BLOCKING = frozenset(("detach", "zeros_like", "ones_like", "full_like"))
# A kernel's, of which PyTorch has no derivative
STEPS = frozenset(("heaviside", "floor_divide", "__floordiv__", "__rfloordiv__"))

# What PyTorch alone computes, operation by operation, for no float is among it
_OF_INTEGERS = (
    "bitwise_left_shift bitwise_right_shift __lshift__ __rshift__ __rlshift__ __rrshift__ "
    "__ilshift__ __irshift__ gcd lcm long int short char byte bool"
)
# Functions of floats that PyTorch computes and does not differentiate, nor does fuse
_OPAQUE = (
    "airy_ai bessel_j0 bessel_j1 bessel_y0 bessel_y1 modified_bessel_i0 modified_bessel_i1 "
    "modified_bessel_k0 modified_bessel_k1 scaled_modified_bessel_k0 scaled_modified_bessel_k1 "
    "spherical_bessel_j0 zeta chebyshev_polynomial_t chebyshev_polynomial_u "
    "chebyshev_polynomial_v chebyshev_polynomial_w hermite_polynomial_h hermite_polynomial_he "
    "laguerre_polynomial_l legendre_polynomial_p shifted_chebyshev_polynomial_t "
    "shifted_chebyshev_polynomial_u shifted_chebyshev_polynomial_v "
    "shifted_chebyshev_polynomial_w gammainc gammaincc igamma igammac nextafter"
)
OPAQUE = frozenset(_OPAQUE.split())
WITHOUT_DERIVATIVE = OPAQUE | STEPS
_CASTS = "to type_as float double half bfloat16"


def _only_by_torch(*_: Any, **__: Any) -> Expression:
    raise FuseTypeError("it is no elementwise operation that fuse knows for floats")


def _filled_like(value: float) -> Builder:
    return lambda input, **_: wrap(value)


def _detach(input: Value) -> Expression:
    return apply("detach", _number(input))


def _where_method(input: Value, condition: Value, other: Value) -> Expression:
    return _where_of(condition, input, other)


def _owners(name: str) -> Iterator[Any]:
    """PyTorch's functions of this name."""
    for owner in (torch, _T, _F, torch.special, torch._C._nn):
        function = getattr(owner, name, None)
        if function is not None and callable(function):
            yield function


# Whose mean with weights is over the sum of those
_BY_WEIGHTS = (_F.mse_loss, _F.l1_loss)
WEIGHTED_MEAN = "mean by weights"
# The sum over the length of the first dimension
_MORE_REDUCTIONS = {_F.kl_div: ("batchmean",)}


@functools.cache
def _parameters(function: Any) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # of functions written in C
        return ()


def _unreduced(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The arguments of a loss but for its reduction, and that."""
    bound = inspect.signature(function).bind(*args, **kwargs).arguments
    size_average, reduce = bound.pop("size_average", None), bound.pop("reduce", None)
    reduction = bound.pop("reduction", "mean")
    if size_average is not None or reduce is not None:
        reduction = nn._reduction.legacy_get_string(size_average, reduce, emit_warning=False)
    if function is _F.l1_loss:  # which hands itself over without its weight
        bound.setdefault("weight", _left_out(function, "weight"))
    if reduction not in ("none", "mean", "sum", *_MORE_REDUCTIONS.get(function, ())):
        raise FuseValueError(
            f"{function.__name__}: reduction is {reduction!r}, expected 'none', 'mean' or 'sum'"
        )
    if reduction == "mean" and bound.get("weight") is not None and function in _BY_WEIGHTS:
        reduction = WEIGHTED_MEAN
    return (bound.pop(next(iter(bound))),), bound, reduction


def _left_out(function: Any, name: str) -> Any:
    """An argument of PyTorch's Python function that is being called."""
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_code is not function.__code__:
        frame = frame.f_back
    return frame.f_locals.get(name) if frame.f_code is function.__code__ else None


def _rules() -> dict[Any, Rule]:
    rules: dict[Any, Rule] = {}

    def add(names: str, build: Builder, same: str = "") -> None:
        first = names.split()[0]
        for name in names.split():
            is_in_place = name.startswith("__i") and name != "__invert__"
            for function in _owners(name):
                parameters = _parameters(function)
                place = parameters.index("inplace") if "inplace" in parameters else None
                rules.setdefault(function, Rule(first, build, is_in_place, same, None, None, place))
            if not name.startswith("__"):
                for function in _owners(f"{name}_"):
                    rules.setdefault(function, Rule(first, build, in_place=True))

    for names, build in _COMPOSITIONS.items():
        add(names, build, "itself" if names.startswith("positive") else "")
    for function in FUNCTIONS:
        if function.names and function.name not in ("sqrt", "abs"):
            add(function.names, _call(function.name))
    add("polygamma", _polygamma)
    for name in ("polygamma", "polygamma_"):
        rule = Rule("polygamma_method", _polygamma_method, in_place=name.endswith("_"))
        rules[getattr(_T, name)] = rule
    rules[torch.where] = Rule("where", _where_of)
    rules[_T.where] = Rule("where_method", _where_method)
    for name in _CASTS.split():
        rules[getattr(_T, name)] = Rule("cast", _identity, same="itself")
    for owner in (torch, _T):
        rules[owner.detach] = Rule(
            "detach", lambda input: apply("detach", _number(input)), same="memory"
        )
        rules[owner.clone] = Rule("clone", _identity)
    rules[_T.fill_] = Rule("fill", lambda input, value: _number(value), in_place=True)
    rules[_T.zero_] = Rule("zero", lambda input: constant(0), in_place=True)
    rules[_T.copy_] = Rule("copy", lambda input, src, *_: _number(src), in_place=True)
    rules[torch.zeros_like] = Rule("zeros_like", _filled_like(0))
    rules[torch.ones_like] = Rule("ones_like", _filled_like(1))
    rules[torch.full_like] = Rule("full_like", lambda input, fill_value, **_: _number(fill_value))
    for owner in (torch, _T):  # of all elements, as the result of the function
        for name in ("mean", "sum"):
            rules[getattr(owner, name)] = Rule("reduced", _only_by_torch)
    for name in _OF_INTEGERS.split():
        add(name, _only_by_torch)
    for name in OPAQUE:
        add(name, _only_by_torch)
    for name, build in _LOSSES.items():
        own = getattr(_F, name)
        rules[own] = Rule(name, build, unreduced=functools.partial(_unreduced, own))
    same_named = {"pow": _power_of, "sigmoid": _call("sigmoid"), "tanh": _call("tanh")}
    for name, build in same_named.items():
        rules[getattr(functional, name)] = Rule(name, build, asked=getattr(torch, name))
    for name in ("binary_cross_entropy", "binary_cross_entropy_with_logits"):
        own = getattr(_F, name)
        rules[getattr(functional, name)] = replace(rules[own], asked=own)
    return rules


RULES = _rules()
BUILDERS: dict[str, Builder] = {}
for _rule in RULES.values():
    BUILDERS.setdefault(_rule.name, _rule.build)


def _called(*operands: Value, graph: Any) -> Expression:
    names = (*graph.inputs, *graph.parameters)
    given = {name: wrap(operand) for name, operand in zip(names, operands, strict=True)}
    (result,) = graph.called(given)
    return cast(Expression, result)


BUILDERS["graph"] = _called

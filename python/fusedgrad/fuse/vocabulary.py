"""What a fused function may call, and the expression each call stands for.

The builders have the signatures of the PyTorch functions.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fusedgrad import functional
from fusedgrad.fuse.errors import FuseTypeError, FuseValueError
from fusedgrad.fuse.expression import Expression, apply, make, power, where, wrap
from fusedgrad.fuse.expression import number as as_number

_F = nn.functional
Value = Expression | int | float
Builder = Callable[..., Any]


def _number(value: Any) -> Expression:
    """An operand that is a number, where PyTorch would promote a bool."""
    if not isinstance(value, (Expression, int, float)):
        raise FuseTypeError(f"an operand is {type(value).__name__}, expected a tensor or a number")
    return as_number(wrap(value))


def _condition(value: Any) -> Expression:
    if not (isinstance(value, Expression) and value.is_condition):
        raise FuseTypeError("an operand of a logical operation is no comparison")
    return value


def _add(input: Value, other: Value, *, alpha: Value = 1) -> Expression:
    return _number(input) + _number(other) * _number(alpha)


def _subtract(input: Value, other: Value, *, alpha: Value = 1) -> Expression:
    return _number(input) - _number(other) * _number(alpha)


def _reverse_subtract(input: Value, other: Value, *, alpha: Value = 1) -> Expression:
    return _subtract(other, input, alpha=alpha)


def _multiply(input: Value, other: Value) -> Expression:
    return _number(input) * _number(other)


def _divide(input: Value, other: Value, *, rounding_mode: str | None = None) -> Expression:
    if rounding_mode is not None:
        raise FuseValueError("rounding_mode is not None")
    return _number(input) / _number(other)


def _power_of(input: Value, exponent: Value) -> Expression:
    base, by = _number(input), _number(exponent)
    if by.operation == "constant" and by.value == 0:
        return make("power", base, value=0)  # 1, at the shape of the base
    return power(base, by)


def _negative(input: Value) -> Expression:
    return -_number(input)


def _positive(input: Value) -> Expression:
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


def _softplus(input: Value, beta: float = 1, threshold: float = 20) -> Expression:
    # The threshold, above which PyTorch returns the input, is for formulas that overflow.
    return apply("softplus", beta * _number(input)) / beta


def _logsigmoid(input: Value) -> Expression:
    return -apply("softplus", -_number(input))


def _mish(input: Value) -> Expression:
    return _number(input) * apply("tanh", apply("softplus", _number(input)))


def _gelu(input: Value, approximate: str = "none") -> Expression:
    x = _number(input)
    if approximate == "none":
        return apply("gelu", x)
    if approximate != "tanh":
        raise FuseValueError(f"approximate is {approximate!r}, expected 'none' or 'tanh'")
    # (1 + tanh(u)) / 2 = sigmoid(2 u), which keeps the digits of the lower tail. Where x is clamped
    # it is 0 or 1, and a derivative would be 0 * inf.
    bounded = _clamp(x, -1e4, 1e4)
    return x * apply("sigmoid", math.sqrt(8 / math.pi) * (bounded + 0.044715 * bounded**3))


def _clamp(input: Value, min: Value | None = None, max: Value | None = None) -> Expression:
    if min is None and max is None:
        raise FuseValueError("one of min and max must not be None")
    x = _number(input)
    if min is None or max is None:
        bound = _number(max if min is None else min)
        return apply("clamp_max" if min is None else "clamp_min", x, bound)
    return apply("clamp", x, _number(min), _number(max))


def _clamp_max(input: Value, max: Value) -> Expression:
    return _clamp(input, max=max)


def _where_of(condition: Value, input: Value, other: Value) -> Expression:
    return where(_condition(condition), _number(input), _number(other))


def _binary_cross_entropy_with_logits(
    input: Value,
    target: Value,
    weight: Value | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Value | None = None,
) -> Expression:
    if size_average is not None or reduce is not None or reduction != "none":
        raise FuseValueError(
            "a reduction cannot be fused: pass reduction='none', and reduce the result of the "
            "fused function"
        )
    x, t = _number(input), _number(target)
    p = _number(1 if pos_weight is None else pos_weight)
    loss = apply("binary_cross_entropy_with_logits", x, t, p)
    return loss if weight is None else apply("weighted", _number(weight), loss)


def _unary(operation: str) -> Builder:
    return lambda input: apply(operation, _number(input))


def _binary(operation: str) -> Builder:
    return lambda input, other: apply(operation, _number(input), _number(other))


def _logical(operation: str) -> Builder:
    return lambda *conditions: apply(operation, *map(_condition, conditions))


_SAME_NAME = (
    *("exp", "expm1", "log", "log1p", "sin", "cos", "erf", "sigmoid", "tanh"),
    *("relu", "abs", "sign"),
)

# By the name that functions of torch and methods of tensors share
_BUILDERS: dict[str, Builder] = {
    **{name: _unary(name) for name in _SAME_NAME},
    "absolute": _unary("abs"),
    "add": _add,
    "clamp": _clamp,
    "clamp_max": _clamp_max,
    "clamp_min": _clamp,
    "clip": _clamp,
    "div": _divide,
    "divide": _divide,
    "eq": _binary("equal"),
    "ge": _binary("greater_equal"),
    "greater": _binary("greater"),
    "greater_equal": _binary("greater_equal"),
    "gt": _binary("greater"),
    "le": _binary("less_equal"),
    "less": _binary("less"),
    "less_equal": _binary("less_equal"),
    "logical_and": _logical("and"),
    "logical_not": _logical("not"),
    "logical_or": _logical("or"),
    "lt": _binary("less"),
    "maximum": _binary("maximum"),
    "minimum": _binary("minimum"),
    "mul": _multiply,
    "multiply": _multiply,
    "ne": _binary("not_equal"),
    "neg": _negative,
    "negative": _negative,
    "not_equal": _binary("not_equal"),
    "positive": _positive,
    "pow": _power_of,
    "reciprocal": _reciprocal,
    "rsqrt": _rsqrt,
    "rsub": _reverse_subtract,
    "sgn": _unary("sign"),
    "sqrt": _sqrt,
    "square": _square,
    "sub": _subtract,
    "subtract": _subtract,
    "true_divide": _divide,
    "where": _where_of,
}

METHODS: dict[str, Builder] = {
    **_BUILDERS,
    # input.where(condition, other)
    "where": lambda input, condition, other: _where_of(condition, input, other),
}

FUNCTIONS: dict[Any, Builder] = {
    **{getattr(torch, name): build for name, build in _BUILDERS.items() if hasattr(torch, name)},
    operator.add: _add,
    operator.and_: _logical("and"),
    operator.eq: _binary("equal"),
    operator.ge: _binary("greater_equal"),
    operator.gt: _binary("greater"),
    operator.invert: _logical("not"),
    operator.le: _binary("less_equal"),
    operator.lt: _binary("less"),
    operator.mul: _multiply,
    operator.ne: _binary("not_equal"),
    operator.neg: _negative,
    operator.or_: _logical("or"),
    operator.pos: _positive,
    operator.pow: _power_of,
    operator.sub: _subtract,
    operator.truediv: _divide,
    abs: _unary("abs"),
    torch.special.erf: _unary("erf"),
    torch.special.expit: _unary("sigmoid"),
    torch.special.expm1: _unary("expm1"),
    torch.special.log1p: _unary("log1p"),
    torch.special.ndtr: _unary("normal_cdf"),
    _F.binary_cross_entropy_with_logits: _binary_cross_entropy_with_logits,
    _F.gelu: _gelu,
    _F.logsigmoid: _logsigmoid,
    _F.mish: _mish,
    _F.relu: _unary("relu"),
    _F.sigmoid: _unary("sigmoid"),
    _F.silu: _unary("silu"),
    _F.softplus: _softplus,
    _F.tanh: _unary("tanh"),
    functional.binary_cross_entropy_with_logits: _binary_cross_entropy_with_logits,
    functional.pow: _power_of,
    functional.sigmoid: _unary("sigmoid"),
    functional.tanh: _unary("tanh"),
}

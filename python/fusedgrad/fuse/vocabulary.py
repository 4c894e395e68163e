"""What a fused function may call, and the expression each call stands for.

The builders have the signatures of the PyTorch functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

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


def _where_method(input: Value, condition: Value, other: Value) -> Expression:
    return _where_of(condition, input, other)


def _cast(input: Value, *_: Any, **__: Any) -> Expression:
    return _number(input)


def _detach(input: Value) -> Expression:
    return apply("detach", _number(input))


def _filled_like(value: float) -> Builder:
    return lambda input, **_: wrap(value)


@dataclass(frozen=True, slots=True)
class Rule:
    """What is done with a call: `build` makes the expression of it."""

    name: str
    build: Builder
    in_place: bool = False
    # "itself" if the result is the argument where the dtype stays, "memory" if it shares memory
    same: str = ""
    asked: Any = None  # PyTorch's own, of which the result's dtype is asked


_T = torch.Tensor
# Of a bool result, these compare numbers, and those join conditions.
COMPARISONS = frozenset({"eq", "ge", "gt", "le", "lt", "ne"})
LOGICAL = frozenset({"logical_and", "logical_or", "logical_not"})

_ALIASES = {
    "greater": "gt",
    "greater_equal": "ge",
    "less": "lt",
    "less_equal": "le",
    "not_equal": "ne",
}
_DUNDERS = {
    "__eq__": "eq",
    "__ne__": "ne",
    "__lt__": "lt",
    "__le__": "le",
    "__gt__": "gt",
    "__ge__": "ge",
    "__and__": "logical_and",
    "__or__": "logical_or",
    "__rand__": "logical_and",
    "__ror__": "logical_or",
    "__invert__": "logical_not",
    "bitwise_and": "logical_and",
    "bitwise_or": "logical_or",
    "bitwise_not": "logical_not",
    "__pow__": "pow",
    "__add__": "add",
    "__mul__": "mul",
    "__sub__": "sub",
    "__truediv__": "div",
    "__div__": "div",
    "__neg__": "neg",
    "__pos__": "positive",
    "__abs__": "abs",
    "__radd__": "add",
    "__rmul__": "mul",
}
_IN_PLACE_DUNDERS = {
    "__iadd__": "add",
    "__isub__": "sub",
    "__imul__": "mul",
    "__itruediv__": "div",
    "__ipow__": "pow",
    "__idiv__": "div",
    "__iand__": "logical_and",
    "__ior__": "logical_or",
}
_REFLECTED: dict[str, Builder] = {
    "__rsub__": lambda input, other: _subtract(other, input),
    "__rdiv__": lambda input, other: _divide(other, input),
    "__rtruediv__": lambda input, other: _divide(other, input),
    "__rpow__": lambda input, other: _power_of(other, input),
}
_CASTS = "to type_as float double half bfloat16"
# What PyTorch alone computes, operation by operation: integers and bool.
_BY_TORCH = (
    "remainder fmod floor_divide bitwise_xor bitwise_left_shift bitwise_right_shift "
    "__xor__ __rxor__ __floordiv__ __mod__ __lshift__ __rshift__ logical_xor long int short char "
    "byte bool floor ceil round trunc isnan isinf isfinite"
)


def _only_by_torch(*_: Any, **__: Any) -> Expression:
    raise FuseTypeError("it is no elementwise operation that fuse knows for floats")


def _rules() -> dict[Any, Rule]:
    rules: dict[Any, Rule] = {}

    def add(owner: Any, name: str, rule: Rule) -> None:
        function = getattr(owner, name, None)
        if function is not None:
            rules.setdefault(function, rule)

    for name, build in _BUILDERS.items():
        rule = Rule(_ALIASES.get(name, name), build, same="itself" if name == "positive" else "")
        if name == "where":
            add(torch, name, rule)
            method = Rule(
                "where", lambda input, condition, other: _where_of(condition, input, other)
            )
            add(_T, name, Rule("where_method", method.build))
            continue
        add(torch, name, rule)
        add(_T, name, rule)
        add(_F, name, rule)
        for owner in (torch, _T, _F):
            add(owner, f"{name}_", Rule(rule.name, build, in_place=True))
    for name, target in _DUNDERS.items():
        for owner in (torch, _T):
            add(owner, name, Rule(target, _BUILDERS[target]))
            if name.startswith("bitwise"):
                add(owner, f"{name}_", Rule(target, _BUILDERS[target], in_place=True))
    for name, target in _IN_PLACE_DUNDERS.items():
        add(_T, name, Rule(target, _BUILDERS[target], in_place=True))
    for name, build in _REFLECTED.items():
        add(_T, name, Rule(name, build))
    for name in _CASTS.split():
        add(_T, name, Rule("cast", _cast, same="itself"))
    for owner in (torch, _T):
        add(owner, "detach", Rule("detach", _detach, same="memory"))
        add(owner, "clone", Rule("clone", _cast))
        add(owner, "fill_", Rule("fill", lambda input, value: _number(value), in_place=True))
        add(owner, "copy_", Rule("copy", lambda input, src, *_: _number(src), in_place=True))
        for name in _BY_TORCH.split():
            add(owner, name, Rule(name, _only_by_torch))
    add(torch, "zeros_like", Rule("zeros_like", _filled_like(0)))
    add(torch, "ones_like", Rule("ones_like", _filled_like(1)))
    add(torch, "full_like", Rule("full_like", lambda input, fill_value, **_: _number(fill_value)))
    special: dict[str, Builder] = {
        "erf": _unary("erf"),
        "expit": _unary("sigmoid"),
        "expm1": _unary("expm1"),
        "log1p": _unary("log1p"),
        "ndtr": _unary("normal_cdf"),
    }
    for name, build in special.items():
        add(torch.special, name, Rule(f"special_{name}", build))
    functions: dict[str, Builder] = {
        "binary_cross_entropy_with_logits": _binary_cross_entropy_with_logits,
        "gelu": _gelu,
        "logsigmoid": _logsigmoid,
        "mish": _inplace(_mish),
        "relu": _inplace(_unary("relu")),
        "silu": _inplace(_unary("silu")),
        "softplus": _softplus,
        "sigmoid": _unary("sigmoid"),
        "tanh": _unary("tanh"),
    }
    for name, build in functions.items():
        rules[getattr(_F, name)] = Rule(name, build)
    for name in ("binary_cross_entropy_with_logits", "pow", "sigmoid", "tanh"):
        own = getattr(_F, name, None) or getattr(torch, name)
        rules[getattr(functional, name)] = Rule(name, functions.get(name, _power_of), asked=own)
    return rules


def _inplace(build: Builder) -> Builder:
    return lambda input, inplace=False: build(input)


RULES = _rules()
BUILDERS: dict[str, Builder] = {rule.name: rule.build for rule in RULES.values()}
BUILDERS.update({rule.name: rule.build for rule in RULES.values() if not rule.in_place})


def _called(*operands: Value, graph: Any) -> Expression:
    names = (*graph.inputs, *graph.parameters)
    given = {name: wrap(operand) for name, operand in zip(names, operands, strict=True)}
    (result,) = graph.called(given)
    return cast(Expression, result)


BUILDERS["graph"] = _called

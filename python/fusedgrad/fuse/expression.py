# ruff: noqa: D105  (operators say themselves what they do)
"""Expressions of one element: hash-consed, simplified, and with their derivatives.

Equal expressions are one object, so that what is computed twice is computed once. A simplification
changes no result, not even the sign of a zero. `OPERATIONS` is closed under differentiation: every
rule builds its result from operations of the same table, in forms that do not cancel.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Number = int | float


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Expression:
    """An operation applied to expressions; `value` holds what of it is no expression.

    `value` is the number of a "constant", the name of an "input" or a "parameter", the exponent of
    a "power", and how often "pow_derivative" differentiates by base and exponent.
    """

    operation: str
    arguments: tuple[Expression, ...] = ()
    value: Any = None

    def __add__(self, other: Expression | Number) -> Expression:
        return add(self, wrap(other))

    def __radd__(self, other: Number) -> Expression:
        return add(wrap(other), self)

    def __sub__(self, other: Expression | Number) -> Expression:
        return subtract(self, wrap(other))

    def __rsub__(self, other: Number) -> Expression:
        return subtract(wrap(other), self)

    def __mul__(self, other: Expression | Number) -> Expression:
        return multiply(self, wrap(other))

    def __rmul__(self, other: Number) -> Expression:
        return multiply(wrap(other), self)

    def __truediv__(self, other: Expression | Number) -> Expression:
        return divide(self, wrap(other))

    def __rtruediv__(self, other: Number) -> Expression:
        return divide(wrap(other), self)

    def __pow__(self, exponent: Number) -> Expression:
        return power(self, exponent)

    def __neg__(self) -> Expression:
        return negate(self)

    @property
    def is_condition(self) -> bool:
        """Whether it is true or false instead of a number."""
        return OPERATIONS[self.operation].is_condition


_interned: weakref.WeakValueDictionary[Any, Expression] = weakref.WeakValueDictionary()


def make(operation: str, *arguments: Expression, value: Any = None) -> Expression:
    """The one expression with this operation, these arguments and this value."""
    identity = float(value).hex() if operation == "constant" else value
    key = (operation, identity, *map(id, arguments))
    found = _interned.get(key)
    if found is None:
        found = _interned[key] = Expression(operation, arguments, value)
    return found


def constant(value: Number) -> Expression:
    """A number."""
    return make("constant", value=float(value))


def wrap(value: Expression | Number) -> Expression:
    """`value` as an expression."""
    return value if isinstance(value, Expression) else constant(value)


def number(condition: Expression) -> Expression:
    """A condition as 1 or 0; any other expression as it is."""
    return make("number", condition) if condition.is_condition else condition


def is_constant(expression: Expression, value: Number) -> bool:
    """Whether it is this number, the sign of a zero included."""
    return expression.operation == "constant" and (
        expression.value == value and math.copysign(1, expression.value) == math.copysign(1, value)
    )


def _both_constant(a: Expression, b: Expression) -> bool:
    return a.operation == b.operation == "constant"


def negate(a: Expression) -> Expression:
    """-a."""
    if a.operation == "constant":
        return constant(-a.value)
    return a.arguments[0] if a.operation == "negate" else make("negate", a)


def add(a: Expression, b: Expression) -> Expression:
    """a + b."""
    if _both_constant(a, b):
        return constant(a.value + b.value)
    if is_constant(a, -0.0):
        return b
    if is_constant(b, -0.0):
        return a
    if a is b:
        return multiply(constant(2), a)
    if b.operation == "negate":
        return subtract(a, b.arguments[0])
    if a.operation == "negate":
        return subtract(b, a.arguments[0])
    return make("add", a, b)


def subtract(a: Expression, b: Expression) -> Expression:
    """a - b."""
    if _both_constant(a, b):
        return constant(a.value - b.value)
    if is_constant(b, 0.0):
        return a
    if b.operation == "negate":
        return add(a, b.arguments[0])
    return make("subtract", a, b)


def multiply(a: Expression, b: Expression) -> Expression:
    """a * b, a constant first."""
    if _both_constant(a, b):
        return constant(a.value * b.value)
    if b.operation == "constant":
        a, b = b, a
    if is_constant(a, 1):
        return b
    if is_constant(a, -1):
        return negate(b)
    if a.operation == "negate":
        return negate(multiply(a.arguments[0], b))
    if b.operation == "negate":
        return negate(multiply(a, b.arguments[0]))
    return make("multiply", a, b)


def divide(a: Expression, b: Expression) -> Expression:
    """a / b."""
    if _both_constant(a, b) and b.value != 0:
        return constant(a.value / b.value)
    if is_constant(b, 1):
        return a
    if a.operation == "negate":
        return negate(divide(a.arguments[0], b))
    if (
        b.operation == "constant"
        and abs(math.frexp(b.value)[0]) == 0.5
        and 1e-9 < abs(b.value) < 1e9
    ):
        return multiply(constant(1 / b.value), a)
    return make("divide", a, b)


def power(base: Expression, exponent: Expression | Number) -> Expression:
    """base ** exponent; 1 for an exponent 0, whatever the base, as in IEEE 754."""
    if isinstance(exponent, Expression):
        if exponent.operation != "constant":
            return make("pow_derivative", base, exponent, value=(0, 0))
        exponent = float(exponent.value)
    if exponent == 0:
        return constant(1)
    if exponent == 1:
        return base
    if base.operation == "constant" and base.value > 0:
        return constant(base.value**exponent)
    if not abs(exponent) < 1e6:
        return make("pow_derivative", base, constant(exponent), value=(0, 0))
    return make("power", base, value=exponent)


def where(condition: Expression, a: Expression | Number, b: Expression | Number) -> Expression:
    """`a` where the condition holds, else `b`."""
    a, b = wrap(a), wrap(b)
    # One choice by both conditions: g++ 12 vectorises no choice between choices.
    if a.operation == "where" and a.arguments[2] is b:
        return where(make("and", condition, a.arguments[0]), a.arguments[1], b)
    if b.operation == "where" and b.arguments[1] is a:
        return where(make("or", condition, b.arguments[0]), a, b.arguments[2])
    return a if a is b else make("where", condition, a, b)


def apply(operation: str, *arguments: Expression | Number) -> Expression:
    """An operation of the table that has no function of its own here."""
    return make(operation, *map(wrap, arguments))


# How the pull-back of a gradient through an operation is written: from the expression itself and
# the gradient, one contribution for each argument, None where the derivative is 0.
PullBack = Callable[[Expression, Expression], tuple["Expression | None", ...]]

# How tightly an operator binds in Python and in C++, which agree on these.
CALL, NEGATION, PRODUCT, SUM, COMPARISON, LOGIC = 6, 5, 4, 3, 2, 1


@dataclass(frozen=True, slots=True)
class Operation:
    """How an operation is written, and how it is differentiated.

    `python` and `cpp` have {0}, {1}, ... for the arguments. The functions that `python` calls are
    those of forms.py; `header` of csrc/math holds those that `cpp` calls.
    """

    python: str
    cpp: str
    pull_back: PullBack
    header: str | None = None
    binding: int = CALL
    is_condition: bool = False


def _no_gradient(expression: Expression, grad: Expression) -> tuple[None, ...]:
    return (None,) * len(expression.arguments)


def _infix(sign: str, binding: int, pull_back: PullBack) -> Operation:
    text = f"{{0}} {sign} {{1}}"
    return Operation(text, text, pull_back, None, binding)


def _comparison(sign: str, binding: int = COMPARISON) -> Operation:
    text = f"{{0}} {sign} {{1}}"
    return Operation(text, text, _no_gradient, None, binding, is_condition=True)


def _call(name: str, header: str, arity: int, pull_back: PullBack) -> Operation:
    arguments = ", ".join(f"{{{i}}}" for i in range(arity))
    return Operation(f"{name}({arguments})", f"math::{name}({arguments})", pull_back, header)


def _unary(
    name: str, header: str, derivative: Callable[[Expression, Expression], Expression | Number]
) -> Operation:
    """`derivative` is that of the argument and of the expression itself."""
    return _call(name, header, 1, lambda e, g: (g * wrap(derivative(e.arguments[0], e)),))


def _trigonometric(name: str, derivative: Callable[[Expression], Expression]) -> Operation:
    # Reduction is AnyArgument or ModerateArgument of trigonometric.h.
    return Operation(
        f"{name}({{0}})",
        f"Reduction::{name}({{0}})",
        lambda e, g: (g * derivative(e.arguments[0]),),
        "trigonometric",
    )


def _divide(e: Expression, g: Expression) -> tuple[Expression, Expression]:
    _, b = e.arguments
    return g / b, -(g * (e / b))


def _hypotenuse_slope(e: Expression, g: Expression) -> tuple[Expression, Expression]:
    # 1/r - x^2/r^3 and so on, without the difference
    x, b = e.arguments
    r = apply("hypotenuse", x, b)
    square = r * r
    return g * (b / r / square), -(g * (0.5 * (e / square)))


def _power(e: Expression, g: Expression) -> tuple[Expression | None]:
    (base,) = e.arguments
    if e.value == 0:
        return (None,)
    return (g * (e.value * power(base, e.value - 1)),)


def _pow_derivative(e: Expression, g: Expression) -> tuple[Expression, Expression]:
    by_base, by_exponent = e.value
    return (
        g * make("pow_derivative", *e.arguments, value=(by_base + 1, by_exponent)),
        g * make("pow_derivative", *e.arguments, value=(by_base, by_exponent + 1)),
    )


def _where(e: Expression, g: Expression) -> tuple[None, Expression, Expression]:
    condition = e.arguments[0]
    return None, where(condition, g, 0), where(condition, 0, g)


def _extremum(larger: bool) -> PullBack:
    # Each of two equal arguments takes half, as in PyTorch.
    def pull_back(e: Expression, g: Expression) -> tuple[Expression, Expression]:
        a, b = e.arguments
        if not larger:
            a, b = b, a
        tie = apply("equal", *e.arguments)

        def share(loses: Expression) -> Expression:
            return where(tie, 0.5 * g, where(loses, 0, g))

        first, second = share(apply("less", a, b)), share(apply("less", b, a))
        return first, second

    return pull_back


def _clamp(inside: str, outside: str) -> PullBack:
    def pull_back(e: Expression, g: Expression) -> tuple[Expression, Expression]:
        return where(apply(inside, *e.arguments), g, 0), where(apply(outside, *e.arguments), g, 0)

    return pull_back


def _clamp_both(e: Expression, g: Expression) -> tuple[Expression, ...]:
    # By the argument itself: g++ 12 vectorises no choice by what another choice gave.
    x, low, high = e.arguments
    inside = make("and", apply("greater_equal", x, low), apply("less_equal", x, high))
    below = make("and", apply("less", x, low), apply("less", low, high))
    above = make("or", apply("greater", x, high), apply("less", high, low))
    return where(inside, g, 0), where(below, g, 0), where(above, g, 0)


def _third_sigmoid_derivative(x: Expression, second: Expression) -> Expression:
    half = 0.5 * x
    first = apply("sigmoid_derivative", x)
    return -(second * apply("tanh", half) + 0.5 * first * apply("tanh_derivative", half))


def _third_tanh_derivative(x: Expression, second: Expression) -> Expression:
    first = apply("tanh_derivative", x)
    return -2 * (first * first + apply("tanh", x) * second)


def _second_silu_derivative(x: Expression, first: Expression) -> Expression:
    return apply("sigmoid_derivative", x) * (2 - x * apply("tanh", 0.5 * x))


_LOSS = "binary_cross_entropy_with_logits"


def _loss(e: Expression, g: Expression) -> tuple[Expression, ...]:
    x, t, p = e.arguments
    return (
        g * apply(f"{_LOSS}_input_derivative", x, t, p),
        g * apply(f"{_LOSS}_target_derivative", x, p),
        g * apply(f"{_LOSS}_pos_weight_derivative", x, t),
    )


def _loss_input_derivative(e: Expression, g: Expression) -> tuple[Expression, ...]:
    # (1 - t) sigmoid(x) - p t sigmoid(-x)
    x, t, p = e.arguments
    complement = apply("sigmoid", -x)
    return (
        g * ((1 - t + p * t) * apply("sigmoid_derivative", x)),
        -(g * (apply("sigmoid", x) + p * complement)),
        -(g * (t * complement)),
    )


def _loss_target_derivative(e: Expression, g: Expression) -> tuple[Expression, ...]:
    # p softplus(-x) - softplus(x)
    x, p = e.arguments
    slope = p * apply("sigmoid", -x) + apply("sigmoid", x)
    return -(g * slope), g * apply("softplus", -x)


def _loss_pos_weight_derivative(e: Expression, g: Expression) -> tuple[Expression, ...]:
    # t softplus(-x)
    x, t = e.arguments
    return -(g * (t * apply("sigmoid", -x))), g * apply("softplus", -x)


OPERATIONS: dict[str, Operation] = {
    "constant": Operation("", "", _no_gradient),
    "input": Operation("", "", _no_gradient),
    # The argument as a constant, in both modes; or in reverse mode alone, as under no_grad.
    "detach": Operation("", "", _no_gradient),
    "no_grad": Operation("", "", _no_gradient),
    # The value of the first, with the derivative of the second
    "replaced": Operation("", "", lambda e, g: (None, g)),
    "parameter": Operation("", "", _no_gradient),
    "number": Operation("number({0})", "static_cast<T>({0})", _no_gradient),
    "negate": Operation("-{0}", "-{0}", lambda e, g: (-g,), None, NEGATION),
    "add": _infix("+", SUM, lambda e, g: (g, g)),
    "subtract": _infix("-", SUM, lambda e, g: (g, -g)),
    "multiply": _infix("*", PRODUCT, lambda e, g: (g * e.arguments[1], g * e.arguments[0])),
    "divide": _infix("/", PRODUCT, _divide),
    "less": _comparison("<"),
    "less_equal": _comparison("<="),
    "greater": _comparison(">"),
    "greater_equal": _comparison(">="),
    "equal": _comparison("=="),
    "not_equal": _comparison("!="),
    "and": _comparison("&", LOGIC),
    "or": _comparison("|", LOGIC),
    "not": Operation("~{0}", "!{0}", _no_gradient, None, NEGATION, is_condition=True),
    "where": Operation("where({0}, {1}, {2})", "{0} ? {1} : {2}", _where, None, LOGIC),
    "power": Operation("", "", _power, "power_derivatives"),
    "pow_derivative": Operation("", "", _pow_derivative, "power_derivatives"),
    "sqrt": _call("sqrt", "platform", 1, lambda e, g: (g / (2 * e),)),
    "hypotenuse": _call(
        "hypotenuse",
        "hypotenuse",
        2,
        lambda e, g: (g * apply("hypotenuse_slope", *e.arguments), g / (2 * e)),
    ),
    "hypotenuse_slope": _call("hypotenuse_slope", "hypotenuse", 2, _hypotenuse_slope),
    "exp": _unary("exp", "exponential", lambda x, y: y),
    "expm1": _unary("expm1", "exponential", lambda x, y: apply("exp", x)),
    "log": _call("log", "logarithm", 1, lambda e, g: (g / e.arguments[0],)),
    "log1p": _call("log1p", "logarithm", 1, lambda e, g: (g / (1 + e.arguments[0]),)),
    "softplus": _unary("softplus", "softplus", lambda x, y: apply("sigmoid", x)),
    "sigmoid": _unary("sigmoid", "sigmoid", lambda x, y: apply("sigmoid_derivative", x)),
    "sigmoid_derivative": _unary(
        "sigmoid_derivative", "sigmoid", lambda x, y: apply("sigmoid_second_derivative", x)
    ),
    "sigmoid_second_derivative": _unary(
        "sigmoid_second_derivative", "sigmoid", _third_sigmoid_derivative
    ),
    "tanh": _unary("tanh", "tanh", lambda x, y: apply("tanh_derivative", x)),
    "tanh_derivative": _unary(
        "tanh_derivative", "tanh", lambda x, y: apply("tanh_second_derivative", x)
    ),
    "tanh_second_derivative": _unary("tanh_second_derivative", "tanh", _third_tanh_derivative),
    "silu": _unary("silu", "silu", lambda x, y: apply("silu_derivative", x)),
    "silu_derivative": _unary("silu_derivative", "silu", _second_silu_derivative),
    "gelu": _unary("gelu", "gelu", lambda x, y: apply("gelu_derivative", x)),
    "gelu_derivative": _unary(
        "gelu_derivative", "gelu", lambda x, y: apply("normal_pdf", x) * (2 - x * x)
    ),
    "sin": _trigonometric("sin", lambda x: apply("cos", x)),
    "cos": _trigonometric("cos", lambda x: -apply("sin", x)),
    "erf": _unary("erf", "normal", lambda x, y: apply("erf_derivative", x)),
    "erf_derivative": _unary("erf_derivative", "normal", lambda x, y: -2 * x * y),
    "normal_cdf": _unary("normal_cdf", "normal", lambda x, y: apply("normal_pdf", x)),
    "normal_pdf": _unary("normal_pdf", "normal", lambda x, y: -x * y),
    "abs": _unary("abs", "platform", lambda x, y: apply("sign", x)),
    "sign": _call("sign", "piecewise", 1, _no_gradient),
    "relu": _call(
        "relu",
        "piecewise",
        1,
        lambda e, g: (where(apply("less_equal", e.arguments[0], 0), 0, g),),
    ),
    "minimum": _call("minimum", "piecewise", 2, _extremum(larger=False)),
    "maximum": _call("maximum", "piecewise", 2, _extremum(larger=True)),
    # As minimum and maximum, but a number on the bound keeps its whole gradient.
    "clamp_min": Operation(
        "maximum({0}, {1})", "math::maximum({0}, {1})", _clamp("greater_equal", "less"), "piecewise"
    ),
    "clamp_max": Operation(
        "minimum({0}, {1})", "math::minimum({0}, {1})", _clamp("less_equal", "greater"), "piecewise"
    ),
    "clamp": Operation(
        "minimum(maximum({0}, {1}), {2})",
        "math::minimum(math::maximum({0}, {1}), {2})",
        _clamp_both,
        "piecewise",
    ),
    "weighted": _call(
        "weighted", "piecewise", 2, lambda e, g: (g * e.arguments[1], g * e.arguments[0])
    ),
    _LOSS: _call(_LOSS, "logistic_loss", 3, _loss),
    f"{_LOSS}_input_derivative": _call(
        f"{_LOSS}_input_derivative", "logistic_loss", 3, _loss_input_derivative
    ),
    f"{_LOSS}_target_derivative": _call(
        f"{_LOSS}_target_derivative", "logistic_loss", 2, _loss_target_derivative
    ),
    f"{_LOSS}_pos_weight_derivative": _call(
        f"{_LOSS}_pos_weight_derivative", "logistic_loss", 2, _loss_pos_weight_derivative
    ),
}


def in_order(roots: Iterable[Expression]) -> list[Expression]:
    """Everything that the roots are made of, arguments before what uses them."""
    order: dict[Expression, None] = {}
    stack = [(root, False) for root in reversed(list(roots))]
    while stack:
        expression, complete = stack.pop()
        if complete:
            order[expression] = None
        elif expression not in order:
            stack.append((expression, True))
            stack.extend((argument, False) for argument in reversed(expression.arguments))
    return list(order)


def gradients(
    outputs: Sequence[Expression], grads: Sequence[Expression], leaves: Sequence[Expression]
) -> list[Expression]:
    """For each leaf the sum over the outputs of grad * derivative, by reverse accumulation."""
    order = in_order(outputs)
    ends = frozenset(leaves)
    moving = set(leaves)  # what depends on a leaf
    for expression in order:
        if any(argument in moving for argument in expression.arguments):
            moving.add(expression)
    total: dict[Expression, Expression] = {}

    def accumulate(expression: Expression, contribution: Expression) -> None:
        present = total.get(expression)
        total[expression] = contribution if present is None else present + contribution

    for output, grad in zip(outputs, grads, strict=True):
        accumulate(output, grad)
    for expression in reversed(order):
        grad_of = total.get(expression)
        if grad_of is None or expression not in moving or expression in ends:
            continue
        contributions = OPERATIONS[expression.operation].pull_back(expression, grad_of)
        for argument, contribution in zip(expression.arguments, contributions, strict=True):
            if contribution is not None and argument in moving:
                accumulate(argument, contribution)
    return [total.get(leaf, constant(0)) for leaf in leaves]


def substitute(
    roots: Sequence[Expression], replacements: dict[Expression, Expression]
) -> list[Expression]:
    """The roots with leaves replaced."""
    new = dict(replacements)
    for expression in in_order(roots):
        if expression not in new:
            arguments = [new[argument] for argument in expression.arguments]
            new[expression] = make(expression.operation, *arguments, value=expression.value)
    return [new[root] for root in roots]

# ruff: noqa: D105  (operators say themselves what they do)
"""Expressions of one element: hash-consed, simplified, and with their derivatives.

Equal expressions are one object, so that what is computed twice is computed once. A simplification
changes no result, not even the sign of a zero. `OPERATIONS` is closed under differentiation: every
rule builds its result from operations of the same table, in forms that do not cancel. Here stand
arithmetic, comparisons, choices and powers; functions.py adds the functions.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fusedgrad import torch_versions
from fusedgrad.fuse.errors import FuseTypeError

Number = int | float


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Expression:
    """An operation applied to expressions; `value` holds what of it is no expression.

    `value` is the number of a "constant", the name of an "input" or a "parameter", the exponent of
    a "power", and what else an operation's template takes as {value}: how often "pow_derivative"
    differentiates by base and exponent, the order of "polygamma".
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
        try:
            return constant(base.value**exponent)
        except OverflowError:
            return constant(math.inf)
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
    if a.operation == "where" and a.arguments[1] is b:
        return where(make("and", condition, make("not", a.arguments[0])), a.arguments[2], b)
    if b.operation == "where" and b.arguments[2] is a:
        return where(make("or", condition, make("not", b.arguments[0])), a, b.arguments[1])
    # One logarithm, of what is chosen: nor a choice between two.
    if (a.operation, b.operation) == ("log", "log1p"):
        return make("log_chosen", condition, *a.arguments, *b.arguments)
    if (a.operation, b.operation) == ("log1p", "log"):
        return make("log_chosen", make("not", condition), *b.arguments, *a.arguments)
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

    `python` and `cpp` have {0}, {1}, ... for the arguments, and {value}. The functions that
    `python` calls are those of forms.py and `evaluate`, by the operation's name; `header` of
    csrc/math holds those that `cpp` calls.
    """

    python: str
    cpp: str
    pull_back: PullBack
    header: str | None = None
    binding: int = CALL
    is_condition: bool = False
    evaluate: Callable[..., Any] | None = None


def _no_gradient(expression: Expression, grad: Expression) -> tuple[None, ...]:
    return (None,) * len(expression.arguments)


def _no_derivative(expression: Expression, grad: Expression) -> tuple[None, ...]:
    raise FuseTypeError(f"{expression.value} has no derivative in PyTorch")


def _infix(sign: str, binding: int, pull_back: PullBack) -> Operation:
    text = f"{{0}} {sign} {{1}}"
    return Operation(text, text, pull_back, None, binding)


def _comparison(sign: str, binding: int = COMPARISON) -> Operation:
    text = f"{{0}} {sign} {{1}}"
    return Operation(text, text, _no_gradient, None, binding, is_condition=True)


def _call(name: str, arity: int, pull_back: PullBack) -> Operation:
    arguments = ", ".join(f"{{{i}}}" for i in range(arity))
    return Operation(f"{name}({arguments})", f"math::{name}({arguments})", pull_back, "piecewise")


def _divide(e: Expression, g: Expression) -> tuple[Expression, Expression]:
    _, b = e.arguments
    return g / b, -(g * (e / b))


def _power(e: Expression, g: Expression) -> tuple[Expression | None]:
    (base,) = e.arguments
    if e.value == 0:
        return (None,)
    return (g * (e.value * power(base, e.value - 1)),)


_MOST_FLOAT32 = (2 - 2.0**-23) * 2.0**127


def _pow_derivative(e: Expression, g: Expression) -> tuple[Expression, Expression]:
    by_base, by_exponent = e.value
    base, _ = e.arguments
    by = make("pow_derivative", *e.arguments, value=(by_base, by_exponent + 1))
    if base.operation == "constant" and _MOST_FLOAT32 < base.value < math.inf:
        by = e * math.log(base.value)  # which is finite where float32 has infinity for the base
    return g * make("pow_derivative", *e.arguments, value=(by_base + 1, by_exponent)), g * by


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
            return where(loses, 0, where(tie, 0.5 * g, g))

        first, second = share(apply("less", a, b)), share(apply("less", b, a))
        return first, second

    return pull_back


def _clamp(inside: str, outside: str) -> PullBack:
    def pull_back(e: Expression, g: Expression) -> tuple[Expression, Expression]:
        name = inside if torch_versions.CLAMP_SHARES else f"{inside}_equal"
        return where(apply(name, *e.arguments), g, 0), where(apply(outside, *e.arguments), g, 0)

    return pull_back


def _clamp_both(e: Expression, g: Expression) -> tuple[Expression, ...]:
    return _between(e, g, "" if torch_versions.CLAMP_SHARES else "_equal")


def _between(e: Expression, g: Expression, equal: str = "_equal") -> tuple[Expression, ...]:
    # By the argument itself: g++ 12 vectorises no choice by what another choice gave.
    x, low, high = e.arguments
    inside = make("and", apply(f"greater{equal}", x, low), apply(f"less{equal}", x, high))
    below = make("and", apply("less", x, low), apply("less", low, high))
    above = make("or", apply("greater", x, high), apply("less", high, low))
    return where(inside, g, 0), where(below, g, 0), where(above, g, 0)


def _clamp_by_tensors(e: Expression, g: Expression) -> tuple[Expression, ...]:
    # As PyTorch has it from 2.14 on; each of two equal bounds leaves the whole to the argument.
    x, low, high = e.arguments
    ordered, apart = apply("less_equal", low, high), apply("less", low, high)
    at_low = make("and", apply("equal", x, low), apart)
    at_high = make("and", apply("equal", x, high), apart)
    outside = make("or", apply("less", x, low), apply("greater", x, high))
    below = make("and", apply("less", x, low), ordered)
    above = make("and", apply("greater", x, high), ordered)
    above = make("or", above, apply("less", high, low))
    half = 0.5 * g
    return (
        where(outside, 0, where(make("or", at_low, at_high), half, g)),
        where(at_low, half, where(below, g, 0)),
        where(at_high, half, where(above, g, 0)),
    )


def _of_bounds(pull_back: PullBack) -> Operation:
    """An operation of a value and two bounds."""
    return Operation(
        "minimum(maximum({0}, {1}), {2})",
        "math::minimum(math::maximum({0}, {1}), {2})",
        pull_back,
        "piecewise",
    )


OPERATIONS: dict[str, Operation] = {
    "constant": Operation("", "", _no_gradient),
    "input": Operation("", "", _no_gradient),
    # The argument as a constant, in both modes; or in reverse mode alone, as under no_grad.
    "detach": Operation("", "", _no_gradient),
    "no_grad": Operation("", "", _no_gradient),
    # The value of the first, which PyTorch computed of the others, and which has no derivative
    "opaque": Operation("", "", _no_derivative),
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
    "xor": _comparison("^", LOGIC),
    "not": Operation("~{0}", "!{0}", _no_gradient, None, NEGATION, is_condition=True),
    "where": Operation("where({0}, {1}, {2})", "{0} ? {1} : {2}", _where, None, LOGIC),
    "power": Operation("", "", _power, "power_derivatives"),
    "pow_derivative": Operation("", "", _pow_derivative, "power_derivatives"),
    "minimum": _call("minimum", 2, _extremum(larger=False)),
    "maximum": _call("maximum", 2, _extremum(larger=True)),
    # As minimum and maximum, but what lies on the bound keeps its whole gradient, or none.
    "clamp_min": Operation(
        "maximum({0}, {1})", "math::maximum({0}, {1})", _clamp("greater", "less"), "piecewise"
    ),
    "clamp_max": Operation(
        "minimum({0}, {1})", "math::minimum({0}, {1})", _clamp("less", "greater"), "piecewise"
    ),
    "clamp": _of_bounds(_clamp_both),
    "clamp_by_tensors": _of_bounds(_clamp_by_tensors),
    "between": _of_bounds(_between),  # keeps the whole gradient on its bounds
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


def _chosen(grad: Expression) -> tuple[Callable[[Expression], Expression], Expression]:
    """A gradient that is 0 but where a branch is taken: how to choose, and the gradient there.

    What it is multiplied with belongs inside the choice, for it may be infinite outside.
    """
    choices: list[tuple[Expression, bool]] = []
    while grad.operation == "where":
        condition, a, b = grad.arguments
        if is_constant(b, 0):
            choices.append((condition, True))
            grad = a
        elif is_constant(a, 0):
            choices.append((condition, False))
            grad = b
        else:
            break

    def choose(e: Expression) -> Expression:
        for condition, first in reversed(choices):
            e = where(condition, e, 0) if first else where(condition, 0, e)
        return e

    return choose, grad


def _sum_of(a: Expression, b: Expression) -> Expression:
    """a + b; of two choices by one condition, a choice."""
    if a.operation == b.operation == "where" and a.arguments[0] is b.arguments[0]:
        condition, a1, a2 = a.arguments
        _, b1, b2 = b.arguments
        zero = constant(0)
        if zero in (a1, b1) and zero in (a2, b2):
            return where(condition, b1 if a1 is zero else a1, b2 if a2 is zero else a2)
        if zero in (a1, b1) and a1 is b1:
            return where(condition, 0, a2 + b2)
        if zero in (a2, b2) and a2 is b2:
            return where(condition, a1 + b1, 0)
    return a + b


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
        total[expression] = contribution if present is None else _sum_of(present, contribution)

    for output, grad in zip(outputs, grads, strict=True):
        accumulate(output, grad)
    for expression in reversed(order):
        grad_of = total.get(expression)
        if grad_of is None or expression not in moving or expression in ends:
            continue
        choose, grad_there = _chosen(grad_of)
        contributions = OPERATIONS[expression.operation].pull_back(expression, grad_there)
        for argument, contribution in zip(expression.arguments, contributions, strict=True):
            if contribution is not None and argument in moving:
                accumulate(argument, choose(contribution))
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

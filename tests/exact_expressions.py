"""Expressions in mpmath: their values, and how far they can be trusted in floating point."""

from collections.abc import Callable, Mapping

import mpmath
from mpmath import mpf

from fusedgrad.fuse.expression import Expression, in_order
from tools.exact_functions import exact


def _function(e: Expression) -> Callable[..., mpf]:
    if e.operation == "power":
        return lambda x: x ** mpf(e.value)
    if e.operation == "pow_derivative":
        if e.value == (0, 0):
            return lambda x, exponent: x**exponent
        return lambda *xs: mpmath.diff(lambda x, exponent: x**exponent, xs, e.value)
    return exact(e.operation, e.value)


def _partial(function: Callable[..., mpf], arguments: list[mpf], i: int) -> mpf:
    def moved(u: mpf) -> mpf:
        return function(*arguments[:i], u, *arguments[i + 1 :])

    return mpmath.diff(moved, arguments[i])


def evaluate(
    output: Expression,
    inputs: Mapping[str, mpf],
    value: dict[Expression, mpf] | None = None,
    slopes: bool = True,
) -> tuple[mpf, float]:
    """The exact value, and the condition number of the expression.

    That is the sum over everything it is made of, itself included, of the relative change that a
    relative change of this part alone makes: to first order, the number of units of rounding that
    the result may be off by if every operation is off by one. `value` receives the values of the
    parts; without `slopes` the condition number is left out.
    """
    order = in_order([output])
    value = {} if value is None else value
    for e in order:
        if e.operation in ("input", "parameter"):
            value[e] = inputs[e.value]
        elif e.operation == "constant":
            value[e] = mpf(e.value)
        else:
            value[e] = _function(e)(*(value[argument] for argument in e.arguments))
    if not slopes:
        return value[output], float("nan")
    slope: dict[Expression, mpf] = dict.fromkeys(order, mpf(0))
    slope[output] = mpf(1)
    for e in reversed(order):
        if not slope[e] or not e.arguments:
            continue
        arguments = [value[argument] for argument in e.arguments]
        for i, argument in enumerate(e.arguments):
            if argument.is_condition or argument.operation == "constant":
                continue
            slope[argument] += slope[e] * _partial(_function(e), arguments, i)
    result = value[output]
    if result == 0:
        return result, float("inf")
    parts = (abs(slope[e] * value[e] / result) for e in order if not e.is_condition)
    return result, float(sum(parts))

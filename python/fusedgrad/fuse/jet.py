"""Taylor mode: the derivatives of a graph along a curve, one more walk over its expressions.

The k-th derivative of a product is Leibniz's sum, and of a quotient follows from it. Of any other
operation the first derivative is what its rule in `OPERATIONS` says, with the derivatives of the
arguments in the place of the gradient (the operations are elementwise, so that pulling back and
pushing forward are one), and the k-th is the (k - 1)-th of that. So every derivative is made of
the same stable forms as `gradients` makes, and where a rule names the function itself, as those of
exp and sqrt do, the walk is the function's recurrence.

Derivatives are not divided by factorials. Those that are absent are zero, and cost nothing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from fusedgrad.fuse.expression import (
    OPERATIONS,
    Expression,
    apply,
    constant,
    divide,
    is_constant,
    make,
    multiply,
    negate,
    power,
    where,
)
from fusedgrad.fuse.graph import Graph, input_named

# The derivative of an expression along the curve, of which only its own derivatives are asked
_RATE = "rate"


def _tanh(e: Expression) -> Expression | None:
    (x,) = e.arguments
    if x.operation == "multiply" and is_constant(x.arguments[0], 0.5):
        return 2 * apply("sigmoid", x.arguments[1])
    return None


def _power(e: Expression) -> Expression | None:
    (x,) = e.arguments
    if e.value == 2:
        return x * x
    if e.value < 0 and e.value == int(e.value):  # whose own derivatives overflow sooner
        return 1 / power(x, -e.value)
    return None


def _minus_square(x: Expression) -> Expression:
    return -(x * x)


# What differs from an operation by a constant, so that all its derivatives are the same, and come
# of less. The value itself is still the operation's, which is exact in the tails.
_ALIKE: dict[str, Callable[[Expression], Expression | None]] = {
    "tanh": _tanh,
    "tanh_derivative": lambda e: _minus_square(apply("tanh", *e.arguments)),
    "tanh_second_derivative": lambda e: (
        -2 * (apply("tanh", *e.arguments) * apply("tanh_derivative", *e.arguments))
    ),
    "sigmoid_derivative": lambda e: 0.25 * _minus_square(apply("tanh", 0.5 * e.arguments[0])),
    "sigmoid_second_derivative": lambda e: (
        -(apply("sigmoid_derivative", *e.arguments) * apply("tanh", 0.5 * e.arguments[0]))
    ),
    "power": _power,
    "replaced": lambda e: e.arguments[1],
}

_Needed = list[tuple[Expression, int]]


class Series:
    """The derivatives of expressions along one curve, on which the leaves' are given."""

    def __init__(self, given: Mapping[Expression, Sequence[Expression | None]]) -> None:
        """`given` has for each leaf that moves its derivatives, from the first."""
        self._given = given
        self._moving: dict[Expression, bool] = {}
        self._first: dict[Expression, Expression | None] = {}
        self._known: dict[tuple[Expression, int], Expression | None] = {}

    def derivative(self, expression: Expression, order: int) -> Expression | None:
        """The derivative of this order, None for zero; the expression itself for order 0."""
        stack = [(expression, order)]
        while stack:
            asked = stack[-1]
            if asked not in self._known:
                needed = [n for n in self._needs(*asked) if n not in self._known]
                if needed:
                    stack += needed
                    continue
                self._known[asked] = self._of_known(*asked)
            stack.pop()
        return self._known[expression, order]

    def _moves(self, expression: Expression) -> bool:
        """Whether it depends on a leaf that moves."""
        stack = [expression]
        while stack:
            e = stack[-1]
            if e not in self._moving:
                unknown = [a for a in e.arguments if a not in self._moving]
                if unknown:
                    stack += unknown
                    continue
                self._moving[e] = e in self._given or any(self._moving[a] for a in e.arguments)
            stack.pop()
        return self._moving[expression]

    def _needs(self, e: Expression, k: int) -> _Needed:
        """The derivatives that this one is made of."""
        if e.operation == _RATE:
            return [(e.arguments[0], k + 1)]
        if not e.arguments:
            return []
        if k == 0:
            return [(argument, 0) for argument in e.arguments]
        if not self._moves(e):
            return []
        if e.operation in ("negate", "add", "subtract"):
            return [(argument, k) for argument in e.arguments]
        if e.operation == "multiply":
            return [(argument, j) for argument in set(e.arguments) for j in range(k + 1)]
        if e.operation == "divide":
            a, b = e.arguments
            own = [(e, j) for j in range(k)] if self._moves(b) else []
            return [(a, k), *((b, j) for j in range(k + 1)), *own]
        if e.operation == "where":
            condition, a, b = e.arguments
            return [(condition, 0), (a, k), (b, k)]
        alike = self._alike(e)
        if alike is not None:
            return [(alike, k)]
        rate = self._rate(e)
        return [] if rate is None else [(rate, k - 1)]

    def _of_known(self, e: Expression, k: int) -> Expression | None:
        if e.operation == _RATE:
            return self._known[e.arguments[0], k + 1]
        if k == 0:
            return self._value(e)
        if e in self._given:
            series = self._given[e]
            return series[k - 1] if k <= len(series) else None
        if not e.arguments or not self._moves(e):
            return None

        def known(i: int, j: int) -> Expression | None:
            return self._known[e.arguments[i], j]

        if e.operation == "negate":
            return _negated(known(0, k))
        if e.operation == "add":
            return _sum([known(0, k), known(1, k)])
        if e.operation == "subtract":
            return _sum([known(0, k), _negated(known(1, k))])
        if e.operation == "multiply":
            return self._of_product(e, k)
        if e.operation == "divide":
            terms = [known(0, k)]
            if self._moves(e.arguments[1]):
                for j in range(k):
                    terms.append(_negated(_term(k, j, self._known[e, j], known(1, k - j))))
            total, divisor = _sum(terms), known(1, 0)
            assert divisor is not None
            return None if total is None else divide(total, divisor)
        if e.operation == "where":
            condition = known(0, 0)
            assert condition is not None
            a, b = known(1, k), known(2, k)
            return None if a is None and b is None else where(condition, a or 0, b or 0)
        alike = self._alike(e)
        if alike is not None:
            return self._known[alike, k]
        rate = self._rate(e)
        return None if rate is None else self._known[rate, k - 1]

    def _value(self, e: Expression) -> Expression | None:
        """The expression itself, with the derivatives that it names; None for zero."""
        if not e.arguments:
            return e
        arguments = [self._known[argument, 0] for argument in e.arguments]
        if all(a is b for a, b in zip(arguments, e.arguments, strict=True)):
            return e
        if e.operation == "negate":
            return _negated(arguments[0])
        if e.operation == "add":
            return _sum(arguments)
        if e.operation == "subtract":
            return _sum([arguments[0], _negated(arguments[1])])
        if e.operation == "multiply":
            return _product(*arguments)
        if e.operation == "divide" and arguments[0] is None:
            return None
        if e.operation == "where" and arguments[1] is arguments[2] is None:
            return None
        made = [constant(0) if a is None else a for a in arguments]
        if e.operation == "divide":
            return divide(*made)
        if e.operation == "where":
            return where(*made)
        return make(e.operation, *made, value=e.value)

    def _of_product(self, e: Expression, k: int) -> Expression | None:
        a, b = e.arguments
        terms: list[Expression | None] = []
        if a is b:
            for j in range((k + 1) // 2):
                terms.append(_term(k, j, self._known[a, j], self._known[a, k - j], times=2))
            if k % 2 == 0:
                terms.append(_term(k, k // 2, self._known[a, k // 2], self._known[a, k // 2]))
        else:
            for j in range(k + 1):
                terms.append(_term(k, j, self._known[a, j], self._known[b, k - j]))
        return _sum(terms)

    def _alike(self, e: Expression) -> Expression | None:
        alike = _ALIKE.get(e.operation)
        return None if alike is None else alike(e)

    def _rate(self, e: Expression) -> Expression | None:
        """The first derivative, as an expression of the arguments and of their rates."""
        if e not in self._first:
            total: list[Expression | None] = []
            for i, argument in enumerate(e.arguments):
                if self._moves(argument):
                    rate = make(_RATE, argument)
                    total.append(OPERATIONS[e.operation].pull_back(e, rate)[i])
            self._first[e] = _sum(total)
        return self._first[e]


def _negated(a: Expression | None) -> Expression | None:
    return None if a is None else negate(a)


def _sum(terms: Sequence[Expression | None]) -> Expression | None:
    total: Expression | None = None
    for term in terms:
        if term is not None:
            total = term if total is None else total + term
    return total


def _product(a: Expression | None, b: Expression | None) -> Expression | None:
    if a is None or b is None or is_constant(a, 0) or is_constant(b, 0):
        return None
    return multiply(a, b)


def _term(
    k: int, j: int, a: Expression | None, b: Expression | None, times: int = 1
) -> Expression | None:
    """The term of Leibniz's sum with the j-th derivative of one and the (k - j)-th of the other."""
    product = _product(a, b)
    return None if product is None else multiply(constant(times * math.comb(k, j)), product)


# For each input the orders of the derivatives that it has
Orders = tuple[tuple[int, ...], ...]


def _names(graph: Graph, orders: Orders) -> list[dict[int, str]]:
    """For each input the names of its derivatives by their orders."""
    taken = {*graph.inputs, *graph.parameters}
    found: list[dict[int, str]] = []
    for name, own in zip(graph.inputs, orders, strict=True):
        made: dict[int, str] = {}
        for k in own:
            made[k] = f"{name}_{k}"
            while made[k] in taken:
                made[k] += "_"
            taken.add(made[k])
        found.append(made)
    return found


@functools.lru_cache(maxsize=1024)
def jet(graph: Graph, order: int, orders: Orders) -> Graph:
    """The graph of each output and its first `order` derivatives, output by output.

    Of the inputs, each followed by the derivatives that it has; the others are zero.
    """
    names = dict(zip(graph.inputs, _names(graph, orders), strict=True))
    series = Series(
        {
            input_named(name): [
                input_named(own[k]) if k in own else None for k in range(1, max(own) + 1)
            ]
            for name, own in names.items()
            if own
        }
    )
    outputs = [
        series.derivative(output, k) or constant(0)
        for output in graph.outputs
        for k in range(order + 1)
    ]

    def with_series(of_outputs: Sequence[frozenset[str]]) -> tuple[frozenset[str], ...]:
        return tuple(
            frozenset(used).union(*(names[name].values() for name in used))
            for used in of_outputs
            for _ in range(order + 1)
        )

    return replace(
        graph,
        name=f"{graph.name}_jet_{order}",
        inputs=tuple(n for name, own in names.items() for n in (name, *own.values())),
        outputs=tuple(outputs),
        shapes=None if graph.whole else with_series(graph.used),
        moves=None if graph.moves is None else with_series(graph.moves),
    )

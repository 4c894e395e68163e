"""The functions of one tensor, a row each, from which the tests that all of them must pass take it.

Their derivatives in long double are results of an oracle (cuda_oracles.py): a value, and its
magnitude, the sum of the absolute values of its terms.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mpmath import mp, mpf

from ulp import sigmoid

Array = Any  # a number or an array of them, in long double
Result = tuple[Array, Array]  # value, magnitude


@dataclass(frozen=True)
class UnaryFunction:
    """A function, to be found by its name in ``fusedgrad`` and in ``torch.ops.fusedgrad``."""

    node: str  # of the graph, less fusedgrad:: and Backward
    exact: Callable[[mpf], mpf]
    derivative: Callable[[Array, int], Result]  # in long double, of an order, which may be 0
    scale: float = 1.0  # what keeps the derivatives of exp(-700) from underflow


def plain(value: Array) -> Result:
    return value, np.abs(value)


def scaled(factor: Array, results: Sequence[Result]) -> list[Result]:
    return [(factor * value, np.abs(factor) * magnitude) for value, magnitude in results]


def total(*terms: Result) -> Result:
    value, magnitude = terms[0]
    for other, other_magnitude in terms[1:]:
        value, magnitude = value + other, magnitude + other_magnitude
    return value, magnitude


def sigmoid_derivative(x: Array, order: int) -> Result:
    """From z' = -z t and t' = 2z, with z = sigmoid'(x) and t = tanh(x / 2)."""
    if order == 0:
        return plain(1 / (1 + np.exp(-x)))
    t, z = np.tanh(x / 2), 1 / (2 + 2 * np.cosh(x))
    terms = {(1, 0): 1}  # the coefficient of z^i t^j
    for _ in range(order - 1):
        derivative: dict[tuple[int, int], int] = {}
        for (i, j), c in terms.items():
            for key, factor in (((i, j + 1), -i * c), ((i + 1, j - 1), 2 * j * c)):
                derivative[key] = derivative.get(key, 0) + factor
        terms = derivative
    return total(*(plain(c * z**i * t**j) for (i, j), c in terms.items() if c))


def tanh_derivative(x: Array, order: int) -> Result:
    if order == 0:
        return plain(np.tanh(x))
    (result,) = scaled(2 ** (order + 1), [sigmoid_derivative(2 * x, order)])
    return result


UNARY = {
    "sigmoid": UnaryFunction("Sigmoid", sigmoid, sigmoid_derivative),
    "tanh": UnaryFunction("Tanh", mp.tanh, tanh_derivative, scale=0.5),
}

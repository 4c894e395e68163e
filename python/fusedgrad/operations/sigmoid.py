"""sigmoid(x) = 1 / (1 + exp(-x)).

With a = exp(-|x|), s = 1 / (1 + a) and q = a s = sigmoid(-|x|), nothing below subtracts two numbers
that agree, wherever x lies: sigmoid' = q s, sigmoid'' = -q s tanh(x / 2). Complex numbers take the
sign from the real part.
"""

from typing import cast

import torch
from torch import Tensor, compiler
from torch.compiler import is_dynamo_compiling

from fusedgrad import _C
from fusedgrad.operations.shared import (
    OfOperators,
    even_derivative,
    exp_of_magnitude,
    negative_half_plane,
    register_unary,
    rounded_once,
)
from fusedgrad.operators import _ops


def sigmoid(input: Tensor, *, out: Tensor | None = None) -> Tensor:
    """1 / (1 + exp(-input)), elementwise, as `torch.sigmoid`.

    With a = exp(-|x|), s = 1 / (1 + a) and q = a s: the value is s for x >= 0 and q below, the
    derivative q s, the second derivative -q s tanh(x / 2). None of them cancels, in either tail.

    Args:
        input: a tensor of any shape and dtype; integers and bool give the default dtype.
        out: where to write the result; resized to its shape, and no gradient is recorded.

    Raises:
        TypeError: `input` or `out` is not a tensor.
        RuntimeError: `out` cannot hold the result's dtype, or a gradient would have to be recorded.
    """
    if out is None and not (is_dynamo_compiling() or compiler._is_compiling_flag):
        result = _C.sigmoid(input)
        if result is not NotImplemented:
            return cast(Tensor, result)
    return _operation(input, out)


@rounded_once
def formula(input: Tensor) -> Tensor:
    """s for a non-negative real part, q below."""
    a = exp_of_magnitude(input)
    return torch.where(negative_half_plane(input), a, 1.0) / (1 + a)


def derivative(x: Tensor, order: int = 1, further: int = 0) -> Tensor:
    """The derivative of an order: z Q(z), and for even orders times tanh(x / 2), for z = q s.

    Q follows from z' = -z tanh(x / 2) and tanh(x / 2)² = 1 - 4 z, and is 1 or -1 in the tails.
    """
    order += further
    z = even_derivative(exp_of_magnitude(x))
    if order == 1:
        return z
    q = [1]
    for n in range(1, order):
        below = [0, *q] if n % 2 == 0 else [0] * (len(q) + 1)
        q = [
            (2 + 4 * i) * b - (1 + i) * c
            for i, (b, c) in enumerate(zip(below, [*q, 0], strict=True))
        ]
    value = torch.zeros_like(z)
    for coefficient in reversed(q):
        value = value * z + coefficient
    return z * value if order % 2 else z * value * torch.tanh(x / 2)


_operation, _family = register_unary(sigmoid, formula, derivative)
backward_formula, double_backward_formula = _family.backward, _family.double_backward


class Sigmoid(OfOperators):
    """`Sigmoid.apply(input)`: 1 / (1 + exp(-input)), for floating-point and complex tensors."""

    operators = _ops.sigmoid.default, _ops.sigmoid_backward.default

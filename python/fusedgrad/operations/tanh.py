"""tanh(x) = 1 - 2 / (exp(2 x) + 1).

With a = exp(-2 |x|), s = 1 / (1 + a) and q = a s nothing below subtracts two numbers that agree:
tanh' = 4 q s = sech², tanh'' = -2 tanh sech². Complex numbers take the sign from the real part.
"""

from typing import cast

import torch
from torch import Tensor, compiler
from torch.compiler import is_dynamo_compiling

from fusedgrad import _C
from fusedgrad.operations import sigmoid
from fusedgrad.operations.shared import OfOperators, register_unary, rounded_once
from fusedgrad.operators import _ops


def tanh(input: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The hyperbolic tangent, elementwise, as `torch.tanh`.

    With a = exp(-2|x|), s = 1 / (1 + a) and q = a s: the derivative is 4 q s = sech²(x), the second
    derivative -2 tanh(x) sech²(x), both from the input: they keep all digits in the tails.

    Args:
        input: a tensor of any shape and dtype; integers and bool give the default dtype.
        out: where to write the result; resized to its shape, and no gradient is recorded.

    Raises:
        TypeError: `input` or `out` is not a tensor.
        RuntimeError: `out` cannot hold the result's dtype, or a gradient would have to be recorded.
    """
    if out is None and not (is_dynamo_compiling() or compiler._is_compiling_flag):
        result = _C.tanh(input)
        if result is not NotImplemented:
            return cast(Tensor, result)
    return _operation(input, out)


@rounded_once
def formula(input: Tensor) -> Tensor:
    """The hyperbolic tangent: PyTorch's own, which is within 0.6 ULP."""
    return torch.tanh(input)


def derivative(x: Tensor, order: int = 1, further: int = 0) -> Tensor:
    """The derivative of an order, from that of sigmoid(2 x)."""
    factor = float(2 ** (order + further + 1))
    return factor * sigmoid.derivative(2 * x, order, further)


_operation, _family = register_unary(tanh, formula, derivative)
backward_formula, double_backward_formula = _family.backward, _family.double_backward


class Tanh(OfOperators):
    """`Tanh.apply(input)`: the hyperbolic tangent, for floating-point and complex tensors."""

    operators = _ops.tanh.default, _ops.tanh_backward.default

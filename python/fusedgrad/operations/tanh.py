"""tanh(x) = 1 - 2 / (exp(2 x) + 1).

With a = exp(-2 |x|), s = 1 / (1 + a) and q = a s nothing below subtracts two numbers that agree:
tanh' = 4 q s = sech², tanh'' = -2 tanh sech². Complex numbers take the sign from the real part.
"""

from typing import cast

import torch
from torch import Tensor, compiler
from torch.compiler import is_dynamo_compiling
from torch.overrides import handle_torch_function, has_torch_function_unary

from fusedgrad import _C
from fusedgrad.operations import sigmoid
from fusedgrad.operations.shared import (
    Unary,
    call_unary,
    register_family,
    rounded_once,
    traced_unary,
)
from fusedgrad.operators import _ops, register_with_out


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
    if has_torch_function_unary(input):
        return handle_torch_function(tanh, (input,), input, out=out)
    return call_unary("tanh", _Traced, formula, input, out)


@rounded_once
def formula(input: Tensor) -> Tensor:
    """The hyperbolic tangent: PyTorch's own, which is within 0.6 ULP."""
    return torch.tanh(input)


def derivative(x: Tensor, order: int = 1, further: int = 0) -> Tensor:
    """The derivative of an order, from that of sigmoid(2 x)."""
    factor = float(2 ** (order + further + 1))
    return factor * sigmoid.derivative(2 * x, order, further)


_family = register_family("tanh", "", derivative)
backward_formula, double_backward_formula = _family.backward, _family.double_backward
register_with_out("tanh", torch.tanh, formula)


class Tanh(Unary):
    """`Tanh.apply(input)`: the hyperbolic tangent, for floating-point and complex tensors."""

    operators = _ops.tanh.default, _ops.tanh_backward.default


_Traced = traced_unary(formula, backward_formula)

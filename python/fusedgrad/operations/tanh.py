"""tanh(x) = 1 - 2 / (exp(2 x) + 1).

With a = exp(-2 |x|), s = 1 / (1 + a) and q = a s nothing below subtracts two numbers that agree:
tanh' = 4 q s = sech², tanh'' = -2 tanh sech². Complex numbers take the sign from the real part.
"""

from typing import Any, cast

import torch
from torch import Tensor, compiler
from torch.compiler import is_dynamo_compiling
from torch.overrides import handle_torch_function, has_torch_function_unary

from fusedgrad import _C
from fusedgrad.operations.derivatives import _derivative, _Operation, _second_of, _Unary
from fusedgrad.operations.shared import (
    call_unary,
    even_derivative,
    exp_of_magnitude,
    rounded_once,
)
from fusedgrad.operators import _two, register, register_with_out


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
    return call_unary("tanh", Tanh, _Traced, formula, input, out)


@rounded_once
def formula(input: Tensor) -> Tensor:
    """The hyperbolic tangent: PyTorch's own, which is within 0.6 ULP."""
    return torch.tanh(input)


@rounded_once
def backward_formula(grad: Tensor, input: Tensor) -> Tensor:
    """grad times the conjugate of tanh'(input)."""
    return grad * (4 * even_derivative(exp_of_magnitude(2 * input))).conj()


@rounded_once
def double_backward_formula(
    grad_grad: Tensor, grad: Tensor, input: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of tanh_backward by `grad` and by `input`."""
    first = 4 * even_derivative(exp_of_magnitude(2 * input))
    second = -2 * torch.tanh(input) * first
    return grad_grad * first, grad_grad.conj() * grad * second.conj()


def _derivatives(x: Tensor) -> tuple[Tensor, Tensor]:
    first = _derivative(Tanh.operation, x)
    return first, -2 * Tanh.apply(x) * first


class Tanh(_Unary):
    """`Tanh.apply(input)`: the hyperbolic tangent, for floating-point and complex tensors."""

    operation = _Operation(
        register_with_out("tanh", torch.tanh, formula),
        register("tanh_backward", torch.mul, backward_formula),
        register("tanh_double_backward", _two, double_backward_formula),
        _second_of(_derivatives),
    )


class _Traced(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor) -> Tensor:
        ctx.save_for_backward(input)
        return formula(input)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (input,) = ctx.saved_tensors
        return backward_formula(grad, input)

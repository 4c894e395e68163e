"""sigmoid(x) = 1 / (1 + exp(-x)).

With a = exp(-|x|), s = 1 / (1 + a) and q = a s = sigmoid(-|x|), nothing below subtracts two numbers
that agree, wherever x lies: sigmoid' = q s, sigmoid'' = -q s tanh(x / 2). Complex numbers take the
sign from the real part.
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
    negative_half_plane,
    rounded_once,
)
from fusedgrad.operations.tanh import Tanh
from fusedgrad.operators import _two, register, register_with_out


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
    if has_torch_function_unary(input):
        return handle_torch_function(sigmoid, (input,), input, out=out)
    return call_unary("sigmoid", Sigmoid, _Traced, formula, input, out)


@rounded_once
def formula(input: Tensor) -> Tensor:
    """s for a non-negative real part, q below."""
    a = exp_of_magnitude(input)
    return torch.where(negative_half_plane(input), a, 1.0) / (1 + a)


@rounded_once
def backward_formula(grad: Tensor, input: Tensor) -> Tensor:
    """grad times the conjugate of sigmoid'(input)."""
    return grad * even_derivative(exp_of_magnitude(input)).conj()


@rounded_once
def double_backward_formula(
    grad_grad: Tensor, grad: Tensor, input: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of sigmoid_backward by `grad` and by `input`."""
    first = even_derivative(exp_of_magnitude(input))
    second = -first * torch.tanh(input / 2)
    return grad_grad * first, grad_grad.conj() * grad * second.conj()


def _derivatives(x: Tensor) -> tuple[Tensor, Tensor]:
    first = _derivative(Sigmoid.operation, x)
    return first, -first * Tanh.apply(x / 2)


class Sigmoid(_Unary):
    """`Sigmoid.apply(input)`: 1 / (1 + exp(-input)), for floating-point and complex tensors."""

    operation = _Operation(
        register_with_out("sigmoid", torch.sigmoid, formula),
        register("sigmoid_backward", torch.mul, backward_formula),
        register("sigmoid_double_backward", _two, double_backward_formula),
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

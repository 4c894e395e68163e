"""The operations as torch.compile and torch.export trace them: formulas instead of kernels.

Each is a `torch.autograd.Function` whose forward and backward are functions of
`fusedgrad.reference`, so that Inductor fuses both with their neighbours. Unlike the Functions of
`fusedgrad.autograd` they define no `jvp`, at which Dynamo would break the graph. Inside a
transform of torch.func a traced Function cannot be differentiated again nor batched: there PyTorch
differentiates the formula of the value itself.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active as transforms_active

from fusedgrad import reference
from fusedgrad.autograd import _Gradients, _spread, _to_operands
from fusedgrad.reference import Number


class _Sigmoid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor) -> Tensor:
        ctx.save_for_backward(input)
        return reference.sigmoid(input)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (input,) = ctx.saved_tensors
        return reference.sigmoid_backward(grad, input)


class _Tanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor) -> Tensor:
        ctx.save_for_backward(input)
        return reference.tanh(input)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (input,) = ctx.saved_tensors
        return reference.tanh_backward(grad, input)


class _PowScalar(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, exponent: Number) -> Tensor:
        ctx.save_for_backward(input)
        ctx.exponent = exponent
        return reference.pow(input, exponent)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (input,) = ctx.saved_tensors
        return reference.pow_scalar_backward(grad, input, ctx.exponent), None


class _Pow(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, exponent: Tensor) -> Tensor:
        ctx.save_for_backward(input, exponent)
        return reference.pow(input, exponent)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> _Gradients:
        input, exponent = ctx.saved_tensors
        mask = ctx.needs_input_grad
        grads = reference.pow_backward(grad, input, exponent, mask)
        return _to_operands(_spread(grads, mask), (input, exponent))


class _BinaryCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, target: Tensor, weight: Tensor | None, reduction: int
    ) -> Tensor:
        ctx.save_for_backward(input, target, weight)
        ctx.reduction = reduction
        return reference.binary_cross_entropy(input, target, weight, reduction)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> _Gradients:
        operands, mask = ctx.saved_tensors, ctx.needs_input_grad[:-1]
        arguments = (grad, *operands, ctx.reduction, mask)
        grads = reference.binary_cross_entropy_backward(*arguments)
        return *_to_operands(_spread(grads, mask), operands), None


class _BinaryCrossEntropyWithLogits(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None,
        pos_weight: Tensor | None,
        reduction: int,
    ) -> Tensor:
        ctx.save_for_backward(input, target, weight, pos_weight)
        ctx.reduction = reduction
        return reference.binary_cross_entropy_with_logits(
            input, target, weight, pos_weight, reduction
        )

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> _Gradients:
        operands, mask = ctx.saved_tensors, ctx.needs_input_grad[:-1]
        arguments = (grad, *operands, ctx.reduction, mask)
        grads = reference.binary_cross_entropy_with_logits_backward(*arguments)
        return *_to_operands(_spread(grads, mask), operands), None


def _call(
    function: type[torch.autograd.Function], formula: Callable[..., Tensor], *arguments: Any
) -> Tensor:
    if transforms_active():
        return formula(*arguments)
    return cast(Tensor, function.apply(*arguments))  # type: ignore[no-untyped-call]


def _promoted(input: Tensor) -> Tensor:
    """Integers and bool in the default dtype, as PyTorch promotes them."""
    if input.is_floating_point() or input.is_complex():
        return input
    return input.to(torch.get_default_dtype())


def sigmoid(input: Tensor) -> Tensor:
    """`fusedgrad.sigmoid`."""
    return _call(_Sigmoid, reference.sigmoid, _promoted(input))


def tanh(input: Tensor) -> Tensor:
    """`fusedgrad.tanh`."""
    return _call(_Tanh, reference.tanh, _promoted(input))


def pow(input: Tensor | Number, exponent: Tensor | Number) -> Tensor:
    """`fusedgrad.pow`."""
    # Dynamo does not trace torch.result_type; a product that nothing uses leaves the graph again.
    dtype = cast(Tensor, input * exponent).dtype
    if not (dtype.is_floating_point or dtype.is_complex):
        return torch.pow(input, exponent)  # type: ignore[arg-type]
    if not isinstance(exponent, Tensor):
        return _call(_PowScalar, reference.pow, cast(Tensor, input).to(dtype), exponent)
    if not isinstance(input, Tensor):
        input = torch.full((), input, dtype=dtype, device=exponent.device)
    return _call(_Pow, reference.pow, input.to(dtype), exponent.to(dtype))


def binary_cross_entropy(*arguments: Any) -> Tensor:
    """`fusedgrad.binary_cross_entropy` of checked arguments, with the reduction's code."""
    return _call(_BinaryCrossEntropy, reference.binary_cross_entropy, *arguments)


def binary_cross_entropy_with_logits(*arguments: Any) -> Tensor:
    """`fusedgrad.binary_cross_entropy_with_logits` of checked arguments."""
    return _call(
        _BinaryCrossEntropyWithLogits, reference.binary_cross_entropy_with_logits, *arguments
    )

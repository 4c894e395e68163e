"""Graphs under autograd: a derivative of a graph is a graph again.

The operators record themselves, in C++. Under forward mode and torch.func, and where a kernel does
not read all tensors or does not exist, a graph is a `torch.autograd.Function`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, is_grad_enabled
from torch._C import _are_functorch_transforms_active as transforms_active

from fusedgrad import _C, operators
from fusedgrad.fuse import kernel, prebuilt
from fusedgrad.fuse.expression import constant
from fusedgrad.fuse.graph import Graph
from fusedgrad.operations.shared import Function, is_transformed, save, spread

_Dtypes = Sequence[torch.dtype]


def _present(values: Sequence[Any]) -> tuple[bool, ...]:
    return tuple(value is not None for value in values)


class _Fused(Function):
    """`apply(graph, parameters, dtypes, summed, *tensors)`: a tuple of the outputs of the graph.

    Saves the tensors and nothing else.
    """

    @staticmethod
    def forward(
        graph: Graph,
        parameters: tuple[float, ...],
        dtypes: _Dtypes,
        summed: Sequence[int],
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        return tuple(kernel.run(graph, tensors, parameters, dtypes, summed))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.graph, ctx.parameters, ctx.dtypes, ctx.summed, *tensors = inputs
        ctx.set_materialize_grads(False)
        save(ctx, *tensors)
        ctx.moving = [True] * len(output)
        if ctx.graph.moves is None:
            return
        if forward_ad._current_level >= 0:  # tangents pass where gradients may not
            tangents = ctx.graph.push_forward((True,) * len(tensors)).outputs
            ctx.moving = [tangent is not constant(0) for tangent in tangents]
        else:
            transformed = transforms_active()
            requiring = {
                name
                for name, tensor in zip(ctx.graph.inputs, tensors, strict=True)
                if transformed or tensor.requires_grad
            }
            ctx.moving = [bool(moves & requiring) for moves in ctx.graph.moves]
        still = zip(output, ctx.moving, strict=True)
        ctx.mark_non_differentiable(*(o for o, moves in still if not moves))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        needed = _reached(ctx.graph, ctx.needs_input_grad[4:], grads)
        found = gradients(ctx.graph, ctx.parameters, ctx.saved_tensors, grads, needed)
        return None, None, None, None, *spread(found, needed)

    @staticmethod
    def push_forward(
        ctx: Any,
        inputs: Sequence[Tensor],
        graph: None,
        parameters: None,
        dtypes: None,
        summed: None,
        *tangents: Tensor | None,
    ) -> tuple[Any, ...]:
        graph_of_tangents = ctx.graph.push_forward(_present(tangents))
        moved = [tangent for tangent in tangents if tangent is not None]
        found = _Fused.apply(
            graph_of_tangents, ctx.parameters, ctx.dtypes, ctx.summed, *moved, *inputs
        )
        return tuple(f if moves else None for f, moves in zip(found, ctx.moving, strict=True))

    @staticmethod
    def vmap(info: Any, in_dims: Sequence[int | None], *arguments: Any) -> tuple[Any, Any]:
        graph = arguments[0]
        outputs = _Fused.apply(*operators.aligned(in_dims, arguments))
        return outputs, (0,) * len(graph.outputs)


def _reached(
    graph: Graph, needed: Sequence[bool], grads: Sequence[Tensor | None]
) -> tuple[bool, ...]:
    """Those of the needed inputs that a gradient reaches: the others have none, and no zeros."""
    moves = graph.moves
    if moves is None:
        if None not in grads:
            return tuple(needed)
        moves = graph.used
    of_present = [own for own, grad in zip(moves, grads, strict=True) if grad is not None]
    moving = frozenset().union(*of_present)
    return tuple(need and name in moving for name, need in zip(graph.inputs, needed, strict=True))


def apply(
    graph: Graph,
    parameters: tuple[float, ...],
    dtypes: _Dtypes,
    tensors: Sequence[Tensor],
    summed: Sequence[int] = (),
) -> Sequence[Tensor]:
    """The outputs of the graph, differentiable; summed as by `kernel.run`."""
    if not is_transformed():
        if not is_grad_enabled() or not any([tensor.requires_grad for tensor in tensors]):  # noqa: C419
            return kernel.run(graph, tensors, parameters, dtypes, summed)
        number = None if summed else recording_kernel(graph, tensors, dtypes)
        if number is not None:
            return kernel.fused(number, tensors, parameters, dtypes)
    return cast(Sequence[Tensor], _Fused.apply(graph, parameters, dtypes, summed, *tensors))


def recording_kernel(
    graph: Graph, tensors: Sequence[Tensor], dtypes: _Dtypes, *, sums: bool = False
) -> int | None:
    """The number of the kernel that reads all of these tensors, if there is one."""
    number, read = kernel.kernel_of(graph, tensors, dtypes, sums=sums)
    return number if len(read) == len(tensors) else None


def apply_reduced(
    graph: Graph,
    parameters: tuple[float, ...],
    dtype: torch.dtype,
    reduction: int,
    tensors: Sequence[Tensor],
) -> Tensor:
    """The mean or the sum of the graph's only output, differentiable."""
    number = None
    if not is_transformed():
        number = recording_kernel(graph, tensors, [dtype], sums=True)
    if number is not None:
        return cast(Tensor, kernel.fused_reduction(number, tensors, parameters, dtype, reduction))
    (values,) = apply(graph, parameters, [kernel.computed(tensors)], tensors)
    return kernel.reduced(values, dtype, reduction)


def gradients(
    graph: Graph,
    parameters: tuple[float, ...],
    tensors: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    needed: tuple[bool, ...],
) -> Sequence[Tensor | None]:
    """The gradients by the needed tensors, each of the shape and dtype of its tensor.

    `grads` are those of the outputs, None where there is none.
    """
    targets = [tensor for tensor, need in zip(tensors, needed, strict=True) if need]
    present = [grad for grad in grads if grad is not None]
    if not (present and targets):
        return [None] * len(targets)
    if prebuilt.is_prebuilt(graph, tensors) and not (all(needed) and None not in grads):
        zero = torch.zeros_like(present[0])
        every = [zero if grad is None else grad for grad in grads]
        found = gradients(graph, parameters, tensors, every, (True,) * len(tensors))
        return [grad for grad, need in zip(found, needed, strict=True) if need]
    pull_back = graph.pull_back(_present(grads), needed)
    operands = [*present, *tensors]
    return to_shapes(pull_back, parameters, operands, targets)


def to_shapes(
    graph: Graph,
    parameters: tuple[float, ...],
    operands: Sequence[Tensor],
    targets: Sequence[Tensor],
    dtypes: _Dtypes = (),
) -> list[Tensor]:
    """The outputs of a graph, first those of `dtypes`, and then the gradients of the targets.

    Each gradient has the shape and the dtype of its target: a sum, where that was broadcast.
    """
    shape = operands[0].shape
    if not all([operand.shape == shape for operand in operands]):  # noqa: C419
        shape = kernel.broadcast(operands)
    dims = [kernel.summed_dims(target.shape, shape) for target in targets]
    summed = (*(0 for _ in dtypes), *dims) if any(dims) else ()
    own = (*dtypes, *[target.dtype for target in targets])
    results = list(apply(graph, parameters, own, operands, summed))
    for i, target in enumerate(targets, len(dtypes)):
        if results[i].shape != target.shape:
            results[i] = results[i].reshape(target.shape)
    return results


def _recorded_backward(
    number: int,
    grads: Sequence[Tensor | None],
    tensors: Sequence[Tensor],
    parameters: list[float],
    wanted: int,
) -> Sequence[Tensor | None]:
    """The backwards that csrc/operators/fused.h leaves to Python."""
    graph = kernel.graph_of(number)
    needed = _reached(graph, [bool(wanted >> i & 1) for i in range(len(tensors))], grads)
    is_last = not (is_grad_enabled() or is_transformed())
    if is_last and None not in grads and not prebuilt.is_prebuilt(graph, tensors):
        _remember_backward(number, graph, cast(Sequence[Tensor], grads), tensors, needed)
    found = gradients(graph, tuple(parameters), tensors, grads, needed)
    return spread(found, needed)


def _remember_backward(
    number: int,
    graph: Graph,
    grads: Sequence[Tensor],
    tensors: Sequence[Tensor],
    needed: tuple[bool, ...],
) -> None:
    """Let the operator find the kernel by itself next time."""
    operands = [*grads, *tensors]
    if not all(operand.shape == grads[0].shape for operand in operands):
        return
    if kernel.computed(operands) is not kernel.computed(tensors):
        return
    dtypes = [tensor.dtype for tensor, need in zip(tensors, needed, strict=True) if need]
    backward, read = kernel.kernel_of(graph.pull_back(_present(grads), needed), operands, dtypes)
    if backward is not None:
        wanted = sum(need << i for i, need in enumerate(needed))
        _C.set_fused_backward(number, wanted, backward, read)


_C.set_fused_differentiable_backward(_recorded_backward)

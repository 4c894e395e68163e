"""Graphs as a `torch.autograd.Function` whose derivatives are graphs again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fusedgrad.autograd import (
    _aligned,
    _being_differentiated,
    _Function,
    _present,
    _spread,
)
from fusedgrad.fuse.graph import Graph
from fusedgrad.fuse.kernel import run

_HALF = (torch.float16, torch.bfloat16)


class _Fused(_Function):
    """`apply(graph, parameters, *tensors)`: a tuple of the outputs of the graph.

    Saves the tensors and nothing else.
    """

    @staticmethod
    def forward(
        graph: Graph, parameters: tuple[float, ...], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        return tuple(run(graph, tensors, parameters))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.graph, ctx.parameters, *tensors = inputs
        ctx.output_dtypes = [result.dtype for result in output]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        tensors = ctx.saved_tensors
        needed = tuple(ctx.needs_input_grad[2:])
        given = _present(grads)
        if not any(given) or not any(needed):
            return (None,) * (2 + len(tensors))
        present = [grad for grad in grads if grad is not None]
        found = gradients(ctx.graph, ctx.parameters, tensors, given, present, needed)
        return None, None, *_spread(found, needed)

    @staticmethod
    def jvp(ctx: Any, graph: None, parameters: None, *tangents: Tensor | None) -> tuple[Any, ...]:
        graph_of_tangents = ctx.graph.push_forward(_present(tangents))
        moved = [tangent for tangent in tangents if tangent is not None]
        found = _Fused.apply(graph_of_tangents, ctx.parameters, *moved, *ctx.saved_tensors)
        return tuple(map(Tensor.to, found, ctx.output_dtypes))

    @staticmethod
    def vmap(info: Any, in_dims: Sequence[int | None], *arguments: Any) -> tuple[Any, Any]:
        graph = arguments[0]
        outputs = _Fused.apply(*_aligned(in_dims, arguments))
        return outputs, (0,) * len(graph.outputs)


apply = _Fused.apply


def gradients(
    graph: Graph,
    parameters: tuple[float, ...],
    tensors: Sequence[Tensor],
    given: tuple[bool, ...],
    grads: Sequence[Tensor],
    needed: tuple[bool, ...],
) -> list[Tensor]:
    """The gradients by the needed tensors, each of the shape and dtype of its tensor."""
    pull_back = graph.pull_back(given, needed)
    operands = [*grads, *tensors]
    targets = [tensor for tensor, need in zip(tensors, needed, strict=True) if need]
    if _being_differentiated():
        found = _Fused.apply(pull_back, parameters, *operands)
        return [_fitted(grad, target) for grad, target in zip(found, targets, strict=True)]
    shape = grads[0].shape
    if all([target.shape == shape for target in targets]):  # noqa: C419  (a tenth of the overhead)
        return run(pull_back, operands, parameters, [target.dtype for target in targets])
    whole = tuple(i for i, target in enumerate(targets) if target.shape == shape)
    # What has to be summed is computed by itself, so that one tensor more exists and not several.
    parts = [whole] if whole else []
    parts += [(i,) for i, target in enumerate(targets) if target.shape != shape]
    result: dict[int, Tensor] = {}
    for part in parts:
        partial = pull_back if len(part) == len(targets) else pull_back.part(part)
        dtypes = [_accumulated(targets[i], shape) for i in part]
        for i, grad in zip(part, run(partial, operands, parameters, dtypes), strict=True):
            result[i] = _fitted(grad, targets[i])
    return [result[i] for i in range(len(targets))]


def _accumulated(target: Tensor, shape: torch.Size) -> torch.dtype:
    """The dtype in which the kernel writes a gradient: what is summed is not rounded to half."""
    return torch.float32 if target.shape != shape and target.dtype in _HALF else target.dtype


def _fitted(grad: Tensor, target: Tensor) -> Tensor:
    if grad.shape != target.shape:
        grad = grad.sum_to_size(target.shape)
    return grad if grad.dtype is target.dtype else grad.to(target.dtype)

"""The operators on DTensor: each process works on its own part, as PyTorch's pointwise ones do.

Along a dimension of the device mesh an operation keeps the sharding of its operands. A reduced loss
of shards is a partial sum, a mean weighted by the share of elements that a process holds, so that
uneven shards have the unsharded mean, too. Gradients are linear in the one that comes in: where
that is a partial sum, they remain partial sums.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import math
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from fusedgrad import operators
from fusedgrad.operations.logistic_loss import MEAN, NONE, SUM

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor.placement_types import Placement

_DTENSOR = "torch.distributed.tensor"

# Every other derivative is linear in its first argument alone.
_LINEAR_IN_TWO = "fusedgrad::pow_double_backward.Tensor_Tensor"


def _result_placement(
    operands: Sequence["DTensor"], mesh_dim: int, shape: torch.Size, linear: bool
) -> "Placement":
    """Where the elementwise result lies along a dimension of the mesh."""
    from torch.distributed.tensor import Replicate, Shard

    placements = [operand.placements[mesh_dim] for operand in operands]
    for operand, placement in zip(operands, placements, strict=True):
        if type(placement) is Shard:
            dim = placement.dim + len(shape) - operand.ndim
            if operand.shape[placement.dim] == shape[dim]:
                return Shard(dim)
    first, *others = placements
    if linear and first.is_partial("sum") and all(other.is_replicate() for other in others):
        return first
    return Replicate()


def _operand_placement(
    operand: "DTensor", result: "Placement", shape: torch.Size, first: bool
) -> "Placement":
    """Where an operand must lie for its part to give that part of the result."""
    from torch.distributed.tensor import Replicate, Shard

    if isinstance(result, Shard):
        dim = result.dim - len(shape) + operand.ndim
        if dim >= 0 and operand.shape[dim] == shape[result.dim]:
            return Shard(dim)
    if result.is_partial() and first:
        return result
    return Replicate()


def _as_dtensors(name: str, operands: Sequence[Tensor]) -> list["DTensor"]:
    """The operands, numbers among them replicated."""
    from torch.distributed.tensor import DTensor, Replicate

    mesh = next(operand for operand in operands if isinstance(operand, DTensor)).device_mesh
    distributed = []
    for operand in operands:
        if not isinstance(operand, DTensor):
            if operand.ndim != 0:
                raise RuntimeError(
                    f"{name}: got mixed torch.Tensor and DTensor; distribute the Tensor of size "
                    f"{tuple(operand.shape)}, too"
                )
            operand = DTensor.from_local(operand, mesh, [Replicate()] * mesh.ndim, run_check=False)
        # PyTorch 2.11 does not redistribute what requires a gradient, even where none is recorded.
        distributed.append(cast("DTensor", operand.detach()))
    return distributed


def _like(operand: Tensor) -> Tensor:
    return torch.empty_strided(operand.shape, operand.stride(), dtype=operand.dtype, device="meta")


@torch.no_grad()
def _dispatch(
    cls: type, func: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Run the operator `func` on DTensors."""
    from torch.distributed.tensor import DTensor, Partial

    if "out" in kwargs:
        overload = func._overloadname.removesuffix("out").removesuffix("_") or "default"
        kwargs["out"].copy_(getattr(func.overloadpacket, overload)(*args))
        return None

    leaves, tree = tree_flatten(args)
    positions = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    operands = _as_dtensors(str(func), [leaves[i] for i in positions])
    mesh = operands[0].device_mesh
    shape = torch.broadcast_shapes(*(operand.shape for operand in operands))  # type: ignore[no-untyped-call]

    is_derivative = "_backward" in func.name()
    linear = is_derivative and func.name() != _LINEAR_IN_TWO
    placements = [_result_placement(operands, i, shape, linear) for i in range(mesh.ndim)]

    def call(parts: Sequence[Tensor], reduction: int | None) -> Any:
        complete = list(leaves)
        for i, part in zip(positions, parts, strict=True):
            complete[i] = part
        arguments = list(tree_unflatten(complete, tree))
        if reduction is not None:
            arguments[names.index("reduction")] = reduction
        return func(*arguments)

    names = [argument.name for argument in func._schema.arguments]
    reduction = args[names.index("reduction")] if "reduction" in names else None
    whole = call([_like(operand) for operand in operands], reduction)

    parts = [
        operand.redistribute(
            placements=[
                _operand_placement(operand, placement, shape, first=i == 0)
                for placement in placements
            ]
        ).to_local()
        for i, operand in enumerate(operands)
    ]
    share = 1.0
    if reduction == MEAN:
        part_shape = torch.broadcast_shapes(*(part.shape for part in parts))  # type: ignore[no-untyped-call]
        share = math.prod(part_shape) / shape.numel() if shape.numel() else math.nan
        reduction = MEAN if share > 0 else SUM  # the mean of no elements is NaN
    if mesh.get_coordinate() is None:  # a process outside the mesh
        results = tree_map(lambda result: result.new_empty(0, device=mesh.device_type), whole)
    else:
        results = call(parts, reduction)
    if reduction not in (None, NONE) and not is_derivative:
        placements = [Partial("sum") if p.is_shard() else p for p in placements]

    def wrap(result: Tensor, whole: Tensor) -> "DTensor":
        return DTensor.from_local(
            result if share in (0.0, 1.0) else result * share,
            mesh,
            placements,
            run_check=False,
            shape=whole.shape,
            stride=whole.stride(),
        )

    return tree_map(wrap, results, whole)


def _register() -> None:
    from torch.distributed.tensor import DTensor

    from fusedgrad.fuse import trace

    trace.PLAIN.add(DTensor)
    for name in (*operators._IMPLEMENTATIONS, "fused", "fused_reduction"):
        torch.library.register_torch_dispatch(f"fusedgrad::{name}", DTensor, _dispatch)


class _RegisterAfterImport(importlib.abc.MetaPathFinder):
    """Registers the rules once DTensor is imported, which takes half a second, by someone else."""

    def find_spec(
        self, fullname: str, path: Any, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _DTENSOR:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                _register()

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


if _DTENSOR in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _RegisterAfterImport())

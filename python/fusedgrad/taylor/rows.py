"""Kernels whose operands are rows of a few tensors, and whose gradients are again rows of a few."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch._C import _len_torch_dispatch_stack as count_of_dispatch_modes

from fusedgrad import _C
from fusedgrad.fuse import autograd, kernel, nvrtc
from fusedgrad.fuse.expression import Expression, constant
from fusedgrad.fuse.graph import Graph
from fusedgrad.fuse.trace import PLAIN
from fusedgrad.operations.shared import HALF_DTYPES, is_transformed

call_rows = _C.call_rows
# A tensor among several and one of its rows, of its first dimension; -1 for all of it
Row = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Rows:
    """A graph whose inputs are rows of tensors, and whose outputs are rows of results."""

    graph: Graph  # whole
    tensors: tuple[int, ...]  # of each its rows, -1 for one that is an input itself
    read: tuple[Row, ...]  # of each input
    results: tuple[int, ...]  # of each its rows, -1 for one that is an output itself
    numbers: dict[Any, int | None] = field(default_factory=dict)

    @property
    def is_within_limits(self) -> bool:
        """Whether a kernel has as many operands."""
        return len(self.read) + len(self.graph.outputs) <= _C.max_operands

    @functools.cached_property
    def backward(self) -> functools._lru_cache_wrapper[Backward]:
        """`backward(needed, summed)`: see `Backward`."""
        return functools.cache(functools.partial(_backward, self))

    def number(self, dtypes: Sequence[torch.dtype], tensors: Sequence[Tensor]) -> int | None:
        """Of the kernel in C++, which records itself; None where the graph must be evaluated."""
        key = (tensors[0].device.type, *dtypes, *[tensor.dtype for tensor in tensors])
        number = self.numbers.get(key, -1)
        if number == -1:
            kernel_number = self._compiled(dtypes, tensors)
            if kernel_number is None:
                number = None
            else:
                number = _C.add_rows_kernel(kernel_number, self.read, self.results, dtypes)
                _rows[number] = self
            self.numbers[key] = number
        return number

    def _compiled(self, dtypes: Sequence[torch.dtype], tensors: Sequence[Tensor]) -> int | None:
        operands = self.operands(tensors)
        read = range(len(operands))
        wide = kernel.computed(operands) is torch.float64
        if all(tensor.is_cpu for tensor in tensors):
            return kernel._compiled(self.graph, read, wide)
        target = nvrtc.target_of(operands)
        if target is None:
            return None
        own = [*self._of_outputs(dtypes), *(operand.dtype for operand in operands)]
        with nvrtc.on_device_of(operands):
            return kernel._compiled_for_cuda(self.graph, read, own, wide, target)

    def operands(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The inputs of the graph."""
        return [tensors[i] if row < 0 else tensors[i][row] for i, row in self.read]

    def _of_outputs(self, dtypes: Sequence[torch.dtype]) -> list[torch.dtype]:
        return [d for d, n in zip(dtypes, self.results, strict=True) for _ in range(abs(n))]

    def _stacked(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        left = iter(outputs)
        return [
            next(left) if n < 0 else torch.stack([next(left) for _ in range(n)])
            for n in self.results
        ]

    def by_parts(
        self, numbers: Sequence[float], dtypes: Sequence[torch.dtype], tensors: Sequence[Tensor]
    ) -> list[Tensor]:
        """The results, of tensors of any kind, under any transform."""
        operands = self.operands(tensors)
        return self._stacked(
            autograd.apply(self.graph, tuple(numbers), self._of_outputs(dtypes), operands)
        )


@dataclass(frozen=True, eq=False)
class Backward:
    """The gradients of `Rows` by the needed tensors."""

    rows: Rows  # of the gradients of the results, then of the tensors
    targets: tuple[int, ...]  # the tensors whose gradients the results are
    # Tensors whose gradient is the sum of a row of a result, which is another's gradient too
    shared: tuple[tuple[int, Row], ...]


def _backward(rows: Rows, needed: tuple[bool, ...], summed: tuple[bool, ...]) -> Backward:
    graph = rows.graph
    wanted = tuple(needed[tensor] for tensor, _ in rows.read)
    pull_back = graph.pull_back((True,) * len(graph.outputs), wanted)
    by_row: dict[Row, Expression] = dict(
        zip(
            (own for own, want in zip(rows.read, wanted, strict=True) if want),
            pull_back.outputs,
            strict=True,
        )
    )
    outputs: list[Expression] = []
    results: list[int] = []
    targets: list[int] = []
    places: dict[Expression, Row] = {}
    shared: list[tuple[int, Row]] = []
    order = sorted(range(len(needed)), key=lambda i: (summed[i], i))
    for i in order:
        if not needed[i]:
            continue
        count = rows.tensors[i]
        if count < 0:
            expression = by_row.get((i, -1), constant(0))
            if summed[i] and expression in places:
                shared.append((i, places[expression]))
                continue
            outputs.append(expression)
        else:
            for row in range(count):
                expression = by_row.get((i, row), constant(0))
                if not summed[i]:
                    places.setdefault(expression, (len(targets), row))
                outputs.append(expression)
        targets.append(i)
        results.append(count)
    grads: list[Row] = []
    for i, count in enumerate(rows.results):
        grads += [(i, -1)] if count < 0 else [(i, row) for row in range(count)]
    shifted = [(i + len(rows.results), row) for i, row in rows.read]
    derived = Graph(
        pull_back.name,
        pull_back.inputs,
        pull_back.parameters,
        tuple(outputs),
        whole=True,
        interpreted=graph.interpreted,
    )
    own = Rows(derived, (*rows.results, *rows.tensors), (*grads, *shifted), tuple(results))
    return Backward(own, tuple(targets), tuple(shared))


def are_plain(tensors: Sequence[Tensor]) -> bool:
    """Whether no transform, no mode and no subclass sees to what is done with the tensors."""
    return (
        not (is_transformed() or count_of_dispatch_modes())
        and all([type(tensor) in PLAIN for tensor in tensors])  # noqa: C419
        and (forward_ad._current_level < 0 or not any(map(_has_tangent, tensors)))
    )


def _has_tangent(tensor: Tensor) -> bool:
    return forward_ad.unpack_dual(tensor).tangent is not None  # type: ignore[no-untyped-call]


def apply(
    rows: Rows, numbers: Sequence[float], dtypes: Sequence[torch.dtype], tensors: Sequence[Tensor]
) -> Sequence[Tensor]:
    """The results, differentiable."""
    if not (rows.is_within_limits and are_plain(tensors)):
        return rows.by_parts(numbers, dtypes, tensors)
    number = rows.number(dtypes, tensors)
    if number is None:
        return rows.by_parts(numbers, dtypes, tensors)
    return call_rows(number, tensors, numbers)


_rows: dict[int, Rows] = {}  # by the numbers of their kernels in C++


def _recorded_backward(
    number: int,
    grads: Sequence[Tensor],
    tensors: Sequence[Tensor],
    numbers: Sequence[float],
    needed: int,
    summed: int,
) -> Sequence[Tensor | None]:
    """The backwards that csrc/operators/rows.h leaves to Python."""
    rows = _rows[number]
    are_needed, are_summed = (
        tuple([bool(bits >> i & 1) for i in range(len(tensors))]) for bits in (needed, summed)
    )
    plan = rows.backward(are_needed, are_summed)
    dtypes = [
        torch.float32 if are_summed[i] and tensors[i].dtype in HALF_DTYPES else tensors[i].dtype
        for i in plan.targets
    ]
    operands = [*grads, *tensors]
    results = apply(plan.rows, numbers, dtypes, operands)
    if plan.rows.is_within_limits and are_plain(operands):
        own = plan.rows.number(dtypes, operands)
        if own is not None:  # let C++ find it by itself next time
            _C.set_rows_backward(number, needed, summed, own, plan.targets, plan.shared)
    found: list[Tensor | None] = [None] * len(tensors)
    for i, result in zip(plan.targets, results, strict=True):
        found[i] = _fitted(result, tensors[i], rows.tensors[i]) if are_summed[i] else result
    for i, (target, row) in plan.shared:
        result = results[target][row] if row >= 0 else results[target]
        found[i] = _fitted(result, tensors[i], -1)
    return found


_C.set_rows_differentiable_backward(_recorded_backward)


def _fitted(grad: Tensor, target: Tensor, rows: int) -> Tensor:
    """The gradient summed to the shape of its tensor, row by row."""
    if rows >= 0:
        between = [1] * (grad.dim() - target.dim())
        sizes = (rows, *between, *target.shape[1:])
        return grad.sum_to_size(sizes).reshape(target.shape).to(target.dtype)
    return grad.sum_to_size(target.shape).to(target.dtype)

"""Kernels whose operands are rows of a few tensors, and whose gradients are again rows of a few."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch._C import _len_torch_dispatch_stack as count_of_dispatch_modes
from torch._C._functorch import is_legacy_batchedtensor as is_legacy_batched

from fusedgrad import _C
from fusedgrad.fuse import autograd, kernel, nvrtc
from fusedgrad.fuse.expression import Expression, constant
from fusedgrad.fuse.graph import Graph, input_named
from fusedgrad.fuse.trace import PLAIN
from fusedgrad.operations.shared import HALF_DTYPES, is_transformed

call_rows = _C.call_rows
# A tensor among several and one of its rows, of its first dimension; -1 for all of it
Row = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Step:
    """A kernel that reads rows of tensors and writes rows of results."""

    graph: Graph  # whole
    read: tuple[Row, ...]  # of each input
    writes: tuple[Row, ...]  # of each output, which is added to what a step before wrote there


@dataclass(frozen=True, eq=False)
class Rows:
    """What is computed of rows of tensors, in steps one after the other."""

    steps: tuple[Step, ...]
    tensors: tuple[int, ...]  # of each its rows, -1 for one that is an input itself
    results: tuple[int, ...]  # of each its rows, -1 for one that is an output itself
    numbers: dict[Any, int | None] = field(default_factory=dict)

    @functools.cached_property
    def summing(self) -> tuple[Step, ...]:
        """The steps as kernels: sums so far are among the inputs, results behind all tensors."""
        steps, written = [], set[Row]()
        for step in self.steps:
            outputs, inputs, read = list(step.graph.outputs), list(step.graph.inputs), [*step.read]
            for i, (result, row) in enumerate(step.writes):
                if (result, row) in written:
                    inputs.append(f"sum_{i}")
                    outputs[i] = outputs[i] + input_named(inputs[-1])
                    read.append((len(self.tensors) + result, row))
            written.update(step.writes)
            writes = tuple((len(self.tensors) + result, row) for result, row in step.writes)
            graph = replace(step.graph, inputs=tuple(inputs), outputs=tuple(outputs))
            steps.append(Step(graph, tuple(read), writes))
        return tuple(steps)

    @functools.cached_property
    def is_within_limits(self) -> bool:
        """Whether a kernel has as many operands."""
        operands = max(len(step.read) + len(step.writes) for step in self.summing)
        return operands <= _C.max_operands

    @functools.cached_property
    def backward(self) -> functools._lru_cache_wrapper[Backward]:
        """`backward(needed, summed)`: see `Backward`."""
        return functools.cache(functools.partial(_backward, self))

    def number(self, dtypes: Sequence[torch.dtype], tensors: Sequence[Tensor]) -> int | None:
        """Of the kernel in C++, which records itself; None where the graph must be evaluated."""
        key = (tensors[0].device.type, *dtypes, *[tensor.dtype for tensor in tensors])
        number = self.numbers.get(key, -1)
        if number == -1:
            steps = []
            for step in self.summing:
                kernel_number = self._compiled(step, dtypes, tensors)
                if kernel_number is not None:
                    steps.append((kernel_number, step.read, step.writes))
            number = None
            if len(steps) == len(self.summing):
                number = _C.add_rows_kernel(steps, self.tensors, self.results, dtypes)
                _rows[number] = self
            self.numbers[key] = number
        return number

    def number_in_use(self, dtypes: Sequence[torch.dtype], tensors: Sequence[Tensor]) -> int | None:
        """The same where `apply` runs the kernel."""
        return (
            self.number(dtypes, tensors) if self.is_within_limits and are_plain(tensors) else None
        )

    def _compiled(
        self, step: Step, dtypes: Sequence[torch.dtype], tensors: Sequence[Tensor]
    ) -> int | None:
        wide = kernel.computed(tensors) is torch.float64
        if all(tensor.is_cpu for tensor in tensors):
            return kernel._compiled(step.graph, range(len(step.read)), wide)
        target = nvrtc.target_of(tensors)
        if target is None:
            return None
        own = [*(tensor.dtype for tensor in tensors), *dtypes]
        operands = [own[i] for i, _ in (*step.writes, *step.read)]
        with nvrtc.on_device_of(tensors):
            read = range(len(step.read))
            return kernel._compiled_for_cuda(step.graph, read, operands, wide, target)

    def by_parts(
        self, numbers: Sequence[float], dtypes: Sequence[torch.dtype], tensors: Sequence[Tensor]
    ) -> list[Tensor]:
        """The results, of tensors of any kind, under any transform."""
        found: dict[Row, Tensor] = {}
        for step in self.steps:
            operands = [tensors[i] if row < 0 else tensors[i][row] for i, row in step.read]
            own = [dtypes[i] for i, _ in step.writes]
            outputs = autograd.apply(step.graph, tuple(numbers), own, operands)
            for row, output in zip(step.writes, outputs, strict=True):
                found[row] = found[row] + output if row in found else output
        return [
            found[i, -1] if n < 0 else torch.stack([found[i, row] for row in range(n)])
            for i, n in enumerate(self.results)
        ]


@dataclass(frozen=True, eq=False)
class Backward:
    """The gradients of `Rows` by the needed tensors."""

    rows: Rows  # of the gradients of the results, then of the tensors
    targets: tuple[int, ...]  # the tensors whose gradients the results are
    # Tensors whose gradient is the sum of a row of a result, which is another's gradient too
    shared: tuple[tuple[int, Row], ...]


def _backward(rows: Rows, needed: tuple[bool, ...], summed: tuple[bool, ...]) -> Backward:
    pulled: list[Graph] = []
    by_row: dict[Row, list[Expression]] = {}  # of each step
    for place, step in enumerate(rows.steps):
        wanted = tuple(needed[tensor] for tensor, _ in step.read)
        pulled.append(step.graph.pull_back((True,) * len(step.writes), wanted))
        of_wanted = [own for own, want in zip(step.read, wanted, strict=True) if want]
        for own, expression in zip(of_wanted, pulled[-1].outputs, strict=True):
            by_row.setdefault(own, [constant(0)] * len(rows.steps))[place] = expression
    nothing = [constant(0)] * len(rows.steps)
    results: list[int] = []
    targets: list[int] = []
    writes: list[dict[Row, Expression]] = [{} for _ in rows.steps]
    places: dict[tuple[Expression, ...], Row] = {}
    shared: list[tuple[int, Row]] = []
    for i in sorted(range(len(needed)), key=lambda i: (summed[i], i)):
        if not needed[i]:
            continue
        count = rows.tensors[i]
        for row in range(count) if count >= 0 else (-1,):
            of_steps = tuple(by_row.get((i, row), nothing))
            if row < 0 and summed[i] and of_steps in places:
                shared.append((i, places[of_steps]))
                break
            if not summed[i]:
                places.setdefault(of_steps, (len(targets), row))
            zero = constant(0)
            parts = [place for place, e in enumerate(of_steps) if e is not zero] or [0]
            for part in parts:
                writes[part][len(targets), row] = of_steps[part]
        else:
            targets.append(i)
            results.append(count)
    steps = []
    for step, graph, of_rows in zip(rows.steps, pulled, writes, strict=True):
        if of_rows:
            shifted = [(i + len(rows.results), row) for i, row in step.read]
            derived = replace(graph, outputs=tuple(of_rows.values()))
            steps.append(Step(derived, (*step.writes, *shifted), tuple(of_rows)))
    derived_rows = Rows(tuple(steps), (*rows.results, *rows.tensors), tuple(results))
    return Backward(derived_rows, tuple(targets), tuple(shared))


def are_plain(tensors: Sequence[Tensor]) -> bool:
    """Whether no transform, no mode and no subclass sees to what is done with the tensors."""
    return (
        not (is_transformed() or count_of_dispatch_modes())
        and all([type(tensor) in PLAIN for tensor in tensors])  # noqa: C419
        and not any(map(is_legacy_batched, tensors))
        and (forward_ad._current_level < 0 or not any(map(_has_tangent, tensors)))
    )


def _has_tangent(tensor: Tensor) -> bool:
    return forward_ad.unpack_dual(tensor).tangent is not None  # type: ignore[no-untyped-call]


def apply(
    rows: Rows, numbers: Sequence[float], dtypes: Sequence[torch.dtype], tensors: Sequence[Tensor]
) -> Sequence[Tensor]:
    """The results, differentiable."""
    number = rows.number_in_use(dtypes, tensors)
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

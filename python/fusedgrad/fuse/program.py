"""What a record comes to: a kernel's graph, and what PyTorch computes before it.

Floats are the kernel's. Integers and bool that do not come of comparisons of floats are PyTorch's
own arithmetic: their operations run again, and the kernel takes what they give.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from fusedgrad import operators
from fusedgrad.fuse.errors import FuseError, FuseTypeError
from fusedgrad.fuse.expression import Expression, apply, constant, make, wrap
from fusedgrad.fuse.expression import number as as_number
from fusedgrad.fuse.graph import Graph, input_named, parameter_named
from fusedgrad.fuse.trace import Recorder, name_of, rounded
from fusedgrad.fuse.vocabulary import (
    BLOCKING,
    BOUNDED,
    BUILDERS,
    CHOSEN_BY,
    COMPARISONS,
    LOGICAL,
    OPAQUE,
    ROUNDED,
    RULES,
    STEPS,
    TYPED,
)


class RowError(Exception):
    """A row that cannot be fused; raised again where its line is known."""

    def __init__(self, row: int, error: Exception) -> None:
        """`row` is the number of the node."""
        super().__init__(row, error)
        self.row, self.error = row, error


def structure_of(recorder: Recorder, outputs: Sequence[int]) -> tuple[Any, ...]:
    """What is equal for records that differ in their numbers alone."""
    rows = [
        (node.dtype, node.dim() == 0) if row is None else row
        for row, node in zip(recorder.rows, recorder.nodes, strict=True)
    ]
    return (recorder.is_transformed, *rows, *outputs)


@dataclass(slots=True)
class Program:
    """How the outputs of records of one structure are computed."""

    graph: Graph | None
    inputs: list[tuple[int, torch.dtype | None]]  # node, and the dtype it is cast to
    parameters: list[int]  # positions of numbers
    replayed: list[int]  # rows that PyTorch computes
    # For each output its place in the kernel's, or None for a node that is no kernel's
    places: list[int | None]
    dtypes: tuple[torch.dtype, ...]  # of the kernel's outputs
    requires_grad: bool
    reduction: str = "none"  # of the only output
    # Means and sums that the outputs are made of, by the rows that follow, and of which of the
    # kernel's outputs, or None
    sums: list[tuple[int, int | None]] = field(default_factory=list)
    following: list[int] = field(default_factory=list)
    bounded: bool = False  # whether there are values of which PyTorch refuses some
    # Of kernels that read all tensors, by the device of these, of any shape
    numbers: dict[torch.device, int] = field(default_factory=dict)
    graphs: dict[Any, Any] = field(default_factory=dict)


class _Builder:
    def __init__(
        self,
        recorder: Recorder,
        names: dict[int, str],
        parameters: dict[int, str],
        whole: bool,
    ) -> None:
        self.recorder = recorder
        self.whole = whole
        self.names = names  # of operands
        self.parameters = parameters  # of positions of numbers
        self.inputs: dict[tuple[int, torch.dtype | None], str] = {}
        self.replayed: set[int] = set()
        count = len(recorder.rows)
        self.in_kernel = [False] * count
        self.shapes: list[frozenset[int]] = [frozenset()] * count  # operands that give the shape
        self.moves: list[frozenset[int]] = [frozenset()] * count  # operands that gradients reach
        self.expressions: dict[int, Expression] = {}
        self.positions: list[int] = []  # of the first number of each row
        self.narrowed: set[int] = set()  # rounded by a cast, or made of that
        self._prepare()

    def _prepare(self) -> None:
        rows, nodes = self.recorder.rows, self.recorder.nodes
        position = 0
        for i, row in enumerate(rows):
            self.positions.append(position)
            if row is None:
                self.shapes[i] = self.moves[i] = frozenset((i,))
                dtype = nodes[i].dtype
                if not (dtype in operators.KERNEL_DTYPES or _is_integer(dtype)):
                    raise FuseTypeError(
                        f"{self.names[i]} has dtype {dtype}, for which there is no kernel, "
                        "expected float64, float32, float16, bfloat16, an integer or bool: pass "
                        f"{self.names[i]}.to(torch.float32)"
                    )
                continue
            name, specs, keywords, dtype, _, _, passes = row
            values = (*specs, *(value for _, value in keywords))
            position += sum(value is float or value is int for value in values)
            used = [value for value in values if type(value) is int]
            self._check_rounding(i, name, dtype, used)
            self.shapes[i] = frozenset().union(*(self.shapes[n] for n in used))
            if passes == "all" and name not in BLOCKING and dtype.is_floating_point:
                self.moves[i] = frozenset().union(*(self.moves[n] for n in used))
            elif passes == "old":
                self.moves[i] = self.moves[specs[0]]
            if dtype.is_floating_point:
                self.in_kernel[i] = name not in OPAQUE and name != "rounded"
            elif dtype is torch.bool and name in COMPARISONS:
                self.in_kernel[i] = any(
                    self.in_kernel[n] or nodes[n].dtype.is_floating_point for n in used
                )
            elif dtype is torch.bool and name in LOGICAL:
                floats = [nodes[n].dtype.is_floating_point for n in used]
                self.in_kernel[i] = any(
                    self.in_kernel[n] or is_float for n, is_float in zip(used, floats, strict=True)
                ) and all(
                    nodes[n].dtype is torch.bool or is_float
                    for n, is_float in zip(used, floats, strict=True)
                )

    def _check_rounding(self, i: int, name: str, dtype: torch.dtype, used: list[int]) -> None:
        """Refuse what is rounded by a cast, then compared or widened: no kernel rounds in between.

        What a cast makes an output is rounded where it is written.
        """
        of = {n: d for n in used if (d := self.recorder.nodes[n].dtype).is_floating_point}
        for n, own in of.items():
            is_wider = not dtype.is_floating_point or torch.promote_types(own, dtype) is not own
            if is_wider and n in self.narrowed:
                raise RowError(
                    i,
                    FuseTypeError(
                        f"it goes on in {dtype} with what a cast has rounded to {own}, and a "
                        "kernel does not round in between: fuse the part before it and the part "
                        "after it"
                    ),
                )
        casts = name == "cast" and any(
            torch.promote_types(d, dtype) is not dtype for d in of.values()
        )
        if casts or any(n in self.narrowed for n in of):
            self.narrowed.add(i)

    def replay(self, node: int) -> None:
        stack = [node]
        while stack:
            n = stack.pop()
            row = self.recorder.rows[n]
            if row is None or n in self.replayed:
                continue
            self.replayed.add(n)
            stack += [v for v in (*row[1], *(v for _, v in row[2])) if type(v) is int]

    def input(self, node: int, dtype: torch.dtype | None) -> Expression:
        name = self.inputs.get((node, dtype))
        if name is None:
            name = self.names.get(node, f"v{node}")
            if dtype is not None and any(n == node for n, _ in self.inputs):
                name = f"{name}_{str(dtype)[6:]}"
            self.inputs[node, dtype] = name
            self.replay(node)
        return input_named(name)

    def build(self, outputs: Sequence[int]) -> None:
        """The expressions of these nodes and of all that they need."""
        rows = self.recorder.rows
        needed: set[int] = set()
        stack = [n for n in outputs if self.in_kernel[n]]
        while stack:
            n = stack.pop()
            if n in needed:
                continue
            needed.add(n)
            row = rows[n]
            assert row is not None
            for v in (*row[1], *(v for _, v in row[2])):
                if type(v) is int:
                    rounds = rows[v]
                    v = rounds[1][0] if rounds is not None and rounds[0] == "rounded" else v
                    stack += [v] if self.in_kernel[v] else []
        # Under an outer no_grad nothing is recorded, and the plain graph is one for all such calls.
        any_requires = self.whole or self.recorder.is_transformed
        any_requires = any_requires or any(row is not None and row[5] for row in rows)
        for n in sorted(needed):
            row = rows[n]
            assert row is not None
            try:
                expression = self._expression(n, row)
            except (FuseError, TypeError, ValueError) as error:
                raise RowError(n, error) from None
            if row[6] != "all" and not expression.is_condition:
                if row[6] == "none":
                    expression = make("detach", expression)
                elif any_requires:
                    expression = make("no_grad", expression)
                    if row[6] == "old":
                        old = self._operand(row[1][0], row[3], as_condition=False)
                        expression = make("replaced", expression, old)
            self.expressions[n] = expression

    def _expression(self, n: int, row: Any) -> Expression:
        name, specs, keywords, dtype, _, _, _ = row
        nodes = self.recorder.nodes
        values = (*specs, *(value for _, value in keywords))
        position = self.positions[n]
        if dtype.is_floating_point:
            promoted = dtype
        else:
            floats = [nodes[v] for v in values if type(v) is int]
            promoted = nodes[n].dtype if not floats else floats[0].dtype
            for other in floats[1:]:
                promoted = torch.promote_types(promoted, other.dtype)
            if len(floats) == 2:
                promoted = torch.result_type(*floats)
        chosen = CHOSEN_BY.get(name)
        made: list[Any] = []
        for place, value in enumerate(values):
            if type(value) is int:
                made.append(
                    self._operand(value, promoted, as_condition=name in LOGICAL or place == chosen)
                )
            elif value is float or value is int:
                named = self.parameters.get(position)
                number = self.recorder.numbers[position]
                if name in ROUNDED and self._wide and promoted is torch.float32:
                    if named is not None:
                        raise FuseTypeError(
                            f"{number} changes from call to call, and is compared in float32, "
                            "beside float64: pass it as a tensor, or the argument as float64"
                        )
                    number = rounded(number, promoted)
                if named is None:
                    made.append(float(number) if value is int and abs(number) > 2**53 else number)
                else:
                    made.append(parameter_named(named))
                position += 1
            else:
                made.append(value[0])
        keys = {key: m for (key, _), m in zip(keywords, made[len(specs) :], strict=True)}
        if name in TYPED:
            keys["dtype"] = dtype
        result = wrap(BUILDERS[name](*made[: len(specs)], **keys))
        if name in STEPS and self.moves[n]:
            called = name_of(self.recorder.calls[n])
            return make("opaque", as_number(result), *map(as_number, map(wrap, made)), value=called)
        return as_number(result) if dtype.is_floating_point else result

    def operand(self, node: int) -> Expression:
        """A float as what it is, whatever is computed with it."""
        return self._operand(node, self.recorder.nodes[node].dtype, as_condition=False)

    def _operand(self, node: int, promoted: torch.dtype, *, as_condition: bool) -> Expression:
        if self.in_kernel[node]:
            return self.expressions[node]
        dtype = self.recorder.nodes[node].dtype
        if dtype.is_floating_point:
            row = self.recorder.rows[node]
            wide = self._wide and row is None and dtype is not torch.float64
            value = self.input(node, torch.float64 if wide else None)
            if row is None:
                return value
            if row[0] == "rounded":
                (of, _), *_ = row[1:]
                exact = self._operand(of, self.recorder.nodes[of].dtype, as_condition=False)
                return make("replaced", value, exact)
            nodes = self.recorder.nodes
            of = [
                self.input(n, None)
                for n in sorted(self.moves[node])
                if nodes[n].dtype.is_floating_point
            ]
            return make("opaque", value, *of, value=name_of(self.recorder.calls[node]))
        if as_condition:
            return apply("not_equal", self.input(node, torch.float32), constant(0))
        return self.input(node, promoted)

    @functools.cached_property
    def _wide(self) -> bool:
        """Whether it is in float64 that something is computed, but no operand says so."""
        nodes, rows = self.recorder.nodes, self.recorder.rows
        if any(nodes[n].dtype is torch.float64 for n in self.recorder.operands):
            return False
        return any(row is not None and row[3] is torch.float64 for row in rows)


def _is_integer(dtype: torch.dtype) -> bool:
    return not (dtype.is_floating_point or dtype.is_complex)


def compiled(
    recorder: Recorder,
    outputs: Sequence[int],
    name: str,
    names: dict[int, str],
    parameters: dict[int, str],
    *,
    interpreted: bool = False,
    whole: bool = False,
    reduced: bool = False,
) -> Program:
    """The program of a record.

    `names` are those of operands, `parameters` those of the positions of numbers that the kernel
    takes anew each time. A `whole` graph has all operands that are floats, and all outputs; of one
    that is `reduced`, an output may be an operand.

    Raises:
        RowError: a row that cannot be fused.
        FuseTypeError: a dtype without a kernel.
    """
    builder = _Builder(recorder, names, parameters, whole)
    requires_grad = any(
        (row[5] if (row := recorder.rows[n]) is not None else False) for n in outputs
    )
    sums, following = _sums_of(recorder, outputs)
    of, reduction = 0, "none"
    if sums == list(outputs) and len(sums) == 1 and recorder.nodes[sums[0]].is_floating_point():
        ((of,), ((_, (reduction,)),)) = cast(Any, recorder.rows[sums[0]])[1:3]
    if reduction in ("mean", "sum"):
        sums, outputs = [], [of]
    elif sums:
        reduction = "none"
        if whole:
            raise FuseTypeError(
                f"{name}() returns what it makes of means and sums, of which PyTorch takes the "
                "derivative: call backward() or torch.autograd.grad"
            )
        if not recorder.reduced.issuperset(outputs):
            raise FuseTypeError(f"{name}() returns a mean or a sum beside a tensor of elements")
    wanted = [cast(Any, recorder.rows[n])[1][0] for n in sums] or outputs
    builder.build(wanted)
    places: list[int | None] = []
    made: list[int] = []
    for n in wanted:
        if n in made and not whole:  # one tensor that is returned twice
            places.append(made.index(n))
            continue
        row, dtype = recorder.rows[n], recorder.nodes[n].dtype
        is_added = bool(sums) or reduction != "none"
        is_taken = whole or reduced or is_added if row is None else row[0] in OPAQUE
        counts = is_added and builder.in_kernel[n]
        if not (dtype.is_floating_point and (is_taken or row is not None)) and not counts:
            places.append(None)
            builder.replay(n)
            continue
        if is_taken and dtype.is_floating_point:
            builder.expressions[n] = builder.operand(n)
        elif counts:
            builder.expressions[n] = as_number(builder.expressions[n])
        elif dtype not in operators.KERNEL_DTYPES:
            raise FuseTypeError(
                f"{name}() has a result of dtype {dtype}, for which there is no kernel"
            )
        places.append(len(made))
        made.append(n)
    graph = None
    if made:
        if whole:
            shaping = frozenset(recorder.operands)
        else:
            shaping = frozenset().union(*(builder.shapes[m] for m in made))
        for n in sorted(shaping):
            if not any(node == n for node, _ in builder.inputs):
                dtype = recorder.nodes[n].dtype
                integer = _is_integer(dtype)
                if not integer or not _reaches(builder, n):
                    builder.input(n, torch.float32 if integer else None)
        order = sorted(builder.inputs, key=lambda key: key[0])
        input_names = [builder.inputs[key] for key in order]

        def named(operands: frozenset[int]) -> frozenset[str]:
            return frozenset(
                builder.inputs[key] for key in order if builder.shapes[key[0]] <= operands
            )

        graph = Graph(
            name,
            tuple(input_names),
            tuple(parameters.values()),
            tuple(builder.expressions[n] for n in made),
            shapes=tuple(named(builder.shapes[n]) for n in made),
            moves=tuple(
                frozenset(builder.inputs[key] for key in order if key[0] in builder.moves[n])
                for n in made
            ),
            interpreted=interpreted,
        )
    else:
        order = []
    return Program(
        graph,
        order,
        sorted(parameters),
        sorted(builder.replayed),
        [None for _ in outputs] if sums else places,
        tuple(_dtype_of_sum(recorder, n) if sums else recorder.nodes[n].dtype for n in made),
        requires_grad,
        reduction,
        list(zip(sums, places, strict=True)) if sums else [],
        following,
        any(row is not None and row[0] in BOUNDED for row in recorder.rows),
    )


def _sums_of(recorder: Recorder, outputs: Sequence[int]) -> tuple[list[int], list[int]]:
    """The means and sums that the outputs are made of, and the rows that make them of these."""
    sums: set[int] = set()
    following: set[int] = set()
    stack = [n for n in outputs if n in recorder.reduced]
    while stack:
        n = stack.pop()
        row = cast(Any, recorder.rows[n])
        if row[0] == "reduced":
            sums.add(n)
        elif n not in following:
            following.add(n)
            used = (*row[1], *(value for _, value in row[2]))
            stack += [v for v in used if type(v) is int and v in recorder.reduced]
    return sorted(sums), sorted(following)


def _dtype_of_sum(recorder: Recorder, node: int) -> torch.dtype:
    """In which a kernel adds up: a count exactly, and floats for what is made of their sums."""
    dtype = recorder.nodes[node].dtype
    return torch.promote_types(dtype, torch.float32) if dtype.is_floating_point else torch.float64


def _reaches(builder: _Builder, operand: int) -> bool:
    """Whether a replayed input has the shape of the operand."""
    return any(operand in builder.shapes[node] for node, _ in builder.inputs)


def replay(recorder: Recorder, rows: Sequence[int], known: dict[int, Tensor]) -> dict[int, Tensor]:
    """What PyTorch computes by the recorded calls, and what was `known`."""
    values = {**{n: recorder.nodes[n] for n in recorder.operands}, **known}
    positions: list[int] = []
    position = 0
    for row in recorder.rows:
        positions.append(position)
        if row is not None:
            taken = (*row[1], *(v for _, v in row[2]))
            position += sum(v is float or v is int for v in taken)
    for n in rows:
        row = recorder.rows[n]
        assert row is not None
        at = positions[n]
        made: list[Any] = []
        for value in (*row[1], *(v for _, v in row[2])):
            if type(value) is int:
                made.append(values[value])
            elif value is float or value is int:
                made.append(recorder.numbers[at])
                at += 1
            else:
                made.append(value[0])
        count = len(row[1])
        keys = {key: m for (key, _), m in zip(row[2], made[count:], strict=True)}
        call = recorder.calls[n]
        if (rule := RULES.get(call)) is not None and rule.in_place:
            made[0] = made[0].clone()
        values[n] = call(*made[:count], **keys)
    return values

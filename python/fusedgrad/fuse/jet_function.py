"""The jets of fused functions, as the user holds them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch._C import _len_torch_function_stack as count_of_modes
from torch._compile import _disable_dynamo
from torch.compiler import is_dynamo_compiling

from fusedgrad.fuse import generate, kernel, prebuilt
from fusedgrad.fuse import jet as taylor
from fusedgrad.fuse.errors import FuseTypeError, FuseValueError
from fusedgrad.fuse.function import (
    _REDUCTIONS,
    Fused,
    _apart,
    _Derivative,
    _in_a_record,
    _key,
    _outputs,
    is_foreign,
    is_traced,
)
from fusedgrad.fuse.graph import Graph
from fusedgrad.fuse.trace import flattened, line_of_caller, unflattened

MOST_ORDERS = 8
# The derivatives of an argument from the first on, None for zero
_Series = tuple[Tensor | None, ...]


class _Traced(Fused):
    """A function that is recorded as of the derivatives of it: whatever the grad mode."""

    _whole = True


class FusedJet:
    """`f.jet(order)`: the derivatives of a fused function along a curve.

    An argument is given as a tuple `(value, first, second, ...)` of tensors of one shape and dtype:
    where it is at a time 0, and its derivatives by time, not divided by factorials. A derivative
    that is None or absent is zero, and an argument given as in a call of the function is constant.
    Returns for each output the tuple `(value, first, ..., order-th)` of its derivatives by time.

        f.jet(2)((x, v))      # f(x), f'(x) v, f''(x) v**2
        f.jet(2)((x, v, w))   # the last is f''(x) v**2 + f'(x) w

    One kernel, differentiable to any order in any of the tensors, each derivative one kernel again.
    Derivatives are as exact as those of `f.derivative`, in the tails of activations too.
    """

    def __init__(self, parent: Fused, order: int) -> None:
        """`order` is from 1 to 8."""
        if type(order) is not int or not 1 <= order <= MOST_ORDERS:
            raise FuseValueError(
                f"{parent._name}.jet(): order is {order!r}, expected an int from 1 to {MOST_ORDERS}"
            )
        self._parent = parent
        self._traced: Fused = parent
        if not parent._whole:
            self._traced = _Traced(parent._function, parent._reduction)
        self._order = order
        self._name = f"{parent._name}.jet({order})"

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """The value and the derivatives of each output."""
        called = self._called_by_dynamo if is_dynamo_compiling() else self._called
        return called(*arguments, **keywords)

    def _called(self, *arguments: Any, **keywords: Any) -> Any:
        if count_of_modes() and _in_a_record():
            raise FuseTypeError(
                f"{self._name} inside a fused function cannot be fused: take the jet of the "
                f"outermost, at {line_of_caller()}"
            )
        values = tuple([self._value(argument) for argument in arguments])
        of_keywords = {key: self._value(value) for key, value in keywords.items()}
        given = [
            (*self._series(value, argument),)
            for value, argument in zip(
                (*values, *of_keywords.values()), (*arguments, *keywords.values()), strict=True
            )
        ]
        everything = (*values, *of_keywords.values(), *(v for own in given for v in own))
        if is_traced() or any(map(is_foreign, everything)):
            return self._by_operations(values, of_keywords, given)
        # Each argument a tensor of its own, by which its derivatives are found
        values, of_keywords = _apart(values, of_keywords)
        if isinstance(self._parent, _Derivative):
            values, of_keywords = self._parent._apart(values, of_keywords)
        series = {
            id(value): own
            for value, own in zip((*values, *of_keywords.values()), given, strict=True)
            if own
        }
        return self._run(values, of_keywords, series)

    # Out of the graph. torch.compiler.disable would import Dynamo, which takes as long as torch.
    _called_by_dynamo = _disable_dynamo(_called)

    def _run(
        self, values: tuple[Any, ...], keywords: dict[str, Any], series: dict[int, _Series]
    ) -> Any:
        traced, function = self._traced, self._traced._function
        key = _key(function, values, keywords)
        entry = None if key is None else traced._entries.get(key)
        leaves: list[Any]
        if entry is not None and entry.call is None and entry.is_of(function, values, keywords):
            given = (*values, *keywords.values())
            program, parameters, structure = entry.program, entry.parameters, entry.structure
            sources = [given[s] if type(s) is int else s for s, _ in entry.inputs]
            tensors = sources
            leaves = [given[s] if type(s) is int else s for s in entry.others]
            places: Sequence[int | None] = program.places
        else:
            call = traced._recorded(function, values, keywords, derived=True)
            program, _ = traced._program(call, function, values, keywords, whole=True)
            if key is not None:
                traced._prove(key, call, program, function, values, keywords)
            recorder = call.recorder
            tensors, computed = traced._inputs(program, recorder)
            sources = [recorder.nodes[n] for n, _ in program.inputs]
            parameters = tuple([float(recorder.numbers[i]) for i in program.parameters])
            structure = call.structure
            leaves = list(call.leaves)
            places = [None] * len(leaves)
            for i, node, place in zip(call.tensors, call.outputs, program.places, strict=True):
                places[i] = place
                if place is None:
                    leaves[i] = computed[node] if node in computed else recorder.nodes[node]
        rows: list[tuple[Tensor, ...]] = []
        if program.graph is not None:
            dtypes = [dtype for _, dtype in program.inputs]
            rows = self._rows(program.graph, tensors, sources, dtypes, series, parameters, program)
        outputs = [
            self._constant(leaf) if place is None else rows[place]
            for leaf, place in zip(leaves, places, strict=True)
        ]
        return unflattened(outputs, structure)

    def _rows(
        self,
        graph: Graph,
        tensors: Sequence[Tensor],
        sources: Sequence[Tensor],
        casts: Sequence[torch.dtype | None],
        series: dict[int, _Series],
        parameters: tuple[float, ...],
        program: Any,
    ) -> list[tuple[Tensor, ...]]:
        operands: list[Tensor] = []
        orders: list[tuple[int, ...]] = []
        for tensor, source, dtype in zip(tensors, sources, casts, strict=True):
            present = [
                (k, d) for k, d in enumerate(series.get(id(source), ()), start=1) if d is not None
            ]
            orders.append(tuple([k for k, _ in present]))
            own = [tensor, *(d for _, d in present)]
            operands += own if dtype is None else [t.to(dtype) for t in own]
        known = None
        if len(graph.inputs) == len(graph.outputs) == 1:
            numbers = dict(zip(graph.parameters, parameters, strict=True))
            known = prebuilt.function_of(graph.outputs[0], numbers, self._order, operands)
        if known is None:
            derived = taylor.jet(graph, self._order, tuple(orders))
        else:
            graph, parameters = known
            of_orders = dict(zip((0, *orders[0]), operands, strict=True))
            derived, operands = prebuilt.filled(graph, self._order, of_orders)
        count = self._order + 1
        reduction = self._parent._how(program)
        dtypes = [dtype for dtype in program.dtypes for _ in range(count)]
        if reduction != "none":
            dtypes = [kernel.computed(operands)] * len(dtypes)
        found = _outputs(derived, operands, parameters, dtypes)
        if reduction != "none":
            code = _REDUCTIONS[reduction]
            found = tuple([kernel.reduced(f, program.dtypes[0], code) for f in found])
        return [found[i : i + count] for i in range(0, len(found), count)]

    def _constant(self, leaf: Any) -> Any:
        """The derivatives of an output of integers or bool."""
        if not isinstance(leaf, Tensor):
            return leaf
        return (leaf, *[torch.zeros_like(leaf)] * self._order)

    # --------------------------------------------------------------------------------- arguments

    @staticmethod
    def _value(argument: Any) -> Any:
        """A tuple or list that starts with a tensor is an argument with its derivatives."""
        if isinstance(argument, (tuple, list)) and argument and isinstance(argument[0], Tensor):
            return argument[0]
        return argument

    def _series(self, value: Any, argument: Any) -> _Series:
        if value is argument or not isinstance(value, Tensor):
            return ()
        series = tuple(argument[1:])
        if len(series) > self._order:
            raise FuseValueError(
                f"{self._name}: an argument is given with {len(series)} derivatives, expected at "
                f"most {self._order}"
            )
        for k, derivative in enumerate(series, start=1):
            if derivative is None:
                continue
            if not isinstance(derivative, Tensor):
                raise FuseTypeError(
                    f"{self._name}: the derivative {k} of an argument is "
                    f"{type(derivative).__name__}, expected a tensor or None"
                )
            if derivative.dtype is not value.dtype or not value.is_floating_point():
                raise FuseTypeError(
                    f"{self._name}: the derivative {k} of an argument has dtype "
                    f"{derivative.dtype}, the argument {value.dtype}, expected one dtype of floats"
                )
            if derivative.shape != value.shape:
                raise FuseValueError(
                    f"{self._name}: the derivative {k} of an argument has shape "
                    f"{tuple(derivative.shape)}, expected that of the argument, "
                    f"{tuple(value.shape)}"
                )
        return series

    def _by_operations(
        self, values: tuple[Any, ...], keywords: dict[str, Any], given: Sequence[_Series]
    ) -> Any:
        """By nested forward mode, where no kernel can run: of a subclass, or traced."""
        names = list(keywords)

        def of(*moved: Any) -> Any:
            count = len(values)
            return self._parent(*moved[:count], **dict(zip(names, moved[count:], strict=True)))

        return nested(of, (*values, *keywords.values()), given, self._order)

    # -------------------------------------------------------------------------------------- text

    def _graph(self) -> Graph:
        graph = self._parent._example()
        orders = tuple(range(1, self._order + 1))
        return taylor.jet(graph, self._order, (orders,) * len(graph.inputs))

    def source(self, backend: Literal["cpu", "cuda"], *, gradients: bool = False) -> str:
        """The generated code of the kernel, or of that of the gradients.

        As for float32 tensors that all move, with all derivatives.
        """
        graph = self._graph()
        if gradients:
            every = (True,) * len(graph.outputs), (True,) * len(graph.inputs)
            graph = graph.pull_back(*every)
        return generate.source_of(graph, backend, self._name)

    def __str__(self) -> str:
        """The expressions, in Python's notation."""
        return generate.expression_text(self._graph())

    def __repr__(self) -> str:
        """The name."""
        return f"<fused function {self._name}>"

    def __reduce__(self) -> Any:
        """Of the function and the order."""
        return type(self), (self._parent, self._order)


def nested(
    function: Callable[..., Any], values: Sequence[Any], series: Sequence[_Series], order: int
) -> Any:
    """The derivatives along the curve by one `torch.func.jvp` inside another."""
    tensors = [v for v in values if isinstance(v, Tensor)]
    structure: list[Any] = []

    def at(time: Tensor) -> tuple[Tensor, ...]:
        moved = []
        for value, own in zip(values, series, strict=True):
            for k, derivative in enumerate(own, start=1):
                if derivative is not None:
                    value = value + derivative * (time**k / math.factorial(k))
            moved.append(value)
        leaves, shape = flattened(function(*moved))
        structure[:] = [shape]
        return tuple(leaves)

    dtype = torch.promote_types(tensors[0].dtype, torch.float32)
    zero = torch.zeros((), dtype=dtype, device=tensors[0].device)
    one = torch.ones_like(zero)
    rows = []
    body: Callable[[Tensor], tuple[Tensor, ...]] = at
    for _ in range(order + 1):
        rows.append(body(zero))
        body = _slope(body, one)
    count = len(rows[0])
    return unflattened([tuple(row[i] for row in rows) for i in range(count)], structure[0])


def _slope(
    body: Callable[[Tensor], tuple[Tensor, ...]], one: Tensor
) -> Callable[[Tensor], tuple[Tensor, ...]]:
    return lambda time: torch.func.jvp(body, (time,), (one,))[1]


__all__ = ["FusedJet", "nested"]

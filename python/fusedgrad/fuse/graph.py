"""What a fused function computes, as expressions, and the graphs of its derivatives."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fusedgrad.fuse.expression import (
    Expression,
    constant,
    gradients,
    in_order,
    make,
    substitute,
)


def _tangent(output: Expression, tangents: dict[Expression, Expression]) -> Expression:
    """The output's, of those of what it is made of."""
    if output in tangents:
        return tangents[output]
    partials = gradients([output], [constant(1)], list(tangents))
    terms = [
        tangent * partial
        for tangent, partial in zip(tangents.values(), partials, strict=True)
        if partial is not constant(0)
    ]
    return sum(terms[1:], start=terms[0]) if terms else constant(0)


def input_named(name: str) -> Expression:
    """The element of a tensor."""
    return make("input", value=name)


def parameter_named(name: str) -> Expression:
    """A Python number given when the function is called."""
    return make("parameter", value=name)


@dataclass(frozen=True, eq=False)
class Graph:
    """The outputs of a function of tensors (`inputs`) and Python numbers (`parameters`).

    An output has the shape of the inputs in `shapes`, by default those it is made of, broadcast
    together; of all inputs, if the graph is `whole`. A gradient reaches those in `moves`.
    """

    name: str
    inputs: tuple[str, ...]
    parameters: tuple[str, ...]
    outputs: tuple[Expression, ...]
    whole: bool = False
    shapes: tuple[frozenset[str], ...] | None = None
    moves: tuple[frozenset[str], ...] | None = None
    interpreted: bool = False  # operation by operation, without a compiler

    @functools.cached_property
    def used(self) -> tuple[frozenset[str], ...]:
        """For each output the names of the inputs that it takes its shape from."""
        if self.shapes is not None:
            return self.shapes
        return self.made_of

    @functools.cached_property
    def made_of(self) -> tuple[frozenset[str], ...]:
        """For each output the names of the inputs in its expression."""
        return tuple(
            frozenset(e.value for e in in_order([output]) if e.operation == "input")
            for output in self.outputs
        )

    @functools.cached_property
    def has_one_shape(self) -> bool:
        """Whether all outputs have the shape of all inputs, whatever shapes those have."""
        return self.whole or all(len(used) == len(self.inputs) for used in self.used)

    @functools.cached_property
    def reads_all(self) -> bool:
        """Whether a kernel for tensors of any shapes reads all of them."""
        return self.has_one_shape and len(frozenset().union(*self.used)) == len(self.inputs)

    @functools.cached_property
    def part(self) -> functools._lru_cache_wrapper[Graph]:
        """`part(indices)`: only these outputs, and, unless whole, only the inputs of them."""

        def build(indices: tuple[int, ...]) -> Graph:
            used: frozenset[str] = frozenset().union(*(self.used[i] for i in indices))
            inputs = tuple(name for name in self.inputs if self.whole or name in used)
            outputs = tuple(self.outputs[i] for i in indices)
            shapes, moves = (
                None if given is None else tuple(given[i] for i in indices)
                for given in (self.shapes, self.moves)
            )
            return replace(self, inputs=inputs, outputs=outputs, shapes=shapes, moves=moves)

        return functools.cache(build)

    def derivative(self, *names: str) -> Graph:
        """The partial derivative of every output, by one argument after the other."""
        outputs = self.outputs
        for name in names:
            leaf = self._leaf(name)
            outputs = tuple(gradients([o], [constant(1)], [leaf])[0] for o in outputs)
        by = "".join(f"_{name}" for name in names)
        return Graph(
            f"{self.name}{by}",
            self.inputs,
            self.parameters,
            outputs,
            whole=True,
            interpreted=self.interpreted,
        )

    def _made(self, name: str, inputs: tuple[str, ...], outputs: tuple[Expression, ...]) -> Graph:
        parameters, interpreted = self.parameters, self.interpreted
        return Graph(name, inputs, parameters, outputs, whole=True, interpreted=interpreted)

    def _leaf(self, name: str) -> Expression:
        return parameter_named(name) if name in self.parameters else input_named(name)

    def value_and_grad(self) -> Graph:
        """The outputs, and then the derivatives of their sum by each input."""
        leaves = [input_named(name) for name in self.inputs]
        ones = [constant(1)] * len(self.outputs)
        partials = gradients(self.outputs, ones, leaves)
        outputs = (*self.outputs, *partials)
        name = f"{self.name}_value_and_grad"
        return Graph(
            name, self.inputs, self.parameters, outputs, whole=True, interpreted=self.interpreted
        )

    @functools.cached_property
    def pull_back(self) -> functools._lru_cache_wrapper[Graph]:
        """The gradients by the needed inputs, of the gradients of the given outputs and the inputs.

        `pull_back(given, needed)`, each a tuple of one bool for each output or input.
        """

        def build(given: tuple[bool, ...], needed: tuple[bool, ...]) -> Graph:
            names = [f"grad_{i}" if len(given) > 1 else "grad" for i in range(len(given))]
            names = self._fresh(
                [name for name, is_given in zip(names, given, strict=True) if is_given]
            )
            outputs = [o for o, is_given in zip(self.outputs, given, strict=True) if is_given]
            leaves = [
                input_named(name) for name, need in zip(self.inputs, needed, strict=True) if need
            ]
            found = gradients(outputs, [input_named(name) for name in names], leaves)
            inputs = (*names, *self.inputs)
            name = f"{self.name}_backward"
            return Graph(
                name,
                inputs,
                self.parameters,
                tuple(found),
                whole=True,
                interpreted=self.interpreted,
            )

        return functools.cache(build)

    @functools.cached_property
    def push_forward(self) -> functools._lru_cache_wrapper[Graph]:
        """The outputs' tangents, of the tangents of the moving inputs and the inputs."""

        def build(moving: tuple[bool, ...]) -> Graph:
            moved = [name for name, moves in zip(self.inputs, moving, strict=True) if moves]
            names = self._fresh([f"{name}_tangent" for name in moved])
            tangents = {
                input_named(name): input_named(tangent)
                for name, tangent in zip(moved, names, strict=True)
            }
            # What torch.no_grad encloses has tangents, which no gradient passes in their turn.
            for expression in in_order(self.outputs):
                if expression.operation in ("no_grad", "replaced"):
                    own = [_tangent(argument, tangents) for argument in expression.arguments]
                    tangents[expression] = make(expression.operation, *own)
            outputs = [_tangent(output, tangents) for output in self.outputs]
            inputs = (*names, *self.inputs)
            name = f"{self.name}_forward"
            return Graph(
                name,
                inputs,
                self.parameters,
                tuple(outputs),
                whole=True,
                interpreted=self.interpreted,
            )

        return functools.cache(build)

    def _fresh(self, names: Sequence[str]) -> list[str]:
        taken = {*self.inputs, *self.parameters}
        return [name if name not in taken else f"{name}_of_{self.name}" for name in names]

    def called(self, arguments: dict[str, Expression]) -> tuple[Expression, ...]:
        """The outputs with expressions in the place of inputs and parameters."""
        leaves = {self._leaf(name): expression for name, expression in arguments.items()}
        return tuple(substitute(self.outputs, leaves))

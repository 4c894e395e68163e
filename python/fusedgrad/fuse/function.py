"""`fuse`: a Python function of tensors as one kernel for its value and one for its derivatives."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import math
import pickle
import sys
import types
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Literal, cast, overload

import numpy as np
import torch
import torch.autograd.forward_ad as forward_ad
import torch.fx
import torch.overrides
from torch import Tensor, get_default_dtype, is_grad_enabled
from torch import is_inference_mode_enabled as is_inference
from torch._C import _are_functorch_transforms_active as transforms_active
from torch._C import _get_tracing_state as jit_tracing
from torch._C import _is_any_autocast_enabled as autocasting
from torch._C import _len_torch_function_stack as count_of_modes
from torch.compiler import is_dynamo_compiling

from fusedgrad import reference
from fusedgrad._C import serve, serve_calls_of, served
from fusedgrad.fuse import autograd, generate, kernel
from fusedgrad.fuse.errors import FuseError, FuseTypeError, FuseValueError
from fusedgrad.fuse.graph import Graph
from fusedgrad.fuse.program import Program, RowError, compiled, replay, structure_of
from fusedgrad.fuse.proof import ATOMS, MISSING, Guards, NotPlain, prove
from fusedgrad.fuse.trace import (
    PLAIN,
    Recorder,
    flattened,
    is_dense,
    line_of_caller,
    record,
    record_on_tokens,
    unflattened,
)

_FUNCTIONALIZE = torch._C._functorch.TransformType.Functionalize
_Reduction = Literal["none", "mean", "sum"]
_REDUCTIONS = {"none": reference.NONE, "mean": reference.MEAN, "sum": reference.SUM}
# Structures of one function before it is said that it keeps changing, and runs by operations
MOST_STRUCTURES = 64
# Kinds of calls of one function that are remembered, and proofs of each
MOST_ENTRIES = 256
MOST_PROOFS = 8


class _Call:
    """A record of one call, the nodes of its outputs, and how to put them together."""

    def __init__(self, recorder: Recorder, result: Any, name: str) -> None:
        self.recorder = recorder
        leaves, self.structure = flattened(result)
        self.leaves = leaves
        self.tensors = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        if not self.tensors:
            raise FuseTypeError(
                f"{name} returns {type(result).__name__}, expected a tensor or a tuple of tensors"
            )
        self.outputs = [recorder.node_of(leaves[i]) for i in self.tensors]
        if not recorder.operands:
            raise FuseTypeError(f"{name}(): expected at least one tensor among the arguments")

    def let_go(self, nodes: Iterable[int]) -> _Call:
        """This call without those operands and its results, which it would keep alive."""
        for node in nodes:
            self.recorder.nodes[node] = cast(Tensor, None)
        self.leaves = [None] * len(self.leaves)
        return self


class _Structure:
    """The programs of records that differ in their numbers alone: never more than two compiled."""

    def __init__(self, numbers: tuple[float, ...], program: Program) -> None:
        self.numbers = numbers
        self.fixed = program
        self.varying: Program | None = None
        self.has_warned = False


class _Entry:
    """A record that is served again as long as its guards hold."""

    def __init__(
        self,
        guards: Guards,
        program: Program,
        structure: Any,
        inputs: list[tuple[Any, torch.dtype | None]],
        others: list[Any],
        parameters: tuple[float, ...],
        references: list[tuple[int, Any]],
        call: _Call | None,
        of_node: dict[int, Any],
    ) -> None:
        self.guards = guards
        self.program = program
        self.structure = structure
        self.inputs = inputs  # the place of an argument or a tensor, and the dtype it is cast to
        self.others = others  # the same of outputs that no kernel computes
        self.parameters = parameters
        self.references = references  # to objects whose identities are in the key
        # Where more than a kernel runs, the record, and the sources of its operands; where nothing
        # does but a comparison of shapes, it is `alike`, and operands of one shape do without.
        self.call = call
        self.of_node = of_node
        self.alike = call is not None and not (program.replayed or program.sums)
        self.sources = [source for source, _ in inputs]
        self.casts = any(dtype is not None for _, dtype in inputs)
        self.single = structure is None and program.places == [0]

    def is_of_one_shape(self, given: Sequence[Any]) -> bool:
        """Whether all that a call reads has one shape, and needs no other comparison."""
        operands = [given[s] if type(s) is int else s for s in self.of_node.values()]
        return self.alike and all(x.shape == operands[0].shape for x in operands)

    def is_of(self, function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> bool:
        """Whether a call with this key does what is recorded."""
        for place, refers in self.references:  # an identity may have passed to another object
            if place < 0:
                value = function.__self__
            else:
                value = (*arguments, *keywords.values())[place] if keywords else arguments[place]
            if refers() is not value:
                return False
        return self.guards.hold()


def _of_the_function(name: str) -> property:
    """An attribute that is the function's own, which others may replace."""
    return property(
        lambda fused: getattr(fused._function, name),
        lambda fused, value: setattr(fused._function, name, value),
    )


@serve_calls_of
class Fused:
    """A fused function: call it as the Python function that it was made of.

    See `fuse`.
    """

    _whole = False  # whether results have the shape of all arguments broadcast together

    def __init__(self, function: Callable[..., Any], reduction: str = "none") -> None:
        """`function` takes tensors and numbers, and returns one tensor or a tuple of them."""
        if reduction not in _REDUCTIONS:
            raise FuseValueError(
                f"fuse(): reduction is {reduction!r}, expected 'none', 'mean' or 'sum'"
            )
        functools.update_wrapper(self, function)
        self._function = function
        self._reduction = reduction
        self._name = getattr(function, "__name__", type(function).__name__)
        self._signature = _signature_of(function)
        self._names = tuple(self._signature.parameters)
        if self._name == "<lambda>" or not self._name.isidentifier():
            self._name = "f"
        self._structures: dict[tuple[Any, ...], _Structure] = {}
        self._entries: dict[tuple[Any, ...], _Entry] = {}
        # What `serve` needs of those of which nothing but a kernel is to be run
        self._ready: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        # Proofs left of each kind of call, and what it did last
        self._attempts: dict[tuple[Any, ...], tuple[int, Any]] = {}
        self._reason = ""
        self._jets: dict[int, Any] = {}
        self._derivatives: dict[tuple[int, ...], Fused] = {}

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """As a function in a class: bound to the instance it is taken of."""
        descriptor = getattr(type(self._function), "__get__", None)
        if descriptor is None or isinstance(self._function, functools.partial):
            return self
        bound = descriptor(self._function, instance, owner)
        if isinstance(bound, types.MethodType):
            return Bound(self, bound)
        return self

    __code__ = _of_the_function("__code__")
    __defaults__ = _of_the_function("__defaults__")
    __kwdefaults__ = _of_the_function("__kwdefaults__")

    # ------------------------------------------------------------------------------------ calling

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """The function's value, differentiable to any order."""
        return self._call(self._function, arguments, keywords)

    def _call(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> Any:
        if is_dynamo_compiling():
            return self._body(function, arguments, keywords)
        key = serve(self._ready, function, arguments, keywords)
        if isinstance(key, Tensor):
            return key
        return self._called(function, arguments, keywords, key)

    def _called(
        self,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
        key: Any,
    ) -> Any:
        """The result of a call that is not ready, of the key that `serve` gave it."""
        if is_dynamo_compiling():  # the first frame that it sees of a call behind a graph break
            return self._body(function, arguments, keywords)
        if key is NotImplemented:
            if is_traced():
                return self._body(function, arguments, keywords)
            if count_of_modes() and _in_a_record():
                if self._reduction != "none":
                    raise FuseValueError(
                        f"{self._name}(): its reduction is {self._reduction!r}: only the outermost "
                        f"may be, at {line_of_caller()}"
                    )
                return self._body(function, arguments, keywords)
            for value in (*arguments, *keywords.values()):
                if isinstance(value, torch.fx.Proxy):  # another function is being traced
                    return value.tracer.create_proxy("call_function", self, arguments, keywords)
                if is_foreign(value):
                    return self._body(function, arguments, keywords)
            key = _key(function, arguments, keywords)
        if key is not None:
            entry = self._entries.get(key)
            if entry is not None and (
                entry.is_of(function, arguments, keywords)
                if entry.references
                else entry.guards.hold()
            ):
                result = self._served(key, entry, arguments, keywords)
                return _within_bounds(entry.program, result, function, arguments, keywords)
        records = is_grad_enabled()
        call = self._recorded(function, arguments, keywords, derived=self._whole)
        program, _ = self._program(call, function, arguments, keywords, whole=self._whole)
        if is_grad_enabled() is not records:
            self._reason = "it leaves another grad mode behind"
        elif key is not None:
            self._prove(key, call, program, function, arguments, keywords)
        return _within_bounds(program, self._run(program, call), function, arguments, keywords)

    def _prove(
        self,
        key: tuple[Any, ...],
        call: _Call,
        program: Program,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
    ) -> None:
        """Keep the record, if the next such call can do without running the function."""
        known = self._attempts.get(key)
        if known is not None and known[0] <= 0:
            return
        done = (structure_of(call.recorder, call.outputs), tuple(call.recorder.numbers))
        if known is not None and known[1] != done:
            # What changed may change again: it is proved once it has stayed.
            self._attempts[key] = (known[0], done)
            return
        if known is None and len(self._attempts) >= MOST_ENTRIES:
            return
        left = MOST_PROOFS if known is None else known[0]
        self._attempts[key] = (left - 1, done)
        try:
            references = self._references(key, function, arguments, keywords)
            with _recording(self._whole):
                recorder, result, guards = prove(function, arguments, keywords)
            again = _Call(recorder, result, self._name)
            if (structure_of(recorder, again.outputs), tuple(recorder.numbers)) != done:
                raise NotPlain("its second run did something else")
            if again.structure != call.structure or len(again.leaves) != len(again.tensors):
                raise NotPlain("it returns more than tensors")
            given = [*arguments, *keywords.values()]
            sources: list[Any] = []
            for first, second in zip(call.recorder.operands, recorder.operands, strict=True):
                tensor = call.recorder.nodes[first]
                if recorder.nodes[second] is not tensor:
                    raise NotPlain("its second run took another tensor")
                places = [i for i, value in enumerate(given) if value is tensor]
                sources.append(places[0] if places else tensor)
        except FuseError as error:
            self._reason = str(error)
            self._attempts[key] = (0, done)
            return
        except NotPlain as reason:
            self._reason = str(reason)
            # Most reasons stay; those that do not are found again by the next key.
            self._attempts[key] = (0, done)
            return
        self._reason = ""
        guards.let_go([refers for _, refers in references])
        of_node = dict(zip(call.recorder.operands, sources, strict=True))
        runs_again = program.replayed or program.sums or recorder.equal_shapes
        of_arguments = [node for node, source in of_node.items() if type(source) is int]
        self._ready.pop(key, None)
        self._entries[key] = _Entry(
            guards,
            program,
            call.structure,
            [(of_node.get(n), dtype) for n, dtype in program.inputs],
            [
                of_node.get(n) if place is None else None
                for n, place in zip(call.outputs, program.places, strict=True)
            ],
            tuple([float(call.recorder.numbers[i]) for i in program.parameters]),
            references,
            again.let_go(of_arguments) if runs_again else None,
            of_node,
        )

    def _references(
        self,
        key: tuple[Any, ...],
        function: Any,
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
    ) -> list[tuple[int, Any]]:
        """To the objects whose identities are in the key, which an entry does not keep alive.

        It goes with the first of them.
        """
        forget = functools.partial(_forget, weakref.ref(self), key)
        found: list[tuple[int, Any]] = []
        values = [(i, value) for i, value in enumerate((*arguments, *keywords.values()))]
        if type(function) is types.MethodType:
            values.append((-1, function.__self__))
        for place, value in values:
            if type(value) in PLAIN or type(value) in ATOMS:
                continue
            if isinstance(value, (type, np.generic)):
                continue
            try:
                found.append((place, weakref.ref(value, forget)))
            except TypeError:
                raise NotPlain(f"a {type(value).__name__} is among the arguments") from None
        return found

    def _served(
        self,
        key: tuple[Any, ...],
        entry: _Entry,
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
    ) -> Any:
        given = (*arguments, *keywords.values()) if keywords else arguments
        program = entry.program
        if entry.call is not None and not entry.is_of_one_shape(given):
            return self._served_again(entry, given)
        tensors = [given[s] if type(s) is int else s for s, _ in entry.inputs]
        if entry.casts:
            tensors = [
                t if dtype is None or t.dtype is dtype else t.to(dtype)
                for t, (_, dtype) in zip(tensors, entry.inputs, strict=True)
            ]
        graph = program.graph
        computed: Sequence[Tensor] = ()
        if graph is not None:
            if self._enables(program):
                with torch.enable_grad():
                    computed = self._computed(program, graph, tensors, entry.parameters)
            else:
                computed = self._computed(program, graph, tensors, entry.parameters)
                if entry.single and not entry.casts and self._how(program) == "none":
                    self._make_ready(key, entry, kernel.device_of(tensors))
            if self._reduction != "none" or entry.single:
                return computed[0]
        leaves = [
            (given[source] if type(source) is int else source) if place is None else computed[place]
            for source, place in zip(entry.others, program.places, strict=True)
        ]
        return unflattened(leaves, entry.structure)

    def _make_ready(self, key: tuple[Any, ...], entry: _Entry, device: torch.device) -> None:
        guards, number = entry.guards, entry.program.numbers.get(device)
        is_simple = guards.are_simple() and not (entry.references or entry.program.bounded)
        read = {id(source) for source in entry.sources}
        has_all = not entry.alike or all(id(s) in read for s in entry.of_node.values())
        if number is not None and is_simple and has_all:
            call = served(number, entry.parameters, entry.program.dtypes, entry.alike)
            reads = guards.items, guards.attributes, MISSING
            self._ready[key] = *reads, tuple(entry.sources), call

    def _served_again(self, entry: _Entry, given: Sequence[Any]) -> Any:
        """As `_served`, of a record of which PyTorch computes a part."""
        recorder = copy.copy(cast(_Call, entry.call).recorder)
        recorder.nodes = list(recorder.nodes)
        for node, source in entry.of_node.items():
            recorder.nodes[node] = given[source] if type(source) is int else source
        call = copy.copy(cast(_Call, entry.call))
        call.recorder = recorder
        return self._run(entry.program, call)

    def explain(self, *arguments: Any, **keywords: Any) -> str:
        """Whether such a call runs the function again, and why."""
        self(*arguments, **keywords)
        key = _key(self._function, arguments, keywords)
        if key is None:
            return f"{self._name} runs again on each call under a mode, a transform or autocast"
        entry = self._entries.get(key)
        if entry is None:
            return f"{self._name} runs again on each call: {self._reason or 'it keeps changing'}"
        count = len(entry.guards.items) + len(entry.guards.attributes)
        return f"{self._name} is served without running again, after {count} comparisons"

    def plain_function(self) -> Callable[..., Any]:
        """The function that a function being proved calls in its place."""
        if self._reduction != "none" or type(self) is not Fused:
            raise NotPlain("it calls a derivative or a reduced function")
        return self._function

    def _body(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> Any:
        result = function(*arguments, **keywords)
        if self._reduction == "none":
            return result
        return result.mean() if self._reduction == "mean" else result.sum()

    def _recorded(
        self, function: Callable[..., Any], arguments: Any, keywords: Any, *, derived: bool
    ) -> _Call:
        """A call's record; of one that is `derived` by its arguments, whatever the grad mode."""
        with _recording(derived):
            try:
                made = record(function, self._name, arguments, keywords, derived=derived)
                call = _Call(*made, self._name)
                if derived:
                    self._check_constants(call, function, arguments, keywords)
                return call
            except FuseError:
                raise
            except Exception as error:
                self._check_own(error, function, arguments, keywords)
                raise

    def _check_constants(
        self, call: _Call, function: Callable[..., Any], arguments: Any, keywords: Any
    ) -> None:
        """That no operand is computed from an argument by what is not seen: it has no derivative.

        As by a scripted function. Such a call is refused when the arguments have no values.
        """
        given = {id(value) for value in (*arguments, *keywords.values())}
        recorder = call.recorder
        if all(id(recorder.nodes[n]) in given for n in recorder.operands):
            return
        again = _Call(*record_on_tokens(function, self._name, arguments, keywords), self._name)
        if structure_of(again.recorder, again.outputs) != structure_of(recorder, call.outputs):
            raise FuseTypeError(
                f"{self._name}() does something else for a copy of its arguments, of which the "
                "derivative cannot be taken"
            )

    def _check_own(
        self, error: Exception, function: Callable[..., Any], arguments: Any, keywords: Any
    ) -> None:
        """Return where the error is the function's own, which it raises without fuse too."""
        if isinstance(error, TypeError):
            try:
                inspect.signature(function).bind(*arguments, **keywords)
            except TypeError as wrong:
                raise FuseTypeError(f"{self._name}(): {wrong}") from None
            except ValueError:
                pass
        try:
            function(*arguments, **keywords)
        except type(error):
            return
        except Exception:
            raise
        raise FuseTypeError(
            f"{self._name}() raises {type(error).__name__} where tensors have no values, and not "
            f"when it is run: {error}"
        ) from error

    def _program(
        self,
        call: _Call,
        function: Callable[..., Any],
        arguments: Any,
        keywords: Any,
        *,
        whole: bool = False,
    ) -> tuple[Program, _Structure]:
        recorder = call.recorder
        build = functools.partial(
            self._built,
            call,
            function=function,
            arguments=arguments,
            keywords=keywords,
            whole=whole,
        )
        key = (whole, *structure_of(recorder, call.outputs))
        numbers = tuple(recorder.numbers)
        found = self._structures.get(key)
        if found is None:
            changing = len(self._structures) >= MOST_STRUCTURES
            if changing:
                _warn_once(
                    self,
                    f"{self._name}() has done {MOST_STRUCTURES} different things by now, and "
                    "runs operation by operation where it does another: what it does depends on "
                    "something that keeps changing, such as a Python value it branches on",
                )
            program = build({}, interpreted=changing)
            found = _Structure(numbers, program)
            if not changing:
                self._structures[key] = found
            return program, found
        first = found.numbers
        if numbers == first and (0 not in first or repr(numbers) == repr(first)):
            return found.fixed, found
        varied = [i for i, n in enumerate(numbers) if repr(n) != repr(first[i])]
        if not varied:
            return found.fixed, found
        if found.varying is None:
            positions = self._varying(recorder, varied)
            taken = {i: f"p{i}" for i in positions}
            found.varying = build(taken)
        if set(varied) <= set(found.varying.parameters):
            return found.varying, found
        if not found.has_warned:
            found.has_warned = True
            told = ", ".join(repr(numbers[i]) for i in varied)
            warnings.warn(
                f"{self._name}() runs operation by operation, for its numbers keep changing and "
                f"this kernel takes them as constants: {told}",
                stacklevel=4,
            )
        return build({}, interpreted=True), found

    def _varying(self, recorder: Recorder, varied: list[int]) -> list[int]:
        """The positions of numbers that a second kernel takes anew each time."""
        most = kernel.MAX_PARAMETERS
        exponents = _exponents(recorder)
        others = [
            i
            for i, n in enumerate(recorder.numbers)
            if i not in varied and i not in exponents and isinstance(n, float)
        ]
        return sorted([*varied, *others[: max(0, most - len(varied))]])

    def _built(
        self,
        call: _Call,
        parameters: dict[int, str],
        function: Callable[..., Any],
        arguments: Any,
        keywords: Any,
        *,
        interpreted: bool = False,
        whole: bool = False,
    ) -> Program:
        recorder = call.recorder
        names = self._operand_names(recorder, function, arguments, keywords)
        taken = {*names.values()}
        parameters = {i: n if n not in taken else f"{n}_number" for i, n in parameters.items()}
        try:
            program = compiled(
                recorder,
                call.outputs,
                self._name,
                names,
                parameters,
                interpreted=interpreted,
                whole=whole,
                reduced=self._reduction != "none",
            )
        except RowError as wrong:
            # Once more, to find the line.
            again = Recorder()
            again.stop = sum(row is not None for row in recorder.rows[: wrong.row]), wrong.error
            again.run(self._name, function, arguments, keywords)
            raise FuseTypeError(f"{self._name}(): {wrong.error}") from None
        if self._reduction != "none" and (call.structure is not None or program.places != [0]):
            returned = "a tuple" if not program.sums else "what it makes of means and sums"
            if call.structure is None and not program.sums:
                returned = f"a tensor of {recorder.nodes[call.outputs[0]].dtype}"
            raise FuseTypeError(
                f"{self._name}() returns {returned}, expected one tensor of floats to take the "
                f"{self._reduction} of"
            )
        return program

    def _operand_names(
        self, recorder: Recorder, function: Callable[..., Any], arguments: Any, keywords: Any
    ) -> dict[int, str]:
        by_id: dict[int, str] = {}
        for value, name in self._named_arguments(function, arguments, keywords):
            by_id.setdefault(id(value), name)
        names: dict[int, str] = {}
        taken: set[str] = set()
        for place, number in enumerate(recorder.operands):
            name = by_id.get(id(recorder.nodes[number]), f"captured_{place}")
            if name in generate.RESERVED:
                name = f"{name}_"
            while name in taken:
                name = f"{name}_"
            taken.add(name)
            names[number] = name
        return names

    def _named_arguments(
        self, function: Callable[..., Any], arguments: Any, keywords: Any
    ) -> list[tuple[Any, str]]:
        signature = self._signature if function is self._function else _signature_of(function)
        try:
            bound = signature.bind(*arguments, **keywords)
        except TypeError:
            return []
        found = []
        for name, value in bound.arguments.items():
            kind = signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_POSITIONAL:
                found += [(v, f"{name}_{i}") for i, v in enumerate(value)]
            elif kind is inspect.Parameter.VAR_KEYWORD:
                found += [(v, key) for key, v in value.items()]
            else:
                found.append((value, name))
        return found

    def _inputs(
        self, program: Program, recorder: Recorder
    ) -> tuple[list[Tensor], dict[int, Tensor]]:
        """The kernel's operands, and what PyTorch computed for them and the outputs."""
        values: dict[int, Tensor] = {}
        if program.replayed:
            with torch.no_grad():
                values = replay(recorder, program.replayed, {})
        if recorder.equal_shapes:
            _check_shapes(recorder, self._name)
        nodes = recorder.nodes
        tensors = [values[n] if n in values else nodes[n] for n, _ in program.inputs]
        return [
            t if dtype is None or t.dtype is dtype else t.to(dtype)
            for t, (_, dtype) in zip(tensors, program.inputs, strict=True)
        ], values

    def _run(self, program: Program, call: _Call) -> Any:
        recorder = call.recorder
        graph = program.graph
        computed: Sequence[Tensor] = ()
        tensors, values = self._inputs(program, recorder)
        enables = self._enables(program)
        with torch.enable_grad() if enables else nullcontext():
            if graph is not None:
                parameters = tuple([float(recorder.numbers[i]) for i in program.parameters])
                computed = self._computed(program, graph, tensors, parameters)
                if self._reduction != "none":
                    return computed[0]
            if program.sums:
                values = _following(program, recorder, computed, values)
        leaves = list(call.leaves)
        for i, node, place in zip(call.tensors, call.outputs, program.places, strict=True):
            if place is not None:
                leaves[i] = computed[place]
            else:
                leaves[i] = values[node] if node in values else recorder.nodes[node]
        return unflattened(leaves, call.structure)

    def _enables(self, program: Program) -> bool:
        """Whether the function itself records gradients, under an outer no_grad.

        A derivative's record is made in enable_grad, and says nothing of that.
        """
        return program.requires_grad and not (is_grad_enabled() or self._whole)

    def _how(self, program: Program) -> str:
        """How the elements are reduced: as the function itself does, or as fuse was told."""
        return program.reduction if program.reduction != "none" else self._reduction

    def _computed(
        self, program: Program, graph: Graph, tensors: list[Tensor], parameters: tuple[float, ...]
    ) -> Sequence[Tensor]:
        if program.sums:
            return _sums(graph, tensors, parameters, program.dtypes)
        how = self._how(program)
        if how == "none":
            device = kernel.device_of(tensors)
            number = program.numbers.get(device)
            if number is None and graph.reads_all and not graph.interpreted:
                number = autograd.recording_kernel(graph, tensors, program.dtypes)
                if number is not None:
                    program.numbers[device] = number
            if number is not None and not transforms_active() and forward_ad._current_level < 0:
                return kernel.fused(number, tensors, parameters, program.dtypes)
            return _outputs(graph, tensors, parameters, program.dtypes)
        if not graph.has_one_shape:
            tensors = [t for n, t in zip(graph.inputs, tensors, strict=True) if n in graph.used[0]]
            graph = graph.part((0,))
        code = _REDUCTIONS[how]
        return [autograd.apply_reduced(graph, parameters, program.dtypes[0], code, tensors)]

    # -------------------------------------------------------------------------------- derivatives

    def value_and_grad(self, *arguments: Any, **keywords: Any) -> tuple[Any, tuple[Tensor, ...]]:
        """The value, and the gradients of the sum of all its elements by each tensor argument.

        One kernel, one pass over memory, in which the gradient of a broadcast argument is summed to
        its shape. Both results are differentiable.
        """
        return self._value_and_grad(self._function, arguments, keywords)

    def _value_and_grad(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[Any, tuple[Tensor, ...]]:
        values = (*arguments, *keywords.values())
        if is_dynamo_compiling() or is_traced() or any(map(is_foreign, values)):
            if jit_tracing() is not None:
                raise FuseTypeError(
                    f"{self._name}.value_and_grad() inside torch.jit.trace, which records no "
                    f"gradients: trace {self._name} and its derivative(number) instead"
                )
            return self._value_and_grad_by_autograd(function, arguments, keywords)
        arguments, keywords = _apart(arguments, keywords)
        given = [v for v in (*arguments, *keywords.values()) if isinstance(v, Tensor)]
        name = f"{self._name}.value_and_grad()"
        other = next((t.dtype for t in given if not t.is_floating_point()), None)
        if other is not None:
            raise FuseTypeError(
                f"{name}: among the tensors is one of {other}, by which no gradient is taken: pass "
                "it as torch.float32"
            )
        call = self._recorded(function, arguments, keywords, derived=True)
        program, _ = self._program(call, function, arguments, keywords, whole=True)
        graph, recorder = program.graph, call.recorder
        if graph is None or None in program.places:
            raise FuseTypeError(f"{name}: among the outputs is one that is no kernel's")
        tensors, _ = self._inputs(program, recorder)
        parameters = tuple([float(recorder.numbers[i]) for i in program.parameters])
        shape = kernel.broadcast(tensors)
        shapes = _output_shapes(graph, tensors)
        if set(shapes) != {shape}:
            told = ", ".join(str(tuple(shape)) for shape in shapes)
            raise FuseValueError(
                f"{name}: the outputs do not all have the shape of all arguments broadcast "
                f"together, but {told}; give each a function of its own"
            )
        if (how := self._how(program)) != "none":
            value = self._computed(program, graph, tensors, parameters)[0]
            count = shape.numel() if how == "mean" else 1
            dtype, device = kernel.computed(tensors), value.device
            weight = torch.full((), 1 / count if count else math.nan, dtype=dtype, device=device)
            weights = weight.expand(shape)
            needed = (True,) * len(tensors)
            partials = autograd.gradients(graph, parameters, tensors, [weights], needed)
            found: dict[int, Tensor] = {}
            for (n, _), partial in zip(program.inputs, partials, strict=True):
                found[n] = cast(Tensor, partial)
            return value, _of_arguments(given, recorder, found)
        both = _graph_with_grads(graph)
        results = autograd.to_shapes(both, parameters, tensors, tensors, program.dtypes)
        grads = results[len(graph.outputs) :]
        found = {n: grad for (n, _), grad in zip(program.inputs, grads, strict=True)}
        leaves = list(call.leaves)
        for i, place in zip(call.tensors, program.places, strict=True):
            leaves[i] = results[cast(int, place)]
        return unflattened(leaves, call.structure), _of_arguments(given, recorder, found)

    def _value_and_grad_by_autograd(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[Any, tuple[Tensor, ...]]:
        """As PyTorch's transforms take it, where no kernel can run."""
        values = [*arguments, *keywords.values()]
        places = [i for i, value in enumerate(values) if isinstance(value, Tensor)]
        structure: list[Any] = []

        def body(*tensors: Tensor) -> tuple[Any, ...]:
            moved = list(values)
            for place, tensor in zip(places, tensors, strict=True):
                moved[place] = tensor
            own = tuple(moved[: len(arguments)])
            named = dict(zip(keywords, moved[len(arguments) :], strict=True))
            leaves, shape = flattened(self._body(function, own, named))
            structure[:] = [shape]
            return tuple(leaves)

        found, pull_back = cast(Any, torch.func.vjp(body, *[values[i] for i in places]))
        grads = pull_back(tuple(torch.ones_like(value) for value in found))
        return unflattened(found, structure[0]), tuple(grads)

    def derivative(self, *argnums: int) -> Fused:
        """The exact partial derivative of every output, by one argument after the other.

        A fused function of the same arguments, at the shape of all of them broadcast together.
        """
        if not argnums:
            raise FuseValueError(f"{self._name}.derivative(): expected the number of an argument")
        for number in argnums:
            if not isinstance(number, int) or not 0 <= number < len(self._names):
                raise FuseValueError(
                    f"{self._name}.derivative(): there is no argument {number!r}, expected 0 to "
                    f"{len(self._names) - 1}"
                )
        made = self._derivatives.get(argnums)
        if made is None:
            made = self._derivatives[argnums] = _Derivative(self, argnums)
        return made

    def jet(self, order: int) -> Any:
        """The value and the first `order` derivatives along a curve, by one kernel.

        A fused function to which an argument is given as a tuple of its value and its derivatives
        along the curve: see `fusedgrad.fuse.jet_function.FusedJet`.
        """
        from fusedgrad.fuse.jet_function import FusedJet  # which is made of this module

        made = self._jets.get(order) if type(order) is int else None
        if made is None:
            made = self._jets[order] = FusedJet(self, order)
        return made

    # ------------------------------------------------------------------------------------- copies

    def _made_of(self) -> tuple[Any, ...]:
        return self._function, self._reduction

    def _is_global(self) -> bool:
        found: Any = sys.modules.get(self.__module__)
        for name in getattr(self, "__qualname__", "").split("."):
            found = getattr(found, name, None)
        return found is self

    def __reduce__(self) -> str | tuple[Any, ...]:
        """By its name, as a function; else made again of the function that it was made of."""
        if self._is_global():
            return cast(str, cast(Any, self).__qualname__)
        name = getattr(self, "__qualname__", "")
        if "<" in name:  # a lambda, or a function inside another
            raise pickle.PicklingError(
                f"the fused function {name} of {self.__module__} cannot be pickled, as the "
                "function itself: expected one that the module knows by its name"
            )
        return type(self), self._made_of()

    def __deepcopy__(self, memo: dict[int, Any]) -> Fused:
        """Bound to the copy, if it is of a method of an object that is copied."""
        return self if self._is_global() else type(self)(*copy.deepcopy(self._made_of(), memo))

    # ----------------------------------------------------------------------------------- the text

    def _example(self) -> Graph:
        """The graph for tensors where no default says otherwise."""
        return self._graph_of(*self._example_arguments())

    def _example_arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        arguments: list[Any] = []
        keywords: dict[str, Any] = {}
        for name, parameter in self._signature.parameters.items():
            value = parameter.default
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                continue
            if value is inspect.Parameter.empty:
                value = torch.ones(1)
            elif type(value) is float:
                value = _NamedFloat(value)
                value.name = f"{name}_" if name in generate.RESERVED else name
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                keywords[name] = value
            else:
                arguments.append(value)
        return tuple(arguments), keywords

    def _graph_of(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Graph:
        """The graph of a call of such arguments; floats with a name are parameters."""
        call = self._recorded(self._function, arguments, keywords, derived=True)
        lines = call.recorder.number_names
        taken: dict[str, int] = {}
        for i, name in enumerate(lines):
            if name:
                taken.setdefault(name, i)
        named = {i: name for i, name in enumerate(lines) if name}
        program = self._built(call, named, self._function, arguments, keywords, whole=True)
        if program.graph is None:
            raise FuseTypeError(f"{self._name}() computes nothing in a kernel")
        return replace_parameters(program.graph, tuple(taken))

    def source(self, backend: Literal["cpu", "cuda"], *, gradients: bool = False) -> str:
        """The generated code of the value's kernel, or of the value's and all gradients'.

        As for float32 tensors in the place of all arguments without a default.
        """
        graph = self._example()
        if gradients:
            graph = _graph_with_grads(graph)
        return generate.source_of(graph, backend, self._name)

    def __str__(self) -> str:
        """The expression, in Python's notation; of what has none, the name and why."""
        try:
            text = generate.expression_text(self._example())
        except FuseError as error:
            return f"{self!r}: {error}"
        if self._reduction == "none":
            return text
        call, expression = text.split(" = ", 1)
        return f"{call} = {self._reduction}({expression})"

    def __repr__(self) -> str:
        """The name."""
        return f"<fused function {self._name}>"


class Bound:
    """A fused function of a class, bound to an instance or the class as a method is."""

    def __init__(self, fused: Fused, method: types.MethodType) -> None:
        """`method` is the function's, so bound."""
        self._fused = fused
        self._method = method
        self.__self__ = method.__self__
        self.__func__ = fused
        functools.update_wrapper(self, method)

    def __eq__(self, other: object) -> bool:
        """As of methods: of one object and one function."""
        if not isinstance(other, Bound):
            return NotImplemented
        return self._fused is other._fused and self.__self__ is other.__self__

    def __hash__(self) -> int:
        """Of the object and the function."""
        return hash((id(self.__self__), self._fused))

    def plain_function(self) -> Callable[..., Any]:
        """As `Fused.plain_function`."""
        self._fused.plain_function()
        return self._method

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """As the fused function, of the instance first."""
        return self._fused._call(self._method, arguments, keywords)

    def value_and_grad(self, *arguments: Any, **keywords: Any) -> tuple[Any, tuple[Tensor, ...]]:
        """See `Fused.value_and_grad`."""
        return self._fused._value_and_grad(self._method, arguments, keywords)

    def derivative(self, *argnums: int) -> Fused:
        """See `Fused.derivative`; the instance does not count."""
        return Fused(self._method, self._fused._reduction).derivative(*argnums)

    def jet(self, order: int) -> Any:
        """See `Fused.jet`; the instance is no argument."""
        return Fused(self._method, self._fused._reduction).jet(order)

    def source(self, backend: Literal["cpu", "cuda"], *, gradients: bool = False) -> str:
        """See `Fused.source`."""
        return Fused(self._method, self._fused._reduction).source(backend, gradients=gradients)

    def __str__(self) -> str:
        """The expression, in Python's notation."""
        return str(Fused(self._method, self._fused._reduction))

    def __reduce__(self) -> Any:
        """By the instance and the name, as a method."""
        return getattr, (self._method.__self__, self._method.__func__.__name__)


class _NamedFloat(float):
    """A number that is a parameter of the graph that is shown."""

    name = ""


class _Derivative(Fused):
    """A partial derivative of a fused function."""

    _whole = True

    def __init__(self, parent: Fused, argnums: tuple[int, ...]) -> None:
        super().__init__(parent._function, parent._reduction)
        self._parent = parent
        # A derivative of a derivative is one of the function, by more arguments.
        self._argnums = argnums
        above: tuple[int, ...] = parent._all if isinstance(parent, _Derivative) else ()
        self._all: tuple[int, ...] = (*above, *argnums)
        by = "".join(f"_{self._names[number]}" for number in argnums)
        self._name = self.__name__ = f"{parent._name}{by}"

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """Not a method: its arguments are counted."""
        return self

    def _made_of(self) -> tuple[Any, ...]:
        return self._parent, self._argnums

    def _call(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> Any:
        if is_dynamo_compiling() or is_traced():
            return self._by_autograd(function, arguments, keywords)
        if count_of_modes() and _in_a_record():
            return self._inlined(arguments, keywords)
        given = (*arguments, *keywords.values())
        for value in given:
            if isinstance(value, torch.fx.Proxy):
                return value.tracer.create_proxy("call_function", self, arguments, keywords)
        if any(map(is_foreign, given)):
            return self._by_autograd(function, arguments, keywords)
        return super()._call(function, *self._apart(arguments, keywords))

    def _apart(
        self, arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Each argument by which it is derived a tensor of its own."""
        bound = self._bound(arguments, keywords)
        for number in self._all:
            name, value = self._argument(bound, number)
            if type(value) is float:
                bound.arguments[name] = torch.tensor(value, dtype=torch.float64)
            elif not isinstance(value, Tensor):
                raise FuseTypeError(
                    f"{self._name}: argument {name!r} is neither a tensor nor a float"
                )
        return _apart(bound.args, bound.kwargs)

    def _argument(self, bound: inspect.BoundArguments, number: int) -> tuple[str, Any]:
        name = self._names[number]
        value = bound.arguments[name]
        is_many = self._signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
        return name, value[0] if is_many and value else value

    def _bound(self, arguments: Any, keywords: Any) -> inspect.BoundArguments:
        try:
            bound = self._signature.bind(*arguments, **keywords)
        except TypeError as error:
            raise FuseTypeError(f"{self._name}(): {error}") from None
        bound.apply_defaults()
        return bound

    def _built(
        self,
        call: _Call,
        parameters: dict[int, str],
        function: Callable[..., Any],
        arguments: Any,
        keywords: Any,
        *,
        interpreted: bool = False,
        whole: bool = False,
    ) -> Program:
        program = super()._built(
            call,
            parameters,
            function,
            arguments,
            keywords,
            interpreted=interpreted,
            whole=True,
        )
        if program.graph is None or None in program.places:
            raise FuseTypeError(f"{self._name}: among the outputs is one that is no kernel's")
        bound = self._bound(arguments, keywords)
        by: list[str] = []
        for number in self._all:
            name, value = self._argument(bound, number)
            if isinstance(value, _NamedFloat):
                by.append(value.name)
            elif not isinstance(value, Tensor):
                raise FuseTypeError(
                    f"{self._name}: argument {name!r} is neither a tensor nor a float"
                )
            for (node, _), own in zip(program.inputs, program.graph.inputs, strict=True):
                if call.recorder.nodes[node] is value:
                    by.append(own)
        graph = program.graph.derivative(*by)
        program.graph = dataclasses.replace(graph, name=self._name)
        program.requires_grad = program.requires_grad or any(
            call.recorder.nodes[n].requires_grad for n in call.recorder.operands
        )
        return program

    def _inlined(self, arguments: Any, keywords: Any) -> Any:
        """The derivative as one operation of the function that is recorded."""
        recorder = _record_on_this_thread()
        stand_ins: dict[int, Any] = {}

        def stand_in(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            shape = () if recorder.is_scalar(value) else (1,)
            made = torch.ones(shape, dtype=value.dtype)
            stand_ins[id(made)] = (made, value)
            return made

        with torch.overrides._pop_mode_temporarily():
            own = [stand_in(a) for a in arguments]
            others = {key: stand_in(value) for key, value in keywords.items()}
            given, named = self._apart(tuple(own), others)
            call = self._recorded(self._function, given, named, derived=True)
            program = self._built(call, {}, self._function, given, named)
            graph = program.graph
            if graph is None or len(program.places) != 1 or program.replayed:
                raise recorder.refuse(
                    f"{self._name}(): of several outputs, or of integers, inside another"
                )
            operands = []
            for n, _ in program.inputs:
                node = call.recorder.nodes[n]
                operands.append(stand_ins[id(node)][1] if id(node) in stand_ins else node)
            return recorder.graph(graph, operands, program.dtypes[0])

    def _by_autograd(self, function: Callable[..., Any], arguments: Any, keywords: Any) -> Any:
        """The derivative as PyTorch's transforms take it, where no kernel can run."""
        bound = self._bound(arguments, keywords)
        arguments = bound.args

        def derived(body: Callable[..., Any], number: int) -> Callable[..., Any]:
            def slope(*values: Any) -> Any:
                tangent = [torch.ones_like(values[number])]

                def moved(value: Any) -> Any:
                    return body(*values[:number], value, *values[number + 1 :])

                return torch.func.jvp(moved, (values[number],), tuple(tangent))[1]

            return slope

        def body(*values: Any) -> Any:
            return function(*values, **bound.kwargs)

        for number in self._all:
            body = derived(body, number)
        result = body(*arguments)
        shape = kernel.broadcast([v for v in arguments if isinstance(v, Tensor)])
        if isinstance(result, Tensor):
            result = result.expand(shape)
        if self._reduction == "none":
            return result
        return result.mean() if self._reduction == "mean" else result.sum()


@overload
def fuse(function: Callable[..., Any], *, reduction: _Reduction = "none") -> Fused: ...
@overload
def fuse(*, reduction: _Reduction) -> Callable[[Callable[..., Any]], Fused]: ...
def fuse(function: Any = None, *, reduction: _Reduction = "none") -> Any:
    """Make an elementwise Python function one kernel for its value and one for its derivatives.

        @fusedgrad.fuse
        def f(x, z):
            return fusedgrad.sigmoid(x**2 + z) + fusedgrad.tanh(x**3 * z**2)

        f(x, z).sum().backward()

    The function takes and returns what it likes: tensors, numbers, lists, dicts and tuples of them;
    it broadcasts as PyTorch does, and may be a method or an nn.Module. It may use the elementwise
    operations of torch, torch.special, torch.nn.functional and fusedgrad, as functions, methods,
    operators and in place on what it has computed, masks, casts and other fused functions; and
    last of all a loss with its `reduction=`, or mean() or sum() of all elements.

    Where a branch of torch.where is not taken, its gradient is 0, whatever it is there:
    where(x > 0, sqrt(x), 0) has the derivative 0 at 0, where PyTorch has NaN.

    Each call gives what the plain function would give by then, or raises FuseError. The function
    runs on each call, in a mode that records its operations, unless it is proved that it would do
    the same again; `explain()` tells which, and docs/fuse.md how. A number that changes costs a
    second compilation, in which it is a parameter, and no third.

    Derivatives are exact in the sense of this package: in forms that lose no digits, of any order,
    in reverse and forward mode and under torch.func. For backward the arguments are kept, and
    nothing else. Tensors of dtype float64, float32, float16 and bfloat16; half types are computed
    in float32 and rounded once; integers and bool become floats. The dtype of a result is that of
    the operations called one by one, under autocast too.

    The kernels are compiled on the first call, and kept in the folder FUSEDGRAD_CACHE_DIR names, or
    else in XDG's cache directory; without a compiler the operations run one by one.

    Args:
        function: what to fuse; without it, a decorator.
        reduction: 'mean' or 'sum' makes a loss of it: the mean or the sum of all elements, which
            are not written to memory; accumulated in float64, the same for any number of threads.
            A derivative(...) is then the mean or the sum of the derivative's elements.

    Raises:
        FuseError: when the function is called, for what cannot be fused, with the line.
        FuseTypeError: `function` cannot be called.
        FuseValueError: an unknown `reduction`.
    """
    if function is None:
        return functools.partial(fuse, reduction=reduction)
    if not callable(function):
        raise FuseTypeError(f"fuse(): expected a function, got {type(function).__name__}")
    return Fused(function, reduction)


def _signature_of(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except ValueError:  # of functions written in C, torch.exp among them
        any_number = inspect.Parameter("x", inspect.Parameter.VAR_POSITIONAL)
        return inspect.Signature([any_number])


def _output_shapes(graph: Graph, tensors: Sequence[Tensor]) -> list[torch.Size]:
    by_name = dict(zip(graph.inputs, tensors, strict=True))
    return [
        kernel.broadcast([by_name[name] for name in used]) if used else torch.Size()
        for used in graph.used
    ]


def _key(
    function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[Any, ...] | None:
    """What a record depends on besides what is read from outside; None where it is not served."""
    given = serve({}, function, arguments, keywords)
    if given is not NotImplemented:
        return cast("tuple[Any, ...]", given)
    if count_of_modes() or transforms_active() or autocasting() or forward_ad._current_level >= 0:
        return None
    key: list[Any] = [id(function), is_grad_enabled(), is_inference(), get_default_dtype()]
    if type(function) is types.MethodType:
        key[0] = (id(function.__func__), id(function.__self__))
    if keywords:
        key.append(tuple(keywords))
        arguments = (*arguments, *keywords.values())
    first: Any = None
    for value in arguments:
        kind = type(value)
        if kind in PLAIN:
            if value.__dict__:
                return None
            key += (kind, value.dtype, value.dim() == 0, value.requires_grad, value.device)
            if first is None:
                first = value
            else:  # which arguments are one object
                key.append(next(i for i, v in enumerate(arguments) if v is value))
        elif kind is float:
            key += (float, value or repr(value))
        elif kind in ATOMS and kind not in (slice, complex):
            key += (kind, value)
        elif kind is complex or (kind.__module__ == "numpy" and isinstance(value, np.generic)):
            key += (kind, repr(value))
        else:
            key += (kind, id(value))
    return tuple(key)


def _recording(derived: bool) -> Any:
    """For a derivative, which there is under an outer no_grad too, gradients are recorded."""
    if not derived:
        return nullcontext()
    return torch.inference_mode(False) if is_inference() else torch.enable_grad()


def _forget(refers: Any, key: tuple[Any, ...], _: Any) -> None:
    """Drop an entry of a fused function, an object of which has gone."""
    fused = refers()
    if fused is not None:
        fused._entries.pop(key, None)


def replace_parameters(graph: Graph, names: tuple[str, ...]) -> Graph:
    """The graph with each of its parameters once."""
    return dataclasses.replace(graph, parameters=names)


def _record_on_this_thread() -> Recorder:
    """The record of another fused function that is being made."""
    stack = (torch._C._get_function_stack_at(i) for i in range(count_of_modes()))
    return next(mode for mode in stack if isinstance(mode, Recorder))


def is_traced() -> bool:
    """Whether PyTorch's operations are wanted: by torch.jit.trace, or by torch.func.functionalize.

    That has no rule for what a Function records.
    """
    if jit_tracing() is not None:
        return True
    levels = torch._C._functorch.get_interpreter_stack() if transforms_active() else None
    return any(level.key() == _FUNCTIONALIZE for level in levels or ())


def is_foreign(value: Any) -> bool:
    """Whether it is a tensor that no kernel takes, whose operations are PyTorch's or its own.

    One of a subclass, under transforms too, or sparse, nested, quantized or of MKL-DNN.
    """
    if not isinstance(value, Tensor):
        return False
    with torch._C.DisableTorchFunction():
        while type(value) in PLAIN and torch._C._functorch.is_functorch_wrapped_tensor(value):
            value = torch._C._functorch.get_unwrapped(value)
        return type(value) not in PLAIN or not is_dense(value)


def _in_a_record() -> bool:
    stack = range(count_of_modes())
    return any(isinstance(torch._C._get_function_stack_at(i), Recorder) for i in stack)


_warned: weakref.WeakSet[Fused] = weakref.WeakSet()


def _warn_once(fused: Fused, message: str) -> None:
    if fused not in _warned:
        _warned.add(fused)
        warnings.warn(message, stacklevel=5)


def _exponents(recorder: Recorder) -> set[int]:
    """The positions of numbers that are exponents."""
    result: set[int] = set()
    position = 0
    for row in recorder.rows:
        if row is not None:
            for place, value in enumerate((*row[1], *(v for _, v in row[2]))):
                if value is float or value is int:
                    if row[0] == "pow" and place == 1:
                        result.add(position)
                    position += 1
    return result


def _check_shapes(recorder: Recorder, name: str) -> None:
    """That a record that is served again holds for these operands too."""
    if len({recorder.nodes[n].shape for n in recorder.operands}) <= 1:
        return
    shapes = recorder.shapes()
    for a, b in recorder.equal_shapes:
        if shapes[a] != shapes[b]:
            raise FuseValueError(
                f"{name}(): an operation takes tensors of one shape, and in place keeps it, got "
                f"{tuple(shapes[a])} and {tuple(shapes[b])}"
            )


def _apart(
    arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments, where one tensor given twice is two."""
    seen: set[int] = set()

    def own(value: Any) -> Any:
        if isinstance(value, Tensor):
            if id(value) in seen:
                return value.view_as(value)
            seen.add(id(value))
        return value

    return tuple(own(a) for a in arguments), {key: own(v) for key, v in keywords.items()}


def _of_arguments(
    given: Sequence[Tensor], recorder: Recorder, found: dict[int, Tensor]
) -> tuple[Tensor, ...]:
    """The gradient by each argument, 0 by one that the function does not use."""
    by_id = {id(recorder.nodes[n]): grad for n, grad in found.items()}
    return tuple(
        by_id[id(tensor)] if id(tensor) in by_id else torch.zeros_like(tensor) for tensor in given
    )


@functools.lru_cache(maxsize=1024)
def _graph_with_grads(graph: Graph) -> Graph:
    return graph.value_and_grad()


def _outputs(
    graph: Graph,
    tensors: Sequence[Tensor],
    parameters: tuple[float, ...],
    dtypes: Sequence[torch.dtype],
) -> tuple[Tensor, ...]:
    """The outputs, each at its own shape: by one kernel for each shape."""
    if graph.has_one_shape or len({tensor.shape for tensor in tensors}) == 1:
        return tuple(autograd.apply(graph, parameters, dtypes, tensors))
    outputs: dict[int, Tensor] = {}
    for _, indices, part, operands in _parts_of_one_shape(graph, tensors):
        results = autograd.apply(part, parameters, [dtypes[i] for i in indices], operands)
        outputs.update(zip(indices, results, strict=True))
    return tuple(outputs[i] for i in range(len(outputs)))


def _parts_of_one_shape(
    graph: Graph, tensors: Sequence[Tensor]
) -> Iterator[tuple[torch.Size, list[int], Graph, list[Tensor]]]:
    """For each shape of an output the numbers of those that have it, their graph, its operands."""
    by_name = dict(zip(graph.inputs, tensors, strict=True))
    by_shape: dict[torch.Size, list[int]] = {}
    for i, shape in enumerate(_output_shapes(graph, tensors)):
        by_shape.setdefault(shape, []).append(i)
    for shape, indices in by_shape.items():
        part = graph.part(tuple(indices))
        yield shape, indices, part, [by_name[name] for name in part.inputs]


def _within_bounds(
    program: Program, result: Any, function: Any, arguments: Any, keywords: dict[str, Any]
) -> Any:
    """The result; where it has NaN, PyTorch is asked, which may refuse the values.

    On the CPU: a kernel on a GPU can raise no error, here nor in PyTorch, which ends the process.
    """
    if program.bounded and not transforms_active():
        tensors = [leaf for leaf in flattened(result)[0] if isinstance(leaf, Tensor)]
        if any(tensor.is_cpu and bool(tensor.isnan().any()) for tensor in tensors):
            with torch.no_grad():
                function(*arguments, **keywords)
    return result


def _sums(
    graph: Graph,
    tensors: Sequence[Tensor],
    parameters: tuple[float, ...],
    dtypes: Sequence[torch.dtype],
) -> tuple[Tensor, ...]:
    """The sums of the outputs, each over its own shape: by one kernel for each shape."""
    sums: dict[int, Tensor] = {}
    for shape, indices, part, operands in _parts_of_one_shape(graph, tensors):
        dims = ((1 << len(shape)) - 1,) * len(indices) if shape else ()
        totals = autograd.apply(part, parameters, [dtypes[i] for i in indices], operands, dims)
        sums.update(zip(indices, [total.reshape(()) for total in totals], strict=True))
    return tuple(sums[i] for i in range(len(sums)))


def _following(
    program: Program, recorder: Recorder, computed: Sequence[Tensor], values: dict[int, Tensor]
) -> dict[int, Tensor]:
    """What the function makes of means and sums."""
    shapes = recorder.shapes()
    known = dict(values)
    for node, place in program.sums:
        (of,), ((_, (reduction,)),), dtype = cast(Any, recorder.rows[node])[1:4]
        if place is None:
            known[node] = (values[of] if of in values else recorder.nodes[of]).sum()
            continue
        total = computed[place]
        if reduction == "mean":
            total = total / shapes[of].numel()
        elif reduction == "batchmean" and shapes[of]:
            total = total / shapes[of][0]
        known[node] = total.to(dtype)
    return replay(recorder, program.following, known)

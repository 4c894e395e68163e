"""`fuse`: a Python function of tensors as one kernel for its value and one for its derivatives."""

from __future__ import annotations

import copy
import functools
import inspect
import math
import numbers
import pickle
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, overload

import torch
import torch.autograd.forward_ad as forward_ad
import torch.fx
from torch import Tensor
from torch._C import _are_functorch_transforms_active as transforms_active
from torch._C import _is_any_autocast_enabled as autocasting
from torch.compiler import is_dynamo_compiling
from torch.nn import Parameter

from fusedgrad import operators, reference
from fusedgrad.fuse import autograd, generate, kernel
from fusedgrad.fuse.captures import PLAIN as UNCHANGING
from fusedgrad.fuse.captures import Captures, token
from fusedgrad.fuse.errors import FuseError, FuseTypeError, FuseValueError
from fusedgrad.fuse.expression import Expression, wrap
from fusedgrad.fuse.graph import Graph
from fusedgrad.fuse.trace import trace

# The kinds of a call's arguments: Tensor, float, or the value of any other argument.
_Kinds = tuple[Any, ...]
# Types of tensors that kernels take; fusedgrad.distributed adds DTensor.
PLAIN: set[type] = {Tensor, Parameter}

_Reduction = Literal["none", "mean", "sum"]
_REDUCTIONS = {"none": reference.NONE, "mean": reference.MEAN, "sum": reference.SUM}


@dataclass(slots=True)
class _Plan:
    """What is known of a call before its values and shapes are."""

    graph: Graph
    single: bool
    dtypes: tuple[torch.dtype, ...]  # of the outputs
    casts: tuple[torch.dtype | None, ...] | None  # of integer tensors
    number: int | None = None  # of a kernel that reads all tensors, for CPU tensors of any shape


class Fused:
    """A fused function: call it as the Python function that it was made of.

    See `fuse`.
    """

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
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        self._names = tuple(self._signature.parameters)
        self._is_plain = all(p.kind in positional for p in self._signature.parameters.values())
        if self._name == "<lambda>" or not self._name.isidentifier():
            self._name = "f"
        self._graphs: dict[_Kinds, tuple[Graph, bool]] = {}
        self._plans: dict[tuple[Any, ...], _Plan] = {}
        self._captures: Captures | None = None  # found on the first call

    # ------------------------------------------------------------------------------------ calling

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """The function's value, differentiable to any order."""
        if is_dynamo_compiling():
            return self._body(*arguments, **keywords)
        values: Sequence[Any] = arguments
        if keywords or not self._is_plain or len(arguments) != len(self._names):
            values = self._values(arguments, keywords)
        found = self._planned(values)
        if found is None:
            return self._called_on_others(values, arguments, keywords)
        plan, tensors, parameters = found
        if (
            plan.number is not None
            and not transforms_active()
            and forward_ad._current_level < 0
            and all([tensor.is_cpu for tensor in tensors])  # noqa: C419  (half a generator's time)
        ):
            if self._reduction == "none":
                outputs = kernel.fused(plan.number, tensors, parameters, plan.dtypes)
                return outputs[0] if plan.single else tuple(outputs)
            code = _REDUCTIONS[self._reduction]
            return kernel.fused_reduction(plan.number, tensors, parameters, plan.dtypes[0], code)
        return self._evaluated(plan, tensors, parameters)

    def _body(self, *arguments: Any, **keywords: Any) -> Any:
        result = self._function(*arguments, **keywords)
        if self._reduction == "none":
            return result
        return result.mean() if self._reduction == "mean" else result.sum()

    def _called_on_others(
        self, values: Sequence[Any], arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> Any:
        others = [v for v in values if isinstance(v, (Tensor, torch.fx.Proxy))]
        foreign = next(value for value in others if type(value) not in PLAIN)
        if isinstance(foreign, torch.fx.Proxy):  # another function is being traced
            return foreign.tracer.create_proxy("call_function", self, arguments, keywords)
        # A subclass of Tensor, which does with operations as it likes
        return self._body(*arguments, **keywords)

    def _planned(
        self, values: Sequence[Any]
    ) -> tuple[_Plan, Sequence[Tensor], tuple[float, ...]] | None:
        """The plan of a call, its tensors and its floats; None for other kinds of tensors."""
        key: list[Any] = []
        tensors: list[Tensor] = []
        parameters: list[float] = []
        for value in values:
            if type(value) in PLAIN:
                key.append(value.dtype)
                key.append(value.dim() == 0)
                tensors.append(value)
            elif isinstance(value, float):
                key.append(float)
                parameters.append(value)
            elif isinstance(value, (Tensor, torch.fx.Proxy)):
                return None
            else:
                kind = _kind(value)
                key.append(kind)
                if kind is float:
                    parameters.append(float(value))
        captured = self._captured()
        place = len(key)
        if captured:
            key.append(captured)
        if autocasting() and tensors:
            device = tensors[0].device.type
            enabled = torch.is_autocast_enabled(device)
            key.append((device, enabled and torch.get_autocast_dtype(device)))
        try:
            plan = self._plans.get(tuple(key))
        except TypeError:
            unhashable = (v for v in values if type(v).__hash__ is None)
            others = ", ".join(type(value).__name__ for value in unhashable)
            raise FuseTypeError(
                f"{self._name}(): among the arguments are {others}, expected tensors and numbers; "
                "pass what a list or an array holds as arguments of their own"
            ) from None
        if plan is None:
            if captured:
                key[place] = self._captured_anew()
            plan = self._plans[tuple(key)] = self._plan(values, tensors)
        if plan.casts is not None:
            pairs = zip(tensors, plan.casts, strict=True)
            tensors = [t if dtype is None else t.to(dtype) for t, dtype in pairs]
        return plan, tensors, tuple(parameters)

    def _plan(self, values: Sequence[Any], tensors: Sequence[Tensor]) -> _Plan:
        graph, single = self._graph_of(tuple(map(_kind, values)))
        if self._reduction != "none" and not single:
            raise FuseTypeError(
                f"{self._name}() returns a tuple, expected one tensor to take the "
                f"{self._reduction} of"
            )
        dtypes = self._dtypes(graph, values, tensors)
        wide = torch.float64 in (*(tensor.dtype for tensor in tensors), *dtypes)
        number = torch.float64 if wide else torch.float32
        casts = tuple(number if _is_integer(tensor.dtype) else None for tensor in tensors)
        return _Plan(graph, single, dtypes, casts if any(casts) else None)

    def _dtypes(
        self, graph: Graph, values: Sequence[Any], tensors: Sequence[Tensor]
    ) -> tuple[torch.dtype, ...]:
        """The dtypes of the outputs: those that PyTorch's operations one by one would give."""
        for name, tensor in zip(graph.inputs, tensors, strict=True):
            if not (tensor.dtype in operators.KERNEL_DTYPES or _is_integer(tensor.dtype)):
                raise kernel.without_kernel(graph, name, tensor.dtype)
        given = {tensor.dtype for tensor in tensors}
        if len(given) == 1 and given <= operators.KERNEL_DTYPES and not autocasting():
            return (*given,) * len(graph.outputs)
        dtypes = self._dtypes_of_operations(values)
        if dtypes is None:
            dtypes = kernel.result_dtypes(graph, tensors)
        for dtype in dtypes:
            if dtype not in operators.KERNEL_DTYPES:
                raise FuseTypeError(
                    f"{self._name}() of these arguments has a result of dtype {dtype}, for which "
                    "there is no kernel: pass one of them as torch.float32"
                )
        return dtypes

    def _dtypes_of_operations(self, values: Sequence[Any]) -> tuple[torch.dtype, ...] | None:
        """None where they refuse what fuse does not, as a loss does a target of another shape."""
        from torch._subclasses.fake_tensor import FakeTensorMode  # which takes a while

        with FakeTensorMode(), torch.no_grad():
            fakes = [
                torch.empty(value.shape, dtype=value.dtype, device=value.device)
                if type(value) in PLAIN
                else value
                for value in values
            ]
            names = self._argument_names(len(values))
            try:
                result = self._call_with(self._function, dict(zip(names, fakes, strict=True)))
            except (TypeError, ValueError, RuntimeError):
                return None
        outputs = result if isinstance(result, (tuple, list)) else [result]
        return tuple(output.dtype for output in outputs)

    def _evaluated(
        self, plan: _Plan, tensors: Sequence[Tensor], parameters: tuple[float, ...]
    ) -> Any:
        graph = plan.graph
        if plan.number is None and graph.reads_all:
            plan.number = autograd.recording_kernel(graph, tensors)
        if self._reduction == "none":
            outputs = _outputs(graph, tensors, parameters, plan.dtypes)
            return outputs[0] if plan.single else outputs
        if not graph.has_one_shape:
            tensors = [t for n, t in zip(graph.inputs, tensors, strict=True) if n in graph.used[0]]
            graph = graph.part((0,))
        code = _REDUCTIONS[self._reduction]
        return autograd.apply_reduced(graph, parameters, plan.dtypes[0], code, tensors)

    def _values(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Sequence[Any]:
        """The values of all arguments, in the order of `_argument_names`."""
        if self._is_plain and not keywords and len(arguments) == len(self._names):
            return arguments
        try:
            bound = self._signature.bind(*arguments, **keywords)
        except TypeError as error:
            raise FuseTypeError(f"{self._name}(): {error}") from None
        bound.apply_defaults()
        return (*bound.args, *bound.kwargs.values())

    def _argument_names(self, count: int) -> list[str]:
        names: list[str] = []
        for name, parameter in self._signature.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                extra = count - len(self._signature.parameters) + 1
                names += [f"{name}_{i}" for i in range(extra)]
            else:
                names.append(name)
        return [f"{name}_" if name in generate.RESERVED else name for name in names]

    def _graph_of(self, kinds: _Kinds) -> tuple[Graph, bool]:
        key = (*kinds, self._captured())
        found = self._graphs.get(key)
        if found is None:
            found = self._graphs[key] = self._traced(kinds)
        return found

    def _captured(self) -> tuple[Any, ...]:
        """What the function takes from outside, which may change between calls."""
        captured = None if self._captures is None else self._captures.key()
        return self._captured_anew() if captured is None else captured

    def _captured_anew(self) -> tuple[Any, ...]:
        """As `_captured`, and what was found before is forgotten where it calls other functions."""
        captures = Captures(self._function)
        if self._captures is None or not captures.is_as(self._captures):
            self._captures = captures
            self._graphs.clear()
            self._plans.clear()
        return self._captures.key() or ()

    def _traced(self, kinds: _Kinds) -> tuple[Graph, bool]:
        names = self._argument_names(len(kinds))
        if Tensor not in kinds:
            raise FuseTypeError(f"{self._name}(): expected at least one tensor among the arguments")
        arguments = dict(zip(names, (_value_of(kind) for kind in kinds), strict=True))
        try:
            return trace(self._function, self._name, arguments, self._call_with)
        except FuseError as error:
            given = [f"{n} is {v!r}" for n, v in arguments.items() if not isinstance(v, type)]
            if not given:
                raise
            raise type(error)(f"{self._name}(): {', '.join(given)}: {error}") from None

    def _call_with(self, function: Callable[..., Any], values: dict[str, Any]) -> Any:
        keyword_only = [
            name
            for name, parameter in self._signature.parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        ]
        ordered = list(values.values())
        count = len(ordered) - len(keyword_only)
        return function(*ordered[:count], **dict(zip(keyword_only, ordered[count:], strict=True)))

    def expressions_of_call(self, *arguments: Any, **keywords: Any) -> Any:
        """The outputs as expressions of arguments that are expressions: a call inside a trace."""
        if self._reduction != "none":
            raise FuseValueError(f"its reduction is {self._reduction!r}: only the outermost may be")
        values = self._values(arguments, keywords)
        kinds = tuple(_kind(Tensor if isinstance(v, (Expression, float)) else v) for v in values)
        graph, single = self._graph_of(kinds)
        names = self._argument_names(len(values))
        given = {
            n: wrap(v)
            for n, v in zip(names, values, strict=True)
            if isinstance(v, (Expression, float))
        }
        outputs = graph.called(given)
        return outputs[0] if single else outputs

    # -------------------------------------------------------------------------------- derivatives

    def value_and_grad(self, *arguments: Any, **keywords: Any) -> tuple[Any, tuple[Tensor, ...]]:
        """The value, and the gradients of the sum of all its elements by each tensor argument.

        One kernel, one pass over memory; a gradient of a broadcast argument is then summed to its
        shape. Both results are differentiable.
        """
        values = self._values(arguments, keywords)
        found = self._planned(values)
        if found is None:
            raise FuseTypeError(
                f"{self._name}.value_and_grad(): among the arguments is a tensor of a subclass, "
                "expected plain tensors and numbers"
            )
        plan, tensors, parameters = found
        graph = plan.graph
        if plan.casts is not None:
            raise FuseTypeError(
                f"{self._name}.value_and_grad(): among the tensors are integers, by which there is "
                "no gradient: pass them as torch.float32"
            )
        shape = kernel.broadcast(tensors)
        shapes = _output_shapes(graph, tensors)
        if set(shapes) != {shape}:
            told = ", ".join(str(tuple(shape)) for shape in shapes)
            raise FuseValueError(
                f"{self._name}.value_and_grad(): the outputs do not all have the shape of all "
                f"arguments broadcast together, but {told}; give each a function of its own"
            )
        if self._reduction != "none":
            value = self._evaluated(plan, tensors, parameters)
            count = shape.numel() if self._reduction == "mean" else 1
            dtype, device = kernel.computed(tensors), value.device
            weight = torch.full((), 1 / count if count else math.nan, dtype=dtype, device=device)
            weights = weight.expand(shape)
            needed = (True,) * len(tensors)
            found_grads = autograd.gradients(graph, parameters, tensors, [weights], needed)
            return value, cast(tuple[Tensor, ...], tuple(found_grads))
        dtypes = (*plan.dtypes, *(autograd.accumulated(tensor, shape) for tensor in tensors))
        results = tuple(autograd.apply(_value_and_grad(graph), parameters, dtypes, tensors))
        count = len(graph.outputs)
        grads = tuple(map(autograd.fitted, results[count:], tensors))
        return results[0] if plan.single else results[:count], grads

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
        return _Derivative(self, argnums)

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
        kinds = []
        for parameter in self._signature.parameters.values():
            default = parameter.default
            kinds.append(_kind(Tensor if default is inspect.Parameter.empty else default))
        return self._graph_of(tuple(kinds))[0]

    def source(self, backend: Literal["cpu", "cuda"], *, gradients: bool = False) -> str:
        """The generated code of the value's kernel, or of the value's and all gradients'.

        As for float32 tensors in the place of all arguments without a default.
        """
        graph = self._example()
        if gradients:
            graph = _value_and_grad(graph)
        if backend == "cpu":
            return generate.cpu_source(graph, graph.inputs, wide=False)
        if backend == "cuda":
            types = ["float"] * (len(graph.outputs) + len(graph.inputs))
            return generate.cuda_source(graph, graph.inputs, types, "float")
        raise FuseValueError(f"{self._name}.source(): backend is {backend!r}, expected cpu or cuda")

    def __str__(self) -> str:
        """The expression, in Python's notation."""
        text = generate.expression_text(self._example())
        if self._reduction == "none":
            return text
        call, expression = text.split(" = ", 1)
        return f"{call} = {self._reduction}({expression})"

    def __repr__(self) -> str:
        """The name."""
        return f"<fused function {self._name}>"


class _Derivative(Fused):
    """A partial derivative of a fused function."""

    def __init__(self, parent: Fused, argnums: tuple[int, ...]) -> None:
        super().__init__(parent._function, parent._reduction)
        self._parent = parent
        self._argnums = argnums
        by = "".join(f"_{self._names[number]}" for number in argnums)
        self._name = self.__name__ = f"{parent._name}{by}"

    def _made_of(self) -> tuple[Any, ...]:
        return self._parent, self._argnums

    def _graph_of(self, kinds: _Kinds) -> tuple[Graph, bool]:
        graph, single = self._parent._graph_of(kinds)
        found = self._graphs.get((graph,))
        if found is None:
            names = self._argument_names(len(kinds))
            for number in self._argnums:
                if kinds[number] is not Tensor and kinds[number] is not float:
                    raise FuseTypeError(
                        f"{self._name}: argument {names[number]!r} is neither a tensor nor a float"
                    )
            by = [names[number] for number in self._argnums]
            found = self._graphs[(graph,)] = graph.derivative(*by), single
        return found

    def _body(self, *arguments: Any, **keywords: Any) -> Any:
        values = self._values(arguments, keywords)
        graph, single = self._graph_of(tuple(map(_kind, values)))
        tensors = [value for value in values if isinstance(value, Tensor)]
        parameters = [float(value) for value in values if _kind(value) is float]
        dtypes = kernel.result_dtypes(graph, tensors)
        outputs = kernel.evaluate(graph, tensors, parameters, dtypes)
        if self._reduction == "none":
            return outputs[0] if single else tuple(outputs)
        return kernel.reduced(outputs[0], dtypes[0], _REDUCTIONS[self._reduction])


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

    The function takes tensors and Python numbers, broadcasts as PyTorch does, and returns a tensor
    or a tuple of them. Floats are parameters of the kernel; ints, bools and strings are part of
    the function. It may use `+ - * / **`, comparisons, `& | ~`, and of torch, torch.nn.functional
    and fusedgrad: sigmoid, tanh, pow, square, sqrt, rsqrt, reciprocal, exp, expm1, log, log1p,
    softplus, logsigmoid, silu, mish, gelu, relu, abs, sign, sin, cos, erf, minimum, maximum, clamp,
    where, and binary_cross_entropy_with_logits with reduction='none'; also other fused functions.

    What the function reads from outside its arguments is read again on every call, and it is traced
    again where that has changed: globals, variables of enclosing functions, attributes and items of
    them and of `self`, in the Python functions that it calls too. Not followed is what such code
    makes anew each time, as with random.random(), next(iterator) or an import, what it takes from
    functions among its arguments, and what is written to the `.data` of a tensor.

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


def _kind(value: Any) -> Any:
    """What of an argument its graph depends on: no two kinds are equal but the same."""
    if value is Tensor or isinstance(value, Tensor):
        return Tensor
    if value is float or isinstance(value, float):
        return float
    if isinstance(value, numbers.Real) and type(value) not in UNCHANGING:  # of NumPy too
        return (int, int(value)) if isinstance(value, numbers.Integral) else float
    if type(value) in UNCHANGING:
        return (type(value), value)  # 1 and True are equal, and not the same
    return (type(value), value, token(value))


def _value_of(kind: Any) -> Any:
    return kind[1] if isinstance(kind, tuple) else kind


def _is_integer(dtype: torch.dtype) -> bool:
    return not (dtype.is_floating_point or dtype.is_complex)


def _output_shapes(graph: Graph, tensors: Sequence[Tensor]) -> list[torch.Size]:
    by_name = dict(zip(graph.inputs, tensors, strict=True))
    return [
        kernel.broadcast([by_name[name] for name in used]) if used else torch.Size()
        for used in graph.used
    ]


@functools.lru_cache(maxsize=1024)
def _value_and_grad(graph: Graph) -> Graph:
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
    by_name = dict(zip(graph.inputs, tensors, strict=True))
    by_shape: dict[torch.Size, list[int]] = {}
    for i, shape in enumerate(_output_shapes(graph, tensors)):
        by_shape.setdefault(shape, []).append(i)
    outputs: dict[int, Tensor] = {}
    for indices in by_shape.values():
        part = graph.part(tuple(indices))
        operands = [by_name[name] for name in part.inputs]
        results = autograd.apply(part, parameters, [dtypes[i] for i in indices], operands)
        outputs.update(zip(indices, results, strict=True))
    return tuple(outputs[i] for i in range(len(outputs)))

"""`fuse`: a Python function of tensors as one kernel for its value and one for its derivatives."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import torch
import torch.autograd.forward_ad as forward_ad
import torch.fx
from torch import Tensor, is_grad_enabled
from torch._C import _are_functorch_transforms_active as transforms_active
from torch.nn import Parameter

from fusedgrad.fuse import autograd, generate, kernel
from fusedgrad.fuse.errors import FuseTypeError, FuseValueError
from fusedgrad.fuse.expression import Expression, wrap
from fusedgrad.fuse.graph import Graph
from fusedgrad.fuse.trace import trace

_requires_grad = operator.attrgetter("requires_grad")

# The kinds of a call's arguments: Tensor, float, or the value of any other argument.
_Kinds = tuple[Any, ...]
_PLAIN = (Tensor, Parameter)


class Fused:
    """A fused function: call it as the Python function that it was made of.

    See `fuse`.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        """`function` takes tensors and numbers, and returns one tensor or a tuple of them."""
        functools.update_wrapper(self, function)
        self._function = function
        self._name = getattr(function, "__name__", type(function).__name__)
        self._signature = _signature_of(function)
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        self._names = tuple(self._signature.parameters)
        self._is_plain = all(p.kind in positional for p in self._signature.parameters.values())
        if self._name == "<lambda>" or not self._name.isidentifier():
            self._name = "f"
        self._graphs: dict[_Kinds, tuple[Graph, bool]] = {}
        code = getattr(function, "__code__", None)
        self._cells = getattr(function, "__closure__", None) or ()
        self._globals = [
            name
            for name in (code.co_names if code else ())
            if isinstance(function.__globals__.get(name), (int, float))
        ]

    # ------------------------------------------------------------------------------------ calling

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """The function's value, differentiable to any order."""
        if torch.compiler.is_dynamo_compiling():
            return self._body(*arguments, **keywords)
        values = self._values(arguments, keywords)
        kinds, tensors, parameters, foreign = _sorted(values)
        if foreign is not None:
            return self._called_on_others(foreign, arguments, keywords)
        graph, single = self._graph_of(kinds)
        outputs = _evaluated(graph, tensors, parameters)
        return outputs[0] if single else outputs

    def _body(self, *arguments: Any, **keywords: Any) -> Any:
        return self._function(*arguments, **keywords)

    def _called_on_others(self, foreign: Any, arguments: Any, keywords: Any) -> Any:
        if isinstance(foreign, torch.fx.Proxy):  # another function is being traced
            return foreign.tracer.create_proxy("call_function", self, arguments, keywords)
        # A subclass of Tensor, which does with operations as it likes
        return self._body(*arguments, **keywords)

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
        key = kinds if not (self._cells or self._globals) else (*kinds, *self._captured())
        try:
            found = self._graphs.get(key)
        except TypeError:
            others = ", ".join(kind[0].__name__ for kind in kinds if isinstance(kind, tuple))
            raise FuseTypeError(
                f"{self._name}(): among the arguments are {others}, expected tensors and numbers; "
                "pass what a list or an array holds as arguments of their own"
            ) from None
        if found is None:
            found = self._graphs[key] = self._traced(kinds)
        return found

    def _captured(self) -> tuple[Any, ...]:
        """The numbers that the function takes from outside, which may change between calls."""
        values = []
        for cell in self._cells:
            try:
                values.append(cell.cell_contents)
            except ValueError:  # not yet bound
                values.append(None)
        values += [self._function.__globals__.get(name) for name in self._globals]
        return tuple((type(v), v) for v in values if isinstance(v, (int, float)))

    def _traced(self, kinds: _Kinds) -> tuple[Graph, bool]:
        names = self._argument_names(len(kinds))
        if Tensor not in kinds:
            raise FuseTypeError(f"{self._name}(): expected at least one tensor among the arguments")
        arguments = dict(zip(names, (_value_of(kind) for kind in kinds), strict=True))
        return trace(self._function, self._name, arguments, self._call_with)

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
        kinds, tensors, parameters, foreign = _sorted(values)
        if foreign is not None:
            raise FuseTypeError(
                f"{self._name}.value_and_grad(): an argument is {type(foreign).__name__}, "
                "expected a tensor of no subclass or a number"
            )
        graph, single = self._graph_of(kinds)
        shapes = _output_shapes(graph, tensors)
        if len(set(shapes)) > 1 or kernel.broadcast(tensors) != shapes[0]:
            found = ", ".join(str(tuple(shape)) for shape in shapes)
            raise FuseValueError(
                f"{self._name}.value_and_grad(): the outputs do not all have the shape of all "
                f"arguments broadcast together, but {found}; give each a function of its own"
            )
        results = _evaluated(_value_and_grad(graph), tensors, parameters, split=False)
        count = len(graph.outputs)
        grads = tuple(map(autograd._fitted, results[count:], tensors))
        return results[0] if single else results[:count], grads

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
            return generate.cuda_source(graph)
        raise FuseValueError(f"{self._name}.source(): backend is {backend!r}, expected cpu or cuda")

    def __str__(self) -> str:
        """The expression, in Python's notation."""
        return generate.expression_text(self._example())

    def __repr__(self) -> str:
        """The name."""
        return f"<fused function {self._name}>"


class _Derivative(Fused):
    """A partial derivative of a fused function."""

    def __init__(self, parent: Fused, argnums: tuple[int, ...]) -> None:
        super().__init__(parent._function)
        self._parent = parent
        self._argnums = argnums
        by = "".join(f"_{self._names[number]}" for number in argnums)
        self._name = self.__name__ = f"{parent._name}{by}"

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
        kinds, tensors, parameters, _ = _sorted(values)
        graph, single = self._graph_of(kinds)
        dtypes = kernel.result_dtypes(graph, tensors)
        outputs = kernel.evaluate(graph, tensors, parameters, dtypes)
        return outputs[0] if single else tuple(outputs)


def fuse(function: Callable[..., Any]) -> Fused:
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

    Derivatives are exact in the sense of this package: in forms that lose no digits, of any order,
    in reverse and forward mode and under torch.func. For backward the arguments are kept, and
    nothing else. Tensors of dtype float64, float32, float16 and bfloat16; half types are computed
    in float32 and rounded once. Under autocast the arguments keep their dtypes.

    The kernels are compiled on the first call, and kept in the folder FUSEDGRAD_CACHE_DIR names, or
    else in XDG's cache directory; without a compiler the operations run one by one.

    Raises:
        FuseError: when the function is called, for what cannot be fused, with the line.
        FuseTypeError: `function` cannot be called.
    """
    if not callable(function):
        raise FuseTypeError(f"fuse(): expected a function, got {type(function).__name__}")
    return Fused(function)


def _signature_of(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except ValueError:  # of functions written in C, torch.exp among them
        any_number = inspect.Parameter("x", inspect.Parameter.VAR_POSITIONAL)
        return inspect.Signature([any_number])


def _kind(value: Any) -> Any:
    """What of an argument its graph depends on: no two kinds are equal but the same."""
    if value is Tensor or value is float:
        return value
    if isinstance(value, float):
        return float
    # 1 and True are equal, and not the same
    return (type(value), value)


def _value_of(kind: Any) -> Any:
    return kind[1] if isinstance(kind, tuple) else kind


def _sorted(values: Sequence[Any]) -> tuple[_Kinds, list[Tensor], tuple[float, ...], Any]:
    """The kinds of the arguments, the tensors, the floats, and the first that is neither."""
    kinds: list[Any] = []
    tensors: list[Tensor] = []
    parameters: list[float] = []
    foreign = None
    for value in values:
        if type(value) in _PLAIN:
            kinds.append(Tensor)
            tensors.append(value)
        elif isinstance(value, float):  # of NumPy too
            kinds.append(float)
            parameters.append(value)
        elif isinstance(value, (Tensor, torch.fx.Proxy)):
            foreign = value if foreign is None else foreign
        else:
            kinds.append((type(value), value))
    return tuple(kinds), tensors, tuple(parameters), foreign


def _output_shapes(graph: Graph, tensors: Sequence[Tensor]) -> list[torch.Size]:
    by_name = dict(zip(graph.inputs, tensors, strict=True))
    return [
        kernel.broadcast([by_name[name] for name in used]) if used else torch.Size()
        for used in graph.used
    ]


@functools.lru_cache(maxsize=1024)
def _value_and_grad(graph: Graph) -> Graph:
    return graph.value_and_grad()


def _evaluated(
    graph: Graph, tensors: Sequence[Tensor], parameters: tuple[float, ...], split: bool = True
) -> tuple[Tensor, ...]:
    """The outputs, each at its own shape."""
    if split and not graph.has_one_shape and len({tensor.shape for tensor in tensors}) > 1:
        return _evaluated_apart(graph, tensors, parameters)
    if (
        (is_grad_enabled() and any(map(_requires_grad, tensors)))
        or transforms_active()
        or forward_ad._current_level >= 0
    ):
        return cast(tuple[Tensor, ...], autograd.apply(graph, parameters, *tensors))
    return tuple(kernel.run(graph, tensors, parameters))


def _evaluated_apart(
    graph: Graph, tensors: Sequence[Tensor], parameters: tuple[float, ...]
) -> tuple[Tensor, ...]:
    """Outputs of unlike shapes by kernels of their own."""
    by_name = dict(zip(graph.inputs, tensors, strict=True))
    by_shape: dict[torch.Size, list[int]] = {}
    for i, shape in enumerate(_output_shapes(graph, tensors)):
        by_shape.setdefault(shape, []).append(i)
    outputs: dict[int, Tensor] = {}
    for indices in by_shape.values():
        part = graph.part(tuple(indices))
        results = _evaluated(part, [by_name[n] for n in part.inputs], parameters, split=False)
        outputs.update(zip(indices, results, strict=True))
    return tuple(outputs[i] for i in range(len(outputs)))

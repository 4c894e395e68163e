"""From a Python function to a graph: torch.fx records the calls, and each becomes an expression."""

from __future__ import annotations

import linecache
import numbers
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
import torch.fx
from torch import Tensor
from torch.fx.node import Argument

from fusedgrad.fuse.errors import FuseError, FuseTypeError, FuseValueError
from fusedgrad.fuse.expression import Expression
from fusedgrad.fuse.graph import Graph, input_named, parameter_named
from fusedgrad.fuse.vocabulary import FUNCTIONS, METHODS

_OURS = str(Path(__file__).parents[1])
_TORCH = str(Path(torch.__file__).parent)


def _line_of_caller() -> str:
    """Where the traced function stands: the innermost frame outside this package and torch."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        path = frame.f_code.co_filename
        if not path.startswith((_OURS, _TORCH, "<frozen")):
            break
        # The gallery stands in this package, and is traced as any other function.
        if path == f"{_OURS}/activations.py":
            break
        frame = frame.f_back
    path, line = frame.f_code.co_filename, frame.f_lineno
    text = linecache.getline(path, line).strip()
    return f"{path}:{line}{f': `{text}`' if text else ''}"


def _refuse(message: str, kind: type[FuseError] = FuseTypeError) -> NoReturn:
    raise kind(f"{message}, at {_line_of_caller()}")


def _refuse_in_place(self: Any, *arguments: Any) -> NoReturn:
    _refuse(
        "an in-place operation cannot be fused: a fused function changes none of its arguments; "
        "bind the result to a name instead"
    )


class _Proxy(torch.fx.Proxy):
    """A tensor or a number while the function is traced."""

    __iadd__ = __isub__ = __imul__ = __itruediv__ = __ipow__ = _refuse_in_place
    __iand__ = __ior__ = __ixor__ = _refuse_in_place
    __setitem__ = __delitem__ = _refuse_in_place

    def __abs__(self) -> Any:
        return cast(Any, torch.abs)(self)

    def __bool__(self) -> NoReturn:
        _refuse(
            "control flow that depends on a tensor's values cannot be fused: "
            "choose between values with torch.where"
        )

    def __iter__(self) -> NoReturn:
        _refuse("iterating over a tensor cannot be fused: a fused function is elementwise")

    def __len__(self) -> NoReturn:
        _refuse("len() of a tensor cannot be fused: a fused function is elementwise")

    def _refuse_number(self) -> NoReturn:
        _refuse(
            "a tensor or a float argument cannot become a Python number while it is traced: use "
            "torch functions on it, or bind it as an int or a closure variable"
        )

    __float__ = __int__ = __index__ = __complex__ = _refuse_number


class _Tracer(torch.fx.Tracer):
    """Records the calls of a function of proxies, and where each was made."""

    def __init__(self) -> None:
        super().__init__()
        self.root = torch.nn.Module()
        self.graph = torch.fx.Graph(tracer_cls=type(self))

    def proxy(self, node: torch.fx.Node) -> _Proxy:
        return _Proxy(node, self)

    def create_node(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> torch.fx.Node:
        node = super().create_node(kind, target, *args, **kwargs)
        node.meta["line"] = _line_of_caller()
        return node

    def create_arg(self, a: Any) -> Argument:
        if isinstance(a, Tensor):
            _refuse(
                "the function uses a tensor that is none of its arguments: it may change after "
                "tracing; pass it as an argument, or a Python number in its place"
            )
        if isinstance(a, numbers.Real):  # of NumPy too
            return int(a) if isinstance(a, numbers.Integral) else float(a)
        try:
            return super().create_arg(a)
        except NotImplementedError:
            _refuse(f"an operand is {type(a).__name__}, expected a tensor or a number")


def _name_of(target: Any) -> str:
    if isinstance(target, str):
        return f"Tensor.{target}"
    module = getattr(target, "__module__", None) or ""
    name = getattr(target, "__name__", repr(target))
    prefix = {"_operator": "operator", "torch._C._nn": "torch.nn.functional"}.get(module, module)
    return f"{prefix}.{name}" if prefix else str(name)


def _expression_of(node: torch.fx.Node, known: dict[torch.fx.Node, Any]) -> Any:
    """What the call that a node records is in the algebra."""

    def value(argument: Any) -> Any:
        return torch.fx.map_arg(argument, lambda n: known[n])

    name, line = _name_of(node.target), node.meta["line"]
    arguments = value(node.args)
    keywords = {key: value(argument) for key, argument in node.kwargs.items()}
    if keywords.pop("out", None) is not None or keywords.pop("inplace", False):
        raise FuseTypeError(f"{name} writes into a tensor, which cannot be fused, at {line}")
    if node.op == "call_function" and hasattr(node.target, "expressions_of_call"):
        return node.target.expressions_of_call(*arguments, **keywords)
    if node.op == "call_method":
        build = METHODS.get(str(node.target))
        if build is None and str(node.target).endswith("_") and str(node.target)[:-1] in METHODS:
            raise FuseTypeError(
                f"{name} changes its tensor in place, which cannot be fused, at {line}"
            )
    else:
        build = FUNCTIONS.get(node.target)
    if build is None:
        what = f"{name} of {arguments[1]!r}" if node.target is getattr else name
        raise FuseTypeError(
            f"{what} is no elementwise operation that fuse knows, at {line}; fuse the part before "
            "it and the part after it, or write it with the operations in fuse's documentation"
        )
    try:
        return build(*arguments, **keywords)
    except FuseError as error:
        raise type(error)(f"{name}: {error}, at {line}") from None
    except TypeError as error:
        raise FuseTypeError(f"{name}: {error}, at {line}") from None


def _flattened(result: Any) -> tuple[Sequence[Any], bool]:
    """The outputs, and whether there was one that was no tuple."""
    if isinstance(result, (tuple, list)):
        return result, False
    return [result], True


def trace(
    function: Callable[..., Any], name: str, arguments: dict[str, Any], call: Callable[..., Any]
) -> tuple[Graph, bool]:
    """The graph of a function, and whether it returns one tensor and no tuple.

    `arguments` maps names to `Tensor` and `float`, the types, for tensors and parameters, and to
    any other value for an argument that is part of the function; `call(function, values)` calls
    it with a dictionary of such values.
    """
    tracer = _Tracer()
    inputs = tuple(n for n, kind in arguments.items() if kind is Tensor)
    parameters = tuple(n for n, kind in arguments.items() if kind is float)
    proxies = {n: tracer.create_proxy("placeholder", n, (), {}) for n in (*inputs, *parameters)}
    try:
        result = call(function, arguments | proxies)
    except RecursionError:
        raise FuseValueError(
            f"{name} calls itself without end: a fused function has no branch that could stop it"
        ) from None
    known: dict[torch.fx.Node, Any] = {}
    leaves: Iterator[Expression] = iter(
        [*map(input_named, inputs), *map(parameter_named, parameters)]
    )
    for node in tracer.graph.nodes:
        known[node] = next(leaves) if node.op == "placeholder" else _expression_of(node, known)
    results, single = _flattened(result)
    outputs: list[Expression] = []
    for each in results:
        value = known[each.node] if isinstance(each, torch.fx.Proxy) else each
        if not isinstance(value, Expression):
            raise FuseTypeError(
                f"{name} returns {type(value).__name__}, expected a tensor or a tuple of tensors"
            )
        if value.is_condition:
            raise FuseTypeError(
                f"{name} returns a tensor of bool, for which there is no kernel: "
                "return torch.where(condition, 1.0, 0.0)"
            )
        outputs.append(value)
    graph = Graph(name, inputs, parameters, tuple(outputs))
    if not outputs or not all(graph.used):
        raise FuseTypeError(f"{name} returns a value that depends on none of its tensors")
    return graph, single

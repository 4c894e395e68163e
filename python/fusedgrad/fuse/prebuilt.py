"""Jets that need no compiler: of sigmoid, tanh and a power with a number, of order 1 to 4.

`python -m fusedgrad.fuse.prebuilt` writes what they and their gradients compute as functors, as
`generate.py` does for any other graph, and csrc/cpu and csrc/cuda compile them as they do those
that are written by hand.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fusedgrad import _C
from fusedgrad.fuse import generate, jet, nvrtc
from fusedgrad.fuse.compile import CompilerError, compiler
from fusedgrad.fuse.expression import Expression, apply, make
from fusedgrad.fuse.graph import Graph, input_named, parameter_named

ORDERS = range(1, 5)
OPERATIONS = ("sigmoid", "tanh", "power", "pow_derivative")  # that are these functions


@functools.cache
def _functions() -> dict[str, Graph]:
    x = input_named("x")
    power = make("pow_derivative", x, parameter_named("exponent"), value=(0, 0))
    return {
        "sigmoid": Graph("sigmoid", ("x",), (), (apply("sigmoid", x),)),
        "tanh": Graph("tanh", ("x",), (), (apply("tanh", x),)),
        "pow": Graph("pow", ("x",), ("exponent",), (power,)),
    }


@functools.cache
def _jet(graph: Graph, order: int) -> Graph:
    return jet.jet(graph, order, (tuple(range(1, order + 1)),))


@functools.cache
def _kernels() -> dict[Graph, tuple[str, int]]:
    """Of each graph the function and the number of the kernel among its jets."""
    found: dict[Graph, tuple[str, int]] = {}
    for name, graph in _functions().items():
        for order in ORDERS:
            forward = _jet(graph, order)
            found[forward] = name, 2 * (order - 1)
            found[whole_backward(forward)] = name, 2 * (order - 1) + 1
    return found


def whole_backward(graph: Graph) -> Graph:
    """The gradients of all outputs by all inputs."""
    return graph.pull_back((True,) * len(graph.outputs), (True,) * len(graph.inputs))


def address_of(graph: Graph, wide: bool) -> int | None:
    """Of the prebuilt kernel, None where there is none."""
    known = _kernels().get(graph)
    return None if known is None else _C.jet_blocks(known[0])[known[1]][wide]


def add_for_cuda(graph: Graph, dtypes: Sequence[torch.dtype], used: Sequence[int]) -> int | None:
    """The number of the prebuilt kernel for operands of these dtypes, None where there is none."""
    known = _kernels().get(graph)
    if known is None or any(dtype is not dtypes[0] for dtype in dtypes):
        return None
    return _C.add_cuda_jet(*known, dtypes[0], used, len(graph.parameters))


def is_prebuilt(graph: Graph, tensors: Sequence[Tensor]) -> bool:
    """Whether only the gradients of all outputs by all inputs are a kernel, without a compiler."""
    known = _kernels().get(graph)
    return known is not None and known[1] % 2 == 0 and not _has_compiler(tensors)


def _has_compiler(tensors: Sequence[Tensor]) -> bool:
    """Of kernels for these tensors; or there are none at all for their device."""
    if all(tensor.is_cpu for tensor in tensors):
        return _is_compiler_found(os.environ.get("CXX"), os.environ.get("PATH"))
    return nvrtc.target_of(tensors) is None or nvrtc.is_found()


@functools.cache
def _is_compiler_found(cxx: str | None, path: str | None) -> bool:
    try:
        compiler()
    except CompilerError:
        return False
    return True


def function_of(
    expression: Expression, parameters: dict[str, float], order: int, tensors: Sequence[Tensor]
) -> tuple[Graph, tuple[float, ...]] | None:
    """The graph whose jet of this order is prebuilt, for these tensors, and its parameters.

    None where a compiler makes a better one, or where there is none.
    """
    if order not in ORDERS or expression.operation not in OPERATIONS or _has_compiler(tensors):
        return None
    argument, *rest = expression.arguments
    name, exponent = expression.operation, None
    if name == "power":
        name, exponent = "pow", float(expression.value)
    elif name == "pow_derivative" and expression.value == (0, 0):
        (by,) = rest
        name = "pow"
        exponent = float(by.value) if by.operation == "constant" else parameters.get(by.value)
    if argument.operation != "input" or (name not in ("sigmoid", "tanh") and exponent is None):
        return None
    return _functions()[name], () if exponent is None else (exponent,)


def filled(graph: Graph, order: int, of_orders: Mapping[int, Tensor]) -> tuple[Graph, list[Tensor]]:
    """The jet of one of these graphs, and its operands: zeros where there is no derivative."""
    zero = torch.zeros_like(of_orders[0])
    operands = [of_orders.get(k, zero) for k in range(order + 1)]
    return _jet(graph, order), operands


def _functor(graph: Graph, name: str) -> Sequence[str]:
    comment, template, _, *body = generate._functor(graph, graph.inputs)
    return [comment, template, f"struct {name} {{", *body]


def source() -> str:
    """csrc/math/jets.h, but for its layout."""
    lines = [
        "// Jets of activations, and their gradients, by python -m fusedgrad.fuse.prebuilt.",
        "#pragma once",
        "",
        *sorted({line for graph in _kernels() for line in generate._headers(graph)}),
        "",
        "namespace fusedgrad::math {",
        "",
    ]
    for graph, (name, number) in _kernels().items():
        what = "JetBackward" if number % 2 else "Jet"
        lines += [*_functor(graph, f"{name.capitalize()}{what}{number // 2 + 1}"), ""]
    return generate._text([*lines, "}  // namespace fusedgrad::math"])


if __name__ == "__main__":
    print(source(), end="")

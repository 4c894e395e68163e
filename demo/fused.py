"""The notebook's functions by `fusedgrad.fuse`, generated code, and demo_graph.png."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from torch import Tensor

import fusedgrad
from fusedgrad.fuse.expression import Expression, in_order
from fusedgrad.fuse.function import Fused
from fusedgrad.fuse.graph import Graph

VALUE_COLOUR = "#00798c"
DERIVATIVE_COLOUR = "#d1495b"
SIGNS = {"add": "+", "subtract": "−", "multiply": "×", "divide": "÷", "negate": "−"}


@fusedgrad.fuse
def one_variable(x: Tensor) -> Tensor:
    return fusedgrad.sigmoid(x**2) + fusedgrad.tanh(x**3)


@fusedgrad.fuse
def two_variables(x: Tensor, z: Tensor) -> Tensor:
    return fusedgrad.sigmoid(x**2 + z) + fusedgrad.tanh(x**3 * z**2)


@fusedgrad.fuse
def skip_connection(x: Tensor) -> Tensor:
    return fusedgrad.tanh(x + fusedgrad.sigmoid(x**2))


# At the points of the notebook
FUNCTIONS: list[tuple[Fused, tuple[float, ...]]] = [
    (one_variable, (3.0,)),
    (two_variables, (3.0, 2.0)),
    (skip_connection, (3.0,)),
]


def derivative_graph(function: Fused) -> Graph:
    """The value and every partial derivative."""
    return function._example().value_and_grad()


def label(expression: Expression) -> str:
    """What stands in a node of the picture."""
    if expression.operation in ("input", "parameter"):
        return str(expression.value)
    if expression.operation == "constant":
        return f"{expression.value:g}"
    if expression.operation == "power":
        return f"( )^{expression.value:g}"
    name = SIGNS.get(expression.operation, expression.operation)
    return name.replace("_derivative", "′")


@dataclass(frozen=True)
class Layout:
    """Where the nodes of a graph are drawn: a node stands above all that it is made of."""

    places: dict[Expression, tuple[float, float]]
    of_value: set[Expression]

    @classmethod
    def of(cls, graph: Graph, outputs: int) -> Layout:
        """`outputs` of the graph's outputs are values, and the others derivatives."""
        order = in_order(graph.outputs)
        of_value = set(in_order(graph.outputs[:outputs]))
        level: dict[Expression, int] = {}
        rows: dict[int, list[Expression]] = {}
        for expression in order:
            above = [level[argument] + 1 for argument in expression.arguments]
            level[expression] = max(above, default=0)
            rows.setdefault(level[expression], []).append(expression)
        places: dict[Expression, tuple[float, float]] = {}
        for height, row in sorted(rows.items()):

            def mean(expression: Expression) -> float:
                below = [places[a][0] for a in expression.arguments if a in places]
                return sum(below) / len(below) if below else 0.0

            # Values to the left, derivatives to the right, each above what it is made of
            ordered = sorted(row, key=lambda e: (e not in of_value, mean(e)))
            for i, expression in enumerate(ordered):
                places[expression] = ((i + 0.5) / len(ordered), float(height))
        return cls(places, of_value)


def draw_graph(axes: Axes, function: Fused) -> None:
    """The expression of a function in one colour, and what its derivatives add in another."""
    graph = derivative_graph(function)
    outputs = len(function._example().outputs)
    layout = Layout.of(graph, outputs)
    for expression, (x, y) in layout.places.items():
        for argument in expression.arguments:
            axes.annotate(
                "",
                (x, y),
                layout.places[argument],
                arrowprops={"arrowstyle": "-|>", "color": "#bbbbbb", "shrinkA": 9, "shrinkB": 9},
            )
    for expression, (x, y) in layout.places.items():
        colour = VALUE_COLOUR if expression in layout.of_value else DERIVATIVE_COLOUR
        axes.text(
            *(x, y, label(expression)),
            ha="center",
            va="center",
            size=9,
            color="white",
            bbox={"boxstyle": "round,pad=0.35", "facecolor": colour, "edgecolor": "none"},
        )
    names = [function._example().name] * outputs + [f"∂/∂{name}" for name in graph.inputs]
    for name, output in zip(names, graph.outputs, strict=True):
        x, y = layout.places[output]
        axes.text(x, y + 0.35, name, ha="center", va="bottom", size=9, weight="bold")
    heights = [y for _, y in layout.places.values()]
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.6, max(heights) + 0.9)
    axes.set_axis_off()


def draw(path: Path) -> None:
    """Writes the picture: the three functions side by side."""
    figure, panels = plt.subplots(
        1, 3, figsize=(17, 8), layout="constrained", width_ratios=[3, 5, 3]
    )
    for axes, (function, _) in zip(panels, FUNCTIONS, strict=True):
        draw_graph(axes, function)
        text = str(function).split(" = ", 1)[1]
        axes.set_title(text.replace(" ** ", "^"), size=10)
    figure.suptitle("An expression (blue) and what its exact derivatives add to it (red)", size=14)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def show() -> None:
    """Prints value, partial derivatives and, of one function, the generated code."""
    print("The notebook's functions by fusedgrad.fuse: one kernel for the value and all partials")
    print(f"{'':>56}{'float32':>16}{'float64':>26}")
    for function, point in FUNCTIONS:
        print(function)
        results: list[list[float]] = []
        for dtype in (torch.float32, torch.float64):
            arguments = [torch.tensor(number, dtype=dtype) for number in point]
            value, grads = function.value_and_grad(*arguments)
            results.append([result.item() for result in (value, *grads)])
        names = function._example().inputs
        at = ", ".join(f"{name} = {number:g}" for name, number in zip(names, point, strict=True))
        labels = [f"value at {at}", *(f"∂/∂{name}" for name in names)]
        for name, narrow, wide in zip(labels, *results, strict=True):
            print(f"{name:>56}{narrow:>16.8g}{wide:>26.16g}")
    print("\nThe generated functor of its value and gradients:")
    source = two_variables.source("cpu", gradients=True)
    begin, end = source.index("template <class T>"), source.index("}  // namespace\n")
    print(textwrap.indent(source[begin:end].rstrip(), "  "))

"""accuracy.png: the largest error in ULP in each of many intervals of x, for each library."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks.accuracy_errors import Inputs, compare
from benchmarks.accuracy_libraries import LOSS, UNARY, Function, Library, libraries, pow_functions

INTERVALS = 240
POINTS = 256  # in each interval
COLUMNS = 3
COLOURS = {"fusedgrad": "#00798c", "torch": "#d1495b", "NumPy, SciPy": "#66a182", "JAX": "#edae49"}
LEAST = 0.1  # ULP, drawn for less


@dataclass(frozen=True)
class Panel:
    """A function over the intervals between two numbers."""

    title: str
    function: Function
    first: float
    last: float
    parameter: float = 0.0


PANELS = (
    *(Panel(function.title, function, -110, 110) for function in UNARY[:3]),
    *(Panel(function.title, function, -55, 55) for function in UNARY[3:]),
    *(
        Panel(f"{f.title}, target {t:g}", f, -110, 110, t)
        for f, t in zip(LOSS, (0, 1), strict=True)
    ),
    Panel(pow_functions(2.5)[1].title, pow_functions(2.5)[1], 0, 20, 2.5),
)


def points(panel: Panel, interval: int) -> Inputs:
    """Random numbers of one interval, always the same."""
    generator = torch.Generator().manual_seed(interval)
    width = (panel.last - panel.first) / INTERVALS
    x = panel.first + width * (interval + torch.rand(POINTS, generator=generator))
    return x, torch.full_like(x, panel.parameter)


def largest_errors(panel: Panel, library: Library) -> list[float]:
    return [
        compare(panel.function, library, partial(points, panel, interval)).largest
        for interval in range(INTERVALS)
    ]


def draw_panel(axes: Axes, panel: Panel, compared: Sequence[Library]) -> None:
    edges = np.linspace(panel.first, panel.last, INTERVALS + 1)
    for library in reversed(compared):  # fusedgrad above the others
        if library.computes(panel.function, torch.float32):
            errors = np.maximum(largest_errors(panel, library), LEAST)
            axes.stairs(
                errors, edges, baseline=None, color=COLOURS[library.name], label=library.name
            )
    axes.axhline(0.5, color="black", linewidth=1, linestyle=(0, (4, 3)))
    axes.set_yscale("log")
    axes.set_ylim(LEAST, 1e8)
    axes.set_xlim(panel.first, panel.last)
    axes.set_title(panel.title, loc="left", weight="bold")
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def draw(path: Path) -> None:
    rows = -(-len(PANELS) // COLUMNS)
    figure, grid = plt.subplots(
        rows, COLUMNS, figsize=(5 * COLUMNS, 3.2 * rows + 0.6), layout="constrained"
    )
    for axes, panel in zip(grid.flat, PANELS, strict=True):
        draw_panel(axes, panel, libraries())
    for axes in grid[:, 0]:
        axes.set_ylabel("ULP")
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(
        f"Largest error in each of {INTERVALS} intervals of x, float32 "
        "(dashed: a correctly rounded result; 1.7e7: the answer is 0)",
        size=12,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)

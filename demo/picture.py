"""demo.png: the relative error of sigmoid' and tanh' against x, for torch and fusedgrad."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from benchmarks.contenders import FUSEDGRAD, TORCH, Contender

COLOURS = {"torch": "#d1495b", "fusedgrad": "#00798c"}
MARKER_SIZES = {torch.float32: 2.0, torch.bfloat16: 3.5}  # bfloat16 has few numbers to draw
POINTS = 12_001

Function = Callable[[torch.Tensor], torch.Tensor]


def sigmoid_derivative(x: torch.Tensor) -> torch.Tensor:
    """exp(-|x|) / (1 + exp(-|x|))^2: nothing cancels."""
    a = torch.exp(-x.abs())
    return a / (1 + a) ** 2


def tanh_derivative(x: torch.Tensor) -> torch.Tensor:
    return 4 * sigmoid_derivative(2 * x)


EXACT: dict[str, Function] = {"sigmoid": sigmoid_derivative, "tanh": tanh_derivative}
LARGEST_X = {
    ("sigmoid", torch.float32): 24.0,
    ("tanh", torch.float32): 12.0,
    ("sigmoid", torch.bfloat16): 12.0,
    ("tanh", torch.bfloat16): 6.0,
}


def relative_error(
    library: Contender, name: str, dtype: torch.dtype, x: torch.Tensor
) -> torch.Tensor:
    """Error of the library's derivative at x, relative to the same derivative in float64."""
    x = x.to(dtype).requires_grad_()
    y = getattr(library, name)(x)
    (got,) = torch.autograd.grad(y, x, torch.ones_like(y))
    exact = EXACT[name](x.detach().double())
    return ((got.double() - exact) / exact).abs()


def draw_panel(axes: Axes, name: str, dtype: torch.dtype) -> None:
    """One panel: both libraries' errors for one function in one dtype."""
    largest = LARGEST_X[name, dtype]
    rounding = torch.finfo(dtype).eps / 2
    bottom = rounding / 100
    x = torch.from_numpy(np.unique(torch.linspace(-largest, largest, POINTS).to(dtype).double()))
    for library in (TORCH, FUSEDGRAD):
        axes.plot(
            x,
            relative_error(library, name, dtype, x).clamp(min=bottom),
            linestyle="",
            marker="o",
            markersize=MARKER_SIZES[dtype],
            markeredgewidth=0,
            alpha=0.5,
            color=COLOURS[library.name],
            label=library.name,
        )
    axes.axhline(rounding, color="black", linewidth=1, linestyle=(0, (4, 3)))
    axes.set_yscale("log")
    axes.set_xlim(-largest, largest)
    axes.set_ylim(bottom, 8)
    axes.set_title(f"{name}′ in {str(dtype).removeprefix('torch.')}", loc="left", weight="bold")
    axes.annotate(
        "1: the answer is 0", (0, 1), xytext=(0, 3), textcoords="offset points", ha="center"
    )
    axes.axhline(1, color="#999999", linewidth=0.8, zorder=1)
    axes.grid(True, which="major", color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def draw(path: Path) -> None:
    """Writes the picture: a row for each dtype, a column for each function."""
    dtypes = (torch.float32, torch.bfloat16)
    figure, panels = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    for row, dtype in zip(panels, dtypes, strict=True):
        for axes, name in zip(row, EXACT, strict=True):
            draw_panel(axes, name, dtype)
        row[0].set_ylabel("relative error")
    for axes in panels[1]:
        axes.set_xlabel("x")
    figure.suptitle("Relative error of the derivative that autograd returns", size=15)
    handles = [
        Line2D([], [], linestyle="", marker="o", color=colour, label=library)
        for library, colour in COLOURS.items()
    ]
    handles.append(
        Line2D([], [], color="black", linestyle=(0, (4, 3)), label="largest error of one rounding")
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)

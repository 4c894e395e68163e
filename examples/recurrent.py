"""A gated recurrent network in bfloat16 on scikit-learn's digits, read row by row.

`python examples/recurrent.py` trains it from the same start with PyTorch's operations, with
fusedgrad's, and with the whole cell fused, compares the first gradients of each with those in
float64, and draws recurrent.png.

The cell is h' = n + z (h - n), z = sigmoid(.), n = tanh(. + sigmoid(.) .) (Cho et al. 2014,
arXiv:1406.1078; in the form of torch.nn.GRU). It starts in two ways: with PyTorch's own biases, and
with z saturated, as it is when a cell is told to remember for long (Tallec and Ollivier 2018,
arXiv:1804.11188): sigmoid(8) rounds to 1 in bfloat16, and PyTorch, which computes the derivative
from that 1, gets 0. In both libraries the state then rounds to 0, but not in the fused cell, which
rounds once, at its end. A cell written with 1 - z = sigmoid(-.) keeps its digits in PyTorch too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

import fusedgrad

PICTURE = Path(__file__).resolve().parent.parent / "recurrent.png"
COLOURS = {"torch": "#d1495b", "fusedgrad": "#00798c", "fusedgrad.fuse": "#edae49"}
HIDDEN = 64
BATCH = 256
STEPS = 150
SEEDS = (0, 1, 2)
TRAINED_ON = 1400  # of 1797 images
SATURATIONS = (0.0, 8.0)
QUANTILES = (0.1, 0.5, 0.9)

Cell = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Any]


def torchs_cell(r: Tensor, z: Tensor, n: Tensor, nh: Tensor, h: Tensor) -> Tensor:
    """The next state from what enters the gates, PyTorch's own way."""
    new = torch.tanh(n + torch.sigmoid(r) * nh)
    return new + torch.sigmoid(z) * (h - new)


def cell(r: Tensor, z: Tensor, n: Tensor, nh: Tensor, h: Tensor) -> Any:
    """The same on fusedgrad."""
    new = fusedgrad.tanh(n + fusedgrad.sigmoid(r) * nh)
    return new + fusedgrad.sigmoid(z) * (h - new)


CELLS: dict[str, Cell] = {
    "torch": torchs_cell,
    "fusedgrad": cell,
    "fusedgrad.fuse": fusedgrad.fuse(cell),
}


class Network(torch.nn.Module):
    """Ten logits of an image [N, 8, 8], whose rows are the steps of a sequence.

    The parameters are float32 (or float64) and are rounded to `dtype` in each forward pass, as
    mixed-precision training does. The bias of z is raised by `saturation`.
    """

    def __init__(self, cell: Cell, saturation: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.cell = cell
        self.dtype = dtype
        self.of_row = torch.nn.Linear(8, 3 * HIDDEN)
        self.of_state = torch.nn.Linear(HIDDEN, 3 * HIDDEN)
        self.head = torch.nn.Linear(HIDDEN, 10)
        with torch.no_grad():
            self.of_row.bias[HIDDEN : 2 * HIDDEN] += saturation

    def forward(self, images: Tensor) -> Tensor:
        def linear(layer: torch.nn.Linear, x: Tensor) -> Tensor:
            return F.linear(x, layer.weight.to(self.dtype), layer.bias.to(self.dtype))

        images = images.to(self.dtype)
        h = images.new_zeros(len(images), HIDDEN)
        for row in images.unbind(1):
            r, z, n = linear(self.of_row, row).chunk(3, 1)
            rh, zh, nh = linear(self.of_state, h).chunk(3, 1)
            h = self.cell(r + rh, z + zh, n, nh, h)
        return linear(self.head, h)


def digits() -> tuple[Tensor, Tensor]:
    """Images [1797, 8, 8] with values in [0, 1], float32, and labels [1797]."""
    data = load_digits()
    return torch.from_numpy(data.images).float() / 16, torch.from_numpy(data.target)


def gradient(name: str, saturation: float, dtype: torch.dtype) -> Tensor:
    """The gradient of the cross-entropy by all parameters at the start, float64."""
    images, labels = digits()
    torch.manual_seed(SEEDS[0])
    network = Network(CELLS[name], saturation, dtype)
    if dtype is torch.float64:
        network.double()
    loss = F.cross_entropy(network(images).double(), labels)
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    return torch.cat([g.double().flatten() for g in gradients])


@dataclass(frozen=True)
class Curve:
    """A training: the loss of each step's batch, and the share of unseen images got right."""

    losses: Tensor
    accuracy: float


def train(name: str, saturation: float, seed: int, steps: int = STEPS) -> Curve:
    """Trains with Adam in bfloat16; a seed gives every cell the same start and batches."""
    images, labels = digits()
    torch.manual_seed(seed)
    network = Network(CELLS[name], saturation, torch.bfloat16)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    losses = []
    for _ in range(steps):
        batch = torch.randint(TRAINED_ON, (BATCH,))
        loss = F.cross_entropy(network(images[batch]).float(), labels[batch])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        guessed = network(images[TRAINED_ON:]).argmax(1)
    accuracy = (guessed == labels[TRAINED_ON:]).double().mean().item()
    return Curve(torch.tensor(losses), accuracy)


def relative_errors(saturation: float) -> dict[str, Tensor]:
    """For each cell the error of every component of the gradient, relative to float64's."""
    exact = gradient("fusedgrad", saturation, torch.float64)
    seen = exact != 0
    return {
        name: ((gradient(name, saturation, torch.bfloat16) - exact)[seen] / exact[seen]).abs()
        for name in CELLS
    }


def show_gradients(errors: dict[float, dict[str, Tensor]]) -> None:
    print("Gradients in bfloat16 at the start: error of a component relative to float64's")
    print(f"{'bias of z':>10}  {'':16}" + "".join(f"{f'{q:.0%} below':>12}" for q in QUANTILES))
    for saturation, by_cell in errors.items():
        for name, error in by_cell.items():
            values = error.quantile(torch.tensor(QUANTILES, dtype=torch.float64)).tolist()
            print(f"{saturation:>+10g}  {name:16}" + "".join(f"{v:>12.3g}" for v in values))


def show_curves(curves: dict[float, dict[str, list[Curve]]]) -> None:
    print(f"\nAfter {STEPS} steps of Adam in bfloat16, for seeds {', '.join(map(str, SEEDS))}:")
    print(f"{'bias of z':>10}  {'':16}{'mean loss of the last 10 steps':>34}{'unseen images':>28}")
    for saturation, by_cell in curves.items():
        for name, seeds in by_cell.items():
            losses = "  ".join(f"{curve.losses[-10:].mean():.4f}" for curve in seeds)
            right = "  ".join(f"{curve.accuracy:.1%}" for curve in seeds)
            print(f"{saturation:>+10g}  {name:16}{losses:>34}{right:>28}")


def draw(
    path: Path,
    errors: dict[float, dict[str, Tensor]],
    curves: dict[float, dict[str, list[Curve]]],
) -> None:
    """Writes the picture: the trainings above, the errors of the first gradients below."""
    figure, panels = plt.subplots(2, len(curves), figsize=(11, 7.5), layout="constrained")
    for column, saturation in enumerate(curves):
        above, below = panels[0][column], panels[1][column]
        for name, colour in COLOURS.items():
            # fuse lies on fusedgrad's line in places; dashes let both be seen.
            style = "--" if name == "fusedgrad.fuse" else "-"
            for seed, curve in enumerate(curves[saturation][name]):
                label = name if seed == 0 else None
                above.plot(curve.losses, style, color=colour, linewidth=1, label=label)
            error = errors[saturation][name].clamp(1e-5, 10).sort().values
            below.plot(error, torch.linspace(0, 1, len(error)), style, color=colour, label=name)
        start = "PyTorch's biases" if saturation == 0 else f"the bias of z raised by {saturation:g}"
        above.set_title(start, loc="left", weight="bold")
        above.set_xlabel("step")
        below.set_xscale("log")
        below.set_xlabel("relative error of the gradient (1: it is 0)")
        above.legend(frameon=False)
    panels[0][0].set_ylabel("cross-entropy")
    panels[1][0].set_ylabel("share of components below")
    for axes in panels.flat:
        axes.grid(True, color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("A gated recurrent network in bfloat16, three seeds", size=14)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    torch.set_num_threads(1)  # the matrices are small
    errors = {saturation: relative_errors(saturation) for saturation in SATURATIONS}
    show_gradients(errors)
    curves = {
        saturation: {name: [train(name, saturation, seed) for seed in SEEDS] for name in CELLS}
        for saturation in SATURATIONS
    }
    show_curves(curves)
    draw(PICTURE, errors, curves)
    print(f"\npicture: {PICTURE}")


if __name__ == "__main__":
    main()

"""Two differential equations solved by networks that are trained on their own derivatives.

`python examples/differential_equations.py` trains each network twice from the same start on the
same points: with the derivatives that `fusedgrad.derivatives` and `fusedgrad.laplacian` give in one
pass, and with nested `torch.autograd.grad`. The losses agree to rounding; the times do not.

- A beam on two supports under a load (Euler and Bernoulli): u'''' = pi^4 sin(pi x) on [0, 1], with
  u = u'' = 0 at both ends, whose deflection is sin(pi x).
- Poisson's equation in ten dimensions: the Laplacian of u is that of the mean of the squares of the
  coordinates, 2, in the unit cube, with u given on its faces.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import pi
from pathlib import Path
from time import perf_counter

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import fusedgrad

PICTURES = Path(__file__).resolve().parent.parent / "build"
AGREEMENT = 1e-6  # of the losses of both ways, relative, over the first steps
STEPS = {"beam": 300, "poisson": 150}
DIMENSIONS = 10
COLOURS = {"fusedgrad": "#00798c", "nested autograd": "#d1495b"}


def network(inputs: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(inputs, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1)
    ).double()


# ---------------------------------------------------------------------------------------- the beam


def in_one_pass(model: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    return fusedgrad.derivatives(model, x, torch.ones_like(x), 4)


def nested(model: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    x = x.requires_grad_()
    found = [model(x)]
    for _ in range(4):
        found += torch.autograd.grad(found[-1].sum(), x, create_graph=True)
    return tuple(found)


def beam_loss(derivatives: Callable[..., tuple[Tensor, ...]], model: nn.Module) -> Tensor:
    """Of 100 points, the ends of the beam the first and the last of them."""
    x = torch.linspace(0, 1, 100, dtype=torch.float64)[:, None]
    u, _, second, _, fourth = derivatives(model, x)
    load = torch.sin(pi * x)
    ends = torch.cat([u[[0, -1]], second[[0, -1]] / pi**2])
    return ((fourth / pi**4 - load) ** 2).mean() + 10 * (ends**2).sum()


# ---------------------------------------------------------------------------------------- Poisson


def laplacian_in_one_pass(model: nn.Module, x: Tensor) -> Tensor:
    return fusedgrad.laplacian(model)(x).laplacian


def laplacian_nested(model: nn.Module, x: Tensor) -> Tensor:
    x = x.requires_grad_()
    (slopes,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    total = torch.zeros(len(x), dtype=x.dtype)
    for i in range(x.shape[1]):
        (second,) = torch.autograd.grad(slopes[:, i].sum(), x, create_graph=True)
        total = total + second[:, i]
    return total[:, None]


def solution(x: Tensor) -> Tensor:
    return x.square().mean(1, keepdim=True)


def poisson_loss(laplacian: Callable[..., Tensor], model: nn.Module) -> Tensor:
    """Of 100 points within the cube and 100 on its faces."""
    x, y = torch.rand(2, 100, DIMENSIONS, dtype=torch.float64)
    face = torch.randint(DIMENSIONS, (100, 1))
    y = y.scatter(1, face, torch.randint(2, (100, 1)).double())
    inside = laplacian(model, x) - 2
    return (inside**2).mean() + 10 * ((model(y) - solution(y)) ** 2).mean()  # type: ignore[no-any-return]


# ---------------------------------------------------------------------------------------- training


@dataclass(frozen=True)
class Training:
    """The loss of each step, the seconds of all, and the network."""

    losses: Tensor
    seconds: float
    model: nn.Module


EQUATIONS: dict[str, tuple[Callable[..., Tensor], int, dict[str, Callable[..., object]]]] = {
    "beam": (beam_loss, 1, {"fusedgrad": in_one_pass, "nested autograd": nested}),
    "poisson": (
        poisson_loss,
        DIMENSIONS,
        {"fusedgrad": laplacian_in_one_pass, "nested autograd": laplacian_nested},
    ),
}


def train(equation: str, way: str, steps: int) -> Training:
    """Trains with Adam; both ways have the same start and the same points."""
    loss_of, inputs, ways = EQUATIONS[equation]
    model = network(inputs)
    torch.autograd.backward(loss_of(ways[way], model))  # compiles, which is not timed
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    torch.manual_seed(1)
    losses = []
    start = perf_counter()
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(ways[way], model)
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    return Training(torch.tensor(losses, dtype=torch.float64), perf_counter() - start, model)


def compare(equation: str, steps: int) -> dict[str, Training]:
    """Trains both ways.

    Raises RuntimeError if their losses do not agree over the first steps, or the loss stays.
    """
    trainings = {way: train(equation, way, steps) for way in COLOURS}
    ours, theirs = (trainings[way].losses for way in COLOURS)
    first = slice(0, 20)  # a difference of rounding grows with the steps, as it would for any two
    apart = ((ours - theirs).abs() / theirs)[first].max().item()
    if not apart < AGREEMENT:
        raise RuntimeError(f"{equation}: the losses are {apart:.1e} apart, relative")
    if not ours[-1] < ours[0]:
        raise RuntimeError(f"{equation}: the loss has not fallen: {ours[0]:.3g}, {ours[-1]:.3g}")
    print(f"{equation}: losses of both ways over the first steps agree to {apart:.0e}")
    for way, training in trainings.items():
        time = 1e3 * training.seconds / steps
        print(f"{'':4}{way:18}{time:8.2f} ms a step, loss {training.losses[-1]:.3e}")
    return trainings


def draw(path: Path, equation: str, trainings: dict[str, Training]) -> None:
    """Writes the picture: the losses by time, and the solution beside the exact one."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for way, training in trainings.items():
        times = torch.linspace(0, training.seconds, len(training.losses))
        left.plot(times, training.losses, color=COLOURS[way], label=way)
    left.set_yscale("log")
    left.set_xlabel("seconds")
    left.set_ylabel("loss")
    left.legend(frameon=False)
    model = trainings["fusedgrad"].model
    with torch.no_grad():
        if equation == "beam":
            x = torch.linspace(0, 1, 200, dtype=torch.float64)[:, None]
            right.plot(x, torch.sin(pi * x), color="#999999", label="exact")
            right.plot(x, model(x), "--", color=COLOURS["fusedgrad"], label="network")
            right.set_xlabel("position")
            right.set_ylabel("deflection")
        else:
            x = torch.rand(300, DIMENSIONS, dtype=torch.float64)
            right.plot([0, 0.7], [0, 0.7], color="#999999", label="exact")
            right.plot(solution(x), model(x), ".", color=COLOURS["fusedgrad"], label="network")
            right.set_xlabel("exact solution at random points")
            right.set_ylabel("network")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.grid(True, color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    torch.set_num_threads(1)  # the matrices are small
    for equation, steps in STEPS.items():
        trainings = compare(equation, steps)
        path = PICTURES / f"{equation}.png"
        draw(path, equation, trainings)
        print(f"{'':4}picture: {path}")


if __name__ == "__main__":
    main()

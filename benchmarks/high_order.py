"""`python -m benchmarks.high_order`: nested derivatives, as a physics-informed network takes them.

A function is differentiated by its input 1 to 4 times, each derivative of the last one with
`create_graph`, and then the mean square of what came out is differentiated by everything, as a
step of training does. The functions on fusedgrad, torch and `fusedgrad.fuse` run in turns in one
process; what counts are ratios of their times. --write puts the table into docs/speed.md, --quick
measures little.
"""

import argparse
import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn

import fusedgrad
from benchmarks.report import DOCS, conditions, machine, markdown, write_between_markers
from benchmarks.timing import Call, Spread, interleave, ratios

Function = Callable[[Tensor], Tensor]

ORDERS = (1, 2, 3, 4)
POINTS = (200, 5000)
THREADS = (1, 2)
WIDTH = 32
RIVALS = ("fusedgrad", "fuse")

_fused_tanh = fusedgrad.fuse(lambda x: fusedgrad.tanh(x))
FUNCTIONS: dict[str, dict[str, Function]] = {
    "sigmoid": {
        "torch": torch.sigmoid,
        "fusedgrad": fusedgrad.sigmoid,
        "fuse": fusedgrad.fuse(lambda x: fusedgrad.sigmoid(x)),
    },
    "tanh": {"torch": torch.tanh, "fusedgrad": fusedgrad.tanh, "fuse": _fused_tanh},
    "pow(x, 3.5)": {
        "torch": lambda x: torch.pow(x, 3.5),
        "fusedgrad": lambda x: fusedgrad.pow(x, 3.5),
        "fuse": fusedgrad.fuse(lambda x: fusedgrad.pow(x, 3.5)),
    },
}


class _Activation(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def network(activation: Function) -> Function:
    """Three layers of tanh, the same numbers for each contender."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs in (1, WIDTH, WIDTH):
        layers += [nn.Linear(inputs, WIDTH), _Activation(activation)]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 1))


def step(function: Function, order: int, x: Tensor) -> None:
    """The derivative of an order, and the gradient of its mean square."""
    u = function(x)
    for _ in range(order):
        (u,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    torch.autograd.backward(u.pow(2).mean())


def contenders(name: str) -> Mapping[str, Function]:
    """The function on each library."""
    if name != "network":
        return FUNCTIONS[name]
    return {library: network(tanh) for library, tanh in FUNCTIONS["tanh"].items()}


def measure(name: str, points: int, order: int, budget: float) -> dict[str, Spread]:
    """The times of fusedgrad and of fuse over those of torch."""
    x = torch.linspace(0.1, 1, points)[:, None].requires_grad_()
    calls: dict[str, Call] = {
        library: partial(step, function, order, x) for library, function in contenders(name).items()
    }
    samples = interleave(calls, budget=budget)
    return {rival: Spread.of(ratios(samples, rival, "torch")) for rival in RIVALS}


def rows(budget: float) -> Iterator[list[str]]:
    """The lines of the table."""
    for name, points in itertools.product((*FUNCTIONS, "network"), POINTS):
        cells = []
        for threads, order in itertools.product(THREADS, ORDERS):
            torch.set_num_threads(threads)
            measured = measure(name, points, order, budget)
            cells.append(" / ".join(f"{measured[rival].median:.2f}" for rival in RIVALS))
        yield [name, f"{points:,}", *cells]


def main() -> None:
    """Prints the table, and writes it where --write asks for it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the table into docs/speed.md")
    parser.add_argument("--quick", action="store_true", help="few rounds")
    options = parser.parse_args()
    columns = [f"{t} thread{'s' * (t > 1)}, order {o}" for t in THREADS for o in ORDERS]
    heading = ["function", "points", *columns]
    table = markdown(heading, rows(budget=0.1 if options.quick else 1.0), left=2)
    text = f"Measured on {conditions(machine())}.\n\n{table}"
    print(text)
    if options.write:
        write_between_markers("high-order", text, DOCS / "speed.md")


if __name__ == "__main__":
    main()

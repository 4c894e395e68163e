"""`python -m benchmarks.calls`: what a call of a fused function costs, on one element.

There is next to nothing to compute, so that what is timed is finding the kernel, starting it and
recording it for autograd: beside the plain function, whose calls into PyTorch cost the same, in
turns with it in one process. --write puts the table into docs/speed.md, --quick measures little.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import fusedgrad
from benchmarks.report import DOCS, conditions, machine, markdown, write_between_markers
from benchmarks.timing import Call, Spread, interleave, ratios

Function = Callable[..., Tensor]

OBJECT_SIZE = 10**6


def two_variables(x: Tensor, z: Tensor) -> Tensor:
    return torch.sigmoid(x**2 + z) + torch.tanh(x**3 * z**2)


def with_default(x: Tensor, beta: float = 1.5) -> Tensor:
    return x * torch.sigmoid(beta * x)


def ten_operations(x: Tensor) -> Tensor:
    x = torch.tanh(x * 1.5)
    x = torch.sigmoid(x + 0.5)
    x = torch.exp(x - 1)
    x = torch.tanh(x * x)
    return x / (1 + x)


class Holder:
    """A callable object with much in it that the call never reads."""

    def __init__(self) -> None:
        self.beta = 1.5
        self.much = list(range(OBJECT_SIZE))

    def __call__(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.beta * x)


_calls: list[None] = []


def run_again(x: Tensor) -> Tensor:
    """The ten operations, and an effect: its Python runs in every call."""
    _calls.append(None)
    _calls.clear()
    return ten_operations(x)


# What it is called: the plain function, its arguments besides tensors, how many tensors
KINDS: Mapping[str, tuple[Function, Mapping[str, float], int]] = {
    "silu": (F.silu, {}, 1),
    "sigmoid(x² + z) + tanh(x³ z²)": (two_variables, {}, 2),
    "x sigmoid(β x), β by default": (with_default, {}, 1),
    "x sigmoid(β x), β by keyword": (with_default, {"beta": 1.5}, 1),
    f"the same, of an object that holds {OBJECT_SIZE:,} others": (Holder(), {}, 1),
    "ten operations": (ten_operations, {}, 1),
    "ten operations that run again": (run_again, {}, 1),
}


def backward(function: Function, *inputs: Tensor, **numbers: float) -> None:
    torch.autograd.grad(function(*inputs, **numbers), inputs)


def measure(kind: str, differentiated: bool, budget: float) -> tuple[Spread, Spread]:
    """The seconds of a fused call, and how many times longer the plain one takes."""
    plain, numbers, count = KINDS[kind]
    fused = fusedgrad.activations.silu if plain is F.silu else fusedgrad.fuse(plain)
    inputs = [torch.full((1,), 0.5, requires_grad=True) for _ in range(count)]
    calls: dict[str, Call] = {
        name: partial(backward, function, *inputs, **numbers)
        if differentiated
        else partial(function, *inputs, **numbers)
        for name, function in (("fused", fused), ("plain", plain))
    }
    for call in calls.values():  # compiled, and compiled again for the numbers that vary
        call()
        call()
    samples = interleave(calls, budget=budget)
    return Spread.of(samples["fused"]), Spread.of(ratios(samples, "plain", "fused"))


def rows(budget: float) -> Iterator[list[str]]:
    """The lines of the table."""
    for kind in KINDS:
        cells = []
        for differentiated in (False, True):
            seconds, ratio = measure(kind, differentiated, budget)
            cells += [f"{seconds.median * 1e6:.1f} µs", f"{ratio.median:.2f}"]
        yield [kind, *cells]


def main() -> None:
    """Prints the table, and writes it where --write asks for it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the table into docs/speed.md")
    parser.add_argument("--quick", action="store_true", help="few rounds")
    options = parser.parse_args()
    torch.set_num_threads(1)
    heading = ["function", "forward", "eager / fused", "forward + backward", "eager / fused"]
    table = markdown(heading, rows(budget=0.1 if options.quick else 2.0))
    text = f"Measured on {conditions(machine())}.\n\n{table}"
    print(text)
    if options.write:
        write_between_markers("calls", text, DOCS / "speed.md")


if __name__ == "__main__":
    main()

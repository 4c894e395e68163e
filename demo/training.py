"""A training on scikit-learn's breast cancer data (569 samples, 30 features).

A small gated network in bfloat16 starts twice from the same weights, with each library's
derivatives.
"""

from typing import NamedTuple

import torch

from benchmarks.contenders import FUSEDGRAD, TORCH, Contender
from examples.logistic_regression import breast_cancer

HIDDEN = 32
STEPS = 200
SEED = 0


class Progress(NamedTuple):
    """One point of a training curve, over the whole data set."""

    step: int
    loss: float
    accuracy: float


class GatedNetwork(torch.nn.Module):
    """logit = v . (sigmoid(W x + b) * tanh(U x + c)) + d, computed in bfloat16.

    The parameters are float32 and are rounded to bfloat16 in each forward pass, as mixed-precision
    training does. Every b starts at `saturation`, every c at `saturation` or its negative by turns;
    at 8 all sigmoids and tanhs start where bfloat16 rounds them to 1 and -1.
    """

    def __init__(self, library: Contender, features: int, saturation: float) -> None:
        super().__init__()
        self.library = library
        self.gate = torch.nn.Linear(features, HIDDEN)
        self.value = torch.nn.Linear(features, HIDDEN)
        self.head = torch.nn.Linear(HIDDEN, 1)
        signs = torch.tensor([1.0, -1.0]).repeat(HIDDEN // 2)
        with torch.no_grad():
            self.gate.bias.fill_(saturation)
            self.value.bias.copy_(saturation * signs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def linear(layer: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.linear(x, layer.weight.bfloat16(), layer.bias.bfloat16())

        gate = self.library.sigmoid(linear(self.gate, x))
        value = self.library.tanh(linear(self.value, x))
        return linear(self.head, gate * value).squeeze(-1)


def train_gated_network(
    library: Contender, saturation: float, steps: int = STEPS
) -> list[Progress]:
    """Trains with Adam on all samples at once; the same seed gives every library the same start."""
    features, labels = breast_cancer()
    x, y = features.bfloat16(), labels.bfloat16()
    torch.manual_seed(SEED)
    network = GatedNetwork(library, x.shape[1], saturation)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    curve = []
    for step in range(steps + 1):
        logits = network(x)
        if step % max(steps // 10, 1) == 0:
            # Both libraries' curves are measured by one yardstick, in float64.
            exact = logits.detach().double()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(exact, labels).item()
            accuracy = ((exact > 0) == (labels > 0)).double().mean().item()
            curve.append(Progress(step, loss, accuracy))
        optimizer.zero_grad()
        library.binary_cross_entropy_with_logits(logits, y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return curve


def show_gated_network(saturation: float, steps: int = STEPS) -> None:
    """Prints both libraries' curves side by side."""
    print(
        f"Gated network, bfloat16, seed {SEED}; "
        f"the biases of its sigmoids and tanhs start at magnitude {saturation:g}"
    )
    curves = [train_gated_network(library, saturation, steps) for library in (TORCH, FUSEDGRAD)]
    print(f"{'step':>6}{'torch: loss':>16}{'accuracy':>12}{'fusedgrad: loss':>20}{'accuracy':>12}")
    for theirs, ours in zip(*curves, strict=True):
        print(
            f"{theirs.step:>6}{theirs.loss:>16.4f}{theirs.accuracy:>12.1%}"
            f"{ours.loss:>20.4f}{ours.accuracy:>12.1%}"
        )
    theirs, ours = (curve[-1] for curve in curves)
    lower = "fusedgrad" if ours.loss < theirs.loss else "torch"
    ratio = max(ours.loss, theirs.loss) / min(ours.loss, theirs.loss)
    print(f"after {ours.step} steps the lower loss is {lower}'s, by a factor of {ratio:.2f}\n")

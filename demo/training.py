"""Two trainings on scikit-learn's breast cancer data (569 samples, 30 features).

Logistic regression by L-BFGS in float64 must end at scikit-learn's own coefficients. A small gated
network in bfloat16 then starts twice from the same weights, with each library's derivatives.
"""

from typing import NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import fusedgrad
from benchmarks.contenders import FUSEDGRAD, TORCH, Contender

AGREEMENT = 1e-6
HIDDEN = 32
STEPS = 200
SEED = 0


def breast_cancer() -> tuple[torch.Tensor, torch.Tensor]:
    """Standardised features [569, 30] and labels [569], float64."""
    features, labels = load_breast_cancer(return_X_y=True)
    features = StandardScaler().fit_transform(features)
    return torch.from_numpy(features), torch.from_numpy(labels).double()


def scikit_learn_coefficients(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """scikit-learn's 30 coefficients and its intercept [31], with its default penalty (C = 1)."""
    model = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-12, max_iter=1000)
    model.fit(features.numpy(), labels.numpy())
    return torch.from_numpy(np.concatenate([model.coef_[0], model.intercept_]))


def train_logistic_regression(rounds: int = 50) -> float:
    """Minimises scikit-learn's objective; returns the largest difference from its coefficients.

    The objective is sum_i bce_with_logits(w . x_i + b, y_i) + |w|^2 / 2; b is not penalised.
    Raises RuntimeError if `rounds` of L-BFGS do not reach the agreement asked for.
    """
    features, labels = breast_cancer()
    expected = scikit_learn_coefficients(features, labels)
    parameters = torch.zeros(features.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [parameters],
        max_iter=5,
        tolerance_grad=1e-10,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def objective() -> torch.Tensor:
        optimizer.zero_grad()
        weights, intercept = parameters[:-1], parameters[-1]
        loss = fusedgrad.binary_cross_entropy_with_logits(
            features @ weights + intercept, labels, reduction="sum"
        )
        total = loss + fusedgrad.pow(weights, 2).sum() / 2
        total.backward()  # type: ignore[no-untyped-call]
        return total

    print("Logistic regression, float64, L-BFGS on fusedgrad.binary_cross_entropy_with_logits")
    print(f"{'iterations':>12}{'objective':>20}{'largest difference from scikit-learn':>40}")
    for number in range(1, rounds + 1):
        optimizer.step(objective)  # type: ignore[no-untyped-call]
        difference = (parameters.detach() - expected).abs().max().item()
        print(f"{5 * number:>12}{objective().item():>20.12f}{difference:>40.2e}")
        if difference < AGREEMENT:
            print(f"agreed with scikit-learn's 31 coefficients to {difference:.1e}\n")
            return difference
    raise RuntimeError(
        f"after {5 * rounds} iterations of L-BFGS the coefficients differ from scikit-learn's by "
        f"{difference:.1e}, expected less than {AGREEMENT:.0e}"
    )


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

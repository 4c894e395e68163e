"""Logistic regression on scikit-learn's breast cancer data (569 samples, 30 features).

`python examples/logistic_regression.py` minimises scikit-learn's own objective by L-BFGS in float64
on fusedgrad.binary_cross_entropy_with_logits, and must end at scikit-learn's own coefficients.
"""

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import fusedgrad

AGREEMENT = 1e-6


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


def train(rounds: int = 50) -> float:
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


if __name__ == "__main__":
    train()

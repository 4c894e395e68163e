"""Every derivative of the two notebooks that the project began with, against its analytic value.

The first differentiates compositions of powers, sigmoid and tanh at x = 3, z = 2. The second
follows one logistic loss back through sigma = sigmoid(z), z = w1 x1 + w2 x2 + b.
"""

# mypy: disable-error-code="no-untyped-call"

from collections.abc import Callable

import mpmath
import pytest
import torch
from mpmath import mp, mpf
from torch import Tensor

import fusedgrad
from ulp import ulp_error

X, Z = mpf(3), mpf(2)


def sigmoid(x: mpf) -> mpf:
    return 1 / (1 + mp.exp(-x))


# expression: fusedgrad's, the same in mpmath, the derivatives as the notebook prints them
CALCULUS: dict[str, tuple[Callable[..., Tensor], Callable[..., mpf], list[float]]] = {
    "x": (lambda x, z: x, lambda x, z: x, [1]),
    "x²": (lambda x, z: fusedgrad.pow(x, 2), lambda x, z: x**2, [6]),
    "x² + x³": (
        lambda x, z: fusedgrad.pow(x, 2) + fusedgrad.pow(x, 3),
        lambda x, z: x**2 + x**3,
        [33],
    ),
    "sigmoid(x²) + tanh(x³)": (
        lambda x, z: fusedgrad.sigmoid(fusedgrad.pow(x, 2)) + fusedgrad.tanh(fusedgrad.pow(x, 3)),
        lambda x, z: sigmoid(x**2) + mp.tanh(x**3),
        [0.0007402760985890935],
    ),
    "sigmoid(x² + z) + tanh(x³ z²)": (
        lambda x, z: (
            fusedgrad.sigmoid(fusedgrad.pow(x, 2) + z)
            + fusedgrad.tanh(fusedgrad.pow(x, 3) * fusedgrad.pow(z, 2))
        ),
        lambda x, z: sigmoid(x**2 + z) + mp.tanh(x**3 * z**2),
        [0.0001002068574636206, 1.6701142910603434e-05],
    ),
    "tanh(x + sigmoid(x²))": (
        lambda x, z: fusedgrad.tanh(x + fusedgrad.sigmoid(fusedgrad.pow(x, 2))),
        lambda x, z: mp.tanh(x + sigmoid(x**2)),
        [0.0013422743524949985],
    ),
}

# A composition rounds each intermediate result once, and tanh(u) near u = 4 doubles the rounding
# of u.
COMPOSITION_ULP = 4.0


def exact_derivative(function: Callable[..., mpf], index: int) -> mpf:
    with mp.workdps(200):
        orders = (1, 0) if index == 0 else (0, 1)
        return mpmath.diff(function, (X, Z), orders)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("function", "exact", "printed"), CALCULUS.values(), ids=CALCULUS.keys())
def test_derivative_of_the_calculus_notebook(
    function: Callable[..., Tensor],
    exact: Callable[..., mpf],
    printed: list[float],
    dtype: torch.dtype,
) -> None:
    inputs = [torch.tensor(float(value), dtype=dtype, requires_grad=True) for value in (X, Z)]
    grads = torch.autograd.grad(function(*inputs), inputs[: len(printed)])
    for i, grad in enumerate(grads):
        true = exact_derivative(exact, i)
        assert float(true) == pytest.approx(printed[i], rel=1e-14)
        assert ulp_error(grad.item(), true, dtype) <= COMPOSITION_ULP


def logistic_chain(dtype: torch.dtype) -> dict[str, Tensor]:
    """Both ways to the loss: from probabilities as the notebook goes, and from logits."""
    data = torch.tensor([1.0, 2.0], dtype=dtype)
    one = torch.ones(1, dtype=dtype)
    chains = {}
    for name in ("probabilities", "logits"):
        w = torch.tensor([2.0, 1.0], dtype=dtype, requires_grad=True)
        b = torch.tensor([1.0], dtype=dtype, requires_grad=True)
        z = w.dot(data) + b
        sigma = fusedgrad.sigmoid(z)
        if name == "probabilities":
            loss = fusedgrad.binary_cross_entropy(sigma, one)
            by_sigma, by_z, by_b, by_w = torch.autograd.grad(loss, (sigma, z, b, w))
        else:
            loss = fusedgrad.binary_cross_entropy_with_logits(z, one)
            by_z, by_b, by_w = torch.autograd.grad(loss, (z, b, w))
            by_sigma = -1 / sigma.detach()
        chains[name] = torch.cat([by_sigma, by_z, by_b, by_w])
    return chains


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("way", ["probabilities", "logits"])
def test_derivatives_of_the_logistic_notebook(way: str, dtype: torch.dtype) -> None:
    with mp.workdps(200):
        z = mpf(5)
        by_z = -sigmoid(-z)
        exact = [-1 / sigmoid(z), by_z, by_z, by_z, 2 * by_z]
    printed = [-1.0067, -0.0067, -0.0067, -0.0067, -0.0134]
    for value, true, shown in zip(logistic_chain(dtype)[way], exact, printed, strict=True):
        assert float(true) == pytest.approx(shown, abs=5e-5)
        # From probabilities 1 - sigma = 0.0067 has lost 7 bits of the rounding of sigma.
        bound = COMPOSITION_ULP if way == "logits" else 2**7
        assert ulp_error(value.item(), true, dtype) <= bound

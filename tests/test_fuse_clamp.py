"""The gradients of clamp on its bounds, which PyTorch 2.14 changed."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import fusedgrad
from fusedgrad import torch_versions

VALUES = (-2.0, -1.0, 0.0, 1.0, 2.0, torch.nan)
BOUNDS = (-1.0, 0.0, 1.0)
X, LOW, HIGH = (
    torch.tensor(column, dtype=torch.float64)
    for column in zip(*itertools.product(VALUES, BOUNDS, BOUNDS), strict=True)
)
FUNCTIONS: dict[str, tuple[Callable[..., Tensor], int]] = {
    "numbers": (lambda x: torch.clamp(x, -1.0, 1.0), 1),
    "crossed numbers": (lambda x: torch.clamp(x, 1.0, -1.0), 1),
    "a least number": (lambda x: torch.clamp_min(x, -1.0), 1),
    "a largest number": (lambda x: x.clamp(max=1.0), 1),
    "tensors": (torch.clamp, 3),
    "a least tensor": (lambda x, low: x.clamp(min=low), 2),
    "a largest tensor": (lambda x, high: torch.clamp(x, max=high), 2),
}


def gradients(function: Callable[..., Tensor], count: int) -> list[list[float]]:
    """By each argument."""
    arguments = [t.clone().requires_grad_() for t in (X, LOW, HIGH)[:count]]
    found = torch.autograd.grad(function(*arguments).sum(), arguments)
    return [gradient.tolist() for gradient in found]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_on_the_bounds_are_those_of_this_pytorch(name: str) -> None:
    function, count = FUNCTIONS[name]
    assert gradients(fusedgrad.fuse(function), count) == gradients(function, count)


def expected_from_2_14(name: str) -> list[Tensor]:
    """As PyTorch 2.14.1 has them."""
    one, zero, half = torch.ones_like(X), torch.zeros_like(X), torch.full_like(X, 0.5)
    if name == "numbers":
        return [torch.where((X > -1) & (X < 1), one, zero)]
    if name == "crossed numbers":
        return [zero]
    if name == "a least number":
        return [torch.where(X > -1, one, zero)]
    if name == "a largest number":
        return [torch.where(X < 1, one, zero)]
    if name == "a least tensor":
        tie = X == LOW
        return [
            torch.where(tie, half, torch.where(X < LOW, zero, one)),
            torch.where(tie, half, torch.where(X > LOW, zero, one)),
        ]
    if name == "a largest tensor":
        tie = X == LOW  # its only bound
        return [
            torch.where(tie, half, torch.where(X > LOW, zero, one)),
            torch.where(tie, half, torch.where(X < LOW, zero, one)),
        ]
    at_low, at_high = (X == LOW) & (LOW < HIGH), (X == HIGH) & (LOW < HIGH)
    inside = torch.where(at_low | at_high, half, one)
    return [
        torch.where((X < LOW) | (X > HIGH), zero, inside),
        torch.where(at_low, half, torch.where((X < LOW) & (LOW <= HIGH), one, zero)),
        torch.where(at_high, half, torch.where((X > HIGH) | (LOW > HIGH), one, zero)),
    ]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_on_the_bounds_as_of_2_14(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_versions, "CLAMP_SHARES", True)
    function, count = FUNCTIONS[name]
    expected = [(3 * gradient).tolist() for gradient in expected_from_2_14(name)]
    # Another function than the one above, whose derivative is known.
    assert gradients(fusedgrad.fuse(lambda *inputs: 3 * function(*inputs)), count) == expected


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_table_is_that_of_pytorch_from_2_14_on(name: str) -> None:
    expected = [gradient.tolist() for gradient in expected_from_2_14(name)]
    agrees = gradients(*FUNCTIONS[name]) == expected
    assert agrees is (torch_versions.CLAMP_SHARES or name == "crossed numbers")

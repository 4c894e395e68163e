"""The kernels of derivatives of higher orders keep the errors that docs/accuracy.md states."""

from collections.abc import Callable

import pytest
import torch
from mpmath import mp, mpf
from torch import Tensor

import fusedgrad
from benchmarks.accuracy_orders import DTYPES, FAMILIES, worst


@pytest.mark.sampled(6)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_errors_of_every_order_keep_the_rule(name: str, dtype: torch.dtype) -> None:
    family = FAMILIES[name]
    for order in family.orders:
        error, where = worst(family, order, dtype, samples=2**12)
        assert error <= (family.rule(order) if dtype.itemsize > 2 else 0.51), (order, where)


@pytest.mark.parametrize("power", [fusedgrad.pow, fusedgrad.fuse(lambda x, e: x**e)])
@pytest.mark.parametrize("exponent", [1.0000001, 2 - 1e-9, 3.0001])
def test_derivatives_by_the_base_keep_their_digits_beside_an_integer(
    power: Callable[[Tensor, Tensor], Tensor], exponent: float
) -> None:
    x = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    e = torch.tensor(exponent, dtype=torch.float64)
    y = power(x, e)
    for order in range(1, 6):
        (y,) = torch.autograd.grad(y, x, create_graph=True)
        with mp.workprec(200):
            exact = mp.ff(mpf(exponent), order) * mpf(1.3) ** (mpf(exponent) - order)
            error = abs(mpf(y.item()) / exact - 1)
        assert error < 4 * torch.finfo(torch.float64).eps, order

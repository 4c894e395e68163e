"""Loops over half types where they lie: every length, NaN and layout; and random powers."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import fusedgrad
from fusedgrad import _C

HALVES = [torch.float16, torch.bfloat16]
operators = torch.ops.fusedgrad


def loss(x: Tensor, target: Tensor) -> Tensor:
    return fusedgrad.binary_cross_entropy_with_logits(x, target, reduction="none")


def loss_gradient(x: Tensor, target: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x, target), x, torch.ones_like(x))
    return gradient


CASES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sigmoid": lambda x, _: fusedgrad.sigmoid(x),
    "sigmoid_backward": lambda x, grad: operators.sigmoid_backward(grad, x),
    "tanh": lambda x, _: fusedgrad.tanh(x),
    "tanh_backward": lambda x, grad: operators.tanh_backward(grad, x),
    "square": lambda x, _: fusedgrad.pow(x, 2),
    "square_backward": lambda x, grad: operators.pow_backward.Tensor_Scalar(grad, x, 2.0),
    "reciprocal": lambda x, _: fusedgrad.pow(x, -1),
    "power": lambda x, _: fusedgrad.pow(x.abs(), 1.7),
    "power_backward": lambda x, grad: operators.pow_backward.Tensor_Scalar(grad, x.abs(), 1.7),
    "exponential": lambda x, _: fusedgrad.pow(2.5, x),
    "loss": loss,
    "loss_gradient": loss_gradient,
}


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", CASES)
def test_a_result_depends_neither_on_its_place_nor_on_its_neighbours(
    name: str, dtype: torch.dtype
) -> None:
    x, grad = (4 * torch.randn(2, 1000)).to(dtype)
    whole = CASES[name](x, grad)
    for length in [*range(1, 140), 511, 513, 999]:
        begin = length % 7
        part = CASES[name](x[begin : begin + length], grad[begin : begin + length])
        assert torch.equal(part, whole[begin : begin + length]), length
    for stride in (2, 3):
        assert torch.equal(CASES[name](x[::stride], grad[::stride]), whole[::stride])
    table = CASES[name](x.view(50, 20).T, grad.view(50, 20).T)
    assert torch.equal(table, whole.view(50, 20).T)
    rows = CASES[name](x[:20].expand(50, 20), grad.view(50, 20))
    repeated = CASES[name](x[:20].repeat(50), grad)
    assert torch.equal(rows, repeated.view(50, 20))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", CASES)
def test_every_nan_stays_one(name: str, dtype: torch.dtype) -> None:
    """Rounded up as an integer, one of all bits would become -0."""
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    nan = every[every.isnan()]
    ordinary = torch.full_like(nan, 1.5)
    assert CASES[name](nan, ordinary).isnan().all()
    if name.endswith("_backward"):
        assert CASES[name](ordinary, nan).isnan().all()
        assert CASES[name](nan, nan.flip(0)).isnan().all()


@pytest.mark.sampled(4)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(("name", "bound"), [("pow", 0.51), ("pow_exponent_derivative", 0.6)])
def test_powers_of_two_operands(name: str, bound: float, dtype: str) -> None:
    """Of all bits, and of logarithms whose powers have all sizes: math/pow.h has the bound."""
    generator, half, count = np.random.default_rng(1), getattr(torch, dtype), 2**20
    x = torch.from_numpy(generator.integers(-(2**15), 2**15, count).astype(np.int16)).view(half)
    e = torch.from_numpy(generator.integers(-(2**15), 2**15, count).astype(np.int16)).view(half)
    greatest = 26 if dtype == "float16" else 136
    size = torch.from_numpy(generator.uniform(-greatest, greatest, count))
    ordinary = torch.arange(count) % 2 == 0
    x = torch.where(ordinary, x.abs(), x)
    e = torch.where(ordinary, (size / x.double().log2()).to(half), e)
    bits = x.view(torch.int16).numpy().view(np.uint16)
    errors = _C.scan_samples(name, dtype, bits, e.double().numpy())
    assert errors.wrong == 0, (errors.input, errors.parameter, errors.got, errors.want)
    assert errors.max_ulp <= bound, (errors.input, errors.parameter, errors.max_ulp)

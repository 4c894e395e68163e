"""Gradients of arguments that are broadcast: summed inside the kernel that computes them."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, cast

import numpy as np
import pytest
import torch
from mpmath import mp
from torch import Tensor

import fusedgrad
from benchmarks.memory import peak_extra
from cuda_backend import ON_CUDA
from fusedgrad.activations import snake_beta
from fusedgrad.fuse import kernel
from ulp import DTYPES

# The shape of x, and those of a parameter
SHAPES: list[tuple[tuple[int, ...], list[tuple[int, ...]]]] = [
    ((4, 3, 5), [(3, 1), (5,), (), (1,), (1, 1, 1), (4, 1, 1), (4, 1, 5), (1, 3, 5), (3, 5)]),
    ((2, 70000), [(70000,), (2, 1), ()]),  # several tasks
    ((3, 200, 300), [(200, 1), (300,), (3, 1, 1), ()]),
    ((8, 64, 1000), [(64, 1)]),
    ((7, 1, 5), [(1, 1), (5,), (1, 5)]),
    ((0, 3, 5), [(3, 1), (), (0, 1, 1)]),
    ((3, 0), [(3, 1)]),
    ((), [()]),
]
PAIRS = [(full, own) for full, shapes in SHAPES for own in shapes]


@fusedgrad.fuse
def affine(x: Tensor, scale: Tensor, bias: Tensor) -> Any:
    return x * scale + bias


def integers(shape: Sequence[int], dtype: torch.dtype, seed: int, least: int = -4) -> Tensor:
    """Small ones, whose products and sums are exact."""
    made = torch.randint(least, 5, tuple(shape), generator=torch.Generator().manual_seed(seed))
    return made.to(dtype)


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same values elsewhere in memory."""
    if layout == "reversed":
        order = list(reversed(range(x.dim())))
        return x.permute(order).contiguous().permute(order)
    if layout == "apart" and x.dim():
        return torch.stack([x, x], dim=-1)[..., 0]
    return x


def on(device: str, x: Tensor) -> Tensor:
    """A copy there that lies in memory as the tensor does."""
    made = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=device)
    return x if device == "cpu" else made.copy_(x)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("layout", ["contiguous", "reversed", "apart"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("full", "own"), PAIRS, ids=str)
@pytest.mark.parametrize("device", ["cpu", ON_CUDA])
def test_sums_are_exact(full: Any, own: Any, dtype: torch.dtype, layout: str, device: str) -> None:
    x, grad = (laid_out(integers(full, dtype, i), layout) for i in (0, 1))
    scale = laid_out(integers(own, dtype, 2), layout)
    bias = integers((), dtype, 3)
    exact = [grad.double() * scale.double(), grad.double() * x.double(), grad.double()]
    leaves = [on(device, t).requires_grad_() for t in (x, scale, bias)]
    found = torch.autograd.grad(affine(*leaves), leaves, on(device, grad))
    for got, leaf, true in zip(found, leaves, exact, strict=True):
        assert (got.shape, got.dtype, got.device) == (leaf.shape, dtype, leaf.device)
        assert torch.equal(got.cpu(), true.sum_to_size(leaf.shape).to(dtype))
    if math.prod(full):
        value, grads = affine.value_and_grad(*leaves)
        ones = torch.autograd.grad(affine(*leaves).sum(), leaves)
        assert value.shape == x.shape
        assert all(map(torch.equal, grads, ones))


def test_a_sum_is_rounded_once() -> None:
    # Through float32, 1 + 2^-8 + 2^-40 would be a tie in bfloat16, and go to 1.
    x = torch.tensor([1.0, 2**-8, 2**-40], dtype=torch.bfloat16)
    scale = torch.ones((), dtype=torch.bfloat16, requires_grad=True)
    affine(x, scale, scale.detach()).sum().backward()
    assert scale.grad is not None
    assert scale.grad.item() == 1 + 2**-7


@pytest.mark.parametrize(("first", "expected"), [(0, math.inf), (1, 2.0)])
def test_float16_overflows_in_the_result_alone(first: int, expected: float) -> None:
    large = torch.finfo(torch.float16).max
    x = torch.tensor([large, large, -large, 1.0], dtype=torch.float16)[first:]
    scale = torch.ones((), dtype=torch.float16, requires_grad=True)
    affine(x, scale, scale.detach()).backward(torch.full_like(x, 2))
    assert scale.grad is not None
    assert scale.grad.item() == expected


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_gradients_of_snake_beta_in_ulp(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, grad = 3 * torch.randn(2, 3, 40, dtype=dtype), torch.randn(2, 3, 40, dtype=dtype)
    alpha, beta = (torch.rand(3, 1, dtype=dtype) + 0.5 for _ in range(2))
    leaves = [t.requires_grad_() for t in (x, alpha, beta)]
    _, by_alpha, by_beta = torch.autograd.grad(snake_beta(*leaves), leaves, grad)
    unit = torch.finfo(dtype).eps
    values, grads = (t.detach().transpose(0, 1).flatten(1).tolist() for t in (x, grad))
    with mp.workdps(50):
        for c in range(3):
            a, b = mp.mpf(alpha[c].item()), mp.mpf(beta[c].item())
            pairs = [(mp.mpf(v), mp.mpf(g)) for v, g in zip(values[c], grads[c], strict=True)]
            terms = [g * mp.sin(2 * a * v) * v / b for v, g in pairs]
            # sin(2 a x) moves by 2 a x cos(2 a x) units where a x is rounded
            moves = [g * 2 * a * v * mp.cos(2 * a * v) * v / b for v, g in pairs]
            allowed = 4 * unit * sum(abs(t) + abs(m) for t, m in zip(terms, moves, strict=True))
            assert abs(by_alpha[c].item() - sum(terms)) <= allowed
            terms = [-g * mp.sin(a * v) ** 2 / b**2 for v, g in pairs]
            moves = [g * a * v * mp.sin(2 * a * v) / b**2 for v, g in pairs]
            allowed = 4 * unit * sum(abs(t) + abs(m) for t, m in zip(terms, moves, strict=True))
            assert abs(by_beta[c].item() - sum(terms)) <= allowed


def test_a_long_sum_in_float32_keeps_its_digits() -> None:
    torch.manual_seed(0)
    x = torch.rand(1 << 20)
    scale = torch.ones((), requires_grad=True)
    affine(x, scale, torch.zeros(())).sum().backward()
    exact = sum(map(Fraction, x.tolist()))
    assert scale.grad is not None
    assert scale.grad.item() == np.float32(float(exact))


@pytest.mark.parametrize(("full", "own"), [p for p in PAIRS if math.prod(p[0]) > 30000], ids=str)
def test_bits_do_not_depend_on_the_number_of_threads(full: Any, own: Any) -> None:
    torch.manual_seed(0)
    # In float64, since rounding to float32 would hide another order.
    x, grad = (torch.randn(full, dtype=torch.float64) for _ in range(2))
    alpha = (torch.rand(own, dtype=torch.float64) + 0.5).requires_grad_()

    def gradient(threads: int) -> Tensor:
        torch.set_num_threads(threads)
        (found,) = torch.autograd.grad(snake_beta(x, alpha, 2.0), alpha, grad)
        return found

    before = torch.get_num_threads()
    try:
        first, *others = (gradient(threads) for threads in (1, 2, 3, 7))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(first, other) for other in others)


def test_no_gradient_of_full_size_is_written() -> None:
    x, grad = torch.randn(8, 64, 256), torch.randn(8, 64, 256)
    alpha, beta = (torch.rand(64, 1, requires_grad=True) for _ in range(2))
    y = snake_beta(x, alpha, beta)
    most = peak_extra(lambda: torch.autograd.grad(y, (alpha, beta), grad, retain_graph=True))
    assert most < x.nbytes / 16


@pytest.mark.parametrize("own", [(64, 1), (256,), ()], ids=str)
@pytest.mark.parametrize("device", [ON_CUDA])
def test_no_gradient_of_full_size_is_written_on_cuda(device: str, own: Any) -> None:
    x, grad = (torch.randn(8, 64, 256).to(device) for _ in range(2))
    alpha, beta = (torch.rand(own).to(device).requires_grad_() for _ in range(2))
    y = snake_beta(x, alpha, beta)
    for _ in range(2):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        torch.autograd.grad(y, (alpha, beta), grad, retain_graph=True)
        assert torch.cuda.max_memory_allocated() - before < x.nbytes / 4


@pytest.mark.parametrize("own", [(3, 1), (2,), (), (1, 1, 1), (2, 1, 2)], ids=str)
def test_every_order_and_mode(own: Any) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    alpha = (torch.rand(own, dtype=torch.float64) + 0.5).requires_grad_()
    beta = (torch.rand(2, dtype=torch.float64) + 0.5).requires_grad_()
    arguments = (x, alpha, beta)
    assert torch.autograd.gradcheck(
        snake_beta, arguments, check_forward_ad=True, check_batched_grad=True
    )
    assert torch.autograd.gradgradcheck(
        snake_beta, arguments, check_fwd_over_rev=True, check_batched_grad=True
    )

    def slope(alpha: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(snake_beta(x, alpha, beta).sum(), alpha, create_graph=True)
        return found

    assert torch.autograd.gradgradcheck(slope, alpha)


def plain(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return x + torch.sin(alpha * x) ** 2 / beta


def test_transforms() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3, 5, dtype=torch.float64)
    alpha, beta = (torch.rand(3, 1, dtype=torch.float64) + 0.5 for _ in range(2))
    for transform in (torch.func.jacrev, torch.func.hessian):

        def result(f: Any, transform: Any = transform) -> Tensor:
            return cast(Tensor, transform(lambda a: f(x, a, beta).mean())(alpha))

        torch.testing.assert_close(result(snake_beta), result(plain))

    def per_sample(f: Any) -> Tensor:
        def gradient(sample: Tensor) -> Tensor:
            return cast(Tensor, torch.func.grad(lambda a: f(sample, a, beta).sum())(alpha))

        return torch.func.vmap(gradient)(x)

    torch.testing.assert_close(per_sample(snake_beta), per_sample(plain))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_without_a_compiler(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    x, scale, bias = (integers(s, dtype, i) for i, s in enumerate([(4, 3, 5), (3, 1), (5,)]))
    leaves = [t.requires_grad_() for t in (x, scale, bias)]
    expected = torch.autograd.grad(affine(*leaves).sum(), leaves)

    def no_kernel(_: object, tensors: list[Tensor], *rest: object, **how: object) -> Any:
        return None, range(len(tensors))

    monkeypatch.setattr(kernel, "kernel_of", no_kernel)
    body = fusedgrad.fuse(affine.plain_function())
    found = torch.autograd.grad(body(*leaves).sum(), leaves)
    assert all(map(torch.equal, found, expected))


def test_more_gradients_than_one_kernel_has_operands() -> None:
    count = 20
    values = [integers((3, 1) if i % 2 else (), torch.float64, i) for i in range(count)]

    @fusedgrad.fuse
    def polynomial(x: Tensor, *c: Tensor) -> Any:
        total = c[0]
        for i, each in enumerate(c[1:]):
            total = total + each * (x + i)
        return total

    x = integers((2, 3, 4), torch.float64, 99)
    leaves = [v.requires_grad_() for v in values]
    found = torch.autograd.grad(polynomial(x, *leaves).sum(), leaves)
    expected = torch.autograd.grad(polynomial.plain_function()(x, *leaves).sum(), leaves)
    assert all(map(torch.equal, found, expected))


def test_the_operator_says_what_it_expected() -> None:
    x, scale = torch.ones(3, requires_grad=True), torch.ones((), requires_grad=True)
    affine(x, scale, scale)
    number = next(n for n, graph in kernel._graphs.items() if graph.name == "affine")
    operands = [torch.ones(3)] * len(kernel.graph_of(number).inputs)
    with pytest.raises(RuntimeError, match="got 2 numbers of summed dimensions for 1 outputs"):
        kernel.fused(number, operands, [], [torch.float32], [1, 0])
    for bits in (0, 1):
        (result,) = kernel.fused(number, operands, [], [torch.float32], [bits])
        assert result.tolist() == ([2.0] * 3 if bits == 0 else [6.0])

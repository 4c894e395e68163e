"""The gradients by operands that are broadcast: summed as they are computed, and rounded once."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

import fusedgrad
from benchmarks.memory import peak_extra
from cuda_backend import DTYPES, ON_CUDA

Function = Callable[..., Tensor]
DEVICES = ["cpu", ON_CUDA]


def logits(x: Tensor, t: Tensor, w: Tensor, p: Tensor, reduction: str = "mean") -> Tensor:
    return fusedgrad.binary_cross_entropy_with_logits(
        x, t, weight=w, pos_weight=p, reduction=reduction
    )


def probabilities(x: Tensor, t: Tensor, w: Tensor, reduction: str = "mean") -> Tensor:
    return fusedgrad.binary_cross_entropy(x, t, weight=w, reduction=reduction)


# The function, the shapes of its operands, and which of them require gradients
CASES: dict[str, tuple[Function, Sequence[tuple[int, ...]], Sequence[int]]] = {
    "an exponent a channel": (fusedgrad.pow, [(40, 36), (36,)], (0, 1)),
    "an exponent a channel alone": (fusedgrad.pow, [(40, 36), (36,)], (1,)),
    "an exponent a channel of images": (fusedgrad.pow, [(5, 3, 7, 9), (3, 1, 1)], (0, 1)),
    "an exponent a row": (fusedgrad.pow, [(40, 36), (40, 1)], (0, 1)),
    "one exponent": (fusedgrad.pow, [(50, 77), ()], (0, 1)),
    "a base a channel": (fusedgrad.pow, [(36,), (40, 36)], (0, 1)),
    "a base a channel alone": (fusedgrad.pow, [(36,), (40, 36)], (0,)),
    "one base": (fusedgrad.pow, [(), (50, 77)], (0, 1)),
    "bases and exponents of two dimensions": (fusedgrad.pow, [(40, 1), (36,)], (0, 1)),
    "more pieces than one": (fusedgrad.pow, [(40000, 4), (4,)], (0, 1)),
    "one element more": (fusedgrad.pow, [(1, 5), (5,)], (0, 1)),
    "weights of logits": (logits, [(40, 36), (40, 36), (40, 1), (36,)], (0, 1, 2, 3)),
    "weights of many logits": (logits, [(2000, 36), (2000, 36), (), (36,)], (2, 3)),
    "weights of logits, none": (
        partial(logits, reduction="none"),
        [(40, 36), (40, 36), (36,), (1, 36)],
        (0, 2, 3),
    ),
    "weights of images": (logits, [(4, 3, 8, 8), (4, 3, 8, 8), (8, 8), (3, 1, 1)], (0, 3)),
    "a weight of probabilities": (probabilities, [(40, 36), (40, 36), (36,)], (0, 2)),
    "a weight of all": (
        partial(probabilities, reduction="sum"),
        [(90, 36), (90, 36), ()],
        (0, 1, 2),
    ),
}


def operands_of(name: str, dtype: torch.dtype, device: str = "cpu") -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    _, shapes, wanted = CASES[name]
    operands = [torch.rand(s, generator=generator).mul(0.98).add(0.01) for s in shapes]
    return [x.to(dtype).to(device).requires_grad_(i in wanted) for i, x in enumerate(operands)]


def gradients_of(
    name: str, operands: Sequence[Tensor], dtype: torch.dtype, create_graph: bool = False
) -> tuple[Tensor, ...]:
    """By an upstream gradient of numbers of the dtype."""
    function, _, wanted = CASES[name]
    result = function(*operands)
    upstream = torch.rand(result.shape, generator=torch.Generator().manual_seed(2)).add(0.5)
    inputs = [operands[i] for i in wanted]
    given = upstream.to(dtype).to(result)
    return torch.autograd.grad(result, inputs, given, create_graph=create_graph)


def of_all(name: str, operands: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Those by operands that have all elements."""
    full = shape_of(operands)
    expanded = [x.detach().expand(full).contiguous().requires_grad_() for x in operands]
    return gradients_of(name, expanded, dtype)


def shape_of(operands: Sequence[Tensor]) -> torch.Size:
    return torch.Size(np.broadcast_shapes(*(tuple(x.shape) for x in operands)))


@pytest.mark.sampled(6)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("device", DEVICES)
def test_sums_are_rounded_once(device: str, name: str, dtype: torch.dtype) -> None:
    operands = operands_of(name, dtype, device)
    grads = gradients_of(name, operands, dtype)
    terms = of_all(name, [x.cpu().double() for x in operands], dtype)
    for grad, term, i in zip(grads, terms, CASES[name][2], strict=True):
        own = operands[i].shape
        assert (grad.dtype, grad.shape) == (dtype, own)
        if own == shape_of(operands):
            continue
        exact, size = term.sum_to_size(own), term.abs().sum_to_size(own)
        # Half a unit of the result, and four of what the terms are computed in; doubles are added
        # up as doubles, here and in `exact`
        computed = 2.0**-50 if dtype is torch.float64 else 2.0**-24
        bound = torch.finfo(dtype).eps / 2 * exact.abs() * 1.001 + 4 * computed * size
        assert bool(((grad.cpu().double() - exact).abs() <= bound).all())


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("device", DEVICES)
def test_other_gradients_have_the_bits_and_the_layout_that_they_have_without_a_sum(
    device: str, name: str
) -> None:
    operands = operands_of(name, torch.float32, device)
    grads = gradients_of(name, operands, torch.float32)
    terms = of_all(name, operands, torch.float32)
    for grad, term, i in zip(grads, terms, CASES[name][2], strict=True):
        if operands[i].shape == shape_of(operands):
            assert torch.equal(grad, term)
            assert grad.stride() == term.stride()


@pytest.mark.parametrize("device", DEVICES)
def test_any_layout(device: str) -> None:
    x = torch.rand(6, 5, 4, 3, device=device).add(0.1)
    e = torch.rand(3, 5, device=device).t().unsqueeze(1)  # (5, 1, 3)
    for place in (
        x,
        x.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
        x.repeat_interleave(2, -1)[..., ::2],
        x.flip(1),
    ):
        b, c = place.detach().requires_grad_(), e.detach().requires_grad_()
        y = fusedgrad.pow(b, c)
        by_base, by_exponent = torch.autograd.grad(y.sum(), (b, c))
        assert by_base.stride() == y.stride()
        torch.testing.assert_close(by_exponent, place.pow(e).mul(place.log()).sum_to_size(e.shape))


@pytest.mark.parametrize("name", CASES)
def test_no_number_of_threads_changes_a_bit(name: str) -> None:
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(gradients_of(name, operands_of(name, torch.float32), torch.float32))
    finally:
        torch.set_num_threads(threads)
    for each in found[1:]:
        assert all(map(torch.equal, each, found[0]))


@pytest.mark.parametrize("device", DEVICES)
def test_a_sum_of_nothing_is_zero(device: str) -> None:
    x = torch.rand(0, 3, device=device, requires_grad=True)
    e = torch.rand(3, device=device, requires_grad=True)
    by_base, by_exponent = torch.autograd.grad(fusedgrad.pow(x, e).sum(), (x, e))
    assert by_base.shape == (0, 3)
    assert by_exponent.tolist() == [0, 0, 0]


@pytest.mark.parametrize("device", DEVICES)
def test_a_sum_over_more_dimensions_than_a_kernel_takes(device: str) -> None:
    x = torch.rand((1, 2) * 9, device=device).add(0.5)[:, :1]
    e = torch.rand((2, *(1, 1) * 8), device=device, requires_grad=True)
    (grad,) = torch.autograd.grad(fusedgrad.pow(x, e).sum(), e)
    torch.testing.assert_close(grad, x.pow(e.detach()).mul(x.log()).sum_to_size(e.shape))


@pytest.mark.parametrize("device", DEVICES)
def test_terms_of_a_half_type_are_not_rounded(device: str) -> None:
    """Their sum of more than 65504 is finite, and small ones beside great ones are not lost."""
    x = torch.tensor([60000.0, -60000.0, 0.25, 0.25], dtype=torch.float16, device=device)
    target, weight = torch.zeros_like(x), torch.ones((), dtype=x.dtype, device=device)
    weight.requires_grad_()
    loss = fusedgrad.binary_cross_entropy_with_logits(
        x.repeat(2), target.repeat(2), weight=weight, reduction="none"
    )
    upstream = torch.tensor([1, 1, 1, 1, -1, 1, 1, 1], dtype=x.dtype, device=device)
    (grad,) = torch.autograd.grad(loss, weight, upstream)
    assert float(grad) == pytest.approx(4 * float(np.logaddexp(0, 0.25)), rel=2**-11)


@pytest.mark.parametrize("device", DEVICES)
def test_higher_orders_and_transforms_are_what_they_were(device: str) -> None:
    x = torch.rand(6, 5, dtype=torch.float64, device=device).add(0.5).requires_grad_()
    e = torch.rand(5, dtype=torch.float64, device=device).requires_grad_()
    expected = torch.autograd.grad(torch.pow(x, e).sum(), e)[0]

    def by_exponent(e: Tensor) -> Tensor:
        return fusedgrad.pow(x.detach(), e).sum()

    once = torch.autograd.grad(fusedgrad.pow(x, e).sum(), (x, e), create_graph=True)
    torch.testing.assert_close(once[1], expected)
    twice = torch.autograd.grad(once[1].sum(), (x, e))
    theirs = torch.autograd.grad(torch.pow(x, e).sum(), e, create_graph=True)
    for a, b in zip(twice, torch.autograd.grad(theirs[0].sum(), (x, e)), strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(torch.func.grad(by_exponent)(e.detach()), expected)
    y = fusedgrad.pow(x, e)
    rows = torch.eye(3, dtype=x.dtype, device=device)[:, :, None, None] * torch.ones_like(y)
    (batched,) = torch.autograd.grad(
        y, e, rows[:, 0].contiguous(), is_grads_batched=True, retain_graph=True
    )
    torch.testing.assert_close(batched[0], expected)
    assert batched[1:].count_nonzero() == 0
    if device == "cuda" and torch.version.cuda is None:
        return  # the emulated device has no complex numbers
    complex_ones = [t.detach().to(torch.complex128).requires_grad_() for t in (x, e)]
    (grad,) = torch.autograd.grad(fusedgrad.pow(*complex_ones).real.sum(), complex_ones[1])
    torch.testing.assert_close(grad.real, expected)


# A function of a tensor and an operand that is broadcast, and whether its value has all elements
PEAKS: dict[str, tuple[Function, bool]] = {
    "pow": (fusedgrad.pow, True),
    "pos_weight": (
        lambda x, w: fusedgrad.binary_cross_entropy_with_logits(x, x.detach(), pos_weight=w),
        False,
    ),
    "a weight of probabilities": (lambda x, w: probabilities(x, x.detach(), w), False),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", PEAKS)
@pytest.mark.parametrize("device", DEVICES)
def test_no_tensor_of_all_elements_is_made_for_a_sum(
    device: str, name: str, dtype: torch.dtype
) -> None:
    function, has_all = PEAKS[name]
    x = torch.rand(4096, 32, device=device).to(dtype)
    w = torch.rand(32, device=device).to(dtype).requires_grad_()

    def peak(*operands: Tensor) -> int:
        def call() -> tuple[Tensor, ...]:
            y = function(x if len(operands) == 1 else operands[0], w)
            upstream = torch.ones((), dtype=dtype, device=device).expand_as(y)
            return torch.autograd.grad(y, operands, upstream)

        return peak_extra(call, device)

    needed = has_all * x.nbytes
    assert needed <= peak(w) <= needed + x.nbytes // 8
    if device == "cuda":
        return  # whose engine keeps what it gave last until it gives the next
    needed += x.nbytes
    assert needed <= peak(x.detach().requires_grad_(), w) <= needed + x.nbytes // 8

"""Forward and backward take the memory of their outputs and gradients, and no tensor more."""

import pytest
import torch

from benchmarks.memory import largest_sum, peak_extra
from benchmarks.works import OPERATIONS, WORKS, Work

SIZE = 2**17
NUMBERS = 4096  # bytes for losses, for gradients of parameters, and for the sums that tasks add up


def forward_and_backward(work: Work, dtype: torch.dtype) -> int:
    inputs = [make(SIZE).to(dtype) for make in work.inputs]
    wanted = [x.requires_grad_() for x in inputs[: work.derivatives]]
    upstream = None if work.reduced else torch.rand_like(inputs[0])
    return peak_extra(lambda: torch.autograd.grad(work.ours(*inputs), wanted, upstream))


@pytest.mark.sampled(6)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.name)
def test_peak_is_the_outputs_and_gradients(work: Work, dtype: torch.dtype) -> None:
    tensors = work.derivatives - work.parameters + (not work.reduced)
    needed = tensors * SIZE * dtype.itemsize
    assert needed <= forward_and_backward(work, dtype) <= needed + NUMBERS


def test_peak_sees_a_tensor_that_is_released_at_once() -> None:
    x = torch.rand(SIZE)
    assert peak_extra(lambda: (x + 1).mul(2).sum()) >= 2 * x.nbytes
    assert x.nbytes <= peak_extra(lambda: x + 1) <= x.nbytes + NUMBERS


def test_torchs_loss_takes_twice_as_much() -> None:
    (work,) = (work for work in OPERATIONS if work.name == "bce_with_logits, mean")
    inputs = [make(SIZE) for make in work.inputs]
    inputs[0].requires_grad_()
    assert peak_extra(lambda: torch.autograd.grad(work.theirs(*inputs), inputs[0])) >= 8 * SIZE


def test_largest_sum() -> None:
    assert largest_sum([8, 4, -8, 2, -6]) == 12
    assert largest_sum([]) == largest_sum([-4]) == 0

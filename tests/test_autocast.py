"""torch.autocast casts the arguments of these operations as it casts those of PyTorch's own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import fusedgrad

Call = Callable[..., Tensor]

# the function of ours, that of PyTorch, how many tensors it takes
CALLS: dict[str, tuple[Call, Call, int]] = {
    "sigmoid": (fusedgrad.sigmoid, torch.sigmoid, 1),
    "tanh": (fusedgrad.tanh, torch.tanh, 1),
    "pow of a number": (lambda x: fusedgrad.pow(2, x), lambda x: torch.pow(2, x), 1),
    "pow with a number": (lambda x: fusedgrad.pow(x, 2.5), lambda x: torch.pow(x, 2.5), 1),
    "pow": (fusedgrad.pow, torch.pow, 2),
    "loss": (fusedgrad.binary_cross_entropy, F.binary_cross_entropy, 2),
    "weighted loss": (fusedgrad.binary_cross_entropy, F.binary_cross_entropy, 3),
    "loss of logits": (
        fusedgrad.binary_cross_entropy_with_logits,
        F.binary_cross_entropy_with_logits,
        2,
    ),
    "weighted loss of logits": (
        lambda x, t, w, p: fusedgrad.binary_cross_entropy_with_logits(x, t, w, pos_weight=p),
        lambda x, t, w, p: F.binary_cross_entropy_with_logits(x, t, w, pos_weight=p),
        4,
    ),
}

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

calls = pytest.mark.parametrize(("ours", "theirs", "count"), CALLS.values(), ids=CALLS.keys())
first_dtype = pytest.mark.parametrize("first", DTYPES, ids=str)
other_dtype = pytest.mark.parametrize("other", DTYPES, ids=str)


def outcome(function: Call, *arguments: Tensor) -> Any:
    """The dtype of the result, or that there is none."""
    try:
        return function(*arguments).dtype
    except RuntimeError:
        return "error"


@contextmanager
def enabled(device: str) -> Iterator[None]:
    """As torch.autocast(device), which refuses a device that is not there."""
    before = torch.is_autocast_enabled(device)
    torch.set_autocast_enabled(device, True)
    try:
        yield
    finally:
        torch.set_autocast_enabled(device, before)


@calls
@first_dtype
@other_dtype
def test_dtypes_under_autocast_are_pytorchs(
    ours: Call, theirs: Call, count: int, first: torch.dtype, other: torch.dtype
) -> None:
    tensors = [torch.rand(3, dtype=first), *(torch.rand(3, dtype=other) for _ in range(count - 1))]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert outcome(ours, *tensors) == outcome(theirs, *tensors)
    with enabled("cuda"):  # which is not the tensors' device
        assert outcome(ours, *tensors) == outcome(theirs, *tensors)


@calls
@first_dtype
@other_dtype
def test_dtypes_under_autocast_of_another_device_are_pytorchs(
    ours: Call, theirs: Call, count: int, first: torch.dtype, other: torch.dtype
) -> None:
    dtypes = (first, *[other] * (count - 1))
    of_kernels = outcome(theirs, *[torch.rand(3, dtype=dtype) for dtype in dtypes])
    with FakeTensorMode():
        tensors = [torch.rand(3, dtype=dtype, device="cuda") for dtype in dtypes]
        if outcome(theirs, *tensors) is first and of_kernels is other is not first:
            pytest.skip("PyTorch 2.11's fake loss of logits has another dtype than the real one")
        with enabled("cuda"):
            assert outcome(ours, *tensors) == outcome(theirs, *tensors)


@calls
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_under_autocast_have_the_dtype_of_their_operand(
    ours: Call, theirs: Call, count: int, dtype: torch.dtype
) -> None:
    operands = [torch.rand(3, dtype=dtype, requires_grad=True) for _ in range(count)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = ours(*operands).sum()
    torch.autograd.backward(value)
    assert [operand.grad.dtype for operand in operands if operand.grad is not None] == (
        [dtype] * count
    )


def test_loss_under_autocast_does_not_round_to_the_half_type() -> None:
    x, t = torch.randn(64).bfloat16(), torch.rand(64).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = fusedgrad.binary_cross_entropy_with_logits(x, t)
    assert loss == fusedgrad.binary_cross_entropy_with_logits(x.float(), t.float())


@calls
def test_compiled_operations_follow_autocast(ours: Call, theirs: Call, count: int) -> None:
    tensors = [torch.rand(3, dtype=torch.bfloat16) for _ in range(count)]
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert compiled(*tensors).dtype == theirs(*tensors).dtype


def test_layers_under_autocast_train() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), fusedgrad.nn.Tanh(), torch.nn.Linear(8, 1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(torch.randn(16, 4))
        loss = fusedgrad.nn.BCEWithLogitsLoss()(logits, torch.rand(16, 1))
    loss.backward()
    assert (logits.dtype, loss.dtype) == (torch.bfloat16, torch.float32)
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


@calls
def test_devices_without_autocast_are_left_alone(ours: Call, theirs: Call, count: int) -> None:
    operands = [torch.empty(3, device="meta", dtype=torch.float16) for _ in range(count)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = ours(*operands)
    assert (result.dtype, result.device.type) == (torch.float16, "meta")


@pytest.mark.parametrize("name", ["binary_cross_entropy", "binary_cross_entropy_with_logits"])
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_losses_of_float8_under_autocast(name: str, dtype: torch.dtype) -> None:
    input, target = torch.tensor([0.25, 0.75]).to(dtype), torch.tensor([0.5, 1.0]).to(dtype)
    results = []
    for loss in (getattr(fusedgrad, name), getattr(F, name)):
        with torch.autocast("cpu"):
            results.append(loss(input, target))
    torch.testing.assert_close(*results)

"""Functions that return what they make of means and sums: one kernel each way."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import fusedgrad
from fusedgrad.fuse import FuseError

IGNORED = -100


def loss_of_kept(x: Tensor, target: Tensor) -> Tensor:
    kept = target != IGNORED
    smooth = torch.where(kept, 0.9 * target + 0.05, 0.5)
    loss = F.binary_cross_entropy_with_logits(x, smooth, reduction="none")
    return torch.where(kept, loss, 0.0).sum() / kept.sum()


def weighted_mean(x: Tensor, target: Tensor) -> Tensor:
    weight = torch.sigmoid(target)
    return (weight * (x - target) ** 2).sum() / weight.sum()


def by_integers(x: Tensor, target: Tensor) -> Tensor:
    kept = target.long() != IGNORED
    return torch.where(kept, x, 0.0).sum() / kept.sum().clamp(min=1)


def root_mean_square(x: Tensor, target: Tensor) -> Tensor:
    return torch.sqrt((x * x).mean()) + 0.1 * target.abs().mean()


def of_two_shapes(x: Tensor, target: Tensor) -> Tensor:
    return (x * target).mean() / (target * 2).exp().sum()


def a_dict(x: Tensor, target: Tensor) -> dict[str, Any]:
    return {"mean": x.mean(), "others": [target.sum() * 2, F.mse_loss(x, target)]}


FUNCTIONS: list[Callable[..., Any]] = [
    *(loss_of_kept, weighted_mean, by_integers, root_mean_square, of_two_shapes, a_dict),
]


class _Kernels(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.fusedgrad.fused.default
        return func(*args, **(kwargs or {}))


def _operands(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    x = torch.randn(shape).to(dtype).requires_grad_()
    target = torch.rand(shape).to(dtype)
    return x, torch.where(torch.arange(shape[-1]) % 3 == 0, IGNORED, target)


@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 1, 4), (0,)], ids=str)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_values_and_gradients_are_eagers(
    function: Callable[..., Any], shape: tuple[int, ...]
) -> None:
    fused = fusedgrad.fuse(function)
    for _ in range(3):
        x, target = _operands(shape)
        if function is of_two_shapes:
            target = torch.rand(shape[-1:]).double()
        grads = []
        for results in (tree_leaves(fused(x, target)), tree_leaves(function(x, target))):
            (grad,) = torch.autograd.grad(sum(results), x, create_graph=True)
            second = torch.zeros_like(x)
            if grad.requires_grad:
                (second,) = torch.autograd.grad((grad**2).sum(), x, materialize_grads=True)
            grads.append([*results, grad, second])
        torch.testing.assert_close(*grads, equal_nan=True)
    assert "served" in fused.explain(x, target)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_sum_is_rounded_once(dtype: torch.dtype) -> None:
    x, target = _operands((500,), dtype)
    result = fusedgrad.fuse(loss_of_kept)(x, target)
    exact = loss_of_kept(x.detach().double(), target.double())
    assert result.dtype is dtype
    # The sum, its quotient and in a half type the count's rounding
    assert abs(result.double() - exact) <= 2 * torch.finfo(dtype).eps * exact


def test_a_count_is_exact_beyond_the_floats() -> None:
    many = torch.zeros(1).expand(2**24 + 1)
    assert fusedgrad.fuse(lambda x: (x == 0).sum() * 1)(many).item() == 2**24 + 1


def test_one_kernel_each_way() -> None:
    x, target = _operands((3, 5))
    fused = fusedgrad.fuse(loss_of_kept)
    fused(x, target).backward()
    with _Kernels() as kernels:
        result = fused(x, target)
        assert kernels.count == 1
        result.backward()
        assert kernels.count == 2


def test_numbers_outside_the_kernel_are_compiled_once_more() -> None:
    factor = [1.0]
    fused = fusedgrad.fuse(lambda x: x.exp().mean() * factor[0])
    x = torch.randn(4)
    for i in range(5):
        factor[0] = float(i)
        torch.testing.assert_close(fused(x), x.exp().mean() * i)
    (structure,) = fused._structures.values()  # and without the warning of a third, an error here
    assert structure.varying is not None


def test_transforms() -> None:
    def function(x: Tensor) -> Tensor:
        return (x * x).sum() / x.exp().sum()

    fused, x = fusedgrad.fuse(function), torch.randn(3, 4, dtype=torch.float64)
    for transform in (lambda f: torch.func.vmap(torch.func.grad(f)), torch.func.hessian):
        torch.testing.assert_close(transform(fused)(x), transform(function)(x))


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda x: x - x.mean(), "beside elements"),
        (lambda x: x.mean().mul_(2), "beside elements, in place"),
        (lambda x: (x.mean(), x * 2), "beside a tensor of elements"),
        (lambda x: (2 * x.mean()).sum(), "a sum of another"),
        (lambda x: (x > 0).float().mean(0), "of a dimension"),
    ],
)
def test_refusals(function: Callable[[Tensor], Any], told: str) -> None:
    with pytest.raises(FuseError, match=told):
        fusedgrad.fuse(function)(torch.ones(3))


def test_its_derivatives_are_autograds() -> None:
    fused = fusedgrad.fuse(lambda x: 2 * x.exp().mean())
    with pytest.raises(FuseError, match="of which PyTorch takes the derivative"):
        fused.derivative(0)(torch.ones(3))
    assert "of which PyTorch takes the derivative" in str(fused)

"""Values and gradients lie in memory as PyTorch's where the operands lie differently."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fusedgrad

Call = Callable[..., Tensor]
SHAPE = (2, 3, 4, 5)

FULL: dict[str, Callable[[], Tensor]] = {
    "contiguous": lambda: torch.rand(SHAPE),
    "channels last": lambda: torch.rand(SHAPE).contiguous(memory_format=torch.channels_last),
    "permuted": lambda: torch.rand(5, 4, 3, 2).permute(3, 2, 1, 0),
    "transposed": lambda: torch.rand(2, 3, 5, 4).transpose(2, 3),
    "expanded": lambda: torch.rand(2, 1, 4, 1).expand(SHAPE),
    "expanded in front": lambda: torch.rand(3, 1, 1).expand(SHAPE),
    "transposed and expanded": lambda: torch.rand(2, 3, 1, 4).transpose(2, 3).expand(SHAPE),
    "one element": lambda: torch.rand(()).expand(SHAPE),
    "every second column": lambda: torch.rand(2, 3, 4, 10)[..., ::2],
    "every second channel": lambda: torch.rand(2, 6, 4, 5)[:, ::2],
    "every second of channels last": lambda: (
        FULL["channels last"]()
        .repeat(1, 1, 1, 2)
        .contiguous(memory_format=torch.channels_last)[..., ::2]
    ),
}
BROADCAST: dict[str, Callable[[], Tensor]] = {
    "a channel": lambda: torch.rand(3, 1, 1),
    "a row": lambda: torch.rand(5),
    "a column": lambda: torch.rand(4, 1),
    "images, transposed": lambda: torch.rand(2, 1, 5, 4).transpose(2, 3),
    "no dimensions": lambda: torch.rand(()),
}
WEIGHTS = {"weight": torch.rand(3, 1, 1), "pos_weight": torch.rand(5)}


def losses(name: str, **options: Any) -> tuple[Call, Call]:
    def of(library: Any) -> Call:
        return lambda x, target: getattr(library, name)(x, target, **options)

    return of(fusedgrad), of(F)


FUNCTIONS: dict[str, tuple[Call, Call]] = {
    f"{name}, {reduction}{', weighted' if weighted else ''}": losses(
        name, reduction=reduction, **{key: WEIGHTS[key] for key in weighted}
    )
    for name, weights in (
        ("binary_cross_entropy", [(), ("weight",)]),
        ("binary_cross_entropy_with_logits", [(), ("weight",), ("weight", "pos_weight")]),
    )
    for weighted in weights
    for reduction in ("none", "mean")
}
FUNCTIONS["binary_cross_entropy_with_logits, pos_weight of the shape"] = losses(
    "binary_cross_entropy_with_logits", reduction="none", pos_weight=FULL["channels last"]()
)
FUNCTIONS["pow"] = (fusedgrad.pow, torch.pow)
FUNCTIONS["pow of a number"] = (
    lambda x, exponent: fusedgrad.pow(x * 1.0, 2.5) + fusedgrad.pow(2.5, exponent * 1.0),
    lambda x, exponent: torch.pow(x * 1.0, 2.5) + torch.pow(2.5, exponent * 1.0),
)


def results(function: Call, operands: list[Tensor], mask: tuple[bool, ...], expand: bool) -> Any:
    """The value and the gradients that the mask asks for, of a gradient expanded or not."""
    leaves = [x.detach().requires_grad_(wanted) for x, wanted in zip(operands, mask, strict=True)]
    value = function(*leaves)
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    cotangent = torch.ones(()).expand_as(value) if expand else torch.ones_like(value)
    return [value, *torch.autograd.grad(value, wanted, cotangent)]


def check(name: str, first: Callable[[], Tensor], second: Callable[[], Tensor]) -> None:
    ours, theirs = FUNCTIONS[name]
    operands = [first(), second()]
    for mask in ((True, True), (True, False), (False, True)):
        for expand in (False, True):
            found = results(ours, operands, mask, expand)
            expected = results(theirs, operands, mask, expand)
            assert [x.stride() for x in found] == [x.stride() for x in expected], (mask, expand)
            torch.testing.assert_close(found, expected)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("first", FULL.values(), ids=FULL.keys())
@pytest.mark.parametrize("name", FUNCTIONS.keys())
def test_strides_are_pytorchs(name: str, first: Callable[[], Tensor]) -> None:
    for second in FULL.values():
        check(name, first, second)


@pytest.mark.parametrize("first", FULL.values(), ids=FULL.keys())
def test_strides_of_broadcast_powers_are_pytorchs(first: Callable[[], Tensor]) -> None:
    for second in BROADCAST.values():
        check("pow", first, second)
        check("pow", second, first)

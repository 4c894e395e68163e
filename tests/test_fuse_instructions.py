"""Ordinary Python is proved on every version of Python, by the instructions that it becomes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import fusedgrad
from fusedgrad.fuse import proof

SCALE, TABLE, LIST = 0.5, {"a": 2.0, "b": 3.0}, [1.0, 2.0, 3.0]
FLAG, NOTHING = True, None


def helper(x: Tensor, /, scale: float = 2.0, *rest: Any, shift: float = 0.0, **more: Any) -> Tensor:
    return x * scale + shift + (more["other"] if more else 0.0) + len(rest)


def helper_of_lists(x: Tensor, *rest: float, **more: float) -> Tensor:
    for value in rest:
        x = x + value
    return x * more["a"]


def enclosing(scale: float) -> Callable[[Tensor], Tensor]:
    shift = 1.0

    def inner(x: Tensor) -> Tensor:
        return torch.tanh(x * scale) + shift

    return inner


class Plain:
    """Attributes, methods and a class's own."""

    bias = 0.25

    def __init__(self) -> None:
        self.scale = 3.0
        self.parts = [1.0, 2.0]

    def gate(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return torch.sigmoid(x * scale)

    def __call__(self, x: Tensor) -> Tensor:
        return self.gate(x, scale=self.scale) * self.bias + self.parts[0]


PLAIN = Plain()


class Net(torch.nn.Module):
    """A parameter, a buffer and a child."""

    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
        self.register_buffer("shift", torch.tensor(1.5, dtype=torch.float64))
        self.child = torch.nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x * self.weight) + self.shift


NET = Net()


def comprehension(x: Tensor) -> Tensor:
    two, three = [scale * torch.tanh(x * scale) for scale in LIST if scale > 1]
    return two + three


def hidden_variable(x: Tensor) -> Tensor:
    v = 2.0
    terms = [v * x for v in (1.0, 3.0)]
    return terms[0] * v + terms[1]


def nested(x: Tensor) -> Tensor:
    table = [[row * column for column in (1.0, 2.0)] for row in (3.0, 4.0)]
    return x * table[0][1] + table[1][0]


def loop(x: Tensor) -> Tensor:
    for i, scale in enumerate(LIST):
        if i == 2:
            break
        if scale > 1.5:
            continue
        x = x * scale
    else:
        x = x * 2
    return x


def while_loop(x: Tensor) -> Tensor:
    count = 3
    while count:
        x = torch.tanh(x)
        count -= 1
    return x


def without_gradients(x: Tensor) -> Tensor:
    with torch.no_grad():
        y = x * 2
    return x * y


def context_with_a_name(x: Tensor) -> Tensor:
    with torch.enable_grad() as nothing, torch.no_grad():
        y = x if nothing is None else -x
    return torch.tanh(y) * x


def closure_within(x: Tensor) -> Tensor:
    shift, scale = 0.5, 2.0

    def inner(t: Tensor, power: int = 2, *, bias: float = 1.0) -> Tensor:
        return t**power * scale + shift + bias

    return inner(x) + inner(x, 3, bias=2.0)


def lambda_within(x: Tensor) -> Tensor:
    square: Callable[[Tensor], Tensor] = lambda t: t * t  # noqa: E731
    return square(x) + square(2 * x)


def branches(x: Tensor, kind: str = "soft", by: float | None = None) -> Tensor:
    if by is None and kind != "hard":
        by = 2.0
    if kind in ("soft", "hard") and not (by is not None and by < 0):
        return x * by if by else x
    return x


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "operators": lambda x: -x + 2 * x - x / 3 + x**2 + 1 * x,
    "plus": lambda x: +x * +2.0,
    "comparison": lambda x: torch.where((x > 0) & ~(x >= 2), x, x * 0.5),
    "a choice": lambda x: x * 2 if SCALE < 1 and FLAG else x,
    "a chain": lambda x: x * 2 if 0 < SCALE < 1 else x,
    "or": lambda x: x * (NOTHING or 3.0),
    "none": lambda x: x if NOTHING is None else x * NOTHING,
    "globals": lambda x: x * SCALE + TABLE["a"] + LIST[-1],
    "a slice": lambda x: x * sum(LIST[1:]) if False else x * (1.0, 2.0, 3.0)[1:][0],
    "a slice of numbers": lambda x, n=1: x * (1.0, 2.0, 3.0)[n:][0],
    "keywords": lambda x: helper(x, scale=3.0, shift=1.0),
    "stars": lambda x: helper(x, *(3.0, 4.0), shift=1.0, other=2.0),
    "stars and more": lambda x: helper_of_lists(x, 1.0, *LIST, 2.0, c=1.0, **TABLE),
    "a method": lambda x: PLAIN.gate(x) + PLAIN.gate(x, scale=PLAIN.scale) * PLAIN.bias,
    "methods of a tensor": lambda x: x.tanh().mul(2.0).add(x.sigmoid(), alpha=2.0),
    "a callable": lambda x: PLAIN(x),
    "a module": lambda x: NET(x) * 2,
    "a closure": enclosing(0.5),
    "a closure within": closure_within,
    "a lambda within": lambda_within,
    "a comprehension": comprehension,
    "a hidden variable": hidden_variable,
    "nested comprehensions": nested,
    "a loop": loop,
    "a while loop": while_loop,
    "no gradients": without_gradients,
    "two contexts": context_with_a_name,
    "branches": branches,
    "unpacking": lambda x: helper(*(x, 2.0)),
    "several": lambda x: [a + b for a, b in ((x, 1.0), (x, 2.0))][-1],
}


def served(function: Callable[..., Tensor], x: Tensor) -> tuple[Tensor, str]:
    """A second call, and why it was not served from a record; empty if it was."""
    fused: Any = fusedgrad.fuse(function)
    fused(x)
    return fused(x), fused._reason if not fused._entries else ""


@pytest.mark.usefixtures("without_compiler")  # what runs is told by other tests
@pytest.mark.parametrize("name", FUNCTIONS)
def test_ordinary_python_is_proved(name: str) -> None:
    x = torch.linspace(-2, 3, 7, dtype=torch.float64, requires_grad=True)
    function = FUNCTIONS[name]
    result, reason = served(function, x)
    assert reason == ""
    expected = function(x)
    torch.testing.assert_close(result, expected, rtol=1e-14, atol=1e-14)
    ours, theirs = (torch.autograd.grad(y.sum(), x)[0] for y in (result, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_instructions_of_a_later_python_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "_PYTHON", (3, 99))
    x = torch.linspace(-2, 3, 7, dtype=torch.float64)
    result, reason = served(comprehension, x)
    assert reason.startswith("the instructions of Python 3.")
    assert torch.allclose(result, comprehension(x))

"""The gallery: each activation against mpmath, in its tails, and beside PyTorch's own."""

import math
from collections.abc import Callable
from typing import Any

import mpmath
import pytest
import torch
from mpmath import mp, mpf

from fusedgrad import activations
from fusedgrad.fuse.function import Fused
from ulp import ulp_error

_F = torch.nn.functional


def _sigmoid(x: mpf) -> mpf:
    return 1 / (1 + mp.exp(-x))


def _softplus(x: mpf) -> mpf:
    return mp.log1p(mp.exp(x))


def _focal(x: mpf, t: mpf) -> mpf:
    p = _sigmoid(x)
    miss = 1 - (p * t + (1 - p) * (1 - t))
    loss = t * _softplus(-x) + (1 - t) * _softplus(x)
    return (t / 4 + (1 - t) * 3 / 4) * miss**2 * loss


def _asymmetric(x: mpf, t: mpf) -> mpf:
    q = max(_sigmoid(x) - mpf(0.05), mpf(0))
    return t * _softplus(-x) - (1 - t) * q**4 * mp.log1p(-q)


def _log1mexp(x: mpf) -> mpf:
    return mp.log(-mp.expm1(-x)) if x > 0 else mpf("nan")


def _xielu(x: mpf) -> mpf:
    a = _softplus(mpf(0.8))
    return (a * x * x if x > 0 else (a + 0.5) * (mp.expm1(x) - x)) + x / 2


EXACT: dict[str, Callable[..., mpf]] = {
    "silu": lambda x: x * _sigmoid(x),
    "swiglu": lambda x, gate: x * gate * _sigmoid(gate),
    "gelu": lambda x: x * mp.erfc(-x / mp.sqrt(2)) / 2,
    # (1 + tanh(u)) / 2 = 1 / (1 + exp(-2 u)), which loses no digits for u far below 0
    "gelu_tanh": lambda x: x / (1 + mp.exp(-2 * mp.sqrt(2 / mp.pi) * (x + mpf(0.044715) * x**3))),
    "mish": lambda x: x * mp.tanh(_softplus(x)),
    "softcap": lambda x: 30 * mp.tanh(x / 30),
    "softplus": _softplus,
    "logsigmoid": lambda x: -_softplus(-x),
    "squareplus": lambda x: (x + mp.sqrt(x * x + 4)) / 2,
    "snake": lambda x: x + mp.sin(x) ** 2,
    "focal_loss": _focal,
    "snake_beta": lambda x: x + mp.sin(x) ** 2,
    "squared_relu": lambda x: max(x, mpf(0)) ** 2,
    "xielu": _xielu,
    "log1mexp": _log1mexp,
    "asymmetric_loss": _asymmetric,
    "soft_binary_cross_entropy": lambda x, t: t * _softplus(-x) + (1 - t) * _softplus(x),
}
TWO_ARGUMENTS = ("swiglu", "focal_loss", "asymmetric_loss", "soft_binary_cross_entropy")

BUILTIN: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": _F.silu,
    "gelu": _F.gelu,
    "gelu_tanh": lambda x: _F.gelu(x, approximate="tanh"),
    "mish": _F.mish,
    "softplus": _F.softplus,
    "logsigmoid": _F.logsigmoid,
}

POINTS = [-90.0, -40.0, -18.5, -9.0, -5.5, -2.5, -0.75, -1e-4, 1e-4, 0.5, 2.0, 6.5, 20.0, 85.0]
SECOND = [0.0, 1.0, 0.25]


def _condition(function: Callable[[mpf], mpf], x: mpf) -> float:
    value = function(x)
    return float(abs(x * mpmath.diff(function, x) / value)) if value else float("inf")


def _conditions(function: Callable[..., mpf], numbers: list[mpf]) -> float:
    """Of all arguments together."""
    value = function(*numbers)
    if value == 0:
        return float("inf")
    slopes = [mpmath.diff(function, numbers, order) for order in ((1, 0), (0, 1))]
    return float(sum(abs(n * s / value) for n, s in zip(numbers, slopes, strict=True)))


def _errors(
    name: str, order: int, function: Callable[[torch.Tensor], Any], dtype: torch.dtype
) -> list[tuple[float, float]]:
    """For each point its error over (1 + the condition number), and the point."""
    values = function(torch.tensor(POINTS, dtype=dtype)).tolist()
    result = []

    def exact(x: mpf) -> mpf:
        return mpmath.diff(EXACT[name], x, order) if order else EXACT[name](x)

    with mp.workdps(700 if name == "gelu_tanh" else 200):
        for at, value in zip(torch.tensor(POINTS, dtype=dtype).tolist(), values, strict=True):
            if name == "log1mexp" and at <= 0:
                continue
            true = exact(mpf(at))
            error = ulp_error(value, true, dtype)
            result.append((error / (1 + _condition(exact, mpf(at))) if error else 0.0, at))
    return result


ONE_ARGUMENT = [name for name in EXACT if name not in TWO_ARGUMENTS]


def test_gallery_is_complete() -> None:
    assert set(EXACT) == set(activations.__all__)
    for name in activations.__all__:
        function = getattr(activations, name)
        assert isinstance(function, Fused)
        assert function.__doc__
        assert str(function).startswith(f"{name}(")


@pytest.mark.sampled(8)
@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ONE_ARGUMENT)
def test_exact_in_the_range_and_in_the_tails(name: str, dtype: torch.dtype, order: int) -> None:
    function = getattr(activations, name)
    fused = function.derivative(*[0] * order) if order else function
    errors = _errors(name, order, fused, dtype)
    assert max(errors)[0] <= 8, max(errors)


@pytest.mark.parametrize("name", TWO_ARGUMENTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_exact_of_two_arguments(name: str, dtype: torch.dtype) -> None:
    rows = [(x, second) for x in POINTS for second in SECOND]
    if name == "swiglu":
        rows = [(second + 1, x) for x, second in rows]
    tensors = [torch.tensor(column, dtype=dtype) for column in zip(*rows, strict=True)]
    value, grads = getattr(activations, name).value_and_grad(*tensors)

    def slope(*numbers: mpf) -> mpf:
        return mpmath.diff(EXACT[name], numbers, (1, 0))

    with mp.workdps(120):
        for i, row in enumerate(zip(*(t.tolist() for t in tensors), strict=True)):
            numbers = [mpf(number) for number in row]
            for exact, got in ((EXACT[name], value[i]), (slope, grads[0][i])):
                true = exact(*numbers)
                bound = 8 * (1 + _conditions(exact, numbers))
                assert ulp_error(got.item(), true, dtype) <= bound, (row, got, float(true))


@pytest.mark.parametrize("name", BUILTIN)
def test_no_less_exact_than_pytorch(name: str) -> None:
    ours = _errors(name, 0, getattr(activations, name), torch.float32)
    theirs = _errors(name, 0, BUILTIN[name], torch.float32)
    assert max(ours)[0] <= max(max(theirs)[0], 1.0)


@pytest.mark.parametrize("name", BUILTIN)
def test_derivative_is_exact_where_pytorch_loses_digits(name: str) -> None:
    def derivative_of(function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
        return torch.func.vmap(torch.func.grad(function))

    ours = _errors(name, 1, derivative_of(getattr(activations, name)), torch.float32)
    theirs = _errors(name, 1, derivative_of(BUILTIN[name]), torch.float32)
    assert max(ours)[0] <= 8
    assert max(ours)[0] <= max(max(theirs)[0], 2.0)


@pytest.mark.parametrize("name", sorted(set(activations.__all__) - {"log1mexp"}))
def test_huge_arguments_give_no_nan(name: str) -> None:
    function = getattr(activations, name)
    points = [-1e38, -1e20, 1e20, 1e38]
    if "snake" not in name and name in ONE_ARGUMENT:  # sin(x) has no limit
        points += [-math.inf, math.inf]
    x = torch.tensor(points)
    arguments = (x,) if name in ONE_ARGUMENT else (x, torch.tensor([1.0, 0.0, 1.0, 0.0]))
    value, grads = function.value_and_grad(*arguments)
    assert not value.isnan().any()
    assert not grads[0].isnan().any()


@pytest.mark.sampled(6)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.999, 1.0, 1.5, 2.0])
def test_focal_loss_is_finite_and_exact_for_every_gamma(gamma: float, dtype: torch.dtype) -> None:
    points = [-1e30, -800.0, -200.0, -104.0, -41.0, -39.0, -3.0, 0.0, 3.0, 41.0, 104.0, 200.0, 1e30]
    for target in (0.0, 0.25, 1.0):
        x = torch.tensor(points, dtype=dtype, requires_grad=True)
        t = torch.full_like(x, target, requires_grad=True)
        value = activations.focal_loss(x, t, 0.25, gamma)
        first = torch.autograd.grad(value.sum(), (x, t), create_graph=True)
        second = torch.autograd.grad(first[0].sum(), (x, t))
        for part in (value, *first, *second):
            assert part.isfinite().all(), (target, part)

        def exact(x: mpf, t: mpf) -> mpf:
            miss = (1 - t) * _sigmoid(x) + t * _sigmoid(-x)
            loss = t * _softplus(-x) + (1 - t) * _softplus(x)
            return (t / 4 + (1 - t) * 3 / 4) * miss ** mpf(gamma) * loss

        def by_logit(x: mpf, t: mpf) -> mpf:
            return mpmath.diff(lambda x: exact(x, t), x)

        def by_target(x: mpf, t: mpf) -> mpf:
            return mpmath.diff(lambda t: exact(x, t), t, h=mpf(10) ** -100)

        with mp.workdps(260):
            for i, at in enumerate(x.tolist()):
                # The tail's exponent carries a relative error of x.
                bound = 4 * (1 + abs(at))
                for function, got in ((exact, value), (by_logit, first[0]), (by_target, first[1])):
                    if abs(at) > 300:
                        continue
                    true = function(mpf(at), mpf(target))
                    error = ulp_error(got[i].item(), true, dtype)
                    if function is by_target:  # -0.5 + 0.25 + 0.25 of the loss at gamma 1, target 1
                        rounding = 4 * torch.finfo(dtype).eps * abs(value[i].item())
                        error = 0.0 if abs(mpf(got[i].item()) - true) <= rounding else error
                    assert error <= bound, (function.__name__, at, target, got[i], float(true))


def test_soft_binary_cross_entropy_smooths_and_ignores() -> None:
    x = torch.tensor([1.0, -2.0, torch.inf, 3.0], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([1.0, 0.0, -100.0, 0.0], dtype=torch.float64)
    loss = activations.soft_binary_cross_entropy(x, target, smoothing=0.1)
    kept = torch.tensor([True, True, False, True])
    smooth = torch.tensor([0.9, 0.1, 0.1], dtype=torch.float64)
    expected = _F.binary_cross_entropy_with_logits(x[kept], smooth, reduction="none")
    torch.testing.assert_close(loss[kept], expected)
    assert loss[2] == 0
    (grad,) = torch.autograd.grad(loss.sum(), x)
    assert grad[2] == 0
    torch.testing.assert_close(grad[kept], torch.autograd.grad(expected.sum(), x)[0][kept])


def test_parameters_of_a_channel_have_gradients() -> None:
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    alpha, beta = torch.rand(2, 3, 1, dtype=torch.float64).add(0.5).requires_grad_().unbind()
    for function in (activations.snake_beta, activations.xielu):
        got = torch.autograd.grad(function(x, alpha, beta).sum(), (alpha, beta))
        if function is activations.snake_beta:
            plain = x + torch.sin(alpha * x) ** 2 / beta
        else:
            below = (0.5 + _F.softplus(beta)) * (torch.expm1(x) - x)
            plain = torch.where(x > 0, _F.softplus(alpha) * x * x, below) + 0.5 * x
        torch.testing.assert_close(got, torch.autograd.grad(plain.sum(), (alpha, beta)))


def test_floats_are_parameters() -> None:
    x = torch.linspace(-3, 3, 13, dtype=torch.float64)
    torch.testing.assert_close(activations.softcap(x, 2.5), 2.5 * torch.tanh(x / 2.5))
    torch.testing.assert_close(activations.softplus(x, 3.0), _F.softplus(x, beta=3))
    torch.testing.assert_close(activations.snake(x, a=0.5), x + torch.sin(0.5 * x) ** 2 / 0.5)
    p, t = torch.sigmoid(x), torch.rand(13, dtype=torch.float64)
    miss = 1 - (p * t + (1 - p) * (1 - t))
    loss = _F.binary_cross_entropy_with_logits(x, t, reduction="none")
    expected = (0.5 * t + 0.5 * (1 - t)) * miss**1.5 * loss
    torch.testing.assert_close(activations.focal_loss(x, t, 0.5, 1.5), expected)

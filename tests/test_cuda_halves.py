"""Half types on a device: the bounds of csrc/math/device.h at every input, not at some.

docs/accuracy.md proves those of two operands, which no scan exhausts.
"""

import functools
import itertools

import numpy as np
import pytest
import torch

from cuda_backend import Emulated, contiguous, parameters_of
from cuda_oracles import EXPONENTS, OPERATIONS, Parameter, errors
from unary_functions import UNARY, Array

HALVES = (torch.float16, torch.bfloat16)
MODES = ("exact", "mixed", "low", "high")

# Beside those that have kernels of their own: next to 1 and 0, far out, and not the nearest to e
GENERAL = (*(e for e in EXPONENTS if 2 * e % 1), 10, 1.1, -1 / 3, 1e-3, 0.999, 7, -3, 60.5, -200)


@functools.cache
def device(mode: str) -> Emulated:
    """That rounds the approximate instructions, or moves them by all that is documented."""
    return Emulated(None if mode == "exact" else mode)


def every_half(dtype: torch.dtype, step: int = 1) -> Array:
    """All of its 65,536 numbers, or one in ``step`` beside those next to 0, 1 and infinity."""
    bits = torch.arange(-(1 << 15), 1 << 15).to(torch.int16)
    near = torch.tensor([0.0, 0.5, 1, 2, torch.inf]).to(dtype).view(torch.int16)
    near = (near[:, None] + torch.arange(-4, 5, dtype=torch.int16)).flatten()
    bits = torch.cat([bits[::step], near, near | torch.tensor(-(1 << 15), dtype=torch.int16)])
    return bits.view(dtype).double().numpy()


@np.errstate(all="ignore")
def worst(
    mode: str,
    name: str,
    dtype: torch.dtype,
    values: tuple[Array, ...],
    parameter: Parameter = None,
) -> float:
    """The largest error in ulps."""
    operation = OPERATIONS[name]
    inputs = [contiguous(each, dtype) for each in values]
    numbers = [np.float32(each) for each in parameters_of(parameter)]
    exact = operation.oracle(*(each.exact() for each in inputs), *numbers)
    got = device(mode).elementwise(name, inputs, operation.outputs, parameter)
    return max(float(errors(g, e).max()) for g, e in zip(got, exact, strict=True))


# Every kernel of one operand in each mode, at all inputs; in `make test` at one in 61
STEPS = [
    pytest.param(61, ["mixed"], id="some"),
    pytest.param(1, MODES, id="every", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("step", "modes"), STEPS)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("order", range(3))
def test_powers_by_numbers(order: int, dtype: torch.dtype, step: int, modes: list[str]) -> None:
    x = every_half(dtype, step)
    ones = (np.ones_like(x),) * order
    name = "pow_scalar" + ["", "_backward", "_double_backward"][order]
    for mode, exponent in itertools.product(modes, (*EXPONENTS, *GENERAL)):
        found = worst(mode, name, dtype, (*ones, x), (exponent, 1) if order else exponent)
        assert found <= 0.51, (mode, exponent)


@pytest.mark.parametrize(("step", "modes"), STEPS)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", UNARY)
def test_functions_of_one_tensor(
    name: str, dtype: torch.dtype, step: int, modes: list[str]
) -> None:
    x = every_half(dtype, step)
    x = x[np.isfinite(x)]  # the oracle's forms are NaN at infinity
    for mode in modes:
        assert worst(mode, name, dtype, (x,)) <= 0.51, mode
        assert worst(mode, f"{name}_backward", dtype, (np.ones_like(x), x), 1.0) <= 0.51, mode


@pytest.mark.parametrize(("step", "modes"), STEPS)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("target", [0.0, 1, 0.3])
def test_losses(target: float, dtype: torch.dtype, step: int, modes: list[str]) -> None:
    x = every_half(dtype, step)
    x = x[np.isfinite(x)]
    p = x[(x >= 0) & (x <= 1)]
    for mode in modes:
        for name, values in (
            ("binary_cross_entropy_with_logits", x),
            ("binary_cross_entropy", p),
        ):
            targets = np.full_like(values, target)
            ones = np.ones_like(values)
            assert worst(mode, name, dtype, (values, targets)) <= 0.51, (mode, name)
            backward = worst(mode, f"{name}_backward", dtype, (ones, values, targets), 1.0)
            assert backward <= 0.51, (mode, name)
        logs = (np.ones_like(p), p, np.full_like(p, target), np.ones_like(p))
        assert worst(mode, "binary_cross_entropy_backward_target", dtype, logs, 1.0) <= 0.51, mode


def operands_of_a_power(dtype: torch.dtype, count: int, seed: int) -> tuple[Array, Array]:
    """Bases of every size and exponents such that powers are of every size, subnormal ones too,
    a third of the bases next to 1, where the logarithm is another; and any bits."""
    random = np.random.default_rng(seed)
    lowest, highest = (-25, 16) if dtype == torch.float16 else (-134, 128)
    x = np.exp2(random.uniform(lowest, highest, count))
    x = np.where(random.random(count) < 1 / 3, np.exp2(random.uniform(-1.1, 1.1, count)), x)
    x = torch.tensor(x).to(dtype).double().numpy()
    with np.errstate(all="ignore"):
        e = random.uniform(lowest, highest, count) / np.log2(x)
    e = np.where(random.random(count) < 0.2, np.rint(e), e)
    x = np.where(random.random(count) < 0.1, -x, x)
    bits = torch.from_numpy(random.integers(-(1 << 15), 1 << 15, (2, count // 8), np.int16))
    any_x, any_e = bits.view(dtype).double().numpy()
    e = torch.tensor(e).to(dtype).double().numpy()
    return np.concatenate([x, any_x]), np.concatenate([e, any_e])


COUNTS = [2_000, pytest.param(400_000, marks=pytest.mark.slow)]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_powers_of_two_operands(dtype: torch.dtype, mode: str, count: int) -> None:
    x, e = operands_of_a_power(dtype, count, 0)
    assert worst(mode, "pow", dtype, (x, e)) <= 0.51
    # Of a negative base the oracle, in long double, takes e - 1 for an integer for a tiny e.
    known = (
        np.isfinite(x)
        & np.isfinite(e)
        & ((x > 0) | (x < 0) & (abs(e) > 2.0**-40) & (abs(e) < 2.0**40))
    )
    x, e = x[known], e[known]
    ones = np.ones_like(x)
    assert worst(mode, "pow_backward_input", dtype, (ones, x, e)) <= 0.51
    assert worst(mode, "pow_backward_exponent", dtype, (ones, x, e)) <= 0.51
    if dtype == torch.float16:  # gradients that bring a power from beyond the range back into it
        grads = np.exp2(np.random.default_rng(1).uniform(-20, 15.9, x.size))
        assert worst(mode, "pow_backward_input", dtype, (grads, x, e)) <= 0.525


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_sum_is_rounded_once(dtype: torch.dtype) -> None:
    """2049 and 257 lie between two halves; what the scale adds a float would drop."""
    terms = (1025.0, 1024) if dtype == torch.float16 else (129.0, 128)
    x = contiguous(np.array(terms), dtype)
    zeros = contiguous(np.zeros(2), dtype)
    name = "binary_cross_entropy_with_logits_sum"
    got = device("exact").sum(name, [x, zeros], 1 + 2.0**-30)
    assert got.item() == sum(terms) + 1

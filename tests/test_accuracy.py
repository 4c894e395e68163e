"""The largest errors of every kernel, in ULP, against the C library in a wider type and mpmath.

The scans run in C++ (csrc/accuracy), over the kernels themselves. By default they visit one float32
in 2039 and every place where a formula changes; `make test-slow` takes the values and gradients of
the functions of one variable through all 2**32, half a minute each on two processors, and what has
two variables or two derivatives through one in 509.
"""

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch
from mpmath import mp, mpf
from numpy.typing import NDArray

import fusedgrad
from fusedgrad import _C

TARGETS = (0.0, 1.0, 0.3)
EXPONENTS = (2.0, 3.0, 0.5, -0.5, -1.0, -2.0, 2.5, 1 / 3, 10.0, -7.3)

# (function, parameters, bound in float32, bound in float64)
BOUNDS: list[tuple[str, tuple[float, ...], float, float]] = [
    ("sigmoid", (0.0,), 1.2, 1.2),
    ("sigmoid_derivative", (0.0,), 2.5, 2.5),
    ("sigmoid_second_derivative", (0.0,), 2.5, 2.5),
    ("tanh", (0.0,), 1.2, 1.5),
    ("tanh_derivative", (0.0,), 2.5, 2.5),
    ("tanh_second_derivative", (0.0,), 2.5, 2.5),
    ("binary_cross_entropy_with_logits", TARGETS, 1.5, 2.0),
    ("binary_cross_entropy_with_logits_derivative", TARGETS, 2.5, 2.2),
    ("binary_cross_entropy_with_logits_second_derivative", TARGETS, 2.5, 2.5),
    ("pow_scalar", EXPONENTS, 2.0, 2.0),
    ("pow_scalar_base_derivative", EXPONENTS, 2.5, 2.5),
    ("pow_scalar_base_second_derivative", EXPONENTS, 4.0, 4.0),
    ("pow", EXPONENTS, 0.7, 1.1),
    ("pow_base_derivative", EXPONENTS, 0.7, 2.0),
    ("pow_base_second_derivative", EXPONENTS, 4.0, 4.0),
    ("pow_exponent_derivative", EXPONENTS, 0.7, 3.0),
    ("pow_exponent_second_derivative", EXPONENTS, 4.0, 4.0),
]
CASES = [(name, p, f, d) for name, parameters, f, d in BOUNDS for p in parameters]
PROBABILITY_BOUNDS = [
    ("binary_cross_entropy", 2.5, 2.5),
    ("binary_cross_entropy_derivative", 2.5, 2.5),
    ("binary_cross_entropy_second_derivative", 4.0, 4.0),
]

BITS = {"float64": np.uint64, "float32": np.uint32, "float16": np.uint16, "bfloat16": np.uint16}
# Prime, so that a strided scan meets all last digits
STRIDE, SLOW_STRIDE = 2039, 509


def check(errors: _C.Errors, bound: float) -> None:
    witness = (
        f"at {errors.input!r} ({errors.parameter!r}): got {errors.got!r}, want {errors.want!r}"
    )
    assert errors.wrong == 0, f"{errors.wrong} results wrong in kind or sign, {witness}"
    assert errors.max_ulp <= bound, f"{errors.max_ulp} ULP {witness}"
    assert errors.count > 0


def bits_of(value: float, dtype: str) -> int:
    return int(np.array(value, dtype).view(BITS[dtype])[()])


def neighbourhoods(dtype: str, centres: list[float], radius: int) -> NDArray[np.generic]:
    """The numbers next to each centre and to its negative, by their bits."""
    steps = np.arange(-radius, radius + 1)
    positive = np.concatenate([bits_of(c, dtype) + steps for c in centres])
    width = np.dtype(BITS[dtype]).itemsize * 8
    # Some steps lead beyond infinity, to NaNs, which have exact results too.
    bits = positive[positive >= 0].astype(BITS[dtype])
    return np.concatenate([bits, bits | BITS[dtype](1 << (width - 1))])


def special_points(dtype: str) -> NDArray[np.generic]:
    """Where a formula changes: zeros, infinities, underflow, reductions by ln 2, the root of 2."""
    info = np.finfo(dtype)
    centres = [0.0, float(info.tiny), float(info.max), math.inf, 1.0, 0.5, 2.0, 0.3, 3.0]
    centres += [math.sqrt(2) * 2.0**k for k in range(-3, 3)]
    centres += [math.log(2) * (k + 0.5) for k in range(40)]
    centres += [math.log(2) * (k + 0.5) / 2 for k in range(40)]
    centres += [-math.log(float(info.tiny)), -math.log(float(info.smallest_subnormal))]
    centres += [110.0, 745.0, 750.0, math.log(7 / 3), 2.0**24, 2.0**53]
    return neighbourhoods(dtype, centres, 300)


def vanishes_inside(name: str, parameter: float) -> bool:
    """Whether the gradient is 0 at some x, next to which float64 keeps no bound in ULP."""
    return name == "binary_cross_entropy_with_logits_derivative" and 0 < parameter < 1


@pytest.mark.parametrize(("name", "parameter", "bound", "_"), CASES)
def test_float32_at_one_number_in_2039(name: str, parameter: float, bound: float, _: float) -> None:
    check(_C.scan(name, "float32", 0, 2**32, STRIDE, parameter), bound)


EVERY = [case for case in CASES if "second" not in case[0] and not case[0].startswith("pow")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parameter", "bound", "_"), [case for case in CASES if case not in EVERY]
)
def test_float32_at_one_number_in_509(name: str, parameter: float, bound: float, _: float) -> None:
    check(_C.scan(name, "float32", 0, 2**32, SLOW_STRIDE, parameter), bound)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "parameter", "bound", "_"), EVERY)
def test_float32_at_every_number(name: str, parameter: float, bound: float, _: float) -> None:
    errors = _C.scan(name, "float32", 0, 2**32, 1, parameter)
    assert errors.count == 2**32
    check(errors, bound)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "parameter", "float_bound", "double_bound"), CASES)
def test_special_points(
    name: str, parameter: float, float_bound: float, double_bound: float, dtype: str
) -> None:
    points = special_points(dtype)
    if dtype == "float64" and vanishes_inside(name, parameter):
        points = points[np.abs(points.view(np.float64)) > 2]
    bound = float_bound if dtype == "float32" else double_bound
    parameters = np.full(points.shape, parameter)
    check(_C.scan_samples(name, dtype, points, parameters), bound)


@pytest.mark.sampled(6)
@pytest.mark.parametrize(("name", "parameter", "_", "bound"), CASES)
def test_float64_samples(name: str, parameter: float, _: float, bound: float) -> None:
    """A hundred thousand over all exponents and both signs, and as many where values vary most."""
    low = 2.0 if vanishes_inside(name, parameter) else 2.0**-30
    if not vanishes_inside(name, parameter):
        check(_C.scan(name, "float64", 0, 2**64 - 1, 2**64 // 100_003, parameter), bound)
    for sign in (0, 2**63):
        begin, end = sign + bits_of(low, "float64"), sign + bits_of(800.0, "float64")
        check(_C.scan(name, "float64", begin, end, (end - begin) // 100_003, parameter), bound)


def test_float64_gradient_of_a_soft_target_has_the_digits_of_its_terms() -> None:
    """Where sigmoid(x) is close to the target, half an ULP of the target is all float64 keeps."""
    x = torch.linspace(-1.5, 0, 100_001, dtype=torch.float64).requires_grad_()
    t = torch.full_like(x, 0.3)
    loss = fusedgrad.binary_cross_entropy_with_logits(x, t, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, x)
    wide = x.detach().numpy().astype(np.longdouble)
    exact = 1 / (1 + np.exp(-wide)) - np.longdouble(0.3)
    error = np.abs(gradient.numpy() - exact)
    assert float(error.max()) <= 2 * 2.0**-54


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("name", "float_bound", "double_bound"), PROBABILITY_BOUNDS)
def test_losses_of_probabilities(
    name: str, float_bound: float, double_bound: float, target: float
) -> None:
    one = bits_of(1.0, "float32")
    check(_C.scan(name, "float32", 0, one + 1, 101, target), float_bound)
    check(_C.scan(name, "float32", one - 100_000, one + 1, 1, target), float_bound)
    one = bits_of(1.0, "float64")
    check(_C.scan(name, "float64", 0, one + 1, one // 300_007, target), double_bound)
    begin = bits_of(2.0**-30, "float64")
    check(_C.scan(name, "float64", begin, one, (one - begin) // 300_007, target), double_bound)


# Soft targets leave many saturated losses, multiples of x, a hair from a tie between two halves,
# which no result that is rounded to float32 first can break.
HALF_TARGETS = (0.0, 1.0)
HALF_CASES = [
    *((name, 0.0) for name in ("sigmoid", "sigmoid_derivative", "tanh", "tanh_derivative")),
    *(("binary_cross_entropy_with_logits", t) for t in HALF_TARGETS),
    *(("binary_cross_entropy_with_logits_derivative", t) for t in HALF_TARGETS),
    *(("pow_scalar", e) for e in EXPONENTS),
    *(("pow_scalar_base_derivative", e) for e in EXPONENTS),
]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(("name", "parameter"), HALF_CASES)
def test_half_types_are_correctly_rounded(name: str, parameter: float, dtype: str) -> None:
    """But for one input in a thousand, which is next to a tie."""
    errors = _C.scan(name, dtype, 0, 2**16, 1, parameter)
    check(errors, 0.51)
    assert errors.count == 2**16
    assert errors.misrounded <= 65


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_convert_as_torch_converts_them(dtype: torch.dtype) -> None:
    """Squares overflow, become subnormal and meet ties, so that no branch goes unseen."""
    x = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    torch.testing.assert_close(
        fusedgrad.pow(x, 2), (x.float() ** 2).to(dtype), rtol=0, atol=0, equal_nan=True
    )


def random_numbers(count: int, low: float, high: float, seed: int) -> NDArray[np.float64]:
    """Of both signs, with logarithms spread evenly."""
    generator = np.random.default_rng(seed)
    sizes = np.exp2(generator.uniform(low, high, count))
    return np.where(generator.random(count) < 0.5, sizes, -sizes)


POW_CASES = [
    (name, dtype, bound)
    for name, bound_in_float, bound_in_double in (
        ("pow", 0.8, 1.1),
        ("pow_base_derivative", 0.8, 2.0),
        ("pow_base_second_derivative", 4.0, 4.0),
        ("pow_exponent_derivative", 0.8, 3.0),
        ("pow_exponent_second_derivative", 4.0, 4.0),
    )
    for dtype, bound in (("float32", bound_in_float), ("float64", bound_in_double))
]


@pytest.mark.parametrize(("name", "dtype", "bound"), POW_CASES)
def test_pow_of_random_operands(name: str, bound: float, dtype: str) -> None:
    """Exponents such that most powers are finite, integers at negative bases among them."""
    count, info = 100_000, np.finfo(dtype)
    x = random_numbers(count, info.minexp - info.nmant, info.maxexp - 1, 1).astype(dtype)
    scale = np.abs(np.log2(np.abs(x.astype(np.float64))))
    generator = np.random.default_rng(2)
    e = generator.uniform(-1.2, 1.2, count) * info.maxexp / np.maximum(scale, 2.0**-60)
    e = np.where(generator.random(count) < 0.3, np.rint(e), e).astype(dtype)
    powers = e.astype(np.float64) * np.log2(np.abs(x.astype(np.float64)))
    assert np.count_nonzero(np.abs(powers) < info.maxexp - 2) > count // 2
    check(_C.scan_samples(name, dtype, x, e.astype(np.float64)), bound)


@pytest.mark.parametrize(("name", "dtype", "bound"), POW_CASES)
def test_pow_close_to_one_with_great_exponents(name: str, bound: float, dtype: str) -> None:
    count, digits = 100_000, {"float32": 24, "float64": 53}[dtype]
    generator = np.random.default_rng(3)
    x = (1 + random_numbers(count, -digits, -2, 4)).astype(dtype)
    distance = np.maximum(np.abs(np.log(x.astype(np.longdouble))), 2.0**-60).astype(np.float64)
    e = (generator.uniform(-90, 90, count) / distance).astype(dtype)
    check(_C.scan_samples(name, dtype, x, e.astype(np.float64)), bound)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pow_special_cases_are_those_of_c(dtype: str) -> None:
    info = np.finfo(dtype)
    numbers = [0.0, float(info.smallest_subnormal), float(info.tiny), 0.5, 1.0, 1.5, 2.0, 3.0, 4.0]
    numbers += [float(np.nextafter(info.dtype.type(1), info.dtype.type(side))) for side in (0, 2)]
    numbers += [2.0**23 - 1, 2.0**23 + 1, 2.0**24, 2.0**53 - 1, float(info.max), math.inf, math.nan]
    numbers += [-number for number in numbers]
    pairs = np.array([(x, e) for x in numbers for e in numbers])
    x = pairs[:, 0].astype(dtype)
    check(_C.scan_samples("pow", dtype, x, pairs[:, 1].astype(dtype).astype(np.float64)), 1.1)


def test_a_power_does_not_depend_on_its_neighbours() -> None:
    """One extraordinary base in a block sends all of it through the form for every operand."""
    generator = torch.Generator().manual_seed(6)
    x = torch.rand(4096, generator=generator) * 4 + 2**-20
    e = torch.rand(4096, generator=generator) * 28 - 14
    grad = torch.randn(4096, generator=generator)

    def results(x: torch.Tensor) -> list[torch.Tensor]:
        ops = torch.ops.fusedgrad
        found = [ops.pow(x, -7.3), ops.pow_backward(grad, x, -7.3), ops.pow(x, e)]
        for mask in ([True, True], [True, False], [False, True]):
            found += ops.pow_backward(grad, x, e, mask)
        return [result[1:] for result in found]

    for neighbour in (0.0, -1.0, math.inf, 2.0**100):
        other = x.clone()
        other[0] = neighbour
        for expected, found in zip(results(x), results(other), strict=True):
            assert torch.equal(expected, found)


FORMULAS: list[tuple[str, float, Callable[[mpf], mpf]]] = [
    ("sigmoid", 0.0, lambda x: 1 / (1 + mp.exp(-x))),
    ("sigmoid_derivative", 0.0, lambda x: mp.exp(-x) / (1 + mp.exp(-x)) ** 2),
    ("tanh", 0.0, lambda x: mp.tanh(x)),
    ("tanh_derivative", 0.0, lambda x: mp.sech(x) ** 2),
    ("tanh_second_derivative", 0.0, lambda x: -2 * mp.tanh(x) * mp.sech(x) ** 2),
    ("binary_cross_entropy_with_logits", 0.0, lambda x: mp.log1p(mp.exp(x))),
    ("binary_cross_entropy_with_logits_derivative", 1.0, lambda x: -1 / (1 + mp.exp(x))),
    ("pow_scalar", 2.5, lambda x: abs(x) ** mpf(2.5)),
    ("pow_exponent_derivative", 2.5, lambda x: abs(x) ** mpf(2.5) * mp.log(abs(x))),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "parameter", "formula"), FORMULAS)
def test_the_oracle_agrees_with_mpmath(
    name: str, parameter: float, formula: Callable[[mpf], mpf], dtype: str
) -> None:
    """What the scans compare with is itself within a thousandth of half an ULP."""
    x = np.abs(random_numbers(200, -20, 6, 5)).astype(dtype)
    with mp.workdps(60):
        exact = [formula(mpf(float(value))) for value in x]
        results = np.array([np.dtype(dtype).type(mpmath.nstr(value, 40)) for value in exact])
    errors = _C.ulp_errors(name, dtype, x, results, np.full(x.shape, parameter))
    check(errors, 0.5005)


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_the_scan_catches_a_derivative_taken_from_the_rounded_value(name: str) -> None:
    """The formulas that PyTorch's own derivatives use."""
    x = np.linspace(-30, 30, 100_001, dtype=np.float32)
    y = getattr(torch, name)(torch.from_numpy(x)).numpy()
    one = np.float32(1)
    derivative = (one - y) * y if name == "sigmoid" else one - y * y
    errors = _C.ulp_errors(f"{name}_derivative", "float32", x, derivative)
    assert errors.max_ulp > 1e4


def test_the_scan_sees_the_sign_of_zero_and_what_is_no_number() -> None:
    x = np.array([-0.0, math.inf, math.nan, 0.5], np.float32)
    right = np.array([-0.0, 1.0, math.nan, math.tanh(0.5)], np.float32)
    assert _C.ulp_errors("tanh", "float32", x, right).wrong == 0
    for index, value in ((0, 0.0), (1, math.nan), (2, 1.0), (3, -right[3])):
        results = right.copy()
        results[index] = value
        assert _C.ulp_errors("tanh", "float32", x, results).wrong == 1
    results = np.nextafter(right, np.float32(2))
    results[0] = right[0]
    assert _C.ulp_errors("tanh", "float32", x, results).max_ulp > 0.5


def test_approximations_are_those_that_the_script_finds() -> None:
    script = Path(__file__).resolve().parent.parent / "tools" / "minimax.py"
    check_run = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert check_run.returncode == 0, check_run.stdout + check_run.stderr

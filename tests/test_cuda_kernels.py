"""The kernels of csrc/cuda, through their launchers, on an emulated device; and the same checks on
torch's CPU and CUDA devices, through the operators."""

import functools
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from cuda_backend import (
    DTYPES,
    ON_CUDA,
    Backend,
    Emulated,
    LaunchError,
    Operand,
    Operators,
    contiguous,
    expanded,
    flipped,
    launchers,
    library,
    misaligned,
    on_host,
    parameters_of,
    permuted,
    source_of,
    spaced,
)
from cuda_mutation import copied
from cuda_oracles import (
    OPERATIONS,
    SUMS,
    Parameter,
    bound,
    errors,
    largest_error,
    numbers,
)

SIZES = (0, 1, 15, 16, 17, 127, 129, 4095, 4097, 100_000)
# One more than a tile of the kernel with the largest: full blocks and a tail in every kernel.
MORE_THAN_A_TILE = 2049

BACKENDS = ["emulated", "cpu", ON_CUDA]

# Of approximate instructions: each operand's result moved by its own sign, or all in one way.
WORST_CASES = [
    "mixed",
    pytest.param("low", marks=pytest.mark.slow),
    pytest.param("high", marks=pytest.mark.slow),
]


@functools.cache
def backend_of(name: str) -> Backend:
    return Emulated() if name == "emulated" else Operators(name)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return backend_of(request.param)


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    found: torch.dtype = request.param
    return found


def results(
    backend: Backend, name: str, inputs: Sequence[Operand], parameter: Parameter = None
) -> list[torch.Tensor]:
    return backend.elementwise(name, inputs, OPERATIONS[name].outputs, parameter)


def inputs_of(
    name: str, dtype: torch.dtype, shape: tuple[int, ...], make: Callable[..., Operand] = contiguous
) -> list[Operand]:
    names = OPERATIONS[name].inputs
    return [make(numbers(each, shape, seed), dtype) for seed, each in enumerate(names)]


@np.errstate(all="ignore")  # an oracle evaluates both sides of a choice
def check(
    backend: Backend, name: str, inputs: Sequence[Operand], parameter: Parameter = None
) -> None:
    """The results are within the operation's bound of the mathematics."""
    operation = OPERATIONS[name]
    computed_in = np.float64 if inputs[0].dtype == torch.float64 else np.float32
    parameters = [computed_in(each) for each in parameters_of(parameter)]
    exact = operation.oracle(*(operand.exact() for operand in inputs), *parameters)
    for got, each in zip(results(backend, name, inputs, parameter), exact, strict=True):
        assert largest_error(got, each) <= bound(name, inputs[0].dtype)


def equal(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(x.contiguous(), y.contiguous()) for x, y in zip(a, b, strict=True))


# ---------------------------------------------------------------------------------------- values

WIDE_DTYPES = [torch.float32, torch.float64]


def test_a_power_of_one_is_its_base(backend: Backend) -> None:
    for digits, wide in (("0x1.6be39ap3", torch.float32), ("-0x1.7031f02a4feaep3", torch.float64)):
        x = float.fromhex(digits)
        (got,) = results(backend, "pow_scalar", [contiguous(np.array([x]), wide)], 1.0)
        assert got.item() == x


@pytest.mark.parametrize("wide", WIDE_DTYPES, ids=str)
def test_the_derivative_of_a_power_at_zero_is_infinite(backend: Backend, wide: torch.dtype) -> None:
    tiny = [-20, -120, -123, -126, -140, -149]
    if wide == torch.float64:
        tiny += [-1000, -1020, -1022, -1050, -1074]
    e = np.array([2.0**power for power in tiny])
    grad, zero = np.ones_like(e), np.zeros_like(e)
    first, _ = results(backend, "pow_backward", [contiguous(v, wide) for v in (grad, zero, e)])
    assert first.tolist() == [np.inf] * len(tiny)
    operands = [contiguous(v, wide) for v in (grad, zero, grad, zero, e)]
    _, second, _ = results(backend, "pow_double_backward", operands)
    assert second.tolist() == [-np.inf] * len(tiny)
    for exponent in e:
        operand = contiguous(np.zeros(1), wide)
        (by_number,) = results(
            backend, "pow_scalar_backward", [contiguous(np.ones(1), wide), operand], (exponent, 1)
        )
        assert by_number.tolist() == [np.inf]


LOGITS = "binary_cross_entropy_with_logits_backward_weighted"


@pytest.mark.parametrize("target", [1.0, 0.5, 2.0**-40])
@pytest.mark.parametrize("wide", WIDE_DTYPES, ids=str)
def test_a_huge_weight_of_the_positives_keeps_the_gradients_digits(
    backend: Backend, wide: torch.dtype, target: float
) -> None:
    greatest = 38 if wide == torch.float32 else 307
    furthest = 170 if wide == torch.float32 else 1380
    for power in (1, 9, 28, 29, 33, greatest):
        x = np.linspace(-furthest, furthest, 1001)
        values = (np.ones_like(x), x, np.full_like(x, target), np.ones_like(x))
        weight = np.full_like(x, float(f"3e{power}"))
        check(backend, LOGITS, [contiguous(v, wide) for v in (*values, weight)], 1.0)


def test_an_infinite_weight_of_the_positives_has_an_infinite_gradient(
    backend: Backend, dtype: torch.dtype
) -> None:
    x = np.array([0.0, 1, -1, 50, -50, 200, -200, 2000, -2000, np.inf, -np.inf])
    for target in (1.0, 0.5):
        values = (np.ones_like(x), x, np.full_like(x, target), np.ones_like(x))
        weight = np.full_like(x, np.inf)
        inputs = [contiguous(v, dtype) for v in (*values, weight)]
        (got,) = results(backend, LOGITS, inputs, 1.0)
        assert got.tolist() == [-np.inf] * len(x)


def test_every_launcher_has_an_oracle() -> None:
    assert set(launchers()) == OPERATIONS.keys() | SUMS.keys()


@pytest.mark.sampled(8)
@pytest.mark.parametrize("name", OPERATIONS)
def test_results_are_exact_to_a_few_ulps(backend: Backend, dtype: torch.dtype, name: str) -> None:
    inputs = inputs_of(name, dtype, (MORE_THAN_A_TILE,))
    for parameter in OPERATIONS[name].parameters:
        if "cross_entropy" in name and parameter not in (None, 1) and backend.name != "emulated":
            continue  # a mean has one gradient: test_a_mean_scales_its_gradient
        check(backend, name, inputs, parameter)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("worst_case", WORST_CASES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_halves_keep_their_bounds_for_the_worst_approximate_instructions(
    name: str, worst_case: str
) -> None:
    """Of floats and doubles no bit depends on them: test_cuda_bits.py."""
    worst = _worst(worst_case)
    for half in (torch.float16, torch.bfloat16):
        for parameter in OPERATIONS[name].parameters:
            check(worst, name, inputs_of(name, half, (250,)), parameter)


@functools.cache
def _worst(case: str) -> Emulated:
    return Emulated(case)


@pytest.mark.parametrize("name", ["sigmoid", "sigmoid_backward", "tanh_backward"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_tails_keep_their_digits_where_results_are_subnormal(
    backend: Backend, dtype: torch.dtype, name: str
) -> None:
    furthest = 110 if dtype == torch.float32 else 760
    x = -np.linspace(furthest * 0.75, furthest, 2000) / (2 if name.startswith("tanh") else 1)
    grads = [contiguous(np.ones_like(x), dtype)] if name.endswith("backward") else []
    check(backend, name, [*grads, contiguous(x, dtype)])


@pytest.mark.parametrize("family", ["binary_cross_entropy", "binary_cross_entropy_with_logits"])
def test_a_mean_scales_its_gradient(backend: Backend, dtype: torch.dtype, family: str) -> None:
    shape = (32, 8)
    name = f"{family}_backward"
    grad, x, target = inputs_of(name, dtype, shape)
    scalar = Operand(grad.storage[:1], shape, (0, 0))
    check(backend, name, [scalar, x, target], 1 / 256)


# ------------------------------------------------------------------------------- special values

# A device's NaN has all its lower bits set, which arithmetic on the bits of a float would carry.
SPECIAL = (0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 1e-45, -1e-45, 88.8, -88.8, 3e38, -3e38)


def same_class_and_close(got: torch.Tensor, exact: np.ndarray, most: float) -> bool:
    return bool((errors(got, (exact, np.abs(exact))) <= most).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["sigmoid", "tanh", "sigmoid_backward", "tanh_backward"])
@np.errstate(all="ignore")
def test_special_values(backend: Backend, dtype: torch.dtype, name: str) -> None:
    x = contiguous(np.array(SPECIAL), dtype)
    bits = torch.int32 if dtype == torch.float32 else torch.int64
    x.storage.view(bits)[x.storage.isnan()] = torch.iinfo(bits).max
    grads = [contiguous(np.ones(len(SPECIAL)), dtype)] if name.endswith("backward") else []
    (got,) = results(backend, name, [*grads, x])
    ((exact, _),) = OPERATIONS[name].oracle(*(each.exact() for each in (*grads, x)))
    assert same_class_and_close(got, exact, 4)
    if name == "tanh":
        assert got.signbit().tolist()[:2] == [False, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@np.errstate(all="ignore")
def test_pow_has_the_special_cases_of_c(backend: Backend, dtype: torch.dtype) -> None:
    bases = np.array([*SPECIAL, 2.0, -2.0, 0.5, -0.5])
    exponents = np.array([*SPECIAL[:7], 2.0, 3.0, -2.0, -3.0, 0.5, -0.5, 2.5])
    x, e = (grid.ravel() for grid in np.meshgrid(bases, exponents))
    operands = [contiguous(x, dtype), contiguous(e, dtype)]
    (got,) = results(backend, "pow", operands)
    exact = operands[0].exact() ** operands[1].exact()
    assert same_class_and_close(got, exact, 2)
    assert np.array_equal(got.signbit().numpy()[exact == 0], np.signbit(exact[exact == 0]))


@pytest.mark.parametrize("exponent", [-2, -1, -0.5, 0.5, 1.5, 2, 3, 2.5])
@np.errstate(all="ignore")
def test_powers_with_a_kernel_of_their_own_have_them_too(backend: Backend, exponent: float) -> None:
    x = contiguous(np.array([*SPECIAL[:7], 2.0, -2.0]), torch.float32)
    (got,) = results(backend, "pow_scalar", [x], exponent)
    assert same_class_and_close(got, x.exact() ** np.longdouble(exponent), 2)


def test_a_loss_at_infinite_logits_is_zero_or_infinite(backend: Backend) -> None:
    x = contiguous(np.array([np.inf, -np.inf, np.inf, -np.inf]), torch.float32)
    target = contiguous(np.array([1.0, 0.0, 0.0, 1.0]), torch.float32)
    (loss,) = results(backend, "binary_cross_entropy_with_logits", [x, target])
    assert loss.tolist() == [0, 0, np.inf, np.inf]
    ones = contiguous(np.ones(4), torch.float32)
    (grad,) = results(backend, "binary_cross_entropy_with_logits_backward", [ones, x, target], 1.0)
    assert grad.tolist() == [0, 0, 1, -1]


# ----------------------------------------------------------------------------- sizes and layouts


@pytest.mark.parametrize("size", SIZES)
def test_sizes(backend: Backend, dtype: torch.dtype, size: int) -> None:
    if size == max(SIZES) and dtype != torch.float32:
        size = 10_000  # more tiles than one, and a time that is worth it
    check(backend, "sigmoid_double_backward", inputs_of("sigmoid_double_backward", dtype, (size,)))
    check(backend, "tanh", inputs_of("tanh", dtype, (size,), misaligned))


@pytest.mark.parametrize("shape", [(0,), (3, 0, 2)])
def test_no_elements_launch_nothing(shape: tuple[int, ...]) -> None:
    emulated = Emulated()
    (result,) = emulated.elementwise("sigmoid", inputs_of("sigmoid", torch.float32, shape))
    assert result.shape == shape
    assert emulated.device.launches == []


SHAPE = (5, 7, 33)

LAYOUTS: dict[str, Callable[[np.ndarray, torch.dtype], Operand]] = {
    "misaligned": misaligned,
    "permuted": lambda values, dtype: permuted(values, dtype, (2, 0, 1)),
    "reversed dimensions": lambda values, dtype: permuted(values, dtype, (2, 1, 0)),
    "spaced": lambda values, dtype: spaced(values, dtype, 3),
    "flipped": flipped,
}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_a_layout_changes_no_bit(backend: Backend, dtype: torch.dtype, kind: str) -> None:
    if kind == "flipped" and backend.name != "emulated":
        return  # torch has no negative strides
    name = "sigmoid_double_backward"
    values = [numbers(each, SHAPE, i) for i, each in enumerate(OPERATIONS[name].inputs)]
    expected = results(backend, name, [contiguous(each, dtype) for each in values])
    for first in (LAYOUTS[kind], contiguous):  # alone, and mixed with row-major operands
        makers = (first, LAYOUTS[kind], LAYOUTS[kind])
        operands = [make(each, dtype) for make, each in zip(makers, values, strict=True)]
        assert equal(results(backend, name, operands), expected)


@pytest.mark.parametrize("sizes", [(1, 7, 33), (5, 1, 33), (33,), (5, 7, 1), (1, 1, 1)], ids=str)
def test_broadcasting_changes_no_bit(
    backend: Backend, dtype: torch.dtype, sizes: tuple[int, ...]
) -> None:
    name = "sigmoid_double_backward"
    grad_grad, _, x = (numbers(each, SHAPE) for each in OPERATIONS[name].inputs)
    small = numbers("grad", sizes)
    whole = np.broadcast_to(small, SHAPE)
    expected = results(backend, name, [contiguous(each, dtype) for each in (grad_grad, whole, x)])
    operands = [contiguous(grad_grad, dtype), expanded(small, dtype, SHAPE), contiguous(x, dtype)]
    assert equal(results(backend, name, operands), expected)


@pytest.mark.parametrize("scalars", [{0}, {1}, {2}, {0, 1}, {1, 2}])
def test_scalars_among_aligned_operands_change_no_bit(
    backend: Backend, dtype: torch.dtype, scalars: set[int]
) -> None:
    name, shape = "sigmoid_double_backward", (MORE_THAN_A_TILE,)
    values = [numbers(each, shape, i) for i, each in enumerate(OPERATIONS[name].inputs)]
    for i in scalars:
        values[i] = np.broadcast_to(values[i][:1], shape)
    expected = results(backend, name, [contiguous(each, dtype) for each in values])
    operands = [
        expanded(each[:1], dtype, shape) if i in scalars else contiguous(each, dtype)
        for i, each in enumerate(values)
    ]
    assert equal(results(backend, name, operands), expected)


@pytest.mark.parametrize("immediates", [{0}, {1}, {2}, {0, 1}, {1, 2}])
def test_a_number_on_the_host_is_a_scalar(
    backend: Backend, dtype: torch.dtype, immediates: set[int]
) -> None:
    name, shape = "sigmoid_double_backward", (MORE_THAN_A_TILE,)
    values = [numbers(each, shape, i) for i, each in enumerate(OPERATIONS[name].inputs)]
    scalars, given = (
        [
            place(each, dtype) if i in immediates else contiguous(each, dtype)
            for i, each in enumerate(values)
        ]
        for place in (lambda each, dtype: expanded(each[:1], dtype, shape), on_host)
    )
    assert equal(results(backend, name, given), results(backend, name, scalars))


@pytest.mark.parametrize(
    ("make", "chunk", "tile"), [(contiguous, 512, 2048), (misaligned, 128, 512)]
)
def test_few_elements_take_more_blocks(make: Callable[..., Operand], chunk: int, tile: int) -> None:
    """Up to as many as a device holds at once, here two."""
    emulated = Emulated()
    chunks = range(chunk, 3 * chunk, chunk)
    for size in (1, *(n + i for n in (*chunks, tile, 2 * tile) for i in (-1, 0, 1))):
        check(emulated, "sigmoid", inputs_of("sigmoid", torch.float32, (size,), make))
        (blocks, _, _) = emulated.device.grids[-1]
        assert blocks == -(-size // (chunk if size <= 2 * chunk else tile)), size


def check_that_strided_kernels_take_no_numbers(emulated: Emulated, name: str) -> None:
    inputs = inputs_of(name, torch.float32, (MORE_THAN_A_TILE,), misaligned)
    _check_that_none_is_taken(inputs, lambda given: results(emulated, name, given))


def check_that_sums_take_no_numbers(emulated: Emulated, name: str) -> None:
    inputs = sum_inputs(name, torch.float32, (MORE_THAN_A_TILE,))
    _check_that_none_is_taken(inputs, lambda given: [emulated.sum(name, given, 1.0)])


def _check_that_none_is_taken(
    inputs: Sequence[Operand], call: Callable[[Sequence[Operand]], object]
) -> None:
    call(inputs)
    with pytest.raises(LaunchError, match="returned 1"):  # cudaErrorInvalidValue
        call([*inputs[:-1], on_host(inputs[-1].exact(), torch.float32)])


def test_a_number_on_the_host_is_no_operand_of_strided_kernels_and_sums() -> None:
    check_that_strided_kernels_take_no_numbers(Emulated(), "tanh_backward")
    check_that_sums_take_no_numbers(Emulated(), "binary_cross_entropy_sum")


def test_sixteen_dimensions(backend: Backend) -> None:
    shape = (2, 1, 3) + (2,) * 8 + (1, 1, 3, 1, 2)
    order = list(range(16))
    np.random.default_rng(0).shuffle(order)
    values = [numbers("grad", shape), numbers("x", shape)]
    expected = results(
        backend, "sigmoid_backward", [contiguous(each, torch.float32) for each in values]
    )
    operands = [contiguous(values[0], torch.float32), permuted(values[1], torch.float32, order)]
    assert equal(results(backend, "sigmoid_backward", operands), expected)


def test_outputs_need_no_alignment_and_may_be_an_input(dtype: torch.dtype) -> None:
    emulated = backend_of("emulated")
    assert isinstance(emulated, Emulated)
    inputs = inputs_of("sigmoid_backward", dtype, (MORE_THAN_A_TILE,))
    expected = emulated.elementwise("sigmoid_backward", inputs)
    assert equal(emulated.elementwise("sigmoid_backward", inputs, output_offset=1), expected)
    assert equal(emulated.elementwise("sigmoid_backward", inputs, in_place=True), expected)


# -------------------------------------------------------------------------------------- the sums


def sum_inputs(
    name: str, dtype: torch.dtype, shape: tuple[int, ...], make: Callable[..., Operand] = contiguous
) -> list[Operand]:
    return inputs_of(SUMS[name], dtype, shape, make)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize("size", [1, 17, MORE_THAN_A_TILE, 10_000])
def test_a_sum_is_exact_to_few_ulps(
    backend: Backend, dtype: torch.dtype, name: str, size: int
) -> None:
    inputs = sum_inputs(name, dtype, (size,))
    (exact,) = OPERATIONS[SUMS[name]].oracle(*(operand.exact() for operand in inputs))
    for scale in (1.0, 1.0 / size):
        value, magnitude = (np.longdouble(scale) * np.sum(part) for part in exact)
        assert largest_error(backend.sum(name, inputs, scale), (value, magnitude)) <= 3


def test_a_sum_loses_no_small_terms(backend: Backend) -> None:
    """Each thread of a kernel meets one large term, then seven that it alone would swallow."""
    place = np.arange(10_240)
    large = (place % 4 == 0) & (place % 1024 < 512)
    x = contiguous(np.where(large, 2.0**20, -2.78), torch.float32)
    target = contiguous(np.zeros(place.shape), torch.float32)
    ((losses, _),) = OPERATIONS["binary_cross_entropy_with_logits"].oracle(
        x.exact(), target.exact()
    )
    got = backend.sum("binary_cross_entropy_with_logits_sum", [x, target], 1.0)
    assert largest_error(got, (losses.sum(), losses.sum())) <= 1


def test_a_sum_is_the_same_bit_for_bit(backend: Backend, dtype: torch.dtype) -> None:
    for make in (contiguous, misaligned):
        inputs = sum_inputs("binary_cross_entropy_with_logits_sum", dtype, (9000,), make)
        first, second = (
            backend.sum("binary_cross_entropy_with_logits_sum", inputs, 1 / 9000) for _ in range(2)
        )
        assert torch.equal(first, second)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_a_sum_reads_any_layout(backend: Backend, dtype: torch.dtype, kind: str) -> None:
    if kind == "flipped" and backend.name != "emulated":
        return  # torch has no negative strides
    name = "binary_cross_entropy_weighted_sum"
    expected = backend.sum(name, sum_inputs(name, dtype, SHAPE), 1.0)
    got = backend.sum(name, sum_inputs(name, dtype, SHAPE, LAYOUTS[kind]), 1.0)
    assert largest_error(got, (expected.double().numpy(), expected.double().numpy())) <= 4


def test_the_sum_of_nothing_is_zero_and_its_mean_is_nan(
    backend: Backend, dtype: torch.dtype
) -> None:
    inputs = sum_inputs("binary_cross_entropy_sum", dtype, (0,))
    assert backend.sum("binary_cross_entropy_sum", inputs, 1.0).item() == 0
    assert backend.sum("binary_cross_entropy_sum", inputs, np.inf).isnan()


def test_a_sum_with_an_infinite_term_is_infinite(backend: Backend) -> None:
    inputs = sum_inputs("binary_cross_entropy_with_logits_sum", torch.float32, (3000,))
    inputs[0].storage[1234] = -np.inf
    inputs[1].storage[1234] = 1
    assert backend.sum("binary_cross_entropy_with_logits_sum", inputs, 1.0).item() == np.inf


def test_one_block_finishes_a_sum_alone() -> None:
    """With the bits that two launches give."""
    emulated = Emulated()
    name = "binary_cross_entropy_with_logits_sum"
    for make in (contiguous, misaligned):
        for size, launches in ((1, 1), (17, 1), (512, 1), (MORE_THAN_A_TILE, 2)):
            emulated.device.launches.clear()
            emulated.sum(name, sum_inputs(name, torch.float32, (size,), make), 0.5)
            assert len(emulated.device.launches) == launches
    x, target = sum_inputs(name, torch.float32, (512,))
    longer = [  # by what has no loss
        contiguous(np.concatenate([x.exact(), np.full(1024, np.inf)]), torch.float32),
        contiguous(np.concatenate([target.exact(), np.ones(1024)]), torch.float32),
    ]
    alone, together = (emulated.sum(name, operands, 0.5) for operands in ([x, target], longer))
    assert torch.equal(alone, together)


def test_a_small_workspace_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    emulated = Emulated()
    monkeypatch.setattr(emulated, "workspace_bytes", lambda numel: 4)  # half of a float's sum
    inputs = sum_inputs("binary_cross_entropy_sum", torch.float32, (10,))
    with pytest.raises(LaunchError):
        emulated.sum("binary_cross_entropy_sum", inputs, 1.0)
    assert emulated.device.launches == []


# ---------------------------------------------------------------------------- the launchers' ways


def test_every_kernel_runs() -> None:
    emulated = Emulated()
    for dtype in DTYPES:
        for make in (contiguous, misaligned):
            for name, operation in OPERATIONS.items():
                for parameter in operation.parameters:
                    results(emulated, name, inputs_of(name, dtype, (40,), make), parameter)
            for name in SUMS:
                emulated.sum(name, sum_inputs(name, dtype, (40,), make), 1.0)
        emulated.sum(name, sum_inputs(name, dtype, (MORE_THAN_A_TILE,)), 1.0)
    compiled = {
        kernel
        for source in sorted({source_of(name) for name in launchers()})
        for ptx in library(source).ptx
        for kernel in re.findall(r"\.entry\s+(\w+)", ptx.read_text())
    }
    assert set(emulated.device.launches) == compiled


# The oldest and the newest: each is compiled anew.
@pytest.mark.parametrize("arch", ["75", pytest.param("120", marks=pytest.mark.slow)])
def test_every_architecture_computes_the_same_bits(dtype: torch.dtype, arch: str) -> None:
    name = "sigmoid_double_backward"
    for make in (contiguous, misaligned):
        inputs = inputs_of(name, dtype, (MORE_THAN_A_TILE,), make)
        assert equal(
            results(_of(arch), name, inputs), results(backend_of("emulated"), name, inputs)
        )


@functools.cache
def _of(arch: str) -> Emulated:
    return Emulated(arch=arch)


@pytest.mark.slow
def test_offsets_beyond_32_bits_are_launched_in_parts(tmp_path: Path) -> None:
    """With the limit brought down to what a small tensor exceeds."""
    small = copied(tmp_path)
    tuning = small / "cuda" / "tuning.h"
    text = tuning.read_text()
    assert "kMaxOffset = INT32_MAX" in text
    tuning.write_text(text.replace("kMaxOffset = INT32_MAX", "kMaxOffset = 1000"))
    parts, whole = Emulated(csrc=small), Emulated()
    name = "sigmoid_double_backward"
    for kind in ("permuted", "flipped"):
        inputs = inputs_of(name, torch.float32, SHAPE, LAYOUTS[kind])
        assert equal(results(parts, name, inputs), results(whole, name, inputs))
    assert len(parts.device.launches) > len(whole.device.launches)

    sums = sum_inputs("binary_cross_entropy_with_logits_sum", torch.float32, SHAPE, misaligned)
    got = parts.sum("binary_cross_entropy_with_logits_sum", sums, 1.0).item()
    expected = whole.sum("binary_cross_entropy_with_logits_sum", sums, 1.0).item()
    assert got == pytest.approx(expected, rel=2e-7)


def test_launchers_ask_nothing_of_the_runtime_but_launches() -> None:
    """So that they synchronise nothing, allocate nothing and may be captured in a graph."""
    allowed = {"cudaGetLastError", "cudaLaunchKernel"}
    for source in sorted({source_of(name) for name in launchers()}):
        printed = subprocess.run(
            ["nm", "-D", "--undefined-only", library(source).path],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        assert set(re.findall(r"\bcuda\w+", printed)) <= allowed


def test_a_wrong_number_of_operands_is_an_error() -> None:
    with pytest.raises(LaunchError):
        Emulated().elementwise("sigmoid", inputs_of("sigmoid_backward", torch.float32, (4,)))

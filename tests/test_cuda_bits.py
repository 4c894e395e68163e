"""The bits of a device are those of the CPU, for floats and doubles: what is proved of one, by a
scan of every float, holds for the other."""

import functools
import re
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from cuda_backend import ON_CUDA, Backend, Emulated, Operand, Operators, contiguous, library
from cuda_machine_code import SOURCES
from cuda_oracles import OPERATIONS, Parameter
from test_cuda_kernels import WIDE_DTYPES, WORST_CASES
from unary_functions import Array

# Of each operation, order and dtype at least so many inputs
COUNTS = [
    pytest.param("emulated", 2_500, id="emulated"),
    pytest.param("emulated", 100_000, id="emulated, many", marks=pytest.mark.slow),
    pytest.param("cuda", 1 << 24, id="cuda", marks=ON_CUDA.marks),
]

# Both sides of each are tried: where a branch or a limit of csrc/math is, where results become
# subnormal, 0 or infinite, or round to a constant.
CUTS = {
    "x": (
        *(0.34, 8, 17, 20, 36, 37, 40, 44, 55, 87.3, 88.7, 96, 103.97, 104, 110, 200, 220),
        *(355, 372, 380, 708.4, 709.8, 745, 760, 1400),
    ),
    "base": (2**-0.5, 1, 2**0.5, 2, 2.0**-60, 2.0**60, 2.0**-126, 2.0**-1022, 2.0**127),
    "exponent": (
        *(*range(-16, 17), 0.5, 1 / 3, 15, 150, 250, 2040, 2.0**24, 2.0**53, 2.0**126),
        *(2.0**-20, 2.0**-123, 2.0**-1020),
    ),
    "probability": (0.0, 1e-12, 0.5, 2**-0.5, 1, 1 - 1e-12, 2.0**-24, 1 - 2.0**-24, 3.7e-44),
    "target": (0.0, 0.3, 0.5, 1),
    "pos_weight": (0.0, 0.5, 1, 3, 2.0**20, 1e29, 3e38, 1e300, np.inf),
    "weight": (0.0, 1, 1 / 3, np.inf),
    "grad": (0.0, 1, 1 / 3, np.inf),
}
# Where results are neither constants nor beyond the range, and where they are subnormal
RANGES = {
    "x": ((-4, 4), (-20, 20), (-110, 110), (-110, -85), (-800, 800)),
    "base": ((0, 2), (0.99, 1.01), (0, 1e3), (-10, 10)),
    "exponent": ((-4, 4), (-16, 16), (-300, 300), (-1100, 1100)),
    "probability": ((0, 1), (0, 1e-6), (0.999, 1)),
    "target": ((0, 1),),
    "pos_weight": ((0.25, 4), (0, 1e6)),
    "weight": ((0.25, 4),),
    "grad": ((-4, 4),),
}


@np.errstate(invalid="ignore", over="ignore")  # signalling NaNs; a float beyond the range
def numbers_that_matter(name: str, count: int, dtype: torch.dtype, seed: int) -> Array:
    """A quarter each: both sides of the cuts, of powers of two, any bits, and the ranges. Of more
    than a million, the rest are any bits."""
    own, integers = (np.float32, np.int32) if dtype == torch.float32 else (np.float64, np.int64)
    name = name.removeprefix("grad_")
    random = np.random.default_rng([seed, *name.encode()])
    lowest, highest = np.iinfo(integers).min, np.iinfo(integers).max
    all_bits = random.integers(
        lowest, highest, max(count - (1 << 20), 0), integers, endpoint=True
    ).view(own)
    count -= all_bits.size
    info = np.finfo(own)
    quarter = count // 4
    powers: Array = np.ldexp(own(1), np.arange(info.minexp - info.nmant, info.maxexp))
    parts = []
    for sided in (np.array([*CUTS[name], 0, 1, np.inf, np.nan, info.max], own), powers):
        chosen: Array = random.choice(sided, quarter)
        near = chosen.view(integers) + random.integers(-3, 4, quarter)
        parts.append(near.astype(integers).view(own) * random.choice([-1, 1], quarter).astype(own))
    parts.append(random.integers(lowest, highest, quarter, integers, endpoint=True).view(own))
    rest = count - 3 * quarter
    low, high = np.array(RANGES[name])[random.integers(len(RANGES[name]), size=rest)].T
    parts.append(low + (high - low) * random.random(rest))
    values: Array = random.permutation(np.concatenate([each.astype(own) for each in parts]))
    values = np.concatenate([values, all_bits])
    if name == "probability":  # what is none is refused
        within = random.random(values.size).astype(own)
        values = np.where((values >= 0) & (values <= 1), values, within)
    return values


# Beside those of cuda_oracles.py: next to 0 and to an integer, and far out
HARD_EXPONENTS = (1e-30, 2.0**-126, 1 + 2.0**-23, -0.0, 1e30, -150, np.inf, np.nan)


def parameters(name: str) -> Iterator[Parameter]:
    """Of the value and of the first two derivatives."""
    for parameter in OPERATIONS[name].parameters:
        if name.startswith("pow_scalar"):
            if not isinstance(parameter, tuple) or parameter[1] == 1:
                yield parameter
        elif name.startswith("binary"):
            if parameter in (None, 1):
                yield parameter
        else:
            yield parameter
            return
    if name == "pow_scalar":
        yield from HARD_EXPONENTS
    elif name.startswith("pow_scalar"):
        yield from ((exponent, 1) for exponent in HARD_EXPONENTS)


# Higher orders are not promised.
NAMES = [name for name in OPERATIONS if "triple" not in name and "derivative" not in name]


@functools.cache
def device(name: str) -> Backend:
    """A GPU, the emulated device, or that with the worst approximate instructions of a mode."""
    return Operators(name) if name == "cuda" else Emulated(None if name == "emulated" else name)


CPU = Operators("cpu")


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """With one NaN: which of them it is no arithmetic promises."""
    wide = tensor.dtype == torch.float64
    return torch.where(tensor.isnan(), torch.nan, tensor).view(torch.int64 if wide else torch.int32)


@np.errstate(all="ignore")
def differences(
    one: Backend, other: Backend, name: str, dtype: torch.dtype, count: int
) -> dict[str, int]:
    """The number of results that differ, of each parameter and output that has any."""
    operation = OPERATIONS[name]
    tried = list(parameters(name))
    each = -(-count // len(tried))
    found = {}
    for seed, parameter in enumerate(tried):
        operands = list(operation.inputs)
        if "probability" in operands:  # of a target other than 0 to 1 nothing is computed
            operands[operands.index("target")] = "probability"
        inputs = [
            contiguous(numbers_that_matter(operand, each, dtype, 10 * seed + i), dtype)
            for i, operand in enumerate(operands)
        ]
        results = [b.elementwise(name, inputs, operation.outputs, parameter) for b in (one, other)]
        for i, (a, b) in enumerate(zip(*results, strict=True)):
            differing = int((bits(a) != bits(b)).sum())
            if differing:
                at = int((bits(a) != bits(b)).nonzero()[0])
                operands = [float(operand.storage[at]).hex() for operand in inputs]
                where = f"{parameter} output {i} at {operands}: {a[at]}, {b[at]}"
                found[where] = differing
    return found


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", WIDE_DTYPES, ids=str)
@pytest.mark.parametrize(("backend", "count"), COUNTS)
def test_a_device_has_the_bits_of_the_cpu(
    name: str, dtype: torch.dtype, backend: str, count: int
) -> None:
    assert differences(device(backend), CPU, name, dtype, count) == {}


@pytest.mark.parametrize("worst_case", WORST_CASES)
@pytest.mark.parametrize("name", NAMES)
def test_no_bit_of_a_float_depends_on_an_approximation(name: str, worst_case: str) -> None:
    """That a GPU may compute in another way than the last."""
    assert differences(device(worst_case), CPU, name, torch.float32, 5_000) == {}


# From -2^(power + 1) to -2^power all floats; in `make test` few, and few of those next to 0, where
# sigmoid is 1/2
BINADES = [
    (None, 1_000_003),
    *((power, 200_003) for power in range(-26, 5)),
    pytest.param(None, 1009, marks=pytest.mark.slow),
    *(pytest.param(power, 1, marks=pytest.mark.slow) for power in range(-26, 5)),
]


@pytest.mark.parametrize(("power", "step"), BINADES)
def test_sigmoid_has_the_bits_of_the_cpu_at_every_float(power: int | None, step: int) -> None:
    """From -32 to 0, where it has digits that 1 - sigmoid has not."""
    end = np.float32(-(2.0**-26 if power is None else 2.0 ** (power + 1))).view(np.uint32)
    first = 0x80000000 if power is None else int(end) - (1 << 23)
    numbers = np.arange(first, int(end) + 1, step, dtype=np.uint32).view(np.float32)
    for part in np.array_split(numbers, -(-numbers.size // (1 << 20))):
        operand = Operand(torch.from_numpy(part), part.shape, (1,))
        got, expected = (
            each.elementwise("sigmoid", [operand])[0] for each in (device("emulated"), CPU)
        )
        assert torch.equal(got.view(torch.int32), expected.view(torch.int32)), part[0]


# What approximates among PTX's instructions, by its documentation
APPROXIMATE = re.compile(r"\b(\w+\.approx[\w.]*|div\.full[\w.]*|tanh[\w.]*|\w+\.rn\.ftz[\w.]*)\s")
RECIPROCAL = re.compile(r"rcp\.approx\.ftz\.f32\s+(%f\d+), (%f\d+);")


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_the_only_approximation_is_a_reciprocal_that_is_corrected(source: str) -> None:
    """By math::inverse, in the kernels of floats and doubles."""
    (ptx,) = library(source).ptx
    kernels = re.split(r"^\.visible \.entry ", ptx.read_text(), flags=re.M)[1:]
    wide = [code for code in kernels if not re.match(r"\w*(6__half|13__nv_bfloat16)", code)]
    assert len(kernels) > len(wide) > 0
    reciprocals = 0
    for code in wide:
        assert set(APPROXIMATE.findall(code)) <= {"rcp.approx.ftz.f32"}
        lines: dict[str, dict[str, None]] = {}  # that name a register
        for line in re.findall(r"^\t(\w.*;)$", code, re.M):
            for register in re.findall(r"%f\d+", line):
                lines.setdefault(register, {})[line] = None
        for r, d in RECIPROCAL.findall(code):
            _, first, last = lines[r]  # the one that makes it, and two more
            e, minus_d, one = matched(rf"fma\.rn\.f32 \t(\S+), (\S+), {r}, (\S+);", first)
            assert f"neg.f32 \t{minus_d}, {d};" in lines[minus_d]
            assert f"mov.f32 \t{one}, 0f3F800000;" in lines[one]
            (correction,) = matched(rf"fma\.rn\.f32 \t\S+, {r}, (\S+), {r};", last)
            assert f"fma.rp.f32 \t{correction}, {e}, {e}, {e};" in lines[correction]
            reciprocals += 1
    assert reciprocals > 0


def matched(pattern: str, line: str) -> tuple[str, ...]:
    found = re.fullmatch(pattern, line)
    assert found, line
    return found.groups()


def test_a_corrected_reciprocal_is_the_nearest_of_any_within_an_ulp() -> None:
    """For every significand d, and the integers that r may be as rcp.approx is documented: the
    steps of math::inverse, in integers and in a type of 64 bits."""
    d = np.arange(1 << 23, 1 << 24, dtype=np.int64)  # times 2^-23
    nearest = ((1 << 48) // d + 1) // 2  # times 2^-24, as r; no quotient is a tie
    below = (1 << 47) // d
    for all_r in (below - 1, below, below + 1, below + 2):
        within = np.abs(all_r * d - (1 << 47)) <= d
        r = all_r[within]
        e = ((1 << 47) - d[within] * r).astype(np.float32).astype(np.longdouble)  # times 2^-47
        exact = e + e * e / 2.0**47
        correction = exact.astype(np.float32)
        upward = np.nextafter(correction, np.float32(np.inf))
        correction = np.where(correction < exact, upward, correction)
        moved = r * correction.astype(np.longdouble) / 2.0**47
        assert (np.abs(moved - np.trunc(moved)) != 0.5).all()
        assert (r + np.rint(moved).astype(np.int64) == nearest[within]).all()

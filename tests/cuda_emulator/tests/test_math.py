"""CUDA's own mathematical functions, run from nvcc's PTX, against long double and scipy.

They are long programs with branches, tables, calls and rounding tricks: an instruction that is a
little wrong shows as an error far above the few units in the last place that CUDA documents.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special

from cuda_emulator import CompiledLibrary, Device, compile_library

Array = NDArray[Any]
COUNT = 700


@pytest.fixture(scope="module", params=["75", "90", "120"])
def library(request: pytest.FixtureRequest) -> CompiledLibrary:
    return compile_library([Path(__file__).with_name("math.cu")], arch=request.param)


def operands(dtype: type) -> tuple[Array, Array]:
    """Numbers of both signs, and positive ones of many magnitudes."""
    rng = np.random.default_rng(3)
    a: Array = rng.uniform(-4, 4, COUNT).astype(dtype)
    b: Array = np.exp(rng.uniform(-20, 5, COUNT)).astype(dtype)
    a[:4], b[:4] = [1e-30, 0.5, -1, 3], [1, 2, 1e-30, 0.75]
    return a, b


def run(library: CompiledLibrary, name: str, a: Array, b: Array) -> Array:
    device = Device()
    with device.loaded(library) as launchers:
        first, second = device.array(a, "a"), device.array(b, "b")
        out = device.empty(a.shape, a.dtype, "out")
        pointers = (ctypes.c_void_p(x.pointer) for x in (out, first, second))
        assert launchers[f"{name}_launch"](*pointers, len(a)) == 0
    return out.numpy()


def units(found: Array, wanted: Array, kind: type) -> float:
    """The largest error in units of the last place."""
    with np.errstate(all="ignore"):
        distance = np.abs(found.astype(np.longdouble) - wanted)
        step = np.spacing(np.abs(wanted).astype(kind)).astype(np.longdouble)
        return float(np.nanmax(distance / step))


# function of long doubles (or doubles), the units CUDA documents for float and for double
FUNCTIONS: dict[str, tuple[Callable[[Array, Array], Array], float, float]] = {
    "exp": (lambda a, b: np.exp(a), 2, 1),
    "exp2": (lambda a, b: np.exp2(a), 2, 1),
    "expm1": (lambda a, b: np.expm1(a), 1, 1),
    "log": (lambda a, b: np.log(b), 1, 1),
    "log2": (lambda a, b: np.log2(b), 1, 1),
    "log1p": (lambda a, b: np.log1p(b), 1, 1),
    "pow": (lambda a, b: np.power(b, a), 4, 2),
    "tanh": (lambda a, b: np.tanh(a), 2, 1),
    "sinh": (lambda a, b: np.sinh(a), 3, 2),
    "atan2": (lambda a, b: np.arctan2(a, b), 3, 2),
    "sin": (lambda a, b: np.sin(a), 2, 2),
    "cos": (lambda a, b: np.cos(a), 2, 2),
    "erf": (lambda a, b: special.erf(a.astype(float)).astype(np.longdouble), 2, 3),
    "sqrt": (lambda a, b: np.sqrt(b), 0.5, 0.5),
    "rsqrt": (lambda a, b: 1 / np.sqrt(b), 2, 1),
    "cbrt": (lambda a, b: np.cbrt(a), 1, 1),
    "hypot": (lambda a, b: np.hypot(a, b), 3, 2),
    "divide": (lambda a, b: a / b, 0.5, 0.5),
}
# an own half unit: results are rounded, and double references are too
SLACK = 0.51


@pytest.mark.sampled(8)
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_function_is_as_exact_as_cuda_documents(
    library: CompiledLibrary, name: str, dtype: type
) -> None:
    function, single, double = FUNCTIONS[name]
    a, b = operands(dtype)
    found = run(library, f"{name}_{'float' if dtype is np.float32 else 'double'}", a, b)
    argument = a
    if name == "sin":  # far enough for the slow path of the argument reduction
        argument = a * dtype(1e6)
    wanted = function(argument.astype(np.longdouble), b.astype(np.longdouble))
    assert units(found, wanted, dtype) <= (single if dtype is np.float32 else double) + SLACK


EXACT: dict[str, Callable[[Array, Array], Array]] = {
    "fmod": np.fmod,
    "round": lambda a, b: np.copysign(np.floor(np.abs(a * 8) + a.dtype.type(0.5)), a),
    "frexp": lambda a, b: np.frexp(b)[0] * 1000 + np.frexp(b)[1].astype(b.dtype),
    "nextafter": np.nextafter,
    "ldexp": lambda a, b: np.ldexp(a, -140 if a.dtype == np.float32 else -1060),
}


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exact_function(library: CompiledLibrary, name: str, dtype: type) -> None:
    a, b = operands(dtype)
    found = run(library, f"{name}_{'float' if dtype is np.float32 else 'double'}", a, b)
    np.testing.assert_array_equal(found, EXACT[name](a, b))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lgamma(library: CompiledLibrary, dtype: type) -> None:
    a, b = operands(dtype)
    found = run(library, f"lgamma_{'float' if dtype is np.float32 else 'double'}", a, b)
    wanted = special.gammaln(b.astype(float))
    tolerance = 1e-6 if dtype is np.float32 else 1e-14
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


def test_intrinsics_of_fast_mathematics(library: CompiledLibrary) -> None:
    a, b = operands(np.float32)
    found = run(library, "fast_float", a, b)
    x, y = a.astype(float), b.astype(float)
    terms = [np.exp(x), np.log(y), np.sin(x), x / y, y**1.5]
    size = np.sum(np.abs(terms), axis=0)
    assert (np.abs(found - np.sum(terms, axis=0)) <= 4e-6 * size).all()


def test_division_of_64_bit_integers(library: CompiledLibrary) -> None:
    a, b = operands(np.float64)
    found = run(library, "ulonglong_double", a, b)
    wanted = (b * 1e15).astype(np.uint64) // (b * 1e3 + 1).astype(np.uint64)
    np.testing.assert_array_equal(found, wanted.astype(np.float64))


@pytest.mark.parametrize("name", ["polynomial", "compare", "exp", "maximum"])
def test_half_function(library: CompiledLibrary, name: str) -> None:
    a, b = (x.astype(np.float16) for x in operands(np.float32))
    found = run(library, f"{name}_half", a, b)
    x, y = a.astype(float), b.astype(float)
    sums = (a + b * b).astype(float)  # each step rounded to half
    wanted = {
        "polynomial": (x * y + sums).astype(np.float16).astype(float),
        "compare": np.where(a > b, -x, y),
        "exp": np.exp(x),
        "maximum": np.maximum(x, y),
    }[name]
    steps = 1 if name == "exp" else 0
    allowed = steps * np.spacing(wanted.astype(np.float16)).astype(float)
    assert (np.abs(found.astype(float) - wanted) <= allowed).all()


@pytest.mark.parametrize("name", ["polynomial", "compare", "exp", "maximum"])
def test_bfloat16_function(library: CompiledLibrary, name: str) -> None:
    if library.arch == "75":
        name = "passed_on"  # no arithmetic on bfloat16: the kernel returns its first operand
    a, b = (x.view(np.uint32) >> 16 for x in operands(np.float32))
    words = [x.astype(np.uint16) for x in (a, b)]
    kernel = "polynomial" if name == "passed_on" else name
    found = wide(run(library, f"{kernel}_bfloat16", *words))
    x, y = (wide(w) for w in words)
    wanted = {
        "polynomial": x * y + rounded(x + rounded(y * y)),
        "compare": np.where(x > y, -x, y),
        "exp": np.exp(x),
        "maximum": np.maximum(x, y),
        "passed_on": x,
    }[name]
    exact = np.abs(found - wanted) <= np.abs(wanted) * (2.0**-7 if name == "exp" else 2.0**-8)
    assert exact.all()


def wide(words: Array) -> Array:
    """bfloat16 bits as doubles."""
    return (words.astype(np.uint32) << 16).view(np.float32).astype(float)


def rounded(values: Array) -> Array:
    """Doubles that are exact in float32, to bfloat16 and back."""
    bits = values.astype(np.float32).view(np.uint32)
    bits = bits + np.uint32(0x7FFF) + (bits >> 16 & 1)
    return wide((bits >> 16).astype(np.uint16))

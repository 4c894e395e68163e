"""The approximate instructions stay within their documented errors, and use them up when asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cuda_emulator.approximations import WorstCase

from .snippets import execute

Array = NDArray[Any]
RNG = np.random.default_rng(1)
WIDE = np.exp2(RNG.uniform(-120, 120, 1000)).astype(np.float32)
NARROW = RNG.uniform(-6, 6, 1000).astype(np.float32)
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")


def ulp(value: Array) -> Array:
    """The distance between floats at a real number."""
    distance: Array = np.spacing(np.abs(value).astype(np.float32)).astype(np.float64)
    return distance


# instruction, operands, real function, error the PTX ISA documents
CASES: list[tuple[str, list[Array], Callable[..., Array], Callable[..., Array]]] = [
    ("ex2.approx.f32", [NARROW * 20], np.exp2, lambda a, v: 2.5 * ulp(v)),
    ("ex2.approx.ftz.f32", [NARROW * 20], np.exp2, lambda a, v: 2.5 * ulp(v)),
    ("lg2.approx.f32", [WIDE], np.log2, lambda a, v: np.maximum(2.0**-22, 2.0**-22 * np.abs(v))),
    ("lg2.approx.f32", [1 + NARROW / 16], np.log2, lambda a, v: np.full(a.shape, 2.0**-22)),
    ("rcp.approx.ftz.f32", [WIDE], lambda a: 1 / a, lambda a, v: ulp(v)),
    ("rsqrt.approx.f32", [WIDE], lambda a: 1 / np.sqrt(a), lambda a, v: 2.0**-22.9 * v),
    ("sqrt.approx.f32", [WIDE], np.sqrt, lambda a, v: 2.0**-23 * v),
    ("sin.approx.f32", [NARROW], np.sin, lambda a, v: np.full(a.shape, 2.0**-20.5)),
    ("cos.approx.f32", [NARROW], np.cos, lambda a, v: np.full(a.shape, 2.0**-20.5)),
    ("sin.approx.f32", [300 + NARROW], np.sin, lambda a, v: np.full(a.shape, 2.0**-14.7)),
    ("cos.approx.f32", [7 + NARROW / 10], np.cos, lambda a, v: np.full(a.shape, 2.0**-14.7)),
    ("tanh.approx.f32", [NARROW], np.tanh, lambda a, v: 2.0**-11 * np.abs(v)),
    ("div.approx.f32", [NARROW, WIDE], lambda a, b: a / b, lambda a, b, v: 2 * ulp(v)),
    ("div.full.f32", [NARROW, WIDE], lambda a, b: a / b, lambda a, b, v: 2 * ulp(v)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c[0])
def test_worst_case_uses_the_documented_error_and_no_more(
    case: tuple[str, list[Array], Callable[..., Array], Callable[..., Array]],
) -> None:
    code, operands, function, bound = case
    names = ", ".join(["%a", "%b"][: len(operands)])
    inputs = [("f32", x) for x in operands]
    real = [x.astype(np.float64) for x in operands]
    value = function(*real)
    error = bound(*real, value)

    def run(worst_case: WorstCase) -> Array:
        (found,) = execute(f"{code} %x, {names};", inputs, ["f32"], worst_case)
        return found.view(np.float32).astype(np.float64)

    low, middle, high = run("low"), run(None), run("high")
    assert (np.abs(middle - value) <= ulp(value) / 2).all()
    assert (low >= value - error).all()
    assert (high <= value + error).all()
    # as far as floats can tell
    assert (low <= value - error + ulp(value - error)).all()
    assert (high >= value + error - ulp(value + error)).all()
    assert (low < high).mean() > 0.99
    mixed = run("mixed")
    assert ((mixed == low) | (mixed == high)).all()
    assert 0.3 < (mixed == low).mean() < 0.7


@pytest.mark.parametrize("worst_case", [None, "low", "high", "mixed"])
@pytest.mark.parametrize(
    ("code", "operands", "wanted"),
    [
        (
            "ex2.approx.ftz.f32",
            [-np.inf, np.inf, 0.0, -0.0, -200.0, 200.0],
            [0, np.inf, 1, 1, 0, np.inf],
        ),
        ("ex2.approx.f32", [-140.0, np.nan], [2.0**-140, np.nan]),
        ("lg2.approx.ftz.f32", [0.0, np.inf, -1.0, 1e-40], [-np.inf, np.inf, np.nan, -np.inf]),
        ("rcp.approx.ftz.f32", [0.0, -0.0, np.inf, 1e-40], [np.inf, -np.inf, 0, np.inf]),
        ("rsqrt.approx.f32", [0.0, np.inf, -1.0], [np.inf, 0, np.nan]),
        ("sqrt.approx.f32", [0.0, np.inf, -1.0], [0, np.inf, np.nan]),
        ("tanh.approx.f32", [0.0, np.inf], [0, None]),
    ],
)
def test_special_values(
    code: str,
    operands: list[float],
    wanted: list[float | None],
    worst_case: WorstCase,
) -> None:
    inputs = [("f32", np.array(operands, np.float32))]
    (words,) = execute(f"{code} %x, %a;", inputs, ["f32"], worst_case)
    found = words.view(np.float32)
    for value, goal in zip(found, wanted, strict=True):
        if goal is None:
            continue
        if goal and np.isfinite(goal):
            assert value == pytest.approx(goal, rel=1e-5)
        else:
            np.testing.assert_equal(value, np.float32(goal))


def test_approximate_division_by_a_huge_number_is_zero() -> None:
    a, b = np.array([1e10, np.inf], np.float32), np.array([2.0**127, 2.0**127], np.float32)
    (found,) = execute("div.approx.f32 %x, %a, %b;", [("f32", a), ("f32", b)], ["f32"])
    np.testing.assert_equal(found.view(np.float32), np.array([0, np.nan], np.float32))


@pytest.mark.parametrize(
    ("code", "kind", "error"),
    [
        ("ex2.approx.f16", "f16", 2.0**-9.9),
        ("tanh.approx.f16", "f16", 2.0**-10.987),
        ("ex2.approx.ftz.bf16", "bf16", 2.0**-7),
        ("tanh.approx.bf16", "bf16", 2.0**-8),
        ("ex2.approx.f16x2", "f16x2", 2.0**-9.9),
        ("tanh.approx.bf16x2", "bf16x2", 2.0**-8),
    ],
)
def test_half_approximations(code: str, kind: str, error: float) -> None:
    brain = kind.startswith("bf")
    numbers = RNG.uniform(-3, 3, 1000).astype(np.float32)
    bits = numbers.view(np.uint32) >> 16 if brain else numbers.astype(np.float16).view(np.uint16)
    words = bits.astype(np.uint16)

    def values(raw: Array) -> Array:
        halves = raw.view(np.uint16)
        if brain:
            return (halves.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        return halves.view(np.float16).astype(np.float64)

    function = np.exp2 if code.startswith("ex2") else np.tanh
    real = function(values(words))
    packed = words.view(np.uint32) if kind.endswith("x2") else words
    slack = 2.0**-8 if brain else 2.0**-11  # the rounding to the half itself
    found: dict[WorstCase, Array] = {}
    modes: list[WorstCase] = ["low", "high"]
    for mode in modes:
        (raw,) = execute(f"{code} %x, %a;", [(kind, packed)], [kind], mode)
        found[mode] = values(raw)
        scale = np.maximum(np.abs(real), 1)  # relative for ex2; absolute for tanh, at most 1
        assert (np.abs(found[mode] - real) <= (error + slack) * scale).all()
    assert (found["low"] <= found["high"]).all()
    assert (found["low"] < found["high"]).mean() > 0.5


@pytest.mark.parametrize("name", ["rcp", "rsqrt"])
def test_approximate_double_neither_reads_nor_writes_the_lower_word(name: str) -> None:
    a = np.exp2(RNG.uniform(-900, 900, 500))
    (words,) = execute(f"{name}.approx.ftz.f64 %x, %a;", [("f64", a)], ["f64"])
    assert (words & np.uint64(0xFFFFFFFF) == 0).all()
    upper = (a.view(np.uint64) >> np.uint64(32) << np.uint64(32)).view(np.float64)
    (of_upper,) = execute(f"{name}.approx.ftz.f64 %x, %a;", [("f64", upper)], ["f64"])
    assert (words == of_upper).all()
    real = 1 / a if name == "rcp" else 1 / np.sqrt(a)
    assert (np.abs(words.view(np.float64) / real - 1) < 2.0**-19).all()

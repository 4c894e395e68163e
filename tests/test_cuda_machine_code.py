"""The machine code of the CUDA kernels keeps to its budget on every architecture.

Needs nvcc and nvdisasm, no GPU. The kernels of sigmoid for two architectures; `make test-slow` has
every kernel for every architecture.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import fusedgrad
from cuda_backend import CSRC
from cuda_machine_code import (
    ARCHITECTURES,
    READ_LITTLE,
    SOURCES,
    Kernel,
    compiled,
    kernels_of,
    kernels_of_ptx,
    table,
)
from fusedgrad.fuse import generate, nvrtc


def pace(number: int) -> float:
    """The instructions that an H200 issues while its memory moves so many bytes: 132
    multiprocessors of 4 schedulers, 32 lanes, 1.98 GHz; 4.8 TB/s."""
    return 132 * 4 * 32 * 1.98e9 / 4.8e12 * number


# Instructions an element for a full tile. Floats have the CPU's bits, so the same operations: a
# general power and the gradient of a loss of logits are computed in double, of which a
# multiprocessor of the H200 does half as many.
BUDGET = {
    ("Sigmoid", "float32"): 0.6 * pace(8),
    ("SigmoidBackward", "float32"): 0.6 * pace(12),
    ("Tanh", "float32"): 0.8 * pace(8),
    ("TanhBackward", "float32"): 0.6 * pace(12),
    ("PowHalfInteger 2", "float32"): 5,
    ("PowHalfInteger 3", "float32"): 6,
    ("PowScalar", "float32"): 105,
    ("BinaryCrossEntropyWithLogits sum", "float32"): 62,
    ("BinaryCrossEntropyWithLogitsBackward", "float32"): 82,
    **{
        (name, dtype): 30
        for name in ("Sigmoid", "SigmoidBackward", "Tanh", "TanhBackward")
        for dtype in ("float16", "bfloat16")
    },
}


DOUBLE = {"DADD", "DFMA", "DMUL", "DSETP"}  # of which a multiprocessor issues half as many

WHOLE = "90"  # whose PTX the emulated device runs


@pytest.fixture(scope="module", autouse=True)
def _forgotten() -> Iterator[None]:
    """Hundreds of thousands of instructions."""
    yield
    kernels_of.cache_clear()


@dataclass(frozen=True)
class Made:
    """Kernels of some sources for an architecture."""

    architecture: str
    sources: tuple[str, ...] = SOURCES

    def __str__(self) -> str:
        return f"{self.architecture}-{'-'.join(self.sources)}"

    @property
    def kernels(self) -> list[Kernel]:
        return compiled([self.architecture], self.sources)[self.architecture]

    @property
    def budget(self) -> dict[tuple[str, str], float]:
        if self.sources == SOURCES:
            return BUDGET
        return {
            key: most for key, most in BUDGET.items() if key[0].lower().startswith(self.sources)
        }


@pytest.fixture(
    params=[
        Made(WHOLE, ("sigmoid",)),
        *(pytest.param(Made(each), marks=pytest.mark.slow) for each in ARCHITECTURES),
    ],
    ids=str,
)
def made(request: pytest.FixtureRequest) -> Made:
    found: Made = request.param
    return found


def test_the_budget_holds(made: Made) -> None:
    found = {
        (kernel.title, kernel.dtype): kernel.instructions_per_element()
        for kernel in made.kernels
        if kernel.parts["kind"] == "Contiguous" and (kernel.title, kernel.dtype) in BUDGET
    }
    assert found.keys() == made.budget.keys() != set()
    assert {key: cost for key, cost in found.items() if cost > BUDGET[key]} == {}


# Of half types and the H200, where the memory sets the pace, in its time: but orders beyond the
# second, which are told when they run, and both second derivatives of a power of two operands.
MOST_OF_HALVES = 1.1
MOST_OF_POW_DOUBLE_BACKWARD = 1.15


@pytest.mark.slow
def test_half_types_keep_the_memorys_pace() -> None:
    found = {}
    for kernel in Made(WHOLE).kernels:
        of_halves = kernel.dtype in ("float16", "bfloat16") and kernel.title not in READ_LITTLE
        if kernel.parts["kind"] == "Contiguous" and of_halves and "Jet" not in kernel.title:
            operands = int(kernel.parts["inputs"]) + int(kernel.parts["outputs"])
            spent = kernel.instructions_per_element() / pace(2 * operands)
            found[kernel.title, kernel.dtype] = spent
    derivatives = {key for key in found if key[0].endswith("Derivative")}
    assert found.keys() - derivatives >= {
        (title, dtype)
        for title in ("BinaryCrossEntropy sum", "BinaryCrossEntropyWithLogits sum")
        for dtype in ("float16", "bfloat16")
    }
    over = {
        key: spent
        for key, spent in found.items()
        if key not in derivatives
        and spent
        > (MOST_OF_POW_DOUBLE_BACKWARD if key[0] == "PowDoubleBackward" else MOST_OF_HALVES)
    }
    assert over == {}


def test_aligned_operands_are_moved_128_bits_at_a_time(made: Made) -> None:
    for kernel in made.kernels:
        if kernel.parts["kind"] == "Contiguous" and kernel.title in READ_LITTLE:
            assert any(i.base == "STG" and i.wide for i in kernel.instructions), kernel.title
        elif kernel.parts["kind"] == "Contiguous":
            path = kernel.full_tile()  # raises if there is a narrower access on each
            stores = sum(i.base == "STG" for i in path)
            assert any(i.base == "LDG" for i in path)
            assert bool(stores) == (kernel.parts["kernel"] == "elementwise"), kernel.title


def test_strided_operands_are_loaded_several_at_once(made: Made) -> None:
    """Of half types eight elements, of floats four, of doubles two: fewer where some are not read,
    and where there are many operands."""
    at_once = {"float64": 2, "float32": 4, "float16": 8, "bfloat16": 8}
    for kernel in made.kernels:
        inputs = int(kernel.parts["inputs"])
        if kernel.parts["kind"] == "Contiguous" or kernel.title in READ_LITTLE:
            continue
        if inputs + int(kernel.parts["outputs"]) <= 4:
            loads = len(kernel.widest_loads())
            assert loads >= at_once[kernel.dtype] * inputs, (kernel.title, kernel.dtype, loads)


def test_nothing_is_spilled_and_nothing_lies_in_local_memory(made: Made) -> None:
    found = [
        f"{kernel.title} {kernel.dtype}"
        for kernel in made.kernels
        if kernel.stack_bytes or kernel.spill_bytes or kernel.local_memory()
    ]
    assert found == []


def test_no_size_waits_for_memory_again_and_again(made: Made) -> None:
    """Whatever its size, a tile is loaded at once; a sum waits once more, for that of an earlier
    part. Newer compilers' targets load some late where a kernel computes in double, twice in a jet
    of a power and in the strided gradient, in float64, of a power of a number."""
    for kernel in made.kernels:
        summed = kernel.parts["kernel"] == "reduction"
        in_double = kernel.dtype == "float64" or kernel.title.startswith("PowScalar")
        newer = made.architecture in ("100", "120")
        kind = kernel.title, kernel.dtype, kernel.parts["kind"]
        twice = kind[0].startswith("PowJet") or kind == ("PowScalarBackward", "float64", "Strided")
        late = (1 + twice) * (newer and in_double)
        assert kernel.round_trips() <= 1 + summed + late, kernel.title
        loops = kernel.loops_that_load()  # over tiles, of several packs of each input
        assert bool(loops) == summed, kernel.title
        assert all(loads > int(kernel.parts["inputs"]) for loads in loops), kernel.title


def _generated(types: str, count: int, **kinds: Any) -> dict[str, Kernel]:
    """The kernels of a function of two tensors and, if they are `count`, of its gradients."""
    example = tuple(torch.ones(1) for _ in range(2))
    graph = fusedgrad.fuse(lambda x, z: x * z + x)._graph_of(example, {})
    if count > 1:
        graph = graph.value_and_grad()
    assert len(graph.outputs) == count
    source = generate.cuda_source(graph, graph.inputs, types.split(), "float", **kinds)
    return kernels_of_ptx(nvrtc._compiled(source, f"compute_{WHOLE}"), WHOLE)


@pytest.mark.parametrize(
    ("types", "loads"),
    [
        # of the result and the operands; the bits of each load of a full tile
        ("float __half __half", [64] * 4),
        ("float __half float", [64, 128] * 2),
        ("__half float __nv_bfloat16", [128, 64] * 2),
        ("__half __half __nv_bfloat16", [128] * 4),
        ("double __half float", [32, 64] * 2),
    ],
)
def test_operands_of_several_dtypes_are_moved_in_packs(types: str, loads: list[int]) -> None:
    """As many elements of each, 128 bits of the widest."""
    kernel = _generated(types, 1)["contiguous"]
    assert set(kernel.widest_loads()) == set(loads)
    every = kernel.bits_of_loads()
    assert all(every.count(bits) >= loads.count(bits) for bits in loads)
    assert kernel.stack_bytes == kernel.spill_bytes == 0
    assert kernel.round_trips() <= 1
    (total,) = (k for name, k in _generated(types, 1, sums=True).items() if name == "contiguous")
    moved = types.split()[1:]
    bits = {"__half": 16, "__nv_bfloat16": 16, "float": 32}
    pack = 128 // max(bits[name] for name in moved)
    assert set(total.widest_loads()) == {pack * bits[name] for name in moved}


@pytest.mark.parametrize("types", ["float " * 5, "__half " * 5, "float __half float __half float"])
def test_what_is_summed_over_dimensions_is_moved_in_packs(types: str) -> None:
    found = _generated(types, 3, summed=(False, False, True))
    assert found.keys() == {"contiguous", "strided", "combine"}
    for kernel in found.values():
        assert kernel.stack_bytes == kernel.spill_bytes == 0
    moved = types.split()[3:]
    pack = 128 // (16 if set(types.split()[:2] + moved) == {"__half"} else 32)
    bits = [pack * (16 if name == "__half" else 32) for name in moved]
    # Beside them those of what is one element for all of a pack
    wide = sorted(each for each in found["contiguous"].widest_loads() if each > 32)
    assert wide == sorted(bits * (len(wide) // len(bits))) != []


@pytest.mark.slow
def test_where_memory_sets_the_pace_enough_is_in_flight() -> None:
    """On an H200: by the registers that ptxas took, of the 65,536 of a multiprocessor, the bytes
    that csrc/cuda/tuning.h asks for. What takes longer to compute than to move needs less."""
    text = (CSRC / "cuda" / "tuning.h").read_text()
    table = re.search(r"{(\d+), (\d+) \* 1024},  // 9.0", text)
    assert table
    threads, needed = int(table[1]), int(table[2]) * 1024
    found = {}
    for kernel in Made(WHOLE).kernels:
        if kernel.parts["kind"] != "Contiguous" or kernel.title in READ_LITTLE:
            continue
        path = kernel.full_tile()
        loads = sum(i.base == "LDG" for i in path)
        moved = 16 * sum(i.wide for i in path)
        if len(path) + sum(i.base in DOUBLE for i in path) > pace(moved):
            continue
        resident = min(threads, 65_536 // (-(-kernel.registers // 8) * 8 * 128) * 128)
        found[kernel.title, kernel.dtype] = resident * loads * 16
    assert len(found) > 100
    assert {key: flying for key, flying in found.items() if flying < needed} == {}


@pytest.mark.slow
def test_the_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    printed = table(compiled())
    with capsys.disabled():
        print(f"\n{printed}\n")
    assert printed.count("\n") > len(BUDGET)

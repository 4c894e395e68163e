"""The machine code of the CUDA kernels keeps to its budget on every architecture.

Needs nvcc and nvdisasm, no GPU. The kernels of sigmoid for two architectures; `make test-slow` has
every kernel for every architecture.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from cuda_backend import CSRC
from cuda_machine_code import (
    ARCHITECTURES,
    READ_LITTLE,
    SOURCES,
    Kernel,
    compiled,
    kernels_of,
    table,
)


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
        *(Made(each, ("sigmoid",)) for each in (WHOLE, ARCHITECTURES[-1])),
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


def test_aligned_operands_are_moved_128_bits_at_a_time(made: Made) -> None:
    for kernel in made.kernels:
        if kernel.parts["kind"] == "Contiguous" and kernel.title in READ_LITTLE:
            assert any(i.base == "STG" and i.wide for i in kernel.instructions), kernel.title
        elif kernel.parts["kind"] == "Contiguous":
            path = kernel.full_tile()  # raises if there is a narrower access on each
            stores = sum(i.base == "STG" for i in path)
            assert any(i.base == "LDG" for i in path)
            assert bool(stores) == (kernel.parts["kernel"] == "elementwise"), kernel.title


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
    of a power."""
    for kernel in made.kernels:
        summed = kernel.parts["kernel"] == "reduction"
        in_double = kernel.dtype == "float64" or kernel.title.startswith("PowScalar")
        newer = made.architecture in ("100", "120")
        late = (1 + kernel.title.startswith("PowJet")) * (newer and in_double)
        assert kernel.round_trips() <= 1 + summed + late, kernel.title
        loops = kernel.loops_that_load()  # over tiles, of several packs of each input
        assert bool(loops) == summed, kernel.title
        assert all(loads > int(kernel.parts["inputs"]) for loads in loops), kernel.title


@pytest.mark.slow
def test_where_memory_sets_the_pace_enough_is_in_flight() -> None:
    """On an H200: by the registers that ptxas took, of the 65,536 of a multiprocessor, the bytes
    that csrc/cuda/tuning.h asks for. What takes longer to compute than to move needs less."""
    text = (CSRC / "cuda" / "tuning.h").read_text()
    table = re.search(r"{(\d+), (\d+) \* 1024},  // 9.0", text)
    assert table
    threads, needed = int(table[1]), int(table[2]) * 1024
    found = {}
    for kernel in Made(WHOLE, SOURCES).kernels:
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

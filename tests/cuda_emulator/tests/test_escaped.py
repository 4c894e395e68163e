"""Mistakes that most runs do not show are errors that name the instruction and the address."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cuda_emulator import (
    Device,
    EmulationError,
    GlobalMemoryRaceError,
    NonCoherentReadError,
    OrderDependenceError,
    UninitializedReadError,
    compile_library,
)

Array = NDArray[Any]
THREADS = 128
VALUES = np.random.default_rng(1).normal(size=4096).astype(np.float32)


def run(kernel: str, size: int, grid: int = 1, block: int = THREADS, filled: bool = False) -> Array:
    library = compile_library([Path(__file__).with_name("escaped.cu")])
    device = Device()
    with device.loaded(library) as launchers:
        values = device.array(VALUES, "input")
        zeros = np.zeros(size, np.float32)
        out = device.array(zeros, "output") if filled else device.empty(size, np.float32, "output")
        pointers = (ctypes.c_void_p(each.pointer) for each in (out, values))
        assert launchers[f"launch_{kernel}"](*pointers, THREADS, grid, block) in (0, 719)
    return out.numpy()


BROKEN: dict[str, tuple[type[EmulationError], str, tuple[Any, ...]]] = {
    "exchange_in_block_without_barrier": (
        GlobalMemoryRaceError,
        r"read of 4 bytes that thread \(64, 0, 0\) of the block wrote with no barrier between, at "
        r".* of 'output' .*thread \(0, 0, 0\), `ld",
        (256,),
    ),
    "exchange_in_block_with_warp_barrier": (GlobalMemoryRaceError, "of the block wrote", (256,)),
    "exchange_in_warp_without_barrier": (
        GlobalMemoryRaceError,
        r"thread \(1, 0, 0\) of the block wrote",
        (256,),
    ),
    "exchange_with_other_half_of_warp": (
        GlobalMemoryRaceError,
        r"thread \(16, 0, 0\) of the block wrote",
        (256,),
    ),
    "volatile_exchange_without_barrier": (
        OrderDependenceError,
        r"bytes differ .* of 'output' .*`(ld|st)\.volatile",
        (256, 1, THREADS, True),
    ),
    "reverse_in_place_without_barrier": (
        GlobalMemoryRaceError,
        r"write of 4 bytes that thread \(127, 0, 0\) of the block read .*`st",
        (128, 1, THREADS, True),
    ),
    "byte_of_anothers_float": (
        GlobalMemoryRaceError,
        r"write of 1 bytes that thread \(64, 0, 0\) of the block wrote",
        (128,),
    ),
    "one_place_for_a_block": (GlobalMemoryRaceError, "of the block writes .*`st", (1,)),
    "fence_before_the_write": (
        GlobalMemoryRaceError,
        r"read of 4 bytes that block \(0, 0, 0\) writes in the same launch, at .* of 'output'",
        (9, 8, 32),
    ),
    "reader_without_fence": (
        GlobalMemoryRaceError,
        r"read of 4 bytes that block \(0, 0, 0\) writes in the same launch, at .* of 'output'",
        (9, 8, 32),
    ),
    "fence_of_a_block": (
        GlobalMemoryRaceError,
        r"read of 4 bytes that block \(0, 0, 0\) writes in the same launch, at .* of 'output'",
        (9, 8, 32),
    ),
    **dict.fromkeys(
        (
            "release_before_the_write",
            "relaxed_store",
            "relaxed_load",
            "volatile_flag",
            "release_and_acquire_in_block",
            "flag_of_another",
        ),
        (
            GlobalMemoryRaceError,
            r"read of 4 bytes that block \(0, 0, 0\) writes in the same launch, at .* of 'output' "
            r".*block \(2, 0, 0\), thread \(0, 0, 0\), `ld",
            (4, 3, 32, True),
        ),
    ),
    **dict.fromkeys(
        (
            "one_fence_without_barrier",
            "one_fence_before_the_barrier",
            "fences_of_all_without_barrier",
        ),
        (
            GlobalMemoryRaceError,
            r"read of 4 bytes that block \(0, 0, 0\) writes in the same launch, at .* byte 8 of "
            r"'output' .*block \(7, 0, 0\), thread \(0, 0, 0\), `ld",
            (8 * 64 + 1, 8, 64),
        ),
    ),
    **dict.fromkeys(
        ("weak_store_of_a_flag", "weak_store_of_a_volatile_flag"),
        (
            GlobalMemoryRaceError,
            r"(read of 4 bytes that block \(0, 0, 0\) writes|"
            r"write of 4 bytes that (block \(1, 0, 0\)|several blocks) waits for) in the same",
            (4, 3, 32, True),
        ),
    ),
    "weak_store_in_block": (
        GlobalMemoryRaceError,
        r"(read of 4 bytes that thread \(0, 0, 0\) of the block wrote|"
        r"write of 4 bytes that thread \(32, 0, 0\) of the block waits for) with no barrier",
        (1, 1, 64, True),
    ),
    "atomics_of_another_block": (
        GlobalMemoryRaceError,
        r"that block \(\d, 0, 0\) writes in the same launch, at .* of 'output' .*`atom\.",
        (1, 4, 32, True),
    ),
    "cached_output": (
        NonCoherentReadError,
        r"read of 4 bytes through the non-coherent cache that the same launch writes, at .* of "
        r"'output' .*`ld.global.nc",
        (256,),
    ),
    "cached_in_place": (
        NonCoherentReadError,
        r"write of 4 bytes that the same launch reads through its non-coherent cache, at .*`st",
        (128, 1, THREADS, True),
    ),
    "local_not_written": (
        UninitializedReadError,
        r"local memory that nothing has written, byte 28 .*thread \(7, 0, 0\), `ld",
        (128,),
    ),
    "register_not_written": (
        UninitializedReadError,
        r"read of register %\S+, which .*`add",
        (128,),
    ),
    "sum_of_floats": (
        OrderDependenceError,
        r"bytes differ where the last block and thread come first, the first at .* of 'output' "
        r".*`(atom|red)\.",
        (1, 32, THREADS, True),
    ),
    "sum_of_floats_in_shared_memory": (
        OrderDependenceError,
        r"bytes differ .* of 'output' .*`(atom|red)\.",
        (1,),
    ),
    "last_to_come": (OrderDependenceError, r"bytes differ .*`atom\.", (1, 32, 1, True)),
}


@pytest.mark.parametrize("kernel", BROKEN)
def test_a_mistake_that_escaped_is_caught(kernel: str) -> None:
    error, message, launch = BROKEN[kernel]
    with pytest.raises(error, match=message) as caught:
        run(kernel, *launch)
    assert caught.value.place is not None
    assert "escaped.cu:" in caught.value.place.line


def test_the_right_kernels_beside_them_pass() -> None:
    twice = 2 * VALUES[:THREADS]
    i = np.arange(THREADS)
    assert (run("exchange_in_block", 256)[THREADS:] == twice[i ^ 64]).all()
    assert (run("exchange_in_warp", 256)[THREADS:] == twice[i ^ 1]).all()
    assert (run("exchange_in_half_of_warp", 256)[THREADS:] == twice[i ^ 1]).all()
    assert (run("volatile_exchange", 256)[THREADS:] == twice[i ^ 64]).all()
    assert (run("bytes_after_a_barrier", 128).view(np.uint8)[4 * 64 :: 4][:32] == 0).all()
    assert (run("reverse_in_place", 128, 1, THREADS, True) == VALUES[:THREADS]).all()
    assert run("fences", 9, 8, 32)[0] == np.add.accumulate(VALUES[:8], dtype=np.float32)[-1]
    for name in ("one_fence_for_a_block", "fences_of_all"):
        total = np.add.accumulate(VALUES[: 8 * 64], dtype=np.float32)[-1]
        assert run(name, 8 * 64 + 1, 8, 64)[0] == total, name
    for name in ("volatile_store_in_block", "weak_store_before_a_barrier"):
        assert run(name, 1, 1, 64, True).view(np.uint32) == 1, name
    for name in (
        "release_and_acquire",
        "release_and_acquire_in_system",
        "fences_about_relaxed",
        "fences_about_volatile",
        "release_and_fence",
    ):
        assert (run(name, 4, 3, 32, True)[2:] == VALUES[0]).all(), name
    counts = run("atomics_of_a_block", 4, 4, 32, True).view(np.uint32)
    assert (counts == 32).all()
    assert (run("cached_input", 128) == VALUES[:THREADS]).all()
    assert (run("local_written", 128) == VALUES[:THREADS]).all()
    whole = run("sum_of_integers", 1, 32, THREADS, True).view(np.int32)
    assert whole[0] == VALUES.astype(np.int32).sum()

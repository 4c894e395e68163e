"""Kernels broken on purpose are caught, each by its name; right ones give right results."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cuda_emulator import (
    BarrierError,
    CompiledLibrary,
    Device,
    DeviceArray,
    DeviceTrapError,
    EmulationError,
    GlobalMemoryRaceError,
    MisalignedAddressError,
    OutOfBoundsError,
    SharedMemoryRaceError,
    UninitializedReadError,
    UnwrittenOutputError,
    WarpSyncError,
    WatchdogError,
    compile_library,
    interpreter,
)

Array = NDArray[Any]
ARCHITECTURES = ["75", "80", "90", "100", "120"]
THREADS = 128


@pytest.fixture(scope="module", params=ARCHITECTURES)
def zoo(request: pytest.FixtureRequest) -> CompiledLibrary:
    return compile_library([Path(__file__).with_name("zoo.cu")], arch=request.param)


@pytest.fixture
def device() -> Device:
    return Device()


@pytest.fixture
def launchers(zoo: CompiledLibrary, device: Device) -> Iterator[ctypes.CDLL]:
    with device.loaded(zoo) as loaded:
        yield loaded


def numbers(n: int) -> Array:
    """Small integers in floats, so that sums are exact in any order."""
    return np.random.default_rng(n).integers(-9, 10, n).astype(np.float32)


class Run:
    """Launches kernels of the zoo."""

    def __init__(self, device: Device, launchers: ctypes.CDLL) -> None:
        self.device = device
        self.launchers = launchers

    def __call__(
        self,
        kernel: str,
        out: DeviceArray,
        values: DeviceArray,
        n: int,
        *rest: Any,
        grid: int = 0,
        block: int = 0,
    ) -> Array:
        launch = self.launchers[f"launch_{kernel}"]
        more = rest or (grid, block)
        status = launch(ctypes.c_void_p(out.pointer), ctypes.c_void_p(values.pointer), n, *more)
        assert status == 0
        return out.numpy()


@pytest.fixture
def run(device: Device, launchers: ctypes.CDLL) -> Run:
    return Run(device, launchers)


def plain(run: Run, kernel: str, n: int = 300, size: int | None = None, **options: int) -> Array:
    """A kernel from n floats to as many, or to `size`."""
    values = run.device.array(numbers(n), "input")
    out = run.device.empty(n if size is None else size, np.float32, "output")
    return run(kernel, out, values, n, **options)


# ---------------------------------------------------------------------- broken kernels

BROKEN: dict[str, tuple[type[EmulationError], str, Callable[[Run], object]]] = {
    "scale_without_bound": (
        OutOfBoundsError,
        r"read of 4 bytes .* 0 bytes past the end, 1200 of 'input' \(1200 bytes\), by 84 threads"
        r".*zoo.cu:\d+, block \(2, 0, 0\), thread \(44, 0, 0\)",
        lambda run: plain(run, "scale_without_bound"),
    ),
    "scale_off_by_one": (
        OutOfBoundsError,
        r"read of 4 bytes .* past the end, 1200 of 'input'.*by 1 threads",
        lambda run: plain(run, "scale_off_by_one"),
    ),
    "scale_without_tail": (
        UnwrittenOutputError,
        r"8 of 1208 bytes of 'output' were never written, the first in element \(300,\)",
        lambda run: plain(run, "scale_without_tail", 302),
    ),
    "vector_past_the_end": (
        OutOfBoundsError,
        r"read of 16 bytes .* at byte 1200 of 'input' \(1208 bytes\), by 1 threads",
        lambda run: plain(run, "vector_past_the_end", 302),
    ),
    "read_before_the_start": (
        OutOfBoundsError,
        r"4 bytes before 'input'",
        lambda run: plain(run, "read_before_the_start"),
    ),
    "rows_with_wrong_stride": (
        OutOfBoundsError,
        "'input'",
        lambda run: strided_rows(run, "rows_with_wrong_stride"),
    ),
    "rows_with_swapped_strides": (
        OutOfBoundsError,
        "'input'",
        lambda run: strided_rows(run, "rows_with_swapped_strides"),
    ),
    "index_overflows": (
        OutOfBoundsError,
        "before 'input'",
        lambda run: big_stride(run, "index_overflows"),
    ),
    "shared_out_of_bounds": (
        OutOfBoundsError,
        r"read of 4 bytes at byte 512 of shared memory, which has 512 bytes.*thread \(127, 0, 0\)",
        lambda run: plain(run, "shared_out_of_bounds", THREADS),
    ),
    "local_out_of_bounds": (
        OutOfBoundsError,
        r"at byte 16 of local memory, which has 16 bytes.*thread \(4, 0, 0\)",
        lambda run: plain(run, "local_out_of_bounds", THREADS),
    ),
    "write_outside": (
        OutOfBoundsError,
        r"write of 4 bytes .* 4 bytes past the end, 1204 of 'output'",
        lambda run: plain(run, "write_outside"),
    ),
    "write_through_a_wild_pointer": (
        OutOfBoundsError,
        "write of 4 bytes outside any allocation, at address 0x0,",
        lambda run: plain(run, "write_through_a_wild_pointer"),
    ),
    "misaligned_vectors": (
        MisalignedAddressError,
        r"misaligned read of 16 bytes at .* 0 of 'input'",
        lambda run: misaligned(run, "vectors", np.float32, 4),
    ),
    "misaligned_vectors_of_halves": (
        MisalignedAddressError,
        r"misaligned read of 16 bytes",
        lambda run: misaligned(run, "vectors_of_halves", np.float16, 2),
    ),
    "output_with_a_hole": (
        UnwrittenOutputError,
        r"4 of 1200 bytes of 'output' were never written, the first in element \(5,\)",
        lambda run: plain(run, "output_with_a_hole"),
    ),
    "reads_its_output": (
        UninitializedReadError,
        "global memory that nothing has written.*'output'",
        lambda run: plain(run, "reads_its_output"),
    ),
    "uninitialised_shared": (
        UninitializedReadError,
        r"shared memory that nothing has written, byte 508 \(.*tile.*thread \(0, 0, 0\)",
        lambda run: plain(run, "uninitialised_shared", 100, THREADS, grid=1),
    ),
    "tree_without_first_barrier": (
        SharedMemoryRaceError,
        r"thread \(64, 0, 0\) wrote with no barrier between",
        lambda run: plain(run, "tree_without_first_barrier", 1000, 2, grid=2),
    ),
    "tree_without_inner_barrier": (
        SharedMemoryRaceError,
        "with no barrier between",
        lambda run: plain(run, "tree_without_inner_barrier", 1000, 2, grid=2),
    ),
    "rounds_without_second_barrier": (
        SharedMemoryRaceError,
        r"write of shared memory that .* read with no barrier between",
        lambda run: plain(run, "rounds_without_second_barrier", THREADS, 2, grid=1),
    ),
    "same_place_written_twice": (
        SharedMemoryRaceError,
        r"write of shared memory that thread .* writes with no barrier",
        lambda run: plain(run, "same_place_written_twice", THREADS),
    ),
    "warp_exchange_without_sync": (
        SharedMemoryRaceError,
        r"thread \(1, 0, 0\) wrote with no barrier between.*thread \(0, 0, 0\)",
        lambda run: plain(run, "warp_exchange_without_sync", THREADS),
    ),
    "block_exchange_with_warp_sync": (
        SharedMemoryRaceError,
        r"thread \(127, 0, 0\) wrote",
        lambda run: plain(run, "block_exchange_with_warp_sync", THREADS),
    ),
    "shared_atomics_without_barrier": (
        SharedMemoryRaceError,
        "read of shared memory that other threads wrote",
        lambda run: plain(run, "shared_atomics_without_barrier", THREADS, 4),
    ),
    "barrier_in_branch": (
        BarrierError,
        "88 of 128 threads of the block exited without reaching it",
        lambda run: plain(run, "barrier_in_branch", THREADS),
    ),
    "barrier_after_exit": (
        BarrierError,
        "84 of 128 threads of the block exited without reaching it",
        lambda run: plain(run, "barrier_after_exit"),
    ),
    "two_barriers": (
        BarrierError,
        r"different barriers, the others at zoo.cu:\d+",
        lambda run: plain(run, "two_barriers", THREADS),
    ),
    "barrier_in_uneven_loop": (
        BarrierError,
        "threads of the block exited without reaching it",
        lambda run: plain(run, "barrier_in_uneven_loop", 300, THREADS, grid=1),
    ),
    "named_barrier_for_too_few": (
        SharedMemoryRaceError,
        "with no barrier between",
        lambda run: plain(run, "named_barrier_for_too_few", THREADS),
    ),
    "divergent_shuffle": (
        WarpSyncError,
        r"the mask 0xffffffff names lanes 16 to 31",
        lambda run: plain(run, "divergent_shuffle", THREADS),
    ),
    "shuffle_after_exit": (
        WarpSyncError,
        r"the mask 0xffffffff names lanes 12 to 31, exited without taking part.*block \(2, 0, 0\)",
        lambda run: plain(run, "shuffle_after_exit", 300),
    ),
    "shuffle_reads_a_missing_lane": (
        WarpSyncError,
        "reads lane 24, which does not take part",
        lambda run: plain(run, "shuffle_reads_a_missing_lane", 24, grid=1, block=24),
    ),
    "shuffle_not_in_mask": (
        WarpSyncError,
        "does not name the calling thread",
        lambda run: plain(run, "shuffle_not_in_mask", THREADS),
    ),
    "shuffle_reads_outside_mask": (
        WarpSyncError,
        "reads lane 16, which does not take part",
        lambda run: plain(run, "shuffle_reads_outside_mask", THREADS),
    ),
    "vote_in_branch": (
        WarpSyncError,
        "the mask 0xffffffff names",
        lambda run: plain(run, "vote_in_branch", THREADS),
    ),
    "race_between_blocks": (
        GlobalMemoryRaceError,
        r"write of 4 bytes that .* writes in the same launch, at .* of 'output'",
        lambda run: plain(run, "race_between_blocks", 300, 100),
    ),
    "accumulate_without_atomics": (
        GlobalMemoryRaceError,
        "of 'output'",
        lambda run: into_zeros(run, "accumulate_without_atomics"),
    ),
    "shift_in_place": (
        GlobalMemoryRaceError,
        r"that block \(\d, 0, 0\) (reads|writes) in the same launch",
        lambda run: into_zeros(run, "shift_in_place", 300),
    ),
    "last_block_without_fence": (
        GlobalMemoryRaceError,
        r"read of 4 bytes that block \(0, 0, 0\) writes in the same launch",
        lambda run: plain(run, "last_block_without_fence", 320, 11, grid=10),
    ),
    "last_block_without_barrier": (
        UninitializedReadError,
        r"shared memory that nothing has written, byte 0 \(.*last\)",
        lambda run: plain(run, "last_block_without_barrier", 320, 11, grid=10),
    ),
    "endless": (
        WatchdogError,
        "has not ended after",
        lambda run: into_zeros(run, "endless"),
    ),
    "trap": (
        DeviceTrapError,
        "trap",
        lambda run: plain(run, "trap", THREADS),
    ),
}


def strided_rows(run: Run, kernel: str) -> Array:
    """3 rows of 100 floats, 102 apart."""
    values = run.device.array(numbers(3 * 102 - 2), "input")
    return run(kernel, run.device.empty((3, 100), np.float32, "output"), values, 300, 100, 102)


def big_stride(run: Run, kernel: str) -> Array:
    """An index that needs 64 bits on the way."""
    values = run.device.array(numbers(300), "input")
    return run(kernel, run.device.empty(300, np.float32), values, 300, 1 << 24)


def misaligned(run: Run, kernel: str, dtype: type, offset: int) -> Array:
    """Input that starts `offset` bytes behind an aligned address."""
    values = run.device.array(numbers(64).astype(dtype), "input", offset_bytes=offset)
    return run(kernel, run.device.empty(64, dtype, "output"), values, 64)


def into_zeros(run: Run, kernel: str, n: int = 300) -> Array:
    """A kernel that adds to its output."""
    out = run.device.array(np.zeros(n, np.float32), "output")
    return run(kernel, out, run.device.array(numbers(n), "input"), n)


@pytest.mark.sampled(8)
@pytest.mark.parametrize("kernel", BROKEN)
def test_broken_kernel_is_caught(kernel: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "WATCHDOG_STEPS", 1000)
    error, message, launch = BROKEN[kernel]
    with pytest.raises(error, match=message) as caught:
        launch(run)
    if not isinstance(caught.value, UnwrittenOutputError):
        assert caught.value.place is not None
        assert "zoo.cu:" in caught.value.place.line
        assert "kernel (anonymous namespace)::" in str(caught.value)
        assert caught.value.place.thread is not None


def test_launcher_sees_an_error_of_the_device(run: Run) -> None:
    launch = run.launchers["launch_scale_without_bound"]
    values = run.device.array(numbers(300))
    out = run.device.empty(300, np.float32)
    statuses: list[int] = []
    check: Any = launch.errcheck

    def note(status: Any, *rest: Any) -> Any:
        statuses.append(status)
        return check(status, *rest)

    launch.errcheck = note
    with pytest.raises(OutOfBoundsError):
        launch(ctypes.c_void_p(out.pointer), ctypes.c_void_p(values.pointer), 300, 0, 0)
    assert statuses == [700]  # cudaErrorIllegalAddress


# ---------------------------------------------------------------------- right kernels


def expect(found: Array, wanted: Array) -> None:
    """Exactly equal."""
    np.testing.assert_array_equal(found, wanted)


def warp_totals(x: Array) -> Array:
    """The sum of each warp, for each thread."""
    padded = np.zeros(-(-len(x) // 32) * 32, np.float32)
    padded[: len(x)] = x
    return np.repeat(padded.reshape(-1, 32).sum(axis=1), 32)[: len(x)]


@pytest.mark.parametrize("n", [1, 15, 127, 128, 129, 1000, 100_000])
def test_scale(run: Run, n: int) -> None:
    expect(plain(run, "scale", n), 2 * numbers(n))


@pytest.mark.parametrize("n", [4, 301, 302, 303])
def test_vectors_with_a_tail(run: Run, n: int) -> None:
    expect(plain(run, "scale_with_tail", n), numbers(n))


def test_read_guarded_before_the_start(run: Run) -> None:
    x = numbers(300)
    expect(plain(run, "difference"), np.diff(x, prepend=np.float32(0)))


def test_rows_with_a_stride(run: Run) -> None:
    padded = np.concatenate([numbers(3 * 102 - 2), [0, 0]]).reshape(3, 102)
    expect(strided_rows(run, "rows"), padded[:, :100])


def test_index_in_64_bits(run: Run) -> None:
    expect(big_stride(run, "index_in_64_bits"), numbers(300))


def test_aligned_vectors(run: Run) -> None:
    expect(misaligned(run, "vectors", np.float32, 16), numbers(64))
    expect(misaligned(run, "vectors_of_halves", np.float16, 16), numbers(64).astype(np.float16))


def test_misaligned_array_read_one_by_one(run: Run) -> None:
    values = run.device.array(numbers(300), "input", offset_bytes=4)
    expect(run("scale", run.device.empty(300, np.float32), values, 300), 2 * numbers(300))


def test_local_array(run: Run) -> None:
    n = 300
    expect(plain(run, "local_array", n), np.full(n, numbers(n)[0]))


def test_shared_memory_with_initial_values(run: Run) -> None:
    x = np.zeros(THREADS, np.float32)
    x[:100] = numbers(100)
    expect(plain(run, "initialised_shared", 100, THREADS, grid=1), x[::-1])


def test_tree_reduction(run: Run) -> None:
    assert plain(run, "tree", 1000, 2, grid=2).sum() == numbers(1000).sum()


def test_rounds_with_both_barriers(run: Run) -> None:
    total = numbers(THREADS).sum()
    expect(plain(run, "rounds", THREADS, 2, grid=1), np.array([total, 2 * total]))


def test_exchange_in_a_warp(run: Run) -> None:
    expect(plain(run, "warp_exchange", THREADS), numbers(THREADS).reshape(-1, 2)[:, ::-1].ravel())


def test_named_barriers(run: Run) -> None:
    expect(plain(run, "named_barriers", THREADS), numbers(THREADS).reshape(2, 64)[:, ::-1].ravel())


def test_reducing_barriers(run: Run) -> None:
    count = (numbers(THREADS) > 0).sum()
    expect(plain(run, "barrier_counts", THREADS), np.full(THREADS, count + 10000))


def test_shared_atomics(run: Run) -> None:
    wanted = np.arange(THREADS).reshape(-1, 4).sum(axis=0)
    expect(plain(run, "shared_atomics", THREADS, 4), wanted)


def test_shuffle_among_the_threads_of_a_branch(run: Run) -> None:
    x = numbers(THREADS)
    wanted = np.where(np.arange(THREADS) % 32 < 16, x + x.reshape(-1, 2)[:, ::-1].ravel(), x)
    expect(plain(run, "shuffle_in_branch", THREADS), wanted)


@pytest.mark.parametrize("n", [32, 300, 1000])
def test_warp_sums(run: Run, n: int) -> None:
    expect(plain(run, "warp_sums", n), warp_totals(numbers(n)))


def test_votes(run: Run) -> None:
    x = numbers(THREADS).reshape(-1, 32)
    wanted = (x > 0).sum(axis=1) + 100 * (x > 2).any(axis=1) + 1000
    expect(plain(run, "votes", THREADS), np.repeat(wanted, 32))


def test_matches_and_reductions(run: Run) -> None:
    i = np.arange(THREADS).reshape(-1, 32)
    same = np.stack([(row[:, None] % 3 == row % 3).sum(axis=1) for row in i])
    wanted = same + 3200 + i.sum(axis=1, keepdims=True) + i.max(axis=1, keepdims=True)
    expect(plain(run, "matches", THREADS), wanted.ravel())


def test_atomic_accumulation(run: Run) -> None:
    assert into_zeros(run, "accumulate")[0] == numbers(300).sum()


def test_update_in_place(run: Run) -> None:
    out = run.device.array(numbers(300), "output")
    expect(run("double_in_place", out, out, 300), 2 * numbers(300))


def test_blocks_write_neighbouring_bytes(run: Run) -> None:
    values = run.device.array(np.arange(300, dtype=np.float32) % 200, "input")
    out = run.device.empty(300, np.uint8, "output")
    expect(run("neighbouring_bytes", out, values, 300, block=37, grid=9), np.arange(300) % 200)


def test_last_block_reads_what_the_others_made_visible(run: Run) -> None:
    for _ in range(2):  # the counter is back at zero after each launch
        assert plain(run, "last_block", 320, 11, grid=10)[0] == numbers(320).sum()


def test_array_in_a_parameter(run: Run) -> None:
    shape = (ctypes.c_int64 * 17)(*[3, 4, 5], *[1] * 5, *[1, 3, 12], *[0] * 5, 3)
    values = run.device.array(numbers(60), "input")
    found = run("strided", run.device.empty((3, 4, 5), np.float32), values, 60, ctypes.byref(shape))
    expect(found, numbers(60).reshape(5, 4, 3).transpose())


def test_constant_memory(run: Run) -> None:
    expect(plain(run, "constants"), numbers(300) * np.resize([1, 2, 4, 8], 300))
    assert (
        run.launchers.set_table(np.array([3, 5, 7, 9], np.float32).ctypes.data_as(ctypes.c_void_p))
        == 0
    )
    expect(plain(run, "constants"), numbers(300) * np.resize([3, 5, 7, 9], 300))


def test_dynamic_shared_memory(run: Run) -> None:
    values = run.device.array(numbers(64), "input")
    out = run.device.empty(64, np.float32, "output")
    expect(run("dynamic_shared", out, values, 64, 256), numbers(64)[::-1])
    with pytest.raises(OutOfBoundsError, match="shared memory, which has 252 bytes"):
        run("dynamic_shared", out, values, 64, 252)


# ---------------------------------------------------------------------- the runtime library


@pytest.mark.parametrize(
    ("grid", "block", "status"), [(1, 1025, 9), (1, -1, 9), (-1, 128, 9), (1, 1024, 0)]
)
def test_launch_configuration_is_checked(run: Run, grid: int, block: int, status: int) -> None:
    values = run.device.array(numbers(300), "input")
    out = run.device.empty(300, np.float32, "output")
    launch = run.launchers.launch_scale
    pointers = ctypes.c_void_p(out.pointer), ctypes.c_void_p(values.pointer)
    grid = grid if grid > 0 else 2**31  # beyond the largest grid
    assert launch(*pointers, 300, ctypes.c_uint(grid), block) == status


def test_empty_grid_is_an_invalid_configuration(run: Run) -> None:
    values = run.device.array(numbers(300), "input")
    pointer = ctypes.c_void_p(values.pointer)
    assert run.launchers.launch_scale(pointer, pointer, 0, 0, 0) == 9
    assert run.launchers.launch_scale(pointer, pointer, 300, 0, 0) == 0  # the error was taken


def test_too_much_shared_memory_is_an_error(run: Run) -> None:
    pointer = ctypes.c_void_p(run.device.array(numbers(64)).pointer)
    assert run.launchers.launch_dynamic_shared(pointer, pointer, 64, 1 << 20) == 1


def test_memory_calls(run: Run) -> None:
    values = run.device.array(numbers(300), "input")
    out = run.device.empty(300, np.float32, "output")
    pointer = ctypes.c_void_p(out.pointer)
    assert run.launchers.scale_through_workspace(pointer, ctypes.c_void_p(values.pointer), 300) == 0
    expect(out.numpy(), 4 * numbers(300))
    host = numbers(300)
    assert run.launchers.copy_then_scale(pointer, host.ctypes.data_as(ctypes.c_void_p), 300) == 0
    expect(out.numpy(), 2 * host)


def test_use_after_free_is_caught(run: Run) -> None:
    out = run.device.empty(300, np.float32, "output")
    with pytest.raises(OutOfBoundsError, match=r"'cudaMalloc #\d+' \(1200 bytes, freed\)"):
        run.launchers.use_after_free(ctypes.c_void_p(out.pointer), 300)


def test_queries(run: Run) -> None:
    assert run.launchers.multiprocessors() > 0
    assert run.launchers.resident_blocks(128) == 16
    assert run.launchers.static_shared_bytes() == THREADS * 4
    assert run.launchers.streams_and_events() == 0
    text = run.launchers.error_text
    text.restype = ctypes.c_char_p
    assert text(700) == b"an illegal memory access was encountered"


def test_zoo_is_large_enough() -> None:
    assert len(BROKEN) >= 20

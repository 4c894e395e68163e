"""How much memory a call takes at its peak, beyond what was there before it."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch.profiler import ProfilerActivity, profile


def largest_sum(sizes: Iterable[int]) -> int:
    """The largest of the sums of the first sizes, which are negative where memory is freed."""
    total = peak = 0
    for size in sizes:
        total += size
        peak = max(peak, total)
    return peak


@contextmanager
def silent() -> Iterator[None]:
    """The profiler announces on the process's standard error when it starts and when it stops."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def peak_extra(call: Callable[[], object], device: str = "cpu") -> int:
    """Bytes of tensors, results included, that the call has alive at once.

    On the CPU every allocation and release that PyTorch's allocator reports to its profiler is
    added up; memory that a kernel takes for itself elsewhere is not seen.
    """
    call()  # what is made once, compiled kernels and workspaces, is no part of it
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    activities = [ProfilerActivity.CPU]
    with silent(), profile(activities=activities, profile_memory=True, acc_events=True) as seen:
        call()
    recorded = seen.profiler
    assert recorded is not None
    results = recorded.kineto_results
    assert results is not None
    events = [event for event in results.events() if event.name() == "[memory]"]
    return largest_sum(event.nbytes() for event in sorted(events, key=lambda e: e.start_ns()))

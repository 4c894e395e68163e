"""Interleaved timing, so that noise of the machine falls on every contender alike."""

import itertools
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch

Call = Callable[[], object]
Clock = Callable[[Call], float]
Samples = Mapping[str, list[float]]

SAMPLE_SECONDS = 1e-3  # one sample repeats a short call until it lasts this long


@dataclass(frozen=True)
class Spread:
    """The median, the quartiles and the least of a set of samples."""

    median: float
    lower: float
    upper: float
    least: float

    @classmethod
    def of(cls, samples: list[float]) -> "Spread":
        lower, median, upper = np.quantile(samples, (0.25, 0.5, 0.75)).tolist()
        return cls(median, lower, upper, min(samples))


def ratios(samples: Samples, numerator: str, denominator: str) -> list[float]:
    """Time of `numerator` over time of `denominator`, round by round."""
    pairs = zip(samples[numerator], samples[denominator], strict=True)
    return [above / below for above, below in pairs]


def cpu_seconds(run: Call) -> float:
    start = perf_counter()
    run()
    return perf_counter() - start


def cuda_seconds(run: Call) -> float:
    """Between two events on the device's stream."""
    new_event: Callable[..., Any] = torch.cuda.Event
    start, end = (new_event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


CLOCKS: dict[str, Clock] = {"cpu": cpu_seconds, "cuda": cuda_seconds}


class Rotating:
    """One call on many sets of operands in turn, so that a cache does not hold the next set.

    As many results are kept as there are other sets: an allocator shall not hand out their memory
    again while it is in the cache.
    """

    def __init__(self, calls: Sequence[Call]) -> None:
        self._calls = itertools.cycle(calls)
        self._kept: deque[object] = deque(maxlen=len(calls) - 1)

    def __call__(self) -> None:
        self._kept.append(next(self._calls)())


def repeated(call: Call, repeats: int) -> Call:
    def run() -> None:
        for _ in range(repeats):
            call()

    return run


def interleave(
    calls: Mapping[str, Call],
    *,
    budget: float,
    fewest_rounds: int = 7,
    most_rounds: int = 41,
    clock: Clock = cpu_seconds,
) -> Samples:
    """Seconds per call, one sample of each call in every round, in an order drawn for the round.

    In a constant order a call would always meet the caches as the same other call left them;
    reversed by turns, the first and the last would follow themselves. `budget` is the time in
    seconds that the rounds may take together, if `fewest_rounds` fit.
    """
    names = list(calls)
    for name in names:
        calls[name]()  # warms caches and the allocator
    single = {name: clock(calls[name]) for name in names}
    repeats = {name: max(1, round(SAMPLE_SECONDS / single[name])) for name in names}
    one_round = sum(single[name] * repeats[name] for name in names)
    rounds = min(max(fewest_rounds, round(budget / one_round)), most_rounds)
    batches = {name: repeated(calls[name], repeats[name]) for name in names}
    samples: dict[str, list[float]] = {name: [] for name in names}
    draw = random.Random(0)
    for _ in range(rounds):
        for name in draw.sample(names, len(names)):
            samples[name].append(clock(batches[name]) / repeats[name])
    return samples

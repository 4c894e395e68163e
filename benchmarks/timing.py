"""Interleaved timing, so that noise of the machine falls on every contender alike."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch

Samples = Mapping[str, list[float]]

SAMPLE_SECONDS = 2e-3  # one sample repeats a short call until it lasts this long


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


def wait_for_device() -> None:
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()


def seconds_per_call(call: Callable[[], object], repeats: int) -> float:
    wait_for_device()
    start = perf_counter()
    for _ in range(repeats):
        call()
    wait_for_device()
    return (perf_counter() - start) / repeats


def interleave(
    calls: Mapping[str, Callable[[], object]],
    *,
    budget: float,
    fewest_rounds: int = 5,
    most_rounds: int = 41,
) -> Samples:
    """Seconds per call, one sample of each call in every round, the order reversed by turns.

    `budget` is the time in seconds that the rounds may take together, if `fewest_rounds` fit.
    """
    names = list(calls)
    for name in names:
        calls[name]()  # warms caches and the allocator
    single = {name: seconds_per_call(calls[name], 1) for name in names}
    repeats = {name: max(1, round(SAMPLE_SECONDS / single[name])) for name in names}
    one_round = sum(single[name] * repeats[name] for name in names)
    rounds = min(max(fewest_rounds, round(budget / one_round)), most_rounds)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            samples[name].append(seconds_per_call(calls[name], repeats[name]))
    return samples

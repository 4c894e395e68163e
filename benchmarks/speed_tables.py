"""The results of benchmarks.speed, as JSON and as tables."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.first_call import FirstCall
from benchmarks.report import Machine, conditions, markdown
from benchmarks.timing import Spread
from benchmarks.works import BY_NAME, HEADLINES

OURS, EAGER, COMPILED = "fusedgrad", "torch", "torch.compile"
MISSING = "–"


@dataclass(frozen=True)
class Result:
    """Seconds of every contender for one work, and the floors under them."""

    work: str
    work_pass: str
    dtype: str
    threads: int
    size: int
    seconds: dict[str, Spread]
    times_faster: dict[str, Spread]  # fusedgrad than each other contender, round by round
    floor_existing: float
    floor_fresh: float
    moving: float  # of floor_fresh, without what an operator costs on nothing
    bytes_moved: int

    @property
    def over_fresh(self) -> float:
        """fusedgrad's time over the floor of outputs in fresh pages."""
        return self.seconds[OURS].median / self.floor_fresh

    @property
    def over_copy(self) -> float:
        """fusedgrad's time over the floor at a copy's bandwidth, into memory that exists."""
        return self.seconds[OURS].median / self.floor_existing


@dataclass(frozen=True)
class Memory:
    """Peak extra memory of forward+backward, in tensors of the inputs' size."""

    work: str
    size: int
    least: int  # the outputs and gradients
    tensors: dict[str, float]


@dataclass
class Report:
    """Everything a run has measured so far."""

    machine: dict[str, Any]
    results: list[Result] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)
    first_calls: list[FirstCall] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Report":
        def spreads(of: Mapping[str, Any]) -> dict[str, Spread]:
            return {name: Spread(**spread) for name, spread in of.items()}

        results = [
            Result(**entry | {key: spreads(entry[key]) for key in ("seconds", "times_faster")})
            for entry in data["results"]
        ]
        return cls(
            machine=data["machine"],
            results=results,
            memory=[Memory(**entry) for entry in data["memory"]],
            first_calls=[FirstCall(**entry) for entry in data["first_calls"]],
        )


def size_name(size: int) -> str:
    exponent = size.bit_length() - 1
    return f"2^{exponent}" if size == 2**exponent and exponent else f"{size:,}"


def setting_name(about: Machine, dtype: str, threads: int) -> str:
    """A device has no number of threads to choose."""
    if "device" in about:
        return dtype
    return f"{dtype}, {threads} thread{'s' if threads > 1 else ''}"


def time_text(seconds: float) -> str:
    """Three digits."""
    unit, factor = ("µs", 1e6) if seconds < 1e-3 else ("ms", 1e3) if seconds < 1 else ("s", 1.0)
    number = seconds * factor
    return f"{number:.3g} {unit}" if number < 999.5 else f"{number:.0f} {unit}"


def times_text(times: float) -> str:
    return f"{times:.2f}" if times < 10 else f"{times:.1f}"


def full_table(report: Report) -> str:
    """Every result, the middle half of the ratios in brackets.

    "at best" compares the least times: on a busy machine it says more than the medians.
    """
    heading = ["operation", "pass", "dtype", "threads", "size"]
    heading += ["fresh-page floor", "copy floor", OURS]
    for name in (EAGER, COMPILED):
        heading += [name, "times slower", "at best"]
    rows = []
    for result in report.results:
        ours = result.seconds[OURS]
        row = [result.work, result.work_pass, result.dtype, str(result.threads)]
        row += [size_name(result.size), time_text(result.floor_fresh)]
        row += [time_text(result.floor_existing), time_text(ours.median)]
        for name in (EAGER, COMPILED):
            if name not in result.seconds:
                row += [MISSING] * 3
                continue
            theirs, times = result.seconds[name], result.times_faster[name]
            row += [
                time_text(theirs.median),
                f"{times.median:.2f} ({times.lower:.2f} to {times.upper:.2f})",
                f"{theirs.least / ours.least:.2f}",
            ]
        rows.append(row)
    return markdown(heading, rows, left=3)


def setting_table(results: Sequence[Result], peak: float | None) -> str:
    """The results of one dtype and number of threads: a row for each work and pass."""
    sizes = sorted({result.size for result in results})
    compiled = sorted({result.size for result in results if COMPILED in result.seconds})
    found = {(r.work, r.work_pass, r.size): r for r in results}
    heading = ["operation", "pass", *map(size_name, sizes)]
    heading += [f"{COMPILED}, {size_name(size)}" for size in compiled]
    last_size = size_name(sizes[-1])
    heading += [f"time / fresh-page floor, {last_size}", f"time / copy floor, {last_size}"]
    if peak:
        heading.append("share of peak bandwidth")
    rows = []
    for work, work_pass in dict.fromkeys((r.work, r.work_pass) for r in results):
        row = [work, work_pass]
        for size in sizes:
            result = found.get((work, work_pass, size))
            row.append(
                f"{time_text(result.seconds[OURS].median)}, "
                f"{times_text(result.times_faster[EAGER].median)}"
                if result
                else MISSING
            )
        for size in compiled:
            row.append(times_cell(found.get((work, work_pass, size)), COMPILED))
        last = found.get((work, work_pass, sizes[-1]))
        row += [times_text(last.over_fresh), times_text(last.over_copy)] if last else [MISSING] * 2
        if peak:
            share = last and last.bytes_moved / last.seconds[OURS].median / peak
            row.append(f"{share:.0%}" if share else MISSING)
        rows.append(row)
    return markdown(heading, rows, left=2)


def times_cell(result: Result | None, rival: str) -> str:
    if result is None or rival not in result.times_faster:
        return MISSING
    return times_text(result.times_faster[rival].median)


def tensors_text(tensors: float) -> str:
    """Without the few bytes of sums and of numbers."""
    return f"{tensors:.2f}".rstrip("0").rstrip(".")


def memory_table(memory: Sequence[Memory]) -> str:
    names = list(dict.fromkeys(name for entry in memory for name in entry.tensors))
    rows = [
        [entry.work, str(entry.least)]
        + [tensors_text(entry.tensors[n]) if n in entry.tensors else MISSING for n in names]
        for entry in memory
    ]
    return markdown(["operation", "outputs and gradients", *names], rows)


def first_call_table(calls: Iterable[FirstCall]) -> str:
    rows = [
        [call.work, call.library, time_text(call.cold), time_text(call.cached)] for call in calls
    ]
    return markdown(["function", "compiler", "cold", "from its cache"], rows, left=2)


def long_tables(report: Report) -> str:
    """For docs/speed.md."""
    parts = [
        "A cell holds fusedgrad's time and how many times longer torch eager takes (medians of "
        f"interleaved rounds); a column of {COMPILED} how many times longer that takes. The copy "
        "floor is each input read once and each output written once at the speed of a copy, in the "
        "same rounds, into memory that exists; the fresh-page floor adds the time in which the "
        f"system maps and zeroes the pages of the outputs. {conditions(report.machine)}."
    ]
    settings = dict.fromkeys((r.dtype, r.threads) for r in report.results)
    for dtype, threads in sorted(settings, key=lambda s: (s[0] != "float32", s[0], -s[1])):
        results = [r for r in report.results if (r.dtype, r.threads) == (dtype, threads)]
        parts.append(f"### {setting_name(report.machine, dtype, threads)}")
        parts.append(setting_table(results, report.machine.get("peak bandwidth")))
    parts += ["### Where eager is faster", *where_eager_is_faster(report)]
    if report.memory:
        parts += [
            "### Memory",
            "Extra memory at the peak of forward+backward, in tensors of the size of an input "
            f"({size_name(report.memory[0].size)} float32).",
            memory_table(report.memory),
        ]
    if report.first_calls:
        parts += [
            "### First call",
            "Forward and backward of a function for the first time in a new process, with empty "
            "caches, and with what an earlier process left there. Imports are not counted, "
            f"those of {COMPILED}'s own modules included.",
            first_call_table(report.first_calls),
        ]
    return "\n\n".join(parts)


def where_eager_is_faster(report: Report) -> list[str]:
    """How many such results the operations and fused functions have, and a table that says why."""
    measured = [r for r in report.results if BY_NAME[r.work].kind != "activation"]
    faster = [r for r in measured if r.times_faster[EAGER].median < 1]
    count = f"{len(faster)} of {len(measured)} measured cells of operations and fused functions"
    title = f"{EAGER} eager is faster in {count}"
    if not faster:
        return [f"{title}."]
    calls = {
        (r.work, r.work_pass, r.threads): r.seconds[OURS].median
        for r in report.results
        if (r.size, r.dtype) == (1, "float32")
    }
    rows = []
    for r in sorted(faster, key=lambda r: (r.dtype != "float32", r.dtype, -r.threads, r.work_pass)):
        ours, times = r.seconds[OURS].median, r.times_faster[EAGER]
        call = min(calls.get((r.work, r.work_pass, r.threads), 0.0), ours)
        parts = {"call": call, "memory": r.moving, "computing": max(ours - call - r.moving, 0.0)}
        rows.append(
            [
                f"{r.work_pass}, {setting_name(report.machine, r.dtype, r.threads)}",
                r.work,
                max(parts, key=lambda part: parts[part]),
                size_name(r.size),
                f"{times.median:.2f} ({times.lower:.2f} to {times.upper:.2f})",
                time_text(ours),
                *map(time_text, parts.values()),
            ]
        )
    heading = ["pass", "operation", "most of it is", "size", "times faster", OURS]
    heading += ["call", "memory", "computing"]
    least = min(r.times_faster[EAGER].median for r in faster)
    return [
        f"{title}, its time at least {least:.2f} of fusedgrad's.",
        "How many times faster fusedgrad is, with the middle half of the rounds, its time, and "
        "what that is made of: the call, as it is on one element of float32; the moving of memory, "
        "into fresh pages, which computing may hide; and the rest, which is computing.",
        markdown(heading, rows, left=3),
    ]


def short_table(report: Report) -> str:
    """For the README: forward+backward of the headlines, float32, all threads."""
    results = [
        r for r in report.results if (r.dtype, r.work_pass) == ("float32", "forward+backward")
    ]
    threads = max(result.threads for result in results)
    found = {(r.work, r.size): r for r in results if r.threads == threads}
    sizes = sorted({size for _, size in found if size > 1} or {size for _, size in found})
    compiled = sorted({r.size for r in found.values() if COMPILED in r.seconds})
    memory = {entry.work: entry.tensors for entry in report.memory}
    heading = ["forward + backward"]
    heading += [f"{EAGER}, {size_name(size)}" for size in sizes]
    heading += [f"{COMPILED}, {size_name(size)}" for size in compiled]
    heading += [f"time / fresh-page floor, {size_name(sizes[-1])}", f"memory (and {EAGER}'s)"]
    rows, over_copy = [], []
    for work in HEADLINES:
        by_size = [found.get((work, size)) for size in sizes]
        if not any(by_size):
            continue
        last = by_size[-1]
        row = [work, *(times_cell(result, EAGER) for result in by_size)]
        row += [times_cell(found.get((work, size)), COMPILED) for size in compiled]
        row.append(times_text(last.over_fresh) if last else MISSING)
        over_copy += [last.over_copy] if last else []
        taken = memory.get(work)
        row.append(
            f"{tensors_text(taken[OURS])} ({tensors_text(taken[EAGER])})" if taken else MISSING
        )
        rows.append(row)
    sentences = [
        f"How many times longer {EAGER} eager and {COMPILED} take than fusedgrad; "
        f"{setting_name(report.machine, 'float32', threads)}."
    ]
    if over_copy:  # a headline was measured
        sentences.append(
            "The fresh-page floor is the time in which a copy moves each input once and each "
            "output once, and the system maps and zeroes the pages of the outputs, which are new "
            "memory; over the copy alone, into memory that exists, these times are "
            f"{times_text(min(over_copy))} to {times_text(max(over_copy))}."
        )
    sentences.append("Memory: extra at the peak, in tensors of an input's size.")
    calls = {(call.work, call.library): call for call in report.first_calls}
    for (work, library), ours in calls.items():
        theirs = calls.get((work, COMPILED))
        if library == OURS and theirs:
            sentences.append(
                f"First call of {work} in a new process: {time_text(ours.cold)} "
                f"({time_text(ours.cached)} from the cache); {COMPILED} {time_text(theirs.cold)} "
                f"({time_text(theirs.cached)}); imports not counted."
            )
            break
    sentences.append(where_eager_is_faster(report)[0])
    sentences.append(f"{conditions(report.machine)}.")
    return f"{markdown(heading, rows)}\n\n{' '.join(sentences)}"

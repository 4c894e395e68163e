"""`python -m benchmarks.accuracy`: the largest errors of fusedgrad and of other libraries, in ULP.

Every library runs as a user runs it, derivatives by its own differentiation; fusedgrad._C compares
the results with exact values from the C library in a wider type. fusedgrad's float32 functions of
one variable are scanned over all 2^32 inputs (the other libraries' over every 251st), half types
over all 2^16; float64 and pow over samples. The other libraries are torch, NumPy with SciPy, and
JAX where it is installed. All of it takes a quarter of an hour on two processors, --quick seconds.
All results are in the JSON file as they come; --from makes tables and picture of such a file again.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks import accuracy_picture
from benchmarks.accuracy_errors import HALF_TYPES, Chunk, Errors, Inputs, compare
from benchmarks.accuracy_libraries import (
    BITS,
    EXPONENTS,
    OURS,
    POW_TENSOR,
    TORCHS,
    Function,
    Library,
    dtype_name,
    libraries,
    pow_functions,
    with_parameters,
)
from benchmarks.report import (
    BUILD,
    DOCS,
    README,
    Journal,
    conditions,
    machine,
    markdown,
    progress_bar,
    write_between_markers,
)

WIDE_TYPES = (torch.float32, torch.float64)
HALF_EXPONENT = 2.5  # exact in every half type, so that the libraries compute the same power
CHUNK = 2**20
OTHERS_STRIDE = 251  # their errors show in a sample; prime, so that it meets all last digits
SAMPLES = 2**21
QUICK_STRIDE, QUICK_SAMPLES = 1_000_003, 2**12
MISSING = "–"


def measure(function: Function, library: Library, chunks: Sequence[Chunk]) -> Errors:
    """The errors over all chunks, a thread for each processor."""
    total = Errors()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for errors in pool.map(lambda chunk: compare(function, library, chunk), chunks):
            total.add(errors)
    return total


# ----------------------------------------------------------------------------------------- inputs


def every_float32(parameter: float, stride: int) -> list[Chunk]:
    """Every `stride`-th bit pattern."""

    def chunk(start: int) -> Inputs:
        stop = min(start + CHUNK * stride, 2**32)
        x = torch.arange(start, stop, stride).to(torch.int32).view(torch.float32)
        return x, torch.full_like(x, parameter)

    return [partial(chunk, start) for start in range(0, 2**32, CHUNK * stride)]


def every_half(dtype: torch.dtype, parameter: float) -> list[Chunk]:
    x = torch.arange(2**16).to(torch.int16).view(dtype)
    return [lambda: (x, torch.full_like(x, parameter))]


def samples(dtype: torch.dtype, count: int, parameter: float | None = None) -> list[Chunk]:
    """Numbers of every magnitude and, as many, of ordinary ones; without a parameter, its own."""
    generator = torch.Generator().manual_seed(0)
    limits = torch.iinfo(BITS[dtype])
    patterns = torch.randint(
        limits.min, limits.max, (count // 2,), dtype=BITS[dtype], generator=generator
    )
    ordinary = torch.randn(count // 2, dtype=dtype, generator=generator) * 8
    x = torch.cat([patterns.view(dtype), ordinary])
    if parameter is None:
        p = torch.randn(count, dtype=dtype, generator=generator) * 4
    else:
        p = torch.full_like(x, parameter)
    size = max(1, min(CHUNK, count // 8))
    return [
        partial(lambda part: (x[part], p[part]), slice(start, start + size))
        for start in range(0, count, size)
    ]


@dataclass(frozen=True)
class Job:
    """A function over a set of inputs, which may be thinner for the other libraries."""

    dtype: torch.dtype
    title: str  # jobs of one title and dtype make one row
    group: str  # rows of one group make one row of the README's table
    function: Function
    chunks: Callable[[bool], Sequence[Chunk]]  # (is it fusedgrad?)


def jobs(stride: int, count: int) -> Iterator[Job]:
    """Everything that is measured; chunks are made when a job is done."""

    def whole(dtype: torch.dtype, parameter: float) -> Callable[[bool], Sequence[Chunk]]:
        if dtype in HALF_TYPES:
            return lambda ours: every_half(dtype, parameter)
        if dtype is torch.float64:
            return lambda ours: samples(dtype, count, parameter)
        return lambda ours: every_float32(parameter, stride if ours else max(stride, OTHERS_STRIDE))

    for dtype in (*WIDE_TYPES, *HALF_TYPES):
        for title, function, parameter in with_parameters():
            yield Job(dtype, title, function.title, function, whole(dtype, parameter))
        if dtype in HALF_TYPES:
            for mark, function in zip(("", "′"), pow_functions(HALF_EXPONENT), strict=True):
                inputs = whole(dtype, HALF_EXPONENT)
                yield Job(dtype, function.title, f"pow(x, e){mark}", function, inputs)
            continue
        for e in EXPONENTS:
            for mark, function in zip(("", "′"), pow_functions(e), strict=True):
                inputs = partial(lambda e, dtype, ours: samples(dtype, count, e), e, dtype)
                yield Job(dtype, f"pow(x, e){mark}", f"pow(x, e){mark}", function, inputs)
        for function in POW_TENSOR:
            inputs = partial(lambda dtype, ours: samples(dtype, count), dtype)
            yield Job(dtype, function.title, function.title, function, inputs)


# ---------------------------------------------------------------------------------------- results


@dataclass
class Row:
    """Each library's errors."""

    dtype: str
    title: str
    group: str
    errors: dict[str, Errors] = field(default_factory=dict)

    def add(self, errors: Mapping[str, Errors]) -> None:
        for name, found in errors.items():
            self.errors.setdefault(name, Errors()).add(found)


@dataclass
class Report:
    """Everything measured so far."""

    machine: dict[str, Any]
    stride: int
    samples: int
    rows: list[Row] = field(default_factory=list)

    def add(self, job: Job, errors: Mapping[str, Errors]) -> None:
        dtype = dtype_name(job.dtype)
        row = next((r for r in self.rows if (r.dtype, r.title) == (dtype, job.title)), None)
        if row is None:
            row = Row(dtype, job.title, job.group)
            self.rows.append(row)
        row.add(errors)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Report":
        rows = [
            Row(**row | {"errors": {name: Errors(**e) for name, e in row["errors"].items()}})
            for row in data["rows"]
        ]
        return cls(**{**data, "rows": rows})


def run(report: Report) -> Iterator[None]:
    """Fills the report, and yields after each job."""
    todo = list(jobs(report.stride, report.samples))
    with progress_bar(len(todo), "function") as bar:
        for job in todo:
            bar.set_postfix_str(f"{dtype_name(job.dtype)} {job.function.title}", refresh=False)
            chunks = {is_ours: job.chunks(is_ours) for is_ours in (True, False)}
            errors = {
                library.name: measure(job.function, library, chunks[library is OURS])
                for library in libraries()
                if library.computes(job.function, job.dtype)
            }
            report.add(job, errors)
            bar.update()
            yield


# ----------------------------------------------------------------------------------------- tables


def largest_text(errors: Errors | None) -> str:
    if errors is None:
        return MISSING
    form = ".2f" if errors.largest < 1000 else ",.0f" if errors.largest < 1e6 else ".1e"
    text = f"{errors.largest:{form}}"
    return f"{text}, {errors.wrong:,} wrong" if errors.wrong else text


def wide_table(rows: Sequence[Row]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row.errors))
    return markdown(
        [rows[0].dtype, *names],
        [[row.title, *(largest_text(row.errors.get(name)) for name in names)] for row in rows],
    )


def half_table(rows: Sequence[Row]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row.errors))
    heading = [rows[0].dtype]
    for name in names:
        heading += [name, "not correctly rounded", "wrong zeros"]
    lines = []
    for row in rows:
        cells = [row.title]
        for name in names:
            errors = row.errors[name]
            cells += [largest_text(errors), f"{errors.misrounded:,}", f"{errors.zeros:,}"]
        lines.append(cells)
    return markdown(heading, lines)


def which_inputs(report: Report) -> str:
    stride = report.stride
    which = "every input" if stride == 1 else f"one input in {stride:,}"
    return (
        f"float32 over {which} (other libraries: one in {max(stride, OTHERS_STRIDE):,}), half "
        f"types over every input, float64 and pow over {report.samples:,} samples"
    )


WRONG = '"Wrong" counts NaN, infinities and opposite signs that must not be.'


def long_tables(report: Report) -> str:
    """For docs/accuracy.md."""
    listed = ", ".join(f"{exponent:.3g}" for exponent in EXPONENTS)
    versions = ", ".join(f"{name} {found}" for name, found in report.machine["others"].items())
    parts = [
        f"Largest error in ULP; {which_inputs(report)}. {WRONG} The exponents e are {listed}. "
        f"{conditions(report.machine)}, {versions}."
    ]
    halves = [dtype_name(dtype) for dtype in HALF_TYPES]
    for dtype in dict.fromkeys(row.dtype for row in report.rows):
        rows = [row for row in report.rows if row.dtype == dtype]
        if dtype == halves[0]:
            parts.append("Half types: 0.5 is a correctly rounded result.")
        parts.append(half_table(rows) if dtype in halves else wide_table(rows))
    return "\n\n".join(parts)


def short_table(report: Report) -> str:
    """For the README: fusedgrad and torch, the worst of all targets and exponents."""
    grouped: dict[str, dict[str, Row]] = {}
    for row in report.rows:
        by_dtype = grouped.setdefault(row.group, {})
        by_dtype.setdefault(row.dtype, Row(row.dtype, row.group, row.group)).add(row.errors)
    dtypes = list(dict.fromkeys(row.dtype for row in report.rows))
    names = (OURS.name, TORCHS.name)
    heading = ["largest error in ULP", *(f"{dtype} {name}" for dtype in dtypes for name in names)]
    lines = [
        [group]
        + [
            largest_text(by_dtype[dtype].errors[name]) if dtype in by_dtype else MISSING
            for dtype in dtypes
            for name in names
        ]
        for group, by_dtype in grouped.items()
    ]
    targets = "targets 0, 1 and 0.3"
    return (
        f"{markdown(heading, lines)}\n\nThe worst of {targets} and of ten exponents e; "
        f"{which_inputs(report)}. {WRONG} {conditions(report.machine)}."
    )


# -------------------------------------------------------------------------------------------- main


def others() -> dict[str, str]:
    names = {"NumPy": "numpy", "SciPy": "scipy", "JAX": "jax"}
    return {name: version(module) for name, module in names.items() if find_spec(module)}


def measured(stride: int, count: int, path: Path) -> Report:
    report = Report({**machine(), "others": others()}, stride, count)
    journal = Journal(path)
    try:
        for _ in run(report):
            journal.write_by_turns(asdict(report))
    finally:
        journal.write(asdict(report))
    return report


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        prog="python -m benchmarks.accuracy",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="few inputs: seconds")
    parser.add_argument("--stride", type=int, default=1, help="take every n-th float32 only")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="of float64 and of pow")
    parser.add_argument("--json", type=Path, metavar="FILE", default=BUILD / "accuracy.json")
    parser.add_argument("--from", type=Path, metavar="FILE", dest="source", help="measure nothing")
    parser.add_argument(
        "--write", action="store_true", help="put tables and picture in README.md and docs/"
    )
    options = parser.parse_args(arguments)
    if options.quick:
        options.stride, options.samples = QUICK_STRIDE, QUICK_SAMPLES
    torch.set_num_threads(1)  # the threads are this program's own
    if options.source:
        report = Report.from_json(json.loads(options.source.read_text()))
    else:
        report = measured(options.stride, options.samples, options.json)
    print(f"{long_tables(report)}\n\n{short_table(report)}")
    picture = (DOCS if options.write else options.json.parent) / "accuracy.png"
    accuracy_picture.draw(picture)
    print(f"picture: {picture}")
    if options.write:
        write_between_markers("accuracy", short_table(report), README)
        page = f"![Largest error against x](accuracy.png)\n\n{long_tables(report)}"
        write_between_markers("accuracy", page, DOCS / "accuracy.md")


if __name__ == "__main__":
    main()

"""`python -m benchmarks.speed`: how fast fusedgrad is beside torch, torch.compile and the machine.

Every contender runs in one process, in turns with the others and with the copies that make the
floor (benchmarks/floor.py): each input of a pass read once, each output written once. On a CUDA
device the times are the device's, between events, and operands rotate so that no cache holds them.

What is measured, chosen so that all of it takes less than a quarter of an hour on two processors:
- float32: every work and pass at every size, with one thread and with two. At 2^24 one thread runs
  the operations' forward and every work's forward+backward: the rest says what two threads say.
- the other dtypes: every work and pass at 2^20 with two threads; bfloat16's operations at 2^24 too.
- torch.compile: every work's forward+backward in float32, two threads, at 2^20 and 2^24, where it
  matters; compiled for fixed shapes, one by one.
- extra memory of forward+backward at 2^20, and the first calls of the fused functions.

--quick runs float32 with two threads up to 2^16 and compiles one function. All results are in the
JSON file as they come; --from makes tables and pictures of such a file again.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import first_call, speed_picture
from benchmarks.floor import Floor, reference_calls
from benchmarks.memory import peak_extra
from benchmarks.report import (
    BUILD,
    DOCS,
    README,
    Journal,
    conditions,
    machine,
    progress_bar,
    write_between_markers,
)
from benchmarks.speed_tables import (
    COMPILED,
    EAGER,
    OURS,
    Memory,
    Report,
    Result,
    full_table,
    long_tables,
    short_table,
)
from benchmarks.timing import CLOCKS, Rotating, Spread, interleave, ratios
from benchmarks.works import FUNCTIONS, PASSES, WORKS, Function, Pass, Work

SIZES = (1, 1000, 2**16, 2**20, 2**24)
QUICK_SIZES = (1, 1000, 2**16)
MIDDLE, LARGEST = 2**20, 2**24
THREADS = (1, 2)
DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
MOST_COPIES = 256  # of small operands, where launching is what takes the time

Operands = Sequence[Sequence[Tensor]]


@dataclass(frozen=True)
class Cell:
    """One measurement to be made."""

    work: Work
    dtype: str
    size: int
    threads: int
    work_pass: Pass


def is_measured(cell: Cell) -> bool:
    """What the module's docstring says."""
    if cell.dtype != "float32":
        is_large = cell.size == LARGEST and (cell.dtype, cell.work.kind) == (
            "bfloat16",
            "operation",
        )
        return cell.threads == max(THREADS) and (cell.size == MIDDLE or is_large)
    if (cell.size, cell.threads) == (LARGEST, 1):
        is_operation = cell.work.kind == "operation"
        return cell.work_pass == "forward+backward" or (
            is_operation and cell.work_pass == "forward"
        )
    return True


def cells(options: argparse.Namespace) -> list[Cell]:
    """In an order in which a work's operands are made once for each dtype and size."""
    works = [work for work in WORKS if options.only in work.name]
    threads = THREADS if options.device == "cpu" else (max(THREADS),)
    if options.quick:
        threads = (max(THREADS),)
    every = [
        Cell(work, dtype, size, count, work_pass)
        for work in works
        for dtype in DTYPES
        for size in options.sizes or (QUICK_SIZES if options.quick else SIZES)
        for count in threads
        for work_pass in PASSES
    ]
    if options.quick or options.sizes:
        return [cell for cell in every if cell.dtype == "float32"]
    return [cell for cell in every if is_measured(cell)]


def is_compiled(cell: Cell, quick: bool) -> bool:
    settings = (cell.dtype, cell.threads, cell.work_pass)
    if settings != ("float32", max(THREADS), "forward+backward"):
        return False
    if quick:
        return cell.work is FUNCTIONS[0] and cell.size == max(QUICK_SIZES)
    return cell.size >= MIDDLE


def copies_of(work: Work, dtype: torch.dtype, size: int, device: str) -> int:
    """How many sets of operands take twice the cache of the device; one on the CPU.

    A CPU's cache holds operands of a size that fits it, as it does in a program.
    """
    if device == "cpu":
        return 1
    cache: int = torch.cuda.get_device_properties().L2_cache_size
    traffic = work.traffic("forward")
    return min(
        2 * cache // ((traffic.reads + traffic.writes) * size * dtype.itemsize) + 2, MOST_COPIES
    )


def operands_of(work: Work, dtype: torch.dtype, size: int, device: str) -> Operands:
    torch.manual_seed(0)
    first = [make(size).to(device, dtype) for make in work.inputs]
    copies = copies_of(work, dtype, size, device)
    return [first, *([x.clone() for x in first] for _ in range(copies - 1))]


def prepare(
    work: Work, work_pass: Pass, function: Function, operands: Operands
) -> Callable[[], None]:
    """The call to be timed. A backward pass makes fresh gradients each time."""

    def call(inputs: Sequence[Tensor]) -> Callable[[], object]:
        if work_pass == "forward":
            return lambda: function(*inputs)
        inputs = [x.detach() for x in inputs]  # the same memory
        wanted = [x.requires_grad_() for x in inputs[: work.derivatives]]
        upstream = None if work.reduced else torch.rand_like(inputs[0])
        if work_pass == "forward+backward":
            return lambda: torch.autograd.grad(function(*inputs), wanted, upstream)
        result = function(*inputs)
        return lambda: torch.autograd.grad(result, wanted, upstream, retain_graph=True)

    return Rotating([call(inputs) for inputs in operands])


def measure(
    cell: Cell, operands: Operands, functions: Mapping[str, Function], budget: float
) -> Result:
    source = operands[0][0]
    torch.set_num_threads(cell.threads)
    calls: dict[str, Callable[[], object]] = {
        name: prepare(cell.work, cell.work_pass, function, operands)
        for name, function in functions.items()
    }
    references = reference_calls(cell.work_pass, source)
    clock = CLOCKS[source.device.type]
    samples = interleave({**calls, **references}, budget=budget, clock=clock)
    traffic = cell.work.traffic(cell.work_pass)
    floor = Floor.of({name: min(samples[name]) for name in references})
    return Result(
        work=cell.work.name,
        work_pass=cell.work_pass,
        dtype=cell.dtype,
        threads=cell.threads,
        size=cell.size,
        seconds={name: Spread.of(samples[name]) for name in calls},
        times_faster={
            name: Spread.of(ratios(samples, name, OURS)) for name in calls if name != OURS
        },
        floor_existing=floor.existing_outputs(traffic),
        floor_fresh=floor.fresh_outputs(traffic),
        moving=floor.moving_fresh(traffic),
        bytes_moved=(traffic.reads + traffic.writes) * source.nbytes,
    )


def measure_memory(work: Work, functions: Mapping[str, Function], size: int, device: str) -> Memory:
    """Of forward+backward, in float32."""
    operands = operands_of(work, torch.float32, size, device)[:1]
    tensors = {
        name: peak_extra(prepare(work, "forward+backward", function, operands), device)
        / operands[0][0].nbytes
        for name, function in functions.items()
    }
    return Memory(work.name, size, work.derivatives + (not work.reduced), tensors)


def run(options: argparse.Namespace, report: Report) -> Iterator[None]:
    """Fills the report, and yields after each result."""
    budget = 0.02 if options.quick else 0.15
    todo = cells(options)
    with progress_bar(len(todo), "cell") as bar:
        for work, of_work in groupby(todo, key=lambda cell: cell.work):
            torch.compiler.reset()
            compiled: Function = torch.compile(work.theirs, dynamic=False)
            eager = {OURS: work.ours, EAGER: work.theirs}
            for (dtype, size), group in groupby(of_work, key=lambda cell: (cell.dtype, cell.size)):
                operands = operands_of(work, DTYPES[dtype], size, options.device)
                for cell in group:
                    bar.set_postfix_str(f"{work.name}, {dtype}, {size}", refresh=False)
                    with_compiled = eager | {COMPILED: compiled}
                    functions = with_compiled if is_compiled(cell, options.quick) else eager
                    report.results.append(measure(cell, operands, functions, budget))
                    bar.update()
                    yield
            size = MIDDLE
            functions = eager if options.quick else eager | {COMPILED: compiled}
            report.memory.append(measure_memory(work, functions, size, options.device))
            yield
    for work in FUNCTIONS[:1] if options.quick else FUNCTIONS:
        for library in first_call.LIBRARIES[:1] if options.quick else first_call.LIBRARIES:
            report.first_calls.append(first_call.measure(work.name, library, options.device))
            yield


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        prog="python -m benchmarks.speed",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="less than a minute")
    parser.add_argument("--device", choices=CLOCKS, default="cpu", help="where the tensors are")
    parser.add_argument("--only", default="", help="works whose name holds this text")
    parser.add_argument("--sizes", nargs="+", type=int, help="float32 at these sizes instead")
    parser.add_argument("--json", type=Path, metavar="FILE", default=BUILD / "speed.json")
    parser.add_argument("--from", type=Path, metavar="FILE", dest="source", help="measure nothing")
    parser.add_argument(
        "--write", action="store_true", help="put tables and pictures in README.md and docs/"
    )
    options = parser.parse_args(arguments)
    if not any(options.only in work.name for work in WORKS):
        parser.error(f"--only {options.only!r}: none of {', '.join(w.name for w in WORKS)}")
    if options.write and options.device != "cpu":
        parser.error("--write: README.md and docs/ show the CPU's figures")
    return options


def measured(options: argparse.Namespace) -> Report:
    report = Report(machine(options.device))
    journal = Journal(options.json)
    try:
        for _ in run(options, report):
            journal.write_by_turns(report.as_json())
    finally:
        journal.write(report.as_json())
    return report


def printed_by(page: Path) -> str:
    """What the first block of code of a page prints in a new process, as a block of text."""
    block = re.search(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    if block is None:
        raise ValueError(f"{page} holds no block of Python")
    command = [sys.executable, "-c", block[1]]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return f"```text\n{done.stdout}```"


def write_limits() -> None:
    """Put what the page's block prints here into the page."""
    page = DOCS / "speed.md"
    text = f"{printed_by(page)}\n\nMeasured on {conditions(machine())}."
    write_between_markers("limits", text, page)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if options.source:
        report = Report.from_json(json.loads(options.source.read_text()))
    else:
        report = measured(options)
    print(full_table(report))
    print(f"\n{long_tables(report)}")
    print(f"\n{short_table(report)}")
    folder = DOCS if options.write else options.json.parent
    pictures = speed_picture.draw(report, folder)
    print(f"pictures: {', '.join(map(str, pictures))}")
    if options.write:
        write_between_markers("speed", short_table(report), README)
        write_between_markers("speed", long_tables(report), DOCS / "speed.md")
    if options.write and not options.source:
        write_limits()


if __name__ == "__main__":
    main()

"""`python -m benchmarks.speed`: how fast fusedgrad's operations are beside torch's.

Every contender runs in the same process, in turns with the others and with a plain copy. The
floor is the time in which the copy would move what the work must move: each operand read and each
result written once in each pass.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.contenders import CONTENDERS, FUSEDGRAD, TORCH, Contender
from benchmarks.report import conditions, machine, markdown, write_into_readme
from benchmarks.timing import Spread, interleave, ratios

SIZES = (2**16, 2**20, 2**24)
THREADS = (1, 2)
DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
PASSES = ("forward", "forward+backward")

Make = Callable[[int], torch.Tensor]


def logits(size: int) -> torch.Tensor:
    return 4 * torch.randn(size)


def unit(size: int) -> torch.Tensor:
    return torch.rand(size) * 0.98 + 0.01


def positive(size: int) -> torch.Tensor:
    return 4 * unit(size)


@dataclass(frozen=True)
class Work:
    """One operation on inputs of its kind; the first `derivatives` of them require grad."""

    name: str
    run: Callable[..., torch.Tensor]  # (contender, *inputs)
    inputs: Sequence[Make]
    derivatives: int = 1
    reduced: bool = False

    def tensors_moved(self, work_pass: str) -> int:
        """How many tensors of the inputs' size the pass must read or write."""
        result = 0 if self.reduced else 1
        forward = len(self.inputs) + result
        if work_pass == "forward":
            return forward
        return forward + len(self.inputs) + result + self.derivatives


def pow_scalar(exponent: float) -> Work:
    def run(library: Contender, x: torch.Tensor) -> torch.Tensor:
        return library.pow(x, exponent)

    return Work(f"pow(x, {exponent:g})", run, [positive])


def with_logits(reduction: str) -> Work:
    def run(library: Contender, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return library.binary_cross_entropy_with_logits(x, target, reduction=reduction)

    reduced = reduction != "none"
    return Work(f"bce_with_logits, {reduction}", run, [logits, unit], reduced=reduced)


WORKS = (
    Work("sigmoid", lambda library, x: library.sigmoid(x), [logits]),
    Work("tanh", lambda library, x: library.tanh(x), [logits]),
    *(pow_scalar(exponent) for exponent in (2, 3, 0.5, -1, 2.5, -7.3)),
    Work("pow(x, y)", lambda library, x, y: library.pow(x, y), [positive, logits], derivatives=2),
    with_logits("mean"),
    with_logits("none"),
    Work(
        "bce, mean",
        lambda library, p, target: library.binary_cross_entropy(p, target),
        [unit, unit],
        reduced=True,
    ),
)


@dataclass(frozen=True)
class Result:
    """Seconds of every contender for one work, and the floor under them."""

    work: str
    work_pass: str
    dtype: str
    threads: int
    size: int
    seconds: dict[str, Spread]
    floor: float
    times_faster: dict[str, Spread]  # than torch, round by round


def prepare(
    work: Work, work_pass: str, dtype: torch.dtype, size: int, contender: Contender
) -> Callable[[], object]:
    """The call to be timed. A backward pass makes a fresh gradient tensor each time."""
    torch.manual_seed(0)
    inputs = [make(size).to(dtype) for make in work.inputs]
    if work_pass == "forward":
        return lambda: work.run(contender, *inputs)
    wanted = [x.requires_grad_() for x in inputs[: work.derivatives]]
    upstream = None if work.reduced else torch.rand(size).to(dtype)
    return lambda: torch.autograd.grad(work.run(contender, *inputs), wanted, upstream)


def measure(
    work: Work,
    work_pass: str,
    dtype_name: str,
    threads: int,
    size: int,
    contenders: Sequence[Contender],
    budget: float,
) -> Result:
    torch.set_num_threads(threads)
    dtype = DTYPES[dtype_name]
    source, copy = torch.zeros(size, dtype=dtype), torch.zeros(size, dtype=dtype)
    calls = {c.name: prepare(work, work_pass, dtype, size, c) for c in contenders}
    samples = interleave({**calls, "copy": lambda: copy.copy_(source)}, budget=budget)
    copy_seconds = Spread.of(samples["copy"]).median
    return Result(
        work=work.name,
        work_pass=work_pass,
        dtype=dtype_name,
        threads=threads,
        size=size,
        seconds={name: Spread.of(samples[name]) for name in calls},
        floor=copy_seconds * work.tensors_moved(work_pass) / 2,
        times_faster={
            name: Spread.of(ratios(samples, TORCH.name, name))
            for name in calls
            if name != TORCH.name
        },
    )


def power_of_two(size: int) -> str:
    exponent = size.bit_length() - 1
    return f"2^{exponent}" if size == 2**exponent else str(size)


def full_table(results: Sequence[Result], contenders: Sequence[Contender]) -> str:
    """Every result; times in microseconds, the middle half of the ratios in brackets.

    "at best" compares the least times: on a busy machine it says more than the medians.
    """
    others = [contender.name for contender in contenders if contender is not TORCH]
    heading = ["operation", "pass", "dtype", "threads", "size", "floor us", f"{TORCH.name} us"]
    for name in others:
        heading += [f"{name} us", "times faster than torch", "at best"]
    rows = []
    for result in results:
        row = [result.work, result.work_pass, result.dtype, str(result.threads)]
        row += [power_of_two(result.size), f"{result.floor * 1e6:,.0f}"]
        row += [f"{result.seconds[TORCH.name].median * 1e6:,.0f}"]
        for name in others:
            faster, theirs = result.times_faster[name], result.seconds[TORCH.name]
            row += [
                f"{result.seconds[name].median * 1e6:,.0f}",
                f"{faster.median:.2f} ({faster.lower:.2f} to {faster.upper:.2f})",
                f"{theirs.least / result.seconds[name].least:.2f}",
            ]
        rows.append(row)
    return markdown(heading, rows, left=3)


def setting_name(threads: int, size: int) -> str:
    return f"{power_of_two(size)}, {threads} thread{'s' if threads > 1 else ''}"


def short_table(results: Sequence[Result]) -> str:
    """How many times faster fusedgrad is: a row for each work, a column for threads and size."""
    settings = sorted({(result.threads, result.size) for result in results})
    found = {(r.work, r.work_pass, r.dtype, r.threads, r.size): r for r in results}
    works = dict.fromkeys((r.work, r.work_pass, r.dtype) for r in results)
    heading = ["operation", "pass", "dtype"]
    heading += [setting_name(*setting) for setting in settings]
    heading.append("time / floor")
    rows = []
    for work in works:
        row = [found[(*work, *setting)] for setting in settings]
        faster = [f"{result.times_faster[FUSEDGRAD.name].median:.2f}" for result in row]
        last = row[-1]
        over_floor = f"{last.seconds[FUSEDGRAD.name].median / last.floor:.2f}"
        rows.append([*work, *faster, over_floor])
    return markdown(heading, rows, left=3)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.speed")
    parser.add_argument("--quick", action="store_true", help="one small size, few rounds")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["float32"])
    parser.add_argument("--threads", nargs="+", type=int, default=THREADS)
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--device", default="cpu", help="where the tensors are: cpu or cuda")
    parser.add_argument("--only", default="", help="operations whose name holds this text")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything here")
    parser.add_argument("--write", action="store_true", help="put the short table in README.md")
    options = parser.parse_args(arguments)
    if not {TORCH.name, FUSEDGRAD.name} <= set(options.contenders):
        parser.error("--contenders must name torch and fusedgrad")
    if not any(options.only in work.name for work in WORKS):
        parser.error(f"--only {options.only!r}: none of {', '.join(w.name for w in WORKS)}")
    if options.quick:
        options.sizes = [2**12]
    if options.device != "cpu":
        options.threads = [1]
    return options


def run(options: argparse.Namespace, contenders: Sequence[Contender]) -> Iterator[Result]:
    budget = 0.02 if options.quick else 1.0
    for dtype in options.dtypes:
        for work in WORKS:
            if options.only not in work.name:
                continue
            for work_pass in PASSES:
                for threads in options.threads:
                    for size in options.sizes:
                        setting = setting_name(threads, size)
                        print(f"{work.name}, {work_pass}, {dtype}, {setting}", file=sys.stderr)
                        yield measure(work, work_pass, dtype, threads, size, contenders, budget)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_default_device(options.device)
    contenders = [CONTENDERS[name] for name in options.contenders]
    results = list(run(options, contenders))
    print(full_table(results, contenders))
    summary = (
        f"{short_table(results)}\n\nHow many times faster than torch eager (medians of interleaved "
        "rounds). The last column divides fusedgrad's time in the column before it by the time in "
        f"which a copy moves as many bytes. {conditions()}."
    )
    print(f"\n{summary}")
    if options.json:
        report = {"machine": machine(), "results": [asdict(result) for result in results]}
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    if options.write:
        write_into_readme("speed", summary)


if __name__ == "__main__":
    main()

"""`python -m benchmarks.gpu_speed`: the speed of a GPU in a minute or two, a line of JSON a row.

The bandwidth of a copy, then of each work of the README's table how many times longer PyTorch's own
kernels take, and the part of the copy's bandwidth that is reached: `benchmarks.speed` has the rest.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks import speed
from benchmarks.report import peak_bandwidth
from benchmarks.speed_tables import EAGER, OURS
from benchmarks.timing import CLOCKS, interleave
from benchmarks.works import BY_NAME, HEADLINES, Pass

Row = dict[str, Any]
PASSES: tuple[Pass, ...] = ("forward", "backward")
THREADS = max(speed.THREADS)


def copy_row(device: str, size: int) -> Row:
    source = torch.rand(size, device=device)
    into = torch.empty_like(source)
    seconds = interleave({"copy": lambda: into.copy_(source)}, budget=0.5, clock=CLOCKS[device])
    moved = 2 * source.nbytes / min(seconds["copy"])
    row: Row = {"copied, MiB": source.nbytes // 2**20, "copy, GB/s": round(moved / 1e9)}
    if device == "cuda":
        peak = peak_bandwidth(torch.cuda.get_device_properties())
        row["of the memory's peak"] = round(moved / peak, 2) if peak else "unknown"
    return row


def rows(device: str, sizes: list[int]) -> Iterator[Row]:
    yield copy_row(device, 4 * max(sizes))
    for size in sizes:
        for dtype in ("float32", "bfloat16"):
            for work in map(BY_NAME.__getitem__, HEADLINES):
                operands = speed.operands_of(work, speed.DTYPES[dtype], size, device)
                row: Row = {"work": work.name, "dtype": dtype, "size": size}
                for work_pass in PASSES:
                    cell = speed.Cell(work, dtype, size, THREADS, work_pass)
                    functions = {OURS: work.ours, EAGER: work.theirs}
                    result = speed.measure(cell, operands, functions, budget=0.03)
                    taken = result.seconds[OURS].median
                    row |= {
                        f"torch / ours, {work_pass}": round(result.times_faster[EAGER].median, 2),
                        f"copy / ours, {work_pass}": round(result.floor_existing / taken, 2),
                    }
                yield row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu", "emulated"), default="cuda")
    parser.add_argument("--sizes", type=int, nargs="+", default=[2**24, 2**26, 2**18])
    options = parser.parse_args()
    if options.device == "emulated":  # where no time can be measured
        options.device, options.sizes = "cpu", [2**10]
    for row in rows(options.device, options.sizes):
        print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

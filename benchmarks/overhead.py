"""`python -m benchmarks.overhead`: what one call costs on a tensor of one element, one thread."""

import argparse
from collections.abc import Sequence

import torch

from benchmarks.contenders import FUSEDGRAD, TORCH
from benchmarks.report import conditions, markdown
from benchmarks.speed import PASSES, WORKS, prepare
from benchmarks.timing import Spread, interleave, ratios


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.overhead")
    parser.add_argument("--quick", action="store_true", help="few rounds")
    budget = 0.05 if parser.parse_args(arguments).quick else 1.0
    torch.set_num_threads(1)
    rows = []
    for work in WORKS:
        for work_pass in PASSES:
            samples = interleave(
                {
                    library.name: prepare(work, work_pass, torch.float32, 1, library)
                    for library in (TORCH, FUSEDGRAD)
                },
                budget=budget,
            )
            theirs, ours = (Spread.of(samples[c.name]).median for c in (TORCH, FUSEDGRAD))
            longer = Spread.of(ratios(samples, FUSEDGRAD.name, TORCH.name))
            rows.append(
                [
                    work.name,
                    work_pass,
                    f"{theirs * 1e6:.1f}",
                    f"{ours * 1e6:.1f}",
                    f"{longer.median:.2f} ({longer.lower:.2f} to {longer.upper:.2f})",
                ]
            )
    heading = ["operation", "pass", "torch us", "fusedgrad us", "fusedgrad / torch"]
    print(markdown(heading, rows, left=2))
    print(f"\nOne element, one thread, float32. {conditions()}.")


if __name__ == "__main__":
    main()

"""`python -m benchmarks.first_call`: the first call of a function in a new process, in seconds.

Prints the seconds of the first forward and backward pass on tensors of 2^16 elements, compilation
included and imports of torch, of its compiler and of fusedgrad not. `measure` runs it with empty
caches (cold), and again with what the first run left there (cached).
"""

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch

from benchmarks.works import BY_NAME

SIZE = 2**16
LIBRARIES = ("fusedgrad", "torch.compile")
# What torch.compile imports in its first call: seconds that are none of compilation.
COMPILER = ("torch._dynamo", "torch._inductor.compile_fx", "torch.utils.cpp_extension")
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class FirstCall:
    """Seconds of one library's first call of one function."""

    work: str
    library: str
    cold: float
    cached: float


def seconds_here(name: str, library: str, device: str) -> float:
    work = BY_NAME[name]
    inputs = [make(SIZE).to(device) for make in work.inputs]
    wanted = [x.requires_grad_() for x in inputs[: work.derivatives]]
    if library == "torch.compile":
        for module in COMPILER:
            importlib.import_module(module)
    start = perf_counter()
    function = work.ours if library == "fusedgrad" else torch.compile(work.theirs)
    torch.autograd.grad(function(*inputs).sum(), wanted)
    if device == "cuda":
        torch.cuda.synchronize()
    return perf_counter() - start


def in_new_process(name: str, library: str, device: str, caches: Path) -> float:
    command = [sys.executable, "-m", "benchmarks.first_call", name, library, "--device", device]
    folders = {
        "FUSEDGRAD_CACHE_DIR": str(caches / "fusedgrad"),
        "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
        "TRITON_CACHE_DIR": str(caches / "triton"),
    }
    done = subprocess.run(
        command, env=os.environ | folders, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    return float(done.stdout)


def measure(name: str, library: str, device: str) -> FirstCall:
    with tempfile.TemporaryDirectory() as folder:
        cold, cached = (in_new_process(name, library, device, Path(folder)) for _ in range(2))
    return FirstCall(name, library, cold, cached)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.first_call")
    parser.add_argument("work", choices=BY_NAME)
    parser.add_argument("library", choices=LIBRARIES)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    print(seconds_here(options.work, options.library, options.device))


if __name__ == "__main__":
    main()

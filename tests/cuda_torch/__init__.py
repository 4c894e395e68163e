"""Torch's CUDA tensors without a GPU: `python -m cuda_torch tests/test_X.py` in tests.

A pytest plugin that puts the emulated device under a CPU build of torch (backend.cpp), so that what
stands behind a mark ON_CUDA runs: operators, autograd and the launchers are the real ones, built by
`build` with the stand-in for CUDA's run time.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from cuda_emulator import CompiledLibrary, Device, compile_library
from cuda_emulator.compile import cuda_include, run, runtime_library
from cuda_emulator.runtime import runtime

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "emulated"
LIBRARY = BUILD / "lib"


def build() -> None:
    """`fusedgrad` with its CUDA half, and torch's CUDA tensors, in build/emulated."""
    from torch.utils import cpp_extension

    BUILD.mkdir(parents=True, exist_ok=True)
    environment = {
        "FUSEDGRAD_CUDA": "1",
        "FUSEDGRAD_CUDA_LIBRARY": str(_launchers().path),
        "FUSEDGRAD_WERROR": "1",
        "TORCH_CUDA_ARCH_LIST": "9.0",
    }
    command = [sys.executable, "setup.py", "--quiet", "build", "--build-base"]
    with (BUILD / "log").open("w") as log:
        done = subprocess.run(
            [*command, str(BUILD / "temporary"), "--build-platlib", str(LIBRARY)],
            cwd=ROOT,
            env=os.environ | environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        sys.exit((BUILD / "log").read_text())
    includes = [f"-isystem{path}" for path in (*cpp_extension.include_paths(), cuda_include())]
    flags = ["-std=c++20", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]
    folder = cpp_extension.library_paths()[0]
    links = [f"-L{folder}", f"-Wl,-rpath={folder}", "-lc10", "-ltorch_cpu"]
    sources = [Path(__file__).with_name("backend.cpp"), runtime_library()]
    compiler = os.environ.get("CXX", "c++")
    run([compiler, *flags, *includes, *sources, *links, "-o", BUILD / "torch.so"])


def _launchers() -> CompiledLibrary:
    csrc = ROOT / "csrc"
    return compile_library(sorted((csrc / "cuda").glob("*.cu")), [csrc])


def install() -> Device:
    """Before torch is imported, which asks early what devices there are."""
    ctypes.CDLL(str(BUILD / "torch.so"))
    import torch

    device = Device()
    runtime().load(_launchers())
    runtime().devices.append(device)
    cuda: Any = torch.cuda
    cuda._lazy_init = cuda.synchronize = lambda *_: None
    cuda.is_available = lambda: True
    cuda.get_device_capability = lambda *_: (9, 0)
    cuda.device_of = nullcontext
    memory = device.memory

    def reset_peak_memory_stats() -> None:
        memory.most_in_use = memory.in_use

    cuda.reset_peak_memory_stats = reset_peak_memory_stats
    cuda.memory_allocated = lambda: memory.in_use
    cuda.max_memory_allocated = lambda: memory.most_in_use
    from fusedgrad.fuse import nvrtc

    target: Any = nvrtc
    target._target_of_device = lambda device: "compute_90"  # whose PTX the device interprets
    return device


def pytest_configure() -> None:
    """As a plugin: in each process, before tests are collected."""
    install()


def pytest_runtest_teardown() -> None:
    """What a kernel did wrong is the error of the test that launched it."""
    runtime().devices[0].raise_pending()

"""Builds fusedgrad._C, the one shared object that holds the kernels and their operators."""

import shutil
import sys
from pathlib import Path

from setuptools import Extension, setup

OLDEST_TORCH = (2, 13)
ROOT = Path(__file__).parent

try:
    import torch
    from torch.utils.cpp_extension import BuildExtension, include_paths, library_paths
except ImportError:
    sys.exit(
        "fusedgrad is built against the installed torch, and none is installed here: "
        "install torch first, then run pip with --no-build-isolation."
    )

if tuple(int(part) for part in torch.__version__.split(".")[:2]) < OLDEST_TORCH:
    oldest = ".".join(map(str, OLDEST_TORCH))
    sys.exit(f"fusedgrad needs torch {oldest} or newer, and torch {torch.__version__} is installed.")


def compiler() -> str:
    """The C++ compiler that BuildExtension will call, or the end of the build."""
    import os

    name = os.environ.get("CXX", "c++")
    if shutil.which(name.split()[0]) is None:
        sys.exit(f"fusedgrad needs a C++20 compiler, and '{name}' is not on PATH (set CXX to yours).")
    return name


compiler()

import pybind11  # noqa: E402  (after the checks above, so that their sentence comes first)

SOURCES = sorted(
    str(path.relative_to(ROOT))
    for folder in ("cpu", "operators", "accuracy")
    for path in (ROOT / "csrc" / folder).glob("*.cpp")
)

CXX_FLAGS = [
    "-std=c++20",
    "-O3",
    "-g0",
    "-fvisibility=hidden",
    # Every fused multiply-add is written out, so that all instruction sets and the device agree.
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
    "-Wextra",
    "-Werror",
    f'-DFUSEDGRAD_TORCH_VERSION="{torch.__version__}"',
    # Other people's headers are not held to our warnings.
    *(f"-isystem{path}" for path in [*include_paths(), pybind11.get_include()]),
]

setup(
    ext_modules=[
        Extension(
            "fusedgrad._C",
            SOURCES,
            include_dirs=[str(ROOT / "csrc")],
            library_dirs=library_paths(),
            libraries=["c10", "torch", "torch_cpu"],
            extra_compile_args={"cxx": CXX_FLAGS},
            language="c++",
        )
    ],
    cmdclass={"build_ext": BuildExtension},
)

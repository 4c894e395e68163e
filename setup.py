"""Builds fusedgrad._C, the one shared object that holds the kernels and their operators.

FUSEDGRAD_CUDA=1 builds the CUDA kernels too, 0 does not, auto (the default) does where the
installed torch is a CUDA build and a toolkit is found. TORCH_CUDA_ARCH_LIST names the
architectures, or is `all`; without it they are those of the GPUs that are present, and all where
there is none. FUSEDGRAD_CUDA_LIBRARY names a shared object of csrc/cuda that brings a run time, to
be linked in the place of both. FUSEDGRAD_WERROR=1 makes an error of every warning of the compiler.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_py import build_py

OLDEST_TORCH, NEWEST_TORCH = (2, 10), (2, 15)  # of those that were tested: docs/versions.md
OLDEST_GCC = 12
OLDEST_TOOLKIT = (12, 8)  # the first run time with cudaLibraryLoadData, and nvcc -compress-mode
# What has an image of its own, if nvcc knows it, beside what torch was built for.
CUDA_ARCHITECTURES = {(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (11, 0), (12, 0)}
# It warns of what is meant, and takes the width of vectors for the file as a whole.
CLANG = ["-Wno-bitwise-instead-of-logical", "-Wno-bitwise-conditional-parentheses"]
if platform.machine() == "x86_64":
    CLANG.append("-mprefer-vector-width=512")
ROOT = Path(__file__).parent


def stop(sentence: str) -> None:
    sys.exit(f"fusedgrad cannot be built: {sentence}")


if sys.version_info < (3, 11):  # noqa: UP036
    stop(f"Python {sys.version.split()[0]} runs it, it needs 3.11 or newer.")

try:
    import torch
    from torch.utils import cpp_extension
except ImportError:
    stop(
        "it builds against the installed torch, and finds none; install torch first. Builders "
        "other than pip may hide it: uv needs --no-build-isolation, build --no-isolation."
    )

try:
    import pybind11
except ImportError:
    stop("it needs pybind11, which pip brings by itself, except with --no-build-isolation.")


def dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])
if TORCH < OLDEST_TORCH:
    stop(f"torch {torch.__version__} is installed, it needs {dotted(OLDEST_TORCH)} or newer.")


def compiler() -> str:
    return os.environ.get("CXX", "c++")


def compiler_macros() -> str:
    """What tells a compiler from another; nothing where there is none."""
    command = compiler().split()
    if shutil.which(command[0]) is None:
        return ""
    asked = [*command, "-dM", "-E", "-xc++", os.devnull]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout


def is_clang() -> bool:
    return "__clang__" in compiler_macros()


def check_compiler() -> None:
    """Stop where there is none, or where it is too old."""
    needed = f"install g++ {OLDEST_GCC} or newer, or set CXX to yours."
    if shutil.which(compiler().split()[0]) is None:
        stop(f"the C++ compiler '{compiler()}' is not on PATH; {needed}")
    found = re.search(r"#define __GNUC__ (\d+)", compiler_macros())  # clang's is 4
    if found and int(found[1]) < OLDEST_GCC and not is_clang():
        stop(f"the C++ compiler '{compiler()}' is g++ {found[1]}; {needed}")


def cuda_toolkit() -> Path | None:
    """The root of a CUDA toolkit: CUDA_HOME, its usual place, or NVIDIA's packages of PyPI."""
    packages = Path(sysconfig.get_path("purelib"), "nvidia", "cu13")
    for root in (os.environ.get("CUDA_HOME"), "/usr/local/cuda", packages):
        if root and Path(root, "bin", "nvcc").exists():
            return Path(root)
    return None


def cuda_to_build_with() -> Path | None:
    wanted = os.environ.get("FUSEDGRAD_CUDA", "auto")
    if wanted not in ("0", "1", "auto"):
        stop(f"FUSEDGRAD_CUDA is '{wanted}', expected 0, 1 or auto.")
    if wanted == "0" or (wanted == "auto" and torch.version.cuda is None):
        return None
    toolkit = cuda_toolkit()
    if toolkit is not None:
        check_toolkit(toolkit)
    elif wanted == "1":
        stop(
            "FUSEDGRAD_CUDA=1 and no CUDA toolkit was found; set CUDA_HOME, or install "
            "nvidia-cuda-nvcc, nvidia-cuda-crt, nvidia-cuda-runtime, nvidia-cuda-cccl and "
            "nvidia-nvvm from PyPI."
        )
    return toolkit


def check_toolkit(toolkit: Path) -> None:
    """Stop where it is too old, or where what it builds needs a newer driver than torch does."""
    (number,) = re.findall(
        r"#define +CUDART_VERSION +(\d+)",
        (toolkit / "include" / "cuda_runtime_api.h").read_text(),
    )
    version = int(number) // 1000, int(number) % 1000 // 10
    instead = "set CUDA_HOME to another, or FUSEDGRAD_CUDA=0 to build without CUDA."
    if version < OLDEST_TOOLKIT:
        stop(
            f"the CUDA toolkit in {toolkit} is {dotted(version)}, it needs "
            f"{dotted(OLDEST_TOOLKIT)} or newer; {instead}"
        )
    if torch.version.cuda is not None and int(torch.version.cuda.split(".")[0]) != version[0]:
        stop(
            f"the CUDA toolkit in {toolkit} is {dotted(version)}, and torch was built with "
            f"{torch.version.cuda}, another major version, which takes other drivers; {instead}"
        )


def architectures(toolkit: Path) -> str:
    """What TORCH_CUDA_ARCH_LIST says; else see above."""
    named = os.environ.get("TORCH_CUDA_ARCH_LIST", "")
    if named not in ("", "all"):
        return named
    listed = subprocess.run(
        [toolkit / "bin" / "nvcc", "--list-gpu-code"], capture_output=True, text=True, check=True
    ).stdout

    def those_in(text: str) -> set[tuple[int, int]]:
        return {(int(a), int(b)) for a, b in re.findall(r"sm_(\d+)(\d)\b", text)}

    known = those_in(listed)
    if not named and torch.cuda.is_available():
        present = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
        return ";".join(sorted(image_for(gpu, known) for gpu in present))
    flags = torch._C._cuda_getArchFlags() if torch.version.cuda is not None else None
    wanted = (CUDA_ARCHITECTURES | those_in(flags or "")) & known
    return ";".join(map(dotted, sorted(wanted))) + "+PTX"


def image_for(gpu: tuple[int, int], known: set[tuple[int, int]]) -> str:
    """Its architecture; of one that nvcc does not know yet the PTX of the newest that it knows."""
    older = [one for one in known if one <= gpu]
    if not older:
        stop(
            f"nvcc compiles for no GPU as old as the present one, of compute capability "
            f"{dotted(gpu)}; set CUDA_HOME to an older toolkit, or FUSEDGRAD_CUDA=0."
        )
    return dotted(gpu) if gpu in known else f"{dotted(max(older))}+PTX"


def sources(*folders: str, suffix: str) -> list[str]:
    return sorted(
        str(path.relative_to(ROOT))
        for folder in folders
        for path in (ROOT / "csrc" / folder).glob(f"*{suffix}")
    )


def system_include(path: str | Path) -> str:
    """Other people's headers are not held to our warnings."""
    return f"-isystem{path}"


def extension() -> Extension:
    defines = [("FUSEDGRAD_TORCH_VERSION", f'"{torch.__version__}"')]
    cxx = [
        *("-std=c++20", "-O3", "-g0", "-fvisibility=hidden", "-Wall", "-Wextra"),
        *(["-Werror"] if os.environ.get("FUSEDGRAD_WERROR") == "1" else []),
        # Every fused multiply-add is written out: all instruction sets and the device agree.
        "-ffp-contract=off",
        *("-fno-math-errno", "-fno-trapping-math"),
        "-fopenmp",  # at::parallel_for is a header, and serial without it
        *(CLANG if is_clang() else ()),
        *map(system_include, [*cpp_extension.include_paths(), pybind11.get_include()]),
    ]
    nvcc = ["-std=c++20", "-O3", "-fmad=false", "-Xcompiler=-fvisibility=hidden"]
    files = sources("cpu", "operators", "accuracy", suffix=".cpp")
    library_dirs = list(cpp_extension.library_paths())
    libraries = ["c10", "torch", "torch_cpu", "torch_python"]
    objects: list[str] = []

    toolkit = cuda_to_build_with()
    if toolkit is not None:
        # A CPU build of torch leaves this None; with it BuildExtension's rules compile .cu files.
        cpp_extension.CUDA_HOME = str(toolkit)
        named = os.environ["TORCH_CUDA_ARCH_LIST"] = architectures(toolkit)
        defines += [("FUSEDGRAD_CUDA", "1"), ("FUSEDGRAD_CUDA_ARCHITECTURES", f'"{named}"')]
        cxx.append(system_include(toolkit / "include"))
        nvcc.append("-compress-mode=size")
        if library := os.environ.get("FUSEDGRAD_CUDA_LIBRARY"):
            objects.append(library)
        else:
            files += sources("cuda", suffix=".cu")
            library_dirs += [
                str(toolkit / name) for name in ("lib64", "lib") if (toolkit / name).is_dir()
            ]
            # Static, so that the shared object loads where torch brings no CUDA.
            libraries += ["cudart_static", "rt", "dl", "pthread"]

    return Extension(
        "fusedgrad._C",
        files,
        include_dirs=[str(ROOT / "csrc")],
        define_macros=defines,
        library_dirs=library_dirs,
        libraries=libraries,
        extra_objects=objects,
        extra_compile_args={"cxx": cxx, "nvcc": nvcc},
        # clang has a run time of OpenMP of its own; GCC's comes with torch.
        extra_link_args=["-fopenmp"] if is_clang() else [],
        language="c++",
    )


def together(files: list[str], folder: Path) -> list[str]:
    """With one file in the place of the operators, since each takes 10 s to read PyTorch's headers.

    Those apart name functions as others do.
    """
    apart = {f"csrc/operators/{name}.cpp" for name in ("calls", "jets", "rows")}
    operators = [f for f in files if f.startswith("csrc/operators/") and f not in apart]
    text = "".join(f'#include "{file.removeprefix("csrc/")}"\n' for file in operators)
    made = folder / "operators.cpp"
    if not made.exists() or made.read_text() != text:
        folder.mkdir(parents=True, exist_ok=True)
        made.write_text(text)
    return [str(made), *(file for file in files if file not in operators)]


class BuildExtension(cpp_extension.BuildExtension):
    """Builds with the compiler at hand, if it can."""

    def run(self) -> None:
        """Builds, and says if nobody has tried this version of torch."""
        check_compiler()
        if TORCH > NEWEST_TORCH:
            print(
                f"warning: fusedgrad was tested with torch {dotted(OLDEST_TORCH)} to "
                f"{dotted(NEWEST_TORCH)}, and is built against {torch.__version__}; "
                "`python -m fusedgrad` checks every operation.",
                file=sys.stderr,
            )
        for extension in self.extensions:
            extension.sources = together(extension.sources, Path(self.build_temp))
        super().run()


class BuildPython(build_py):  # type: ignore[misc]
    """Puts the headers that fused functions are compiled with into the package."""

    HEADERS = ("dtype.h", "cpu/block.h", "math/*.h", "cuda/*.h", "cuda/*.cuh")

    def run(self) -> None:
        """Copies the modules, and the headers unless the source tree itself is installed."""
        super().run()
        if self.editable_mode:
            return
        for pattern in self.HEADERS:
            for header in sorted((ROOT / "csrc").glob(pattern)):
                target = Path(
                    self.build_lib, "fusedgrad", "include", header.relative_to(ROOT / "csrc")
                )
                target.parent.mkdir(parents=True, exist_ok=True)
                self.copy_file(str(header), str(target))


setup(
    ext_modules=[extension()],
    cmdclass={"build_ext": BuildExtension, "build_py": BuildPython},
)

"""Compiles CUDA sources for the emulated device: launchers for the host, PTX to interpret."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from .errors import CompilationError

FLAGS = ("-std=c++20", "-fmad=false", "-lineinfo", "-Xcompiler", "-fPIC")


@dataclass(frozen=True)
class CompiledLibrary:
    """A shared object with launchers, linked with runtime.c, and the PTX of its kernels."""

    path: Path
    ptx: tuple[Path, ...]
    arch: str


@lru_cache
def find_nvcc() -> Path:
    """The toolkit's nvcc: CUDA_HOME, the usual place, or the PyPI packages."""
    roots = [Path(p) for v in ("CUDA_HOME", "CUDA_PATH") if (p := os.environ.get(v))]
    roots.append(Path("/usr/local/cuda"))
    site = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    roots += [Path(p) / "nvidia" / "cu13" for p in sorted(site)]
    for root in roots:
        if (root / "bin" / "nvcc").is_file():
            return root / "bin" / "nvcc"
    raise CompilationError(
        "no nvcc: set CUDA_HOME, or pip install nvidia-cuda-nvcc nvidia-cuda-crt "
        "nvidia-cuda-runtime nvidia-nvvm"
    )


def cuda_include() -> Path:
    """The directory of cuda_runtime_api.h."""
    root = find_nvcc().parent.parent
    for path in (root / "include", *root.glob("targets/*/include")):
        if (path / "cuda_runtime_api.h").is_file():
            return path
    raise CompilationError(f"no cuda_runtime_api.h under {root}")


def run(command: Sequence[str | Path]) -> None:
    """Run a compiler; its output is the error."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CompilationError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")


def default_cache() -> Path:
    """Where compiled libraries are kept."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("CUDA_EMULATOR_CACHE") or Path(home) / "cuda_emulator")


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """No other process or thread makes what lies there: it waits, and finds it made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _digest(parts: Sequence[str], files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\0")
    for path in files:
        digest.update(str(path).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:24]


def compile_library(
    sources: Sequence[Path],
    include_dirs: Sequence[Path] = (),
    arch: str = "90",
    extra_flags: Sequence[str] = (),
    cache_dir: Path | None = None,
) -> CompiledLibrary:
    """Compile .cu files with their launchers; cached by the content of sources and headers."""
    sources = [Path(s).resolve() for s in sources]
    include_dirs = [Path(d).resolve() for d in include_dirs]
    headers = [
        p
        for d in dict.fromkeys([*(s.parent for s in sources), *include_dirs])
        for p in sorted(d.rglob("*"))
        if p.suffix in (".h", ".cuh", ".hpp", ".inc")
    ]
    nvcc = find_nvcc()
    runtime = str(runtime_library())
    key = _digest([str(nvcc), runtime, arch, *FLAGS, *extra_flags], [*sources, *headers])
    folder = (cache_dir or default_cache()) / key
    with alone(folder):
        if not folder.is_dir():
            # built aside and renamed, so that what is there is whole
            work = Path(tempfile.mkdtemp(dir=folder.parent))
            try:
                _build(nvcc, sources, include_dirs, arch, extra_flags, work)
                work.rename(folder)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return CompiledLibrary(folder / "library.so", tuple(sorted(folder.glob("*/*.ptx"))), arch)


def _build(
    nvcc: Path,
    sources: Sequence[Path],
    include_dirs: Sequence[Path],
    arch: str,
    extra_flags: Sequence[str],
    work: Path,
) -> None:
    def compile_one(number: int, source: Path) -> Path:
        place = work / str(number)  # apart, since two sources may have one name
        place.mkdir()
        # the PTX is kept from the very run that makes the object, so that names and code agree
        command: list[str | Path] = [nvcc, f"-arch=compute_{arch}", *FLAGS, *extra_flags]
        command += [f"-I{d}" for d in include_dirs]
        command += ["--keep", "--keep-dir", place, "-c", source, "-o", place / "object.o"]
        run(command)
        for path in place.iterdir():
            if path.suffix not in (".ptx", ".o"):
                path.unlink()
        return place / "object.o"

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, range(len(sources)), sources))
    # --cudart=none leaves the runtime library's functions to the stand-in
    run([nvcc, "-shared", "--cudart=none", *objects, runtime_library(), "-o", work / "library.so"])


@lru_cache
def runtime_library(cache_dir: Path | None = None) -> Path:
    """The compiled stand-in for the CUDA runtime library."""
    source = Path(__file__).with_name("runtime.c")
    # -Bsymbolic: it calls its own functions, whatever else the process has loaded
    command = ["gcc", "-std=gnu11", "-O1", "-fPIC", "-shared", "-Wl,-Bsymbolic"]
    command.append(f"-I{cuda_include()}")
    folder = cache_dir or default_cache()
    path = folder / f"runtime-{_digest(command, [source])}.so"
    with alone(path):
        if not path.is_file():
            work = path.with_suffix(".part")
            run([*command, "-o", work, source])
            work.replace(path)
    return path

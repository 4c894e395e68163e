"""The host compiler, and loading what it made."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fusedgrad import _C
from fusedgrad.fuse.cache import kept
from fusedgrad.version import __version__

FLAGS = (
    *("-std=c++20", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
    *("-fvisibility=hidden", "-shared", "-fPIC", "-pipe"),
)
# As in csrc/cpu/capability.h
_TARGETS = {
    "avx512": (
        *("-march=x86-64-v4", "-mprefer-vector-width=512"),
        *("-fschedule-insns", "-fsched-pressure"),
    ),
    "avx2": ("-march=x86-64-v3",),
    "baseline": (),
}
_UNKNOWN_TO_CLANG = frozenset({"-fschedule-insns", "-fsched-pressure"})
_loads = itertools.count()


class CompilerError(Exception):
    """There is no compiler, or it failed."""


def include_folder() -> Path:
    """Where csrc's headers are: beside an installed package, or in the source tree."""
    installed = Path(__file__).parents[1] / "include"
    return installed if installed.is_dir() else Path(__file__).parents[3] / "csrc"


def compiler() -> tuple[str, ...]:
    """The command of the host compiler: CXX, or the first that is found."""
    named = os.environ.get("CXX", "").split()
    for command in [named] if named else [["c++"], ["g++"], ["clang++"]]:
        path = shutil.which(command[0])
        if path is not None:
            return (path, *command[1:])
    raise CompilerError(f"no C++ compiler: {named[0] if named else 'c++'} is not on PATH")


@functools.cache
def headers_digest(*patterns: str) -> bytes:
    """Of the headers that a generated file may include, by default on the CPU."""
    digest = hashlib.sha256()
    folder = include_folder()
    for pattern in patterns or ("cpu/block.h", "math/*.h"):
        for path in sorted(folder.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.digest()


@functools.cache
def _target() -> tuple[tuple[str, ...], bytes]:
    """The flags, and a digest of what a shared object depends on besides compiler and source."""
    flags = (*FLAGS, *_TARGETS[_C.cpu_capability()])
    digest = hashlib.sha256(repr((flags, __version__)).encode() + headers_digest())
    return flags, digest.digest()


@functools.cache
def _command() -> tuple[tuple[str, ...], bytes]:
    """The compiler with its flags, and what tells it from another."""
    command = compiler()
    # Its version would take 10 ms to ask for.
    state = Path(command[0]).resolve().stat()
    return (*command, *_target()[0]), repr((command, state.st_size, state.st_mtime_ns)).encode()


def block_address(source: str) -> int:
    """The address of the function `block` that the source exports, compiled or from the cache.

    Raises:
        CompilerError: there is no compiler, or it failed.
    """
    maker = None
    with suppress(CompilerError):  # what one made before serves
        maker = _command()[1]
    made = kept(_target()[1], source, ".so", maker, lambda: _compiled(_command()[0], source))
    return ctypes.cast(_loaded(made).block, ctypes.c_void_p).value or 0


def _loaded(content: bytes) -> ctypes.CDLL:
    """The shared object, from memory: no file that is loaded by its name could be another by then.

    Raises:
        CompilerError: there is nowhere to load it from.
    """
    try:
        return _loaded_from_memory(content)
    except OSError:  # a kernel without memfd_create, or without /proc
        with _folder() as folder:
            path = folder / "fused.so"
            try:
                path.write_bytes(content)
                return ctypes.CDLL(str(path))
            except OSError as error:
                raise CompilerError(f"the compiled function was not loaded: {error}") from error


def _loaded_from_memory(content: bytes) -> ctypes.CDLL:
    descriptor = os.memfd_create("fusedgrad")
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        # The loader hands out again what it loaded under the same name, and numbers of descriptors
        # come again: each load spells its name differently, by a number in slashes and dots.
        spelling = f"{next(_loads):b}".replace("0", "/").replace("1", "./")
        return ctypes.CDLL(f"/proc/self/fd/{spelling}{descriptor}")


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="fusedgrad-", ignore_cleanup_errors=True)
    except OSError as error:
        raise CompilerError(f"no folder to compile in: {error}") from error
    with folder as name:
        yield Path(name)


@functools.cache
def _understood(command: tuple[str, ...]) -> tuple[str, ...]:
    """The command without the flags that its compiler refuses."""
    asked = [*itertools.takewhile(lambda part: part not in FLAGS, command), "--version"]
    told = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    refused = _UNKNOWN_TO_CLANG if "clang" in told else frozenset()
    return tuple(part for part in command if part not in refused)


def _compiled(command: tuple[str, ...], source: str) -> bytes:
    """The shared object."""
    with _folder() as folder:
        path, library = folder / "fused.cpp", folder / "fused.so"
        try:
            path.write_text(source)
            done = subprocess.run(
                [*_understood(command), f"-I{include_folder()}", str(path), "-o", str(library)],
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError as error:
            raise CompilerError(f"{command[0]} did not run: {error}") from error
        if done.returncode or not library.exists():
            raise CompilerError(f"{command[0]} failed:\n{done.stderr}")
        return library.read_bytes()

"""The host compiler, and what compilers made, kept on disk.

An entry is a shared object or a device's code, with a digest of itself at its end; its name is a
digest of all that it was made from. It appears by one rename, so that processes may compile the
same function at once; an entry that does not agree with its digest is made again; where none can be
written, the shared object is loaded from a temporary folder.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fusedgrad import _C
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
_DIGEST_BYTES = hashlib.sha256().digest_size


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


def cache_folder() -> Path:
    """Where compiled functions are kept."""
    named = os.environ.get("FUSEDGRAD_CACHE_DIR")
    if named:
        return Path(named)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home, "fusedgrad")


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
def _command() -> tuple[tuple[str, ...], bytes]:
    """The compiler with its flags, and a digest of what it is."""
    command = (*compiler(), *FLAGS, *_TARGETS[_C.cpu_capability()])
    # Its version would take 10 ms to ask for.
    executable = Path(command[0]).resolve()
    state = executable.stat()
    digest = hashlib.sha256(repr((command, state.st_size, state.st_mtime_ns)).encode())
    digest.update(__version__.encode() + headers_digest())
    return command, digest.digest()


def _is_sound(content: bytes) -> bool:
    body, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    return hashlib.sha256(body).digest() == digest


def _address(path: Path) -> int:
    library = ctypes.CDLL(str(path))
    return ctypes.cast(library.block, ctypes.c_void_p).value or 0


def block_address(source: str) -> int:
    """The address of the function `block` that the source exports, compiled or from the cache.

    Raises:
        CompilerError: there is no compiler, or it failed.
    """
    command, digest = _command()
    library, entry = kept(digest, source, ".so", lambda: _compiled(command, source))
    if entry is not None:
        with suppress(OSError):  # a folder that nothing may be executed from
            return _address(entry)
    with _folder() as folder:
        path = folder / "fused.so"
        path.write_bytes(library)
        return _address(path)


def kept(
    digest: bytes, source: str, suffix: str, make: Callable[[], bytes]
) -> tuple[bytes, Path | None]:
    """What `make` makes of the source, from the cache where it is there; and the cache's file.

    `digest` is of all else that the result depends on. The file ends with a digest of itself; where
    none can be read or written, it is None.
    """
    entry: Path | None = None
    with suppress(OSError, RuntimeError):  # a folder that cannot be read, or no home
        name = hashlib.sha256(digest + source.encode()).hexdigest()[:32]
        entry = cache_folder() / f"{name}{suffix}"
        content = entry.read_bytes()
        if _is_sound(content):
            return content[:-_DIGEST_BYTES], entry
    made = make()
    if entry is not None:
        with suppress(OSError):
            _store(made, entry)
            return made, entry
    return made, None


def _store(content: bytes, entry: Path) -> None:
    entry.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=entry.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content + hashlib.sha256(content).digest())
        os.chmod(temporary, 0o700)
        os.replace(temporary, entry)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="fusedgrad-", ignore_cleanup_errors=True)
    except OSError as error:
        raise CompilerError(f"no folder to compile in: {error}") from error
    with folder as name:
        yield Path(name)


def _compiled(command: tuple[str, ...], source: str) -> bytes:
    """The shared object."""
    with _folder() as folder:
        path, library = folder / "fused.cpp", folder / "fused.so"
        try:
            path.write_text(source)
            done = subprocess.run(
                [*command, f"-I{include_folder()}", str(path), "-o", str(library)],
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError as error:
            raise CompilerError(f"{command[0]} did not run: {error}") from error
        if done.returncode or not library.exists():
            raise CompilerError(f"{command[0]} failed:\n{done.stderr}")
        return library.read_bytes()

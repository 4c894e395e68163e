"""What compilers made, kept on disk: code that will run, so that it matters whose it is.

An entry is a shared object or a device's code, with a digest of itself at its end; its name is a
digest of all that it was made from, and one of the compiler. It appears by one rename, so that
processes may compile the same function at once; an entry that does not agree with its digest is
made again.

Folder and entry must belong to the user or to root, and neither their group nor others may write
them; else nothing is read or written there. What is checked is what is used: entries are found
below a descriptor of the folder that was checked, and read once, by the descriptor that was
checked. So whoever may write a folder above, or moves another one in its place, gains nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

_DIGEST_BYTES = hashlib.sha256().digest_size
_warned: set[tuple[str, str]] = set()


def folder() -> Path:
    """Where compiled functions are kept."""
    named = os.environ.get("FUSEDGRAD_CACHE_DIR")
    if named:
        return Path(named)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home, "fusedgrad")


def kept(
    digest: bytes, source: str, suffix: str, maker: bytes | None, make: Callable[[], bytes]
) -> bytes:
    """What `make` makes of the source, from the cache where it is there.

    `digest` is of all else that the result depends on, but for the compiler, which `maker` tells
    apart from others. Without one, None, what any compiler made before is taken.
    """
    name = hashlib.sha256(digest + source.encode()).hexdigest()[:32]
    entry = None if maker is None else f"{name}-{hashlib.sha256(maker).hexdigest()[:8]}{suffix}"
    try:
        content = _read(name, suffix) if entry is None else _read(entry)
    except _Untrusted as error:
        _warn(error)
        return make()
    except (OSError, RuntimeError):  # a folder that cannot be read, or no home
        content = None
    if content is not None:
        return content
    made = make()
    # It was made: whatever goes wrong from here on costs the next process a compilation.
    if entry is not None:
        with contextlib.suppress(OSError, RuntimeError, _Untrusted):
            _store(made, entry)
    return made


class _Untrusted(Exception):
    """A folder or an entry that others may have written."""

    def __init__(self, path: Path, reason: str, remedy: str) -> None:
        super().__init__(str(path), reason, remedy)
        self.path, self.reason, self.remedy = path, reason, remedy


def _warn(error: _Untrusted) -> None:
    """Once for each path."""
    key = (str(error.path), error.reason)
    if key not in _warned:
        _warned.add(key)
        warnings.warn(
            f"fusedgrad keeps and takes no compiled function in {folder()}, since {error.path} "
            f"{error.reason}: {error.remedy}, or set FUSEDGRAD_CACHE_DIR to a folder of your own",
            stacklevel=2,
        )


def _check(path: Path, state: os.stat_result) -> None:
    """That nobody but the user and root may have written what lies there."""
    user = os.geteuid()
    if state.st_uid not in (user, 0):
        reason = f"belongs to user {state.st_uid} and this process runs as user {user}"
        raise _Untrusted(path, reason, "let the user who runs it own it")
    if state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        who = "others than its owner" if state.st_mode & stat.S_IWOTH else "its group"
        raise _Untrusted(path, f"can be written by {who}", f"chmod go-w {path}")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A descriptor of the folder, checked."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _check(path, os.fstat(descriptor))
        yield descriptor
    finally:
        os.close(descriptor)


def _read(name: str, suffix: str = "") -> bytes | None:
    """The entry, None if it is not there or not sound; with a suffix, the first of all makers'."""
    path = folder()
    with _opened(path) as within:
        if suffix:
            names = [n for n in os.listdir(within) if n.startswith(name) and n.endswith(suffix)]
            name = min(names, default=name)
        # No symbolic link, and not waiting for the other end of a pipe.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(name, flags, dir_fd=within), "rb") as file:
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode):
                return None
            _check(path / name, state)
            content = file.read()
    body, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    return body if hashlib.sha256(body).digest() == digest else None


def _store(content: bytes, name: str) -> None:
    path = folder()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _opened(path) as within:
        temporary = f"{secrets.token_hex(8)}.part"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        # All may read it, if the folder lets them: root may make it for its users.
        with open(os.open(temporary, flags, 0o644, dir_fd=within), "wb") as file:
            try:
                file.write(content + hashlib.sha256(content).digest())
                file.close()  # a full disk may say so only now
                os.replace(temporary, name, src_dir_fd=within, dst_dir_fd=within)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=within)
                raise

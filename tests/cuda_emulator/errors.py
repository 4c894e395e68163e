"""What the emulated device reports: one exception for each kind of mistake a kernel can make."""

from __future__ import annotations

import ctypes
import ctypes.util
from dataclasses import dataclass
from functools import lru_cache


@lru_cache
def demangled(name: str) -> str:
    """The C++ name of a symbol, by the C++ library if there is one; other names as they are."""
    library = ctypes.util.find_library("stdc++")
    if library is None or not name.startswith("_Z"):
        return name
    demangle = ctypes.CDLL(library).__cxa_demangle
    demangle.restype = ctypes.c_void_p
    status = ctypes.c_int()
    text = demangle(name.encode(), None, None, ctypes.byref(status))
    if status.value != 0:
        return name
    result = ctypes.string_at(text).decode()
    free = ctypes.CDLL(None).free
    free.argtypes = [ctypes.c_void_p]
    free(text)
    return result


@dataclass(frozen=True)
class Place:
    """Where in a kernel something happened."""

    kernel: str
    line: str = ""
    instruction: str = ""
    block: tuple[int, int, int] | None = None
    thread: tuple[int, int, int] | None = None

    def __str__(self) -> str:
        parts = [f"kernel {demangled(self.kernel)}"]
        if self.line:
            parts.append(self.line)
        if self.block is not None and self.thread is not None:
            parts.append(f"block {self.block}, thread {self.thread}")
        if self.instruction:
            parts.append(f"`{self.instruction}`")
        return ", ".join(parts)


class EmulationError(Exception):
    """Base of every error of the emulated device.

    `status` is the cudaError_t that a launcher sees in place of the exception.
    """

    status = 719  # cudaErrorLaunchFailure

    def __init__(self, message: str, place: Place | None = None) -> None:
        super().__init__(f"{message} [{place}]" if place else message)
        self.message = message
        self.place = place


class OutOfBoundsError(EmulationError):
    """An access outside every live allocation, or across the end of one."""

    status = 700  # cudaErrorIllegalAddress


class MisalignedAddressError(EmulationError):
    """An access whose address is not a multiple of its size."""

    status = 716  # cudaErrorMisalignedAddress


class UninitializedReadError(EmulationError):
    """A read of bytes that nothing has written."""


class SharedMemoryRaceError(EmulationError):
    """Two threads touch one shared location, one writing, with no barrier between."""


class GlobalMemoryRaceError(EmulationError):
    """Two threads touch one global location, one writing, with nothing that orders them: between
    blocks fences and atomics, in a block a barrier."""


class NonCoherentReadError(EmulationError):
    """A read through the non-coherent cache (ld.global.nc) of bytes that the same launch writes."""


class OrderDependenceError(EmulationError):
    """Atomic operations leave other bits where blocks and threads come in another order."""


class BarrierError(EmulationError):
    """A barrier that some thread of the block cannot reach."""


class WarpSyncError(EmulationError):
    """A shuffle, vote or warp barrier that names, or reads, a lane that does not take part."""


class WatchdogError(EmulationError):
    """A kernel that does not end."""

    status = 702  # cudaErrorLaunchTimeout


class DeviceTrapError(EmulationError):
    """A trap instruction or a failed device assertion."""

    status = 710  # cudaErrorAssert


class UnsupportedInstructionError(EmulationError):
    """PTX the interpreter does not know."""

    status = 98  # cudaErrorInvalidDeviceFunction


class UnwrittenOutputError(EmulationError):
    """An output of which some bytes were never written."""


class CompilationError(EmulationError):
    """nvcc or gcc refused the source, or there is no nvcc."""

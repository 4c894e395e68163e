"""A CUDA device for tests: real launchers, PTX interpreted in numpy, every access checked."""

from .compile import CompiledLibrary, compile_library, find_nvcc
from .device import Device, DeviceArray
from .errors import (
    BarrierError,
    CompilationError,
    DeviceTrapError,
    EmulationError,
    GlobalMemoryRaceError,
    MisalignedAddressError,
    NonCoherentReadError,
    OrderDependenceError,
    OutOfBoundsError,
    Place,
    SharedMemoryRaceError,
    UninitializedReadError,
    UnsupportedInstructionError,
    UnwrittenOutputError,
    WarpSyncError,
    WatchdogError,
)

__all__ = [
    "BarrierError",
    "CompilationError",
    "CompiledLibrary",
    "Device",
    "DeviceArray",
    "DeviceTrapError",
    "EmulationError",
    "GlobalMemoryRaceError",
    "MisalignedAddressError",
    "NonCoherentReadError",
    "OrderDependenceError",
    "OutOfBoundsError",
    "Place",
    "SharedMemoryRaceError",
    "UninitializedReadError",
    "UnsupportedInstructionError",
    "UnwrittenOutputError",
    "WarpSyncError",
    "WatchdogError",
    "compile_library",
    "find_nvcc",
]

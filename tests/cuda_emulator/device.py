"""The emulated device as tests use it."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .approximations import WorstCase
from .compile import CompiledLibrary
from .errors import EmulationError, OutOfBoundsError, UnwrittenOutputError
from .interpreter import Launch
from .memory import Allocation, GlobalMemory
from .program import Program
from .ptx import Kernel, Module, ModuleVariable
from .runtime import runtime
from .threads import Index3

Array = NDArray[Any]

SUCCESS, INVALID_VALUE, OUT_OF_MEMORY, INVALID_CONFIGURATION = 0, 1, 2, 9
OUT_OF_RESOURCES, NO_KERNEL_IMAGE = 701, 209
MOST_SHARED = 227 * 1024
MULTIPROCESSORS = 4

# enum cudaDeviceAttr
_ATTRIBUTES = {
    1: 1024,  # MaxThreadsPerBlock
    2: 1024,  # MaxBlockDimX
    3: 1024,  # MaxBlockDimY
    4: 64,  # MaxBlockDimZ
    5: 2**31 - 1,  # MaxGridDimX
    6: 65535,  # MaxGridDimY
    7: 65535,  # MaxGridDimZ
    8: 48 * 1024,  # MaxSharedMemoryPerBlock
    10: 32,  # WarpSize
    12: 65536,  # MaxRegistersPerBlock
    16: MULTIPROCESSORS,
    39: 2048,  # MaxThreadsPerMultiProcessor
    81: 228 * 1024,  # MaxSharedMemoryPerMultiprocessor
    97: MOST_SHARED,  # MaxSharedMemoryPerBlockOptin
    106: 32,  # MaxBlocksPerMultiprocessor
    115: 1,  # MemoryPoolsSupported
}


class DeviceArray:
    """A numpy-shaped array in device memory."""

    def __init__(
        self, device: Device, allocation: Allocation, shape: tuple[int, ...], dtype: DTypeLike
    ) -> None:
        self.device = device
        self.allocation = allocation
        self.shape = shape
        self.dtype = np.dtype(dtype)
        weakref.finalize(self, device.memory.free, allocation)

    @property
    def name(self) -> str:
        """The name errors call it by."""
        return self.allocation.name

    @property
    def pointer(self) -> int:
        """The device pointer."""
        return self.device.memory.base + self.allocation.start

    def numpy(self) -> Array:
        """A copy of the content; an error if the kernels did not write all of it."""
        self.device.check_written(self)
        data = self.device.memory.read(self.allocation)
        return np.frombuffer(data.tobytes(), self.dtype).reshape(self.shape)


class Device:
    """A CUDA device in numpy.

    worst_case: None for approximate instructions that round the real result; "low", "high" or
    "mixed" to move them by the whole error that the PTX ISA allows. check_races: whether races
    between blocks are looked for.
    """

    def __init__(
        self, worst_case: WorstCase = None, check_races: bool = True, compute_capability: int = 90
    ) -> None:
        self.worst_case = worst_case
        self.check_races = check_races
        self.compute_capability = compute_capability
        self.memory = GlobalMemory()
        self.launches: list[str] = []  # names of the kernels run so far
        self.grids: list[Index3] = []  # and theirs
        self._pending: list[BaseException] = []
        self._only_blocks: Sequence[int] | None = None
        self._symbols: dict[int, tuple[Module, dict[str, int]]] = {}
        self._allocated = 0

    # ------------------------------------------------------------------ arrays

    def array(self, values: Array, name: str = "array", offset_bytes: int = 0) -> DeviceArray:
        """A copy of an array, `offset_bytes` behind an aligned address."""
        values = np.asarray(values)
        result = self.empty(values.shape, values.dtype, name, offset_bytes)
        self.memory.read(result.allocation)[:] = np.frombuffer(values.tobytes(), np.uint8)
        result.allocation.written = True
        return result

    def empty(
        self,
        shape: int | Sequence[int],
        dtype: DTypeLike,
        name: str = "output",
        offset_bytes: int = 0,
    ) -> DeviceArray:
        """An array that nothing has written yet."""
        sizes = (shape,) if isinstance(shape, int) else tuple(int(n) for n in shape)
        kind = np.dtype(dtype)
        size = int(np.prod(sizes, dtype=np.int64)) * kind.itemsize
        allocation = self.memory.allocate(size, name, min(kind.itemsize, 16), offset_bytes)
        return DeviceArray(self, allocation, sizes, kind)

    def zeros(self, shape: int | Sequence[int], dtype: DTypeLike, name: str) -> DeviceArray:
        """An array of zeros that costs memory only where it is touched."""
        result = self.empty(shape, dtype, name)
        result.allocation.written = True
        return result

    def check_written(self, array: DeviceArray) -> None:
        """Raise if some bytes of an array were never written."""
        missing = self.memory.unwritten(array.allocation)
        if missing.size:
            element = int(missing[0]) // array.dtype.itemsize
            index = tuple(int(i) for i in np.unravel_index(element, array.shape))
            raise UnwrittenOutputError(
                f"{missing.size} of {array.allocation.size} bytes of '{array.name}' were never "
                f"written, the first in element {index}"
            )

    # ------------------------------------------------------------------ launches

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """As inside a stream capture, where nothing may be loaded or allocated by default."""
        state = runtime()
        state.capture(True)
        try:
            yield
        finally:
            state.capture(False)

    @contextmanager
    def loaded(self, library: CompiledLibrary) -> Iterator[ctypes.CDLL]:
        """The library's launchers, with this device as the current one."""
        state = runtime()
        loaded = state.load(library)
        state.devices.append(self)
        try:
            yield loaded
            self.raise_pending()
        finally:
            state.devices.remove(self)
            self._pending.clear()

    @contextmanager
    def only_blocks(self, *numbers: int) -> Iterator[None]:
        """Run no others than these blocks of each grid; negative numbers count from the last.

        With `zeros` it tests what a kernel does at the far end of an array too large to process.
        Races between blocks are not looked for.
        """
        self._only_blocks = numbers
        try:
            yield
        finally:
            self._only_blocks = None

    def note(self, error: BaseException) -> None:
        """Keep an error until the launcher has returned: it must not cross its frames."""
        self._pending.append(error)

    def raise_pending(self) -> None:
        """Raise what went wrong in a kernel since the last call."""
        if self._pending:
            error = self._pending[0]
            self._pending.clear()
            raise error

    def symbols(self, module: Module) -> dict[str, int]:
        """Addresses of the module's variables, which are allocated when first needed."""
        if id(module) not in self._symbols:
            addresses: dict[str, int] = {}
            self._symbols[id(module)] = module, addresses
            for variable in module.variables.values():
                allocation = self.memory.allocate(variable.size, variable.name, 1)
                addresses[variable.name] = self.memory.base + allocation.start
                allocation.written = True
                allocation.constant = variable.space == "const"
            for variable in module.variables.values():
                self._initialize(variable, addresses)
        return self._symbols[id(module)][1]

    def _initialize(self, variable: ModuleVariable, addresses: dict[str, int]) -> None:
        data = bytearray(variable.initial)
        for offset, symbol, addend in variable.pointers:
            data[offset : offset + 8] = (addresses[symbol] + addend).to_bytes(8, "little")
        start = addresses[variable.name] - self.memory.base
        self.memory.bytes[start : start + len(data)] = np.frombuffer(bytes(data), np.uint8)

    def program(self, module: Module, name: str) -> Program:
        """The translated kernel, kept with its module."""
        key = name, self.worst_case
        if key not in module.programs:
            module.programs[key] = Program(module.kernel(name), module.variables, self.worst_case)
        program = module.programs[key]
        assert isinstance(program, Program)
        return program

    def runtime_launch(
        self, module: Module, name: str, grid: Index3, block: Index3, arguments: Any, shared: int
    ) -> int:
        """cudaLaunchKernel: a status for the launcher; an exception is raised after it returns."""
        try:
            if name not in module.functions:
                return NO_KERNEL_IMAGE
            program = self.program(module, name)
            kernel = program.kernel
            status = self._check_configuration(kernel, grid, block, shared)
            if status != SUCCESS:
                return status
            raw = [
                ctypes.string_at(arguments[i], variable.size)
                for i, variable in enumerate(kernel.parameters.values())
            ]
            self._run(module, program, grid, block, raw, shared)
        except EmulationError as error:
            self.note(error)
            return error.status
        except BaseException as error:
            error.add_note(f"in kernel {name}")
            raise
        return SUCCESS

    def launch(
        self,
        module: Module | str,
        name: str,
        grid: Index3,
        block: Index3,
        arguments: Sequence[DeviceArray | np.generic],
        shared: int = 0,
    ) -> None:
        """Run a kernel of a PTX module without a launcher, on arrays and numpy scalars."""
        if isinstance(module, str):
            module = Module(module)
        raw = [
            a.pointer.to_bytes(8, "little") if isinstance(a, DeviceArray) else a.tobytes()
            for a in arguments
        ]
        program = self.program(module, name)
        status = self._check_configuration(program.kernel, grid, block, shared)
        if status != SUCCESS:
            raise EmulationError(
                f"launch of {name} on {grid} x {block} threads: CUDA error {status}"
            )
        self._run(module, program, grid, block, raw, shared)

    def _run(
        self,
        module: Module,
        program: Program,
        grid: Index3,
        block: Index3,
        arguments: Sequence[bytes],
        shared: int,
    ) -> None:
        parameters = np.zeros(program.kernel.parameter_bytes + 16, np.uint8)
        for variable, raw in zip(program.kernel.parameters.values(), arguments, strict=True):
            data = np.frombuffer(raw, np.uint8)
            parameters[variable.offset : variable.offset + variable.size] = data
        self.launches.append(program.kernel.name)
        self.grids.append(grid)
        Launch(
            program,
            grid,
            block,
            shared,
            parameters,
            self.memory,
            self.symbols(module),
            self.check_races and self._only_blocks is None,
            self._only_blocks,
        ).run()

    def _check_configuration(self, kernel: Kernel, grid: Index3, block: Index3, shared: int) -> int:
        limits = (*(_ATTRIBUTES[n] for n in (5, 6, 7)), *(_ATTRIBUTES[n] for n in (2, 3, 4)))
        if any(not 1 <= n <= limit for n, limit in zip((*grid, *block), limits, strict=True)):
            return INVALID_CONFIGURATION
        threads = int(np.prod(block))
        if threads > 1024:
            return INVALID_CONFIGURATION
        if shared + kernel.shared_bytes > MOST_SHARED:
            return INVALID_VALUE
        return OUT_OF_RESOURCES if threads > kernel.max_threads else SUCCESS

    # ------------------------------------------------------------------ other calls of the runtime

    def runtime_allocate(self, pointer: Any, size: int) -> int:
        """cudaMalloc."""
        self._allocated += 1
        try:
            allocation = self.memory.allocate(size, f"cudaMalloc #{self._allocated}")
        except MemoryError:
            return OUT_OF_MEMORY
        pointer[0] = self.memory.base + allocation.start
        return SUCCESS

    def runtime_release(self, pointer: int) -> int:
        """cudaFree."""
        allocation = self.memory.holding(pointer)
        if allocation is None or pointer - self.memory.base != allocation.start:
            return INVALID_VALUE
        self.memory.free(allocation)
        return SUCCESS

    def _range(self, pointer: int, size: int) -> Allocation | None:
        """The allocation of a device pointer, None for a host pointer; an error past its end."""
        allocation = self.memory.holding(pointer)
        if allocation is None:
            inside = 0 <= pointer - self.memory.base < len(self.memory.bytes)
            if inside:
                raise OutOfBoundsError(f"copy or fill at {pointer:#x}, in no allocation")
            return None
        if pointer - self.memory.base + size > allocation.end:
            raise OutOfBoundsError(f"copy or fill of {size} bytes past the end of {allocation}")
        return allocation

    def runtime_copy(self, to: int, source: int, size: int) -> int:
        """cudaMemcpy; which bytes were written goes along."""
        try:
            origin, target = self._range(source, size), self._range(to, size)
        except EmulationError as error:
            self.note(error)
            return INVALID_VALUE
        ctypes.memmove(to, source, size)
        if target is not None:
            start = to - self.memory.base
            mark: Any = 1
            if origin is not None and not origin.written:
                begin = source - self.memory.base
                mark = self.memory.shadow[begin : begin + size].copy()
            self.memory.shadow[start : start + size] = mark
        return SUCCESS

    def runtime_fill(self, to: int, value: int, size: int) -> int:
        """cudaMemset."""
        try:
            if self._range(to, size) is None:
                return INVALID_VALUE
        except EmulationError as error:
            self.note(error)
            return INVALID_VALUE
        start = to - self.memory.base
        self.memory.bytes[start : start + size] = value & 0xFF
        self.memory.shadow[start : start + size] = 1
        return SUCCESS

    def runtime_attribute(self, value: Any, number: int) -> int:
        """cudaDeviceGetAttribute; attributes that do not matter here are 0."""
        major, minor = divmod(self.compute_capability, 10)
        value[0] = {75: major, 76: minor}.get(number, _ATTRIBUTES.get(number, 0))
        return SUCCESS

"""The Python side of the stand-in for the CUDA runtime library (runtime.c)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from .compile import CompiledLibrary, runtime_library
from .ptx import Module

if TYPE_CHECKING:
    from .device import Device

_P, _I, _U, _Z, _S = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint, ctypes.c_size_t, ctypes.c_char_p
_NO_DEVICE, _LAUNCH_FAILURE, _SYMBOL_NOT_FOUND = 100, 719, 500


class _FunctionAttributes(ctypes.Structure):
    """The beginning of struct cudaFuncAttributes."""

    _fields_ = (
        ("sharedSizeBytes", _Z),
        ("constSizeBytes", _Z),
        ("localSizeBytes", _Z),
        ("maxThreadsPerBlock", _I),
        ("numRegs", _I),
        ("ptxVersion", _I),
        ("binaryVersion", _I),
        ("cacheModeCA", _I),
        ("maxDynamicSharedSizeBytes", _I),
    )


class _Callbacks(ctypes.Structure):
    """struct emulator_callbacks."""

    _fields_ = (
        (
            "launch",
            ctypes.CFUNCTYPE(
                _I, _S, _I, ctypes.POINTER(_U), ctypes.POINTER(_U), ctypes.POINTER(_P), _Z, _P
            ),
        ),
        ("allocate", ctypes.CFUNCTYPE(_I, ctypes.POINTER(_P), _Z)),
        ("release", ctypes.CFUNCTYPE(_I, _P)),
        ("copy", ctypes.CFUNCTYPE(_I, _P, _P, _Z, _I)),
        ("fill", ctypes.CFUNCTYPE(_I, _P, _I, _Z)),
        ("attribute", ctypes.CFUNCTYPE(_I, ctypes.POINTER(_I), _I)),
        ("function", ctypes.CFUNCTYPE(_I, _S, _I, ctypes.POINTER(_FunctionAttributes))),
        ("symbol", ctypes.CFUNCTYPE(_I, ctypes.POINTER(_P), ctypes.POINTER(_Z), _S, _I)),
        ("describe", ctypes.CFUNCTYPE(_I, _P, ctypes.POINTER(_I))),
        ("load", ctypes.CFUNCTYPE(_I, _S, _I)),
        ("defines", ctypes.CFUNCTYPE(_I, _S, _I)),
    )


class Runtime:
    """The process's CUDA runtime: loaded libraries, and the device that runs what they launch."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(str(runtime_library()))
        self.devices: list[Device] = []  # the last one is current
        self._modules: dict[int, Modules] = {}
        self._loaded: dict[str, ctypes.CDLL] = {}
        methods: dict[str, Callable[..., int]] = {
            "launch": self._launch,
            "allocate": lambda pointer, size: self._device.runtime_allocate(pointer, size),
            "release": lambda pointer: self._device.runtime_release(pointer or 0),
            "copy": lambda to, source, size, kind: self._device.runtime_copy(
                to or 0, source or 0, size
            ),
            "fill": lambda to, value, size: self._device.runtime_fill(to or 0, value, size),
            "attribute": lambda value, number: self._device.runtime_attribute(value, number),
            "function": self._function,
            "symbol": self._symbol,
            "describe": self._describe,
            "load": self._load,
            "defines": self._defines,
        }
        types = dict(_Callbacks._fields_)
        # ctypes does not keep callbacks alive by itself
        self._callbacks = _Callbacks(
            **{name: types[name](self._guarded(f)) for name, f in methods.items()}
        )
        self._library.emulator_connect(ctypes.byref(self._callbacks))

    @property
    def _device(self) -> Device:
        return self.devices[-1]

    def _guarded(self, function: Callable[..., int]) -> Callable[..., int]:
        """The callback as C may call it: no exception leaves it, and there may be no device."""

        def call(*arguments: Any) -> int:
            if not self.devices:
                return _NO_DEVICE
            try:
                return function(*arguments)
            except BaseException as error:
                self._device.note(error)
                return _LAUNCH_FAILURE

        return call

    def load(self, library: CompiledLibrary) -> ctypes.CDLL:
        """The library, its kernels registered once for the process."""
        path = str(library.path)
        if path not in self._loaded:
            first = self._library.emulator_module_count()
            # its own dependencies first: the process may hold a real CUDA runtime library as well
            self._loaded[path] = LauncherLibrary(path, mode=os.RTLD_DEEPBIND)
            last = self._library.emulator_module_count()
            modules = [Module(p.read_text()) for p in library.ptx]
            for number in range(first, last):
                self._modules[number] = Modules(modules)
        return self._loaded[path]

    def capture(self, begins: bool) -> None:
        """A stream capture begins, or ends."""
        self._library.emulator_capture(int(begins))

    def module(self, number: int, name: str) -> Module:
        """The PTX module that defines a name."""
        return self._modules[number].defining(name)

    def _launch(
        self, name: bytes, number: int, grid: Any, block: Any, arguments: Any, shared: int, _: int
    ) -> int:
        kernel = name.decode()
        return self._device.runtime_launch(
            self.module(number, kernel),
            kernel,
            (grid[0], grid[1], grid[2]),
            (block[0], block[1], block[2]),
            arguments,
            shared,
        )

    def _function(self, name: bytes, number: int, attributes: Any) -> int:
        kernel = self.module(number, name.decode()).kernel(name.decode())
        found = attributes.contents
        found.sharedSizeBytes, found.localSizeBytes = kernel.shared_bytes, kernel.local_bytes
        found.maxThreadsPerBlock, found.numRegs = kernel.max_threads, 32
        found.ptxVersion = found.binaryVersion = self._device.compute_capability
        found.maxDynamicSharedSizeBytes = 48 * 1024 - kernel.shared_bytes
        return 0

    def _symbol(self, pointer: Any, size: Any, name: bytes, number: int) -> int:
        module = self.module(number, name.decode())
        pointer[0] = self._device.symbols(module)[name.decode()]
        size[0] = module.variables[name.decode()].size
        return 0

    def _load(self, ptx: bytes, number: int) -> int:
        self._modules[number] = Modules([Module(ptx.decode())])
        return 0

    def _defines(self, name: bytes, number: int) -> int:
        functions = self._modules[number].modules[0].functions
        return 0 if name.decode() in functions else _SYMBOL_NOT_FOUND

    def _describe(self, pointer: int, is_device: Any) -> int:
        is_device[0] = int(self._device.memory.holding(pointer or 0) is not None)
        return 0


class Modules:
    """The modules of a library, one for each source: names tell which is meant."""

    def __init__(self, modules: list[Module]) -> None:
        self.modules = modules

    def defining(self, name: str) -> Module:
        """The module with a kernel or a variable of that name."""
        for module in self.modules:
            if name in module.functions or name in module.variables:
                return module
        raise KeyError(f"no PTX for {name}")


class LauncherLibrary(ctypes.CDLL):
    """A library whose functions raise what went wrong in the kernels they launched."""

    def __getitem__(self, name: str) -> Any:
        function = super().__getitem__(name)
        function.errcheck = _raise_pending
        return function


def _raise_pending(result: Any, function: Any, arguments: Any) -> Any:
    devices = runtime().devices
    if devices:
        devices[-1].raise_pending()
    return result


@lru_cache
def runtime() -> Runtime:
    """The one runtime of the process."""
    return Runtime()

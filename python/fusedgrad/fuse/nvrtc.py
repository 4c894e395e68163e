"""CUDA's run-time compiler, NVRTC, through cuda.bindings, which comes with PyTorch's CUDA builds.

It takes no GPU. What it makes is kept on disk like the host compiler's results.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from fusedgrad import _C, operators
from fusedgrad.fuse.cache import kept
from fusedgrad.fuse.compile import CompilerError, headers_digest, include_folder
from fusedgrad.version import __version__

OPTIONS = ("--std=c++20", "--fmad=false", "--device-as-default-execution-space")
HEADERS = ("math/*.h", "cuda/*.h", "cuda/*.cuh")  # what generated code may include
# As the extra `cuda` of pyproject.toml
INSTALL = "pip install cuda-bindings cuda-pathfinder nvidia-cuda-nvrtc nvidia-cuda-runtime"
# The standard headers that csrc includes; cuda/rtc.h has what it uses of them.
_STANDARD = (b"concepts", b"cstddef", b"cstdint", b"type_traits", b"utility")
_TYPES = {
    torch.float64: "double",
    torch.float32: "float",
    torch.float16: "__half",
    torch.bfloat16: "__nv_bfloat16",
}


def types(dtypes: Sequence[torch.dtype]) -> list[str]:
    """The names of dtypes in CUDA C++."""
    return [_TYPES[dtype] for dtype in dtypes]


def target_of(tensors: Sequence[Tensor]) -> str | None:
    """The architecture of the device that the tensors share, such as sm_90.

    None where there are no kernels for it, or where they share none. A tensor of no dimensions may
    lie on the CPU.
    """
    devices = {tensor.device for tensor in tensors if tensor.dim() or not tensor.is_cpu}
    if len(devices) != 1:
        return None
    (device,) = devices
    return _target_of_device(device) if device.type == "cuda" else None


def on_device_of(tensors: Sequence[Tensor]) -> AbstractContextManager[None]:
    """A context in which the tensors' device is the current one, for what loads a kernel.

    The driver makes a context of the current device, which may be another that nobody uses.
    """
    device_of: Callable[[Tensor], AbstractContextManager[None]] = torch.cuda.device_of
    return device_of(next((x for x in tensors if not x.is_cpu), tensors[0]))


@functools.cache
def _target_of_device(device: torch.device) -> str | None:
    if _C.cuda_version() is None:
        operators.warn_of_no_cuda()
        return None
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


@functools.cache
def is_found() -> bool:
    """Whether there is a compiler for CUDA."""
    try:
        _call("Version")
        _include_options()
    except CompilerError:
        return False
    return True


def code_of(source: str, target: str) -> bytes:
    """The machine code of the source for sm_XX, its PTX for compute_XX; compiled or from the cache.

    For a device that is newer than NVRTC it is PTX, which the driver compiles.

    Raises:
        CompilerError: cuda.bindings, NVRTC or CUDA's headers are not installed, or it failed.
    """
    state = repr((target, OPTIONS, __version__)).encode()
    digest = hashlib.sha256(state + headers_digest(*HEADERS)).digest()
    maker = None
    with suppress(CompilerError):  # what one made before serves
        maker = _version().encode()
    return kept(digest, source, ".cubin", maker, lambda: _compiled(source, target))


@functools.cache
def _version() -> str:
    try:
        return metadata.version("nvidia-cuda-nvrtc")  # 60 ms sooner than NVRTC itself
    except metadata.PackageNotFoundError:
        return repr(_call("Version"))


def _call(function: str, *arguments: Any) -> Any:
    """A function of NVRTC's, by its name without the prefix."""
    try:
        from cuda.bindings import nvrtc
    except ImportError as error:
        raise CompilerError(f"{error}, {INSTALL}") from error
    try:
        status, *results = getattr(nvrtc, f"nvrtc{function}")(*arguments)
    except RuntimeError as error:  # there is no library to load
        raise CompilerError(f"NVRTC is not installed, {INSTALL}: {error}") from error
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise CompilerError(f"nvrtc{function}: {status.name}")
    return results[0] if len(results) == 1 else results


def _include_options() -> list[str]:
    from cuda import pathfinder  # which cuda.bindings needs too

    runtime = pathfinder.find_nvidia_header_directory("cudart")
    if runtime is None:
        raise CompilerError(f"the headers of CUDA's run time are not installed, {INSTALL}")
    return [f"--include-path={folder}" for folder in (include_folder(), runtime)]


def _compiled(source: str, target: str) -> bytes:
    known = _call("GetSupportedArchs")
    if int(target.partition("_")[2]) not in known:
        older = [number for number in known if number < int(target.partition("_")[2])]
        if not older:
            raise CompilerError(f"NVRTC {_version()} does not compile for {target}")
        target = f"compute_{max(older)}"
    headers = [b'#include "cuda/rtc.h"\n'] * len(_STANDARD)
    program = _call(
        "CreateProgram", source.encode(), b"fused.cu", len(headers), headers, list(_STANDARD)
    )
    try:
        options = [f"--gpu-architecture={target}", *OPTIONS, *_include_options()]
        try:
            _call("CompileProgram", program, len(options), [o.encode() for o in options])
        except CompilerError as error:
            raise CompilerError(f"{error}\n{_read(program, 'ProgramLog').decode()}") from None
        return _read(program, "CUBIN" if target.startswith("sm_") else "PTX")
    finally:
        _call("DestroyProgram", program)


def _read(program: Any, what: str) -> bytes:
    content: bytes = b" " * _call(f"Get{what}Size", program)
    _call(f"Get{what}", program, content)
    return content

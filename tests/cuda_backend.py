"""Runs the operations of csrc/cuda/launch.h by name on one of three backends.

- ``emulated``: the launchers, compiled by nvcc, on the CUDA device that numpy emulates;
- ``cuda``: ``torch.ops.fusedgrad`` on tensors of a real device;
- ``cpu``: ``torch.ops.fusedgrad`` on CPU tensors.

An operand is an :class:`Operand`: a stretch of storage and how a tensor lies in it, so that
misaligned, permuted, expanded and flipped operands are the same thing everywhere.
"""

import ctypes
import functools
import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
import torch

import fusedgrad  # noqa: F401  (registers the operators)
from cuda_emulator import CompiledLibrary, Device, DeviceArray, compile_library
from cuda_emulator.compile import alone, default_cache
from cuda_oracles import Parameter

CSRC = Path(__file__).parents[1] / "csrc"
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

ON_CUDA = pytest.param(
    "cuda",
    marks=pytest.mark.skipif(
        not torch.cuda.is_available(), reason="there is no CUDA device on this machine"
    ),
)

_MAX_DIMS = 16
_MAX_OPERANDS = 32


# ------------------------------------------------------------------------------------- operands


@dataclass(frozen=True)
class Operand:
    """A tensor of ``shape`` inside one-dimensional ``storage``; strides and offset in elements."""

    storage: torch.Tensor
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    immediate: bool = False  # on the host, where a kernel reads the other operands elsewhere

    @property
    def dtype(self) -> torch.dtype:
        return self.storage.dtype

    def exact(self) -> np.ndarray:
        """The values, in long double."""
        values = self.storage.to(torch.float64).numpy()
        return np.lib.stride_tricks.as_strided(
            values[self.offset :],
            self.shape,
            [stride * values.itemsize for stride in self.strides],
        ).astype(np.longdouble)

    def tensor(self) -> torch.Tensor:
        return self.storage.as_strided(self.shape, self.strides, self.offset)


def contiguous(values: np.ndarray, dtype: torch.dtype) -> Operand:
    """The values, rounded to the dtype, in row-major order on an aligned storage."""
    rows = np.ascontiguousarray(values, dtype=np.float64).reshape(values.shape)
    storage = torch.tensor(rows).to(dtype)
    return Operand(storage.reshape(-1), values.shape, storage.stride())


def misaligned(values: np.ndarray, dtype: torch.dtype, by: int = 1) -> Operand:
    """Row-major, beginning ``by`` elements after an aligned address."""
    inner = contiguous(values, dtype)
    storage = torch.cat([torch.full((by,), math.nan, dtype=dtype), inner.storage])
    return Operand(storage, inner.shape, inner.strides, by)


def permuted(values: np.ndarray, dtype: torch.dtype, order: Sequence[int]) -> Operand:
    """Dimension ``order[-1]`` is the fastest in memory."""
    inner = contiguous(values.transpose(order), dtype)
    strides = [0] * values.ndim
    for dim, stride in zip(order, inner.strides, strict=True):
        strides[dim] = stride
    return Operand(inner.storage, values.shape, tuple(strides))


def spaced(values: np.ndarray, dtype: torch.dtype, step: int) -> Operand:
    """Every ``step``-th element of its storage; the others are NaN."""
    padded = np.full((*values.shape, step), math.nan)
    padded[..., 0] = values
    inner = contiguous(padded, dtype)
    return Operand(inner.storage, values.shape, inner.strides[:-1])


def expanded(values: np.ndarray, dtype: torch.dtype, shape: tuple[int, ...]) -> Operand:
    """Broadcast to ``shape`` with strides of 0."""
    inner = contiguous(values, dtype)
    missing = len(shape) - values.ndim
    strides = (0,) * missing + tuple(
        0 if size == 1 else stride for size, stride in zip(inner.shape, inner.strides, strict=True)
    )
    return Operand(inner.storage, shape, strides)


def on_host(values: np.ndarray, dtype: torch.dtype) -> Operand:
    """The first of the values, a tensor of no dimensions on the CPU."""
    inner = contiguous(values.flatten()[:1], dtype)
    return Operand(inner.storage, (), (), immediate=True)


def flipped(values: np.ndarray, dtype: torch.dtype) -> Operand:
    """Reversed along every dimension, by negative strides, which torch itself does not have."""
    inner = contiguous(values[(slice(None, None, -1),) * values.ndim], dtype)
    last = len(inner.storage) - 1
    return Operand(inner.storage, inner.shape, tuple(-s for s in inner.strides), max(last, 0))


# ------------------------------------------------------------------ the order of TensorIterator


@dataclass(frozen=True)
class Layout:
    """What at::TensorIterator makes of operands: strides in bytes, dimension 0 the fastest."""

    shape: tuple[int, ...]  # of the results
    order: tuple[int, ...]  # order[0] is the dimension of the results that became dimension 0
    sizes: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]  # of each operand, outputs first


def layout(inputs: Sequence[Operand], outputs: Sequence[torch.dtype]) -> Layout:
    """Broadcasts, sorts the dimensions by stride, lays out the outputs and merges dimensions."""
    shape = np.broadcast_shapes(*(operand.shape for operand in inputs))
    strides = [_broadcast_strides(operand, shape) for operand in inputs]
    order = _sort(shape, strides)
    sizes = [shape[dim] for dim in order]
    steps = [math.prod(sizes[:dim]) for dim in range(len(sizes))]
    columns = [[dtype.itemsize * step for step in steps] for dtype in outputs]
    columns += [[own[dim] for dim in order] for own in strides]
    sizes, columns = _merge(sizes, columns)
    return Layout(shape, order, tuple(sizes), tuple(map(tuple, columns)))


def _broadcast_strides(operand: Operand, shape: tuple[int, ...]) -> list[int]:
    itemsize = operand.dtype.itemsize
    missing = len(shape) - len(operand.shape)
    own = zip(operand.shape, operand.strides, strict=True)
    return [0] * missing + [0 if size == 1 else stride * itemsize for size, stride in own]


def _sort(shape: tuple[int, ...], strides: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Insertion sort, as TensorIterator's: the first operand with an opinion decides."""

    def compare(a: int, b: int) -> int:
        for own in strides:
            if own[a] == 0 or own[b] == 0:
                continue
            if abs(own[a]) != abs(own[b]):
                return -1 if abs(own[a]) < abs(own[b]) else 1
            if shape[a] > shape[b]:
                return 1
        return 0

    order = list(range(len(shape)))[::-1]
    for i in range(1, len(order)):
        at = i
        for before in range(i - 1, -1, -1):
            found = compare(order[before], order[at])
            if found > 0:
                order[before], order[at] = order[at], order[before]
                at = before
            elif found < 0:
                break
    return tuple(order)


def _merge(sizes: list[int], columns: list[list[int]]) -> tuple[list[int], list[list[int]]]:
    """Merges neighbouring dimensions that lie side by side in every operand."""
    kept: list[int] = []
    strides: list[list[int]] = [[] for _ in columns]
    for dim, size in enumerate(sizes):
        side_by_side = kept and (
            size == 1
            or kept[-1] == 1
            or all(own[-1] * kept[-1] == c[dim] for own, c in zip(strides, columns, strict=True))
        )
        if not side_by_side:
            kept.append(size)
            for own, column in zip(strides, columns, strict=True):
                own.append(column[dim])
            continue
        if kept[-1] == 1:
            for own, column in zip(strides, columns, strict=True):
                own[-1] = column[dim]
        kept[-1] *= size
    return kept, strides


# ------------------------------------------------------------------------------------- launchers


class _Elements(ctypes.Structure):
    """``fusedgrad::cuda::Elements``."""

    _fields_ = (
        ("numel", ctypes.c_int64),
        ("ndim", ctypes.c_int32),
        ("sizes", ctypes.c_int64 * _MAX_DIMS),
        ("operands", ctypes.c_int32),
        ("immediates", ctypes.c_uint32),
        ("data", ctypes.c_void_p * _MAX_OPERANDS),
        ("strides", (ctypes.c_int64 * _MAX_DIMS) * _MAX_OPERANDS),
    )


class _Immediate(int):
    """An element, in the place of its address."""


# The function types of launch.h: what follows (DType, const Elements&) as the ABI mangles it, and
# as ctypes passes it.
_KINDS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "Elementwise": ("P11CUstream_st", (ctypes.c_void_p,)),
    "ElementwiseWithParameter": ("dP11CUstream_st", (ctypes.c_double, ctypes.c_void_p)),
    "ElementwiseWithTwoParameters": (
        "ddP11CUstream_st",
        (ctypes.c_double, ctypes.c_double, ctypes.c_void_p),
    ),
    "Reduction": (
        "dPvS5_lP11CUstream_st",
        (
            ctypes.c_double,
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_int64,
            ctypes.c_void_p,
        ),
    ),
}


@functools.cache
def launchers() -> dict[str, str]:
    """The function type of every launcher that launch.h declares, by name.

    Those of a function of one tensor, which is one line of its .cu file, it declares for all.
    """
    header = (CSRC / "cuda" / "launch.h").read_text()
    declared = rf"^ *({'|'.join(_KINDS)}) (\w+(?:##\w+)?);"
    sources = "".join(path.read_text() for path in sorted((CSRC / "cuda").glob("*.cu")))
    unary = re.findall(r"^FUSEDGRAD_UNARY_LAUNCHERS\((\w+)", sources, re.M)
    found = {name: kind for kind, name in re.findall(declared, header, re.M)}
    of_all = {name: found.pop(name) for name in list(found) if name.split("##")[0] == "name"}
    for function in unary:
        for name, kind in of_all.items():
            found[name.replace("##", "").replace("name", function, 1)] = kind
    return found


def source_of(launcher: str) -> str:
    """The basename of the file that defines a launcher."""
    name = launcher.split("_")[0]
    return "logistic_loss" if name == "binary" else name


@functools.cache
def library(
    source: str, arch: str = "90", csrc: Path = CSRC, resident_blocks: int = 2
) -> CompiledLibrary:
    """The launchers of one file, compiled for the emulated device: as for one that holds so many
    blocks at once, so that few elements are in tiles and fewer in chunks."""
    cache = None if csrc == CSRC else csrc.parent / "compiled"
    folders = [_tuned(csrc, resident_blocks), csrc]
    return compile_library([csrc / "cuda" / f"{source}.cu"], folders, arch, cache_dir=cache)


def _tuned(csrc: Path, resident_blocks: int) -> Path:
    """A folder of headers with that number in the place of csrc's."""
    shipped = "kResidentBlocks = 2048"
    text = (csrc / "cuda" / "tuning.h").read_text()
    assert shipped in text
    text = text.replace(shipped, f"kResidentBlocks = {resident_blocks}")
    folder = default_cache() / f"tuning-{hashlib.sha256(text.encode()).hexdigest()[:24]}"
    header = folder / "cuda" / "tuning.h"
    with alone(folder):
        if not header.is_file():
            header.parent.mkdir(parents=True, exist_ok=True)
            header.write_text(text)
    return folder


# -------------------------------------------------------------------------------------- backends


class Backend(Protocol):
    """What the tests ask of a backend."""

    name: str

    def elementwise(
        self, name: str, inputs: Sequence[Operand], outputs: int = 1, parameter: Parameter = None
    ) -> list[torch.Tensor]:
        """The results of the launcher ``name``, at the inputs' broadcast shape."""
        ...

    def sum(self, name: str, inputs: Sequence[Operand], scale: float) -> torch.Tensor:
        """``scale`` times the sum of a loss, a tensor of no dimensions."""
        ...


def parameters_of(parameter: Parameter) -> tuple[float, ...]:
    """The parameters of a launcher, of which there may be none, one or two."""
    if parameter is None:
        return ()
    return parameter if isinstance(parameter, tuple) else (parameter,)


class LaunchError(Exception):
    """A launcher returned a CUDA error."""


def _to_numpy(storage: torch.Tensor) -> np.ndarray:
    return (storage.view(torch.int16) if storage.dtype == torch.bfloat16 else storage).numpy()


class Emulated:
    """The launchers on an emulated device."""

    name = "emulated"

    def __init__(self, worst_case: Any = None, arch: str = "90", csrc: Path = CSRC) -> None:
        self.arch = arch
        self.csrc = csrc
        self.device = Device(worst_case, compute_capability=int(arch))

    def elementwise(
        self,
        name: str,
        inputs: Sequence[Operand],
        outputs: int = 1,
        parameter: Parameter = None,
        output_offset: int = 0,
        in_place: bool = False,
        dtypes: Sequence[torch.dtype] | None = None,
    ) -> list[torch.Tensor]:
        """As :class:`Backend`; results begin ``output_offset`` elements after an aligned address,
        or the first of them takes the place of the first input. ``dtypes``: theirs, if not its."""
        dtype = inputs[0].dtype
        dtypes = dtypes or [dtype] * outputs
        plan = layout(inputs, dtypes)
        memory = self._copy(inputs)
        numel = math.prod(plan.shape)
        results = [
            self.device.empty(
                numel,
                _to_numpy(torch.empty(0, dtype=own)).dtype,
                f"output {i}",
                output_offset * own.itemsize,
            )
            for i, own in enumerate(dtypes)
        ]
        if in_place:
            results[0] = memory[0]
        elements = self._elements(
            plan, [*(r.pointer for r in results), *self._starts(inputs, memory)]
        )
        scalars = parameters_of(parameter)
        if parameter is None and launchers().get(name) == "ElementwiseWithParameter":
            scalars = (1.0,)  # the first order, or no scale
        self._call(name, dtype, elements, *scalars, None)
        return [
            _unflatten(result.numpy(), plan, own)
            for result, own in zip(results, dtypes, strict=True)
        ]

    def sum(self, name: str, inputs: Sequence[Operand], scale: float) -> torch.Tensor:
        dtype = inputs[0].dtype
        plan = layout(inputs, [])
        memory = self._copy(inputs)
        out = self.device.empty(1, _to_numpy(inputs[0].storage).dtype, "sum")
        size = self.workspace_bytes(math.prod(plan.shape))
        workspace = self.device.empty(size, np.uint8, "workspace")
        elements = self._elements(plan, self._starts(inputs, memory))
        self._call(name, dtype, elements, scale, out.pointer, workspace.pointer, size, None)
        return torch.from_numpy(out.numpy().copy()).view(dtype)[0]

    def workspace_bytes(self, numel: int) -> int:
        with self.device.loaded(library("logistic_loss", self.arch, self.csrc)) as dll:
            function = dll["_ZN9fusedgrad4cuda25reduction_workspace_bytesEl"]
            function.argtypes, function.restype = (ctypes.c_int64,), ctypes.c_int64
            return int(function(numel))

    def _copy(self, inputs: Sequence[Operand]) -> list[DeviceArray]:
        return [
            self.device.array(_to_numpy(operand.storage), f"input {i}")
            for i, operand in enumerate(inputs)
        ]

    def _starts(self, inputs: Sequence[Operand], memory: Sequence[DeviceArray]) -> list[int]:
        pairs = zip(inputs, memory, strict=True)
        return [
            _Immediate.from_bytes(_to_numpy(operand.storage).tobytes(), "little")
            if operand.immediate
            else array.pointer + operand.offset * operand.dtype.itemsize
            for operand, array in pairs
        ]

    def _elements(self, plan: Layout, pointers: Sequence[int]) -> _Elements:
        elements = _Elements(
            numel=math.prod(plan.shape), ndim=len(plan.sizes), operands=len(pointers)
        )
        elements.sizes[: len(plan.sizes)] = plan.sizes
        for i, (pointer, strides) in enumerate(zip(pointers, plan.strides, strict=True)):
            elements.data[i] = pointer
            elements.immediates |= isinstance(pointer, _Immediate) << i
            elements.strides[i][: len(strides)] = strides
        return elements

    def _call(self, name: str, dtype: torch.dtype, elements: _Elements, *rest: Any) -> None:
        suffix, types = _KINDS[launchers()[name]]
        symbol = f"_ZN9fusedgrad4cuda{len(name)}{name}ENS_5DTypeERKNS0_8ElementsE{suffix}"
        with self.device.loaded(library(source_of(name), self.arch, self.csrc)) as dll:
            function = dll[symbol]
            function.argtypes = (ctypes.c_int32, ctypes.POINTER(_Elements), *types)
            function.restype = ctypes.c_int
            error = function(DTYPES.index(dtype), ctypes.byref(elements), *rest)
            self.device.raise_pending()
        if error:
            raise LaunchError(f"{name} returned {error}")


def _unflatten(values: np.ndarray, plan: Layout, dtype: torch.dtype) -> torch.Tensor:
    outermost_first = plan.order[::-1]
    tensor = torch.from_numpy(values.reshape(-1).copy()).view(dtype)
    tensor = tensor.reshape([plan.shape[dim] for dim in outermost_first])
    return tensor.permute([outermost_first.index(dim) for dim in range(len(plan.shape))])


class Operators:
    """``torch.ops.fusedgrad`` on the tensors of a torch device."""

    def __init__(self, device: str) -> None:
        self.name = device

    def elementwise(
        self, name: str, inputs: Sequence[Operand], outputs: int = 1, parameter: Parameter = None
    ) -> list[torch.Tensor]:
        result = _call_operator(name, self.tensors(inputs), parameter)
        results = [result] if isinstance(result, torch.Tensor) else list(result)
        assert len(results) == outputs
        return [tensor.cpu() for tensor in results]

    def sum(self, name: str, inputs: Sequence[Operand], scale: float) -> torch.Tensor:
        logits = "with_logits" in name
        x, target, *weights = self.tensors(inputs)
        weights += [None] * (1 + logits - len(weights))
        operator = _OPS.binary_cross_entropy_with_logits if logits else _OPS.binary_cross_entropy
        result: torch.Tensor = operator(x, target, *weights, _SUM if scale == 1 else _MEAN)
        return result.cpu()

    def tensors(self, inputs: Sequence[Operand]) -> list[Any]:
        # The storage is moved and not the view, so that alignment and strides survive.
        return [
            operand.tensor()
            if operand.immediate
            else operand.storage.to(self.name).as_strided(
                operand.shape, operand.strides, operand.offset
            )
            for operand in inputs
        ]


_OPS = torch.ops.fusedgrad
_NONE, _MEAN, _SUM = range(3)


def _call_operator(name: str, tensors: list[Any], parameter: Parameter) -> Any:
    parameters = parameters_of(parameter)
    if name.startswith("pow_scalar"):
        operator = getattr(_OPS, name.replace("_scalar", ""))
        return operator.Tensor_Scalar(*tensors, parameters[0], *map(int, parameters[1:]))
    if name == "pow":
        return _OPS.pow.Tensor_Tensor(*tensors)
    if name == "pow_double_backward":
        return _OPS.pow_double_backward.Tensor_Tensor(*tensors)
    if name.startswith("pow_backward"):
        mask = [not name.endswith("exponent"), not name.endswith("input")]
        return _OPS.pow_backward.Tensor_Tensor(*tensors, mask)
    if not name.startswith("binary_cross_entropy") or "_derivative" in name:
        return getattr(_OPS, name)(*tensors, *map(int, parameters))
    return _call_loss(name, tensors, parameter)


def _call_loss(name: str, tensors: list[Any], parameter: Parameter) -> Any:
    logits = "with_logits" in name
    family = "binary_cross_entropy_with_logits" if logits else "binary_cross_entropy"
    suffix = name.removeprefix(family)
    grads = suffix.count("double") + suffix.count("backward")
    weights = tensors[grads + 2 :] + [None] * (1 + logits - len(tensors[grads + 2 :]))
    operands = [*tensors[grads : grads + 2], *weights]
    reduction = _NONE if parameter in (None, 1) else _MEAN
    if grads == 0:
        return getattr(_OPS, family)(*operands, reduction)
    # A reduced loss has one gradient, which its backward broadcasts.
    own = tensors[:grads]
    if reduction == _MEAN:
        own[-1] = own[-1].flatten()[0]
    if grads == 2:
        return getattr(_OPS, f"{family}_double_backward")(*own, *operands, reduction)
    wanted = suffix.removeprefix("_backward").removeprefix("_") or "input"
    wanted = "input" if wanted == "weighted" else wanted
    mask = [wanted == each for each in ("input", "target", "weight", "pos_weight")][: 3 + logits]
    return getattr(_OPS, f"{family}_backward")(*own, *operands, reduction, mask)

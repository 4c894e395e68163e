"""Fused functions on CUDA: compiled by NVRTC, and launched on the emulated device."""

import ctypes
import functools
import itertools
import math
import operator
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from mpmath import mp
from torch import Tensor

import fusedgrad
from cuda_backend import (
    _MAX_OPERANDS,
    CSRC,
    DTYPES,
    ON_CUDA,
    Emulated,
    LaunchError,
    Operand,
    Operators,
    _Elements,
    _to_numpy,
    _unflatten,
    contiguous,
    expanded,
    layout,
    library,
    misaligned,
    on_host,
    permuted,
    spaced,
)
from cuda_emulator import EmulationError, UnwrittenOutputError
from cuda_emulator.interpreter import Launch
from cuda_mutation import Mutation
from exact_expressions import evaluate
from fused_functions import CASES, columns, rows
from fusedgrad import _C, activations
from fusedgrad.fuse import autograd, generate, kernel, nvrtc
from fusedgrad.fuse import compile as compilation
from fusedgrad.fuse.expression import OPERATIONS
from fusedgrad.fuse.graph import Graph
from ulp import ulp_error

BOUND = 8.0


def _formula(x: Tensor, z: Tensor, a: float = 0.5, b: float = 2.0) -> Tensor:
    return torch.tanh(a * x) * z**b


SCALED = fusedgrad.fuse(_formula)
PARAMETERS = (0.75, 1.5)


class _FusedKernel(ctypes.Structure):
    """``fusedgrad::cuda::FusedKernel``."""

    _fields_ = (
        ("contiguous", ctypes.c_void_p),
        ("strided", ctypes.c_void_p),
        ("combine", ctypes.c_void_p),
        ("outputs", ctypes.c_int),
        ("inputs", ctypes.c_int),
        ("wide", ctypes.c_bool),
        ("bytes", ctypes.c_int),
        ("widths", ctypes.c_int * _MAX_OPERANDS),
        ("widest", ctypes.c_int),
        ("summed", ctypes.c_uint32),
    )


_NAMESPACE = "_ZN9fusedgrad4cuda"
_LOAD = f"{_NAMESPACE}10load_fusedEPKvbPNS0_11FusedKernelE"
_LAUNCH = f"{_NAMESPACE}12launch_fusedERKNS0_11FusedKernelERKNS0_8ElementsEPKdiP11CUstream_st"
_LAUNCH_SUM = (
    f"{_NAMESPACE}16launch_fused_sumERKNS0_11FusedKernelERKNS0_8ElementsEPKd"
    "idPKPvS9_lP11CUstream_st"
)


_WORKSPACE_OVER = (
    f"{_NAMESPACE}31workspace_bytes_over_dimensionsERKNS0_11FusedKernelERKNS0_8ElementsE"
)
_LAUNCH_OVER = (
    f"{_NAMESPACE}28launch_fused_over_dimensionsERKNS0_11FusedKernelERKNS0_8ElementsEPKd"
    "iPvlP11CUstream_st"
)


class FusedEmulated(Emulated):
    """NVRTC's code of a graph, loaded and launched by csrc/cuda/fused.cu on an emulated device."""

    _sums: tuple[Any, ...]  # what the launcher of sums is given beside the elements
    _summed: tuple[bool, ...] = ()  # the outputs that are summed over dimensions

    def run(
        self,
        graph: Graph,
        inputs: Sequence[Operand],
        parameters: Sequence[float] = (),
        dtypes: Sequence[torch.dtype] | None = None,
        output_offset: int = 0,
    ) -> list[Tensor]:
        """The outputs, of these dtypes or that of the first input."""
        self._prepare(graph, inputs, parameters, dtypes)
        outputs = self.dtypes[: len(graph.outputs)]
        return self.elementwise(
            "fused", inputs, len(graph.outputs), dtypes=outputs, output_offset=output_offset
        )

    def sums(
        self,
        graph: Graph,
        inputs: Sequence[Operand],
        parameters: Sequence[float] = (),
        dtypes: Sequence[torch.dtype] | None = None,
        scale: float = 1.0,
        workspace_bytes: int | None = None,
    ) -> list[Tensor]:
        """`scale` times the sum of each output's elements."""
        self._prepare(graph, inputs, parameters, dtypes)
        count = len(graph.outputs)
        plan = layout(inputs, [])
        memory = self._copy(inputs)
        size = workspace_bytes
        if size is None:
            size = count * self.workspace_bytes(math.prod(plan.shape))
        workspace = self.device.empty(size, np.uint8, "workspace")
        totals = [
            self.device.empty(1, _to_numpy(torch.empty(0, dtype=dtype)).dtype, f"total {i}")
            for i, dtype in enumerate(self.dtypes[:count])
        ]
        pointers = (ctypes.c_void_p * count)(*(total.pointer for total in totals))
        addresses = ctypes.c_void_p(workspace.pointer), ctypes.c_int64(size)
        self._sums = ctypes.c_double(scale), pointers, *addresses
        elements = self._elements(plan, self._starts(inputs, memory))
        self._call("fused", inputs[0].dtype, elements)
        return [
            torch.from_numpy(total.numpy().copy()).view(dtype)[0]
            for total, dtype in zip(totals, self.dtypes, strict=False)
        ]

    def over_dimensions(
        self,
        graph: Graph,
        inputs: Sequence[Operand],
        shapes: Sequence[tuple[int, ...]],
        parameters: Sequence[float] = (),
        dtypes: Sequence[torch.dtype] | None = None,
    ) -> list[Tensor]:
        """The outputs, each summed to its own of these shapes, of as many dimensions as all."""
        self._prepare(graph, inputs, parameters, dtypes)
        full = np.broadcast_shapes(*(operand.shape for operand in inputs))
        self._summed = tuple(shape != full for shape in shapes)
        order = sorted(range(len(shapes)), key=self._summed.__getitem__)  # those written first
        results = {
            i: self.device.empty(
                math.prod(shapes[i]),
                _to_numpy(torch.empty(0, dtype=self.dtypes[i])).dtype,
                f"output {i}",
            )
            for i in order
        }
        targets = [
            expanded(np.zeros(shapes[i]), self.dtypes[i], full) for i in order if self._summed[i]
        ]
        written = [self.dtypes[i] for i in order if not self._summed[i]]
        plan = layout([*inputs, *targets], written)
        memory = self._copy(inputs)
        starts = self._starts(inputs, memory)
        pointers = [results[i].pointer for i in order]
        self.elements = self._elements(
            plan, [*pointers[: len(written)], *starts, *pointers[len(written) :]]
        )
        self._call("fused", inputs[0].dtype, self.elements)
        tensors = {
            i: torch.from_numpy(array.numpy().copy()).view(self.dtypes[i]).reshape(shapes[i])
            if self._summed[i]
            else _unflatten(array.numpy(), plan, self.dtypes[i])
            for i, array in results.items()
        }
        return [tensors[i] for i in range(len(shapes))]

    def _prepare(
        self,
        graph: Graph,
        inputs: Sequence[Operand],
        parameters: Sequence[float],
        dtypes: Sequence[torch.dtype] | None,
    ) -> None:
        dtypes = dtypes or [inputs[0].dtype] * len(graph.outputs)
        self.graph, self.parameters = graph, parameters
        self.dtypes = [*dtypes, *(operand.dtype for operand in inputs)]
        self.wide = any(operand.dtype is torch.float64 for operand in inputs)
        self._sums = self._summed = ()

    def _call(self, name: str, dtype: torch.dtype, elements: _Elements, *rest: Any) -> None:
        sums = bool(self._sums)
        computed = "double" if self.wide else "float"
        source = generate.cuda_source(
            self.graph,
            self.graph.inputs,
            nvrtc.types(self.dtypes[: len(self.graph.outputs) + len(self.graph.inputs)]),
            computed,
            sums=sums,
            summed=self._summed,
        )
        code = nvrtc.code_of(source, f"compute_{self.arch}")
        loaded = self._kernel()
        with self.device.loaded(library("fused", self.arch, self.csrc)) as dll:
            combined = ctypes.c_bool(sums or bool(self._summed))
            error = dll[_LOAD](code, combined, ctypes.byref(loaded))
        self._launch(loaded, elements, error)

    def _kernel(self) -> _FusedKernel:
        """As csrc/operators/fused.cpp describes it, not loaded yet."""
        outputs = len(self.graph.outputs)
        summed = self._summed or (bool(self._sums),) * outputs
        lying = [dtype for i, dtype in enumerate(self.dtypes) if i >= outputs or not summed[i]]
        widths = [dtype.itemsize for dtype in lying]
        return _FusedKernel(
            outputs=outputs,
            inputs=len(self.graph.inputs),
            wide=self.wide,
            bytes=(8 if self.wide else 4) if len(set(lying)) > 1 else widths[0],
            widths=(ctypes.c_int * _MAX_OPERANDS)(*widths),
            widest=max(widths),
            summed=sum(each << i for i, each in enumerate(self._summed)),
        )

    def workspace_over(self, loaded: _FusedKernel, elements: _Elements) -> int:
        """Bytes."""
        with self.device.loaded(library("fused", self.arch, self.csrc)) as dll:
            function = dll[_WORKSPACE_OVER]
            function.restype = ctypes.c_int64
            return int(function(ctypes.byref(loaded), ctypes.byref(elements)))

    def _launch(self, loaded: _FusedKernel, elements: _Elements, error: int = 0) -> None:
        """Unless there was an error."""
        values = (ctypes.c_double * max(len(self.parameters), 1))(*self.parameters)
        rest, name = self._sums, _LAUNCH_SUM if self._sums else _LAUNCH
        if self._summed:
            size = self.workspace_over(loaded, elements)
            workspace = self.device.empty(size, np.uint8, "workspace")
            rest, name = (ctypes.c_void_p(workspace.pointer), ctypes.c_int64(size)), _LAUNCH_OVER
        with self.device.loaded(library("fused", self.arch, self.csrc)) as dll:
            given = ctypes.byref(loaded), ctypes.byref(elements), values, len(self.parameters)
            error = error or dll[name](*given, *rest, None)
            if dll["cudaPeekAtLastError"]():
                raise LaunchError("an error is left behind")
        if error:
            raise LaunchError(f"error {error}")


def _value_and_grad(function: Any, count: int) -> Graph:
    arguments = tuple(torch.ones(1) for _ in range(count))
    return fusedgrad.fuse(function)._graph_of(arguments, {}).value_and_grad()


@functools.cache
def _scaled() -> Graph:
    return SCALED._example().value_and_grad()


# -------------------------------------------------------------------------------------- accuracy


@pytest.mark.sampled(6)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.name for case in CASES])
def test_emulated_value_and_partials_are_exact(number: int, dtype: torch.dtype) -> None:
    case = CASES[number]
    tensors = columns(case, dtype)
    graph = _value_and_grad(case.function, len(tensors))
    inputs = [contiguous(tensor.double().numpy(), dtype) for tensor in tensors]
    _check_exact(graph, tensors, FusedEmulated().run(graph, inputs))


def _check_exact(graph: Graph, tensors: Sequence[Tensor], results: Sequence[Tensor]) -> None:
    dtype = tensors[0].dtype
    with mp.workdps(60):
        for output, values in zip(graph.outputs, results, strict=True):
            for row, value in zip(rows(tensors), values.tolist(), strict=True):
                exact, condition = evaluate(output, dict(zip(graph.inputs, row, strict=True)))
                if exact == 0:
                    assert value == 0
                    continue
                error = ulp_error(value, exact, dtype)
                assert error <= BOUND * condition, (row, value, float(exact), error)


@pytest.mark.parametrize("name", activations.__all__)
def test_every_activation_compiles_with_its_gradients(name: str) -> None:
    source = getattr(activations, name).source("cuda", gradients=True)
    assert "return {{" in source
    assert nvrtc.code_of(source, "sm_90")[:4] == b"\x7fELF"


# ----------------------------------------------------------------------------------------- walks


def _reference(
    graph: Graph, inputs: Sequence[Operand], parameters: Sequence[float] = ()
) -> list[Tensor]:
    """In float64, not rounded."""
    tensors = [operand.tensor().double() for operand in inputs]
    return kernel.evaluate(graph, tensors, parameters, [torch.float64] * len(graph.outputs))


def _check(
    device: FusedEmulated,
    graph: Graph,
    inputs: Sequence[Operand],
    parameters: Sequence[float] = (),
    dtypes: Sequence[torch.dtype] | None = None,
    output_offset: int = 0,
) -> None:
    results = device.run(graph, inputs, parameters, dtypes, output_offset)
    for got, expected in zip(results, _reference(graph, inputs, parameters), strict=True):
        # Half types: rounded once. float32 is some roundings away.
        bound = {torch.float64: 32, torch.float32: 32}.get(got.dtype, 0.51)
        error = (got.double() - expected).abs()
        unit = torch.finfo(got.dtype).eps * expected.abs()
        assert bool((error <= bound * unit).all()), (got.dtype, float((error / unit).max()))


SHAPE = (6, 350)
LAYOUTS: dict[str, Callable[..., Operand]] = {
    "contiguous": contiguous,
    "misaligned": misaligned,
    "permuted": functools.partial(permuted, order=(1, 0)),
    "spaced": functools.partial(spaced, step=3),
    "row": lambda values, dtype: expanded(values[:1], dtype, SHAPE),
    "scalar": lambda values, dtype: expanded(values[:1, :1], dtype, SHAPE),
    "number": on_host,
}


def _values(count: int) -> list[np.ndarray]:
    return [np.random.default_rng(i).uniform(0.25, 2, SHAPE) for i in range(count)]


@pytest.mark.sampled(6)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", LAYOUTS)
def test_any_layout_with_parameters(kind: str, dtype: torch.dtype) -> None:
    x, z = _values(2)
    for first, second in ((contiguous, LAYOUTS[kind]), (LAYOUTS[kind], contiguous)):
        _check(FusedEmulated(), _scaled(), [first(x, dtype), second(z, dtype)], PARAMETERS)


def test_a_number_on_the_host_is_an_operand_of_few_aligned_kernels() -> None:
    """Of eight operands at most, the output among them."""
    x = contiguous(np.ones(SHAPE), torch.float32)
    inputs = [x] * 6 + [on_host(np.ones(1), torch.float32)]

    def product_of(count: int) -> Graph:
        arguments = tuple(torch.ones(1) for _ in range(count))
        return fusedgrad.fuse(lambda *x: functools.reduce(torch.mul, x))._graph_of(arguments, {})

    device = FusedEmulated()
    _check(device, product_of(7), inputs)
    calls: list[Callable[[], object]] = [
        lambda: device.run(product_of(8), [x, *inputs]),
        lambda: device.run(product_of(7), inputs, output_offset=1),
        lambda: device.sums(product_of(7), inputs),
        lambda: device.over_dimensions(product_of(7), inputs, [(1, SHAPE[1])]),
    ]
    for call in calls:
        with pytest.raises(LaunchError, match="error 1"):  # cudaErrorInvalidValue
            call()
    assert device.device.launches == ["contiguous"]


def test_outputs_that_are_not_aligned() -> None:
    inputs = [contiguous(values, torch.float32) for values in _values(2)]
    _check(FusedEmulated(), _scaled(), inputs, PARAMETERS, output_offset=1)


@pytest.mark.parametrize("place", [contiguous, misaligned])
def test_as_many_blocks_as_a_device_holds_take_a_chunk_each(
    monkeypatch: pytest.MonkeyPatch, place: Callable[..., Operand]
) -> None:
    """As shipped; the first and the last of them run."""
    shipped = functools.partial(library, resident_blocks=2048)
    monkeypatch.setattr(sys.modules[__name__], "library", shipped)
    chunk, tile = (512, 1024) if place is contiguous else (128, 512)
    most = 2048 * chunk
    product = _product()
    for size, step in ((most - 1, chunk), (most, chunk), (most + 1, tile)):
        device = FusedEmulated()
        operands = [place(np.ones(size), torch.float32)] * 2
        unwritten = 4 * (size - step - (size - 1) % step - 1)
        with (
            device.device.only_blocks(0, -1),
            pytest.raises(UnwrittenOutputError, match=f"^{unwritten} .* element \\({step},\\)"),
        ):
            device.run(product, operands)
        assert device.device.grids == [(-(-size // step), 1, 1)]


def _product() -> Graph:
    example = (torch.ones(1), torch.ones(1))
    return fusedgrad.fuse(lambda x, z: x * z)._graph_of(example, {})


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 4099])
def test_sizes_around_a_tile(size: int) -> None:
    values = [np.random.default_rng(i).uniform(0.25, 2, (size,)) for i in range(2)]
    inputs = [contiguous(v, torch.float32) for v in values]
    _check(FusedEmulated(), _scaled(), inputs, PARAMETERS)


def _check_sums(
    device: FusedEmulated,
    graph: Graph,
    inputs: Sequence[Operand],
    parameters: Sequence[float] = (),
    dtypes: Sequence[torch.dtype] | None = None,
    scale: float = 1.0,
) -> None:
    """Of positive numbers."""
    totals = device.sums(graph, inputs, parameters, dtypes, scale)
    for got, values in zip(totals, _reference(graph, inputs, parameters), strict=True):
        exact = scale * math.fsum(values.flatten().tolist())
        bound = {torch.float64: 32, torch.float32: 32}.get(got.dtype, 0.51)
        assert abs(float(got) - exact) <= bound * torch.finfo(got.dtype).eps * exact, got.dtype


@pytest.mark.sampled(6)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", [kind for kind in LAYOUTS if kind != "number"])
def test_sums_of_any_layout_with_parameters(kind: str, dtype: torch.dtype) -> None:
    x, z = _values(2)
    for first, second in ((contiguous, LAYOUTS[kind]), (LAYOUTS[kind], contiguous)):
        operands = [first(x, dtype), second(z, dtype)]
        # The sums themselves are beyond half types.
        _check_sums(FusedEmulated(), _scaled(), operands, PARAMETERS, scale=1 / x.size)


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 4099])
def test_sums_of_sizes_around_a_tile(size: int) -> None:
    device = FusedEmulated()
    values = [np.random.default_rng(i).uniform(0.25, 2, (size,)) for i in range(2)]
    inputs = [contiguous(v, torch.float32) for v in values]
    _check_sums(device, _scaled(), inputs, PARAMETERS, scale=0.5)
    expected = ["combine"] if size == 0 else ["contiguous", "combine"][: 1 + (size > 1024)]
    assert device.device.launches == expected
    one, other = (device.sums(_scaled(), inputs, PARAMETERS) for _ in range(2))
    assert all(map(torch.equal, one, other))


def test_a_sum_of_nothing_has_no_mean() -> None:
    inputs = [contiguous(np.empty(0), torch.float32)] * 2
    for total in FusedEmulated().sums(_scaled(), inputs, PARAMETERS, scale=math.inf):
        assert math.isnan(total)


def test_sums_keep_what_a_float_would_lose() -> None:
    plain = fusedgrad.fuse(lambda x, z: x + z)._example()
    ones, little = np.ones(2**13), np.zeros(2**13)
    little[7] = 2.0**-20  # less than half a unit of a sum of more than 8
    for last, exact in ((1.0, 2.0**13 + 2.0**-20), (np.inf, np.inf)):
        ones[-1] = last
        inputs = [contiguous(ones, torch.float32), contiguous(little, torch.float32)]
        (total,) = FusedEmulated().sums(plain, inputs, dtypes=[torch.float64])
        assert float(total) == exact


@pytest.mark.slow
def test_sums_beyond_32_bits_are_launched_in_parts(tmp_path: Path) -> None:
    lower = Mutation("lower", "tuning.h", "kMaxOffset = INT32_MAX", "kMaxOffset = 1000")
    device = FusedEmulated(csrc=_mutated(tmp_path, lower))
    x, z = _values(2)
    inputs = [permuted(x, torch.float32, (1, 0)), contiguous(z, torch.float32)]
    _check_sums(device, _scaled(), inputs, PARAMETERS)
    assert device.device.launches.count("strided") > 4
    assert device.device.launches.count("combine") == 1


def test_a_workspace_serves_as_many_operands_as_there_may_be() -> None:
    """Strided kernels of many operands have the smallest tiles, and so the most blocks."""
    total = fusedgrad.fuse(lambda *x: functools.reduce(torch.add, x))
    inputs = [permuted(values, torch.float64, (1, 0)) for values in _values(_C.max_operands - 2)]
    inputs.append(contiguous(_values(1)[0], torch.float64))
    graph = total._graph_of(tuple(torch.ones(1) for _ in inputs), {})
    _check_sums(FusedEmulated(), graph, inputs)
    with pytest.raises(LaunchError, match="error 1"):  # cudaErrorInvalidValue
        FusedEmulated().sums(graph, inputs, workspace_bytes=16)


# ------------------------------------------------------------------------- sums over dimensions


def _slopes(x: Tensor, scale: Tensor, bias: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """The gradients of x * scale + bias."""
    return grad * scale, grad * x, grad


SLOPES = fusedgrad.fuse(_slopes)
# The shape of all, and that of scale and bias
BROADCAST: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "a parameter a channel": ((4, 3, 600), (1, 3, 1)),
    "many channels of few": ((2, 300, 8), (1, 300, 1)),
    "a bias": ((60, 72), (1, 72)),
    "a long bias of few": ((3, 2052), (1, 2052)),
    "a temperature": ((5, 1200), (1, 1)),
    "rows of odd length": ((3, 5, 77), (1, 5, 1)),
    "columns of odd length": ((40, 37), (1, 37)),
    "in the middle": ((4, 6, 5, 8), (4, 1, 5, 1)),
    "outside and inside": ((4, 6, 5, 8), (1, 6, 1, 8)),
    "one of each": ((2100, 1), (1, 1)),
}


def _integers(shape: Sequence[int], seed: int) -> np.ndarray:
    """Small ones, whose sums of products are exact."""
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(np.float64)


def _padded(values: np.ndarray, dtype: torch.dtype, by: int) -> Operand:
    """So many elements behind each row."""
    padding = np.full((*values.shape[:-1], by), math.nan)
    inner = contiguous(np.concatenate([values, padding], axis=-1), dtype)
    return Operand(inner.storage, values.shape, inner.strides)


def _check_slopes(
    device: FusedEmulated,
    full: tuple[int, ...],
    own: tuple[int, ...],
    dtypes: Sequence[torch.dtype],
    place: Callable[..., Operand] = contiguous,
    graph: Graph | None = None,
) -> None:
    """`dtypes` of x, scale and bias, and of the gradient."""
    x, grad = _integers(full, 0), _integers(full, 1)
    scale, bias = _integers(own, 2), _integers(own, 3)
    inputs = [
        place(x, dtypes[0]),
        expanded(scale, dtypes[1], full),
        expanded(bias, dtypes[2], full),
        place(grad, dtypes[3]),
    ]
    graph = graph or _slopes_graph()
    found = device.over_dimensions(graph, inputs, [full, own, own], dtypes=dtypes[:3])
    axes = tuple(i for i, (a, b) in enumerate(zip(full, own, strict=True)) if a != b)
    exact = [grad * scale, (grad * x).sum(axes, keepdims=True), grad.sum(axes, keepdims=True)]
    for got, true, dtype in zip(found, exact, dtypes, strict=False):
        assert got.dtype == dtype
        assert torch.equal(got, torch.from_numpy(true).to(dtype))


@functools.cache
def _slopes_graph() -> Graph:
    return SLOPES._graph_of(tuple(torch.ones(1) for _ in range(4)), {})


@pytest.mark.sampled(6)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", BROADCAST)
def test_sums_over_dimensions_are_exact(name: str, dtype: torch.dtype) -> None:
    device = FusedEmulated()
    full, own = BROADCAST[name]
    _check_slopes(device, full, own, [dtype] * 4)
    fastest = next(size for size in reversed(full) if size > 1)
    aligned = fastest % (16 // dtype.itemsize) == 0
    assert device.device.launches[0] == ("contiguous" if aligned else "strided")


@pytest.mark.sampled(6)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", BROADCAST)
def test_sums_over_dimensions_read_any_layout(name: str, dtype: torch.dtype) -> None:
    full, own = BROADCAST[name]
    reverse = functools.partial(permuted, order=tuple(reversed(range(len(full)))))
    for place in (reverse, misaligned, functools.partial(spaced, step=3)):
        _check_slopes(FusedEmulated(), full, own, [dtype] * 4, place)
    # Rows that begin at an aligned address, or are as long as packs, but not both
    for by in (1, -full[-1] % 8):
        _check_slopes(FusedEmulated(), full, own, [dtype] * 4, functools.partial(_padded, by=by))


def _check_rows_longer_than_packs(device: FusedEmulated) -> None:
    """That begin at aligned addresses, where no result asks for a layout of its own."""
    x = _integers((5, 77), 0)
    square = fusedgrad.fuse(lambda x: x * x)._example()
    (total,) = device.over_dimensions(square, [_padded(x, torch.float32, 3)], [(5, 1)])
    assert total.flatten().tolist() == (x * x).sum(1).tolist()


def test_rows_of_sums_that_are_no_packs() -> None:
    _check_rows_longer_than_packs(FusedEmulated())


@pytest.mark.parametrize(
    "names",
    ["float16 float32 float32 float32", "float32 bfloat16 float64 float16", "float64 " * 4],
)
def test_sums_over_dimensions_of_mixed_dtypes(names: str) -> None:
    for name in ("a parameter a channel", "a bias", "rows of odd length"):
        device = FusedEmulated()
        _check_slopes(device, *BROADCAST[name], _dtypes(names))
        aligned = name != "rows of odd length"
        assert device.device.launches[0] == ("contiguous" if aligned else "strided")


def test_pieces_of_a_sum_are_combined() -> None:
    for full, own in (((16, 2, 2048), (1, 2, 1)), ((600, 256), (1, 256)), ((2, 20000), (1, 1))):
        device = FusedEmulated()
        _check_slopes(device, full, own, [torch.float32] * 4)
        assert device.device.launches == ["contiguous", "combine"]
        assert device.workspace_over(device._kernel(), device.elements) > 0
    device = FusedEmulated()
    _check_slopes(device, (3, 4096, 8), (1, 4096, 1), [torch.float32] * 4)
    assert device.device.launches == ["contiguous"]
    assert device.workspace_over(device._kernel(), device.elements) == 0


def test_no_order_of_blocks_changes_a_bit_of_sums_over_dimensions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As run twice, the second time from the last block and thread to the first."""
    run = Launch.run

    def run_in_two_orders(launch: Launch) -> None:
        monkeypatch.setattr(launch.program, "unordered", True)
        run(launch)
        assert launch.backwards

    monkeypatch.setattr(Launch, "run", run_in_two_orders)
    for full, own in (((16, 2, 2048), (1, 2, 1)), ((600, 72), (1, 72)), ((3, 5, 77), (1, 5, 1))):
        values = [np.random.default_rng(i).normal(size=full) for i in range(2)]
        inputs = [contiguous(v, torch.float32) for v in values]
        product = fusedgrad.fuse(lambda x, z: torch.tanh(x) * z)._example()
        (total,) = FusedEmulated().over_dimensions(product, inputs, [own])
        x, z = (operand.tensor().double() for operand in inputs)
        exact = (torch.tanh(x) * z).sum_to_size(own)
        size = (torch.tanh(x) * z).abs().sum_to_size(own)
        assert bool(((total - exact).abs() <= 2**-23 * size).all())


def test_sums_over_dimensions_keep_what_a_float_would_lose() -> None:
    values = np.ones((2, 4096))
    values[:, 7] = 2.0**-20  # less than half a unit of a sum of more than 8
    one = fusedgrad.fuse(lambda x: x * 1.0)._example()
    for place in (contiguous, misaligned):
        inputs = [place(values, torch.float32)]
        (total,) = FusedEmulated().over_dimensions(one, inputs, [(2, 1)], dtypes=[torch.float64])
        assert total.flatten().tolist() == [4095 + 2.0**-20] * 2
        # Rounded once: through float32 it would be a tie of bfloat16, and go to 1.
        above = [place(np.array([[1, 2.0**-8, 2.0**-40, 0]]), torch.float32)]
        (total,) = FusedEmulated().over_dimensions(one, above, [(1, 1)], dtypes=[torch.bfloat16])
        assert float(total) == 1 + 2.0**-7
    values[1, 9] = np.inf
    inputs = [contiguous(values, torch.float32)]
    (total,) = FusedEmulated().over_dimensions(one, inputs, [(2, 1)])
    assert total.flatten().tolist() == [4095, np.inf]


@pytest.mark.slow
@pytest.mark.parametrize("limit", [300, 3000])
def test_sums_over_dimensions_beyond_32_bits_are_launched_in_parts(
    tmp_path: Path, limit: int
) -> None:
    """Where what stays is too large, what is summed over, and both."""
    lower = Mutation("lower", "tuning.h", "kMaxOffset = INT32_MAX", f"kMaxOffset = {limit}")
    device = FusedEmulated(csrc=_mutated(tmp_path, lower))
    for name in ("in the middle", "outside and inside", "a bias", "a temperature"):
        del device.device.launches[:]
        _check_slopes(device, *BROADCAST[name], [torch.float32] * 4)
        assert len(device.device.launches) > 1


def test_partial_sums_are_few_and_their_bytes_do_not_overflow() -> None:
    device = FusedEmulated()
    inputs = [contiguous(np.ones((1, 1)), torch.float32)] * 4
    device._prepare(_slopes_graph(), inputs, (), None)
    device._summed = False, True, True
    kernel = device._kernel()

    def elements_of(sizes: Sequence[int], is_summed: Sequence[bool]) -> _Elements:
        """Dimension 0 is the fastest."""
        elements = _Elements(numel=math.prod(sizes), ndim=len(sizes), operands=7)
        elements.sizes[: len(sizes)] = sizes
        for i in range(7):
            step = 4
            for d, size in enumerate(sizes):
                kept = not is_summed[d]
                elements.strides[i][d] = step if i in (0, 1, 4) or kept else 0
                step *= size if i in (0, 1, 4) or kept else 1
        return elements

    sizes = [1, 2, 3, 5, 8, 31, 32, 100, 512, 4096, 100_000, 2**20, 2**31 + 8, 2**40]
    for first, second, third in itertools.product(sizes, repeat=3):
        numel = first * second * third
        if numel > 2**60:
            continue
        for is_summed in ((True, False, True), (False, True, False), (True, True, False)):
            elements = elements_of((first, second, third), is_summed)
            needed = device.workspace_over(kernel, elements)
            kept = [n for n, s in zip((first, second, third), is_summed, strict=True) if not s]
            # Two sums of 8 bytes each for 32 elements of 4 bytes, or where parts add to them
            assert 0 <= needed <= 2 * 8 * max(numel / 32, math.prod(kept)), (first, second, third)


def test_a_workspace_that_is_too_small_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FusedEmulated, "workspace_over", lambda *_: 16)
    with pytest.raises(LaunchError, match="error 1"):  # cudaErrorInvalidValue
        _check_slopes(FusedEmulated(), (600, 256), (1, 256), [torch.float32] * 4)


MIXTURES = [
    # of outputs (the value, and the gradients of x and z), and of x and z
    ("float32 bfloat16 float32", "bfloat16 float32"),
    ("float64 float64 float16", "float64 float16"),
    ("bfloat16 bfloat16 bfloat16", "bfloat16 float64"),
    ("float32 float16 bfloat16", "float16 bfloat16"),
    ("float32 float32 float32", "float32 float16"),
]


def _dtypes(names: str) -> list[torch.dtype]:
    return [getattr(torch, name) for name in names.split()]


@pytest.mark.parametrize("kind", ["contiguous", "permuted", "scalar", "number"])
@pytest.mark.parametrize(("outputs", "inputs"), MIXTURES)
def test_each_operand_has_its_own_dtype(outputs: str, inputs: str, kind: str) -> None:
    own = zip(_values(2), (contiguous, LAYOUTS[kind]), _dtypes(inputs), strict=True)
    operands = [place(values, dtype) for values, place, dtype in own]
    _check(FusedEmulated(), _scaled(), operands, PARAMETERS, _dtypes(outputs))


@pytest.mark.parametrize("kind", ["contiguous", "permuted", "scalar"])
@pytest.mark.parametrize(("outputs", "inputs"), MIXTURES)
def test_sums_of_operands_of_their_own_dtypes(outputs: str, inputs: str, kind: str) -> None:
    own = zip(_values(2), (contiguous, LAYOUTS[kind]), _dtypes(inputs), strict=True)
    operands = [place(values, dtype) for values, place, dtype in own]
    _check_sums(FusedEmulated(), _scaled(), operands, PARAMETERS, _dtypes(outputs), 1 / 2100)


def _check_one_rounding(device: FusedEmulated) -> None:
    """1 + 2^-11 is a tie of float16, 1 + 2^-8 of bfloat16; a little more is none."""
    plus_one = fusedgrad.fuse(lambda x: x + 1)._example()
    for dtype, half in ((torch.float16, 2.0**-11), (torch.bfloat16, 2.0**-8)):
        above = contiguous(np.full(64, half + 2.0**-40), torch.float64)
        (result,) = device.run(plus_one, [above], dtypes=[dtype])
        assert bool((result.double() == 1 + 2 * half).all())


def test_a_double_is_rounded_to_a_half_type_once() -> None:
    _check_one_rounding(FusedEmulated())


@pytest.mark.parametrize("kind", ["contiguous", "permuted"])
def test_as_many_operands_as_the_cpu_takes(kind: str) -> None:
    def function(*x: Tensor) -> Tensor:
        products = [a * b for a, b in itertools.pairwise(x)]
        return functools.reduce(torch.add, products)

    inputs = (_C.max_operands - 1) // 2
    graph = _value_and_grad(function, inputs)
    assert len(graph.outputs) + inputs == _C.max_operands - 1
    values = [np.random.default_rng(i).uniform(0.25, 2, (6, 50)) for i in range(inputs)]
    place = LAYOUTS[kind]
    for dtype in (torch.float32, torch.bfloat16):
        _check(FusedEmulated(), graph, [place(v, dtype) for v in values])


def _mutated(folder: Path, mutation: Mutation) -> Path:
    csrc = folder / "csrc"
    shutil.copytree(CSRC, csrc)
    mutation.apply(csrc)
    return csrc


def test_offsets_beyond_32_bits_are_launched_in_parts(tmp_path: Path) -> None:
    """With the limit brought down to what a small tensor exceeds."""
    lower = Mutation("lower", "tuning.h", "kMaxOffset = INT32_MAX", "kMaxOffset = 1000")
    device = FusedEmulated(csrc=_mutated(tmp_path, lower))
    inputs = [permuted(values, torch.float32, (1, 0)) for values in _values(2)]
    _check(device, _scaled(), [inputs[0], contiguous(_values(2)[1], torch.float32)], PARAMETERS)
    assert len(device.device.launches) > 4


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["75", "80", "100", "120"])
def test_the_ptx_of_every_architecture_runs(arch: str) -> None:
    for dtype in DTYPES:
        inputs = [contiguous(values, dtype) for values in _values(2)]
        _check(FusedEmulated(arch=arch), _scaled(), inputs, PARAMETERS)
        _check_sums(FusedEmulated(arch=arch), _scaled(), inputs, PARAMETERS, scale=0.01)
    x, z = _values(2)
    operands = [contiguous(x, torch.float64), contiguous(z, torch.bfloat16)]
    _check(FusedEmulated(arch=arch), _scaled(), operands, PARAMETERS, _dtypes("float16 " * 3))


def test_a_wrong_number_of_operands_is_an_error() -> None:
    inputs = [contiguous(values, torch.float32) for values in _values(3)]
    with pytest.raises(LaunchError, match="error 1"):  # cudaErrorInvalidValue
        FusedEmulated().run(_scaled(), inputs, PARAMETERS)


def test_code_without_its_kernels_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    source = generate.cuda_source

    def renamed(*given: Any, **named: Any) -> str:
        return source(*given, **named).replace("_KERNEL(contiguous,", "_KERNEL(other,")

    monkeypatch.setattr(generate, "cuda_source", renamed)
    inputs = [contiguous(values, torch.float32) for values in _values(2)]
    with pytest.raises(LaunchError, match="error 500"):  # cudaErrorSymbolNotFound
        FusedEmulated().run(_scaled(), inputs, PARAMETERS)


def test_an_error_of_others_is_neither_blamed_on_the_kernels_nor_forgotten() -> None:
    device = FusedEmulated()
    inputs = [contiguous(values, torch.float32) for values in _values(2)]
    with device.device.loaded(library("fused")) as dll:
        invalid_device = dll["cudaSetDevice"](1000)
        assert invalid_device != 0
        with pytest.raises(LaunchError, match="left behind"):
            device.run(_scaled(), inputs, PARAMETERS)
        assert dll["cudaGetLastError"]() == invalid_device


def test_the_first_call_may_stand_inside_a_stream_capture() -> None:
    inputs = [contiguous(values, torch.float32) for values in _values(2)]
    device = FusedEmulated()
    with device.device.capturing():
        with device.device.loaded(library("fused")) as dll:
            assert dll["cudaMalloc"](ctypes.byref(ctypes.c_void_p()), 16) == 900
            assert dll["cudaGetLastError"]() == 900
        _check(device, _scaled(), inputs, PARAMETERS)
        with device.device.loaded(library("fused")) as dll:  # what was allowed is so no more
            assert dll["cudaMalloc"](ctypes.byref(ctypes.c_void_p()), 16) == 900
            assert dll["cudaGetLastError"]() == 900


def test_the_launcher_asks_little_of_the_runtime() -> None:
    """So that it synchronises nothing, allocates nothing and may be captured in a graph."""
    printed = subprocess.run(
        ["nm", "-D", "--undefined-only", library("fused").path],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert set(re.findall(r"\bcuda\w+", printed)) == {
        "cudaGetLastError",
        "cudaLaunchKernel",
        "cudaLibraryGetKernel",
        "cudaLibraryLoadData",
        "cudaThreadExchangeStreamCaptureMode",
    }


# --------------------------------------------------------------------------------------- devices
#
# As a user calls them, on torch's CPU and on a CUDA device.


@pytest.fixture(params=["cpu", ON_CUDA])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where no function runs operation by operation, so that its kernels are what is tested."""

    def evaluate(graph: Graph, *_: Any) -> Any:
        raise AssertionError(f"{graph.name} has no kernel")

    monkeypatch.setattr(kernel, "evaluate", evaluate)
    name: str = request.param
    return name


def _check_on(
    device: str,
    inputs: Sequence[Operand],
    parameters: Sequence[float] = PARAMETERS,
    reduction: Literal["none", "mean", "sum"] = "none",
) -> None:
    """Value and gradients of `_formula`, on positive numbers: no sum of gradients cancels."""
    tensors = [x.requires_grad_() for x in Operators(device).tensors(inputs)]
    wide = [x.detach().cpu().double().requires_grad_() for x in tensors]
    value = fusedgrad.fuse(_formula, reduction=reduction)(*tensors, *parameters)
    exact = _formula(*wide, *parameters)
    if reduction != "none":
        exact = exact.mean() if reduction == "mean" else exact.sum()
    upstream = torch.linspace(0.5, 2, exact.numel()).reshape(exact.shape).to(value.dtype)
    gradients = torch.autograd.grad(value, tensors, upstream.to(device))
    expected = [exact, *torch.autograd.grad(exact, wide, upstream.double())]
    assert value.dtype is functools.reduce(torch.promote_types, [x.dtype for x in tensors])
    assert value.device.type == device
    for own, got in zip([value, *tensors], [value, *gradients], strict=True):
        assert (got.device, got.dtype, got.shape) == (own.device, own.dtype, own.shape)
    for got, true in zip([value, *gradients], expected, strict=True):
        # Half types: rounded where they are made and where they are added up.
        bound = 32 if got.dtype in (torch.float32, torch.float64) else 1.02
        info = torch.finfo(got.dtype)
        error = (got.cpu().double() - true).abs() / (info.eps * true.abs().clamp(min=info.tiny))
        assert float(error.detach().max()) <= bound, (got.dtype, float(error.max()))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", LAYOUTS)
def test_values_and_gradients_of_any_layout(device: str, kind: str, dtype: torch.dtype) -> None:
    x, z = _values(2)
    _check_on(device, [contiguous(x, dtype), LAYOUTS[kind](z, dtype)])
    _check_on(device, [LAYOUTS[kind](x, dtype), contiguous(z, dtype)])


@pytest.mark.parametrize(
    "shapes", [((6, 350), (350,)), ((6, 1), (1, 350)), ((), (6, 350))], ids=str
)
def test_values_and_gradients_of_shapes_that_broadcast(
    device: str, shapes: Sequence[tuple[int, ...]]
) -> None:
    for dtype in DTYPES:
        drawn = (np.random.default_rng(i).uniform(0.25, 2, s) for i, s in enumerate(shapes))
        _check_on(device, [contiguous(values, dtype) for values in drawn])


@pytest.mark.parametrize("dtypes", [*itertools.permutations(DTYPES, 2)], ids=str)
def test_values_and_gradients_of_mixed_dtypes(
    device: str, dtypes: tuple[torch.dtype, torch.dtype]
) -> None:
    for second in (contiguous, LAYOUTS["permuted"]):
        x, z = _values(2)
        _check_on(device, [contiguous(x, dtypes[0]), second(z, dtypes[1])])


def test_values_and_gradients_with_other_parameters(device: str) -> None:
    inputs = [contiguous(values, torch.float32) for values in _values(2)]
    for parameters in ((), (0.125,), (2.0, -1.5)):
        _check_on(device, inputs, parameters)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("kind", ["contiguous", "permuted"])
def test_values_and_gradients_of_a_reduction(
    device: str, kind: str, reduction: Literal["mean", "sum"]
) -> None:
    x, z = _values(2)
    for dtype in DTYPES:
        inputs = [contiguous(x / 8, dtype), LAYOUTS[kind](z / 8, dtype)]
        _check_on(device, inputs, reduction=reduction)


WITH_A_NUMBER: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "an exponent": fusedgrad.pow,
    "a base": lambda x, number: fusedgrad.pow(number, x),
    "a Python number": lambda x, number: (
        fusedgrad.pow(number.item(), x)
        if number.is_cpu
        else fusedgrad.pow(number, x.contiguous())  # as of a number
    ),
    "a weight": lambda x, number: fusedgrad.binary_cross_entropy_with_logits(
        x, x.detach() / 2, pos_weight=number, reduction="none"
    ),
    "a fused function": SCALED,
    "a mean": fusedgrad.fuse(_formula, reduction="mean"),
}


@pytest.mark.parametrize("kind", ["contiguous", "misaligned"])
@pytest.mark.parametrize("name", WITH_A_NUMBER)
@pytest.mark.parametrize("device", [ON_CUDA])
def test_a_number_on_the_host_is_one_of_the_device(name: str, kind: str, device: str) -> None:
    """Of aligned kernels no launch fills it in: there is no memory for it."""

    def measured(call: Callable[[], Tensor]) -> tuple[Tensor, int]:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        return call(), torch.cuda.max_memory_allocated() - before

    def run(x: Tensor, number: Tensor) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        value, first = measured(lambda: WITH_A_NUMBER[name](x, number))
        upstream = torch.full_like(value, 0.5)
        gradient, second = measured(lambda: torch.autograd.grad(value, x, upstream)[0])
        return (value, gradient), (first, second)

    for own, other in itertools.product(DTYPES, DTYPES):
        if "weight" in name and own != other:
            continue
        (x,) = Operators(device).tensors([LAYOUTS[kind](_values(1)[0], own)])
        x.requires_grad_()
        number = torch.tensor(0.75, dtype=other)
        # The first compiles
        runs = [run(x, each) for each in (number, number, number.to(device))]
        _, (got, peak), (expected, of_tensor) = runs
        assert all(map(torch.equal, got, expected)), (own, other)
        if kind == "contiguous" and "mean" not in name:
            assert all(map(operator.le, peak, of_tensor)), (own, other)


@pytest.mark.parametrize("device", [ON_CUDA])
def test_operators_convert_what_is_of_another_dtype(device: str) -> None:
    """On CUDA at::TensorIterator leaves that to the kernels, ours know one dtype."""
    values = torch.from_numpy(_values(1)[0])
    for own, other in itertools.product(DTYPES, DTYPES):
        x, z = (values.to(device, dtype) for dtype in (own, other))
        out = torch.full_like(z, torch.nan)
        fusedgrad.sigmoid(x, out=out)
        assert torch.equal(out, fusedgrad.sigmoid(x).to(other)), (own, other)
        common = torch.promote_types(own, other)
        with torch.inference_mode():
            expected = fusedgrad.pow(x.to(common), z.to(common))
            assert torch.equal(fusedgrad.pow(x, z), expected), (own, other)
            integers = torch.full_like(z, 2, dtype=torch.int64)
            squares = fusedgrad.pow(x, torch.full_like(x, 2))
            assert torch.equal(fusedgrad.pow(x, integers), squares), own


def test_several_means_and_sums(device: str) -> None:
    def ratio(x: Tensor, z: Tensor) -> Tensor:
        return (torch.tanh(x) * z).mean() / (z * z).sum()

    for dtypes in ((torch.float32, torch.float32), (torch.bfloat16, torch.float64)):
        inputs = [contiguous(v, d) for v, d in zip(_values(2), dtypes, strict=True)]
        tensors = [x.requires_grad_() for x in Operators(device).tensors(inputs)]
        wide = [x.detach().cpu().double().requires_grad_() for x in tensors]
        value, exact = fusedgrad.fuse(ratio)(*tensors), ratio(*wide)
        gradients = torch.autograd.grad(value, tensors)
        expected = torch.autograd.grad(exact, wide)
        for got, true in zip([value, *gradients], [exact, *expected], strict=True):
            largest = float(true.detach().abs().max())
            atol = 4 * torch.finfo(got.dtype).eps * largest
            torch.testing.assert_close(got.cpu().double(), true, rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.name for case in CASES])
def test_values_and_partials_are_exact(device: str, number: int, dtype: torch.dtype) -> None:
    case = CASES[number]
    tensors = columns(case, dtype)
    value, partials = fusedgrad.fuse(case.function).value_and_grad(*(x.to(device) for x in tensors))
    _check_exact(_value_and_grad(case.function, len(tensors)), tensors, [value, *partials])


def test_great_angles_are_reduced_out_of_line() -> None:
    """One loop over local memory for each function, whatever the elements of a kernel."""
    cut = 105615.0
    near = [cut - 2**-7, cut, cut + 2**-7]
    angles = [0.0, -0.0, 0.75, 100.0, *near, 1e6, 2.0**24 + 2, 1e10, 3e38]
    x = contiguous(np.array([*angles, *(-angle for angle in near), np.inf, np.nan]), torch.float32)
    graph = fusedgrad.fuse(lambda x: torch.sin(x) - 2 * torch.cos(x))._example()
    (got,) = FusedEmulated().run(graph, [x])
    with mp.workdps(80):
        for at, value in zip(x.exact().tolist()[:-2], got.tolist(), strict=False):
            parts = mp.sin(at), 2 * mp.cos(at)
            assert abs(value - (parts[0] - parts[1])) <= 2**-22 * sum(map(abs, parts)), at
    assert got[-2:].isnan().all()

    source = generate.cuda_source(graph, graph.inputs, ["float"] * 2, "float")
    ptx = nvrtc._compiled(source, "compute_90").decode()
    functions = re.split(r"^(?=\.visible \.entry|\.func)", ptx, flags=re.M)[1:]
    looping = [code.split("(")[0] for code in functions if "__local_depot" in code]
    assert len(looping) == 2
    assert not any(".entry" in name for name in looping)


# -------------------------------------------------------------------------------------- compiler

SOURCE = fusedgrad.fuse(lambda x: torch.sigmoid(x) * x).source("cuda")


@pytest.fixture
def compilations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What NVRTC was to compile for, with an empty cache."""
    seen: list[str] = []
    compiled = nvrtc._compiled

    def noted(source: str, target: str) -> bytes:
        seen.append(target)
        return compiled(source, target)

    monkeypatch.setenv("FUSEDGRAD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(nvrtc, "_compiled", noted)
    return seen


def test_nvrtc_makes_machine_code_for_every_architecture(compilations: list[str]) -> None:
    known = nvrtc._call("GetSupportedArchs")
    assert {75, 80, 86, 89, 90, 100, 120} <= set(known)
    codes = [nvrtc.code_of(SOURCE, f"sm_{number}") for number in known]
    for number, code in zip(known, codes, strict=True):
        assert code[:4] == b"\x7fELF"
        assert int.from_bytes(code[18:20], "little") == 190  # e_machine: EM_CUDA
        assert f"sm_{number}".encode() in code
    assert len(compilations) == len(known)


def test_a_device_newer_than_nvrtc_is_given_ptx(compilations: list[str]) -> None:
    newest = max(nvrtc._call("GetSupportedArchs"))
    assert f".target sm_{newest}".encode() in nvrtc.code_of(SOURCE, f"sm_{newest + 10}")


def test_a_device_older_than_nvrtc_is_named(compilations: list[str]) -> None:
    with pytest.raises(compilation.CompilerError, match="sm_50"):
        nvrtc.code_of(SOURCE, "sm_50")


def test_code_is_compiled_once_and_again_where_its_entry_is_damaged(
    compilations: list[str], tmp_path: Path
) -> None:
    code = nvrtc.code_of(SOURCE, "sm_90")
    assert nvrtc.code_of(SOURCE, "sm_90") == code
    assert compilations == ["sm_90"]
    (entry,) = (tmp_path / "cache").iterdir()
    content = entry.read_bytes()
    for damaged in (content[:-1], b"", bytes([content[0] ^ 1]) + content[1:]):
        entry.write_bytes(damaged)
        assert nvrtc.code_of(SOURCE, "sm_90") == code
        assert entry.read_bytes() == content
    assert len(compilations) == 4


def test_code_is_compiled_again_for_what_it_depends_on(
    compilations: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nvrtc.code_of(SOURCE, "sm_90")
    nvrtc.code_of(SOURCE, "sm_100")
    monkeypatch.setattr(nvrtc, "_version", lambda: "99.0")
    nvrtc.code_of(SOURCE, "sm_90")
    monkeypatch.setattr(nvrtc, "headers_digest", lambda *_: b"other headers")
    nvrtc.code_of(SOURCE, "sm_90")
    monkeypatch.setattr(nvrtc, "OPTIONS", (*nvrtc.OPTIONS, "--maxrregcount=64"))
    nvrtc.code_of(SOURCE, "sm_90")
    assert len(compilations) == 5


def test_headers_of_the_key_are_all_that_are_included() -> None:
    inside = {path.relative_to(CSRC).as_posix() for path in CSRC.rglob("*") if path.is_file()}
    roots = "cuda/rtc.h", "cuda/fused_sum.cuh", "cuda/fused_over_dimensions.cuh"
    reached, waiting = set(), [*roots, *(f"math/{n}" for n in _math())]
    while waiting:
        name = waiting.pop()
        if name in inside and name not in reached:
            reached.add(name)
            waiting += re.findall(r'#include "(.*)"', (CSRC / name).read_text())
    hashed = {path for pattern in nvrtc.HEADERS for path in CSRC.glob(pattern)}
    assert reached <= {path.relative_to(CSRC).as_posix() for path in hashed}


def _math() -> list[str]:
    return [path.name for path in (CSRC / "math").glob("*.h")]


def test_a_folder_that_cannot_be_written_is_gone_around(
    compilations: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSEDGRAD_CACHE_DIR", "/proc/no/such/folder")
    assert nvrtc.code_of(SOURCE, "sm_90") == nvrtc.code_of(SOURCE, "sm_90")
    assert len(compilations) == 2


def test_what_is_not_installed_is_named(
    compilations: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(compilation.CompilerError, match="pip install cuda-bindings"):
        nvrtc.code_of(SOURCE, "sm_90")


def test_the_extra_is_what_the_message_names() -> None:
    project = tomllib.loads((CSRC.parent / "pyproject.toml").read_text())["project"]
    extra = {re.split("[<>=]", need)[0] for need in project["optional-dependencies"]["cuda"]}
    assert extra == set(nvrtc.INSTALL.split()[2:])


def test_missing_headers_are_named(
    compilations: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cuda import pathfinder

    monkeypatch.setattr(pathfinder, "find_nvidia_header_directory", lambda _: None)
    with pytest.raises(compilation.CompilerError, match="headers of CUDA's run time"):
        nvrtc.code_of(SOURCE, "sm_90")


def test_headers_that_pytorch_brings_are_enough(
    compilations: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of CUDA's, those of nvidia-cuda-runtime alone, on which PyTorch's CUDA builds depend."""
    from cuda import pathfinder

    for file in metadata.files("nvidia-cuda-runtime") or ():
        _, found, name = str(file).partition("/include/")
        if found:
            link = tmp_path / "include" / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.locate())
    folders = {"cudart": str(tmp_path / "include")}
    monkeypatch.setattr(pathfinder, "find_nvidia_header_directory", folders.get)
    graph = _scaled()
    names = sorted({o.header for o in OPERATIONS.values() if o.header})
    every_header = "".join(f'#include "math/{name}.h"\n' for name in names)
    for dtype in DTYPES:
        types = nvrtc.types([dtype] * (len(graph.outputs) + len(graph.inputs)))
        computed = "double" if dtype is torch.float64 else "float"
        source = every_header + generate.cuda_source(graph, graph.inputs, types, computed)
        assert nvrtc.code_of(source, "sm_90")[:4] == b"\x7fELF"
    assert len(compilations) == len(DTYPES)


def test_what_nvrtc_says_of_an_error_is_shown(compilations: list[str]) -> None:
    with pytest.raises(compilation.CompilerError, match=r"identifier .wrong. is undefined"):
        nvrtc.code_of("int x = wrong;", "sm_90")


# ----------------------------------------------------------------------------------- dispatching
#
# Tensors on "meta" stand for CUDA tensors: they have shapes and no elements.

GATE = fusedgrad.fuse(lambda x, z, a=2.0: torch.sigmoid(a * x) * z)


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What was added as kernels for sm_90, to which every tensor leads."""
    seen: list[tuple[Any, ...]] = []

    def add(code: bytes, *rest: Any) -> int:
        assert code[:4] == b"\x7fELF"
        seen.append(rest)
        return _added(*rest)

    monkeypatch.setattr(_C, "add_fused_cuda_kernel", add, raising=False)
    monkeypatch.setattr(nvrtc, "target_of", lambda tensors: "sm_90")
    monkeypatch.setattr(kernel, "_kernels", {})
    monkeypatch.setattr(kernel, "_graphs", {})
    monkeypatch.setattr(kernel, "_warnings", [])
    kernel._plans.clear()
    return seen


def _added(
    wide: bool,
    used: Sequence[int],
    dtypes: Sequence[torch.dtype],
    parameters: int,
    sums: bool,
    summed: int,
) -> int:
    """The number of a kernel that no tensor with elements may reach."""
    return _C.add_fused_kernel(0, wide, used, len(dtypes) - len(used), parameters)


def _meta(*dtypes: torch.dtype) -> list[Tensor]:
    return [torch.empty(4, device="meta", dtype=dtype, requires_grad=True) for dtype in dtypes]


def test_each_combination_of_dtypes_has_its_kernels(added: list[tuple[Any, ...]]) -> None:
    half, single, double = torch.float16, torch.float32, torch.float64
    for _ in range(2):
        x, z = _meta(half, single)
        y = GATE(x, z)
        assert (y.dtype, y.device.type) == (single, "meta")
        y.sum().backward()
        assert x.grad is not None
        assert x.grad.dtype is half
        GATE(*_meta(double, double))
    assert added == [
        # wide, inputs that move an output, dtypes of outputs and inputs, parameters, sums, summed
        (False, [0b11], [single, half, single], 0, False, 0),
        (False, [0b111, 0b011], [half, single, single, half, single], 0, False, 0),
        (True, [0b11], [double] * 3, 0, False, 0),
    ]


def test_means_and_sums_have_kernels_that_sum(added: list[tuple[Any, ...]]) -> None:
    single, half = torch.float32, torch.float16
    loss = fusedgrad.fuse(lambda x, z: torch.sigmoid(x) * z, reduction="mean")
    ratio = fusedgrad.fuse(lambda x, z: (torch.tanh(x) * z).mean() / (z * z).sum())
    for _ in range(2):
        x, z = _meta(half, single)
        y = loss(x, z)
        assert (y.dtype, y.shape) == (single, ())
        y.backward()
        assert x.grad is not None
        assert x.grad.dtype is half
        assert ratio(x.detach(), z.detach()).shape == ()
    forward, gradients, both = added
    assert forward == (False, [0b11], [single, half, single], 0, True, 0)
    assert gradients == (False, [0b111, 0b011], [half, single, single, half, single], 0, False, 0)
    assert both == (False, [0b11, 0b10], [single, single, half, single], 0, True, 0)


def test_gradients_of_broadcast_arguments_have_kernels_that_sum(
    added: list[tuple[Any, ...]],
) -> None:
    """One for all that are summed over the same dimensions, which writes the others' too."""
    single = torch.float32
    shifted = fusedgrad.fuse(lambda x, a, b, c, t: torch.tanh(a * x + b) * torch.sigmoid(c) / t)
    shapes = (4, 3, 5), (3, 1), (4, 1, 5), (3, 1), ()
    tensors = [torch.empty(shape, device="meta", requires_grad=True) for shape in shapes]
    for _ in range(2):
        value = shifted(*tensors)
        found = torch.autograd.grad(value, tensors, torch.empty_like(value))
        assert [grad.shape for grad in found] == [tensor.shape for tensor in tensors]
    forward, *gradients = added
    assert forward[-2:] == (False, 0)
    assert [(len(used), sums, summed) for _, used, _, _, sums, summed in gradients] == [
        (3, False, 0b110),  # x, written, and a and c
        (1, False, 0b1),  # b
        (1, True, 0),  # t: the sum of all elements
    ]
    assert all(dtype is single for _, _, dtypes, *_ in added for dtype in dtypes)


def test_a_kernel_has_few_sums(added: list[tuple[Any, ...]]) -> None:
    """A thread has as many of each as a pack has elements."""
    total = fusedgrad.fuse(lambda x, *c: sum((torch.sin(x + i) * s for i, s in enumerate(c)), x))
    x = torch.empty(3, 4, device="meta")
    scales = [torch.empty(3, 1, device="meta", requires_grad=True) for _ in range(20)]
    torch.autograd.grad(total(x, *scales), scales, x)
    assert [summed.bit_count() for *_, summed in added[1:]] == [8, 8, 4]


def _check_served_without_python(
    tensors: Sequence[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    function = fusedgrad.fuse(lambda x, z: torch.tanh(x) * z)

    def call() -> Sequence[Tensor]:
        value = function(*tensors)
        assert value.grad_fn is not None
        assert value.grad_fn.name() == "fusedgrad::FusedBackward"
        return value, *torch.autograd.grad(value, tensors, torch.ones_like(value))

    def refuse(*_: Any) -> Any:
        raise AssertionError("Python is asked")

    first, *_ = [call() for _ in range(3)]  # the function is proved, and its backward found
    with monkeypatch.context() as without:
        for module, name in ((kernel, "kernel_of"), (autograd, "gradients")):
            without.setattr(module, name, refuse)
        without.setattr(type(function), "_served", refuse)
        again = call()
    if not tensors[0].is_meta:
        for one, other in zip(first, again, strict=True):
            assert torch.equal(one.cpu(), other.cpu())


def test_calls_and_gradients_are_served_without_python(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = [contiguous(values, torch.float32) for values in _values(2)]
    tensors = [x.requires_grad_() for x in Operators(device).tensors(inputs)]
    _check_served_without_python(tensors, monkeypatch)


def test_calls_and_gradients_on_any_device_are_served_without_python(
    added: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _check_served_without_python(_meta(torch.float32, torch.float16), monkeypatch)
    assert len(added) == 2


def test_a_gradient_of_another_dtype_has_a_kernel_of_its_own(device: str) -> None:
    (x,) = Operators(device).tensors([contiguous(_values(1)[0], torch.float32)])
    y = fusedgrad.fuse(lambda x: torch.tanh(x))(x.requires_grad_())
    assert y.grad_fn is not None
    for dtype in (torch.float32, torch.float16, torch.float32):
        grad = torch.full_like(y, 0.5, dtype=dtype)
        with torch.no_grad():
            got = y.grad_fn(grad)
        exact = 0.5 / torch.cosh(x.detach().cpu().double()) ** 2
        torch.testing.assert_close(got.cpu().double(), exact, rtol=1e-6, atol=0)


def test_without_a_compiler_operations_run_one_by_one_with_one_warning(
    added: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FUSEDGRAD_CACHE_DIR", str(tmp_path))
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)

    def call_twice() -> None:
        for _ in range(2):
            GATE(*_meta(torch.float32, torch.float32)).sum().backward()

    with pytest.warns(UserWarning, match="pip install cuda-bindings") as caught:
        call_twice()
    assert len(caught) == 1
    assert added == []


def test_whether_there_is_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    assert nvrtc.is_found.__wrapped__()
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    assert not nvrtc.is_found.__wrapped__()


def test_a_kernel_that_does_not_load_is_run_one_by_one_with_one_warning(
    added: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> int:
        raise RuntimeError("fused: CUDA error: no kernel image is available")

    def call_twice() -> None:
        for _ in range(2):
            x, z = _meta(torch.float32, torch.float32)
            GATE(x, z).sum().backward()
            assert x.grad is not None

    monkeypatch.setattr(_C, "add_fused_cuda_kernel", refuse)
    with pytest.warns(UserWarning, match="does not load what NVRTC made, .*no kernel im") as caught:
        call_twice()
    assert len(caught) == 1


def test_more_operands_than_a_kernel_takes_run_one_by_one(added: list[tuple[Any, ...]]) -> None:
    total = fusedgrad.fuse(lambda *x: functools.reduce(torch.mul, x))
    assert total(*_meta(*[torch.float32] * _C.max_operands)).shape == (4,)
    assert added == []


def test_a_kernel_is_loaded_on_the_device_of_its_tensors(
    added: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    current, loaded = ["none"], []

    @contextmanager
    def device_of(tensor: Tensor) -> Iterator[None]:
        current.append(tensor.device.type)
        yield
        current.pop()

    def add(_: bytes, *rest: Any) -> int:
        loaded.append(current[-1])
        return _added(*rest)

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    monkeypatch.setattr(_C, "add_fused_cuda_kernel", add)
    GATE(*_meta(torch.float32, torch.float32))
    assert loaded == ["meta"]
    with nvrtc.on_device_of([torch.ones(()), *_meta(torch.float32)]):
        assert current == ["none", "meta"]
    assert current == ["none"]


@dataclass
class _OnDevice:
    """What `target_of` asks of a tensor."""

    name: str
    dimensions: int = 1

    @property
    def device(self) -> torch.device:
        return torch.device(self.name)

    @property
    def is_cpu(self) -> bool:
        return self.name == "cpu"

    def dim(self) -> int:
        return self.dimensions


@pytest.mark.parametrize(
    ("tensors", "target"),
    [
        ([_OnDevice("cuda:0"), _OnDevice("cuda:0")], "sm_80"),
        ([_OnDevice("cpu", 0), _OnDevice("cuda:1")], "sm_120"),
        ([_OnDevice("cuda:0"), _OnDevice("cuda:1")], None),
        ([_OnDevice("cpu"), _OnDevice("cuda:1")], None),
        ([_OnDevice("meta")], None),
    ],
)
def test_the_target_is_of_the_device_that_tensors_share(
    tensors: Any, target: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    capabilities = {torch.device("cuda:0"): (8, 0), torch.device("cuda:1"): (12, 0)}
    monkeypatch.setattr(torch.cuda, "get_device_capability", capabilities.__getitem__)
    monkeypatch.setattr(_C, "cuda_version", lambda: "13.0")
    nvrtc._target_of_device.cache_clear()
    assert nvrtc.target_of(tensors) == target
    nvrtc._target_of_device.cache_clear()


# ------------------------------------------------------------------------------------- mutations


MUTATIONS = (
    Mutation(
        "operands share strides",
        "packing.h",
        "static_cast<int32_t>(elements.strides[operand + i][d])",
        "static_cast<int32_t>(elements.strides[operand][d])",
    ),
    Mutation("one operand is a scalar for all", "packing.h", "== 0) << i;", "== 0);"),
    Mutation("parameters are doubles", "fused.cu", "if (kernel.wide) {", "if (true) {"),
    Mutation(
        "the tile is another's", "fused.cu", "contiguous_tile(count,", "contiguous_tile(count - 1,"
    ),
    Mutation("the tail is dropped", "packing.h", "full + (rest != 0)", "full"),
    Mutation("chunks lie a tile apart", "operands.cuh", "(tile) * (size *", "(tile) * (kTile *"),
    Mutation("those of mixed dtypes do", "operands.cuh", "(tile) * size +", "(tile) * kTile +"),
    Mutation(
        "a number is taken for its address",
        "packing.h",
        "result.immediates = elements.immediates;",
        "",
    ),
    Mutation("the first operand's type is all's", "operands.cuh", "next++ == i", "!next++"),
    Mutation(
        "elements of narrower types are as wide as the widest",
        "operands.cuh",
        "kBytes = sizeof(typename Own::Element)",
        "kBytes = widest<Elements...>()",
    ),
    Mutation(
        "a piece too few", "fused.cu", "dim3(groups, over.pieces)", "dim3(groups, over.pieces - 1)"
    ),
    Mutation(
        "sums beside the last are written",
        "summed_kernel.cuh",
        "if (index < plan.kept) {",
        "if (true) {",
    ),
    Mutation(
        "a thread's sum is left out",
        "summed_kernel.cuh",
        "distance = of / 2;",
        "distance = of / 4;",
    ),
    Mutation(
        "threads do not wait for each other's sums",
        "summed_kernel.cuh",
        "    __syncthreads();\n    if (number >= distance)",
        "    if (number >= distance)",
    ),
    Mutation(
        "sums do not wait for those before them",
        "summed_kernel.cuh",
        "(threadIdx.x);\n  __syncthreads();",
        "(threadIdx.x);",
    ),
    Mutation(
        "a pack is one sum",
        "summed_kernel.cuh",
        "e < kElements; ++e) sums[k][0]",
        "e < 2; ++e) sums[k][0]",
    ),
    Mutation(
        "partial sums share their place",
        "summed_kernel.cuh",
        "* gridDim.y + blockIdx.y;",
        "* gridDim.y;",
    ),
    Mutation(
        "the sums of a pack lie apart",
        "summed_kernel.cuh",
        "this->strides[0][k] / pack",
        "this->strides[0][k]",
    ),
    Mutation(
        "what stays is summed over",
        "fused.cu",
        "given.strides[operands][d] == 0;",
        "given.strides[0][d] == 0;",
    ),
    Mutation(
        "alignment is not asked for", "fused.cu", "elements.strides[i][d] % bytes != 0", "false"
    ),
    Mutation(
        "rows that are no packs are taken for them",
        "fused.cu",
        "elements.sizes[along] % size != 0",
        "false",
    ),
    Mutation("scalars are read as packs", "fused.cu", "plan.scalars = scalars;", ""),
    Mutation(
        "the sums are of the first results",
        "summed_kernel.cuh",
        "(kMask >> r & 1) != 0",
        "r < kSums",
    ),
    Mutation(
        "a half is rounded through float",
        "operands.cuh",
        "return __double2half(value);",
        "return __float2half_rn(static_cast<float>(value));",
    ),
)


def _checks(device: FusedEmulated) -> None:
    x, z = _values(2)
    for second in ("contiguous", "permuted", "scalar", "number"):
        inputs = [contiguous(x, torch.float32), LAYOUTS[second](z, torch.float32)]
        _check(device, _scaled(), inputs, PARAMETERS)
    half = _dtypes("float16 " * 3)
    operands = [contiguous(x, torch.float64), contiguous(z, torch.bfloat16)]
    _check(device, _scaled(), operands, PARAMETERS, half)
    operands = [contiguous(x, torch.float16), contiguous(z, torch.float32)]
    _check(device, _scaled(), operands, PARAMETERS, [torch.float32] * 3)
    _check_one_rounding(device)
    for name in BROADCAST:
        _check_slopes(device, *BROADCAST[name], [torch.float32] * 4)
    for full, own in (((16, 2, 2048), (1, 2, 1)), ((600, 256), (1, 256))):
        _check_slopes(device, full, own, [torch.float32] * 4)
    place = functools.partial(_padded, by=1)
    _check_slopes(device, (3, 5, 8), (1, 5, 1), [torch.float32] * 4, place)
    _check_rows_longer_than_packs(device)
    for other in (torch.float32, torch.float16):
        few = [contiguous(x.flatten()[:700], dtype) for dtype in (torch.float32, other)]
        _check(device, _product(), few)


def test_the_checks_pass_unbroken_kernels() -> None:
    _checks(FusedEmulated())


@pytest.mark.sampled(6)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.title)
def test_a_broken_launcher_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mutation: Mutation
) -> None:
    csrc = _mutated(tmp_path, mutation)
    # Code is kept by its headers: those of the mistake, which are read anew.
    monkeypatch.setattr(nvrtc, "include_folder", lambda: csrc)
    monkeypatch.setattr(compilation, "include_folder", lambda: csrc)
    monkeypatch.setattr(nvrtc, "headers_digest", compilation.headers_digest.__wrapped__)
    with pytest.raises((AssertionError, EmulationError, LaunchError)):
        _checks(FusedEmulated(csrc=csrc))

"""The generated CUDA code, compiled by nvcc and run on the emulated device."""

import ctypes
import functools
import re
from typing import Any

import numpy as np
import pytest
import torch
from mpmath import mp
from torch import Tensor

import fusedgrad
from cuda_backend import (
    CSRC,
    DTYPES,
    Emulated,
    LaunchError,
    Operand,
    _Elements,
    contiguous,
    expanded,
    misaligned,
    permuted,
)
from cuda_emulator import CompiledLibrary, compile_library
from cuda_emulator.compile import default_cache
from exact_expressions import evaluate
from fused_functions import CASES, Case, columns, rows
from fusedgrad import activations
from ulp import ulp_error

BOUND = 8.0
# So many cases in one file: nvcc reads the headers once for all of them.
PER_FILE = 9

SCALED = fusedgrad.fuse(lambda x, z, a=0.5, b=2.0: torch.tanh(a * x) * z**b)


def _source(number: int, case: Case) -> str:
    """The code of a case, with a name of its own for what would collide."""
    text = fusedgrad.fuse(case.function).source("cuda", gradients=True)
    return re.sub(r"\bFused\b", f"Fused{number}", re.sub(r"\bfused\(", f"fused{number}(", text))


@functools.cache
def _library() -> CompiledLibrary:
    texts = [_source(number, case) for number, case in enumerate(CASES)]
    texts.append(re.sub(r"\bfused\(", "scaled(", SCALED.source("cuda", gradients=True)))
    files = []
    for begin in range(0, len(texts), PER_FILE):
        folder = default_cache() / "fused" / str(begin)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"fused{begin}.cu"
        content = "\n".join(texts[begin : begin + PER_FILE])
        if not path.exists() or path.read_text() != content:
            path.write_text(content)
        files.append(path)
    return compile_library(files, [CSRC])


class FusedEmulated(Emulated):
    """Generated launchers on an emulated device."""

    def __init__(self) -> None:
        super().__init__()
        self.parameters: list[float] = []

    def _call(self, name: str, dtype: torch.dtype, elements: _Elements, *rest: Any) -> None:
        symbol = f"_ZN9fusedgrad4cuda{len(name)}{name}ENS_5DTypeERKNS0_8ElementsEP11CUstream_stPKd"
        values = (ctypes.c_double * max(len(self.parameters), 1))(*self.parameters)
        with self.device.loaded(_library()) as dll:
            function = dll[symbol]
            function.argtypes = (
                *(ctypes.c_int32, ctypes.POINTER(_Elements), ctypes.c_void_p),
                ctypes.POINTER(ctypes.c_double),
            )
            function.restype = ctypes.c_int
            error = function(DTYPES.index(dtype), ctypes.byref(elements), None, values)
            self.device.raise_pending()
        if error:
            raise LaunchError(f"{name} returned {error}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.name for case in CASES])
def test_emulated_value_and_partials_are_exact(number: int, dtype: torch.dtype) -> None:
    case = CASES[number]
    tensors = columns(case, dtype)
    graph = fusedgrad.fuse(case.function)._graph_of((Tensor,) * len(tensors))[0].value_and_grad()
    inputs = [contiguous(tensor.double().numpy(), dtype) for tensor in tensors]
    results = FusedEmulated().elementwise(f"fused{number}", inputs, len(graph.outputs))
    with mp.workdps(60):
        for output, values in zip(graph.outputs, results, strict=True):
            for row, value in zip(rows(tensors), values.tolist(), strict=True):
                exact, condition = evaluate(output, dict(zip(graph.inputs, row, strict=True)))
                if exact == 0:
                    assert value == 0
                    continue
                error = ulp_error(value, exact, dtype)
                assert error <= BOUND * condition, (row, value, float(exact), error)


def _operands(kind: str, dtype: torch.dtype) -> list[Operand]:
    values = [np.random.default_rng(i).uniform(0.25, 2, (6, 350)) for i in range(2)]
    if kind == "broadcast":
        return [contiguous(values[0], dtype), expanded(values[1][:1], dtype, (6, 350))]
    if kind == "permuted":
        return [permuted(values[0], dtype, (1, 0)), misaligned(values[1], dtype)]
    return [contiguous(value, dtype) for value in values]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["contiguous", "broadcast", "permuted"])
def test_emulated_walk_and_parameters_agree_with_the_cpu(kind: str, dtype: torch.dtype) -> None:
    inputs = _operands(kind, dtype)
    device = FusedEmulated()
    device.parameters = [0.75, 1.5]
    results = device.elementwise("scaled", inputs, 3)
    x, z = (operand.tensor().expand(6, 350) for operand in inputs)
    value, grads = SCALED.value_and_grad(x, z, *device.parameters)
    # A rounding of float32 apart, half types may round to neighbours.
    tolerance = 8 * torch.finfo(torch.float32).eps if dtype is not torch.float64 else 1e-15
    tolerance = max(tolerance, torch.finfo(dtype).eps)
    for mine, theirs in zip(results, (value, *grads), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=0)


@pytest.mark.parametrize("name", activations.__all__)
def test_every_activation_has_cuda_code(name: str) -> None:
    source = getattr(activations, name).source("cuda", gradients=True)
    assert source.count("cudaError_t fused(") == 1
    assert "return {{" in source

"""The kernels of csrc/cuda/sums.cu on an emulated device: the CPU's terms, added up and rounded
once. What calls them is tests/test_sums.py's."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cuda_backend import DTYPES, Operand, _Elements, contiguous, expanded, library, misaligned
from test_fuse_cuda import _NAMESPACE, FusedEmulated, _FusedKernel

_ops: Any = torch.ops.fusedgrad

# Of each kernel the operands (those with a * are broadcast), its operator at the broadcast shape,
# and its parameters
Kernel = tuple[tuple[str, ...], Callable[..., Sequence[Tensor]], tuple[float, ...]]
KERNELS: dict[str, Kernel] = {
    "pow_backward": (
        ("grad", "x", "e*"),
        lambda g, x, e: _ops.pow_backward.Tensor_Tensor(g, x, e, [True, True]),
        (),
    ),
    "pow_backward_input": (
        ("grad", "x*", "e"),
        lambda g, x, e: _ops.pow_backward.Tensor_Tensor(g, x, e, [True, False]),
        (),
    ),
    "pow_backward_exponent": (
        ("grad", "x", "e*"),
        lambda g, x, e: _ops.pow_backward.Tensor_Tensor(g, x, e, [False, True]),
        (),
    ),
    "binary_cross_entropy_with_logits_backward_weight": (
        ("grad", "x", "t", "w*", "p*"),
        lambda g, x, t, w, p: _ops.binary_cross_entropy_with_logits_backward(
            g, x, t, w, p, 0, [False, False, True, False]
        ),
        (0.5,),
    ),
    "binary_cross_entropy_with_logits_backward_pos_weight": (
        ("grad", "x", "t", "w*", "p*"),
        lambda g, x, t, w, p: _ops.binary_cross_entropy_with_logits_backward(
            g, x, t, w, p, 0, [False, False, False, True]
        ),
        (0.5,),
    ),
    "binary_cross_entropy_backward_weight": (
        ("grad", "x", "t", "w*"),
        lambda g, x, t, w: _ops.binary_cross_entropy_backward(g, x, t, w, 0, [False, False, True]),
        (0.5,),
    ),
}
SHAPES = {
    "a channel": ((60, 72), (1, 72)),
    "channels of images": ((4, 3, 600), (1, 3, 1)),
    "rows of odd length": ((5, 77), (5, 1)),
    "all": ((5, 1200), (1, 1)),
}


class SumsEmulated(FusedEmulated):
    """Launched by csrc/cuda/fused.cu."""

    name: str

    def _call(self, name: str, dtype: torch.dtype, elements: _Elements, *rest: object) -> None:
        symbol = f"{self.name}_over_dimensions"
        with self.device.loaded(library("sums", self.arch, self.csrc)) as dll:
            function = dll[f"{_NAMESPACE}{len(symbol)}{symbol}ENS_5DTypeE"]
            function.restype = _FusedKernel
            kernel = function(DTYPES.index(dtype))
        assert (kernel.outputs, kernel.inputs) == (len(self.graph.outputs), len(self.graph.inputs))
        self._launch(kernel, elements)


def _check(
    device: SumsEmulated,
    name: str,
    dtype: torch.dtype,
    full: tuple[int, ...],
    own: tuple[int, ...],
    place: Callable[..., Operand] = contiguous,
) -> None:
    names, operator, parameters = KERNELS[name]
    generator = np.random.default_rng(1)
    inputs, tensors = [], []
    for each in names:
        values = generator.uniform(0.05, 0.95, own if "*" in each else full)
        made = expanded(values, dtype, full) if "*" in each else place(values, dtype)
        inputs.append(made)
        tensors.append(made.tensor())
    wide = [t.float() if t.dtype.itemsize == 2 else t for t in tensors]
    terms = operator(*wide)
    graph: Any = SimpleNamespace(outputs=range(len(terms)), inputs=names)
    device.name = name
    shapes = [*[full] * (len(terms) - 1), own]
    *written, total = device.over_dimensions(graph, inputs, shapes, parameters)
    for got, term in zip(written, terms, strict=False):
        assert torch.equal(got, term.to(dtype))
    scaled = terms[-1].double() * (parameters or (1.0,))[0]
    exact = scaled.sum_to_size(own)
    if dtype is torch.float64:
        torch.testing.assert_close(total, exact, rtol=2.0**-51, atol=0)
    else:
        assert torch.equal(total, exact.to(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", KERNELS)
def test_sums_are_those_of_the_cpus_terms(name: str, dtype: torch.dtype) -> None:
    device = SumsEmulated()
    _check(device, name, dtype, *SHAPES["a channel"])
    assert len(device.device.launches) in (1, 2)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", KERNELS)
def test_sums_of_any_layout(name: str, shape: str) -> None:
    for place in (contiguous, misaligned):
        _check(SumsEmulated(), name, torch.float32, *SHAPES[shape], place)


def test_every_kernel_runs() -> None:
    device = SumsEmulated()
    for dtype in DTYPES:
        for name in KERNELS:
            for place in (contiguous, misaligned):
                _check(device, name, dtype, (600, 24), (1, 24), place)
    compiled = {
        kernel
        for ptx in library("sums").ptx
        for kernel in re.findall(r"\.entry\s+(\w+)", ptx.read_text())
    }
    assert set(device.device.launches) == compiled

"""The prebuilt jets of csrc/cuda/jets.cu against those of the CPU: their launches on an emulated
device, and as a user calls them on torch's devices."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.profiler import profile

import fusedgrad
from cuda_backend import (
    DTYPES,
    ON_CUDA,
    Operand,
    _Elements,
    contiguous,
    library,
    misaligned,
    permuted,
)
from fusedgrad.fuse import kernel, nvrtc, prebuilt
from fusedgrad.fuse.graph import Graph
from test_cuda_bits import numbers_that_matter
from test_fuse_cuda import _NAMESPACE, FusedEmulated, _FusedKernel

JETS = {
    f"{name} {number // 2 + 1}{' backward' if number % 2 else ''}": graph
    for graph, (name, number) in prebuilt._kernels().items()
}
EXPONENTS = (2.5, 3.0, -1.0, 0.5, 0.0, -7.3, 1 / 3)


class JetsEmulated(FusedEmulated):
    """Launched by csrc/cuda/fused.cu."""

    def _call(self, name: str, dtype: torch.dtype, elements: _Elements, *rest: object) -> None:
        family, number = prebuilt._kernels()[self.graph]
        symbol = f"{_NAMESPACE}{len(family) + 4}{family}_jetEiNS_5DTypeE"
        with self.device.loaded(library("jets", self.arch, self.csrc)) as dll:
            function = dll[symbol]
            function.restype = _FusedKernel
            jet = function(number, DTYPES.index(dtype))
            assert (jet.wide, jet.bytes) == (dtype is torch.float64, dtype.itemsize)
            assert (jet.outputs, jet.inputs) == (len(self.graph.outputs), len(self.graph.inputs))
            self._launch(jet, elements)


@np.errstate(invalid="ignore")  # signalling NaNs
def _operands(
    graph: Graph,
    count: int,
    dtype: torch.dtype,
    make: Callable[..., Operand] = contiguous,
    shape: tuple[int, ...] = (-1,),
) -> list[Operand]:
    """Of numbers where the function branches, and of gradients and derivatives that are no more."""
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    argument = "base" if graph.parameters else "x"
    operands = []
    for seed, name in enumerate(graph.inputs):
        values = numbers_that_matter(argument if name == "x" else "grad", count, wide, seed)
        operands.append(make(values.reshape(shape), dtype))
    return operands


def _bits(tensor: Tensor) -> Tensor:
    """With one NaN."""
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    return torch.where(tensor.isnan(), torch.nan, tensor).view(integers[tensor.itemsize])


def _same(got: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    return all(torch.equal(_bits(a), _bits(b)) for a, b in zip(got, expected, strict=True))


def _check(graph: Graph, operands: Sequence[Operand], output_offset: int = 0) -> None:
    tensors, dtypes = [o.tensor() for o in operands], [operands[0].dtype] * len(graph.outputs)
    for parameters in [(e,) for e in EXPONENTS] if graph.parameters else [()]:
        got = JetsEmulated().run(graph, operands, parameters, output_offset=output_offset)
        assert _same(got, kernel.run(graph, tensors, parameters, dtypes)), parameters


@pytest.mark.sampled(6)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", JETS)
def test_a_jet_has_the_bits_of_the_cpu(name: str, dtype: torch.dtype) -> None:
    _check(JETS[name], _operands(JETS[name], 2000, dtype))


LAYOUTS: dict[str, Callable[..., Operand]] = {
    "permuted": functools.partial(permuted, order=(1, 0)),
    "misaligned": misaligned,
}


@pytest.mark.sampled(10)
@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("name", JETS)
def test_a_layout_changes_no_bit(name: str, kind: str) -> None:
    for dtype in DTYPES:
        aligned, placed = (
            _operands(JETS[name], 252, dtype, make, (7, 36)) for make in (contiguous, LAYOUTS[kind])
        )
        _check(JETS[name], [aligned[0], *placed[1:]])
        _check(JETS[name], aligned, output_offset=1)


FUNCTIONS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "sigmoid": (fusedgrad.sigmoid, torch.sigmoid),
    "tanh": (fusedgrad.tanh, torch.tanh),
    "pow with 2.5": (lambda x: fusedgrad.pow(x, 2.5), lambda x: x**2.5),
    "pow with 3": (lambda x: fusedgrad.pow(x, 3), lambda x: x**3),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("device", ["cpu", ON_CUDA])
def test_no_compiler_is_needed(device: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by `f.jet` nor by `fusedgrad.jet`: one kernel each way, with the bits of the CPU."""

    def refuse(*_: Any) -> None:
        raise AssertionError("something is compiled")

    monkeypatch.setattr(prebuilt, "_has_compiler", lambda _: False)
    monkeypatch.setattr(kernel, "block_address", refuse)
    monkeypatch.setattr(nvrtc, "code_of", refuse)
    function, formula = FUNCTIONS[name]
    fused = fusedgrad.fuse(lambda x: function(x))

    def passed(x: Tensor, v: Tensor, order: int) -> list[Tensor]:
        zeros = [torch.zeros_like(x).requires_grad_() for _ in range(order - 1)]
        value, derivatives = fusedgrad.jet(formula, (x,), ((v, *zeros),))
        return [value, *derivatives]

    def given(x: Tensor, v: Tensor, order: int) -> Sequence[Tensor]:
        found: Sequence[Tensor] = fused.jet(order)((x, v))
        return found

    for dtype in DTYPES:
        operands = (torch.rand(2, 50) + 0.5).to(dtype)
        for order in prebuilt.ORDERS:
            for call in (given, passed):
                for used in ([*range(order + 1)], [order]):
                    results = []
                    for place in (device, "cpu"):
                        x, v = (o.to(place).requires_grad_() for o in operands)
                        with profile() as profiled:
                            got = call(x, v, order)
                            loss = sum((got[i].sum() for i in used), torch.zeros(()).to(x))
                            results.append([*got, *torch.autograd.grad(loss, (x, v))])
                        kernels = [e for e in profiled.events() if e.name == "fusedgrad::fused"]
                        assert len(kernels) == 2
                        assert all(r.device.type == place for r in results[-1])
                    assert _same([r.detach().cpu() for r in results[0]], results[1])

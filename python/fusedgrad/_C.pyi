from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, dtype

_T = TypeVar("_T")

def torch_version() -> str: ...
def cpu_capability() -> str: ...
def cpu_capabilities() -> list[str]: ...
def cuda_version() -> str | None: ...
def cuda_architectures() -> list[str]: ...

# Calls of ordinary tensors: csrc/operators/calls.h. NotImplemented for any other.

def sigmoid(input: Any, /) -> Any: ...
def tanh(input: Any, /) -> Any: ...
def pow(input: Any, exponent: Any, /) -> Any: ...
def binary_cross_entropy(input: Any, target: Any, reduction: Any, /) -> Any: ...
def binary_cross_entropy_with_logits(input: Any, target: Any, reduction: Any, /) -> Any: ...
def serve(
    ready: dict[Any, tuple[Any, ...]],
    function: Any,
    arguments: tuple[Any, ...],
    keywords: dict[str, Any],
    /,
) -> Any: ...
def serve_calls_of(type: type[_T], /) -> type[_T]: ...
def served(
    kernel: int, parameters: Sequence[float], dtypes: Sequence[dtype], alike: bool, /
) -> object: ...
def unchanged(
    items: list[tuple[Any, Any, Any]], attributes: list[tuple[Any, str, Any]], missing: Any, /
) -> bool: ...
def fused(
    kernel: int,
    inputs: Sequence[Tensor],
    parameters: Sequence[float],
    dtypes: Sequence[torch.dtype],
    summed: Sequence[int] = (),
    /,
) -> list[Tensor]: ...

# PyTorch on fusedgrad: csrc/operators/patch.h.

def is_patched() -> bool: ...
def set_patched(patched: bool) -> bool: ...
def set_patched_call(
    function: Callable[[str, str, tuple[Any, ...]], tuple[Tensor, ...]],
) -> None: ...

# Kernels compiled at run time: csrc/operators/fused.h.

def add_fused_kernel(
    address: int, wide: bool, used: Sequence[int], inputs: int, parameters: int
) -> int: ...
def set_fused_backward(kernel: int, wanted: int, backward: int, read: Sequence[int]) -> None: ...
def set_fused_differentiable_backward(
    function: Callable[
        [int, list[Tensor | None], list[Tensor], list[float], int], Sequence[Tensor | None]
    ],
) -> None: ...

# Only in a build with CUDA kernels. `code` is machine code or PTX; the outputs' dtypes are first.
# One of `sums` gives the sums of its outputs' elements; `summed` has bit i for an output i that is
# summed over the dimensions that a call says.
def add_fused_cuda_kernel(
    code: bytes,
    wide: bool,
    used: Sequence[int],
    dtypes: Sequence[dtype],
    parameters: int,
    sums: bool,
    summed: int,
) -> int: ...

# Prebuilt jets: csrc/cpu/jets.h and, only in a build with CUDA kernels, csrc/cuda/jets.h.

def jet_blocks(function: str) -> list[tuple[int, int]]: ...
def add_cuda_jet(
    function: str, number: int, dtype: dtype, used: Sequence[int], parameters: int
) -> int: ...

# Kernels of rows of tensors: csrc/operators/rows.h.

def add_rows_kernel(
    steps: Sequence[tuple[int, Sequence[tuple[int, int]], Sequence[tuple[int, int]]]],
    tensors: Sequence[int],
    results: Sequence[int],
    dtypes: Sequence[torch.dtype],
) -> int: ...
def call_rows(
    number: int, inputs: Sequence[Tensor], parameters: Sequence[float]
) -> list[Tensor]: ...
def set_rows_backward(
    number: int,
    needed: int,
    summed: int,
    backward: int,
    targets: Sequence[int],
    shared: Sequence[tuple[int, tuple[int, int]]],
) -> None: ...
def set_rows_differentiable_backward(
    function: Callable[
        [int, list[Tensor], list[Tensor], list[float], int, int], Sequence[Tensor | None]
    ],
) -> None: ...
def unbound_rows(stack: Tensor) -> list[Tensor]: ...
def linear_of_rows(input: Tensor, weight: Tensor) -> Tensor: ...

# Jets of known forms, Coefficients and Frames of fusedgrad.taylor.tensor: csrc/operators/jets.h.

def set_jet_classes(jet: type, coefficients: type, /) -> None: ...
def settled_jet(frame: object, coefficients: object, /) -> Any: ...
def form_of(frame: object, coefficients: object, /) -> dict[Any, Any]: ...
def next_jet(function: Callable[..., Any], arguments: tuple[Any, ...], /) -> Any: ...
def settle_jet(jet: Tensor, /) -> bool: ...

max_operands: int
max_parameters: int

# Accuracy in ULP: csrc/accuracy/scan.h says what is named and measured. A dtype is "float64",
# "float32", "float16" or "bfloat16"; arrays hold its numbers, or their bits (bfloat16: uint16).

class Errors:
    @property
    def count(self) -> int: ...
    @property
    def max_ulp(self) -> float: ...
    @property
    def misrounded(self) -> int: ...
    @property
    def wrong(self) -> int: ...
    @property
    def input(self) -> float: ...
    @property
    def parameter(self) -> float: ...
    @property
    def got(self) -> float: ...
    @property
    def want(self) -> float: ...

Elements = NDArray[np.generic]

def scan_names() -> list[str]: ...
def scan(
    name: str,
    dtype: str,
    begin: int,
    end: int,
    stride: int = 1,
    parameter: float = 0.0,
    threads: int = 0,
) -> Errors: ...
def scan_samples(
    name: str, dtype: str, inputs: Elements, parameters: NDArray[np.float64]
) -> Errors: ...
def ulp_errors(
    name: str,
    dtype: str,
    inputs: Elements,
    results: Elements,
    parameters: NDArray[np.float64] | None = None,
) -> Errors: ...

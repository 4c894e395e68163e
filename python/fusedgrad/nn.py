"""Modules of `torch.nn` that run on fusedgrad; their state dicts are interchangeable both ways."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C import _is_tracing as is_tracing
from torch._jit_internal import is_scripting
from torch.compiler import is_dynamo_compiling

from fusedgrad import functional

__all__ = ["BCELoss", "BCEWithLogitsLoss", "Sigmoid", "Tanh"]


# Classes that implement __torch_dispatch__ and take operators that are not PyTorch's; others know
# PyTorch's only, and keep them.
_KNOWN_CLASSES = frozenset(
    {
        ("torch._subclasses.fake_tensor", "FakeTensor"),
        ("torch._subclasses.functional_tensor", "FunctionalTensor"),
        ("torch.distributed.tensor", "DTensor"),
        ("torch.distributed.tensor._api", "DTensor"),
    }
)


def is_ours(value: Any) -> bool:
    """Whether a value is no tensor that only PyTorch has an operation for."""
    if not isinstance(value, Tensor):
        return True
    if value.layout is not torch.strided or value.is_nested or value.is_quantized:
        return False
    if is_dynamo_compiling():
        return True
    kind = type(value)
    dispatches = kind.__torch_dispatch__ is not Tensor.__torch_dispatch__
    return not dispatches or (kind.__module__, kind.__qualname__) in _KNOWN_CLASSES


def _takes(*values: Any) -> bool:
    """Whether a module runs on fusedgrad: not on such tensors, nor where PyTorch writes a graph
    for others, in which an operator of fusedgrad means nothing."""
    if not is_dynamo_compiling() and (is_tracing() or torch.onnx.is_in_onnx_export()):
        return False
    return all(map(is_ours, values))


# torch.jit.script compiles the first branch of each `forward`, and skips the rest.


class Sigmoid(torch.nn.Sigmoid):
    """`torch.nn.Sigmoid` with an exact derivative; see `fusedgrad.sigmoid`."""

    def forward(self, input: Tensor) -> Tensor:
        """1 / (1 + exp(-input)), of the shape of the input."""
        if is_scripting():
            return torch.sigmoid(input)
        if not _takes(input):
            return super().forward(input)
        return functional.sigmoid(input)


class Tanh(torch.nn.Tanh):
    """`torch.nn.Tanh` with an exact derivative; see `fusedgrad.tanh`."""

    def forward(self, input: Tensor) -> Tensor:
        """The hyperbolic tangent, of the shape of the input."""
        if is_scripting():
            return torch.tanh(input)
        if not _takes(input):
            return super().forward(input)
        return functional.tanh(input)


class BCELoss(torch.nn.BCELoss):
    """`torch.nn.BCELoss` in one kernel each way; see `fusedgrad.binary_cross_entropy`."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of the probabilities `input`, reduced as the module was told to."""
        if is_scripting():
            return F.binary_cross_entropy(
                input, target, weight=self.weight, reduction=self.reduction
            )
        if not _takes(input, target):
            return super().forward(input, target)
        return functional.binary_cross_entropy(
            input, target, weight=self.weight, reduction=self.reduction
        )


class BCEWithLogitsLoss(torch.nn.BCEWithLogitsLoss):
    """`torch.nn.BCEWithLogitsLoss`; see `fusedgrad.binary_cross_entropy_with_logits`."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of the logits `input`, reduced as the module was told to."""
        if is_scripting():
            return F.binary_cross_entropy_with_logits(
                input,
                target,
                weight=self.weight,
                pos_weight=self.pos_weight,
                reduction=self.reduction,
            )
        if not _takes(input, target):
            return super().forward(input, target)
        return functional.binary_cross_entropy_with_logits(
            input,
            target,
            weight=self.weight,
            reduction=self.reduction,
            pos_weight=self.pos_weight,
        )

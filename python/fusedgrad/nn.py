"""Modules of `torch.nn` that run on fusedgrad; their state dicts are interchangeable both ways."""

import torch
from torch import Tensor

from fusedgrad import functional

__all__ = ["BCELoss", "BCEWithLogitsLoss", "Sigmoid", "Tanh"]


class Sigmoid(torch.nn.Sigmoid):
    """`torch.nn.Sigmoid` with an exact derivative; see `fusedgrad.sigmoid`."""

    def forward(self, input: Tensor) -> Tensor:
        """1 / (1 + exp(-input)), of the shape of the input."""
        return functional.sigmoid(input)


class Tanh(torch.nn.Tanh):
    """`torch.nn.Tanh` with an exact derivative; see `fusedgrad.tanh`."""

    def forward(self, input: Tensor) -> Tensor:
        """The hyperbolic tangent, of the shape of the input."""
        return functional.tanh(input)


class BCELoss(torch.nn.BCELoss):
    """`torch.nn.BCELoss` in one kernel each way; see `fusedgrad.binary_cross_entropy`."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of the probabilities `input`, reduced as the module was told to."""
        return functional.binary_cross_entropy(
            input, target, weight=self.weight, reduction=self.reduction
        )


class BCEWithLogitsLoss(torch.nn.BCEWithLogitsLoss):
    """`torch.nn.BCEWithLogitsLoss`; see `fusedgrad.binary_cross_entropy_with_logits`."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of the logits `input`, reduced as the module was told to."""
        return functional.binary_cross_entropy_with_logits(
            input,
            target,
            weight=self.weight,
            reduction=self.reduction,
            pos_weight=self.pos_weight,
        )

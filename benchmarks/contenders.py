"""The libraries that are compared: the same five operations under the same names."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

import fusedgrad


@dataclass(frozen=True)
class Contender:
    """Five operations with the signatures of their PyTorch namesakes."""

    name: str
    sigmoid: Callable[..., torch.Tensor]
    tanh: Callable[..., torch.Tensor]
    pow: Callable[..., torch.Tensor]
    binary_cross_entropy: Callable[..., torch.Tensor]
    binary_cross_entropy_with_logits: Callable[..., torch.Tensor]


FUSEDGRAD = Contender(
    name="fusedgrad",
    sigmoid=fusedgrad.sigmoid,
    tanh=fusedgrad.tanh,
    pow=fusedgrad.pow,
    binary_cross_entropy=fusedgrad.binary_cross_entropy,
    binary_cross_entropy_with_logits=fusedgrad.binary_cross_entropy_with_logits,
)

TORCH = Contender(
    name="torch",
    sigmoid=torch.sigmoid,
    tanh=torch.tanh,
    pow=torch.pow,
    binary_cross_entropy=F.binary_cross_entropy,
    binary_cross_entropy_with_logits=F.binary_cross_entropy_with_logits,
)

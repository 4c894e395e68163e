"""Activations, gates and a loss, each one line of `fusedgrad.fuse`.

Every one is differentiable to any order, and exact in its tails: none adds numbers that cancel
there.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fusedgrad.functional import sigmoid, tanh
from fusedgrad.fuse import fuse

__all__ = [
    "focal_loss",
    "gelu",
    "gelu_tanh",
    "logsigmoid",
    "mish",
    "silu",
    "snake",
    "softcap",
    "softplus",
    "squareplus",
    "swiglu",
]


@fuse
def silu(x: Tensor) -> Any:
    """x sigmoid(x) (Elfwing, Uchibe and Doya 2017, arXiv:1702.03118), as torch's silu."""
    return F.silu(x)


@fuse
def swiglu(x: Tensor, gate: Tensor) -> Any:
    """x silu(gate): the gate of SwiGLU (Shazeer 2020, arXiv:2002.05202), after the projections."""
    return x * F.silu(gate)


@fuse
def gelu(x: Tensor) -> Any:
    """x Φ(x), Φ the normal distribution (Hendrycks and Gimpel 2016, arXiv:1606.08415)."""
    return F.gelu(x)


@fuse
def gelu_tanh(x: Tensor) -> Any:
    """x (1 + tanh(u)) / 2 = x sigmoid(2u), u = sqrt(2/π) (x + 0.044715 x³), from the same paper."""
    return F.gelu(x, approximate="tanh")


@fuse
def mish(x: Tensor) -> Any:
    """x tanh(softplus(x)) (Misra 2019, arXiv:1908.08681)."""
    return x * tanh(F.softplus(x))


@fuse
def softcap(x: Tensor, cap: float = 30.0) -> Any:
    """cap tanh(x / cap): the bound on logits of Gemma 2 (2024, arXiv:2408.00118)."""
    return cap * tanh(x / cap)


@fuse
def softplus(x: Tensor, beta: float = 1.0) -> Any:
    """log(1 + exp(beta x)) / beta (Dugas et al. 2000), with no threshold above which it is x."""
    return F.softplus(beta * x) / beta


@fuse
def logsigmoid(x: Tensor) -> Any:
    """log(sigmoid(x)) = -softplus(-x)."""
    return F.logsigmoid(x)


@fuse
def squareplus(x: Tensor, b: float = 4.0) -> Any:
    """(x + r) / 2, r = sqrt(x² + b) (Barron 2021, arXiv:2112.11687); (b / 2) / (r + |x|) for x < 0.

    r is |x| where x² would overflow.
    """
    r = torch.where(abs(x) > 1e18, abs(x), torch.sqrt(x * x + b))
    return torch.where(x < 0, b / 2 / (r + abs(x)), (x + r) / 2)


@fuse
def snake(x: Tensor, a: float = 1.0) -> Any:
    """x + sin²(a x) / a (Liu, Hartwig and Ueda 2020, arXiv:2006.08195)."""
    return x + torch.sin(a * x) ** 2 / a


@fuse
def focal_loss(x: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Any:
    """-α (1 - p)^γ log p, p the probability that logits give the label (Lin et al. 2017).

    arXiv:1708.02002. One loss for each element; a target between 0 and 1 mixes as in torchvision's
    sigmoid_focal_loss. 1 - p = (1 - t) sigmoid(x) + t sigmoid(-x), whose terms do not cancel.
    """
    miss = (1 - target) * sigmoid(x) + target * sigmoid(-x)
    loss = F.binary_cross_entropy_with_logits(x, target, reduction="none")
    return (alpha * target + (1 - alpha) * (1 - target)) * miss**gamma * loss

"""Activations, gates and losses, each one line of `fusedgrad.fuse`.

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
    "asymmetric_loss",
    "focal_loss",
    "gelu",
    "gelu_tanh",
    "log1mexp",
    "logsigmoid",
    "mish",
    "silu",
    "snake",
    "snake_beta",
    "soft_binary_cross_entropy",
    "softcap",
    "softplus",
    "squared_relu",
    "squareplus",
    "swiglu",
    "xielu",
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
    return F.mish(x)


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
    """(x + r) / 2, r = sqrt(x² + b), as (b / 2) / (r + |x|) left of 0 (Barron 2021).

    arXiv:2112.11687.
    """
    r = torch.hypot(x, torch.full_like(x, b) ** 0.5)
    return torch.where(x < 0, b / 2 / (r + abs(x)), (x + r) / 2)


@fuse
def snake(x: Tensor, a: float = 1.0) -> Any:
    """x + sin²(a x) / a (Liu, Hartwig and Ueda 2020, arXiv:2006.08195)."""
    return x + torch.sin(a * x) ** 2 / a


@fuse
def snake_beta(x: Tensor, alpha: Any = 1.0, beta: Any = 1.0) -> Any:
    """x + sin²(alpha x) / beta: Snake with a magnitude of its own (BigVGAN, arXiv:2206.04658).

    `alpha` and `beta` are numbers, or tensors that broadcast: of shape (C, 1) for one a channel.
    """
    return x + torch.sin(alpha * x) ** 2 / beta


@fuse
def squared_relu(x: Tensor) -> Any:
    """max(x, 0)² (Primer, So et al. 2021, arXiv:2109.08668)."""
    return F.relu(x) ** 2


@fuse
def xielu(x: Tensor, alpha_p: Any = 0.8, alpha_n: Any = 0.8, beta: float = 0.5) -> Any:
    """a x² + beta x for x > 0, else b (exp(x) - 1 - x) + beta x (Huang 2024, arXiv:2411.13010).

    a = softplus(alpha_p) and b = beta + softplus(alpha_n) of numbers or of tensors that broadcast.
    exp(x) - 1 - x is no difference next to 0, and beta x is added to its multiple by beta alone,
    which leaves beta (exp(x) - 1): far below 0 two infinities would meet.
    """
    a = F.softplus(alpha_p * torch.ones_like(x))
    c = F.softplus(alpha_n * torch.ones_like(x))
    slope = torch.expm1(x)
    return torch.where(x > 0, a * x * x + beta * x, c * (slope - x) + beta * slope)


@fuse
def log1mexp(x: Tensor) -> Any:
    """log(1 - exp(-x)) for x > 0, by expm1 below log(2) and by log1p above (Mächler 2012).

    https://cran.r-project.org/package=Rmpfr, vignette log1mexp-note.
    """
    near = torch.log(-torch.expm1(-x))
    return torch.where(x < 0.6931471805599453, near, torch.log1p(-torch.exp(-x)))


@fuse
def focal_loss(x: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Any:
    """-α (1 - p)^γ log p, p the probability that logits give the label (Lin et al. 2017).

    arXiv:1708.02002. One loss for each element; a target between 0 and 1 mixes as in torchvision's
    sigmoid_focal_loss. 1 - p = (1 - t) sigmoid(x) + t sigmoid(-x), whose terms do not cancel. Where
    it may be too small for a float, for a hard target and a logit beyond 40, its power comes from
    its logarithm, and the term with γ is what a change of that target would add.
    """
    loss = F.binary_cross_entropy_with_logits(x, target, reduction="none")
    miss = (1 - target) * sigmoid(x) + target * sigmoid(-x)
    hit = torch.exp(-gamma * F.softplus(x)) * (loss + gamma * (1 - target))
    rejected = torch.exp(-gamma * F.softplus(-x)) * (loss + gamma * target)
    other = torch.where((target == 0) & (x < -40), rejected, miss**gamma * loss)
    weight = alpha * target + (1 - alpha) * (1 - target)
    return weight * torch.where((target == 1) & (x > 40), hit, other)


@fuse
def asymmetric_loss(
    x: Tensor,
    target: Tensor,
    gamma_positive: float = 0.0,
    gamma_negative: float = 4.0,
    margin: float = 0.05,
) -> Any:
    """-t (1 - p)^γ₊ log p - (1 - t) q^γ₋ log(1 - q) of logits (Ridnik et al. 2020).

    arXiv:2009.14119. p = sigmoid(x), q = max(p - margin, 0). One loss for each element. The
    logarithms of p and of 1 - p come from the logit, and their powers from them.
    """
    positive = torch.exp(-gamma_positive * F.softplus(x)) * F.softplus(-x)
    if margin == 0:
        negative = torch.exp(-gamma_negative * F.softplus(-x)) * F.softplus(x)
    else:
        q = sigmoid(x) - margin
        loss = -torch.where(q < 0.5, torch.log1p(-q), torch.log(sigmoid(-x) + margin))
        negative = torch.where(q > 0, q**gamma_negative * loss, 0.0)
    return target * positive + (1 - target) * negative


@fuse
def soft_binary_cross_entropy(
    x: Tensor, target: Tensor, smoothing: float = 0.0, ignore_index: float = -100.0
) -> Any:
    """The logistic loss of logits for targets t (1 - s) + (1 - t) s, 0 where t is `ignore_index`.

    SoftBCEWithLogitsLoss of segmentation_models.pytorch. One loss for each element; what is ignored
    has the gradient 0, whatever its logit is.
    """
    kept = target != ignore_index
    smooth = torch.where(kept, target * (1 - smoothing) + (1 - target) * smoothing, 0.5)
    loss = F.binary_cross_entropy_with_logits(x, smooth, reduction="none")
    return torch.where(kept, loss, 0.0)

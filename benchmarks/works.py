"""What the benchmarks run: every operation, functions that fuse compiles, and the activations.

Each beside what a user of torch writes for it: the built-in where there is one, or else the
formula in torch's operations.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

import fusedgrad
from fusedgrad import activations

Make = Callable[[int], Tensor]
Function = Callable[..., Tensor]
Pass = Literal["forward", "backward", "forward+backward"]

PASSES: tuple[Pass, ...] = ("forward", "backward", "forward+backward")


def logits(size: int) -> Tensor:
    return 4 * torch.randn(size)


def unit(size: int) -> Tensor:
    return torch.rand(size) * 0.98 + 0.01


def positive(size: int) -> Tensor:
    return 4 * unit(size)


def channels(size: int) -> tuple[int, int, int]:
    """A batch of up to 8, and up to 512 channels of at least 256: (8, 512, 16384) of 2^26."""
    batch = 8 if size % 8 == 0 else 1
    count = min(512, max(1, size // (batch * 256)))
    return batch, count, size // (batch * count)


def waves(size: int) -> Tensor:
    return logits(size).view(channels(size))


def of_channels(size: int) -> Tensor:
    """A parameter for each channel of `waves`."""
    return torch.rand(channels(size)[1], 1) + 0.5


@dataclass(frozen=True)
class Traffic:
    """How many tensors of the inputs' size a pass must read and write."""

    reads: int
    writes: int

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.reads + other.reads, self.writes + other.writes)


@dataclass(frozen=True)
class Work:
    """One function by both libraries; the first `derivatives` of its inputs require grad.

    The last `parameters` of its inputs are small, and their gradients.
    """

    name: str
    kind: Literal["operation", "function", "activation"]
    ours: Function
    theirs: Function
    inputs: Sequence[Make]
    derivatives: int = 1
    reduced: bool = False  # to one number
    parameters: int = 0

    def traffic(self, work_pass: Pass) -> Traffic:
        """Each input of the pass read once, each output written once."""
        result = 0 if self.reduced else 1
        inputs = len(self.inputs) - self.parameters
        forward = Traffic(inputs, result)
        backward = Traffic(inputs + result, min(self.derivatives, inputs))
        return {
            "forward": forward,
            "backward": backward,
            "forward+backward": forward + backward,
        }[work_pass]


def pow_scalar(exponent: float) -> Work:
    return Work(
        f"pow(x, {exponent:g})",
        "operation",
        lambda x: fusedgrad.pow(x, exponent),
        lambda x: torch.pow(x, exponent),
        [positive],
    )


def with_logits(reduction: str) -> Work:
    return Work(
        f"bce_with_logits, {reduction}",
        "operation",
        lambda x, t: fusedgrad.binary_cross_entropy_with_logits(x, t, reduction=reduction),
        lambda x, t: F.binary_cross_entropy_with_logits(x, t, reduction=reduction),
        [logits, unit],
        reduced=reduction != "none",
    )


def activation(
    name: str, theirs: Function, inputs: Sequence[Make] = (logits,), derivatives: int = 1
) -> Work:
    return Work(name, "activation", getattr(activations, name), theirs, inputs, derivatives)


def focal_loss(x: Tensor, target: Tensor) -> Tensor:
    """As torchvision.ops.sigmoid_focal_loss."""
    p = torch.sigmoid(x)
    loss = F.binary_cross_entropy_with_logits(x, target, reduction="none")
    p_t = p * target + (1 - p) * (1 - target)
    return (0.25 * target + 0.75 * (1 - target)) * (1 - p_t) ** 2.0 * loss


def asymmetric_loss(x: Tensor, target: Tensor) -> Tensor:
    """As in the paper's code: probabilities of negatives shifted by 0.05, focused by 4."""
    p = torch.sigmoid(x)
    shifted = torch.clamp(p - 0.05, min=0)
    positives = target * torch.log(p)
    return -(positives + (1 - target) * shifted**4.0 * torch.log(1 - shifted))


def xielu(x: Tensor) -> Tensor:
    """With the paper's first parameters."""
    a = math.log1p(math.exp(0.8))
    negative = (0.5 + a) * (torch.expm1(torch.clamp(x, max=0)) - x)
    return torch.where(x > 0, a * x * x, negative) + 0.5 * x


OPERATIONS = (
    Work("sigmoid", "operation", fusedgrad.sigmoid, torch.sigmoid, [logits]),
    Work("tanh", "operation", fusedgrad.tanh, torch.tanh, [logits]),
    *(pow_scalar(exponent) for exponent in (2, 3, 0.5, -1, 2.5, -7.3)),
    Work(
        "pow(2.5, x)",
        "operation",
        lambda x: fusedgrad.pow(2.5, x),
        lambda x: torch.pow(2.5, x),
        [logits],
    ),
    Work("pow(x, y)", "operation", fusedgrad.pow, torch.pow, [positive, logits], derivatives=2),
    with_logits("mean"),
    with_logits("none"),
    Work(
        "bce, mean",
        "operation",
        fusedgrad.binary_cross_entropy,
        F.binary_cross_entropy,
        [unit, unit],
        reduced=True,
    ),
)
FUNCTIONS = (
    Work(
        "sigmoid(x²) + tanh(x³)",
        "function",
        fusedgrad.fuse(lambda x: fusedgrad.sigmoid(x**2) + fusedgrad.tanh(x**3)),
        lambda x: torch.sigmoid(x**2) + torch.tanh(x**3),
        [logits],
    ),
    Work(
        "sigmoid(x² + z) + tanh(x³ z²)",
        "function",
        fusedgrad.fuse(lambda x, z: fusedgrad.sigmoid(x**2 + z) + fusedgrad.tanh(x**3 * z**2)),
        lambda x, z: torch.sigmoid(x**2 + z) + torch.tanh(x**3 * z**2),
        [logits, logits],
        derivatives=2,
    ),
    Work(
        "tanh(x + sigmoid(x²))",
        "function",
        fusedgrad.fuse(lambda x: fusedgrad.tanh(x + fusedgrad.sigmoid(x**2))),
        lambda x: torch.tanh(x + torch.sigmoid(x**2)),
        [logits],
    ),
)
ACTIVATIONS = (
    activation("silu", F.silu),
    activation("swiglu", lambda x, gate: x * F.silu(gate), [logits, logits], derivatives=2),
    activation("gelu", F.gelu),
    activation("gelu_tanh", lambda x: F.gelu(x, approximate="tanh")),
    activation("mish", F.mish),
    activation("softcap", lambda x: 30 * torch.tanh(x / 30)),
    activation("softplus", F.softplus),
    activation("logsigmoid", F.logsigmoid),
    activation("squareplus", lambda x: (x + torch.sqrt(x * x + 4)) / 2),
    activation("snake", lambda x: x + torch.sin(x) ** 2),
    activation("squared_relu", lambda x: F.relu(x) ** 2),
    activation("snake_beta", lambda x: x + torch.sin(x) ** 2),
    Work(
        "snake_beta, channels",
        "activation",
        activations.snake_beta,
        lambda x, alpha, beta: x + torch.sin(alpha * x) ** 2 / beta,
        [waves, of_channels, of_channels],
        derivatives=3,
        parameters=2,
    ),
    activation("xielu", xielu),
    activation("log1mexp", lambda x: torch.log1p(-torch.exp(-x)), [positive]),
    activation("focal_loss", focal_loss, [logits, unit]),
    activation("asymmetric_loss", asymmetric_loss, [logits, unit]),
    activation(
        "soft_binary_cross_entropy",
        lambda x, t: F.binary_cross_entropy_with_logits(x, t, reduction="none"),
        [logits, unit],
    ),
)
WORKS = OPERATIONS + FUNCTIONS + ACTIVATIONS
BY_NAME = {work.name: work for work in WORKS}

# The rows of the README's table, and the panels of the pictures
HEADLINES = (
    *("sigmoid", "tanh", "pow(x, 2)", "pow(x, 2.5)", "pow(x, y)"),
    *("bce_with_logits, mean", "bce, mean"),
    *(work.name for work in FUNCTIONS),
    *("silu", "gelu", "mish", "focal_loss"),
)

"""The formulas of the kernels, written in PyTorch operations.

They serve complex dtypes and devices without kernels. A function has the name and the arguments of
the operator that it stands for. Half types are computed in float32 and rounded once. A complex
function is holomorphic, and its gradients follow PyTorch's convention: the gradient of y = f(z) is
grad * conj(f'(z)).

With a = exp(-|x|), s = 1 / (1 + a) and q = a s = sigmoid(-|x|), nothing below subtracts two
numbers that agree, wherever x lies: sigmoid' = q s, sigmoid'' = -q s tanh(x / 2), and for
b = exp(-2 |x|) the same product is tanh'(x) / 4. Complex numbers take the sign from the real part.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active as transforms_active

Number = int | float | complex  # that of torch.types leaves complex out

HALF_DTYPES = frozenset({torch.float16, torch.bfloat16})

NONE, MEAN, SUM = 0, 1, 2

_F = TypeVar("_F", bound=Callable[..., Any])


def wide(value: Any) -> Any:
    """`value`, in float32 if it is a tensor of a half type."""
    if isinstance(value, Tensor) and value.dtype in HALF_DTYPES:
        return value.float()
    return value


def _rounded_once(function: _F) -> _F:
    """Make `function` compute half types in float32 and round its results once."""

    @functools.wraps(function)
    def wrapper(*arguments: Any) -> Any:
        dtypes = [argument.dtype for argument in arguments if isinstance(argument, Tensor)]
        dtype = functools.reduce(torch.promote_types, dtypes)
        results = function(*map(wide, arguments))
        if dtype not in HALF_DTYPES:
            return results
        if isinstance(results, Tensor):
            return results.to(dtype)
        return type(results)(result.to(dtype) for result in results)

    return wrapper  # type: ignore[return-value]


def _product(coefficient: Tensor | Number, value: Tensor) -> Tensor:
    """coefficient * value, where a coefficient of 0 outweighs an infinite value."""
    if isinstance(coefficient, Tensor):
        return torch.where(coefficient == 0, 0.0, coefficient * value)
    return coefficient * value if coefficient != 0 else torch.zeros_like(value)


def _negative_half_plane(x: Tensor) -> Tensor:
    return (x.real if x.is_complex() else x) < 0


def _exp_of_magnitude(x: Tensor) -> Tensor:
    """exp(-|x|), for complex x exp(x) or exp(-x), whichever is at most 1 in magnitude."""
    return torch.exp(torch.where(_negative_half_plane(x), x, -x))


def _even_derivative(a: Tensor) -> Tensor:
    """q s = a / (1 + a)²."""
    return a / ((1 + a) * (1 + a))


# sigmoid(x) = 1 / (1 + exp(-x))


@_rounded_once
def sigmoid(input: Tensor) -> Tensor:
    """s for a non-negative real part, q below."""
    a = _exp_of_magnitude(input)
    return torch.where(_negative_half_plane(input), a, 1.0) / (1 + a)


@_rounded_once
def sigmoid_backward(grad: Tensor, input: Tensor) -> Tensor:
    """grad times the conjugate of sigmoid'(input)."""
    return grad * _even_derivative(_exp_of_magnitude(input)).conj()


@_rounded_once
def sigmoid_double_backward(
    grad_grad: Tensor, grad: Tensor, input: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of sigmoid_backward by `grad` and by `input`."""
    first = _even_derivative(_exp_of_magnitude(input))
    second = -first * torch.tanh(input / 2)
    return grad_grad * first, grad_grad.conj() * grad * second.conj()


# tanh(x) = 1 - 2 / (exp(2x) + 1)


@_rounded_once
def tanh(input: Tensor) -> Tensor:
    """The hyperbolic tangent: PyTorch's own, which is within 0.6 ULP."""
    return torch.tanh(input)


@_rounded_once
def tanh_backward(grad: Tensor, input: Tensor) -> Tensor:
    """grad times the conjugate of tanh'(input)."""
    return grad * (4 * _even_derivative(_exp_of_magnitude(2 * input))).conj()


@_rounded_once
def tanh_double_backward(grad_grad: Tensor, grad: Tensor, input: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of tanh_backward by `grad` and by `input`."""
    first = 4 * _even_derivative(_exp_of_magnitude(2 * input))
    second = -2 * torch.tanh(input) * first
    return grad_grad * first, grad_grad.conj() * grad * second.conj()


# pow(x, e) = x**e


def _power_base_derivative(x: Tensor, e: Tensor | Number) -> Tensor:
    return _product(e, torch.pow(x, e - 1))


def _power_base_second_derivative(x: Tensor, e: Tensor | Number) -> Tensor:
    return _product(e * (e - 1), torch.pow(x, e - 2))


def _power_exponent_derivative(x: Tensor, e: Tensor, log_power: int = 1) -> Tensor:
    """x^e ln(x)^log_power; 0 at base 0 for e >= 0, which is the limit but where e is 0."""
    power = torch.pow(x, e)
    at_zero = (x == 0) & ((e.real if e.is_complex() else e) >= 0)
    return torch.where(at_zero, 0.0, _product(power, torch.log(x) ** log_power))


def _power_mixed_derivative(x: Tensor, e: Tensor) -> Tensor:
    return _product(torch.pow(x, e - 1), 1 + _product(e, torch.log(x)))


@_rounded_once
def pow(input: Tensor | Number, exponent: Tensor | Number) -> Tensor:
    """The power: PyTorch's own, which is within 0.6 ULP."""
    return torch.pow(input, exponent)  # type: ignore[arg-type]


@_rounded_once
def pow_scalar_backward(grad: Tensor, input: Tensor, exponent: Number) -> Tensor:
    """grad times the conjugate of e x^(e-1), for a Python number as exponent."""
    return grad * _power_base_derivative(input, exponent).conj()


@_rounded_once
def pow_scalar_double_backward(
    grad_grad: Tensor, grad: Tensor, input: Tensor, exponent: Number
) -> tuple[Tensor, Tensor]:
    """The gradients of pow_scalar_backward by `grad` and by `input`."""
    first = _power_base_derivative(input, exponent)
    second = _power_base_second_derivative(input, exponent)
    return grad_grad * first, grad_grad.conj() * grad * second.conj()


@_rounded_once
def pow_backward(
    grad: Tensor, input: Tensor, exponent: Tensor, output_mask: Sequence[bool]
) -> list[Tensor]:
    """grad times the conjugates of e x^(e-1) and of x^e ln(x), those of them wanted."""
    partials = (
        lambda: grad * _power_base_derivative(input, exponent).conj(),
        lambda: grad * _power_exponent_derivative(input, exponent).conj(),
    )
    return wanted(partials, output_mask)


@_rounded_once
def pow_double_backward(
    grad_grad_input: Tensor,
    grad_grad_exponent: Tensor,
    grad: Tensor,
    input: Tensor,
    exponent: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of pow_backward by `grad`, by `input` and by `exponent`."""
    # A cotangent of 0 skips its term: an absent one must not turn into NaN.
    mixed = _power_mixed_derivative(input, exponent)
    along_base = (
        _power_base_derivative(input, exponent),
        _power_base_second_derivative(input, exponent).conj(),
        mixed.conj(),
    )
    along_exponent = (
        _power_exponent_derivative(input, exponent),
        mixed.conj(),
        _power_exponent_derivative(input, exponent, log_power=2).conj(),
    )
    conj_input, conj_exponent = grad_grad_input.conj(), grad_grad_exponent.conj()
    return (
        _product(grad_grad_input, along_base[0]) + _product(grad_grad_exponent, along_exponent[0]),
        grad * (_product(conj_input, along_base[1]) + _product(conj_exponent, along_exponent[1])),
        grad * (_product(conj_input, along_base[2]) + _product(conj_exponent, along_exponent[2])),
    )


# binary_cross_entropy_with_logits(x, t) = w (p t softplus(-x) + (1 - t) softplus(x)),
# where p is pos_weight


def reduced(loss: Tensor, reduction: int) -> Tensor:
    """The losses, their mean or their sum."""
    if reduction == MEAN:
        return loss.mean()
    return loss.sum() if reduction == SUM else loss


def mean_factor(input: Tensor, reduction: int) -> float:
    """What the derivative of one loss is multiplied by before it reaches the reduced loss."""
    if reduction != MEAN:
        return 1.0
    return 1 / input.numel() if input.numel() else math.nan


def or_one(weight: Tensor | None, input: Tensor) -> Tensor:
    """The weight; one if there is none."""
    return input.new_ones(()) if weight is None else weight


def wanted(outputs: Sequence[Callable[[], Tensor]], mask: Sequence[bool]) -> list[Tensor]:
    """The outputs whose entry of `mask` is set."""
    return [output() for output, want in zip(outputs, mask, strict=True) if want]


def _logits_loss(x: Tensor, t: Tensor, p: Tensor) -> Tensor:
    # No term is negative for t in [0, 1]; the coefficient of |x| may be 0 where x is infinite.
    slope = torch.where(x < 0, p * t, 1 - t)
    return _product(slope, x.abs()) + (1 - t + p * t) * torch.log1p(_exp_of_magnitude(x))


def _logits_input_derivative(x: Tensor, t: Tensor, p: Tensor) -> Tensor:
    a = _exp_of_magnitude(x)
    tail = (1 - t + p * t) * (a / (1 + a))
    return torch.where(x < 0, tail - p * t, 1 - t - tail)


def _logits_target_derivative(x: Tensor, p: Tensor) -> Tensor:
    slope = torch.where(x < 0, p, 1.0)
    return (p - 1) * torch.log1p(_exp_of_magnitude(x)) - _product(slope, x)


def _logits_pos_weight_derivative(x: Tensor, t: Tensor) -> Tensor:
    return _product(t, (-x).clamp(min=0) + torch.log1p(_exp_of_magnitude(x)))


@_rounded_once
def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    reduction: int,
) -> Tensor:
    """The loss of logits, elementwise or reduced."""
    loss = _logits_loss(input, target, or_one(pos_weight, input))
    return reduced(loss if weight is None else _product(weight, loss), reduction)


@_rounded_once
def binary_cross_entropy_with_logits_backward(
    grad: Tensor,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    reduction: int,
    output_mask: Sequence[bool],
) -> list[Tensor]:
    """The wanted gradients by input, target, weight and pos_weight."""
    w, p = or_one(weight, input), or_one(pos_weight, input)
    scaled = grad * mean_factor(input, reduction)
    partials = (
        lambda: scaled * (w * _logits_input_derivative(input, target, p)),
        lambda: scaled * _product(w, _logits_target_derivative(input, p)),
        lambda: scaled * _logits_loss(input, target, p),
        lambda: scaled * _product(w, _logits_pos_weight_derivative(input, target)),
    )
    return wanted(partials, output_mask)


@_rounded_once
def binary_cross_entropy_with_logits_double_backward(
    grad_grad: Tensor,
    grad: Tensor,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    reduction: int,
) -> tuple[Tensor, Tensor]:
    """The gradients of the gradient by `input`: by `grad`, elementwise, and by `input`."""
    w, p = or_one(weight, input), or_one(pos_weight, input)
    first = w * _logits_input_derivative(input, target, p)
    second = w * (1 - target + p * target) * _even_derivative(_exp_of_magnitude(input))
    scaled = grad_grad * mean_factor(input, reduction)
    return scaled * first, scaled * grad * second


# binary_cross_entropy(p, t) = -w (t max(ln p, -100) + (1 - t) max(ln(1 - p), -100))


def _check_probabilities(input: Tensor, target: Tensor) -> None:
    if transforms_active():  # the assertion has no batching rule
        return
    for name, value in {"input": input, "target": target}.items():
        inside = ((value >= 0) & (value <= 1)).all()  # false for NaN, as in PyTorch
        torch._assert_async(
            inside, f"binary_cross_entropy: all elements of {name} should be between 0 and 1"
        )


# PyTorch's clamps of the logarithms and of the gradient's denominator. Functions, because
# torch.compile(dynamic=True) takes a float of a module for one more input.
def _smallest_log() -> float:
    return -100.0


def smallest_variance() -> float:
    """The least denominator p (1 - p) of the derivative by a probability."""
    return 1e-12


def _clamped_logs(p: Tensor) -> tuple[Tensor, Tensor]:
    return torch.log(p).clamp(min=_smallest_log()), torch.log1p(-p).clamp(min=_smallest_log())


def _probability_loss(p: Tensor, t: Tensor) -> Tensor:
    log, log_of_complement = _clamped_logs(p)
    return -(t * log + (1 - t) * log_of_complement)


def _probability_input_derivative(p: Tensor, t: Tensor) -> Tensor:
    return (p - t) / (p * (1 - p)).clamp(min=smallest_variance())


def _probability_target_derivative(p: Tensor) -> Tensor:
    log, log_of_complement = _clamped_logs(p)
    return log_of_complement - log


def _probability_input_second_derivative(p: Tensor, t: Tensor) -> Tensor:
    """The derivative of the gradient as clamped: t/p² + (1-t)/(1-p)² where it is not."""
    variance = p * (1 - p)
    curvature = (t * (1 - p) ** 2 + (1 - t) * p**2) / variance**2
    return torch.where(variance > smallest_variance(), curvature, 1 / smallest_variance())


@_rounded_once
def binary_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None, reduction: int
) -> Tensor:
    """The loss of probabilities, elementwise or reduced."""
    _check_probabilities(input, target)
    loss = _probability_loss(input, target)
    return reduced(loss if weight is None else weight * loss, reduction)


@_rounded_once
def binary_cross_entropy_backward(
    grad: Tensor,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: int,
    output_mask: Sequence[bool],
) -> list[Tensor]:
    """The wanted gradients by input, target and weight."""
    w = or_one(weight, input)
    scaled = grad * mean_factor(input, reduction)
    partials = (
        lambda: scaled * (w * _probability_input_derivative(input, target)),
        lambda: scaled * (w * _probability_target_derivative(input)),
        lambda: scaled * _probability_loss(input, target),
    )
    return wanted(partials, output_mask)


@_rounded_once
def binary_cross_entropy_double_backward(
    grad_grad: Tensor,
    grad: Tensor,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: int,
) -> tuple[Tensor, Tensor]:
    """The gradients of the gradient by `input`: by `grad`, elementwise, and by `input`."""
    w = or_one(weight, input)
    first = w * _probability_input_derivative(input, target)
    second = w * _probability_input_second_derivative(input, target)
    scaled = grad_grad * mean_factor(input, reduction)
    return scaled * first, scaled * grad * second

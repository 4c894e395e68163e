"""The operations of an expression in PyTorch operations: what runs where there is no compiler.

In the forms of `fusedgrad.reference`, for any device. Half types arrive here as float32.
"""

import math
from typing import Any, cast

import torch
from torch import Tensor

from fusedgrad.operations import logistic_loss
from fusedgrad.operations.shared import even_derivative
from fusedgrad.operations.sigmoid import formula

abs = torch.abs
cos = torch.cos
exp = torch.exp
expm1 = torch.expm1
inf = math.inf
log = torch.log
log1p = torch.log1p
nan = math.nan
relu = torch.relu
sigmoid = formula
sign = torch.sign
sin = torch.sin
sqrt = torch.sqrt
tanh = torch.tanh
where = torch.where


def constant(value: float) -> Tensor:
    """A number of the expression."""
    return torch.tensor(value, dtype=torch.float64)


def _tensor(value: Any) -> Tensor:
    """A number as a tensor that takes the dtype of those it meets."""
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)


def maximum(x: Any, y: Any) -> Tensor:
    """The larger one, NaN if either is."""
    return torch.maximum(*_promoted(x, y))


def minimum(x: Any, y: Any) -> Tensor:
    """The smaller one, NaN if either is."""
    return torch.minimum(*_promoted(x, y))


def _promoted(x: Any, y: Any) -> tuple[Tensor, Tensor]:
    x, y = _tensor(x), _tensor(y)
    dtype = torch.result_type(x, y)
    return x.to(dtype), y.to(dtype)


def number(condition: Tensor) -> Tensor:
    """1 or 0."""
    return condition.to(torch.get_default_dtype())


def hypotenuse(x: Any, b: Any) -> Tensor:
    """sqrt(x^2 + b)."""
    return torch.sqrt(_tensor(x * x + b))


def hypotenuse_slope(x: Any, b: Any) -> Any:
    """x / sqrt(x^2 + b)."""
    return x / hypotenuse(x, b)


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x))."""
    return x.clamp(min=0) + log1p(exp(-abs(x)))


def sigmoid_derivative(x: Tensor) -> Tensor:
    """sigmoid(x) sigmoid(-x)."""
    return even_derivative(exp(-abs(x)))


def sigmoid_second_derivative(x: Tensor) -> Tensor:
    """-sigmoid'(x) tanh(x / 2)."""
    return -sigmoid_derivative(x) * tanh(x / 2)


def tanh_derivative(x: Tensor) -> Tensor:
    """1 / cosh(x)^2."""
    return 4 * sigmoid_derivative(2 * x)


def tanh_second_derivative(x: Tensor) -> Tensor:
    """-2 tanh(x) tanh'(x)."""
    return -2 * tanh(x) * tanh_derivative(x)


def _in_double(function: Any, x: Tensor) -> Tensor:
    """PyTorch's functions of the normal distribution lose float32's digits in the tails."""
    return cast(Tensor, function(x.double()).to(x.dtype))


def erf(x: Tensor) -> Tensor:
    """The error function."""
    return _in_double(torch.erf, x)


def erf_derivative(x: Tensor) -> Tensor:
    """2 exp(-x^2) / sqrt(pi)."""
    return _in_double(lambda x: exp(-x * x) * (2 / math.sqrt(math.pi)), x)


def normal_cdf(x: Tensor) -> Tensor:
    """erfc(-x / sqrt(2)) / 2."""
    return _in_double(lambda x: torch.special.erfc(-x * math.sqrt(0.5)) / 2, x)


def normal_pdf(x: Tensor) -> Tensor:
    """exp(-x^2 / 2) / sqrt(2 pi)."""
    return _in_double(lambda x: exp(-x * x / 2) * (1 / math.sqrt(2 * math.pi)), x)


def silu(x: Tensor) -> Tensor:
    """x sigmoid(x)."""
    return x * sigmoid(x)


def silu_derivative(x: Tensor) -> Tensor:
    """sigmoid(x) + x sigmoid'(x)."""
    return sigmoid(x) + x * sigmoid_derivative(x)


def gelu(x: Tensor) -> Tensor:
    """x Φ(x)."""
    return x * normal_cdf(x)


def gelu_derivative(x: Tensor) -> Tensor:
    """Φ(x) + x Φ'(x)."""
    return normal_cdf(x) + x * normal_pdf(x)


def weighted(weight: Any, x: Any) -> Any:
    """weight * x, where a weight of 0 outweighs an infinite x."""
    return where(_tensor(weight) == 0, 0.0, weight * x)


def pow_derivative(x: Any, e: Any, by_base: int, by_exponent: int) -> Tensor:
    """The derivative of x ** e, so many times by base and by exponent."""
    # The derivatives of e (e-1) ... (e-by_base+1), as polynomials, the constant first
    factorial = [1.0]
    for k in range(by_base):
        shifted = [0.0, *factorial]
        factorial = [a - k * b for a, b in zip(shifted, [*factorial, 0.0], strict=True)]
    x, e = _tensor(x), _tensor(e)
    logarithm = log(x)
    coefficient: Any = torch.zeros_like(x * e)
    for j in range(min(by_base, by_exponent) + 1):
        value = sum(c * e**i for i, c in enumerate(factorial))
        factor = math.comb(by_exponent, j) * value
        coefficient = coefficient + weighted(factor, logarithm ** (by_exponent - j))
        factorial = [i * c for i, c in enumerate(factorial)][1:] or [0.0]
    result = weighted(coefficient, torch.pow(x, e - by_base))
    if by_exponent == 0:
        return cast(Tensor, result)
    at_zero = e >= 0 if by_base == 0 else e > by_base
    return where((x == 0) & at_zero, 0.0, result)


def binary_cross_entropy_with_logits(x: Any, t: Any, p: Any) -> Tensor:
    """p t softplus(-x) + (1 - t) softplus(x)."""
    return logistic_loss._logits_loss(_tensor(x), _tensor(t), _tensor(p))


def binary_cross_entropy_with_logits_input_derivative(x: Any, t: Any, p: Any) -> Tensor:
    """(1 - t) sigmoid(x) - p t sigmoid(-x)."""
    return logistic_loss._logits_input_derivative(_tensor(x), _tensor(t), _tensor(p))


def binary_cross_entropy_with_logits_target_derivative(x: Any, p: Any) -> Tensor:
    """p softplus(-x) - softplus(x)."""
    return logistic_loss._logits_target_derivative(_tensor(x), _tensor(p))


def binary_cross_entropy_with_logits_pos_weight_derivative(x: Any, t: Any) -> Tensor:
    """t softplus(-x)."""
    return logistic_loss._logits_pos_weight_derivative(_tensor(x), _tensor(t))

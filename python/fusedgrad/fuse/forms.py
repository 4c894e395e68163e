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


def expm1_rest(x: Tensor) -> Tensor:
    """expm1(x) - x, by its series next to 0."""
    total = torch.zeros_like(x)
    for k in range(14, 1, -1):
        total = (total + 1) * x / k if k > 2 else (total + 1) * x * x / 2
    return where(abs(x) < 0.35, total, expm1(x) - x)


def exp2_times(x: Tensor, factor: float) -> Tensor:
    """2^x times a number."""
    return factor * torch.exp2(x)


def log_chosen(is_log: Tensor, x: Any, y: Any) -> Tensor:
    """log(x) or log1p(y)."""
    return where(is_log, log(_tensor(x)), log1p(_tensor(y)))


def erfc(x: Tensor) -> Tensor:
    """1 - erf(x)."""
    return _in_double(torch.special.erfc, x)


def hypot_slope(x: Any, y: Any) -> Any:
    """x / sqrt(x^2 + y^2)."""
    return x / torch.hypot(*_promoted(x, y))


def atan2_slope(x: Any, y: Any) -> Any:
    """x / (x^2 + y^2), 0 at 0."""
    x, y = _promoted(x, y)
    distance = torch.hypot(x, y)
    return torch.where(distance == 0, x, hypot_slope(x, y) / distance)


def cathetus(x: Tensor) -> Tensor:
    """sqrt(1 - x^2)."""
    return sqrt((1 - x) * (1 + x))


def cathetus_reciprocal(x: Tensor) -> Tensor:
    """1 / sqrt(1 - x^2)."""
    return 1 / cathetus(x)


def outer_cathetus(x: Tensor) -> Tensor:
    """sqrt(x^2 - 1)."""
    return sqrt(x - 1) * sqrt(x + 1)


def one_minus_square(x: Tensor) -> Tensor:
    """1 - x^2."""
    return (1 - x) * (1 + x)


def log_of_probability(x: Tensor) -> Tensor:
    """log(x), at least -100."""
    return log(x).clamp(min=-100)


def gap(a: Any, b: Any) -> Tensor:
    """a - b, 0 where they are equal."""
    a, b = _promoted(a, b)
    return where(a == b, 0.0, a - b)


def mish(x: Tensor) -> Tensor:
    """x tanh(softplus(x))."""
    return where(x < -1e4, 0.0, x * tanh(softplus(x)))


def mish_derivative(x: Tensor) -> Tensor:
    """tanh(u) + x tanh'(u) sigmoid(x), u = softplus(x)."""
    u = softplus(x)
    return tanh(u) + bounded(x) * tanh_derivative(u) * sigmoid(x)


def mish_second_derivative(x: Tensor) -> Tensor:
    """tanh'(u) s (2 + x (1 - s - 2 tanh(u) s)), u = softplus(x), s = sigmoid(x)."""
    u, s = softplus(x), sigmoid(x)
    relative = sigmoid(-x) - 2 * tanh(u) * s
    return tanh_derivative(u) * s * (2 + bounded(x) * relative)


def tanhshrink(x: Tensor) -> Tensor:
    """x - tanh(x), by its series next to 0."""
    z = x * x
    total, factorial = torch.zeros_like(x), math.factorial(21)
    for k in range(10, 0, -1):
        total = total * z + 2 * k / factorial
        factorial //= 2 * k * (2 * k + 1)
    return where(abs(x) < 1, x * z * total / torch.cosh(x), x - tanh(x))


def softsign(x: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    return where(torch.isinf(x), torch.sign(x), x / (1 + abs(x)))


def softsign_derivative(x: Tensor) -> Tensor:
    """1 / (1 + |x|)^2."""
    return (1 + abs(x)) ** -2


def sinc_derivative(x: Tensor) -> Tensor:
    """(cos(πx) - sinc(x)) / x, by its series next to 0."""
    z = (math.pi * x) ** 2
    series = -(math.pi**2) * x / 3 * (1 - z / 10 * (1 - z / 28 * (1 - z / 54)))
    return where(abs(x) < 0.05, series, (cos(math.pi * x) - torch.sinc(x)) / x)


def sinc_second_derivative(x: Tensor) -> Tensor:
    """-π² sinc(x) - 2 sinc'(x) / x, by its series next to 0."""
    z = (math.pi * x) ** 2
    series = -(math.pi**2) / 3 * (1 - 3 * z / 10 * (1 - 5 * z / 84 * (1 - 7 * z / 270)))
    far = -(math.pi**2) * torch.sinc(x) - 2 * sinc_derivative(x) / x
    return where(abs(x) < 0.05, series, far)


def atan_derivative(x: Tensor) -> Tensor:
    """1 / (1 + x^2)."""
    return 1 / (1 + x * x)


def erfcx(x: Tensor) -> Tensor:
    """exp(x^2) erfc(x)."""
    return _in_double(torch.special.erfcx, x)


def _erfcx_tail(x: Tensor, order: int) -> Tensor:
    """exp(x^2) times integral number `order` of erfc, over the one before, x > 1 in double."""
    ratio = 1 / (x + sqrt(x * x + 2 * (order + 80)))
    for n in range(order + 79, order - 1, -1):
        ratio = 1 / (2 * x + 2 * (n + 1) * ratio)
    return ratio


def _erfcx_1(x: Tensor) -> Tensor:
    tail = torch.special.erfcx(x) * _erfcx_tail(x.clamp(min=1), 1)
    return where(x > 1, tail, 1 / math.sqrt(math.pi) - x * torch.special.erfcx(x))


def _erfcx_2(x: Tensor) -> Tensor:
    tail = _erfcx_1(x) * _erfcx_tail(x.clamp(min=1), 2)
    return where(x > 1, tail, (torch.special.erfcx(x) - 2 * x * _erfcx_1(x)) / 4)


def erfcx_1(x: Tensor) -> Tensor:
    """exp(x^2) times the integral of erfc from x."""
    return _in_double(_erfcx_1, x)


def erfcx_2(x: Tensor) -> Tensor:
    """exp(x^2) times the integral of that integral."""
    return _in_double(_erfcx_2, x)


def log_ndtr(x: Tensor) -> Tensor:
    """log Φ(x)."""
    return _in_double(torch.special.log_ndtr, x)


def _inverse_mills(x: Tensor) -> Tensor:
    below = math.sqrt(2 / math.pi) / torch.special.erfcx(-x * math.sqrt(0.5))
    return where(x < 0, below, normal_pdf(x) / normal_cdf(x))


def inverse_mills(x: Tensor) -> Tensor:
    """φ(x) / Φ(x)."""
    return _in_double(_inverse_mills, x)


def _mills_excess(x: Tensor) -> Tensor:
    a = -x * math.sqrt(0.5)
    return where(x < 0, math.sqrt(2) * _erfcx_1(a) / torch.special.erfcx(a), x + _inverse_mills(x))


def mills_excess(x: Tensor) -> Tensor:
    """x + φ(x) / Φ(x)."""
    return _in_double(_mills_excess, x)


def _inverse_mills_derivative(x: Tensor) -> Tensor:
    product = _inverse_mills(x) * bounded(_mills_excess(x))
    return where(x < -1e9, -1.0, -product)


def inverse_mills_derivative(x: Tensor) -> Tensor:
    """-y (x + y), y = φ(x) / Φ(x)."""
    return _in_double(_inverse_mills_derivative, x)


def polygamma(n: int, x: Tensor) -> Tensor:
    """Derivative number n of the digamma function."""
    return _in_double(lambda x: torch.polygamma(n, x), x)


def kummer(z: Tensor, twice_a: int, b: int) -> Tensor:
    """exp(-z) M(a, b, z) for z >= 0, a = twice_a / 2: its series, or the one in 1/z."""
    a = twice_a / 2

    def of_double(z: Tensor) -> Tensor:
        near = z.clamp(max=40)
        term = exp(-near)
        total = term
        for k in range(150):
            term = term * near * ((a + k) / ((b + k) * (k + 1)))
            total = total + term
        far = z.clamp(min=40)
        term = torch.ones_like(z)
        tail = term
        for k in range(30):
            term = term * ((b - a + k) * (1 - a + k) / (k + 1)) / far
            tail = tail + term
        tail = tail * (math.gamma(b) / math.gamma(a)) * far ** (a - b)
        return where(z < 40, total, tail)

    return _in_double(of_double, z)


def bessel_i(x: Tensor, n: int) -> Tensor:
    """I_n(x), by Kummer's function."""
    scaled = kummer(2 * abs(x), 2 * n + 1, 2 * n + 1)
    return (x / 2) ** n / math.factorial(n) * exp(abs(x)) * scaled


def i1e_derivative(x: Tensor) -> Tensor:
    """Of exp(-|x|) I_1(x), by Kummer's function."""
    a = abs(x)
    return 0.5 * (kummer(2 * a, 3, 3) - a * kummer(2 * a, 3, 4))


def i1e_second_derivative(x: Tensor) -> Tensor:
    """The derivative of that."""
    a = abs(x)
    return sign(x) * (0.625 * a * kummer(2 * a, 3, 5) - kummer(2 * a, 3, 4))


def erfinv_derivative(x: Tensor) -> Tensor:
    """sqrt(π) / 2 erfcx(y) / (1 - |x|), y = erfinv(|x|)."""
    a = abs(x)
    return math.sqrt(math.pi) / 2 * erfcx(torch.erfinv(a).clamp(max=30)) / (1 - a)


def erfinv_second_derivative(x: Tensor) -> Tensor:
    """2 erfinv(x) times the square of that."""
    return 2 * torch.erfinv(x) * erfinv_derivative(x) ** 2


def ndtri_derivative(x: Tensor) -> Tensor:
    """1 / (q mills(ndtri(q))), q = min(x, 1 - x)."""
    q = torch.minimum(x, 1 - x)
    return 1 / (q * inverse_mills(torch.special.ndtri(q).clamp(min=-42)))


def copysign(x: Any, y: Any) -> Tensor:
    """|x| with the sign of y."""
    return torch.copysign(*_promoted(x, y))


def truncated_quotient(x: Any, y: Any) -> Tensor:
    """x / y without its fraction."""
    return torch.div(x, y, rounding_mode="trunc")


def floored_quotient(x: Any, y: Any) -> Tensor:
    """The whole number not above x / y."""
    return torch.div(x, y, rounding_mode="floor")


def bounded(x: Tensor) -> Tensor:
    """x, at most 1e4 in magnitude."""
    return x.clamp(-1e4, 1e4)


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

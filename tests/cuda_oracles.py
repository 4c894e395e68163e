"""What every launcher of csrc/cuda/launch.h computes, in long double, and inputs worth trying.

Long double (64 bits of mantissa) is exact to 1/1000 ulp of float64 in all that is used here.
An oracle gives for each result its value and its magnitude: the sum of the absolute values of the
terms that make it up. Where terms cancel, it is their roundings that an error is measured by.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from unary_functions import UNARY, Array, Result, plain, scaled, sigmoid_derivative, total

Oracle = Callable[..., list[Result]]
Parameter = float | tuple[float, ...] | None


@dataclass(frozen=True)
class Operation:
    """``inputs`` names the operands, which decides what numbers they are given; ``parameters`` are
    tried one after another, tuples of a launcher that takes several."""

    inputs: tuple[str, ...]
    oracle: Oracle
    outputs: int = 1
    parameters: tuple[Parameter, ...] = (None,)


# -------------------------------------------------------------------------- functions of one tensor


def _of_order(derivative: Callable[..., Result]) -> dict[str, Oracle]:
    """The family of a function: products with its derivative of an order, the last argument."""

    def backward(grad: Array, x: Array, *rest: float) -> list[Result]:
        return scaled(grad, [derivative(x, *rest)])

    def double_backward(grad_grad: Array, grad: Array, x: Array, *rest: float) -> list[Result]:
        *number, order = rest or (1,)
        return [
            *scaled(grad_grad, [derivative(x, *rest)]),
            *scaled(grad_grad * grad, [derivative(x, *number, order + 1)]),
        ]

    def triple_backward(
        grad: Array, first: Array, second: Array, x: Array, *rest: float
    ) -> list[Result]:
        *number, order = rest or (1,)
        return [
            *scaled(grad * second, [derivative(x, *rest)]),
            *scaled(grad * first, [derivative(x, *rest)]),
            *scaled(grad * first * second, [derivative(x, *number, order + 1)]),
        ]

    return {
        "_backward": backward,
        "_double_backward": double_backward,
        "_triple_backward": triple_backward,
    }


# ------------------------------------------------------------------------------------------- pow


def _base(x: Array, e: Array) -> Array:
    return np.where(e == 0, 0, e * x ** (e - 1))


def _exponent(x: Array, e: Array) -> Array:
    return x**e * np.log(x)


def _base_twice(x: Array, e: Array) -> Array:
    return np.where((e == 0) | (e == 1), 0, e * (e - 1) * x ** (e - 2))


def _mixed(x: Array, e: Array) -> Result:
    power, product = x ** (e - 1), e * np.log(x)
    return power * (1 + product), power * (1 + np.abs(product))


def _pow_scalar(x: Array, exponent: float) -> list[Result]:
    return [plain(x ** np.longdouble(exponent))]


def _pow_scalar_derivative(x: Array, exponent: float, order: float) -> Result:
    e = np.longdouble(exponent)
    coefficient = np.prod([e - k for k in range(int(order))])
    return plain(coefficient * x ** (e - order) if coefficient else np.zeros_like(x))


def _pow(x: Array, e: Array) -> list[Result]:
    return [plain(x**e)]


def _pow_backward(grad: Array, x: Array, e: Array) -> list[Result]:
    return [plain(grad * _base(x, e)), plain(grad * _exponent(x, e))]


def _pow_backward_input(grad: Array, x: Array, e: Array) -> list[Result]:
    return _pow_backward(grad, x, e)[:1]


def _pow_backward_exponent(grad: Array, x: Array, e: Array) -> list[Result]:
    return _pow_backward(grad, x, e)[1:]


def _pow_double_backward(v_x: Array, v_e: Array, grad: Array, x: Array, e: Array) -> list[Result]:
    mixed = _mixed(x, e)
    of_grad = total(plain(v_x * _base(x, e)), plain(v_e * _exponent(x, e)))
    of_x = total(plain(v_x * _base_twice(x, e)), *scaled(v_e, [mixed]))
    of_e = total(*scaled(v_x, [mixed]), plain(v_e * _exponent(x, e) * np.log(x)))
    return [of_grad, *scaled(grad, [of_x, of_e])]


def _pow_derivative(
    grad: Array, x: Array, e: Array, by_base: float, by_exponent: float
) -> list[Result]:
    a, b = int(by_base), int(by_exponent)
    factorial = np.polynomial.Polynomial([1])
    for k in range(a):
        factorial = factorial * np.polynomial.Polynomial([-k, 1])
    terms = []
    for j in range(min(a, b) + 1):
        log = math.comb(b, j) * np.log(x) ** (b - j)
        coefficients = [np.longdouble(c) for c in factorial.deriv(j).coef]
        terms += [plain(log * c * e**i) for i, c in enumerate(coefficients)]
    return scaled(grad * x ** (e - a), [total(*terms)])


def _derivative_backward(derivative: Oracle) -> Oracle:
    """The gradients of a product with the derivative of a function of two numbers."""

    def backward(
        grad_grad: Array, grad: Array, x: Array, y: Array, i: float, j: float
    ) -> list[Result]:
        product = grad_grad * grad
        return [
            *derivative(grad_grad, x, y, i, j),
            *derivative(product, x, y, i + 1, j),
            *derivative(product, x, y, i, j + 1),
        ]

    return backward


# ---------------------------------------------------------------------------------------- losses


def _softplus(x: Array) -> Array:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _logits(x: Array, t: Array, w: Array | float = 1, p: Array | float = 1) -> list[Result]:
    return scaled(w * np.ones_like(x), [plain(p * t * _softplus(-x) + (1 - t) * _softplus(x))])


def _logits_input(x: Array, t: Array, p: Array | float = 1) -> Result:
    s, q = sigmoid_derivative(x, 0)[0], sigmoid_derivative(-x, 0)[0]
    return (1 - t) * s - p * t * q, (1 - t) * s + p * t * q


def _logits_backward(grad: Array, x: Array, t: Array, *weights: Array | float) -> list[Result]:
    w, p, scale = weights if len(weights) == 3 else (1, 1, *weights)
    return scaled(grad * scale * w, [_logits_input(x, t, p)])


def _logits_target(
    grad: Array, x: Array, t: Array, w: Array, p: Array, scale: float
) -> list[Result]:
    left, right = p * _softplus(-x), _softplus(x)
    return scaled(grad * w * scale, [(left - right, left + right)])


def _logits_weight(
    grad: Array, x: Array, t: Array, w: Array, p: Array, scale: float
) -> list[Result]:
    return scaled(grad * scale, _logits(x, t, 1, p))


def _logits_pos_weight(
    grad: Array, x: Array, t: Array, w: Array, p: Array, scale: float
) -> list[Result]:
    return [plain(grad * scale * w * t * _softplus(-x))]


def _logits_double_backward(
    grad_grad: Array, grad: Array, x: Array, t: Array, w: Array, p: Array, scale: float
) -> list[Result]:
    v = grad_grad * scale * w
    second = plain((1 - t + p * t) * sigmoid_derivative(x, 1)[0])
    return [*scaled(v, [_logits_input(x, t, p)]), *scaled(v * grad, [second])]


def _log(p: Array) -> Array:
    with np.errstate(divide="ignore"):
        return np.maximum(np.log(p), -100)


def _log_complement(p: Array) -> Array:
    with np.errstate(divide="ignore"):
        return np.maximum(np.log1p(-p), -100)


def _probabilities(p: Array, t: Array, w: Array | float = 1) -> list[Result]:
    return [plain(-w * (t * _log(p) + (1 - t) * _log_complement(p)))]


def _probabilities_input(p: Array, t: Array) -> Array:
    return (p - t) / np.maximum(p * (1 - p), 1e-12)


def _probabilities_backward(
    grad: Array, p: Array, t: Array, *weights: Array | float
) -> list[Result]:
    w, scale = weights if len(weights) == 2 else (1, *weights)
    return [plain(grad * scale * w * _probabilities_input(p, t))]


def _probabilities_target(grad: Array, p: Array, t: Array, w: Array, scale: float) -> list[Result]:
    left, right = _log_complement(p), _log(p)
    return scaled(grad * scale * w, [(left - right, np.abs(left) + np.abs(right))])


def _probabilities_weight(grad: Array, p: Array, t: Array, w: Array, scale: float) -> list[Result]:
    return scaled(grad * scale, _probabilities(p, t))


def _probabilities_double_backward(
    grad_grad: Array, grad: Array, p: Array, t: Array, w: Array, scale: float
) -> list[Result]:
    v = grad_grad * scale * w
    second = np.where(p * (1 - p) < 1e-12, 1e12, t / p**2 + (1 - t) / (1 - p) ** 2)
    return [plain(v * _probabilities_input(p, t)), plain(v * grad * second)]


def _probabilities_derivative(
    grad: Array, p: Array, t: Array, by_input: float, by_target: float
) -> list[Result]:
    n = int(by_input)
    left, right = [(t, 1 - t), (1, -1), (0, 0)][int(by_target)]
    factorial = math.factorial(n - 1)
    terms = plain((-1) ** n * left * factorial / p**n), plain(right * factorial / (1 - p) ** n)
    value, magnitude = total(*terms)
    clamped = {(2, 0): 1e12, (1, 1): -1e12}.get((n, int(by_target)), 0)
    inside = p * (1 - p) >= 1e-12
    return scaled(grad, [(np.where(inside, value, clamped), np.where(inside, magnitude, 1e12))])


# ------------------------------------------------------------------------------------- the table


def _at_order(derivative: Callable[[Array, int], Result]) -> Callable[..., Result]:
    return lambda x, order=1: derivative(x, int(order))


def _value(derivative: Callable[[Array, int], Result]) -> Oracle:
    return lambda x: [derivative(x, 0)]


HALF_INTEGERS = (-2, -1, -0.5, 0, 0.5, 1, 1.5, 2, 2.5, 3, 4)  # of csrc/math/half_integers.h
EXPONENTS = (*HALF_INTEGERS, 1 / 3, 10, -7.3)
SCALES = (1.0, 1.0 / 256)  # exact in the type that a kernel multiplies in

OPERATIONS: dict[str, Operation] = {
    **{name: Operation(("x",), _value(row.derivative)) for name, row in UNARY.items()},
    "pow_scalar": Operation(("base",), _pow_scalar, parameters=EXPONENTS),
    "pow": Operation(("base", "exponent"), _pow),
    "pow_backward": Operation(("grad", "base", "exponent"), _pow_backward, outputs=2),
    "pow_backward_input": Operation(("grad", "base", "exponent"), _pow_backward_input),
    "pow_backward_exponent": Operation(("grad", "base", "exponent"), _pow_backward_exponent),
    "pow_double_backward": Operation(
        ("grad_grad", "grad_grad", "grad", "base", "exponent"), _pow_double_backward, outputs=3
    ),
    "pow_derivative": Operation(
        ("grad", "base", "exponent"),
        _pow_derivative,
        parameters=((2, 0), (1, 1), (0, 2), (3, 0), (2, 1), (0, 3), (5, 5)),
    ),
    "pow_derivative_backward": Operation(
        ("grad_grad", "grad", "base", "exponent"),
        _derivative_backward(_pow_derivative),
        outputs=3,
        parameters=((2, 0), (1, 1), (0, 2), (4, 4)),
    ),
    "binary_cross_entropy_derivative": Operation(
        ("grad", "probability", "target"),
        _probabilities_derivative,
        parameters=((2, 0), (1, 1), (3, 0), (4, 0), (4, 1), (8, 0), (2, 2)),
    ),
    "binary_cross_entropy_derivative_backward": Operation(
        ("grad_grad", "grad", "probability", "target"),
        _derivative_backward(_probabilities_derivative),
        outputs=3,
        parameters=((2, 0), (1, 1), (3, 0), (7, 0)),
    ),
}

ORDERS = (1, 2, 3, 4, 7)
# Of the second order, exponents by which x^(e-2) is a half integer power too
_OF_EXPONENT_AND_ORDER = (
    *((e, 1) for e in EXPONENTS),
    *((e + 2, 2) for e in HALF_INTEGERS if e <= 2),
    (3, 4),
    (-7.3, 3),
)

_FAMILIES: list[tuple[str, Callable[..., Result], str, tuple[Parameter, ...]]] = [
    *((name, _at_order(row.derivative), "x", ORDERS) for name, row in UNARY.items()),
    ("pow_scalar", _pow_scalar_derivative, "base", _OF_EXPONENT_AND_ORDER),
]
for _name, _derivative, _operand, _orders in _FAMILIES:
    for _outputs, (_kind, _oracle) in enumerate(_of_order(_derivative).items(), start=1):
        _factors = ("grad_grad",) * (_outputs - 1) + ("grad",)
        OPERATIONS[_name + _kind] = Operation(
            (*_factors, _operand), _oracle, outputs=_outputs, parameters=_orders
        )

_LOGITS: dict[str, Oracle] = {
    "": _logits,
    "_backward": _logits_backward,
    "_backward_target": _logits_target,
    "_backward_weight": _logits_weight,
    "_backward_pos_weight": _logits_pos_weight,
    "_double_backward": _logits_double_backward,
}
_PROBABILITIES: dict[str, Oracle] = {
    "": _probabilities,
    "_backward": _probabilities_backward,
    "_backward_target": _probabilities_target,
    "_backward_weight": _probabilities_weight,
    "_double_backward": _probabilities_double_backward,
}

for _family, _x, _weights, _functions in (
    ("binary_cross_entropy_with_logits", "x", ("weight", "pos_weight"), _LOGITS),
    ("binary_cross_entropy", "probability", ("weight",), _PROBABILITIES),
):
    _operands = (_x, "target")
    for _suffix, _function in _functions.items():
        if _suffix in ("", "_backward"):
            _grads: tuple[str, ...] = ("grad",) if _suffix else ()
            _scales: tuple[float | None, ...] = SCALES if _suffix else (None,)
            OPERATIONS[_family + _suffix] = Operation(
                _grads + _operands, _function, parameters=_scales
            )
            OPERATIONS[f"{_family}{_suffix}_weighted"] = Operation(
                _grads + _operands + _weights, _function, parameters=_scales
            )
        else:
            _double = "double" in _suffix
            OPERATIONS[_family + _suffix] = Operation(
                (("grad_grad",) if _double else ()) + ("grad",) + _operands + _weights,
                _function,
                outputs=1 + _double,
                parameters=SCALES,
            )

# The launchers that sum a loss, and that loss.
SUMS = {
    f"{family}{weighted}_sum": f"{family}{weighted}"
    for family in ("binary_cross_entropy", "binary_cross_entropy_with_logits")
    for weighted in ("", "_weighted")
}


# ---------------------------------------------------------------------------------------- inputs


def numbers(name: str, shape: tuple[int, ...], seed: int = 0) -> Array:
    """Numbers for the operand ``name`` of an operation."""
    random = np.random.default_rng([seed, *name.encode()])
    size = int(np.prod(shape))
    if name in ("grad", "grad_grad"):
        values = random.choice([-1, 1], size) * np.exp2(random.uniform(-2, 2, size))
    elif name == "x":
        # Every binade from 2^-20 to where results become subnormal, and the steep part.
        wide = np.exp2(random.uniform(-20, 5.4, size)) * random.choice([-1, 1], size)
        values = np.where(random.random(size) < 0.5, wide, 3 * random.normal(size=size))
    elif name == "base":
        values = np.exp2(random.uniform(-6, 6, size))
    elif name == "exponent":
        values = random.uniform(-4, 4, size)
    elif name in ("target", "probability"):
        values = random.random(size)
        if name == "target":
            values = np.where(random.random(size) < 0.5, np.round(values), values)
    else:
        values = random.uniform(0.25, 4, size)
    return values.reshape(shape)


# ---------------------------------------------------------------------------------------- errors


def ulp(magnitude: Array, dtype: torch.dtype) -> Array:
    """The distance between neighbouring numbers of the dtype at ``magnitude``."""
    info = torch.finfo(dtype)
    smallest = np.maximum(np.abs(magnitude), np.longdouble(info.tiny))
    exponent = np.frexp(np.minimum(smallest, np.longdouble(info.max)))[1]
    return np.ldexp(np.longdouble(info.eps), exponent - 1)


@np.errstate(all="ignore")
def errors(got: torch.Tensor, exact: Result) -> Array:
    """The error of each number in ulps, infinite where a class (NaN, infinite) is missed."""
    values = got.to(torch.float64).numpy().astype(np.longdouble)
    value, magnitude = exact
    unit = ulp(magnitude, got.dtype)
    most = np.longdouble(torch.finfo(got.dtype).max)
    value = np.where(
        np.abs(value) >= most + ulp(most, got.dtype) / 2, np.sign(value) * np.inf, value
    )
    same = (values == value) | (np.isnan(values) & np.isnan(value))
    error = np.abs(values - value) / unit
    return np.where(same, 0, np.where(np.isfinite(error), error, np.inf))


def largest_error(got: torch.Tensor, exact: Result) -> float:
    return float(errors(got, exact).max(initial=0))


def bound(name: str, dtype: torch.dtype) -> float:
    """The largest error in ulps that an operation is allowed.

    Half types are computed in float and rounded once. An upstream gradient, a weight and a scale
    add a rounding each.
    """
    if dtype in (torch.float16, torch.bfloat16):
        return 0.51
    if name in ("sigmoid", "tanh", "pow", "pow_scalar"):
        return 2.2
    return 6.5 if "double" in name or "triple" in name or "derivative" in name else 4.5

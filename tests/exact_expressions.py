"""Expressions in mpmath: their values, and how far they can be trusted in floating point."""

from collections.abc import Callable, Mapping

import mpmath
from mpmath import mp, mpf

from fusedgrad.fuse.expression import Expression, in_order


def _sigmoid(x: mpf) -> mpf:
    return 1 / (1 + mp.exp(-x))


def _softplus(x: mpf) -> mpf:
    return mp.log1p(mp.exp(x))


def _loss_slope(x: mpf, t: mpf, p: mpf) -> mpf:
    return (1 - t) * _sigmoid(x) - p * t * _sigmoid(-x)


def _derived(function: Callable[[mpf], mpf], order: int) -> Callable[[mpf], mpf]:
    return lambda x: mpmath.diff(function, x, order)


_LOSS = "binary_cross_entropy_with_logits"
_FUNCTIONS: dict[str, Callable[..., mpf]] = {
    "number": mpf,
    "negate": lambda a: -a,
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
    "less": lambda a, b: a < b,
    "less_equal": lambda a, b: a <= b,
    "greater": lambda a, b: a > b,
    "greater_equal": lambda a, b: a >= b,
    "equal": lambda a, b: a == b,
    "not_equal": lambda a, b: a != b,
    "and": lambda a, b: a and b,
    "or": lambda a, b: a or b,
    "not": lambda a: not a,
    "where": lambda c, a, b: a if c else b,
    "sqrt": mp.sqrt,
    "hypotenuse": lambda x, b: mp.sqrt(x * x + b),
    "hypotenuse_slope": lambda x, b: x / mp.sqrt(x * x + b),
    "exp": mp.exp,
    "expm1": mp.expm1,
    "log": mp.log,
    "log1p": mp.log1p,
    "softplus": _softplus,
    "sigmoid": _sigmoid,
    "sigmoid_derivative": lambda x: _sigmoid(x) * _sigmoid(-x),
    "sigmoid_second_derivative": lambda x: -_sigmoid(x) * _sigmoid(-x) * mp.tanh(x / 2),
    "tanh": mp.tanh,
    "tanh_derivative": lambda x: mp.sech(x) ** 2,
    "tanh_second_derivative": lambda x: -2 * mp.tanh(x) * mp.sech(x) ** 2,
    "sin": mp.sin,
    "cos": mp.cos,
    "erf": mp.erf,
    "erf_derivative": lambda x: 2 * mp.exp(-x * x) / mp.sqrt(mp.pi),
    "normal_cdf": lambda x: mp.erfc(-x / mp.sqrt(2)) / 2,
    "normal_pdf": lambda x: mp.exp(-x * x / 2) / mp.sqrt(2 * mp.pi),
    "silu": lambda x: x * _sigmoid(x),
    "silu_derivative": lambda x: _sigmoid(x) * (1 + x * _sigmoid(-x)),
    "gelu": lambda x: x * mp.erfc(-x / mp.sqrt(2)) / 2,
    "gelu_derivative": lambda x: mp.erfc(-x / mp.sqrt(2)) / 2 + x * mp.npdf(x),
    "abs": abs,
    "sign": mp.sign,
    "relu": lambda x: max(x, mpf(0)),
    "minimum": min,
    "maximum": max,
    "clamp": lambda x, low, high: min(max(x, low), high),
    "clamp_min": max,
    "clamp_max": min,
    "weighted": lambda w, x: w * x,
    _LOSS: lambda x, t, p: p * t * _softplus(-x) + (1 - t) * _softplus(x),
    f"{_LOSS}_input_derivative": _loss_slope,
    f"{_LOSS}_target_derivative": lambda x, p: p * _softplus(-x) - _softplus(x),
    f"{_LOSS}_pos_weight_derivative": lambda x, t: t * _softplus(-x),
}


def _function(e: Expression) -> Callable[..., mpf]:
    if e.operation == "power":
        return lambda x: x ** mpf(e.value)
    if e.operation == "pow_derivative":
        if e.value == (0, 0):
            return lambda x, exponent: x**exponent
        return lambda *xs: mpmath.diff(lambda x, exponent: x**exponent, xs, e.value)
    return _FUNCTIONS[e.operation]


def _partial(function: Callable[..., mpf], arguments: list[mpf], i: int) -> mpf:
    def moved(u: mpf) -> mpf:
        return function(*arguments[:i], u, *arguments[i + 1 :])

    return mpmath.diff(moved, arguments[i])


def evaluate(
    output: Expression,
    inputs: Mapping[str, mpf],
    value: dict[Expression, mpf] | None = None,
    slopes: bool = True,
) -> tuple[mpf, float]:
    """The exact value, and the condition number of the expression.

    That is the sum over everything it is made of, itself included, of the relative change that a
    relative change of this part alone makes: to first order, the number of units of rounding that
    the result may be off by if every operation is off by one. `value` receives the values of the
    parts; without `slopes` the condition number is left out.
    """
    order = in_order([output])
    value = {} if value is None else value
    for e in order:
        if e.operation in ("input", "parameter"):
            value[e] = inputs[e.value]
        elif e.operation == "constant":
            value[e] = mpf(e.value)
        else:
            value[e] = _function(e)(*(value[argument] for argument in e.arguments))
    if not slopes:
        return value[output], float("nan")
    slope: dict[Expression, mpf] = dict.fromkeys(order, mpf(0))
    slope[output] = mpf(1)
    for e in reversed(order):
        if not slope[e] or not e.arguments:
            continue
        arguments = [value[argument] for argument in e.arguments]
        for i, argument in enumerate(e.arguments):
            if argument.is_condition or argument.operation == "constant":
                continue
            slope[argument] += slope[e] * _partial(_function(e), arguments, i)
    result = value[output]
    if result == 0:
        return result, float("inf")
    parts = (abs(slope[e] * value[e] / result) for e in order if not e.is_condition)
    return result, float(sum(parts))

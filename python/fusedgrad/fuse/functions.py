"""The functions of one element, each declared once: `FUNCTIONS`.

A declaration is the name in csrc/math and its header; PyTorch's names; the derivative, as an
expression of the same operations, in a form that neither cancels nor overflows; and what PyTorch
computes it by where there is no compiler, forms.py's function of that name where none is given.
What is a composition of these is declared in vocabulary.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from fusedgrad.fuse import forms
from fusedgrad.fuse.expression import (
    CALL,
    OPERATIONS,
    Expression,
    Number,
    Operation,
    PullBack,
    _no_gradient,
    apply,
    gradients,
    make,
    where,
    wrap,
)

LN2 = math.log(2)
TWO_OVER_SQRT_PI = 2 / math.sqrt(math.pi)


@dataclass(frozen=True, slots=True)
class Function:
    """One declaration; see above. `names` are those of torch, Tensor, torch.special and F."""

    name: str
    header: str
    pull_back: PullBack
    names: str = ""
    evaluate: Callable[..., Any] | None = None
    arity: int = 1
    python: str = ""
    cpp: str = ""
    is_condition: bool = False


# The slopes of a function by its arguments, of the arguments and of the expression itself
Slope = Callable[..., Expression | Number | None]


def slopes(*by: Slope) -> PullBack:
    """The gradient times each of them."""

    def pull_back(e: Expression, g: Expression) -> tuple[Expression | None, ...]:
        found = (slope(*e.arguments, e) for slope in by)
        return tuple(None if slope is None else g * wrap(slope) for slope in found)

    return pull_back


def over(by: Callable[[Expression, Expression], Expression | Number]) -> PullBack:
    """The gradient divided by this, of the argument and of the expression itself."""
    return lambda e, g: (g / wrap(by(e.arguments[0], e)),)


def _bounded(x: Expression) -> Expression:
    """x where a factor is not 0 already, so that 0 does not meet infinity."""
    return apply("bounded", x)


def _third_sigmoid_derivative(x: Expression, second: Expression) -> Expression:
    half = 0.5 * x
    first = apply("sigmoid_derivative", x)
    return -(second * apply("tanh", half) + 0.5 * first * apply("tanh_derivative", half))


def _third_tanh_derivative(x: Expression, second: Expression) -> Expression:
    first = apply("tanh_derivative", x)
    return -2 * (first * first + apply("tanh", x) * second)


def _second_silu_derivative(x: Expression, first: Expression) -> Expression:
    return apply("sigmoid_derivative", x) * (2 - _bounded(x) * apply("tanh", 0.5 * x))


def _second_gelu_derivative(x: Expression, first: Expression) -> Expression:
    bounded = _bounded(x)
    return apply("normal_pdf", x) * (2 - bounded * bounded)


def _third_mish_derivative(e: Expression, g: Expression) -> tuple[Expression]:
    (x,) = e.arguments
    # Of 4 n (2 (2 + x) + 2 n (4 + x) + 3 n² (2 - x) + 2 n³ (1 - x)) / (n² + 2n + 2)³, n = exp(x),
    # and right of 0 the same over n⁶
    z, n, m = _bounded(x), apply("exp", x), apply("exp", -x)
    left, right = 2 + n * (2 + n), 1 + m * (2 + 2 * m)
    below = 2 * (2 + z) + n * (2 * (4 + z) + n * (3 * (2 - z) + n * (2 * (1 - z))))
    above = 2 * (1 - z) + m * (3 * (2 - z) + m * (2 * (4 + z) + m * (2 * (2 + z))))
    second = where(
        apply("less", x, 0),
        4 * n * below / (left * left * left),
        4 * m * (m * above) / (right * right * right),
    )
    (slope,) = gradients([second], [g], [x])
    return (slope,)


def _square_of_tanh(x: Expression, y: Expression) -> Expression:
    t = apply("tanh", x)
    return t * t


def _softsign_second_derivative(x: Expression, first: Expression) -> Expression:
    return -2 * (apply("sign", x) * (first / (1 + apply("abs", x))))


def _hypotenuse_slope(e: Expression, g: Expression) -> tuple[Expression, Expression]:
    # 1/r - x^2/r^3 and so on, without the difference
    x, b = e.arguments
    r = apply("hypotenuse", x, b)
    square = r * r
    return g * (b / r / square), -(g * (0.5 * (e / square)))


def _hypot_slope(e: Expression, g: Expression) -> tuple[Expression, Expression]:
    # d(x/h) = (y/h)^2 / h dx - (x/h) (y/h) / h dy
    x, y = e.arguments
    h = apply("hypot", x, y)
    other = apply("hypot_slope", y, x)
    return g * (other * (other / h)), -(g * (e * (other / h)))


def _atan2_slope(e: Expression, g: Expression) -> tuple[Expression, Expression]:
    # of a - ib = 1 / (x + iy), minus its square
    x, y = e.arguments
    other = apply("atan2_slope", y, x)
    return g * ((other - e) * (other + e)), -(g * (2 * (e * other)))


def _atan_second_derivative(x: Expression, first: Expression) -> Expression:
    # -2 x y^2, where x y = x / (1 + x^2) neither underflows nor is infinity times 0
    product = where(apply("less", apply("abs", x), 1), x * first, 1 / (x + 1 / x))
    return -2 * (first * product)


def _xlogy(e: Expression, g: Expression) -> tuple[Expression, Expression]:
    # As PyTorch: 0 by an x that is 0 where the logarithm is infinite or undefined.
    x, y = e.arguments
    nothing = make("and", apply("equal", x, 0), apply("less_equal", y, 0))
    return where(nothing, 0, g * apply("log", y)), g * (x / y)


def _xlog1py(e: Expression, g: Expression) -> tuple[Expression, Expression]:
    x, y = e.arguments
    nothing = make("and", apply("equal", x, 0), apply("less_equal", y, -1))
    return where(nothing, 0, g * apply("log1p", y)), g * (x / (1 + y))


def _log_chosen(e: Expression, g: Expression) -> tuple[None, Expression, Expression]:
    is_log, x, y = e.arguments
    return None, where(is_log, g / x, 0), where(is_log, 0, g / (1 + y))


def _logit(e: Expression, g: Expression) -> tuple[Expression]:
    # 1/x + 1/(1 - x), whose derivative does not overflow before it must; NaN outside, as PyTorch
    (x,) = e.arguments
    inside = make("and", apply("greater_equal", x, 0), apply("less_equal", x, 1))
    inner = make("replaced", where(inside, x, math.nan), x)
    return (g * (1 / inner + 1 / (1 - inner)),)


def _third_erfinv_derivative(x: Expression, second: Expression) -> Expression:
    first = apply("erfinv_derivative", x)
    return 2 * (first * first * first) + 4 * (apply("erfinv", x) * first * second)


def _inverse_mills_second_derivative(x: Expression, first: Expression) -> Expression:
    # of -y (x + y)
    mills, excess = apply("inverse_mills", x), _bounded(apply("mills_excess", x))
    derivative = -(first * excess + mills * (1 + first))
    return where(apply("less", x, -1e9), 0, derivative)


def _remainder(rounding: str) -> PullBack:
    # As PyTorch: by the divisor, minus the whole quotient
    return lambda e, g: (g, -(g * apply(rounding, *e.arguments)))


def _polygamma(e: Expression, g: Expression) -> tuple[Expression]:
    return (g * make("polygamma", *e.arguments, value=e.value + 1),)


def _exp2_times(e: Expression, g: Expression) -> tuple[Expression]:
    return (g * make("exp2_times", *e.arguments, value=e.value * LN2),)


def _kummer(e: Expression, g: Expression) -> tuple[Expression]:
    # exp(-z) M(a, b, z) for a = twice_a / 2
    twice_a, b = e.value
    factor = (twice_a / 2 - b) / b
    return (g * (factor * make("kummer", *e.arguments, value=(twice_a, b + 1))),)


def _scaled_bessel_0_derivative(x: Expression, y: Expression) -> Expression:
    return -(apply("sign", x) * make("kummer", 2 * apply("abs", x), value=(1, 2)))


def _third_scaled_bessel_1_derivative(x: Expression, second: Expression) -> Expression:
    a = apply("abs", x)
    lower, upper = (make("kummer", 2 * a, value=(3, b)) for b in (5, 6))
    return 1.875 * lower - 0.875 * (a * upper)


def _bessel_derivative(e: Expression, g: Expression) -> tuple[Expression]:
    # (I(n - 1) + I(n + 1)) / 2
    lower, upper = (make("bessel_i", *e.arguments, value=e.value + d) for d in (-1, 1))
    return (g * (0.5 * lower + 0.5 * upper),) if e.value else (g * upper,)


def _bessel_1_derivative(x: Expression, y: Expression) -> Expression:
    return 0.5 * apply("i0", x) + 0.5 * make("bessel_i", x, value=2)


def _sinc_third_derivative(x: Expression, second: Expression) -> Expression:
    # -(π² (x s)' + 3 s'') / x from (x s)'' = -π² x s; odd
    first = apply("sinc_derivative", x)
    slope = apply("sinc", x) + x * first
    return where(apply("equal", x, 0), 0, -((math.pi**2 * slope + 3 * second) / x))


LOSS = "binary_cross_entropy_with_logits"


def _loss_input_derivative(e: Expression, g: Expression) -> tuple[Expression, ...]:
    # (1 - t) sigmoid(x) - p t sigmoid(-x)
    x, t, p = e.arguments
    complement = apply("sigmoid", -x)
    return (
        g * ((1 - t + p * t) * apply("sigmoid_derivative", x)),
        -(g * (apply("sigmoid", x) + p * complement)),
        -(g * (t * complement)),
    )


def _loss_target_derivative(e: Expression, g: Expression) -> tuple[Expression, ...]:
    # p softplus(-x) - softplus(x)
    x, p = e.arguments
    slope = p * apply("sigmoid", -x) + apply("sigmoid", x)
    return -(g * slope), g * apply("softplus", -x)


def _loss_pos_weight_derivative(e: Expression, g: Expression) -> tuple[Expression, ...]:
    # t softplus(-x)
    x, t = e.arguments
    return -(g * (t * apply("sigmoid", -x))), g * apply("softplus", -x)


def _gap(e: Expression, g: Expression) -> tuple[Expression, Expression]:
    return g, -g


def _step(*arguments: Expression) -> None:
    return None


FUNCTIONS = (
    # ------------------------------------------------------------- roots and distances
    Function("sqrt", "platform", over(lambda x, y: 2 * y)),
    # sqrt(x^2 + b), whose derivatives do not cancel
    Function(
        "hypotenuse",
        "hypotenuse",
        lambda e, g: (g * apply("hypotenuse_slope", *e.arguments), g / (2 * e)),
        arity=2,
    ),
    Function("hypotenuse_slope", "hypotenuse", _hypotenuse_slope, arity=2),
    Function(
        "hypot",
        "hypotenuse",
        slopes(
            lambda x, y, _: apply("hypot_slope", x, y), lambda x, y, _: apply("hypot_slope", y, x)
        ),
        "hypot",
        torch.hypot,
        arity=2,
    ),
    Function("hypot_slope", "hypotenuse", _hypot_slope, arity=2),
    Function("atan2_slope", "hypotenuse", _atan2_slope, arity=2),
    # sqrt(1 - x^2) and sqrt(x^2 - 1)
    Function("cathetus", "hypotenuse", slopes(lambda x, y: -(x / y))),
    Function(
        "cathetus_reciprocal",
        "hypotenuse",
        slopes(lambda x, _: x / (apply("one_minus_square", x) * apply("cathetus", x))),
    ),
    Function("outer_cathetus", "hypotenuse", slopes(lambda x, y: x / y)),
    Function("one_minus_square", "hypotenuse", slopes(lambda x, _: -2 * x)),
    # ------------------------------------------------------------- exponentials and logarithms
    Function("exp", "exponential", slopes(lambda x, y: y), "exp"),
    Function(
        "exp2",
        "exponential",
        slopes(lambda x, _: make("exp2_times", x, value=LN2)),
        "exp2",
        torch.exp2,
    ),
    Function(
        "exp2_times",
        "exponential",
        _exp2_times,
        python="exp2_times({0}, {value!r})",
        cpp="math::exp2_times({0}, T({value!r}))",
    ),
    Function("expm1", "exponential", slopes(lambda x, _: apply("exp", x)), "expm1"),
    # expm1(x) - x
    Function("expm1_rest", "exponential", slopes(lambda x, _: apply("expm1", x))),
    Function("log", "logarithm", over(lambda x, _: x), "log"),
    Function(
        "log2",
        "logarithm",
        slopes(lambda x, _: 1 / LN2 / x),
        "log2",
        torch.log2,
        cpp="math::log_of_base_2({0})",
    ),
    Function(
        "log10",
        "logarithm",
        slopes(lambda x, _: 1 / math.log(10) / x),
        "log10",
        torch.log10,
        cpp="math::log_of_base_10({0})",
    ),
    Function("log1p", "logarithm", over(lambda x, _: 1 + x), "log1p"),
    # log(x) or log1p(y), by the first argument
    Function("log_chosen", "logarithm", _log_chosen, arity=3),
    Function("logit", "logarithm", _logit, "", torch.logit),
    Function(
        "entr", "logarithm", slopes(lambda x, _: -(1 + apply("log", x))), "entr", torch.special.entr
    ),
    Function("xlogy", "logarithm", _xlogy, "xlogy", torch.xlogy, arity=2),
    Function("xlog1py", "logarithm", _xlog1py, "xlog1py", torch.special.xlog1py, arity=2),
    # log(max(x, exp(-100))) with the derivative 1 / max(x, 1e-12): PyTorch's logarithm of
    # probabilities
    Function(
        "log_of_probability",
        "logarithm",
        lambda e, g: (g / apply("clamp_min", e.arguments[0], 1e-12),),
    ),
    Function("softplus", "softplus", slopes(lambda x, _: apply("sigmoid", x))),
    # a - b, but 0 where both are one infinity
    Function("gap", "softplus", _gap, arity=2),
    Function(
        "logaddexp",
        "softplus",
        slopes(
            lambda a, b, _: apply("sigmoid", apply("gap", a, b)),
            lambda a, b, _: apply("sigmoid", apply("gap", b, a)),
        ),
        "logaddexp",
        torch.logaddexp,
        arity=2,
    ),
    Function(
        "logaddexp2",
        "softplus",
        slopes(
            lambda a, b, _: apply("sigmoid", LN2 * apply("gap", a, b)),
            lambda a, b, _: apply("sigmoid", LN2 * apply("gap", b, a)),
        ),
        "logaddexp2",
        torch.logaddexp2,
        arity=2,
    ),
    # ------------------------------------------------------------- sigmoids
    Function(
        "sigmoid", "sigmoid", slopes(lambda x, _: apply("sigmoid_derivative", x)), "sigmoid expit"
    ),
    Function(
        "sigmoid_derivative",
        "sigmoid",
        slopes(lambda x, _: apply("sigmoid_second_derivative", x)),
    ),
    Function("sigmoid_second_derivative", "sigmoid", slopes(_third_sigmoid_derivative)),
    Function("tanh", "tanh", slopes(lambda x, _: apply("tanh_derivative", x)), "tanh"),
    Function("tanh_derivative", "tanh", slopes(lambda x, _: apply("tanh_second_derivative", x))),
    Function("tanh_second_derivative", "tanh", slopes(_third_tanh_derivative)),
    Function("silu", "silu", slopes(lambda x, _: apply("silu_derivative", x)), "silu"),
    Function("silu_derivative", "silu", slopes(_second_silu_derivative)),
    Function("gelu", "gelu", slopes(lambda x, _: apply("gelu_derivative", x))),
    Function("gelu_derivative", "gelu", slopes(_second_gelu_derivative)),
    Function("tanhshrink", "shrink", slopes(_square_of_tanh), "tanhshrink"),
    Function(
        "softsign", "shrink", slopes(lambda x, _: apply("softsign_derivative", x)), "softsign"
    ),
    Function("softsign_derivative", "shrink", slopes(_softsign_second_derivative)),
    Function("mish", "mish", slopes(lambda x, _: apply("mish_derivative", x)), "mish"),
    Function("mish_derivative", "mish", slopes(lambda x, _: apply("mish_second_derivative", x))),
    Function("mish_second_derivative", "mish", _third_mish_derivative),
    # ------------------------------------------------------------- circles and hyperbolas
    # Reduction is AnyArgument or ModerateArgument of trigonometric.h.
    Function(
        "sin",
        "trigonometric",
        slopes(lambda x, _: apply("cos", x)),
        "sin",
        cpp="Reduction::sin({0})",
    ),
    Function(
        "cos",
        "trigonometric",
        slopes(lambda x, _: -apply("sin", x)),
        "cos",
        cpp="Reduction::cos({0})",
    ),
    Function(
        "tan",
        "trigonometric",
        slopes(lambda x, y: 1 + y * y),
        "tan",
        torch.tan,
        cpp="math::tan<Reduction>({0})",
    ),
    Function("sinc", "sinc", slopes(lambda x, _: apply("sinc_derivative", x)), "sinc", torch.sinc),
    Function("sinc_derivative", "sinc", slopes(lambda x, _: apply("sinc_second_derivative", x))),
    Function("sinc_second_derivative", "sinc", slopes(_sinc_third_derivative)),
    Function(
        "asin",
        "inverse_trigonometric",
        slopes(lambda x, _: apply("cathetus_reciprocal", x)),
        "asin arcsin",
        torch.asin,
    ),
    Function(
        "acos",
        "inverse_trigonometric",
        slopes(lambda x, _: -apply("cathetus_reciprocal", x)),
        "acos arccos",
        torch.acos,
    ),
    Function(
        "atan",
        "inverse_trigonometric",
        slopes(lambda x, _: apply("atan_derivative", x)),
        "atan arctan",
        torch.atan,
    ),
    Function("atan_derivative", "inverse_trigonometric", slopes(_atan_second_derivative)),
    Function(
        "atan2",
        "inverse_trigonometric",
        slopes(
            lambda y, x, _: apply("atan2_slope", x, y),
            lambda y, x, _: -apply("atan2_slope", y, x),
        ),
        "atan2 arctan2",
        torch.atan2,
        arity=2,
    ),
    Function("sinh", "hyperbolic", slopes(lambda x, _: apply("cosh", x)), "sinh", torch.sinh),
    Function("cosh", "hyperbolic", slopes(lambda x, _: apply("sinh", x)), "cosh", torch.cosh),
    Function(
        "asinh",
        "hyperbolic",
        over(lambda x, _: apply("hypot", x, 1)),
        "asinh arcsinh",
        torch.asinh,
    ),
    Function(
        "acosh",
        "hyperbolic",
        over(lambda x, _: apply("outer_cathetus", x)),
        "acosh arccosh",
        torch.acosh,
    ),
    Function(
        "atanh",
        "hyperbolic",
        over(lambda x, _: apply("one_minus_square", x)),
        "atanh arctanh",
        torch.atanh,
    ),
    # ------------------------------------------------------------- the normal distribution
    Function("erf", "normal", slopes(lambda x, _: apply("erf_derivative", x)), "erf"),
    Function("erfc", "normal", slopes(lambda x, _: -apply("erf_derivative", x)), "erfc"),
    Function("erf_derivative", "normal", slopes(lambda x, y: -2 * _bounded(x) * y)),
    # exp(x^2) times the integrals of erfc: i0, i1, i2
    Function("erfcx", "normal", slopes(lambda x, _: -2 * apply("erfcx_1", x)), "erfcx"),
    Function("erfcx_1", "normal", slopes(lambda x, _: -4 * apply("erfcx_2", x))),
    Function("erfcx_2", "normal", slopes(lambda x, y: 2 * x * y - apply("erfcx_1", x))),
    Function(
        "erfinv",
        "normal_quantile",
        slopes(lambda x, _: apply("erfinv_derivative", x)),
        "erfinv",
        torch.erfinv,
    ),
    Function("normal_cdf", "normal", slopes(lambda x, _: apply("normal_pdf", x)), "ndtr"),
    Function("normal_pdf", "normal", slopes(lambda x, y: -_bounded(x) * y)),
    Function("log_ndtr", "normal", slopes(lambda x, _: apply("inverse_mills", x)), "log_ndtr"),
    # φ(x) / Φ(x), and that plus x
    Function("inverse_mills", "normal", slopes(lambda x, _: apply("inverse_mills_derivative", x))),
    Function("inverse_mills_derivative", "normal", slopes(_inverse_mills_second_derivative)),
    Function(
        "mills_excess", "normal", slopes(lambda x, _: 1 + apply("inverse_mills_derivative", x))
    ),
    Function(
        "ndtri",
        "normal_quantile",
        slopes(lambda x, _: apply("ndtri_derivative", x)),
        "ndtri",
        torch.special.ndtri,
    ),
    Function(
        "erfinv_derivative",
        "normal_quantile",
        slopes(lambda x, _: apply("erfinv_second_derivative", x)),
    ),
    Function("erfinv_second_derivative", "normal_quantile", slopes(_third_erfinv_derivative)),
    Function(
        "ndtri_derivative", "normal_quantile", slopes(lambda x, y: apply("ndtri", x) * (y * y))
    ),
    # ------------------------------------------------------------- the gamma function
    Function(
        "lgamma",
        "gamma",
        lambda e, g: (g * make("polygamma", *e.arguments, value=0),),
        "lgamma gammaln",
        torch.lgamma,
    ),
    Function(
        "polygamma",
        "gamma",
        _polygamma,
        python="polygamma({value}, {0})",
        cpp="math::polygamma<{value}>({0})",
    ),
    # ------------------------------------------------------------- Bessel functions
    Function(
        "kummer",
        "kummer",
        _kummer,
        python="kummer({0}, {value[0]}, {value[1]})",
        cpp="math::kummer<{value[0]}, {value[1]}>({0})",
    ),
    Function(
        "bessel_i",
        "kummer",
        _bessel_derivative,
        python="bessel_i({0}, {value})",
        cpp="math::bessel_i<{value}>({0})",
    ),
    Function("i0", "kummer", slopes(lambda x, _: apply("i1", x)), "i0", torch.special.i0),
    Function("i0e", "kummer", slopes(_scaled_bessel_0_derivative), "i0e", torch.special.i0e),
    Function("i1", "kummer", slopes(_bessel_1_derivative), "i1", torch.special.i1),
    Function(
        "i1e",
        "kummer",
        slopes(lambda x, _: apply("i1e_derivative", x)),
        "i1e",
        torch.special.i1e,
    ),
    Function("i1e_derivative", "kummer", slopes(lambda x, _: apply("i1e_second_derivative", x))),
    Function("i1e_second_derivative", "kummer", slopes(_third_scaled_bessel_1_derivative)),
    # ------------------------------------------------------------- pieces
    Function("abs", "platform", slopes(lambda x, _: apply("sign", x)), "abs absolute"),
    Function("sign", "piecewise", _no_gradient, "sign sgn"),
    Function("floor", "piecewise", _no_gradient, "floor", torch.floor),
    Function("ceil", "piecewise", _no_gradient, "ceil", torch.ceil),
    Function("trunc", "piecewise", _no_gradient, "trunc fix", torch.trunc),
    Function("round", "piecewise", _no_gradient, "", torch.round),
    Function("signbit", "piecewise", _no_gradient, "signbit", torch.signbit, is_condition=True),
    # The first with the sign of the second; by 0 PyTorch's derivative is 0
    Function(
        "copysign",
        "piecewise",
        slopes(lambda x, y, e: apply("sign", x) * apply("sign", e), _step),
        "copysign",
        arity=2,
    ),
    Function("fmod", "piecewise", _remainder("truncated_quotient"), "fmod", torch.fmod, arity=2),
    Function(
        "remainder",
        "piecewise",
        _remainder("floored_quotient"),
        "remainder",
        torch.remainder,
        arity=2,
    ),
    Function("truncated_quotient", "piecewise", _no_gradient, arity=2),
    Function("floored_quotient", "piecewise", _no_gradient, arity=2),
    Function(
        "relu",
        "piecewise",
        lambda e, g: (where(apply("less_equal", e.arguments[0], 0), 0, g),),
        "relu",
    ),
    # x, at most 1e4 in magnitude, with x's derivative: a factor of what is 0 beyond
    Function("bounded", "piecewise", lambda e, g: (g,)),
    # The product, where a weight of 0 outweighs an infinite x
    Function(
        "weighted",
        "piecewise",
        lambda e, g: (g * e.arguments[1], g * e.arguments[0]),
        arity=2,
    ),
    # ------------------------------------------------------------- the logistic loss
    Function(
        LOSS,
        "logistic_loss",
        slopes(
            lambda x, t, p, _: apply(f"{LOSS}_input_derivative", x, t, p),
            lambda x, t, p, _: apply(f"{LOSS}_target_derivative", x, p),
            lambda x, t, p, _: apply(f"{LOSS}_pos_weight_derivative", x, t),
        ),
        arity=3,
    ),
    Function(f"{LOSS}_input_derivative", "logistic_loss", _loss_input_derivative, arity=3),
    Function(f"{LOSS}_target_derivative", "logistic_loss", _loss_target_derivative, arity=2),
    Function(
        f"{LOSS}_pos_weight_derivative", "logistic_loss", _loss_pos_weight_derivative, arity=2
    ),
)


def _operation(f: Function) -> Operation:
    arguments = ", ".join(f"{{{i}}}" for i in range(f.arity))
    return Operation(
        f.python or f"{f.name}({arguments})",
        f.cpp or f"math::{f.name}({arguments})",
        f.pull_back,
        f.header,
        CALL,
        f.is_condition,
        f.evaluate or getattr(forms, f.name),
    )


OPERATIONS.update({f.name: _operation(f) for f in FUNCTIONS})

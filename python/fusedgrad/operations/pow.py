"""pow(x, e) = x**e, by a tensor or a Python number.

The partial derivatives are e x^(e-1) and x^e ln(x); a coefficient of 0 makes a derivative 0.
"""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, compiler
from torch._C import _is_any_autocast_enabled as autocasting
from torch.compiler import is_dynamo_compiling
from torch.overrides import handle_torch_function, has_torch_function_variadic

from fusedgrad import _C, operators
from fusedgrad.operations.shared import (
    Number,
    OfOperators,
    autocast,
    prepare_out,
    product,
    register_binary_family,
    register_family,
    rounded_once,
    traced,
    traced_function,
)
from fusedgrad.operators import _elementwise, _ops, _two, register, register_with_out

_pow = _ops.pow


def pow(input: Tensor | Number, exponent: Tensor | Number, *, out: Tensor | None = None) -> Tensor:
    """input ** exponent, elementwise and broadcast, as `torch.pow`.

    The partial derivatives are e x^(e-1) and x^e ln(x), each from the inputs; a coefficient of 0
    makes a derivative 0, and at base 0 the derivative by an exponent >= 0 is 0, as in PyTorch.

    Args:
        input: the base, a tensor or a Python number.
        exponent: a tensor or a Python number; one of the two must be a tensor.
        out: where to write the result; resized to its shape, and no gradient is recorded.

    Raises:
        TypeError: neither argument is a tensor, or one is neither tensor nor number.
        RuntimeError: integers to a negative integer power; shapes that do not broadcast; `out`
            cannot hold the result's dtype, or a gradient would have to be recorded.
    """
    if out is None and not (is_dynamo_compiling() or compiler._is_compiling_flag):
        result = _C.pow(input, exponent)
        if result is not NotImplemented:
            return cast(Tensor, result)
    if has_torch_function_variadic(input, exponent):
        return handle_torch_function(pow, (input, exponent), input, exponent, out=out)
    if autocasting():
        input, exponent = autocast("pow", input, exponent)
    if isinstance(input, Tensor):
        if isinstance(exponent, Tensor):
            operator = _pow.Tensor_Tensor
            requires_grad = input.requires_grad or exponent.requires_grad
        else:
            exponent = _number("exponent", exponent)
            _check_integer_power(input, exponent)
            operator = _pow.Tensor_Scalar
            requires_grad = input.requires_grad
    elif isinstance(exponent, Tensor):
        input = _number("input", input)
        exponent = exponent.contiguous()  # torch.pow's result is contiguous, of a number only
        operator = _pow.Scalar
        requires_grad = exponent.requires_grad
    else:
        raise TypeError(
            "pow(): one of input and exponent must be a Tensor, "
            f"got {type(input).__name__} and {type(exponent).__name__}"
        )
    if out is not None:
        if compiler.is_compiling():
            return operators.store(_call_traced(input, exponent), out)
        shapes = [value.shape for value in (input, exponent) if isinstance(value, Tensor)]
        shape = torch.broadcast_shapes(*shapes)  # type: ignore[no-untyped-call]
        prepare_out("pow", out, torch.result_type(input, exponent), shape, requires_grad)
        getattr(_pow, f"{operator._overloadname}_out")(input, exponent, out=out)
        return out
    if is_dynamo_compiling() or compiler._is_compiling_flag:
        return _call_traced(input, exponent)
    return cast(Tensor, operator(input, exponent))


def _number(argument: str, value: Any) -> Number:
    if isinstance(value, (int, float, complex)):
        return value
    if hasattr(value, "dtype") and hasattr(value, "item") and value.ndim == 0:  # of NumPy
        return cast(Number, value.item())
    raise TypeError(
        f"pow(): argument '{argument}' must be Tensor or Number, not {type(value).__name__}"
    )


def _check_integer_power(input: Tensor, exponent: Number) -> None:
    if type(exponent) is not int or exponent >= 0:
        return
    if not (input.dtype.is_floating_point or input.dtype.is_complex):
        raise RuntimeError(
            f"pow(): exponent is {exponent}, expected >= 0 for an input of dtype {input.dtype}: "
            "Integers to negative integer powers are not allowed."
        )


@rounded_once
def formula(input: Tensor | Number, exponent: Tensor | Number) -> Tensor:
    """The power: PyTorch's own, which is within 0.6 ULP."""
    return torch.pow(input, exponent)  # type: ignore[arg-type]


def scalar_derivative(x: Tensor, e: Number, order: int = 1, further: int = 0) -> Tensor:
    """e (e-1) ... (e-n+1) x^(e-n), for a Python number as exponent."""
    order += further
    coefficient: Number = 1
    for k in range(order):
        coefficient = coefficient * (e - k)
    return product(coefficient, torch.pow(x, e - order))


def derivative(x: Tensor, e: Tensor, by_input: int, by_exponent: int) -> Tensor:
    """The derivative of x^e, so often by x and by e.

    x^(e-a) times the sum over j of binomial(b, j) ln(x)^(b-j) and the derivative of order j of
    e (e-1) ... (e-a+1). 0 at base 0 for an exponent e > a, or e >= 0 where a is 0: the limit, but
    for an e of 0.
    """
    factorial = [1]  # in powers of e
    for k in range(by_input):
        factorial = [b - k * c for b, c in zip([0, *factorial], [*factorial, 0], strict=True)]
    power = torch.pow(x, e - by_input)
    log = torch.log(x) if by_exponent else x
    total: Tensor | None = None
    for j in range(min(by_input, by_exponent) + 1):
        leading, *others = [c * math.comb(by_exponent, j) for c in reversed(factorial)]
        coefficient = torch.full_like(e, leading if j else 1)
        for c in others if j else ():
            coefficient = coefficient * e + c
        for k in range(by_input if j == 0 else 0):
            # A sum of powers would cancel beside the zeros of the factorial.
            coefficient = coefficient * (e - k)
        term = product(coefficient, log ** (by_exponent - j)) if j < by_exponent else coefficient
        total = term if total is None else total + term
        factorial = [i * c for i, c in enumerate(factorial)][1:]
    assert total is not None
    value = product(total, power)
    if by_exponent == 0:
        return value
    real = e.real if e.is_complex() else e
    vanishes = (x == 0) & (real > by_input if by_input else real >= 0)
    return torch.where(vanishes, 0.0, value)


@rounded_once
def backward_formula(
    grad: Tensor, input: Tensor, exponent: Tensor, output_mask: Sequence[bool]
) -> list[Tensor]:
    """grad times the conjugates of e x^(e-1) and of x^e ln(x), those of them wanted."""
    orders = [order for order, want in zip(((1, 0), (0, 1)), output_mask, strict=True) if want]
    return [grad * derivative(input, exponent, *order).conj() for order in orders]


@rounded_once
def double_backward_formula(
    grad_grad_input: Tensor,
    grad_grad_exponent: Tensor,
    grad: Tensor,
    input: Tensor,
    exponent: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of pow_backward by `grad`, by `input` and by `exponent`."""

    def sum_of(v: Tensor, w: Tensor, by_input: int, by_exponent: int) -> Tensor:
        # A cotangent of 0 skips its term: an absent one must not turn into NaN.
        along_input = product(v, derivative(input, exponent, by_input + 1, by_exponent).conj())
        along_exponent = product(w, derivative(input, exponent, by_input, by_exponent + 1).conj())
        return along_input + along_exponent

    v, w = grad_grad_input.conj(), grad_grad_exponent.conj()
    return (
        sum_of(v, w, 0, 0).conj(),
        grad * sum_of(v, w, 1, 0),
        grad * sum_of(v, w, 0, 1),
    )


def _fake_backward(
    grad: Tensor, input: Tensor, exponent: Tensor, output_mask: Sequence[bool]
) -> list[Tensor]:
    # PyTorch's formulas, as which the gradients lie.
    power = exponent * torch.pow(input, exponent - 1)
    inside = (input == 0) & (exponent == 0)
    log_power = torch.pow(input, exponent) * -input
    gradients = (
        torch.where(exponent == 0, 0.0, grad * power),
        grad * torch.where(inside, 0.0, log_power),
    )
    return [gradient for gradient, wanted in zip(gradients, output_mask, strict=True) if wanted]


_of_number = register_family("pow", "Tensor_Scalar", scalar_derivative)
scalar_backward_formula = _of_number.backward
scalar_double_backward_formula = _of_number.double_backward
register_with_out("pow.Scalar", torch.mul, formula, "Scalar_out")
register_with_out("pow.Tensor_Scalar", torch.pow, formula, "Tensor_Scalar_out")
register_with_out("pow.Tensor_Tensor", torch.pow, formula, "Tensor_Tensor_out")
register("pow_backward.Tensor_Tensor", _fake_backward, backward_formula, stacks=False)
register(
    "pow_double_backward.Tensor_Tensor",
    lambda *operands: (*_two(*operands), _elementwise(*operands)),
    double_backward_formula,
)
register_binary_family("pow", derivative)


class Pow(OfOperators):
    """`Pow.apply(input, exponent)`: input ** exponent, either of them a tensor or a Python number.

    Differentiable in both; type promotion and broadcasting are those of torch.pow.
    """

    operators = _pow, _ops.pow_backward

    @classmethod
    def apply(cls, *arguments: Tensor | Number) -> Any:
        """The power, in the dtype that torch.pow would give it."""
        input, exponent = arguments
        dtype = torch.result_type(input, exponent)
        if isinstance(exponent, Tensor):
            if not isinstance(input, Tensor):
                input = torch.tensor(input, dtype=dtype, device=exponent.device)
            exponent = exponent.to(dtype)
        return cls._apply_checked(cast(Tensor, input).to(dtype), exponent)


_TracedScalar = traced_function(1, formula, _of_number.gradients)
_Traced = traced_function(2, formula, backward_formula)


def _call_traced(input: Tensor | Number, exponent: Tensor | Number) -> Tensor:
    # Dynamo does not trace torch.result_type; a product that nothing uses leaves the graph again.
    dtype = cast(Tensor, input * exponent).dtype
    if not (dtype.is_floating_point or dtype.is_complex):
        return torch.pow(input, exponent)  # type: ignore[arg-type]
    if not isinstance(exponent, Tensor):
        return traced(_TracedScalar, formula, cast(Tensor, input).to(dtype), exponent)
    if not isinstance(input, Tensor):
        input = torch.tensor(input, dtype=dtype, device=exponent.device)
    return traced(_Traced, formula, input.to(dtype), exponent.to(dtype))

"""pow(x, e) = x**e, by a tensor or a Python number.

The partial derivatives are e x^(e-1) and x^e ln(x); a coefficient of 0 makes a derivative 0.
"""

import functools
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, compiler
from torch._C import _is_any_autocast_enabled as autocasting
from torch.compiler import is_dynamo_compiling
from torch.overrides import handle_torch_function, has_torch_function_variadic

from fusedgrad import _C, operators
from fusedgrad.operations.derivatives import (
    RECORDED,
    _being_differentiated,
    _Function,
    _jvp,
    _Operation,
    _save,
    _second_of,
    _Unary,
    _vjp,
)
from fusedgrad.operations.shared import (
    Gradients,
    Number,
    autocast,
    is_transformed,
    prepare_out,
    product,
    rounded_once,
    spread,
    those_wanted,
    to_operands,
    traced,
)
from fusedgrad.operators import _elementwise, _two, register, register_with_out

_pow = operators._ops.pow


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
    if is_transformed() or (requires_grad and not _recorded_by_operator(input, exponent)):
        return cast(Tensor, Pow.apply(input, exponent))
    return cast(Tensor, operator(input, exponent))


def _number(argument: str, value: Any) -> Number:
    if isinstance(value, (int, float, complex)):
        return value
    if hasattr(value, "dtype") and hasattr(value, "item") and value.ndim == 0:  # of NumPy
        return cast(Number, value.item())
    raise TypeError(
        f"pow(): argument '{argument}' must be Tensor or Number, not {type(value).__name__}"
    )


def _recorded_by_operator(input: Tensor | Number, exponent: Tensor | Number) -> bool:
    """Whether the operator records the power of such operands, of which one requires a gradient."""
    if not isinstance(input, Tensor) or input.dtype not in operators.KERNEL_DTYPES:
        return False
    if isinstance(exponent, Tensor):
        return exponent.dtype in operators.KERNEL_DTYPES
    return not isinstance(exponent, complex)


def _check_integer_power(input: Tensor, exponent: Number) -> None:
    if type(exponent) is not int or exponent >= 0:
        return
    if not (input.dtype.is_floating_point or input.dtype.is_complex):
        raise RuntimeError(
            f"pow(): exponent is {exponent}, expected >= 0 for an input of dtype {input.dtype}: "
            "Integers to negative integer powers are not allowed."
        )


def _power_base_derivative(x: Tensor, e: Tensor | Number) -> Tensor:
    return product(e, torch.pow(x, e - 1))


def _power_base_second_derivative(x: Tensor, e: Tensor | Number) -> Tensor:
    return product(e * (e - 1), torch.pow(x, e - 2))


def _power_exponent_derivative(x: Tensor, e: Tensor, log_power: int = 1) -> Tensor:
    """x^e ln(x)^log_power; 0 at base 0 for e >= 0, which is the limit but where e is 0."""
    power = torch.pow(x, e)
    at_zero = (x == 0) & ((e.real if e.is_complex() else e) >= 0)
    return torch.where(at_zero, 0.0, product(power, torch.log(x) ** log_power))


def _power_mixed_derivative(x: Tensor, e: Tensor) -> Tensor:
    return product(torch.pow(x, e - 1), 1 + product(e, torch.log(x)))


@rounded_once
def formula(input: Tensor | Number, exponent: Tensor | Number) -> Tensor:
    """The power: PyTorch's own, which is within 0.6 ULP."""
    return torch.pow(input, exponent)  # type: ignore[arg-type]


@rounded_once
def scalar_backward_formula(grad: Tensor, input: Tensor, exponent: Number) -> Tensor:
    """grad times the conjugate of e x^(e-1), for a Python number as exponent."""
    return grad * _power_base_derivative(input, exponent).conj()


@rounded_once
def scalar_double_backward_formula(
    grad_grad: Tensor, grad: Tensor, input: Tensor, exponent: Number
) -> tuple[Tensor, Tensor]:
    """The gradients of pow_scalar_backward by `grad` and by `input`."""
    first = _power_base_derivative(input, exponent)
    second = _power_base_second_derivative(input, exponent)
    return grad_grad * first, grad_grad.conj() * grad * second.conj()


@rounded_once
def backward_formula(
    grad: Tensor, input: Tensor, exponent: Tensor, output_mask: Sequence[bool]
) -> list[Tensor]:
    """grad times the conjugates of e x^(e-1) and of x^e ln(x), those of them wanted."""
    partials = (
        lambda: grad * _power_base_derivative(input, exponent).conj(),
        lambda: grad * _power_exponent_derivative(input, exponent).conj(),
    )
    return those_wanted(partials, output_mask)


@rounded_once
def double_backward_formula(
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
        product(grad_grad_input, along_base[0]) + product(grad_grad_exponent, along_exponent[0]),
        grad * (product(conj_input, along_base[1]) + product(conj_exponent, along_exponent[1])),
        grad * (product(conj_input, along_base[2]) + product(conj_exponent, along_exponent[2])),
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


register_with_out("pow.Scalar", torch.mul, formula, "Scalar_out")
_power_of_number = register_with_out("pow.Tensor_Scalar", torch.pow, formula, "Tensor_Scalar_out")
_power = register_with_out("pow.Tensor_Tensor", torch.pow, formula, "Tensor_Tensor_out")
_power_of_number_backward = register(
    "pow_backward.Tensor_Scalar",
    lambda grad, input, exponent: torch.mul(grad, input),
    scalar_backward_formula,
)
_power_backward = register(
    "pow_backward.Tensor_Tensor", _fake_backward, backward_formula, stacks=False
)
_power_of_number_double_backward = register(
    "pow_double_backward.Tensor_Scalar",
    lambda grad_grad, grad, input, exponent: _two(grad_grad, grad, input),
    scalar_double_backward_formula,
)
_power_double_backward = register(
    "pow_double_backward.Tensor_Tensor",
    lambda *operands: (*_two(*operands), _elementwise(*operands)),
    double_backward_formula,
)


def _scalar_derivatives(x: Tensor, exponent: Number) -> tuple[Tensor, Tensor]:
    def term(coefficient: Number, exponent: Number) -> Tensor:
        if coefficient == 0:  # also where the power is infinite
            return torch.zeros_like(x)
        return cast(Tensor, coefficient * _PowScalar.apply(x, exponent))

    return term(exponent, exponent - 1), term(exponent * (exponent - 1), exponent - 2)


class _PowScalar(_Unary):
    """input ** exponent for a Python number, in the dtype of the input."""

    has_parameter = True
    operation = _Operation(
        _power_of_number,
        _power_of_number_backward,
        _power_of_number_double_backward,
        _second_of(_scalar_derivatives),
    )


class Pow(_Function):
    """`Pow.apply(input, exponent)`: input ** exponent, either of them a tensor or a Python number.

    Differentiable in both; type promotion and broadcasting are those of torch.pow.
    """

    @classmethod
    def apply(cls, *arguments: Tensor | Number) -> Any:
        """The power, in the dtype that torch.pow would give it."""
        input, exponent = arguments
        if isinstance(input, Tensor):
            if isinstance(exponent, Tensor):
                if input.dtype is exponent.dtype:
                    return cls._apply_checked(input, exponent)
            elif isinstance(exponent, (int, float)) and input.dtype.is_floating_point:
                return _PowScalar.apply(input, exponent)
        dtype = torch.result_type(input, exponent)
        if not isinstance(exponent, Tensor):
            return _PowScalar.apply(cast(Tensor, input).to(dtype), exponent)
        if not isinstance(input, Tensor):
            input = torch.scalar_tensor(input, dtype=dtype, device=exponent.device)
        return cls._apply_checked(input.to(dtype), exponent.to(dtype))

    @staticmethod
    def forward(input: Tensor, exponent: Tensor) -> Tensor:
        """The kernel, for two tensors of one dtype."""
        return cast(Tensor, _power[input.dtype](input, exponent))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Save the inputs."""
        _save(ctx, *inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        """grad e x^(e-1) and grad x^e ln(x), those of them that are needed."""
        operands = ctx.saved_tensors
        mask = ctx.needs_input_grad
        if _being_differentiated():
            partials = _PowBackward.apply(mask, grad, *operands)
        else:
            partials = _power_backward[operands[0].dtype](grad, *operands, mask)
        return to_operands(spread(partials, mask), operands)

    @staticmethod
    def push_forward(ctx: Any, inputs: Sequence[Tensor], *tangents: Tensor | None) -> Tensor:
        """The sum of the partial derivatives, each times its tangent."""
        input, exponent = inputs
        one = input.new_ones(())
        return cast(Tensor, _PowDoubleBackward.apply(*tangents, one, input, exponent)[0])


class _PowBackward(_Function):
    """grad times the conjugates of the wanted partial derivatives, at the broadcast shape."""

    @staticmethod
    def forward(
        mask: tuple[bool, bool], grad: Tensor, input: Tensor, exponent: Tensor
    ) -> tuple[Tensor, ...]:
        return tuple(_power_backward[input.dtype](grad, input, exponent, mask))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.mask, *tensors = inputs
        ctx.set_materialize_grads(False)
        _save(ctx, *tensors)

    @staticmethod
    def backward(ctx: Any, *grad_grads: Tensor | None) -> Gradients:
        needed = ctx.needs_input_grad[1:]
        grads = _PowDoubleBackward.apply(*spread(grad_grads, ctx.mask), *ctx.saved_tensors)
        wanted = tuple(grad if need else None for grad, need in zip(grads, needed, strict=True))
        return None, *to_operands(wanted, ctx.saved_tensors)

    @staticmethod
    def push_forward(
        ctx: Any,
        inputs: Sequence[Tensor],
        mask: None,
        grad_tangent: Tensor | None,
        *tangents: Tensor | None,
    ) -> tuple[Tensor, ...]:
        grad, input, exponent = inputs
        # The matrix of second derivatives is symmetric: its product with the tangents is that
        # with the cotangents of the backward.
        moved = _PowDoubleBackward.apply(*tangents, grad, input, exponent)[1:]
        result = tuple(value for value, wanted in zip(moved, ctx.mask, strict=True) if wanted)
        if grad_tangent is None:
            return result
        scaled = _PowBackward.apply(ctx.mask, grad_tangent, input, exponent)
        return tuple(map(torch.add, scaled, result))


def _recorded_backward(
    grad: Tensor, operands: Sequence[Tensor], parameter: Number, mask: tuple[bool, ...]
) -> Gradients:
    dtype = torch.promote_types(operands[0].dtype, operands[1].dtype)
    operands = [operand.to(dtype) for operand in operands]
    return to_operands(spread(_PowBackward.apply(mask, grad, *operands), mask), operands)


RECORDED["Pow"] = _recorded_backward


class _PowDoubleBackward(_Function):
    """With P = input ** exponent and cotangents v: Σ v_i P_i, and grad Σ v_i P_ij for each j."""

    @staticmethod
    def forward(
        grad_grad_input: Tensor | None,
        grad_grad_exponent: Tensor | None,
        grad: Tensor,
        input: Tensor,
        exponent: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        absent = grad.new_zeros(())
        return cast(
            tuple[Tensor, Tensor, Tensor],
            _power_double_backward[input.dtype](
                absent if grad_grad_input is None else grad_grad_input,
                absent if grad_grad_exponent is None else grad_grad_exponent,
                grad,
                input,
                exponent,
            ),
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor | None, ...], output: Any) -> None:
        ctx.set_materialize_grads(False)
        _save(ctx, *inputs)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Gradients:
        return _vjp(_second, ctx.saved_tensors, cotangents, ctx.needs_input_grad)

    @staticmethod
    def push_forward(
        ctx: Any, inputs: Sequence[Tensor | None], *tangents: Tensor | None
    ) -> tuple[Tensor, ...]:
        return _jvp(_second, inputs, tangents, (True, True, True))


def _second(
    wanted: Sequence[bool],
    grad_grad_input: Tensor | None,
    grad_grad_exponent: Tensor | None,
    grad: Tensor,
    x: Tensor,
    e: Tensor,
) -> list[Tensor]:
    zero = x == 0
    # ln 0 meets powers that are 0 wherever the product has a limit; dropping it takes that limit.
    log = torch.where(zero, 0.0, torch.log(torch.where(zero, 1.0, x)))

    def second_base_derivative() -> Tensor:
        coefficient = e * (e - 1)
        # 0 ** 0 instead of 0 ** -1, which a coefficient of 0 does not outweigh
        vanishing = zero & (coefficient == 0)
        return cast(Tensor, coefficient * Pow.apply(x, torch.where(vanishing, 0.0, e - 2)))

    def mixed_derivative() -> Tensor:
        return cast(Tensor, Pow.apply(x, e - 1) * (1 + e * log))

    def base_derivative() -> Tensor:
        return cast(Tensor, e * Pow.apply(x, torch.where(zero & (e == 0), 0.0, e - 1)))

    def exponent_derivative(log_power: int = 1) -> Tensor:
        return cast(Tensor, Pow.apply(x, e) * log**log_power)

    rows = (
        (base_derivative, exponent_derivative),
        (second_base_derivative, mixed_derivative),
        (mixed_derivative, functools.partial(exponent_derivative, log_power=2)),
    )

    def output(index: int) -> Tensor:
        terms = [
            cotangent * derivative() if index == 0 else (cotangent * derivative()).conj() * grad
            for cotangent, derivative in zip(
                (grad_grad_input, grad_grad_exponent), rows[index], strict=True
            )
            if cotangent is not None
        ]
        return sum(terms[1:], start=terms[0])

    return [output(index) for index, want in enumerate(wanted) if want]


class _TracedScalar(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, exponent: Number) -> Tensor:
        ctx.save_for_backward(input)
        ctx.exponent = exponent
        return formula(input, exponent)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (input,) = ctx.saved_tensors
        return scalar_backward_formula(grad, input, ctx.exponent), None


class _Traced(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, exponent: Tensor) -> Tensor:
        ctx.save_for_backward(input, exponent)
        return formula(input, exponent)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        input, exponent = ctx.saved_tensors
        mask = ctx.needs_input_grad
        grads = backward_formula(grad, input, exponent, mask)
        return to_operands(spread(grads, mask), (input, exponent))


def _call_traced(input: Tensor | Number, exponent: Tensor | Number) -> Tensor:
    # Dynamo does not trace torch.result_type; a product that nothing uses leaves the graph again.
    dtype = cast(Tensor, input * exponent).dtype
    if not (dtype.is_floating_point or dtype.is_complex):
        return torch.pow(input, exponent)  # type: ignore[arg-type]
    if not isinstance(exponent, Tensor):
        return traced(_TracedScalar, formula, cast(Tensor, input).to(dtype), exponent)
    if not isinstance(input, Tensor):
        input = torch.full((), input, dtype=dtype, device=exponent.device)
    return traced(_Traced, formula, input.to(dtype), exponent.to(dtype))

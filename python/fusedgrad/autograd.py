"""The operations as `torch.autograd.Function` classes, differentiable any number of times.

Each operation is three layers, all of them Functions: the value, its gradient (`..Backward`), and
the gradient of that (`..DoubleBackward`). Each runs a kernel and saves the operation's inputs,
never a rounded output, from which no formula recovers the tail of a saturated activation. From the
third derivative on there is no kernel: the second is written as an expression of the Functions of
this module, a closed algebra, and differentiated as such, in float32 for half types.

The operators record these operations in C++, which costs less; a backward of theirs comes here
when it is itself differentiated or transformed.

`Function.apply` spends 30 µs in `inspect.signature`; `apply` of these classes goes straight to the
implementation in C unless a torch.func transform is active.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, is_grad_enabled
from torch._C import _are_functorch_transforms_active as transforms_active
from torch._functorch.utils import unwrap_dead_wrappers
from torch.autograd.function import FunctionCtx

from fusedgrad import _C, operators, reference
from fusedgrad.reference import MEAN, NONE, Number

__all__ = ["BinaryCrossEntropy", "BinaryCrossEntropyWithLogits", "Pow", "Sigmoid", "Tanh"]

_Gradients = tuple[Tensor | None, ...]
# An expression takes a mask of the outputs wanted, then tensors, and returns the wanted outputs.
_Expression = Callable[..., list[Tensor]]


def _transformed() -> bool:
    return transforms_active() or forward_ad._current_level >= 0


def _being_differentiated() -> bool:
    """Whether a backward may itself be differentiated, so that it must consist of Functions."""
    return is_grad_enabled() or _transformed()


def _sum_to(grad: Tensor, operand: Tensor) -> Tensor:
    # Ranks first: sizes of different dimensions compared are a guard of torch.export.
    same = grad.dim() == operand.dim() and grad.shape == operand.shape
    return grad if same else grad.sum_to_size(operand.shape)


def _spread(values: Sequence[Tensor | None], mask: Sequence[bool]) -> _Gradients:
    """One entry for each of `mask`, the next of `values` where it is set."""
    remaining = iter(values)
    return tuple(next(remaining) if wanted else None for wanted in mask)


def _present(values: Sequence[Any]) -> tuple[bool, ...]:
    return tuple(value is not None for value in values)


def _vjp(
    expression: _Expression,
    arguments: Sequence[Tensor | None],
    cotangents: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> _Gradients:
    """The gradients of `expression` with respect to the needed arguments, differentiable again."""
    if not any(_present(cotangents)):
        return (None,) * len(arguments)
    wide = [reference.wide(argument) for argument in arguments]
    positions = [i for i, need in enumerate(needed) if need]

    def of_needed(*values: Tensor) -> tuple[Tensor, ...]:
        complete = dict(enumerate(wide)) | dict(zip(positions, values, strict=True))
        return tuple(expression(_present(cotangents), *complete.values()))

    given = [cotangent for cotangent in cotangents if cotangent is not None]
    differentiate = _functional_vjp if _transformed() else _plain_vjp
    grads = differentiate(of_needed, [wide[i] for i in positions], given)
    result: list[Tensor | None] = [None] * len(arguments)
    for i, grad in zip(positions, grads, strict=True):
        result[i] = grad.to(cast(Tensor, arguments[i]).dtype)
    return tuple(result)


def _functional_vjp(
    function: Callable[..., tuple[Tensor, ...]], inputs: list[Tensor], cotangents: list[Tensor]
) -> tuple[Tensor, ...]:
    outputs, pull_back = torch.func.vjp(function, *inputs)  # type: ignore[misc]
    pairs = zip(cotangents, outputs, strict=True)
    return cast(tuple[Tensor, ...], pull_back(tuple(c.to(o.dtype) for c, o in pairs)))


def _plain_vjp(
    function: Callable[..., tuple[Tensor, ...]], inputs: list[Tensor], cotangents: list[Tensor]
) -> tuple[Tensor, ...]:
    """As `_functional_vjp`, which saved-tensor hooks forbid."""
    create_graph = is_grad_enabled()
    with torch.enable_grad():
        # New tensors, for an input may also be, or lie behind, another one.
        inputs = [x.view_as(x) if x.requires_grad else x.detach().requires_grad_() for x in inputs]
        outputs = function(*inputs)
        pairs = [(o, c.to(o.dtype)) for o, c in zip(outputs, cotangents, strict=True)]
    dependent = [pair for pair in pairs if pair[0].requires_grad]
    return torch.autograd.grad(
        [output for output, _ in dependent],
        inputs,
        [cotangent for _, cotangent in dependent],
        create_graph=create_graph,
        materialize_grads=True,
    )


def _jvp(
    expression: _Expression,
    arguments: Sequence[Tensor | None],
    tangents: Sequence[Tensor | None],
    outputs: Sequence[bool],
) -> tuple[Tensor, ...]:
    """The tangents of the wanted outputs: the transpose of `_vjp`, linear in its cotangents.

    torch.func.jvp would do, but cannot be entered inside `torch.autograd.forward_ad.dual_level`.
    """
    moving = _present(tangents)

    def pull_back(*cotangents: Tensor) -> tuple[Tensor, ...]:
        grads = _vjp(expression, arguments, _spread(cotangents, outputs), moving)
        return tuple(grad for grad in grads if grad is not None)

    with torch.no_grad():
        values = expression(outputs, *arguments)
    _, push_forward = torch.func.vjp(pull_back, *map(torch.zeros_like, values))  # type: ignore[misc]
    return cast(
        tuple[Tensor, ...],
        push_forward(tuple(tangent for tangent in tangents if tangent is not None)),
    )


def _aligned(in_dims: Sequence[int | None], arguments: Sequence[Any]) -> list[Any]:
    """The arguments of a batched call, batch dimension first and ranks such that they broadcast."""
    pairs = list(zip(in_dims, arguments, strict=True))
    rank = max(value.dim() - (dim is not None) for dim, value in pairs if isinstance(value, Tensor))

    def align(dim: int | None, value: Any) -> Any:
        if dim is None or not isinstance(value, Tensor):
            return value
        value = value.movedim(dim, 0)
        padding = [1] * (rank + 1 - value.dim())
        return value.reshape(value.shape[0], *padding, *value.shape[1:])

    return [align(dim, value) for dim, value in pairs]


class _Function(torch.autograd.Function):
    """A Function of elementwise operands that is called without going through inspect.signature."""

    _apply: ClassVar[Callable[..., Any]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._apply = super(torch.autograd.Function, cls).apply  # type: ignore[misc]

    @classmethod
    def apply(cls, *arguments: Any) -> Any:
        if transforms_active():
            return super().apply(*arguments)  # type: ignore[no-untyped-call]
        return cls._apply(*unwrap_dead_wrappers(arguments))

    # For subclasses with an apply of their own; Dynamo fails on super().apply there.
    _apply_checked = apply

    @classmethod
    def vmap(cls, info: Any, in_dims: Sequence[int | None], *arguments: Any) -> tuple[Any, int]:
        return cls.apply(*_aligned(in_dims, arguments)), 0

    @classmethod
    def jvp(cls, ctx: Any, *tangents: Any) -> Any:
        # PyTorch runs a jvp with forward mode off, for outer transforms too, whose derivatives
        # would silently be 0. With it on, the inputs must have lost the tangents of this one.
        with forward_ad._set_fwd_grad_enabled(True):
            inputs = [
                tensor if tensor is None else forward_ad.unpack_dual(tensor).primal  # type: ignore[no-untyped-call]
                for tensor in ctx.saved_tensors
            ]
            return cls.push_forward(ctx, inputs, *tangents)

    @staticmethod
    def push_forward(ctx: Any, inputs: Sequence[Any], *tangents: Any) -> Any:
        """The tangents of the outputs, from the saved tensors and the tangents of the inputs."""
        raise NotImplementedError


def _save(ctx: FunctionCtx, *tensors: Tensor | None) -> None:
    ctx.save_for_backward(*tensors)  # type: ignore[arg-type]
    ctx.save_for_forward(*tensors)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class _Operation:
    """The operators of one operation, and its derivatives as expressions."""

    value: Any
    backward: Any
    double_backward: Any
    # What double_backward computes: its derivatives are the third and higher.
    second: _Expression
    # What backward computes, if double_backward leaves some of its derivatives out.
    first: _Expression | None = None


# Functions of one tensor, and Python numbers as parameters.


class _Unary(_Function):
    operation: ClassVar[_Operation]

    @classmethod
    def forward(cls, input: Tensor, *parameters: Number) -> Tensor:
        return cast(Tensor, cls.operation.value[input.dtype](input, *parameters))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, *ctx.parameters = inputs
        ctx.save_for_backward(input)
        ctx.save_for_forward(input)

    @classmethod
    def backward(cls, ctx: Any, grad: Tensor) -> _Gradients:
        (input,) = ctx.saved_tensors
        if _being_differentiated():
            grad = _UnaryBackward.apply(cls.operation, grad, input, *ctx.parameters)
        else:
            grad = cls.operation.backward[input.dtype](grad, input, *ctx.parameters)
        return grad, *[None] * len(ctx.parameters)

    @classmethod
    def push_forward(
        cls, ctx: Any, inputs: Sequence[Tensor], tangent: Tensor, *parameters: None
    ) -> Tensor:
        (input,) = inputs
        return cast(
            Tensor,
            _UnaryBackward.apply(cls.operation, tangent.conj(), input, *ctx.parameters).conj(),
        )


class _UnaryBackward(_Function):
    """grad * conj(f'(input))."""

    @staticmethod
    def forward(operation: _Operation, grad: Tensor, input: Tensor, *parameters: Number) -> Tensor:
        return cast(Tensor, operation.backward[input.dtype](grad, input, *parameters))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.operation, grad, input, *ctx.parameters = inputs
        _save(ctx, grad, input)

    @staticmethod
    def backward(ctx: Any, grad_grad: Tensor) -> _Gradients:
        grad, input = ctx.saved_tensors
        need_grad, need_input = ctx.needs_input_grad[1:3]
        first = second = None
        if need_input:
            first, second = _UnaryDoubleBackward.apply(
                ctx.operation, grad_grad, grad, input, *ctx.parameters
            )
        elif need_grad:
            first = _UnaryBackward.apply(
                ctx.operation, grad_grad.conj(), input, *ctx.parameters
            ).conj()
        return None, first if need_grad else None, second, *[None] * len(ctx.parameters)

    @staticmethod
    def push_forward(
        ctx: Any,
        inputs: Sequence[Tensor],
        operation: None,
        grad_tangent: Tensor | None,
        input_tangent: Tensor | None,
        *parameters: None,
    ) -> Tensor:
        grad, input = inputs
        terms = []
        if grad_tangent is not None:
            terms.append(_UnaryBackward.apply(ctx.operation, grad_tangent, input, *ctx.parameters))
        if input_tangent is not None:
            terms.append(
                _UnaryDoubleBackward.apply(
                    ctx.operation, input_tangent, grad, input, *ctx.parameters
                )[1]
            )
        return cast(Tensor, sum(terms[1:], start=terms[0]))


class _UnaryDoubleBackward(_Function):
    """grad_grad * f'(input) and conj(grad_grad) * grad * conj(f''(input))."""

    @staticmethod
    def forward(
        operation: _Operation, grad_grad: Tensor, grad: Tensor, input: Tensor, *parameters: Number
    ) -> tuple[Tensor, Tensor]:
        return cast(
            tuple[Tensor, Tensor],
            operation.double_backward[input.dtype](grad_grad, grad, input, *parameters),
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        operation, *tensors = inputs[:4]
        ctx.parameters = inputs[4:]
        ctx.expression = functools.partial(operation.second, ctx.parameters)
        ctx.set_materialize_grads(False)
        _save(ctx, *tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> _Gradients:
        grads = _vjp(ctx.expression, ctx.saved_tensors, cotangents, ctx.needs_input_grad[1:4])
        return None, *grads, *[None] * len(ctx.parameters)

    @staticmethod
    def push_forward(
        ctx: Any, inputs: Sequence[Tensor], operation: None, *tangents: Tensor | None
    ) -> tuple[Tensor, ...]:
        return _jvp(ctx.expression, inputs, tangents[:3], (True, True))


def _second_of(derivatives: Callable[..., tuple[Tensor, Tensor]]) -> _Expression:
    """The expression of double_backward, for a function with these two derivatives."""

    def second(
        parameters: tuple[Number, ...],
        wanted: Sequence[bool],
        grad_grad: Tensor,
        grad: Tensor,
        input: Tensor,
    ) -> list[Tensor]:
        first, second = derivatives(input, *parameters)
        outputs = (
            lambda: grad_grad * first,
            lambda: grad_grad.conj() * grad * second.conj(),
        )
        return reference.wanted(outputs, wanted)

    return second


def _derivative(operation: _Operation, input: Tensor) -> Tensor:
    return cast(Tensor, _UnaryBackward.apply(operation, torch.ones_like(input), input).conj())


def _sigmoid_derivatives(x: Tensor) -> tuple[Tensor, Tensor]:
    first = _derivative(Sigmoid.operation, x)
    return first, -first * Tanh.apply(x / 2)


def _tanh_derivatives(x: Tensor) -> tuple[Tensor, Tensor]:
    first = _derivative(Tanh.operation, x)
    return first, -2 * Tanh.apply(x) * first


def _pow_scalar_derivatives(x: Tensor, exponent: Number) -> tuple[Tensor, Tensor]:
    def term(coefficient: Number, exponent: Number) -> Tensor:
        if coefficient == 0:  # also where the power is infinite
            return torch.zeros_like(x)
        return cast(Tensor, coefficient * _PowScalar.apply(x, exponent))

    return term(exponent, exponent - 1), term(exponent * (exponent - 1), exponent - 2)


class Sigmoid(_Unary):
    """`Sigmoid.apply(input)`: 1 / (1 + exp(-input)), for floating-point and complex tensors."""

    operation = _Operation(
        operators.sigmoid,
        operators.sigmoid_backward,
        operators.sigmoid_double_backward,
        _second_of(_sigmoid_derivatives),
    )


class Tanh(_Unary):
    """`Tanh.apply(input)`: the hyperbolic tangent, for floating-point and complex tensors."""

    operation = _Operation(
        operators.tanh,
        operators.tanh_backward,
        operators.tanh_double_backward,
        _second_of(_tanh_derivatives),
    )


class _PowScalar(_Unary):
    """input ** exponent for a Python number, in the dtype of the input."""

    operation = _Operation(
        operators.pow_scalar,
        operators.pow_scalar_backward,
        operators.pow_scalar_double_backward,
        _second_of(_pow_scalar_derivatives),
    )


# pow of two tensors


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
        return cast(Tensor, operators.pow[input.dtype](input, exponent))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Save the inputs."""
        _save(ctx, *inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> _Gradients:
        """grad e x^(e-1) and grad x^e ln(x), those of them that are needed."""
        operands = ctx.saved_tensors
        mask = ctx.needs_input_grad
        if _being_differentiated():
            partials = _PowBackward.apply(mask, grad, *operands)
        else:
            partials = operators.pow_backward[operands[0].dtype](grad, *operands, mask)
        return _to_operands(_spread(partials, mask), operands)

    @staticmethod
    def push_forward(ctx: Any, inputs: Sequence[Tensor], *tangents: Tensor | None) -> Tensor:
        """The sum of the partial derivatives, each times its tangent."""
        input, exponent = inputs
        one = input.new_ones(())
        return cast(Tensor, _PowDoubleBackward.apply(*tangents, one, input, exponent)[0])


def _to_operands(grads: _Gradients, operands: Sequence[Tensor]) -> _Gradients:
    pairs = zip(grads, operands, strict=True)
    return tuple(grad if grad is None else _sum_to(grad, operand) for grad, operand in pairs)


class _PowBackward(_Function):
    """grad times the conjugates of the wanted partial derivatives, at the broadcast shape."""

    @staticmethod
    def forward(
        mask: tuple[bool, bool], grad: Tensor, input: Tensor, exponent: Tensor
    ) -> tuple[Tensor, ...]:
        return tuple(operators.pow_backward[input.dtype](grad, input, exponent, mask))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.mask, *tensors = inputs
        ctx.set_materialize_grads(False)
        _save(ctx, *tensors)

    @staticmethod
    def backward(ctx: Any, *grad_grads: Tensor | None) -> _Gradients:
        needed = ctx.needs_input_grad[1:]
        grads = _PowDoubleBackward.apply(*_spread(grad_grads, ctx.mask), *ctx.saved_tensors)
        wanted = tuple(grad if need else None for grad, need in zip(grads, needed, strict=True))
        return None, *_to_operands(wanted, ctx.saved_tensors)

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
            operators.pow_double_backward[input.dtype](
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
    def backward(ctx: Any, *cotangents: Tensor | None) -> _Gradients:
        return _vjp(_pow_second, ctx.saved_tensors, cotangents, ctx.needs_input_grad)

    @staticmethod
    def push_forward(
        ctx: Any, inputs: Sequence[Tensor | None], *tangents: Tensor | None
    ) -> tuple[Tensor, ...]:
        return _jvp(_pow_second, inputs, tangents, (True, True, True))


def _pow_second(
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


# losses of several tensors, and a reduction


_ONLY_INPUT = (True, False, False, False)


class _Loss(_Function):
    operation: ClassVar[_Operation]

    @classmethod
    def forward(cls, *arguments: Any) -> Tensor:
        return cast(Tensor, cls.operation.value(*arguments))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *operands, ctx.reduction = inputs
        _save(ctx, *operands)

    @classmethod
    def backward(cls, ctx: Any, grad: Tensor) -> _Gradients:
        operands = ctx.saved_tensors
        mask = ctx.needs_input_grad[:-1]
        if _being_differentiated():
            partials = _LossBackward.apply(cls.operation, mask, ctx.reduction, grad, *operands)
        else:
            partials = cls.operation.backward(grad, *operands, ctx.reduction, mask)
        return *_to_operands(_spread(partials, mask), operands), None

    @classmethod
    def push_forward(
        cls, ctx: Any, inputs: Sequence[Tensor | None], *tangents_and_reduction: Tensor | None
    ) -> Tensor:
        tangents = tangents_and_reduction[:-1]
        operands = [reference.wide(operand) for operand in inputs]
        one = operands[0].new_ones(())
        partials = _LossBackward.apply(cls.operation, _present(tangents), NONE, one, *operands)
        given = [tangent for tangent in tangents if tangent is not None]
        tangent = sum(map(torch.mul, partials, given), start=torch.zeros_like(operands[0]))
        return reference.reduced(tangent, ctx.reduction).to(cast(Tensor, inputs[0]).dtype)

    @classmethod
    def vmap(cls, info: Any, in_dims: Sequence[int | None], *arguments: Any) -> tuple[Any, int]:
        *operands, reduction = _same_shape(_aligned(in_dims, arguments), start=0)
        loss = cls.apply(*operands, NONE)
        if reduction != NONE:
            loss = loss.reshape(info.batch_size, -1)
            loss = loss.mean(1) if reduction == MEAN else loss.sum(1)
        return loss, 0


def _same_shape(arguments: list[Any], start: int) -> list[Any]:
    """The arguments of a batched loss with input and target, at `start`, of the same shape."""
    operands = [argument for argument in arguments[start:] if isinstance(argument, Tensor)]
    shape = torch.broadcast_shapes(*(operand.shape for operand in operands))  # type: ignore[no-untyped-call]
    arguments[start : start + 2] = (operand.expand(shape) for operand in operands[:2])
    return arguments


def _unreduced(
    function: type[_Function],
    info: Any,
    in_dims: Sequence[int | None],
    arguments: Sequence[Any],
    reduction: int,
    input: int,
) -> tuple[Any, int]:
    """A batched derivative of a loss: elementwise, with the factor of the mean of each sample."""
    aligned = _same_shape(_aligned(in_dims, arguments), start=input)
    count = aligned[input].numel() // info.batch_size
    outcome = arguments[reduction]
    aligned[reduction] = NONE
    results = function.apply(*aligned)
    if outcome == MEAN:
        results = tuple(result / count for result in results)
    return results, 0


class _LossBackward(_Function):
    """grad times the wanted partial derivatives of the loss, at the shape of the input."""

    @staticmethod
    def forward(
        operation: _Operation,
        mask: tuple[bool, ...],
        reduction: int,
        grad: Tensor,
        *operands: Tensor | None,
    ) -> tuple[Tensor, ...]:
        return tuple(operation.backward(grad, *operands, reduction, mask))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.operation, ctx.mask, ctx.reduction, *tensors = inputs
        ctx.set_materialize_grads(False)
        _save(ctx, *tensors)

    @staticmethod
    def backward(ctx: Any, *grad_grads: Tensor | None) -> _Gradients:
        grad, *operands = ctx.saved_tensors
        cotangents = _spread(grad_grads, ctx.mask)
        needed = ctx.needs_input_grad[3:]
        if not any(needed[2:]) and _present(cotangents) == _ONLY_INPUT[: len(cotangents)]:
            grads = _LossDoubleBackward.apply(
                ctx.operation, ctx.reduction, cotangents[0], grad, *operands
            )
            wanted = [value if need else None for value, need in zip(grads, needed, strict=False)]
            wanted[0] = wanted[0] if wanted[0] is None else _sum_to(wanted[0], grad)
            return None, None, None, *wanted, *[None] * len(needed[2:])
        expression = functools.partial(ctx.operation.first, ctx.reduction)
        return None, None, None, *_vjp(expression, ctx.saved_tensors, cotangents, needed)

    @staticmethod
    def push_forward(
        ctx: Any,
        inputs: Sequence[Tensor | None],
        operation: None,
        mask: None,
        reduction: None,
        *tangents: Tensor | None,
    ) -> tuple[Tensor, ...]:
        expression = functools.partial(ctx.operation.first, ctx.reduction)
        return _jvp(expression, inputs, tangents, ctx.mask)

    @classmethod
    def vmap(cls, info: Any, in_dims: Sequence[int | None], *arguments: Any) -> tuple[Any, int]:
        return _unreduced(cls, info, in_dims, arguments, reduction=2, input=4)


class _LossDoubleBackward(_Function):
    """grad_grad L_x and grad_grad grad L_xx, for a loss L of the input x."""

    @staticmethod
    def forward(
        operation: _Operation,
        reduction: int,
        grad_grad: Tensor,
        grad: Tensor,
        *operands: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        return cast(
            tuple[Tensor, Tensor],
            operation.double_backward(grad_grad, grad, *operands, reduction),
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        operation, reduction, *tensors = inputs
        ctx.expression = functools.partial(operation.second, reduction)
        ctx.set_materialize_grads(False)
        _save(ctx, *tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> _Gradients:
        needed = ctx.needs_input_grad[2:]
        return None, None, *_vjp(ctx.expression, ctx.saved_tensors, cotangents, needed)

    @staticmethod
    def push_forward(
        ctx: Any,
        inputs: Sequence[Tensor | None],
        operation: None,
        reduction: None,
        *tangents: Tensor | None,
    ) -> tuple[Tensor, ...]:
        return _jvp(ctx.expression, inputs, tangents, (True, True))

    @classmethod
    def vmap(cls, info: Any, in_dims: Sequence[int | None], *arguments: Any) -> tuple[Any, int]:
        return _unreduced(cls, info, in_dims, arguments, reduction=1, input=4)


def _product(coefficient: Tensor, value: Tensor) -> Tensor:
    """coefficient * value, where a coefficient of 0 outweighs an infinite value."""
    return coefficient * torch.where((coefficient == 0) & value.isinf(), 0.0, value)


def _weighted(grad: Tensor, weight: Tensor | None, input: Tensor, reduction: int) -> Tensor:
    grad = grad * reference.mean_factor(input, reduction)
    return grad if weight is None else grad * weight


def _logits_input_derivative(x: Tensor, t: Tensor, p: Tensor) -> Tensor:
    return cast(Tensor, (1 - t) * Sigmoid.apply(x) - p * t * Sigmoid.apply(-x))


def _logits_first(
    reduction: int,
    wanted: Sequence[bool],
    grad: Tensor,
    x: Tensor,
    t: Tensor,
    w: Tensor | None,
    pos_weight: Tensor | None,
) -> list[Tensor]:
    p = reference.or_one(pos_weight, x)
    weighted = _weighted(grad, w, x, reduction)

    def softplus(x: Tensor) -> Tensor:
        loss = BinaryCrossEntropyWithLogits.apply(x, torch.zeros_like(x))
        return cast(Tensor, loss)

    def by_target() -> Tensor:
        return -x if pos_weight is None else _product(p, softplus(-x)) - softplus(x)

    def by_weight() -> Tensor:
        loss = BinaryCrossEntropyWithLogits.apply(x, t, None, pos_weight)
        return cast(Tensor, _weighted(grad, None, x, reduction) * loss)

    partials = (
        lambda: weighted * _logits_input_derivative(x, t, p),
        lambda: _product(weighted, by_target()),
        by_weight,
        lambda: _product(weighted, _product(t, softplus(-x))),
    )
    return reference.wanted(partials, wanted)


def _logits_second(
    reduction: int,
    wanted: Sequence[bool],
    grad_grad: Tensor,
    grad: Tensor,
    x: Tensor,
    t: Tensor,
    w: Tensor | None,
    pos_weight: Tensor | None,
) -> list[Tensor]:
    p = reference.or_one(pos_weight, x)
    weighted = _weighted(grad_grad, w, x, reduction)
    outputs = (
        lambda: weighted * _logits_input_derivative(x, t, p),
        lambda: weighted * grad * (1 - t + p * t) * _derivative(Sigmoid.operation, x),
    )
    return reference.wanted(outputs, wanted)


class BinaryCrossEntropyWithLogits(_Loss):
    """`BinaryCrossEntropyWithLogits.apply(input, target, weight, pos_weight, reduction)`.

    weight * (pos_weight * target * softplus(-input) + (1 - target) * softplus(input)), where
    softplus(x) = ln(1 + exp(x)); reduction is 0 (none), 1 (mean) or 2 (sum). Differentiable in
    every tensor, which must all be of one dtype.
    """

    operation = _Operation(
        operators.binary_cross_entropy_with_logits,
        operators.binary_cross_entropy_with_logits_backward,
        operators.binary_cross_entropy_with_logits_double_backward,
        _logits_second,
        _logits_first,
    )

    @classmethod
    def apply(
        cls,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        pos_weight: Tensor | None = None,
        reduction: int = NONE,
    ) -> Any:
        """The loss."""
        return cls._apply_checked(input, target, weight, pos_weight, reduction)


def _probability_input_derivative(p: Tensor, t: Tensor) -> Tensor:
    return (p - t) / (p * (1 - p)).clamp(min=reference.smallest_variance())


def _probability_first(
    reduction: int,
    wanted: Sequence[bool],
    grad: Tensor,
    p: Tensor,
    t: Tensor,
    w: Tensor | None,
) -> list[Tensor]:
    weighted = _weighted(grad, w, p, reduction)

    def by_target() -> Tensor:
        of_one = BinaryCrossEntropy.apply(p, torch.ones_like(p))
        return cast(Tensor, of_one - BinaryCrossEntropy.apply(p, torch.zeros_like(p)))

    def by_weight() -> Tensor:
        loss = BinaryCrossEntropy.apply(p, t)
        return cast(Tensor, _weighted(grad, None, p, reduction) * loss)

    partials = (
        lambda: weighted * _probability_input_derivative(p, t),
        lambda: weighted * by_target(),
        by_weight,
    )
    return reference.wanted(partials, wanted)


def _probability_second(
    reduction: int,
    wanted: Sequence[bool],
    grad_grad: Tensor,
    grad: Tensor,
    p: Tensor,
    t: Tensor,
    w: Tensor | None,
) -> list[Tensor]:
    weighted = _weighted(grad_grad, w, p, reduction)
    clamped = p * (1 - p) <= reference.smallest_variance()
    inside = torch.where(clamped, 0.5, p)  # a value that no branch divides by zero at
    curvature = t / inside**2 + (1 - t) / (1 - inside) ** 2
    outputs = (
        lambda: weighted * _probability_input_derivative(p, t),
        lambda: (
            weighted * grad * torch.where(clamped, 1 / reference.smallest_variance(), curvature)
        ),
    )
    return reference.wanted(outputs, wanted)


class BinaryCrossEntropy(_Loss):
    """`BinaryCrossEntropy.apply(input, target, weight, reduction)`.

    -weight * (target * ln(input) + (1 - target) * ln(1 - input)), each logarithm at least -100, and
    the gradient's denominator input * (1 - input) at least 1e-12, as in PyTorch; reduction is
    0 (none), 1 (mean) or 2 (sum). Differentiable in every tensor, which must all be of one dtype.
    """

    operation = _Operation(
        operators.binary_cross_entropy,
        operators.binary_cross_entropy_backward,
        operators.binary_cross_entropy_double_backward,
        _probability_second,
        _probability_first,
    )

    @classmethod
    def apply(
        cls,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        reduction: int = NONE,
    ) -> Any:
        """The loss."""
        return cls._apply_checked(input, target, weight, reduction)


_OPERATIONS: dict[str, type[_Unary | _Loss]] = {
    "Sigmoid": Sigmoid,
    "Tanh": Tanh,
    "PowScalar": _PowScalar,
    "BinaryCrossEntropy": BinaryCrossEntropy,
    "BinaryCrossEntropyWithLogits": BinaryCrossEntropyWithLogits,
}


def _recorded_backward(
    name: str, grad: Tensor, operands: Sequence[Tensor], parameter: Number, mask: Sequence[bool]
) -> _Gradients:
    """The backward of an operation that its operator recorded, differentiable again.

    `parameter` is the exponent of a power, the reduction of a loss.
    """
    mask = tuple(mask)
    if name == "Pow":
        dtype = torch.promote_types(operands[0].dtype, operands[1].dtype)
        operands = [operand.to(dtype) for operand in operands]
        partials = _PowBackward.apply(mask, grad, *operands)
    elif issubclass(function := _OPERATIONS[name], _Loss):
        partials = _LossBackward.apply(function.operation, mask, parameter, grad, *operands)
    else:
        parameters = [parameter] if function is _PowScalar else []
        return (_UnaryBackward.apply(function.operation, grad, *operands, *parameters),)
    return _to_operands(_spread(partials, mask), operands)


_C.set_differentiable_backward(_recorded_backward)

"""The operations as `torch.autograd.Function` classes, differentiable any number of times.

Each operation is three layers, all of them Functions: the value, its gradient (`..Backward`), and
the gradient of that (`..DoubleBackward`). Each runs a kernel and saves the operation's inputs,
never a rounded output, from which no formula recovers the tail of a saturated activation. From the
third derivative on there is no kernel: the second is written as an expression of the Functions of
the operations, a closed algebra, and differentiated as such, in float32 for half types.

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

from fusedgrad import _C
from fusedgrad.operations import shared
from fusedgrad.operations.shared import Gradients, Number, is_transformed, spread

# An expression takes a mask of the outputs wanted, then tensors, and returns the wanted outputs.
_Expression = Callable[..., list[Tensor]]


def _being_differentiated() -> bool:
    """Whether a backward may itself be differentiated, so that it must consist of Functions."""
    return is_grad_enabled() or is_transformed()


def _present(values: Sequence[Any]) -> tuple[bool, ...]:
    return tuple(value is not None for value in values)


def _vjp(
    expression: _Expression,
    arguments: Sequence[Tensor | None],
    cotangents: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> Gradients:
    """The gradients of `expression` with respect to the needed arguments, differentiable again."""
    if not any(_present(cotangents)):
        return (None,) * len(arguments)
    wide = [shared.wide(argument) for argument in arguments]
    positions = [i for i, need in enumerate(needed) if need]

    def of_needed(*values: Tensor) -> tuple[Tensor, ...]:
        complete = dict(enumerate(wide)) | dict(zip(positions, values, strict=True))
        return tuple(expression(_present(cotangents), *complete.values()))

    given = [cotangent for cotangent in cotangents if cotangent is not None]
    differentiate = _functional_vjp if is_transformed() else _plain_vjp
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
        grads = _vjp(expression, arguments, spread(cotangents, outputs), moving)
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


# By the name of the operation's node in C++: its backward, differentiable again, from the gradient,
# the operands, the exponent or the reduction, and which gradients are wanted.
RECORDED: dict[str, Callable[[Tensor, Sequence[Tensor], Number, tuple[bool, ...]], Gradients]] = {}


class _Unary(_Function):
    operation: ClassVar[_Operation]
    has_parameter: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        RECORDED[cls.__name__.removeprefix("_")] = cls._recorded_backward

    @classmethod
    def _recorded_backward(
        cls, grad: Tensor, operands: Sequence[Tensor], parameter: Number, mask: Sequence[bool]
    ) -> Gradients:
        parameters = [parameter] if cls.has_parameter else []
        return (_UnaryBackward.apply(cls.operation, grad, *operands, *parameters),)

    @classmethod
    def forward(cls, input: Tensor, *parameters: Number) -> Tensor:
        return cast(Tensor, cls.operation.value[input.dtype](input, *parameters))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, *ctx.parameters = inputs
        ctx.save_for_backward(input)
        ctx.save_for_forward(input)

    @classmethod
    def backward(cls, ctx: Any, grad: Tensor) -> Gradients:
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
    def backward(ctx: Any, grad_grad: Tensor) -> Gradients:
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
    def backward(ctx: Any, *cotangents: Tensor | None) -> Gradients:
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
        return shared.those_wanted(outputs, wanted)

    return second


def _derivative(operation: _Operation, input: Tensor) -> Tensor:
    return cast(Tensor, _UnaryBackward.apply(operation, torch.ones_like(input), input).conj())


def _recorded_backward(
    name: str, grad: Tensor, operands: Sequence[Tensor], parameter: Number, mask: Sequence[bool]
) -> Gradients:
    return RECORDED[name](grad, operands, parameter, tuple(mask))


_C.set_differentiable_backward(_recorded_backward)

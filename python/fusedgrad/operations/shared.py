"""What the operations share: dtypes, the parts of formulas, the checks of a call.

A formula is the mathematics of a kernel in PyTorch operations. It serves complex dtypes, devices
without kernels and torch.compile, which fuses it with its neighbours. Half types are computed in
float32 and rounded once. A complex function is holomorphic, and its gradients follow PyTorch's
convention: the gradient of y = f(z) is grad * conj(f'(z)).
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar, cast

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, compiler, is_grad_enabled
from torch._C import _are_functorch_transforms_active as transforms_active
from torch._functorch.utils import unwrap_dead_wrappers
from torch._prims_common.wrappers import _maybe_resize_out
from torch.overrides import handle_torch_function, has_torch_function_unary

from fusedgrad import operators

Number = int | float | complex  # that of torch.types leaves complex out

HALF_DTYPES = frozenset({torch.float16, torch.bfloat16})

Gradients = tuple[Tensor | None, ...]

_F = TypeVar("_F", bound=Callable[..., Any])


def is_transformed() -> bool:
    """Whether forward mode or a transform of torch.func is active."""
    return transforms_active() or forward_ad._current_level >= 0


def wide(value: Any) -> Any:
    """`value`, in float32 if it is a tensor of a half type."""
    if isinstance(value, Tensor) and value.dtype in HALF_DTYPES:
        return value.float()
    return value


def rounded_once(function: _F) -> _F:
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


def product(coefficient: Tensor | Number, value: Tensor) -> Tensor:
    """coefficient * value, where a coefficient of 0 outweighs an infinite value."""
    if isinstance(coefficient, Tensor):
        return torch.where(coefficient == 0, 0.0, coefficient * value)
    return coefficient * value if coefficient != 0 else torch.zeros_like(value)


def negative_half_plane(x: Tensor) -> Tensor:
    """Whether x, or its real part, is negative."""
    return (x.real if x.is_complex() else x) < 0


def exp_of_magnitude(x: Tensor) -> Tensor:
    """exp(-|x|), for complex x exp(x) or exp(-x), whichever is at most 1 in magnitude."""
    return torch.exp(torch.where(negative_half_plane(x), x, -x))


def even_derivative(a: Tensor) -> Tensor:
    """q s = a / (1 + a)²."""
    return a / ((1 + a) * (1 + a))


def sum_to(grad: Tensor, operand: Tensor) -> Tensor:
    """A gradient at the broadcast shape, at that of its operand."""
    # Ranks first: sizes of different dimensions compared are a guard of torch.export.
    same = grad.dim() == operand.dim() and grad.shape == operand.shape
    return grad if same else grad.sum_to_size(operand.shape)


def spread(values: Sequence[Tensor | None], mask: Sequence[bool]) -> Gradients:
    """One entry for each of `mask`, the next of `values` where it is set."""
    remaining = iter(values)
    return tuple(next(remaining) if wanted else None for wanted in mask)


def to_operands(grads: Gradients, operands: Sequence[Tensor]) -> Gradients:
    """Each gradient at the shape of its operand."""
    pairs = zip(grads, operands, strict=True)
    return tuple(grad if grad is None else sum_to(grad, operand) for grad, operand in pairs)


def autocast(name: str, *arguments: Any) -> Sequence[Any]:
    """The arguments as torch.autocast gives them to this operation where it is enabled."""
    devices = {argument.device.type for argument in arguments if isinstance(argument, Tensor)}
    devices = {
        device
        for device in devices
        # Dynamo traces the first call from PyTorch 2.12 on.
        if (device in ("cpu", "cuda") or torch.amp.is_autocast_available(device))
        and torch.is_autocast_enabled(device)
    }
    if devices == {"cpu"} and name == "pow":
        return arguments
    if devices - {"cpu"} and name == "binary_cross_entropy":
        raise RuntimeError(
            f"{name}() and BCELoss are unsafe to autocast: float16 and bfloat16 probabilities next "
            "to 1 lose the loss. Give the logits to binary_cross_entropy_with_logits or "
            "BCEWithLogitsLoss instead, which are safe."
        )
    return [
        argument.float()
        if isinstance(argument, Tensor)
        and (argument.is_floating_point() and argument.dtype is not torch.float64)
        and argument.device.type in devices
        else argument
        for argument in arguments
    ]


def check_tensor(name: str, argument: str, value: Any) -> None:
    """PyTorch's error for an argument that is no tensor."""
    if not isinstance(value, Tensor):
        kind = type(value).__name__
        raise TypeError(f"{name}(): argument '{argument}' must be Tensor, not {kind}")


def prepare_out(
    name: str, out: Any, dtype: torch.dtype, shape: torch.Size, requires_grad: bool
) -> None:
    """Check that `out` can hold such a result, and give it the shape."""
    check_tensor(name, "out", out)
    if is_grad_enabled() and (requires_grad or out.requires_grad):
        culprit = "out" if out.requires_grad else "an input"
        raise RuntimeError(
            f"{name}(): {culprit} requires grad, and functions with out=... arguments do not "
            "support automatic differentiation"
        )
    if not torch.can_cast(dtype, out.dtype):
        raise RuntimeError(
            f"{name}(): out has dtype {out.dtype}, which the result's {dtype} can't be cast to"
        )
    if out.shape != shape:
        # The operators would resize, too, but their warning does not reach Python.
        _maybe_resize_out(out, shape)


def promoted(input: Tensor) -> Tensor:
    """Integers and bool in the default dtype, as PyTorch promotes them."""
    if input.is_floating_point() or input.is_complex():
        return input
    return input.to(torch.get_default_dtype())


def traced(
    function: type[torch.autograd.Function], formula: Callable[..., Tensor], *arguments: Any
) -> Tensor:
    """`formula` of the arguments, with the backward of `function`, for torch.compile and export.

    Inside a transform of torch.func such a Function cannot be differentiated again nor batched:
    there PyTorch differentiates the formula. Where nothing is recorded Dynamo misreads a `forward`
    of any number of arguments.
    """
    recorded = torch.is_grad_enabled() and any(
        isinstance(argument, Tensor) and argument.requires_grad for argument in arguments
    )
    if transforms_active() or not recorded:
        return formula(*arguments)
    return cast(Tensor, function.apply(*arguments))  # type: ignore[no-untyped-call]


def traced_function(
    count: int, formula: Callable[..., Tensor], gradients: Callable[..., Sequence[Tensor]]
) -> type[torch.autograd.Function]:
    """The Function that `traced` takes, of `count` tensors, some of them absent, and what follows.

    It has formulas instead of kernels, so that Inductor fuses them with their neighbours, and no
    `jvp`, at which Dynamo would break the graph. `gradients` takes the gradient, the arguments and
    a mask of the gradients that are wanted.
    """

    class Traced(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Tensor:
            ctx.save_for_backward(*arguments[:count])
            ctx.others = arguments[count:]
            return formula(*arguments)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Gradients:
            operands, mask = ctx.saved_tensors, ctx.needs_input_grad[:count]
            grads = gradients(grad, *operands, *ctx.others, mask)
            own = to_operands(spread(grads, mask), operands)
            return *own, *[None] * len(ctx.others)

    return Traced


class Family(NamedTuple):
    """The formulas of a function's derivatives, and the operators that are named after them.

    Each takes what its name says, the input, a number that the function may take besides, and the
    order of the derivative f, which is 1 unless it is given; `second` and so on are its results.
    """

    backward: Callable[..., Tensor]  # grad f
    double_backward: Callable[..., tuple[Tensor, Tensor]]  # the gradients of that
    triple_backward: Callable[..., tuple[Tensor, Tensor, Tensor]]  # those of grad_grad grad f

    def gradients(self, *arguments: Any) -> list[Tensor]:
        """Those of the value, as `traced_function` takes them."""
        return [self.backward(*arguments[:-1])]


def register_family(name: str, overload: str, derivative: Callable[..., Tensor]) -> Family:
    """Formulas and fake functions for the operators of a family, from `derivative`.

    That is the derivative of the input, the number if there is one, and the order; `further` is
    added to the order.
    """

    @rounded_once
    def backward(grad: Tensor, input: Tensor, *rest: Any) -> Tensor:
        return grad * derivative(input, *rest).conj()

    @rounded_once
    def double_backward(
        grad_grad: Tensor, grad: Tensor, input: Tensor, *rest: Any
    ) -> tuple[Tensor, Tensor]:
        following = derivative(input, *rest, further=1)
        first = grad_grad * derivative(input, *rest)
        return first, grad_grad.conj() * grad * following.conj()

    @rounded_once
    def triple_backward(
        grad: Tensor, first: Tensor, second: Tensor, input: Tensor, *rest: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        own = derivative(input, *rest)
        following = derivative(input, *rest, further=1)
        return grad * second * own, grad * first * own, grad * first * second * following

    suffix = f".{overload}" if overload else ""
    for kind, formula, operands in (
        ("backward", backward, 2),
        ("double_backward", double_backward, 3),
        ("triple_backward", triple_backward, 4),
    ):
        fake = functools.partial(_fake_products, operands, operands - 1)
        operators.register(f"{name}_{kind}{suffix}", fake, formula)
    return Family(backward, double_backward, triple_backward)


def register_binary_family(name: str, derivative: Callable[..., Tensor]) -> None:
    """The same for the derivatives of a function of two tensors: of them, by each so many times."""

    @rounded_once
    def product_with(
        grad: Tensor, input: Tensor, second: Tensor, by_input: int, by_second: int
    ) -> Tensor:
        return product(grad, derivative(input, second, by_input, by_second).conj())

    @rounded_once
    def backward(
        grad_grad: Tensor, grad: Tensor, input: Tensor, second: Tensor, i: int, j: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        along = grad_grad.conj() * grad
        return (
            product(grad_grad, derivative(input, second, i, j)),
            product(along, derivative(input, second, i + 1, j).conj()),
            product(along, derivative(input, second, i, j + 1).conj()),
        )

    three, four = functools.partial(_fake_products, 3, 1), functools.partial(_fake_products, 4, 3)
    operators.register(f"{name}_derivative", three, product_with)
    operators.register(f"{name}_derivative_backward", four, backward)


def _fake_products(inputs: int, outputs: int, *arguments: Any) -> Any:
    result = operators._elementwise(*arguments[:inputs])
    others = [torch.empty_like(result) for _ in range(outputs - 1)]
    return (result, *others) if others else result


@dataclass
class UnaryOperation:
    """A function of one tensor: its public function, its formula, and what `traced` takes."""

    function: Callable[..., Tensor]
    formula: Callable[[Tensor], Tensor]
    traced: type[torch.autograd.Function]

    def __call__(self, input: Any, out: Any) -> Tensor:
        """Where it is not the short way of `_C` that takes the call."""
        if has_torch_function_unary(input):
            return handle_torch_function(self.function, (input,), input, out=out)
        name = self.function.__name__
        check_tensor(name, "input", input)
        if compiler.is_compiling():
            result = traced(self.traced, self.formula, promoted(input))
            return result if out is None else operators.store(result, out)
        operator = getattr(operators._ops, name)
        if out is None:
            return cast(Tensor, operator.default(input))
        dtype = torch.result_type(input, 1.0)  # integers and bool promote, as in PyTorch
        prepare_out(name, out, dtype, input.shape, input.requires_grad)
        if dtype.is_complex:
            return operators.store(self.formula(input), out)
        operator.out(input, out=out)
        return cast(Tensor, out)


def register_unary(
    function: Callable[..., Tensor],
    formula: Callable[[Tensor], Tensor],
    derivative: Callable[..., Tensor],
) -> tuple[UnaryOperation, Family]:
    """What the operators of a public function of one tensor do without kernels."""
    family = register_family(function.__name__, "", derivative)
    # Of dtype and strides as every unary function of PyTorch's
    operators.register_with_out(function.__name__, torch.sigmoid, formula)
    traced = traced_function(1, formula, family.gradients)
    return UnaryOperation(function, formula, traced), family


class Function(torch.autograd.Function):
    """A Function over an operator: other transforms and orders are the operator's.

    `apply` does not spend the 30 µs that `inspect.signature` takes unless a transform is active.
    """

    _apply: ClassVar[Callable[..., Any]]

    def __init_subclass__(cls) -> None:
        """Find the implementation of `apply` in C."""
        super().__init_subclass__()
        cls._apply = super(torch.autograd.Function, cls).apply  # type: ignore[misc]

    @classmethod
    def apply(cls, *arguments: Any) -> Any:
        """Records the call."""
        if transforms_active():
            return super().apply(*arguments)  # type: ignore[no-untyped-call]
        return cls._apply(*unwrap_dead_wrappers(arguments))

    # For subclasses with an apply of their own; Dynamo fails on super().apply there.
    _apply_checked = apply

    @classmethod
    def jvp(cls, ctx: Any, *tangents: Any) -> Any:
        """`push_forward` of the inputs and tangents."""
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


class OfOperators(Function):
    """Over two `operators`, of the value and of its gradients by the tensors, which come first.

    The second takes a mask of those wanted, and returns a list, unless there is one tensor only.
    """

    generate_vmap_rule = True
    operators: ClassVar[tuple[Any, Any]]

    @classmethod
    def forward(cls, *arguments: Any) -> Tensor:
        """The operator."""
        return cast(Tensor, cls.operators[0](*arguments))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Save the tensors, some of which may be absent."""
        operands = [value for value in inputs if value is None or isinstance(value, Tensor)]
        ctx.others = inputs[len(operands) :]
        save(ctx, *operands)

    @classmethod
    def _gradients(cls, ctx: Any, grad: Tensor, operands: Sequence[Any], mask: Any) -> Gradients:
        found = cls.operators[1](grad, *operands, *ctx.others, *[mask][: len(operands) - 1])
        return spread([found] if len(operands) == 1 else found, mask)

    @classmethod
    def backward(cls, ctx: Any, grad: Tensor) -> Gradients:
        """The gradients that are needed, of the operands' shapes."""
        operands = ctx.saved_tensors
        grads = cls._gradients(ctx, grad, operands, ctx.needs_input_grad[: len(operands)])
        return *to_operands(grads, operands), *[None] * len(ctx.others)

    @classmethod
    def push_forward(cls, ctx: Any, inputs: Sequence[Any], *tangents: Any) -> Tensor:
        """The sum of the derivatives, each times its tangent."""
        terms: list[Tensor] = []
        for i, tangent in enumerate(tangents[: len(inputs)]):
            if tangent is not None:
                mask = [i == j for j in range(len(inputs))]
                term = cls._gradients(ctx, tangent.conj(), inputs, mask)[i]
                terms.append(cast(Tensor, term).conj())
        return sum(terms[1:], start=terms[0])


def save(ctx: Any, *tensors: Tensor | None) -> None:
    """Keep the tensors for both modes."""
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)

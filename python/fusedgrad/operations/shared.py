"""What the operations share: dtypes, the parts of formulas, the checks of a call.

A formula is the mathematics of a kernel in PyTorch operations. It serves complex dtypes, devices
without kernels and torch.compile, which fuses it with its neighbours. Half types are computed in
float32 and rounded once. A complex function is holomorphic, and its gradients follow PyTorch's
convention: the gradient of y = f(z) is grad * conj(f'(z)).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, compiler, is_grad_enabled
from torch._C import _are_functorch_transforms_active as transforms_active
from torch._prims_common.wrappers import _maybe_resize_out

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


def those_wanted(outputs: Sequence[Callable[[], Tensor]], mask: Sequence[bool]) -> list[Tensor]:
    """The outputs whose entry of `mask` is set."""
    return [output() for output, want in zip(outputs, mask, strict=True) if want]


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
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
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
        and argument.dtype in HALF_DTYPES
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

    Such a Function has formulas instead of kernels, so that Inductor fuses them with their
    neighbours, and no `jvp`, at which Dynamo would break the graph. Inside a transform of
    torch.func it cannot be differentiated again nor batched: there PyTorch differentiates the
    formula.
    """
    if transforms_active():
        return formula(*arguments)
    return cast(Tensor, function.apply(*arguments))  # type: ignore[no-untyped-call]


def call_unary(
    name: str,
    function: Any,
    traced_function: type[torch.autograd.Function],
    formula: Callable[[Tensor], Tensor],
    input: Any,
    out: Any,
) -> Tensor:
    """A function of one tensor, where it is not the short way of `_C` that takes the call."""
    check_tensor(name, "input", input)
    if compiler.is_compiling():
        result = traced(traced_function, formula, promoted(input))
        return result if out is None else operators.store(result, out)
    operator = getattr(operators._ops, name)
    if out is not None:
        dtype = torch.result_type(input, 1.0)  # integers and bool promote, as in PyTorch
        prepare_out(name, out, dtype, input.shape, input.requires_grad)
        if dtype.is_complex:
            return operators.store(formula(input), out)
        operator.out(input, out=out)
        return cast(Tensor, out)
    # Operators record real operands themselves.
    if is_transformed() or input.is_complex():
        return cast(Tensor, function.apply(input))
    return cast(Tensor, operator.default(input))

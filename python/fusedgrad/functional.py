"""The public functions: PyTorch's signatures, defaults, type promotion and errors.

A call of ordinary tensors goes straight to the operator, by the functions of `_C`, which refuse any
other with NotImplemented. The operator records real operands for a backward; what it cannot do goes
through the Function of `fusedgrad.autograd`: complex operands that require a gradient, forward
mode, and the transforms of torch.func.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, compiler, is_grad_enabled
from torch._C import _are_functorch_transforms_active as transforms_active
from torch._C import _is_any_autocast_enabled as autocasting
from torch._prims_common.wrappers import _maybe_resize_out
from torch.compiler import is_dynamo_compiling
from torch.nn import _reduction
from torch.overrides import (
    handle_torch_function,
    has_torch_function_unary,
    has_torch_function_variadic,
)

from fusedgrad import _C, autograd, operators, reference, traced
from fusedgrad.reference import Number

_REDUCTIONS = {"none": reference.NONE, "mean": reference.MEAN, "sum": reference.SUM}

_NAMES = {code: name for name, code in _REDUCTIONS.items()}

# The operators record real operands themselves.
_sigmoid = operators.Table(operators._ops.sigmoid.default, autograd.Sigmoid.apply)
_tanh = operators.Table(operators._ops.tanh.default, autograd.Tanh.apply)
# What PyTorch raises where bool has no arithmetic.
_NoBoolArithmetic = (
    NotImplementedError
    if torch.torch_version.TorchVersion(torch.__version__) >= "2.14"
    else RuntimeError
)

_pow = operators._ops.pow


def sigmoid(input: Tensor, *, out: Tensor | None = None) -> Tensor:
    """1 / (1 + exp(-input)), elementwise, as `torch.sigmoid`.

    With a = exp(-|x|), s = 1 / (1 + a) and q = a s: the value is s for x >= 0 and q below, the
    derivative q s, the second derivative -q s tanh(x / 2). None of them cancels, in either tail.

    Args:
        input: a tensor of any shape and dtype; integers and bool give the default dtype.
        out: where to write the result; resized to its shape, and no gradient is recorded.

    Raises:
        TypeError: `input` or `out` is not a tensor.
        RuntimeError: `out` cannot hold the result's dtype, or a gradient would have to be recorded.
    """
    if out is None and not (is_dynamo_compiling() or compiler._is_compiling_flag):
        result = _C.sigmoid(input)
        if result is not NotImplemented:
            return cast(Tensor, result)
    if has_torch_function_unary(input):
        return handle_torch_function(sigmoid, (input,), input, out=out)
    if out is not None or not isinstance(input, Tensor):
        return _unary_out("sigmoid", operators.sigmoid, operators._ops.sigmoid.out, input, out)
    if is_dynamo_compiling() or compiler._is_compiling_flag:
        return traced.sigmoid(input)
    if transforms_active() or forward_ad._current_level >= 0:
        return cast(Tensor, autograd.Sigmoid.apply(input))
    return cast(Tensor, _sigmoid[input.dtype](input))


def tanh(input: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The hyperbolic tangent, elementwise, as `torch.tanh`.

    With a = exp(-2|x|), s = 1 / (1 + a) and q = a s: the derivative is 4 q s = sech²(x), the second
    derivative -2 tanh(x) sech²(x), both from the input: they keep all digits in the tails.

    Args:
        input: a tensor of any shape and dtype; integers and bool give the default dtype.
        out: where to write the result; resized to its shape, and no gradient is recorded.

    Raises:
        TypeError: `input` or `out` is not a tensor.
        RuntimeError: `out` cannot hold the result's dtype, or a gradient would have to be recorded.
    """
    if out is None and not (is_dynamo_compiling() or compiler._is_compiling_flag):
        result = _C.tanh(input)
        if result is not NotImplemented:
            return cast(Tensor, result)
    if has_torch_function_unary(input):
        return handle_torch_function(tanh, (input,), input, out=out)
    if out is not None or not isinstance(input, Tensor):
        return _unary_out("tanh", operators.tanh, operators._ops.tanh.out, input, out)
    if is_dynamo_compiling() or compiler._is_compiling_flag:
        return traced.tanh(input)
    if transforms_active() or forward_ad._current_level >= 0:
        return cast(Tensor, autograd.Tanh.apply(input))
    return cast(Tensor, _tanh[input.dtype](input))


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
        input, exponent = _autocast("pow", input, exponent)
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
            return operators.store(traced.pow(input, exponent), out)
        shapes = [value.shape for value in (input, exponent) if isinstance(value, Tensor)]
        shape = torch.broadcast_shapes(*shapes)  # type: ignore[no-untyped-call]
        _prepare_out("pow", out, torch.result_type(input, exponent), shape, requires_grad)
        getattr(_pow, f"{operator._overloadname}_out")(input, exponent, out=out)
        return out
    if is_dynamo_compiling() or compiler._is_compiling_flag:
        return traced.pow(input, exponent)
    if (
        transforms_active()
        or forward_ad._current_level >= 0
        or (requires_grad and not _recorded_by_operator(input, exponent))
    ):
        return cast(Tensor, autograd.Pow.apply(input, exponent))
    return cast(Tensor, operator(input, exponent))


def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """The logistic loss of probabilities, as `torch.nn.functional.binary_cross_entropy`.

    -weight * (target * ln(input) + (1 - target) * ln(1 - input)), each logarithm at least -100; the
    derivative by the input is weight * (input - target) / max(input * (1 - input), 1e-12).

    Args:
        input: probabilities, of any shape; float64, float32, float16 or bfloat16.
        target: of the shape and dtype of `input`, values in [0, 1].
        weight: a factor of each loss, broadcast to the shape of `input`.
        size_average: deprecated in PyTorch; with `reduce` it overrides `reduction`.
        reduce: deprecated in PyTorch; with `size_average` it overrides `reduction`.
        reduction: 'none' for a loss of the shape of `input`, 'mean' or 'sum' for a 0-dim one,
            accumulated in float64.

    Raises:
        ValueError: the shape of `target` is not that of `input`; an unknown `reduction`.
        RuntimeError: an element of `input` or `target` outside [0, 1], on a CUDA device NaN
            instead; a dtype of `target` other than that of `input`; a complex `weight`, or one
            that does not broadcast to `input`.
        NotImplementedError: a dtype without a loss, integers among them.
        TypeError: an argument that is not a tensor.
    """
    if (
        weight is None
        and size_average is None
        and reduce is None
        and not is_dynamo_compiling()
        and not compiler._is_compiling_flag
    ):
        result = _C.binary_cross_entropy(input, target, reduction)
        if result is not NotImplemented:
            return cast(Tensor, result)
    if has_torch_function_variadic(input, target, weight):
        return handle_torch_function(
            binary_cross_entropy,
            (input, target, weight),
            input,
            target,
            weight=weight,
            size_average=size_average,
            reduce=reduce,
            reduction=reduction,
        )
    name = "binary_cross_entropy"
    if autocasting():
        input, target, weight = _autocast(name, input, target, weight)
    code = _reduction_code(name, reduction, size_average, reduce)
    _check_target(name, input, target)
    if target.dtype is not input.dtype:
        raise RuntimeError(
            f"{name}(): target has dtype {target.dtype}, expected the dtype of input, {input.dtype}"
        )
    _check_has_loss(name, input)
    if weight is not None:
        weight = _weight(name, "weight", weight, input)
    if is_dynamo_compiling() or compiler._is_compiling_flag:
        return traced.binary_cross_entropy(input, target, weight, code)
    if transforms_active() or forward_ad._current_level >= 0:
        return cast(Tensor, autograd.BinaryCrossEntropy.apply(input, target, weight, code))
    return cast(Tensor, operators.binary_cross_entropy(input, target, weight, code))


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """The logistic loss of logits, as `torch.nn.functional.binary_cross_entropy_with_logits`.

    weight * (pos_weight * target * softplus(-input) + (1 - target) * softplus(input)), where
    softplus(x) = max(x, 0) + log1p(exp(-|x|)): a sum of terms that are not negative, so that no
    digit is lost where the prediction is right. A term with a weight of 0 is 0 for infinite logits.

    Args:
        input: logits, of any shape; float64, float32, float16 or bfloat16.
        target: of the shape of `input`, values in [0, 1]; its dtype is that of the result.
        weight: a factor of each loss, broadcast to the shape of `input`.
        size_average: deprecated in PyTorch; with `reduce` it overrides `reduction`.
        reduce: deprecated in PyTorch; with `size_average` it overrides `reduction`.
        reduction: 'none' for a loss of the shape of `input`, 'mean' or 'sum' for a 0-dim one,
            accumulated in float64.
        pos_weight: a factor of the target's term, broadcast to the shape of `input`.

    Raises:
        ValueError: the shape of `target` is not that of `input`; an unknown `reduction`.
        RuntimeError: an integer `target`; a complex weight, or one that does not broadcast to
            `input`.
        NotImplementedError: a dtype of `input` without a loss, integers among them.
        TypeError: an argument that is not a tensor.
    """
    if (
        weight is None
        and pos_weight is None
        and size_average is None
        and reduce is None
        and not is_dynamo_compiling()
        and not compiler._is_compiling_flag
    ):
        result = _C.binary_cross_entropy_with_logits(input, target, reduction)
        if result is not NotImplemented:
            return cast(Tensor, result)
    if has_torch_function_variadic(input, target, weight, pos_weight):
        return handle_torch_function(
            binary_cross_entropy_with_logits,
            (input, target, weight, pos_weight),
            input,
            target,
            weight=weight,
            size_average=size_average,
            reduce=reduce,
            reduction=reduction,
            pos_weight=pos_weight,
        )
    name = "binary_cross_entropy_with_logits"
    if autocasting():
        input, target, weight, pos_weight = _autocast(name, input, target, weight, pos_weight)
    code = _reduction_code(name, reduction, size_average, reduce)
    _check_target(name, input, target)
    _check_has_loss(name, input)
    if target.dtype is not input.dtype:
        return _mixed_logits(name, input, target, weight, pos_weight, code)
    if weight is not None:
        weight = _weight(name, "weight", weight, input)
    if pos_weight is not None:
        pos_weight = _weight(name, "pos_weight", pos_weight, input)
    if is_dynamo_compiling() or compiler._is_compiling_flag:
        return traced.binary_cross_entropy_with_logits(input, target, weight, pos_weight, code)
    if transforms_active() or forward_ad._current_level >= 0:
        return cast(
            Tensor,
            autograd.BinaryCrossEntropyWithLogits.apply(input, target, weight, pos_weight, code),
        )
    return cast(
        Tensor, operators.binary_cross_entropy_with_logits(input, target, weight, pos_weight, code)
    )


def _autocast(name: str, *arguments: Any) -> Sequence[Any]:
    """The arguments as torch.autocast gives them to this operation where it is enabled."""
    devices = {argument.device.type for argument in arguments if isinstance(argument, Tensor)}
    devices = {device for device in devices if torch.is_autocast_enabled(device)}
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
        and argument.dtype in reference.HALF_DTYPES
        and argument.device.type in devices
        else argument
        for argument in arguments
    ]


def _unary_out(
    name: str,
    table: operators.Table,
    out_operator: Callable[..., None],
    input: Any,
    out: Any,
) -> Tensor:
    _check_tensor(name, "input", input)
    if compiler.is_compiling():
        return operators.store(getattr(traced, name)(input), out)
    dtype = torch.result_type(input, 1.0)  # integers and bool promote, as in PyTorch
    _prepare_out(name, out, dtype, input.shape, input.requires_grad)
    if dtype.is_complex:
        return operators.store(table[dtype](input), out)
    out_operator(input, out=out)
    return cast(Tensor, out)


def _check_tensor(name: str, argument: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        kind = type(value).__name__
        raise TypeError(f"{name}(): argument '{argument}' must be Tensor, not {kind}")


def _prepare_out(
    name: str, out: Any, dtype: torch.dtype, shape: torch.Size, requires_grad: bool
) -> None:
    """Check that `out` can hold such a result, and give it the shape."""
    _check_tensor(name, "out", out)
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


def _reduction_code(
    name: str, reduction: Any, size_average: bool | None, reduce: bool | None
) -> int:
    if size_average is not None or reduce is not None:
        if isinstance(size_average, str):
            raise TypeError(f"{name}(): pass reduction={size_average!r} by keyword")
        return _reduction.legacy_get_enum(size_average, reduce)
    try:
        return _REDUCTIONS[reduction]
    except (KeyError, TypeError):
        pass
    if reduction == "elementwise_mean":  # PyTorch's deprecated name, with its warning
        return _reduction.get_enum(reduction)
    raise ValueError(f"{name}(): reduction is {reduction!r}, expected 'none', 'mean' or 'sum'")


def _check_target(name: str, input: Any, target: Any) -> None:
    _check_tensor(name, "input", input)
    _check_tensor(name, "target", target)
    if target.shape != input.shape:
        raise ValueError(
            f"{name}(): target has size {tuple(target.shape)}, "
            f"expected the size of input, {tuple(input.shape)}"
        )


def _check_has_loss(name: str, input: Tensor) -> None:
    if input.dtype not in operators.KERNEL_DTYPES:
        raise NotImplementedError(
            f"{name}(): input has dtype {input.dtype}, "
            "expected float64, float32, float16 or bfloat16"
        )


def _weight(name: str, argument: str, weight: Any, input: Tensor) -> Tensor:
    """The weight in the dtype of the input."""
    _check_tensor(name, argument, weight)
    assert isinstance(weight, Tensor)
    no_bool = argument == "pos_weight" and weight.dtype is torch.bool
    if weight.dtype.is_complex or no_bool:
        raise (_NoBoolArithmetic if no_bool else RuntimeError)(
            f"{name}(): {argument} has dtype {weight.dtype}, "
            f"which can't be cast to the dtype of input, {input.dtype}"
        )
    if not _broadcasts_to(weight.shape, input.shape):
        raise RuntimeError(
            f"{name}(): {argument} has size {tuple(weight.shape)}, "
            f"expected one that broadcasts to the size of input, {tuple(input.shape)}"
        )
    return weight if weight.dtype is input.dtype else weight.to(input.dtype)


def _broadcasts_to(shape: torch.Size, larger: torch.Size) -> bool:
    pairs = zip(reversed(shape), reversed(larger), strict=False)
    return len(shape) <= len(larger) and all(a == 1 or a == b for a, b in pairs)


def _mixed_logits(
    name: str,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    code: int,
) -> Tensor:
    """The loss where target has another dtype than input: the result's is the target's."""
    if target.dtype.is_complex:
        loss = reference.binary_cross_entropy_with_logits(input, target, weight, pos_weight, code)
        return loss.to(target.dtype)
    if target.dtype not in operators.KERNEL_DTYPES:
        raise (_NoBoolArithmetic if target.dtype is torch.bool else RuntimeError)(
            f"{name}(): target has dtype {target.dtype}, expected a floating-point one: "
            "the result's dtype is the target's"
        )
    common = torch.promote_types(input.dtype, target.dtype)
    return binary_cross_entropy_with_logits(
        input.to(common),
        target.to(common),
        weight,
        reduction=_NAMES[code],
        pos_weight=pos_weight,
    ).to(target.dtype)

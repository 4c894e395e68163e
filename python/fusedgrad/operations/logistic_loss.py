"""The logistic loss, of logits and of probabilities, with weights and a reduction.

Of logits it is w (p t softplus(-x) + (1 - t) softplus(x)), p being pos_weight; of probabilities
-w (t max(ln p, -100) + (1 - t) max(ln(1 - p), -100)).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, compiler
from torch._C import _are_functorch_transforms_active as transforms_active
from torch._C import _is_any_autocast_enabled as autocasting
from torch.compiler import is_dynamo_compiling
from torch.nn import _reduction
from torch.overrides import handle_torch_function, has_torch_function_variadic

from fusedgrad import _C, operators
from fusedgrad.operations.shared import (
    OfOperators,
    autocast,
    check_tensor,
    even_derivative,
    exp_of_magnitude,
    product,
    register_binary_family,
    rounded_once,
    traced,
    traced_function,
    wide,
)
from fusedgrad.operators import _elementwise, _two, register

NONE, MEAN, SUM = 0, 1, 2

_REDUCTIONS = {"none": NONE, "mean": MEAN, "sum": SUM}

_NAMES = {code: name for name, code in _REDUCTIONS.items()}

# What PyTorch raises where bool has no arithmetic.
_NoBoolArithmetic = (
    NotImplementedError
    if torch.torch_version.TorchVersion(torch.__version__) >= "2.14"
    else RuntimeError
)

_ops = operators._ops


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
        input, target, weight = autocast(name, input, target, weight)
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
        return traced(_TracedOfProbabilities, probability_formula, input, target, weight, code)
    return cast(Tensor, _ops.binary_cross_entropy.default(input, target, weight, code))


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
        input, target, weight, pos_weight = autocast(name, input, target, weight, pos_weight)
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
        return traced(_TracedOfLogits, logits_formula, input, target, weight, pos_weight, code)
    return cast(
        Tensor,
        _ops.binary_cross_entropy_with_logits.default(input, target, weight, pos_weight, code),
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
    check_tensor(name, "input", input)
    check_tensor(name, "target", target)
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
    check_tensor(name, argument, weight)
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
        loss = logits_formula(input, target, weight, pos_weight, code)
        return cast(Tensor, loss.to(target.dtype))
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


def reduced(loss: Tensor, reduction: int) -> Tensor:
    """The losses, their mean or their sum."""
    if reduction == MEAN:
        return loss.mean()
    return loss.sum() if reduction == SUM else loss


def mean_factor(input: Tensor, reduction: int) -> float:
    """What the derivative of one loss is multiplied by before it reaches the reduced loss."""
    if reduction != MEAN:
        return 1.0
    return 1 / input.numel() if input.numel() else math.nan


def or_one(weight: Tensor | None, input: Tensor) -> Tensor:
    """The weight; one if there is none."""
    return input.new_ones(()) if weight is None else weight


def _logits_loss(x: Tensor, t: Tensor, p: Tensor) -> Tensor:
    # No term is negative for t in [0, 1]; the coefficient of |x| may be 0 where x is infinite.
    slope = torch.where(x < 0, p * t, 1 - t)
    return product(slope, x.abs()) + (1 - t + p * t) * torch.log1p(exp_of_magnitude(x))


def _logits_input_derivative(x: Tensor, t: Tensor, p: Tensor) -> Tensor:
    a = exp_of_magnitude(x)
    tail = (1 - t + p * t) * (a / (1 + a))
    return torch.where(x < 0, tail - p * t, 1 - t - tail)


def _logits_target_derivative(x: Tensor, p: Tensor) -> Tensor:
    slope = torch.where(x < 0, p, 1.0)
    return (p - 1) * torch.log1p(exp_of_magnitude(x)) - product(slope, x)


def _logits_pos_weight_derivative(x: Tensor, t: Tensor) -> Tensor:
    return product(t, (-x).clamp(min=0) + torch.log1p(exp_of_magnitude(x)))


def _check_probabilities(input: Tensor, target: Tensor) -> None:
    if transforms_active():  # the assertion has no batching rule
        return
    for name, value in {"input": input, "target": target}.items():
        inside = ((value >= 0) & (value <= 1)).all()  # false for NaN, as in PyTorch
        torch._assert_async(
            inside, f"binary_cross_entropy: all elements of {name} should be between 0 and 1"
        )


def _smallest_log() -> float:
    return -100.0


def smallest_variance() -> float:
    """The least denominator p (1 - p) of the derivative by a probability."""
    return 1e-12


def _clamped_logs(p: Tensor) -> tuple[Tensor, Tensor]:
    return torch.log(p).clamp(min=_smallest_log()), torch.log1p(-p).clamp(min=_smallest_log())


def _probability_loss(p: Tensor, t: Tensor) -> Tensor:
    log, log_of_complement = _clamped_logs(p)
    return -(t * log + (1 - t) * log_of_complement)


def _probability_input_derivative(p: Tensor, t: Tensor) -> Tensor:
    return (p - t) / (p * (1 - p)).clamp(min=smallest_variance())


def _probability_target_derivative(p: Tensor) -> Tensor:
    log, log_of_complement = _clamped_logs(p)
    return log_of_complement - log


def probability_derivative(p: Tensor, t: Tensor, by_input: int, by_target: int) -> Tensor:
    """A higher derivative of the loss, whose first is clamped: it is linear in the target.

    (n-1)! ((-1)^n t / p^n + (1 - t) / (1 - p)^n) by the input n times, where it is not clamped.
    """
    factorial = math.factorial(by_input - 1)
    coefficients: list[tuple[Any, Any]] = [(t, 1 - t), (1.0, -1.0), (0.0, 0.0)]
    left, right = coefficients[min(by_target, 2)]
    clamped = {(2, 0): 1.0, (1, 1): -1.0}.get((by_input, by_target), 0.0) / smallest_variance()
    inside = p * (1 - p) >= smallest_variance()
    p = torch.where(inside, p, 0.5)
    falling = product((-1) ** by_input * factorial * left, p**-by_input)
    rising = product(factorial * right, (1 - p) ** -by_input)
    return torch.where(inside, falling + rising, clamped)


_Term = Callable[..., Tensor]  # of the weight, the input, the target and, of logits, pos_weight


def _formulas(
    times: _Term,
    partials: Sequence[_Term],
    second: _Term,
    check: Callable[[Tensor, Tensor], None] | None = None,
) -> Sequence[Callable[..., Any]]:
    """The loss, its wanted gradients by the operands, and those of the gradient by the input.

    With the operators' arguments: the operands, and what else there is. Of the `partials` by each
    operand, that by the weight is the loss without it.
    """

    def with_ones(input: Tensor, target: Tensor, *weights: Tensor | None) -> Sequence[Tensor]:
        weight, *pos_weight = (or_one(each, input) for each in weights)
        return weight, input, target, *pos_weight

    @rounded_once
    def formula(*arguments: Any) -> Tensor:
        *operands, reduction = arguments
        input, target, weight, *_ = operands
        if check is not None:
            check(input, target)
        loss = partials[2](*with_ones(*operands))
        return reduced(loss if weight is None else times(weight, loss), reduction)

    @rounded_once
    def backward(grad: Tensor, *arguments: Any) -> list[Tensor]:
        *operands, reduction, output_mask = arguments
        scaled = grad * mean_factor(operands[0], reduction)
        terms = with_ones(*operands)
        wanted = (partial for partial, want in zip(partials, output_mask, strict=True) if want)
        return [scaled * partial(*terms) for partial in wanted]

    @rounded_once
    def double_backward(grad_grad: Tensor, grad: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
        *operands, reduction = arguments
        scaled = grad_grad * mean_factor(operands[0], reduction)
        terms = with_ones(*operands)
        return scaled * partials[0](*terms), scaled * grad * second(*terms)

    return formula, backward, double_backward


logits_formula, logits_backward_formula, logits_double_backward_formula = _formulas(
    product,
    (
        lambda w, x, t, p: w * _logits_input_derivative(x, t, p),
        lambda w, x, t, p: product(w, _logits_target_derivative(x, p)),
        lambda w, x, t, p: _logits_loss(x, t, p),
        lambda w, x, t, p: product(w, _logits_pos_weight_derivative(x, t)),
    ),
    lambda w, x, t, p: w * (1 - t + p * t) * even_derivative(exp_of_magnitude(x)),
)

probability_formula, probability_backward_formula, probability_double_backward_formula = _formulas(
    torch.mul,
    (
        lambda w, p, t: w * _probability_input_derivative(p, t),
        lambda w, p, t: w * _probability_target_derivative(p),
        lambda w, p, t: _probability_loss(p, t),
    ),
    lambda w, p, t: w * probability_derivative(p, t, 2, 0),
    _check_probabilities,
)


def _fake_loss(deciding: int) -> Callable[..., Tensor]:
    """The loss as fake tensors see it: it lies in memory as one of the operands does."""

    def loss(*operands_and_reduction: Any) -> Tensor:
        *operands, reduction = operands_and_reduction
        result = _elementwise(-operands[deciding], *operands)
        return result if reduction == NONE else result.new_empty(())

    return loss


def _fake_loss_backward(*arguments: Any) -> list[Tensor]:
    *operands, _reduction, output_mask = arguments
    _, input, target, *weights = operands
    # The first operations of PyTorch's formulas decide how the gradients lie.
    deciding = [-input] * len(output_mask)
    if len(weights) == 2 and weights[1] is not None:
        deciding[0] = weights[1] * target
        if input.is_cpu:
            deciding[1] = deciding[1].contiguous()  # log_sigmoid's
    return [
        _elementwise(first, *operands)
        for first, wanted in zip(deciding, output_mask, strict=True)
        if wanted
    ]


def _fake_loss_double_backward(*operands_and_reduction: Any) -> tuple[Tensor, Tensor]:
    *operands, _reduction = operands_and_reduction
    return _two(*operands)


def _register(name: str, fake: Callable[..., Any], formula: Callable[..., Any]) -> None:
    """An operator of a loss: with a rule for vmap, which is not elementwise in a reduction."""
    operator = getattr(_ops, name).default
    names = [argument.name for argument in operator._schema.arguments]
    first, reduction = names.index("input"), names.index("reduction")

    def batch(size: int, *arguments: Any) -> Any:
        values = list(arguments)
        shape = torch.broadcast_shapes(*(v.shape for v in values if isinstance(v, Tensor)))  # type: ignore[no-untyped-call]
        values[first : first + 2] = [value.expand(shape) for value in values[first : first + 2]]
        values[reduction] = NONE
        results = operator(*values)
        code = arguments[reduction]
        if code == NONE:
            return results
        count = math.prod(shape[1:])
        if first == 0:  # the loss itself
            loss = results.reshape(size, count)
            return loss.mean(1) if code == MEAN else loss.sum(1)
        factor = 1.0 if code == SUM else 1 / count if count else math.nan
        return type(results)(result * factor for result in results)

    register(name, fake, formula, stacks="output_mask" not in names, batch=batch)


for _name, _deciding, _of_loss in (
    (
        "binary_cross_entropy_with_logits",
        1,
        (logits_formula, logits_backward_formula, logits_double_backward_formula),
    ),
    (
        "binary_cross_entropy",
        0,
        (probability_formula, probability_backward_formula, probability_double_backward_formula),
    ),
):
    _register(_name, _fake_loss(_deciding), _of_loss[0])
    _register(f"{_name}_backward", _fake_loss_backward, _of_loss[1])
    _register(f"{_name}_double_backward", _fake_loss_double_backward, _of_loss[2])

register_binary_family("binary_cross_entropy", probability_derivative)


class _Loss(OfOperators):
    """Of an input, a target and weights that may be absent, and the code of a reduction."""

    @classmethod
    def push_forward(cls, ctx: Any, inputs: Sequence[Any], *tangents: Any) -> Tensor:
        """The sum of the derivatives, each times its tangent, rounded once."""
        total = super().push_forward(ctx, [*map(wide, inputs)], *map(wide, tangents))
        reduced = total if ctx.others == (NONE,) else total.sum()
        return reduced.to(inputs[0].dtype)


class BinaryCrossEntropyWithLogits(_Loss):
    """`BinaryCrossEntropyWithLogits.apply(input, target, weight, pos_weight, reduction)`.

    weight * (pos_weight * target * softplus(-input) + (1 - target) * softplus(input)), where
    softplus(x) = ln(1 + exp(x)); reduction is 0 (none), 1 (mean) or 2 (sum). Differentiable in
    every tensor, which must all be of one dtype.
    """

    operators = (
        _ops.binary_cross_entropy_with_logits.default,
        _ops.binary_cross_entropy_with_logits_backward.default,
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


class BinaryCrossEntropy(_Loss):
    """`BinaryCrossEntropy.apply(input, target, weight, reduction)`.

    -weight * (target * ln(input) + (1 - target) * ln(1 - input)), each logarithm at least -100, and
    the gradient's denominator input * (1 - input) at least 1e-12, as in PyTorch; reduction is
    0 (none), 1 (mean) or 2 (sum). Differentiable in every tensor, which must all be of one dtype.
    """

    operators = _ops.binary_cross_entropy.default, _ops.binary_cross_entropy_backward.default

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


_TracedOfProbabilities = traced_function(3, probability_formula, probability_backward_formula)
_TracedOfLogits = traced_function(4, logits_formula, logits_backward_formula)

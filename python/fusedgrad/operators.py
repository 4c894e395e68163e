"""The operators as Python sees them: what runs where there is no kernel.

Complex tensors take the function of `fusedgrad.reference` with the operator's name: `sigmoid`,
`sigmoid_backward`, ... are tables from dtype to callable. Tensors on a device without kernels reach
the same function through PyTorch's dispatcher, and fake tensors the functions of their shape.
"""

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fusedgrad import _C, reference

KERNEL_DTYPES = frozenset({torch.float64, torch.float32, torch.float16, torch.bfloat16})

_ops = torch.ops.fusedgrad


class Table(dict[torch.dtype, Callable[..., Any]]):
    """The callable for each dtype: half the overhead of a function that chooses."""

    def __init__(self, operator: Callable[..., Any], complex_function: Callable[..., Any]) -> None:
        """`operator` for real dtypes, `complex_function` for complex ones."""
        super().__init__(dict.fromkeys(KERNEL_DTYPES, operator))
        self.operator = operator
        self.complex_function = complex_function

    def __missing__(self, dtype: torch.dtype) -> Callable[..., Any]:
        """For a dtype without a kernel: the operators promote integers and refuse the rest."""
        return self.complex_function if dtype.is_complex else self.operator


sigmoid = Table(_ops.sigmoid.default, reference.sigmoid)
sigmoid_backward = Table(_ops.sigmoid_backward.default, reference.sigmoid_backward)
sigmoid_double_backward = Table(
    _ops.sigmoid_double_backward.default, reference.sigmoid_double_backward
)
tanh = Table(_ops.tanh.default, reference.tanh)
tanh_backward = Table(_ops.tanh_backward.default, reference.tanh_backward)
tanh_double_backward = Table(_ops.tanh_double_backward.default, reference.tanh_double_backward)
pow_scalar = Table(_ops.pow.Tensor_Scalar, reference.pow)
pow_scalar_backward = Table(_ops.pow_backward.Tensor_Scalar, reference.pow_scalar_backward)
pow_scalar_double_backward = Table(
    _ops.pow_double_backward.Tensor_Scalar, reference.pow_scalar_double_backward
)
pow = Table(_ops.pow.Tensor_Tensor, reference.pow)
pow_backward = Table(_ops.pow_backward.Tensor_Tensor, reference.pow_backward)
pow_double_backward = Table(_ops.pow_double_backward.Tensor_Tensor, reference.pow_double_backward)
# PyTorch has no binary cross-entropy of complex numbers.
binary_cross_entropy = _ops.binary_cross_entropy.default
binary_cross_entropy_backward = _ops.binary_cross_entropy_backward.default
binary_cross_entropy_double_backward = _ops.binary_cross_entropy_double_backward.default
binary_cross_entropy_with_logits = _ops.binary_cross_entropy_with_logits.default
binary_cross_entropy_with_logits_backward = _ops.binary_cross_entropy_with_logits_backward.default
binary_cross_entropy_with_logits_double_backward = (
    _ops.binary_cross_entropy_with_logits_double_backward.default
)


def _elementwise(*operands: Tensor | None) -> Tensor:
    """What an elementwise operation of the operands returns: PyTorch's shape, strides and dtype."""
    result, *others = (operand for operand in operands if operand is not None)
    while others:
        first, second = others[0], others[1] if len(others) > 1 else others[0]
        result = torch.addcmul(result, first, second)
        others = others[2:]
    return result


def _two(*operands: Tensor | None) -> tuple[Tensor, Tensor]:
    result = _elementwise(*operands)
    return result, torch.empty_like(result)


def _pow_double_backward(*operands: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return *_two(*operands), _elementwise(*operands)


def _pow_backward(
    grad: Tensor, input: Tensor, exponent: Tensor, output_mask: Sequence[bool]
) -> list[Tensor]:
    return [_elementwise(grad, input, exponent) for wanted in output_mask if wanted]


def _loss(*operands_and_reduction: Any) -> Tensor:
    *operands, reduction = operands_and_reduction
    result = _elementwise(*operands)
    return result if reduction == reference.NONE else result.new_empty(())


def _loss_backward(*arguments: Any) -> list[Tensor]:
    *operands, _reduction, output_mask = arguments
    return [_elementwise(*operands) for wanted in output_mask if wanted]


def _loss_double_backward(*operands_and_reduction: Any) -> tuple[Tensor, Tensor]:
    *operands, _reduction = operands_and_reduction
    return _two(*operands)


def store(result: Tensor, out: Tensor) -> Tensor:
    """Write `result` into `out` as an operation of PyTorch with `out=` would: resized and cast."""
    return torch.sub(result, 0, out=out)  # exact, and PyTorch has no copy with out=


def _stored(function: Callable[..., Tensor]) -> Callable[..., None]:
    def with_out(*arguments: Any, out: Tensor) -> None:
        store(function(*arguments), out)

    return with_out


# operator: (for fake tensors, for devices without a kernel)
_IMPLEMENTATIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "sigmoid": (torch.sigmoid, reference.sigmoid),
    "sigmoid.out": (_stored(torch.sigmoid), _stored(reference.sigmoid)),
    "sigmoid_backward": (torch.mul, reference.sigmoid_backward),
    "sigmoid_double_backward": (_two, reference.sigmoid_double_backward),
    "tanh": (torch.tanh, reference.tanh),
    "tanh.out": (_stored(torch.tanh), _stored(reference.tanh)),
    "tanh_backward": (torch.mul, reference.tanh_backward),
    "tanh_double_backward": (_two, reference.tanh_double_backward),
    "pow.Tensor_Scalar": (torch.pow, reference.pow),
    "pow.Tensor_Tensor": (torch.pow, reference.pow),
    "pow.Scalar": (torch.mul, reference.pow),
    "pow.Tensor_Scalar_out": (_stored(torch.pow), _stored(reference.pow)),
    "pow.Tensor_Tensor_out": (_stored(torch.pow), _stored(reference.pow)),
    "pow.Scalar_out": (_stored(torch.pow), _stored(reference.pow)),
    "pow_backward.Tensor_Scalar": (
        lambda grad, input, exponent: torch.mul(grad, input),
        reference.pow_scalar_backward,
    ),
    "pow_backward.Tensor_Tensor": (_pow_backward, reference.pow_backward),
    "pow_double_backward.Tensor_Scalar": (
        lambda grad_grad, grad, input, exponent: _two(grad_grad, grad, input),
        reference.pow_scalar_double_backward,
    ),
    "pow_double_backward.Tensor_Tensor": (_pow_double_backward, reference.pow_double_backward),
    "binary_cross_entropy": (_loss, reference.binary_cross_entropy),
    "binary_cross_entropy_backward": (_loss_backward, reference.binary_cross_entropy_backward),
    "binary_cross_entropy_double_backward": (
        _loss_double_backward,
        reference.binary_cross_entropy_double_backward,
    ),
    "binary_cross_entropy_with_logits": (_loss, reference.binary_cross_entropy_with_logits),
    "binary_cross_entropy_with_logits_backward": (
        _loss_backward,
        reference.binary_cross_entropy_with_logits_backward,
    ),
    "binary_cross_entropy_with_logits_double_backward": (
        _loss_double_backward,
        reference.binary_cross_entropy_with_logits_double_backward,
    ),
}


@functools.cache
def warn_of_no_cuda() -> None:
    """Once in the life of the process."""
    warnings.warn(
        "this build of fusedgrad has no CUDA kernels, so CUDA tensors take the same formulas in "
        "PyTorch operations; build them with FUSEDGRAD_CUDA=1 pip install .",
        stacklevel=2,
    )


def without_cuda_kernels(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of the reference, with one warning in the life of the process."""

    @functools.wraps(function)
    def warned(*arguments: Any, **out: Tensor) -> Any:
        warn_of_no_cuda()
        return function(*arguments, **out)

    return warned


_library: Any = torch.library.Library("fusedgrad", "IMPL")  # type: ignore[no-untyped-call]
for _name, (_fake, _reference) in _IMPLEMENTATIONS.items():
    torch.library.register_fake(f"fusedgrad::{_name}", _fake)
    _library.impl(_name, _reference, "CompositeExplicitAutograd")
    if _C.cuda_version() is None:
        _library.impl(_name, without_cuda_kernels(_reference), "CUDA")

# torch.autograd.grad(..., is_grads_batched=True) runs any operator once for each gradient, but
# cannot stack the lists that these return.
for _name in (
    "pow_backward.Tensor_Tensor",
    "binary_cross_entropy_backward",
    "binary_cross_entropy_with_logits_backward",
):
    _library.impl(_name, _IMPLEMENTATIONS[_name][1], "Batched")

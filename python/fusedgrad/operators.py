"""The operators as Python sees them: what runs where there is no kernel.

An operator has a formula in PyTorch operations, with its arguments. Complex tensors take it by a
`Table` from dtype to callable; tensors on a device without kernels reach it through PyTorch's
dispatcher, and fake tensors a function of their shape.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fusedgrad import _C

KERNEL_DTYPES = frozenset({torch.float64, torch.float32, torch.float16, torch.bfloat16})

_ops = torch.ops.fusedgrad

_library: Any = torch.library.Library("fusedgrad", "IMPL")  # type: ignore[no-untyped-call]

# operator: (for fake tensors, for devices without a kernel)
_IMPLEMENTATIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {}


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


def register(
    name: str, fake: Callable[..., Any], formula: Callable[..., Any], stacks: bool = True
) -> Table:
    """What the operator does on fake tensors and on devices without kernels.

    `stacks` is False for one that returns a list: torch.autograd.grad(..., is_grads_batched=True)
    runs any other once for each gradient, but cannot stack lists.
    """
    _IMPLEMENTATIONS[name] = fake, formula
    torch.library.register_fake(f"fusedgrad::{name}", fake)
    _library.impl(name, formula, "CompositeExplicitAutograd")
    if _C.cuda_version() is None:
        _library.impl(name, without_cuda_kernels(formula), "CUDA")
    if not stacks:
        _library.impl(name, formula, "Batched")
    packet, _, overload = name.partition(".")
    return Table(getattr(getattr(_ops, packet), overload or "default"), formula)


def register_with_out(
    name: str, fake: Callable[..., Tensor], formula: Callable[..., Tensor], out: str = "out"
) -> Table:
    """As `register`, and its overload `out`, which writes into a tensor."""
    packet, _, _ = name.partition(".")
    register(f"{packet}.{out}", _stored(fake), _stored(formula))
    return register(name, fake, formula)


def store(result: Tensor, out: Tensor) -> Tensor:
    """Write `result` into `out` as an operation of PyTorch with `out=` would: resized and cast."""
    return torch.sub(result, 0, out=out)  # exact, and PyTorch has no copy with out=


def _stored(function: Callable[..., Tensor]) -> Callable[..., None]:
    def with_out(*arguments: Any, out: Tensor) -> None:
        store(function(*arguments), out)

    return with_out


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

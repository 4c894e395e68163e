"""The operators as Python sees them: what runs where there is no kernel.

An operator has a formula in PyTorch operations, with its arguments. Complex tensors and those on a
device without kernels reach it through PyTorch's dispatcher, fake tensors a function of their
shape, and vmap a rule.
"""

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fusedgrad import _C

KERNEL_DTYPES = frozenset({torch.float64, torch.float32, torch.float16, torch.bfloat16})

_ops = torch.ops.fusedgrad

_library: Any = torch.library.Library("fusedgrad", "IMPL")  # type: ignore[no-untyped-call]

# operator: (for fake tensors, for devices without a kernel)
_IMPLEMENTATIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {}


def register(
    name: str,
    fake: Callable[..., Any],
    formula: Callable[..., Any],
    *,
    stacks: bool = True,
    batch: Callable[..., Any] | None = None,
) -> None:
    """What the operator does on fake tensors, on devices without kernels, and under vmap.

    `stacks` is False for one that returns a list: torch.autograd.grad(..., is_grads_batched=True)
    runs any other once for each gradient, but cannot stack lists. `batch` is the operator of
    tensors whose first dimension is the batch, if it is not elementwise: it takes the size too.
    """
    _implement(name, fake, formula)
    if not stacks:
        _library.impl(name, formula, "Batched")
    packet, _, overload = name.partition(".")
    operator = getattr(getattr(_ops, packet), overload or "default")

    def rule(info: Any, in_dims: Sequence[Any], *arguments: Any) -> tuple[Any, Any]:
        values = aligned(in_dims, arguments)
        results = batch(info.batch_size, *values) if batch else operator(*values)
        return results, 0 if isinstance(results, Tensor) else type(results)([0] * len(results))

    torch.library.register_vmap(f"fusedgrad::{name}", rule, lib=_library)


def aligned(in_dims: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    """The arguments of a batched call, batch dimension first and ranks such that they broadcast."""
    pairs = list(zip(in_dims, arguments, strict=True))
    tensors = [(dim, value) for dim, value in pairs if isinstance(value, Tensor)]
    rank = max(value.dim() - (dim is not None) for dim, value in tensors)
    dtype = None
    if len({value.dtype for _, value in tensors}) > 1:  # a sample of rank 0 is promoted as such
        samples = [
            torch.empty([1] * (value.dim() - (dim is not None)), dtype=value.dtype, device="meta")
            for dim, value in tensors
        ]
        dtype = functools.reduce(torch.add, samples).dtype

    def align(dim: int | None, value: Any) -> Any:
        if dim is None or not isinstance(value, Tensor):
            return value
        value = value.movedim(dim, 0)
        padding = [1] * (rank + 1 - value.dim())
        value = value.reshape(value.shape[0], *padding, *value.shape[1:])
        return value if dtype is None else value.to(dtype)

    return [align(dim, value) for dim, value in pairs]


def register_with_out(
    name: str, fake: Callable[..., Tensor], formula: Callable[..., Tensor], out: str = "out"
) -> None:
    """As `register`, and its overload `out`, which writes into a tensor."""
    register(name, fake, formula)
    packet, _, _ = name.partition(".")
    _implement(f"{packet}.{out}", _stored(fake), _stored(formula))


def _implement(name: str, fake: Callable[..., Any], formula: Callable[..., Any]) -> None:
    _IMPLEMENTATIONS[name] = fake, formula
    torch.library.register_fake(f"fusedgrad::{name}", fake)
    _library.impl(name, formula, "CompositeExplicitAutograd")
    if _C.cuda_version() is None:
        _library.impl(name, without_cuda_kernels(formula), "CUDA")


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


def _warn_of_an_old_driver() -> None:
    """Where it serves torch and not the kernels: they were built beside another torch."""
    built, used = _C.cuda_version(), torch.version.cuda
    if built is None or used is None or built.partition(".")[0] == used.partition(".")[0]:
        return  # torch itself speaks of a driver that is too old for it
    driver = torch._C._cuda_getDriverVersion()  # type: ignore[attr-defined]  # 0: there is none
    if 0 < driver // 1000 < int(built.partition(".")[0]):
        warnings.warn(
            f"fusedgrad's CUDA kernels were built with CUDA {built} and fail on this machine: its "
            f"driver is of CUDA {driver // 1000}.{driver % 1000 // 10}, torch of {used}. Build "
            f"fusedgrad beside this torch with a CUDA {used} toolkit, or update the driver.",
            stacklevel=2,
        )


_warn_of_an_old_driver()


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

"""fusedgrad in code that does not know it: a context manager, and a conversion of models."""

import contextlib
import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._prims_common import can_safe_cast_to
from torch.overrides import TorchFunctionMode

from fusedgrad import functional, nn

_Module = TypeVar("_Module", bound=torch.nn.Module)
_Function = Callable[..., Tensor]

_MODULES: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    torch.nn.Sigmoid: nn.Sigmoid,
    torch.nn.Tanh: nn.Tanh,
    torch.nn.BCELoss: nn.BCELoss,
    torch.nn.BCEWithLogitsLoss: nn.BCEWithLogitsLoss,
}

# Other names by which PyTorch takes the first argument as a keyword.
_FIRST_ARGUMENT = ("self", "x")


def _square(input: Tensor, *, out: Tensor | None = None) -> Tensor:
    return functional.pow(input, 2, out=out)


def _reflected_pow(exponent: Tensor, input: Any) -> Tensor:
    return functional.pow(input, exponent)


def _in_place(function: _Function) -> _Function:
    """`function`, its result copied into the first argument.

    Autograd sees the copy: leaves are refused, versions counted and views rebased by PyTorch.
    """

    @functools.wraps(function)
    def wrapper(input: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
        # What backward needs of the old value must survive the copy.
        old = input.clone() if torch.is_grad_enabled() else input
        result = function(old, *arguments, **keywords)
        if not can_safe_cast_to(cast_from=result.dtype, cast_to=input.dtype):
            raise RuntimeError(
                f"{function.__name__}(): the result's dtype {result.dtype} can't be cast to "
                f"{input.dtype}, the dtype of the tensor to change in place"
            )
        if result.shape != input.shape:
            raise RuntimeError(
                f"{function.__name__}(): the result has size {tuple(result.shape)}, expected that "
                f"of the tensor to change in place, {tuple(input.shape)}"
            )
        return input.copy_(result)

    return wrapper


def _replacements() -> Iterable[tuple[Any, _Function]]:
    """Each function and method as PyTorch hands it to a mode, and what runs in its place."""
    functions: dict[str, _Function] = {
        "sigmoid": functional.sigmoid,
        "tanh": functional.tanh,
        "pow": functional.pow,
        "square": _square,
    }
    for name, function in functions.items():
        yield getattr(torch, name), function
        yield getattr(Tensor, name), function
        yield getattr(Tensor, f"{name}_"), _in_place(function)
        if hasattr(torch, f"{name}_"):
            yield getattr(torch, f"{name}_"), _in_place(function)
    yield torch.special.expit, functional.sigmoid
    yield Tensor.__pow__, functional.pow
    yield Tensor.__rpow__, _reflected_pow
    yield Tensor.__ipow__, _in_place(functional.pow)
    yield torch.nn.functional.binary_cross_entropy, functional.binary_cross_entropy
    yield (
        torch.nn.functional.binary_cross_entropy_with_logits,
        functional.binary_cross_entropy_with_logits,
    )


# By name, then by identity: Dynamo does not find every function in a dict of functions.
_REPLACEMENTS: dict[str, list[tuple[Any, _Function]]] = {}
for _original, _replacement in _replacements():
    _REPLACEMENTS.setdefault(_original.__name__, []).append((_original, _replacement))


def _is_strided(value: Any) -> bool:
    """Whether a value is no tensor that only PyTorch has an operation for."""
    if not isinstance(value, Tensor):
        return True
    return value.layout is torch.strided and not (value.is_nested or value.is_quantized)


class _Patch(TorchFunctionMode):
    """Calls fusedgrad instead of PyTorch. A mode is off while it handles a call: no recursion."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        for original, replacement in _REPLACEMENTS.get(getattr(func, "__name__", ""), ()):
            if func is original and all(map(_is_strided, (*args, *kwargs.values()))):
                for name in _FIRST_ARGUMENT:
                    if name in kwargs:
                        args = (kwargs.pop(name), *args)
                return replacement(*args, **kwargs)
        return func(*args, **kwargs)


def patched() -> contextlib.AbstractContextManager[Any]:
    """A context in which PyTorch's operations run on fusedgrad, in code that does not know it.

    These are sigmoid, expit, tanh, pow, `**`, square, binary_cross_entropy and
    binary_cross_entropy_with_logits: as functions of `torch`, `torch.special` and
    `torch.nn.functional`, methods of tensors, modules of `torch.nn`, and in place, whatever name
    they were imported by. Sparse, nested and quantized tensors stay PyTorch's, and so do calls
    from C++ such as the gates of `torch.nn.LSTM`.

    The context holds for the thread that entered it, and may be nested. Each call of any function
    of PyTorch pays a few microseconds inside it; `convert` costs nothing.
    """
    return _Patch()


def convert(module: _Module) -> _Module:
    """Make the activations and losses inside a model, or the module itself, those of fusedgrad.nn.

    Sigmoid, Tanh, BCELoss and BCEWithLogitsLoss of `torch.nn` change their class in place and keep
    all else: identity, hooks, buffers, training flag. Subclasses of them are left alone.

    Args:
        module: any module.

    Returns:
        The same module.
    """
    for child in module.modules():
        child.__class__ = _MODULES.get(type(child), type(child))
    return module

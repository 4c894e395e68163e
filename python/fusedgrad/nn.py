"""Modules of `torch.nn` that run on fusedgrad; their state dicts are interchangeable both ways."""

import copyreg
from collections.abc import Callable
from types import MethodType
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C import _is_tracing as is_tracing
from torch._jit_internal import is_scripting
from torch.compiler import is_dynamo_compiling

from fusedgrad import functional

__all__ = ["BCELoss", "BCEWithLogitsLoss", "Sigmoid", "Tanh"]


# Classes that implement __torch_dispatch__ and take operators that are not PyTorch's; others know
# PyTorch's only, and keep them.
_KNOWN_CLASSES = frozenset(
    {
        ("torch._subclasses.fake_tensor", "FakeTensor"),
        ("torch._subclasses.functional_tensor", "FunctionalTensor"),
        ("torch.distributed.tensor", "DTensor"),
        ("torch.distributed.tensor._api", "DTensor"),
    }
)


def is_ours(value: Any) -> bool:
    """Whether a value is no tensor that only PyTorch has an operation for."""
    if not isinstance(value, Tensor):
        return True
    if value.layout is not torch.strided or value.is_nested or value.is_quantized:
        return False
    if is_dynamo_compiling():
        return True
    kind = type(value)
    dispatches = kind.__torch_dispatch__ is not Tensor.__torch_dispatch__
    return not dispatches or (kind.__module__, kind.__qualname__) in _KNOWN_CLASSES


def _takes(module: torch.nn.Module, *values: Any) -> bool:
    """Whether a module runs on fusedgrad: not if its class has got another `forward` since it was
    converted, not on such tensors, nor where PyTorch writes a graph for others, in which an
    operator of fusedgrad means nothing."""
    if not is_dynamo_compiling() and (is_tracing() or torch.onnx.is_in_onnx_export()):
        return False
    kind = type(module)
    if not (isinstance(kind, _Exact) or kind.forward is _FORWARDS.get(kind)):
        return False
    return all(map(is_ours, values))


def _theirs(module: torch.nn.Module) -> Callable[..., Tensor]:
    """The `forward` that a module would have without fusedgrad."""
    kind = type(module)
    if isinstance(kind, _Exact):
        kind = next(base for base in kind.__mro__ if base in _KINDS)
    return cast(Callable[..., Tensor], kind.forward)


class _Exact(type):
    """Makes a module of `torch.nn` that has the `forward` of a class an instance of the class."""

    def __instancecheck__(cls, instance: object) -> bool:
        if super().__instancecheck__(instance):
            return True
        kind = _kind_of(instance)
        return kind is not None and issubclass(kind, cls)


# A `forward` serves the modules here, and those of torch.nn that were converted. torch.jit.script
# compiles the first branch of each, and skips the rest.


class Sigmoid(torch.nn.Sigmoid, metaclass=_Exact):
    """`torch.nn.Sigmoid` with an exact derivative; see `fusedgrad.sigmoid`."""

    def forward(self, input: Tensor) -> Tensor:
        """1 / (1 + exp(-input)), of the shape of the input."""
        if is_scripting():
            return torch.sigmoid(input)
        return functional.sigmoid(input) if _takes(self, input) else _theirs(self)(self, input)


class Tanh(torch.nn.Tanh, metaclass=_Exact):
    """`torch.nn.Tanh` with an exact derivative; see `fusedgrad.tanh`."""

    def forward(self, input: Tensor) -> Tensor:
        """The hyperbolic tangent, of the shape of the input."""
        if is_scripting():
            return torch.tanh(input)
        return functional.tanh(input) if _takes(self, input) else _theirs(self)(self, input)


class BCELoss(torch.nn.BCELoss, metaclass=_Exact):
    """`torch.nn.BCELoss` in one kernel each way; see `fusedgrad.binary_cross_entropy`."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of the probabilities `input`, reduced as the module was told to."""
        if is_scripting():
            return F.binary_cross_entropy(
                input, target, weight=self.weight, reduction=self.reduction
            )
        if not _takes(self, input, target):
            return _theirs(self)(self, input, target)
        return functional.binary_cross_entropy(
            input, target, weight=self.weight, reduction=self.reduction
        )


class BCEWithLogitsLoss(torch.nn.BCEWithLogitsLoss, metaclass=_Exact):
    """`torch.nn.BCEWithLogitsLoss`; see `fusedgrad.binary_cross_entropy_with_logits`."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of the logits `input`, reduced as the module was told to."""
        if is_scripting():
            return F.binary_cross_entropy_with_logits(
                input,
                target,
                weight=self.weight,
                pos_weight=self.pos_weight,
                reduction=self.reduction,
            )
        if not _takes(self, input, target):
            return _theirs(self)(self, input, target)
        return functional.binary_cross_entropy_with_logits(
            input,
            target,
            weight=self.weight,
            reduction=self.reduction,
            pos_weight=self.pos_weight,
        )


_KINDS: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    torch.nn.Sigmoid: Sigmoid,
    torch.nn.Tanh: Tanh,
    torch.nn.BCELoss: BCELoss,
    torch.nn.BCEWithLogitsLoss: BCEWithLogitsLoss,
}
_FORWARDS = {kind: kind.forward for kind in _KINDS}
_BY_FORWARD = {kind.forward: kind for kind in _KINDS.values()}


def _kind_of(module: object) -> type[torch.nn.Module] | None:
    """The class here whose `forward` a converted module of `torch.nn` has."""
    forward = vars(module).get("forward") if isinstance(module, torch.nn.Module) else None
    return _BY_FORWARD.get(forward.__func__) if isinstance(forward, MethodType) else None


# A copy of a module's whole `__dict__` would have a `forward` bound to the module that is copied:
# of a loss its weights and its reduction. Copies, pickles and the replicas of DataParallel get
# their own.
_OWN = ("forward", "_replicate_for_data_parallel")


def make_exact(module: torch.nn.Module) -> None:
    """Give a module of `torch.nn`, and no subclass, the `forward` of its namesake here."""
    kind = type(module)
    if kind not in _KINDS or kind.forward is not _FORWARDS[kind] or "forward" in vars(module):
        return
    for name, own in zip(_OWN, (_KINDS[kind].forward, _replica), strict=True):
        vars(module)[name] = MethodType(own, module)
    copyreg.pickle(kind, _reduced)


def _replica(module: torch.nn.Module) -> torch.nn.Module:
    replica: torch.nn.Module = type(module)._replicate_for_data_parallel(module)  # type: ignore[no-untyped-call]
    for name in _OWN:
        vars(replica)[name] = MethodType(vars(replica)[name].__func__, replica)
    return replica


def _reduced(module: torch.nn.Module) -> Any:
    new, arguments, state, *items = cast(tuple[Any, ...], module.__reduce_ex__(2))
    if _kind_of(module) is not None:
        new = _new_exact
        state = {name: value for name, value in state.items() if name not in _OWN}
    return new, arguments, state, *items


def _new_exact(kind: type[torch.nn.Module]) -> torch.nn.Module:
    module = kind.__new__(kind)
    make_exact(module)
    return module

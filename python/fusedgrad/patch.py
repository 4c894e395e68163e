"""fusedgrad in code that does not know it: a context manager, and a conversion of models."""

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, _ops
from torch._C import _is_tracing as is_tracing
from torch._prims_common import can_safe_cast_to
from torch.compiler import is_dynamo_compiling
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint

from fusedgrad import _C, functional, nn, torch_versions
from fusedgrad.operations import logistic_loss

_Module = TypeVar("_Module", bound=torch.nn.Module)
_Function = Callable[..., Tensor]


def _reflected_pow(exponent: Tensor, input: Any) -> Tensor:
    return functional.pow(input, exponent)


def _square(input: Tensor, *, out: Tensor | None = None) -> Tensor:
    return functional.pow(input, 2, out=out)


def _in_place(function: _Function) -> _Function:
    """`function`, its result copied into the first argument.

    Autograd sees the copy: leaves are refused, versions counted and views rebased by PyTorch.
    """

    @functools.wraps(function)
    def wrapper(input: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
        # What backward needs of the old value must survive the copy; a trace may be run for it.
        old = input.clone() if torch.is_grad_enabled() or is_tracing() else input
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


def _into(function: _Function) -> _Function:
    """`function`, its last argument the tensor to write to."""

    def wrapper(*arguments: Any) -> Tensor:
        return function(*arguments[:-1], out=arguments[-1])

    return wrapper


def _loss(function: _Function) -> _Function:
    """`function`, its options by position and its reduction by number, as the operators have it."""

    def wrapper(input: Tensor, target: Tensor, *options: Any) -> Any:
        *weights, reduction = options
        if target.shape != input.shape:
            return NotImplemented
        keywords = dict(zip(("weight", "pos_weight"), weights, strict=False))
        return function(input, target, **keywords, reduction=logistic_loss._NAMES[reduction])

    return wrapper


# What runs where the operator of PyTorch was called, in Python: all that is no ordinary call.
_OPERATORS: dict[tuple[str, str], _Function] = {
    ("aten::sigmoid", ""): functional.sigmoid,
    ("aten::sigmoid", "out"): _into(functional.sigmoid),
    ("aten::sigmoid_", ""): _in_place(functional.sigmoid),
    ("aten::special_expit", ""): functional.sigmoid,
    ("aten::special_expit", "out"): _into(functional.sigmoid),
    ("aten::tanh", ""): functional.tanh,
    ("aten::tanh", "out"): _into(functional.tanh),
    ("aten::tanh_", ""): _in_place(functional.tanh),
    ("aten::pow", "Tensor_Scalar"): functional.pow,
    ("aten::pow", "Tensor_Tensor"): functional.pow,
    ("aten::pow", "Scalar"): functional.pow,
    ("aten::pow", "Tensor_Scalar_out"): _into(functional.pow),
    ("aten::pow", "Tensor_Tensor_out"): _into(functional.pow),
    ("aten::pow", "Scalar_out"): _into(functional.pow),
    ("aten::pow_", "Scalar"): _in_place(functional.pow),
    ("aten::pow_", "Tensor"): _in_place(functional.pow),
    ("aten::square", ""): _square,
    ("aten::square", "out"): _into(_square),
    ("aten::square_", ""): _in_place(_square),
    ("aten::binary_cross_entropy", ""): _loss(functional.binary_cross_entropy),
    ("aten::binary_cross_entropy_with_logits", ""): _loss(
        functional.binary_cross_entropy_with_logits
    ),
}


def _being_traced() -> bool:
    """Whether torch.compile makes a graph of operators of what Dynamo traced."""
    guards = sys.modules.get("torch._guards")
    return guards is not None and guards.TracingContext.try_get() is not None


def _call(name: str, overload: str, arguments: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """Run an operator of PyTorch on ours; the empty tuple leaves it to PyTorch."""
    if not all(map(nn.is_ours, arguments)):
        return ()
    function = _OPERATORS[name, overload]
    with torch._C.DisableTorchFunction():
        if _being_traced():
            # Formulas, which Inductor fuses; inside one of them nothing is to be replaced again.
            if not (torch.is_grad_enabled() and any(map(_requires_grad, arguments))):
                return ()
            with _compiling():
                result = function(*arguments)
        else:
            result = function(*arguments)
    return () if result is NotImplemented else (result,)


_C.set_patched_call(_call)


def _requires_grad(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


@contextlib.contextmanager
def _compiling() -> Iterator[None]:
    """The functions of `functional` return formulas."""
    before = torch.compiler._is_compiling_flag
    torch.compiler._is_compiling_flag = True
    try:
        yield
    finally:
        torch.compiler._is_compiling_flag = before


class _Context(threading.local):
    """Sets whether PyTorch's operators run on fusedgrad, in this thread and its backwards.

    One object may be entered by several threads, of which each goes back to its own state.
    """

    def __init__(self, patched: bool) -> None:
        self._patched = patched
        self._before: list[tuple[bool, bool, Any]] = []

    def __enter__(self) -> None:
        _prepare()
        optimize = torch._C._get_graph_executor_optimize()
        before = _C.set_patched(self._patched)
        self._before.append((before, optimize, torch_versions.tag_graphs(self._patched)))
        if self._patched:
            # TorchScript's own derivatives of what it optimizes are PyTorch's.
            torch._C._set_graph_executor_optimize(False)

    def __exit__(self, *exception: object) -> None:
        patched, optimize, tag = self._before.pop()
        _C.set_patched(patched)
        torch._C._set_graph_executor_optimize(optimize)
        torch_versions.untag_graphs(tag)


def _in_same_state(function: _Function) -> _Function:
    """`function`, patched whenever it is called if it would be now, and not if it would not."""
    patched = _C.is_patched()

    @functools.wraps(function)
    def wrapper(*arguments: Any, **keywords: Any) -> Any:
        with _Context(patched):
            return function(*arguments, **keywords)

    return wrapper


@functools.cache
def _prepare() -> None:
    """What PyTorch has to know of the state, once in the life of the process."""
    key = torch._C._dispatch_key_parse("TESTING_ONLY_GenericMode")  # csrc/operators/patch.cpp
    _ops._HIGHER_ORDER_OP_DEFAULT_FALLTHROUGH_DISPATCH_KEYS.append(key)
    for operator in _ops._higher_order_ops.values():
        operator.fallthrough(key)  # type: ignore[no-untyped-call]
    _follow_into_checkpoints()


def _follow_into_checkpoints() -> None:
    """Make what a checkpoint recomputes run on what it first ran on, wherever backward is called.

    As PyTorch's own checkpoints do with autocast. Where another checkpoint does not, what the
    operators save inside `patched` differs in number from what PyTorch's save, so that it is an
    error of PyTorch and no gradient.
    """
    frame, function = checkpoint._CheckpointFrame, checkpoint.CheckpointFunction
    initialize, forward = frame.__init__, function.forward

    @functools.wraps(initialize)
    def initialize_in_state(self: Any, recompute: _Function, *arguments: Any) -> None:
        initialize(self, _in_same_state(recompute), *arguments)

    @functools.wraps(forward)
    def forward_in_state(ctx: Any, run: _Function, *arguments: Any) -> Any:
        return forward(ctx, _in_same_state(run), *arguments)  # type: ignore[no-untyped-call]

    frame.__init__ = initialize_in_state  # type: ignore[assignment]
    function.forward = staticmethod(forward_in_state)  # type: ignore[method-assign]


# Inside a function that torch.compile traces, a mode, which it knows.

_TRACED: dict[str, list[tuple[Any, _Function]]] = {}


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
for _original, _replacement in _replacements():
    _TRACED.setdefault(_original.__name__, []).append((_original, _replacement))


class _TracedContext(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        for original, replacement in _TRACED.get(getattr(func, "__name__", ""), ()):
            if func is original and all(map(nn.is_ours, (*args, *kwargs.values()))):
                for name in ("self", "x"):  # by which PyTorch takes the first argument, too
                    if name in kwargs:
                        args = (kwargs.pop(name), *args)
                return replacement(*args, **kwargs)
        return func(*args, **kwargs)


def patched() -> contextlib.AbstractContextManager[Any]:
    """A context in which PyTorch's operations run on fusedgrad, in code that does not know it.

    These are sigmoid, expit, tanh, pow, `**`, square, binary_cross_entropy and
    binary_cross_entropy_with_logits: as functions, methods and modules, in place and with `out`,
    and wherever PyTorch itself calls them, as in `F.tanhshrink`, scripted functions and
    `torch.nn.GRUCell`; not in what has a kernel of its own, as `torch.nn.LSTM`. Sparse, nested and
    quantized tensors stay PyTorch's, and so do subclasses whose `__torch_dispatch__` knows
    PyTorch's operators; a subclass's own `__torch_function__` comes first.

    The context holds for the thread that entered it and for the threads of a backward called
    inside it, and may be nested; what checkpoints of `torch.utils.checkpoint` recompute runs on
    what it first ran on, wherever backward is called. Other operations cost nothing more inside.
    """
    return _TracedContext() if is_dynamo_compiling() else _Context(True)


def convert(module: _Module) -> _Module:
    """Make the activations and losses inside a model, or the module itself, exact, in place.

    Sigmoid, Tanh, BCELoss and BCEWithLogitsLoss of `torch.nn` get the `forward` of their namesakes
    in `fusedgrad.nn`, of which `isinstance` takes them for instances, and keep all else: class,
    identity, hooks, buffers, training flag. `del module.forward` undoes it. Left alone are
    subclasses of them, and modules that have a `forward` of their own already. What is traced,
    scripted or exported to ONNX from a converted module has PyTorch's operations.

    Args:
        module: any module.

    Returns:
        The same module.

    Raises:
        TypeError: a module made by torch.jit.trace or torch.jit.script, whose code is fixed, is the
            module or inside it; nothing was converted.
    """
    for name, child in module.named_modules():
        if isinstance(child, torch.jit.ScriptModule):
            raise TypeError(
                f"convert(): module{f'.{name}' if name else ''} is a {type(child).__name__} of "
                "torch.jit, whose code is fixed; convert the module before it is traced or scripted"
            )
    for child in module.modules():
        nn.make_exact(child)
    return module

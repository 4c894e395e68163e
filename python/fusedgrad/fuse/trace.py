"""From a Python function to a record: the function runs, and a mode notes its operations.

It runs on the caller's own tensors, so that Python and PyTorch themselves answer what it asks of
their type, identity, dtype, attributes and grad mode. What an operation returns is a token: a
tensor on the meta device, which has a dtype, requires_grad and no value, so that nothing can be
read of it that the next call would not give. A tensor that no operation returned is one from
outside, and becomes an operand.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import linecache
import math
import numbers
import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
import torch.autograd.forward_ad as forward_ad
import torch.overrides
from torch import Tensor
from torch._C import _are_functorch_transforms_active as transforms_active
from torch._functorch.autograd_function import custom_function_call
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import Parameter
from torch.utils import _pytree
from torch.utils._python_dispatch import _disable_current_modes

from fusedgrad.fuse.errors import FuseError, FuseOverflowError, FuseTypeError, FuseValueError
from fusedgrad.fuse.vocabulary import (
    EXTREMES,
    OF_FIXED_NUMBERS,
    OF_ONE_SHAPE,
    ROUNDED,
    RULES,
    WEIGHTED_MEAN,
    WITHOUT_DERIVATIVE,
    Rule,
)

_saved_tensors_hooks = torch._C._autograd._top_saved_tensors_default_hooks
_OURS = str(Path(__file__).parents[1])
_TORCH = str(Path(torch.__file__).parent)
# Types of tensors that are operands; fusedgrad.distributed adds DTensor's way out.
PLAIN: set[type] = {Tensor, Parameter}
# A row: the rule, its arguments and keywords (an int is a node, a type a number), its dtype,
# whether it has no dimensions, requires a gradient, and what passes: "all" derivatives, those of
# "forward" mode alone, as under torch.no_grad, or "none", as under torch.inference_mode; of what
# torch.no_grad changes in place "old", the gradients of the value that it had.
Row = tuple[Any, ...]


def line_of_caller() -> str:
    """Where the traced function stands: the innermost frame outside this package and torch."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        path = frame.f_code.co_filename
        if not path.startswith((_OURS, _TORCH, "<frozen")):
            break
        # The gallery stands in this package, and is traced as any other function.
        if path == f"{_OURS}/activations.py":
            break
        frame = frame.f_back
    path, line = frame.f_code.co_filename, frame.f_lineno
    text = linecache.getline(path, line).strip()
    return f"{path}:{line}{f': `{text}`' if text else ''}"


class _Refusal(Exception):
    """Ends the function that is recorded; no TypeError, which Python's operators catch."""


def name_of(function: Any) -> str:
    """What a message calls a function of PyTorch."""
    name = getattr(function, "__name__", repr(function))
    owner: Any = getattr(function, "__self__", None)
    if name in ("__get__", "__set__") and hasattr(owner, "__name__"):
        return f"Tensor.{owner.__name__}"
    if getattr(function, "__objclass__", None) is torch._C.TensorBase:
        return f"Tensor.{name}"
    qualified = getattr(function, "__qualname__", name)
    if qualified.startswith(("Tensor.", "TensorBase.")):
        return f"Tensor.{name}"
    module = getattr(function, "__module__", None) or ""
    module = {"torch._C._nn": "torch.nn.functional"}.get(module, module)
    return f"{module}.{name}" if module else str(name)


def _getters(names: str) -> frozenset[Any]:
    found = (getattr(torch.Tensor, name, None) for name in names.split())
    return frozenset(getter.__get__ for getter in found if getter is not None)


# What tokens answer as the tensors in their place would
_ASKED = _getters("dtype requires_grad layout is_sparse is_quantized is_nested is_mkldnn names") | {
    *(torch.is_floating_point, torch.is_complex, torch.is_signed),
    *(Tensor.is_floating_point, Tensor.is_complex, Tensor.is_signed, Tensor.is_inference),
    torch.is_inference,
}
# What is asked of a tensor from outside alone
_ASKED_OF_OPERANDS = _getters("is_leaf grad grad_fn output_nr retains_grad is_meta")
_PLACE = {
    getattr(torch.Tensor, name).__get__: name
    for name in ("device", "is_cuda", "is_cpu", "is_xpu", "is_mps", "is_meta")
}
# Those that make a tensor of no other
_FACTORIES = frozenset(
    {
        *(torch.tensor, torch.as_tensor, torch.asarray, torch.scalar_tensor, torch.zeros),
        *(torch.ones, torch.empty, torch.full, torch.arange, torch.linspace, torch.eye),
    }
)
# The same, of random numbers: drawn once a call, as without fuse
_RANDOM_FACTORIES = frozenset({torch.rand, torch.randn, torch.randint})
_ASKED_OF_KINDS = frozenset({torch.promote_types, torch.result_type, torch.can_cast})
_LEAST, _LARGEST = -(2**63), 2**64 - 1  # of the ints that PyTorch takes for numbers
_GRAD = torch._C._functorch.TransformType.Grad
_FUNCTION = "a torch.autograd.Function inside a fused function, whose own derivative would be lost"
_APPLY = type(custom_function_call).__call__.__code__  # what runs Functions inside transforms
_CONVERSIONS = frozenset({"__bool__", "__float__", "__int__", "__index__", "__complex__", "item"})

# The result of a rule by the kinds of what it is given: its dtype, dimensions and requires_grad
_results: dict[Any, tuple[torch.dtype, bool, bool]] = {}
# The same and the rule's name, where the kinds of floating-point operands are all it depends on
_plain_results: dict[Any, tuple[str, torch.dtype, bool, bool]] = {}
_BY_MORE = {*OF_ONE_SHAPE, *WITHOUT_DERIVATIVE, *OF_FIXED_NUMBERS, "detach"}
_templates: dict[Any, Tensor] = {}


def _token(dtype: torch.dtype, scalar: bool, requires_grad: bool) -> Tensor:
    if transforms_active():
        with torch._C._DisableFuncTorch():
            return _requiring(_made(dtype, scalar)) if requires_grad else _made(dtype, scalar)
    token = _made(dtype, scalar)
    return token.requires_grad_() if requires_grad else token


def _made(dtype: torch.dtype, scalar: bool) -> Tensor:
    template = _templates.get((dtype, scalar))
    shape = () if scalar else (1,)
    if torch.is_inference_mode_enabled():
        return torch.empty(shape, dtype=dtype, device="meta")
    if template is None:
        with torch.inference_mode(False):
            template = torch.empty(shape, dtype=dtype, device="meta")
        _templates[dtype, scalar] = template
    return template.detach()


def _requiring(tensor: Tensor) -> Tensor:
    """`requires_grad_()` inside a transform of torch.func, to which the tensor does not belong."""
    functorch = torch._C._functorch
    before = functorch.get_inplace_requires_grad_allowed()
    functorch.set_inplace_requires_grad_allowed(True)
    try:
        return tensor.requires_grad_()
    finally:
        functorch.set_inplace_requires_grad_allowed(before)


def _stand_in(value: Any) -> Any:
    """A tensor of one element in the place of an operand or a token."""
    if not isinstance(value, Tensor):
        return value
    with torch.inference_mode(value.is_inference()):
        made = torch.ones(() if value.dim() == 0 else (1,), dtype=value.dtype)
    return _requiring(made) if value.requires_grad else made


def rounded(number: float, dtype: torch.dtype) -> float:
    """The nearest number of the dtype."""
    if number == 0 or not math.isfinite(number):
        return number
    info = torch.finfo(dtype)
    step = max(math.ldexp(info.eps, math.frexp(number)[1] - 1), info.tiny * info.eps)
    nearest = round(number / step) * step
    return nearest if abs(nearest) <= info.max else math.copysign(math.inf, number)


def _identity(tensor: Tensor) -> Tensor:
    return tensor


def _broadcast(*shapes: torch.Size) -> torch.Size:
    return cast(torch.Size, torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]


def is_dense(tensor: Tensor) -> bool:
    """Whether it is neither sparse, nested, quantized nor of MKL-DNN."""
    is_strided = tensor.layout is torch.strided
    return is_strided and not (tensor.is_nested or tensor.is_quantized)


def _reference_counts(values: list[Any]) -> list[int]:
    return [sys.getrefcount(value) for value in values]


def _used(specs: tuple[Any, ...]) -> list[int]:
    return [spec for spec in specs if type(spec) is int]


def _cast_of(args: tuple[Any, ...], kwargs: Any) -> tuple[tuple[Any, ...], Any]:
    """The arguments of `to` for those of `type`."""
    dtype = kwargs.get("dtype", args[1] if len(args) > 1 else None)
    if not isinstance(dtype, torch.dtype):
        dtype = torch.empty(0).type(dtype).dtype
    return (args[0], dtype), {}


class _CompiledInlined:
    """While a record is made, functions of torch.compile run as what they were made of.

    PyTorch has one stance for the process: others' compiled functions run so for that while too.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._stance: Any = None

    def __enter__(self) -> None:
        dynamo: Any = sys.modules.get("torch._dynamo.eval_frame")
        with self._lock:
            self._count += 1
            if self._stance is None and hasattr(dynamo, "DynamoStance"):
                self._stance, dynamo._stance = dynamo._stance, dynamo.DynamoStance("force_eager")

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._count -= 1
            if self._count == 0 and self._stance is not None:
                sys.modules["torch._dynamo.eval_frame"]._stance = self._stance  # type: ignore
                self._stance = None


_compiled_inlined = _CompiledInlined()


class Recorder(torch.overrides.TorchFunctionMode):
    """Notes the operations of the functions that run in it."""

    def __init__(self, *, derived: bool = False) -> None:
        """Of no operation yet; of a function that is `derived` by its arguments."""
        super().__init__()
        self.rows: list[Row | None] = []  # None for an operand
        self.nodes: list[Tensor] = []  # the operand, or the row's token
        self.operands: list[int] = []  # the nodes that are
        self.numbers: list[float] = []
        self.number_names: list[str] = []
        self.calls: list[Any] = []  # of each row, the function that was called
        self.kinds: list[Any] = []  # of each node, what the dtype of a result depends on
        self.shared: set[int] = set()  # nodes whose memory another one has
        self.equal_shapes: list[tuple[int, int]] = []  # nodes that must have one shape
        self.reduced: set[int] = set()  # means and sums of all elements, and what is made of them
        self.meta = False  # whether arguments are on the meta device, as tokens
        self.originals: dict[int, Tensor] = {}  # of tokens in the place of arguments
        self.grad = torch.is_grad_enabled()  # the mode that the function has set
        self.is_transformed = transforms_active()  # where requires_grad does not tell all
        self.derived = self.is_differentiated = derived
        if self.is_transformed and not torch.is_inference_mode_enabled():
            levels = torch._C._functorch.get_interpreter_stack() or ()
            self.is_differentiated |= any(i.key() == _GRAD for i in levels)
        self.forward_grad = torch._C._is_fwd_grad_enabled()  # which C++ ends in a Function
        self.refused: FuseError | None = None
        self.stop: tuple[int, Exception] | None = None  # the operation to refuse, and why
        self._known: dict[int, int] = {}
        self._hooks = _saved_tensors_hooks(True)
        self._unseen = ExitStack()

    def __enter__(self) -> Any:
        """Record from here on, out of sight of checkpoints and others, who would count tokens."""
        if self._hooks is not None:
            self._unseen.enter_context(saved_tensors_hooks(_identity, _identity))
            self._hooks = _saved_tensors_hooks(True)
        # Transforms keep modes of PyTorch's own between their levels.
        if torch._C._len_torch_dispatch_stack() and not transforms_active():
            self._unseen.enter_context(_disable_current_modes())
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        """Record no more."""
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._unseen.close()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Called by PyTorch in the place of its function `func`."""
        if _saved_tensors_hooks(True) != self._hooks:
            raise self.refuse("hooks of saved tensors, as of a checkpoint, inside a fused function")
        rule = RULES.get(func)
        if rule is None:
            return self._other(func, args, kwargs or {})
        if not kwargs:
            token = self._recorded_before(func, args)
            if token is not None:
                return token
        return self._record(rule, func, args, kwargs)

    def _recorded_before(self, func: Any, args: tuple[Any, ...]) -> Tensor | None:
        """As `_record` of what `_plain_results` has of such operands: a shorter way."""
        specs: list[Any] = []
        key: list[Any] = [func, self.grad]
        given: list[float] = []
        for value in args:
            spec: Any = type(value)
            if spec is float or (spec is int and _LEAST <= value <= _LARGEST):
                key.append(spec)
                given.append(value)
            else:
                spec = self._known.get(id(value))
                if spec is None:
                    return None
                key.append(self.kinds[spec])
            specs.append(spec)
        found = _plain_results.get(tuple(key))
        if (
            found is None
            or self.stop is not None
            or torch.is_grad_enabled() is not self.grad
            or torch.is_inference_mode_enabled()
            or torch._C._is_any_autocast_enabled()
            or transforms_active()
            or forward_ad._current_level >= 0
        ):
            return None
        name, dtype, scalar, requires_grad = found
        token = _templates[dtype, scalar].detach()
        if requires_grad:
            token.requires_grad_()
        self.numbers += given
        self.number_names += [""] * len(given)
        passes = "all" if self.grad else "forward"
        self._add(token, (name, tuple(specs), (), dtype, scalar, requires_grad, passes), func)
        return token

    def _passes(self) -> str:
        """What passes here; raises where C++ has set the grad mode, as it does in a Function."""
        inference = torch.is_inference_mode_enabled()
        grad = torch.is_grad_enabled()
        if self.grad and not grad and not inference:
            if not torch._C._is_fwd_grad_enabled():
                raise self.refuse(_FUNCTION)
            self.grad = grad  # that outside of a torch.inference_mode(False), which has ended
        if inference and self.is_differentiated:
            raise self.refuse("torch.inference_mode inside a function that is differentiated")
        if transforms_active() or forward_ad._current_level >= 0:
            if self.forward_grad and not torch._C._is_fwd_grad_enabled():
                raise self.refuse(_FUNCTION)
            frame = sys._getframe(1)
            while frame.f_back is not None and frame.f_code is not Recorder.run.__code__:
                if frame.f_code is _APPLY:
                    raise self.refuse(_FUNCTION)
                frame = frame.f_back
        return "none" if inference else "all" if grad else "forward"

    def refuse(self, message: str, kind: type[FuseError] = FuseTypeError) -> _Refusal:
        """To be raised: ends the function; the call raises the error whatever the function catches.

        It has the line of the function.
        """
        if self.refused is None:
            self.refused = kind(f"{message}, at {line_of_caller()}")
        return _Refusal()

    # ---------------------------------------------------------------------------------- operations

    def _record(self, rule: Rule, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        if self.stop is not None and len(self.rows) - len(self.operands) == self.stop[0]:
            error = self.stop[1]
            kind = type(error) if isinstance(error, FuseError) else FuseTypeError
            raise self.refuse(f"{name_of(func)}: {error}", kind)
        before, given = len(self.numbers), args
        reduction, called = "none", func
        if rule.name == "reduced":
            mean = func.__name__ == "mean"
            if len(args) != 1 or kwargs or (mean and not args[0].is_floating_point()):
                raise self.refuse(
                    f"{name_of(func)} of a dimension, of integers or in another dtype cannot be "
                    "fused: fuse the part before it"
                )
            return self._reduced(args[0], "mean" if mean else "sum")
        if rule.unreduced is not None:
            try:
                args, kwargs, reduction = rule.unreduced(args, kwargs or {})
            except FuseError as error:
                raise self.refuse(str(error), type(error)) from None
            called = functools.partial(rule.asked or func, reduction="none")
        elif rule.inplace is not None and len(args) > rule.inplace:
            kwargs = {**(kwargs or {}), "inplace": args[rule.inplace]}
            args = args[: rule.inplace]
        if func is torch.prelu or func is Tensor.prelu:
            args = self._along_channels(*args, **(kwargs or {}))
            kwargs = None
        args, kwargs = self._as_they_are_compared(rule, args, kwargs)
        specify = self._fixed if rule.name in OF_FIXED_NUMBERS else self._spec
        specs = tuple([specify(a) for a in args])
        keywords: tuple[Any, ...] = ()
        if kwargs:
            if kwargs.pop("out", None) is not None:
                raise self.refuse(f"{name_of(func)} writes into a tensor, which cannot be fused")
            if kwargs.pop("inplace", False):
                rule = dataclasses.replace(rule, in_place=True)
            keywords = tuple([(key, specify(value)) for key, value in kwargs.items()])
        follows = self._follows_sums(func, rule, _used((*specs, *(spec for _, spec in keywords))))
        if rule.in_place:
            self._check_in_place(func, args[0])
        if rule.name in OF_ONE_SHAPE:
            named = dict(keywords)
            for name in OF_ONE_SHAPE[rule.name]:
                if type(named.get(name)) is int:
                    self.equal_shapes.append((specs[0], named[name]))
                    self._check_one_shape(func, specs[0], [named[name]])
        passes = self._passes()
        grad = passes == "all"
        kinds = self._kinds(specs, keywords)
        numbers = None if kinds[1] else tuple(self.numbers[before:])
        state = None
        if torch._C._is_any_autocast_enabled():
            state = (
                torch.is_autocast_enabled("cpu"),
                torch.get_autocast_dtype("cpu"),
                torch.is_autocast_enabled("cuda"),
                torch.get_autocast_dtype("cuda"),
            )
        key = (func, rule.in_place, kinds, numbers, grad, state, torch.get_default_dtype())
        result = _results.get(key)
        if result is None:
            if len(_results) > 4096:
                _results.clear()
                _plain_results.clear()
            with torch._C._DisableFuncTorch() if transforms_active() else nullcontext():
                try:
                    result = self._asked_of_torch(rule, func, args, kwargs or {}, grad)
                except Exception:  # which the function may catch
                    del self.numbers[before:], self.number_names[before:]
                    raise
            _results[key] = result
        if result is NotImplemented:  # as an operator says of what it does not know
            del self.numbers[before:], self.number_names[before:]
            return result
        dtype, scalar, requires_grad = result
        used = [self.nodes[n] for n in _used((*specs, *(v for _, v in keywords)))]
        if dtype.is_complex and not any(node.is_complex() for node in used):
            raise self.refuse(f"{name_of(func)} makes a complex tensor, which cannot be fused")
        is_rounded = len(self.numbers) > before and self._rounds(rule, used)
        if is_rounded:
            self.numbers[before:] = [rounded(n, used[0].dtype) for n in self.numbers[before:]]
        if rule.same and isinstance(args[0], Tensor) and dtype is args[0].dtype:
            if rule.same == "itself":
                return args[0]
            self.shared.update((specs[0], len(self.rows)))
        if rule.in_place:
            token = args[0]
            if passes == "none" and cast(Row, self.rows[specs[0]])[6] != "none":
                raise self.refuse(
                    f"{name_of(func)} changes in torch.inference_mode a tensor made outside of it, "
                    "which cannot be fused: bind the result to a name instead"
                )
            if requires_grad and not token.requires_grad:
                _requiring(token)
            passes = "old" if passes == "forward" else passes
            self.equal_shapes.append((specs[0], len(self.rows)))
            others = [s for s in specs[1:] if type(s) is int]
            self._check_one_shape(func, specs[0], [specs[0], *others])
        else:
            token = _token(dtype, scalar, requires_grad)
        if rule.name == "detach":
            passes = "all"
        differentiated = grad and any(self.nodes[n].requires_grad for n in _used(specs))
        if rule.name in WITHOUT_DERIVATIVE and differentiated:
            raise self.refuse(
                f"{name_of(func)} has no derivative, neither in PyTorch nor here, and an argument "
                "requires a gradient: pass it detached"
            )
        is_plain = numbers is None and state is None and passes != "none" and args is given
        is_plain = is_plain and called is func and not is_rounded and not follows
        if is_plain and not (keywords or rule.same or rule.in_place or rule.name in _BY_MORE):
            _plain_results[(func, grad, *kinds[0])] = rule.name, dtype, scalar, requires_grad
        row = (rule.name, specs, keywords, dtype, scalar, requires_grad, passes)
        if follows:
            self.reduced.add(len(self.rows))
        self._add(token, row, called)
        if reduction == WEIGHTED_MEAN:
            sums = self._reduced(token, "sum"), self._reduced(kwargs["weight"], "sum")
            return self._record(RULES[torch.div], torch.div, sums, None)
        if reduction == "batchmean" and type(dict(keywords)["target"]) is int:
            self.equal_shapes.append((specs[0], dict(keywords)["target"]))
            self._check_one_shape(func, specs[0], [dict(keywords)["target"]])
        return token if reduction == "none" else self._reduced(token, reduction)

    def _as_they_are_compared(self, rule: Rule, args: tuple[Any, ...], kwargs: Any) -> Any:
        """The arguments; where a function jumps, in the dtype to which PyTorch rounds them before.

        That is the one of the tensors that have dimensions. What has none is rounded before the
        kernel, which does not round in between.
        """
        divides = rule.name in ("floor_divide", "__rfloordiv__") or "rounding_mode" in (
            kwargs or ()
        )
        if rule.name not in (ROUNDED | EXTREMES) and not divides:
            return args, kwargs
        given = [*args, *(kwargs or {}).values()]
        floats = [v for v in given if isinstance(v, Tensor) and v.is_floating_point()]
        if len({v.dtype for v in floats}) < 2:
            return args, kwargs
        own = [v.dtype for v in floats if not self.is_scalar(v)]
        dtype = functools.reduce(torch.promote_types, own) if own else torch.float64
        # Half types are divided by the number as it is.
        if divides and dtype is not torch.float32:
            return args, kwargs

        def as_compared(value: Any) -> Any:
            if (
                not any(value is v for v in floats)
                or torch.promote_types(value.dtype, dtype) is dtype
            ):
                return value
            node, requires_grad, passes = self._spec(value), value.requires_grad, self._passes()
            token = _token(dtype, True, requires_grad and passes == "all")
            row = ("rounded", (node, (dtype,)), (), dtype, True, token.requires_grad, passes)
            self._add(token, row, Tensor.to)
            return token

        args = tuple([as_compared(a) for a in args])
        return args, kwargs and {key: as_compared(value) for key, value in kwargs.items()}

    def _rounds(self, rule: Rule, used: list[Tensor]) -> bool:
        """Whether PyTorch rounds the numbers of a function to a half type, where it jumps."""
        if rule.name not in ROUNDED or used[0].dtype not in (torch.float16, torch.bfloat16):
            return False
        # CUDA tells in float32 whether they are equal.
        return rule.name not in ("eq", "ne") or not self._place().is_cuda

    def _add(self, node: Tensor, row: Row | None, called: Any = None) -> None:
        self._known[id(node)] = len(self.rows)
        self.rows.append(row)
        self.nodes.append(node)
        self.calls.append(called)
        scalar, requires_grad = (node.dim() == 0, node.requires_grad) if row is None else row[4:6]
        kind = (
            node.dtype,
            scalar,
            requires_grad,
            node.is_inference(),
            len(self.rows) - 1 in self.reduced,
        )
        self.kinds.append(kind)

    def _reduced(self, tensor: Tensor, reduction: str) -> Tensor:
        """A token of the mean or the sum of all elements."""
        node = self._spec(tensor)
        passes = self._passes()
        if node in self.reduced or (passes != "all" and self.grad):
            raise self.refuse("a mean or a sum of another, or under no_grad, in a fused function")
        requires_grad = tensor.requires_grad and passes == "all"
        dtype = tensor.dtype if tensor.is_floating_point() else torch.int64
        token = _token(dtype, True, requires_grad)
        self.reduced.add(len(self.rows))
        keywords = (("reduction", (reduction,)),)
        self._add(token, ("reduced", (node,), keywords, dtype, True, requires_grad, passes))
        return token

    def _follows_sums(self, func: Any, rule: Rule, used: list[int]) -> bool:
        """Whether an operation is of means and sums: of numbers then, and nothing else."""
        if not self.reduced.intersection(used):
            return False
        elements = [n for n in used if n not in self.reduced]
        others = any(self.rows[n] is not None or self.nodes[n].dim() > 0 for n in elements)
        if (
            others
            or rule.in_place
            or rule.unreduced is not None
            or (self._passes() != "all" and self.grad)
        ):
            raise self.refuse(
                f"{name_of(func)} takes a mean or a sum beside elements, in place or under "
                "no_grad: a fused function may return what it makes of means and sums, and do "
                "nothing else with them"
            )
        return True

    def _along_channels(self, input: Any, weight: Any) -> tuple[Any, Any]:
        """The operands of prelu, whose weight belongs to the second dimension of its input."""
        if isinstance(weight, Tensor) and isinstance(input, Tensor) and weight.dim() == 1:
            node = self._known.get(id(weight))
            if node is not None and self.rows[node] is not None:
                raise self.refuse("the weight of prelu is computed, expected an argument")
            rest = len(self.shapes()[self.node_of(input)]) - 2
            weight = weight.reshape((-1, *[1] * max(rest, 0)))
        return input, weight

    def _spec(self, value: Any) -> Any:
        kind = type(value)
        if kind is Tensor or kind is Parameter:
            found = self._known.get(id(value))
            return self._operand(value) if found is None else found
        if kind is float or kind is int:
            if kind is int and not _LEAST <= value <= _LARGEST:
                raise self.refuse(
                    "an int of more than 64 bits is no number of a tensor", FuseOverflowError
                )
            self.numbers.append(value)
            self.number_names.append("")
            return kind
        if isinstance(value, Tensor):
            return self._operand(value)
        if kind is bool or value is None or isinstance(value, (str, torch.dtype, torch.device)):
            return (value,)
        if isinstance(value, numbers.Real):  # of NumPy too
            number = int(value) if isinstance(value, numbers.Integral) else float(value)
            self.numbers.append(number)
            self.number_names.append(getattr(value, "name", ""))
            return type(number)
        if isinstance(value, torch.memory_format):
            return (value,)
        raise self.refuse(f"an operand is {kind.__name__}, expected a tensor or a number")

    def _fixed(self, value: Any) -> Any:
        """As `_spec`, of an int by which the operation is another."""
        return (value,) if type(value) is int else self._spec(value)

    def _operand(self, tensor: Tensor) -> int:
        if type(tensor) not in PLAIN:
            raise self.refuse(f"an operand is a {type(tensor).__name__}, expected a plain tensor")
        if not is_dense(tensor):
            raise self.refuse("an operand is sparse, nested or quantized, expected a dense tensor")
        if tensor.is_meta and not self.meta:
            raise self.refuse(
                "an operand was computed from what the function computes by something that fuse "
                "does not see, such as a scripted function or a torch.autograd.Function, or was "
                "kept by a call that was refused: fuse the part before it and the part after it"
            )
        self.operands.append(len(self.rows))
        self._add(tensor, None)
        return self.operands[-1]

    def _kinds(self, specs: Any, keywords: Any) -> tuple[Any, bool]:
        """What the dtype of a result depends on, and whether it is no matter what numbers are."""
        result: list[Any] = []
        is_float = True
        for spec in (*specs, *keywords):
            if type(spec) is int:
                kind = self.kinds[spec]
                is_float = is_float and kind[0].is_floating_point
                result.append(kind)
            elif type(spec) is tuple and len(spec) == 2 and type(spec[1]) is int:
                kinds, floats = self._kinds((spec[1],), ())
                is_float = is_float and floats
                result.append((spec[0], kinds))
            else:
                result.append(spec)
        return tuple(result), is_float

    def _asked_of_torch(
        self, rule: Rule, func: Any, args: tuple[Any, ...], kwargs: Any, grad: bool
    ) -> Any:
        """What PyTorch says of the result, asked of tensors of one element."""
        stand_in = _stand_in
        func = rule.asked or func
        stand_ins = [stand_in(a) for a in args]
        others = {key: stand_in(value) for key, value in kwargs.items()}
        if rule.unreduced is not None:
            others["reduction"] = "none"
        if rule.in_place or rule.asked is not None:
            requires = grad and any(
                getattr(a, "requires_grad", False) for a in (*args, *others.values())
            )
            requires = requires or (rule.in_place and args[0].requires_grad)
            with torch.no_grad():
                made = func(
                    *[a.detach() if isinstance(a, Tensor) else a for a in stand_ins], **others
                )
            requires = requires and made.is_floating_point()
        else:
            made = func(*stand_ins, **others)
            if made is NotImplemented:
                return made
            if not isinstance(made, Tensor) or made.numel() != 1:
                raise self.refuse(f"{name_of(func)} of these arguments is not elementwise")
            requires = made.requires_grad
        return made.dtype, made.dim() == 0, requires

    def shapes(self) -> list[torch.Size]:
        """Those of all nodes, in the call that is recorded."""
        result: list[torch.Size] = []
        for row, node in zip(self.rows, self.nodes, strict=True):
            if row is None:
                result.append(node.shape)
            elif row[0] == "reduced":
                result.append(torch.Size())
            else:
                used = [v for v in (*row[1], *(v for _, v in row[2])) if type(v) is int]
                result.append(_broadcast(*(result[v] for v in used)))
        return result

    def _check_one_shape(self, func: Any, target: int, others: list[int]) -> None:
        """That these nodes together have the shape of the target, here where PyTorch says so."""
        if len({self.nodes[n].shape for n in self.operands}) <= 1:
            return
        shapes = self.shapes()
        together = _broadcast(*(shapes[n] for n in others))
        if together != shapes[target]:
            raise self.refuse(
                f"{name_of(func)}: tensors of shapes {tuple(shapes[target])} and "
                f"{tuple(together)}, expected one shape",
                FuseValueError,
            )

    def _check_in_place(self, func: Any, target: Any) -> None:
        node = self._known.get(id(target)) if isinstance(target, Tensor) else None
        if node is None or self.rows[node] is None:
            raise self.refuse(
                f"{name_of(func)} changes its tensor in place, which cannot be fused for an "
                "argument or a tensor from outside: bind the result to a name instead"
            )
        if node in self.shared:
            raise self.refuse(
                f"{name_of(func)} changes in place a tensor that shares its memory with another, "
                "which cannot be fused: bind the result to a name instead"
            )

    # ------------------------------------------------------------------------------------ the rest

    def _other(self, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        """What is no operation: answered as the caller's tensors would, or refused."""
        if func in _ASKED:
            return func(*args, **kwargs)
        if func is torch._C._set_grad_enabled:
            self._passes()
            (self.grad,) = args
            return func(self.grad)
        name = getattr(func, "__name__", "")
        what = name_of(func)
        tensor = args[0] if args and isinstance(args[0], Tensor) else None
        node = None if tensor is None else self._known.get(id(tensor))
        is_outside = tensor is not None and (node is None or self.rows[node] is None)
        if is_outside and (name == "__deepcopy__" or func in _ASKED_OF_OPERANDS or func in _PLACE):
            return func(self.originals.get(id(tensor), tensor), *args[1:], **kwargs)
        if func in _PLACE and node is not None:
            return getattr(self._place(), _PLACE[func])
        if func is Tensor.type and tensor is not None:
            if len(args) == 1 and not kwargs:
                return torch.empty(0, dtype=tensor.dtype, device=self._place().device).type()
            return self._record(RULES[Tensor.to], Tensor.to, *_cast_of(args, kwargs))
        if func in _ASKED_OF_KINDS:
            return func(*map(_stand_in, args), **{k: _stand_in(v) for k, v in kwargs.items()})
        if func is Tensor.requires_grad_ and is_outside:
            if any(node in (*r[1], *(v for _, v in r[2])) for r in self.rows if r is not None):
                raise self.refuse(f"{what} of a tensor that was used before cannot be fused")
            result = func(*args, **kwargs)
            if node is not None and tensor is not None:
                dtype, scalar, _, inference = self.kinds[node]
                self.kinds[node] = (dtype, scalar, tensor.requires_grad, inference)
            return result
        is_factory = func in _FACTORIES or (func in _RANDOM_FACTORIES and not self.derived)
        if is_factory and not any(isinstance(a, Tensor) for a in (*args, *kwargs.values())):
            return func(*args, **kwargs)
        if name == "__set__":
            raise self.refuse(f"{what} is set, which cannot be fused")
        if name == "__bool__":
            raise self.refuse(
                "control flow that depends on a tensor's values cannot be fused: choose between "
                "values with torch.where"
            )
        if name in _CONVERSIONS:
            raise self.refuse(
                f"{what}: a tensor cannot become a Python number while it is traced: use torch "
                "functions on it"
            )
        if name == "__len__" or name == "__iter__" or name == "unbind":
            verb = "len() of" if name == "__len__" else "iterating over"
            raise self.refuse(f"{verb} a tensor cannot be fused: a fused function is elementwise")
        if name == "__setitem__":
            raise self.refuse(
                "an assignment to elements cannot be fused: choose between values with torch.where"
            )
        raise self.refuse(
            f"{what} is no elementwise operation that fuse knows; fuse the part before it and the "
            "part after it, or write it with the operations in fuse's documentation"
        )

    def _place(self) -> Tensor:
        """An operand on the device of the result."""
        operands = [self.nodes[number] for number in self.operands]
        found = next((node for node in operands if node.dim()), operands[0])
        return self.originals.get(id(found), found)

    def graph(self, graph: Any, operands: list[Any], dtype: torch.dtype) -> Tensor:
        """A token of the only output of another function's graph, called of these operands."""
        specs = tuple([self._spec(operand) for operand in operands])
        used = [operand for operand in operands if isinstance(operand, Tensor)]
        passes = self._passes()
        scalar = all(self.nodes[n].dim() == 0 for n in specs if type(n) is int)
        requires_grad = passes == "all" and any(operand.requires_grad for operand in used)
        token = _token(dtype, scalar, requires_grad)
        keywords = (("graph", (graph,)),)
        self._add(token, ("graph", specs, keywords, dtype, scalar, requires_grad, passes))
        return token

    # ---------------------------------------------------------------------------------- the result

    def run(self, name: str, function: Callable[..., Any], arguments: Any, keywords: Any) -> Any:
        """What the function returns, in tokens."""
        try:
            with _compiled_inlined, self:
                results = [function(*arguments, **keywords)]
        except RecursionError:
            raise FuseValueError(
                f"{name} calls itself without end: a fused function has no branch that could stop "
                "it"
            ) from None
        except BaseException:
            if self.refused is not None:
                raise self.refused from None
            raise
        if self.refused is not None:
            raise self.refused
        self.check()
        row = self._kept(results)
        if row is not None:
            self._refuse_kept(row, name, function, arguments, keywords)
        return results[0]

    def _kept(self, results: list[Any]) -> int | None:
        """A row whose token is in an object from outside too, such as `self.last`."""
        leaves = _pytree.tree_leaves(results)
        known = Counter(map(id, [*self.nodes, *self.nodes, *leaves, *leaves]))

        def first() -> int | None:
            # A node is in `nodes` and in the list here, a leaf in `leaves` and its container.
            alone, *counts = _reference_counts([object(), *self.nodes])
            for row, (node, count) in enumerate(zip(self.nodes, counts, strict=True)):
                if self.rows[row] is not None and count - alone >= known[id(node)]:
                    return row
            return None

        if first() is None:
            return None
        gc.collect()  # a function that calls itself keeps its variables until then
        return first()

    def _refuse_kept(
        self, row: int, name: str, function: Callable[..., Any], arguments: Any, keywords: Any
    ) -> None:
        """Raise where the row's operation is called, if it is called again."""
        error = FuseTypeError(
            "what it returns is kept in an object from outside, where it would have no value: let "
            "the fused function return it"
        )
        again = Recorder()
        again.stop = sum(r is not None for r in self.rows[:row]), error
        called = self.calls[row]
        told = f"{name_of(called) if called else name}: {error}"
        try:
            again.run(name, function, arguments, keywords)
        except FuseError as refused:
            if str(refused).startswith(told):
                raise
        raise FuseTypeError(told) from None

    def give(self, arguments: Any, keywords: Any) -> None:
        """Make the tensors among the arguments the first operands."""
        for value in (*arguments, *keywords.values()):
            if type(value) in PLAIN and id(value) not in self._known:
                self.meta = value.is_meta
                self._operand(value)
        self.meta = False

    def is_scalar(self, tensor: Tensor) -> bool:
        """Whether a token or an operand has no dimensions."""
        row = self.rows[self.node_of(tensor)]
        node = self.nodes[self.node_of(tensor)]
        return node.dim() == 0 if row is None else bool(row[4])

    def node_of(self, tensor: Tensor) -> int:
        """The number of a node, of which an output is."""
        found = self._known.get(id(tensor))
        return self._operand(tensor) if found is None else found

    def check(self) -> None:
        """Raises where the record of a token was changed behind the mode's back."""
        for row, node in zip(self.rows, self.nodes, strict=True):
            if row is None or node.requires_grad is row[5]:
                continue
            last = self.rows[self._known[id(node)]]  # of one that was changed in place
            if last is None or node.requires_grad is not last[5]:
                raise FuseTypeError(
                    "something inside changed how a tensor is differentiated, such as a "
                    "torch.autograd.Function or requires_grad_(), which cannot be fused: fuse the "
                    "part before it and the part after it"
                )


def record(
    function: Callable[..., Any], name: str, arguments: Any, keywords: Any, *, derived: bool
) -> tuple[Recorder, Any]:
    """What a call does and returns, in tokens; one that is `derived` by its arguments.

    Raises:
        FuseError: for what cannot be fused; any other error is the function's own.
    """
    recorder = Recorder(derived=derived)
    recorder.give(arguments, keywords)
    return recorder, recorder.run(name, function, arguments, keywords)


def record_on_tokens(
    function: Callable[..., Any], name: str, arguments: Any, keywords: Any
) -> tuple[Recorder, Any]:
    """As `record`, with tokens in the place of the arguments too.

    So that what is computed from an argument unseen is refused, and no constant.
    """
    recorder = Recorder()
    made: dict[int, Tensor] = {}

    def token(value: Any) -> Any:
        if type(value) not in PLAIN:
            return value
        if id(value) not in made:
            own = _token(value.dtype, value.dim() == 0, value.requires_grad)
            if type(value) is Parameter:
                own = Parameter(own, requires_grad=value.requires_grad)
            own.__dict__.update(value.__dict__)
            made[id(value)] = own
            recorder.originals[id(own)] = value
        return made[id(value)]

    arguments = [token(a) for a in arguments]
    keywords = {key: token(value) for key, value in keywords.items()}
    recorder.give(arguments, keywords)
    return recorder, recorder.run(name, function, arguments, keywords)


def flattened(result: Any) -> tuple[list[Any], Any]:
    """The parts of a result, and its structure; None for one tensor."""
    if isinstance(result, Tensor):
        return [result], None
    return _pytree.tree_flatten(result)


def unflattened(parts: Any, structure: Any) -> Any:
    """The result of its parts."""
    return parts[0] if structure is None else _pytree.tree_unflatten(list(parts), structure)

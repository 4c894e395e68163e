"""Tensors that carry Taylor coefficients through a function that does not know of them.

A `Jet` stands for a tensor that moves along one or several curves. It is either *settled*, all of
its coefficients the rows of one tensor, so that a linear operation is one call for all of them; or
*pending*, an expression of settled ones, so that the elementwise operations between two linear ones
become one kernel.

Coefficients are derivatives, not divided by factorials, and have keys `(order, direction)`; that of
the value is `(0, 0)`. Of the highest order there is one for all directions together, the sum of
theirs, which is all that an operator such as the Laplacian needs: it moves through a function by
itself (the collapsed form of Dangel, Siebert, Zeinhofer and Walther, 2025). With one direction it
is that direction's. What has no key is zero.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor

from fusedgrad import _C
from fusedgrad.fuse import autograd, kernel, prebuilt
from fusedgrad.fuse.errors import FuseTypeError
from fusedgrad.fuse.expression import Expression, apply, constant, in_order, substitute
from fusedgrad.fuse.function import is_traced
from fusedgrad.fuse.graph import Graph, input_named, parameter_named
from fusedgrad.fuse.jet import Series
from fusedgrad.fuse.trace import PLAIN, _broadcast, line_of_caller, name_of, rounded
from fusedgrad.fuse.vocabulary import (
    CHOSEN_BY,
    EXTREMES,
    LOGICAL,
    OF_ONE_SHAPE,
    ROUNDED,
    RULES,
    TYPED,
    Rule,
)
from fusedgrad.taylor.rows import Rows, Step
from fusedgrad.taylor.rows import apply as apply_rows

Key = tuple[int, int]
VALUE: Key = (0, 0)
# A pending expression of more operations, or of more tensors, is settled first.
_MOST_OPERATIONS = 200
_MOST_LEAVES = 6


@dataclass(unsafe_hash=True)
class Frame:
    """What the jets of one call share.

    The highest coefficient is the sum over the directions of theirs times their signs, 1, 0 or -1.
    """

    order: int
    signs: tuple[int, ...] = (1,)
    # Whether gradients were recorded when the call began
    records: bool = field(default_factory=torch.is_grad_enabled, compare=False)
    # and forward mode was on, which C++ ends in a torch.autograd.Function
    is_forward: bool = field(default_factory=torch._C._is_fwd_grad_enabled, compare=False)

    def __post_init__(self) -> None:
        """Raise where rows would be computed that a trace does not see."""
        if is_traced():
            raise TaylorError(
                "Taylor mode inside torch.jit.trace or torch.func.functionalize: nest "
                "torch.func.jvp there, or call f.jet(order) of a fused function"
            )

    @property
    def top(self) -> Key:
        """The key of the highest coefficient."""
        return self.order, 0

    def ordered(self, keys: Iterable[Key]) -> tuple[Key, ...]:
        """The value first, then direction by direction, the highest last."""
        return tuple(sorted(keys, key=lambda key: (key == self.top, key[1], key[0])))


class TaylorError(NotImplementedError):
    """An operation whose Taylor series is not known; the message says where."""


def refused(func: Any, why: str = "is no operation that jet() knows") -> TaylorError:
    """The error of an operation, with the user's line."""
    return TaylorError(f"{name_of(func)} {why}, at {line_of_caller()}")


class Coefficients:
    """The coefficients of a settled jet: rows of one tensor, or several of one shape and dtype.

    Or *spread*: rows of two tensors, of which the second has the derivatives of all points alike.
    """

    __slots__ = ("_rows", "_spread", "_stack", "keys")

    def __init__(
        self,
        keys: tuple[Key, ...],
        stack: Tensor | None,
        rows: Sequence[Tensor | tuple[Coefficients, Key]] | None = None,
        spread: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """One of `stack`, `rows` and `spread` is given; a row may be that of another jet."""
        self.keys, self._stack, self._rows, self._spread = keys, stack, rows, spread

    @property
    def layout(self) -> tuple[int, ...]:
        """The rows of each of `parts`, () if they are rows themselves."""
        if self._stack is not None:
            return (len(self.keys),)
        return () if self._spread is None else (1, len(self.keys) - 1)

    @property
    def spread(self) -> tuple[Tensor, Tensor] | None:
        """The value, and the derivatives, if they lie so."""
        return self._spread if self._stack is None else None

    def stack(self) -> Tensor:
        """As the rows of one tensor."""
        if self._stack is None:
            if self._spread is not None:
                value, others = self._spread
                self._stack = torch.cat([value, others.expand(-1, *value.shape[1:])])
            else:
                self._stack = torch.stack(self._resolved())
        return self._stack

    def _resolved(self) -> list[Tensor]:
        owners = {id(r[0]): r[0] for r in self._rows or () if not isinstance(r, Tensor)}
        if not owners:
            return cast(list[Tensor], self._rows)
        of_owners = {key: owner.rows() for key, owner in owners.items()}
        self._rows = rows = [
            r if isinstance(r, Tensor) else of_owners[id(r[0])][r[1]] for r in self._rows or ()
        ]
        return rows

    def rows(self) -> dict[Key, Tensor]:
        """By their keys."""
        if self._rows is None:
            stack = self.stack()
            self._rows = _C.unbound_rows(stack) if type(stack) in PLAIN else stack.unbind(0)
        return dict(zip(self.keys, self._resolved(), strict=True))

    def row(self, key: Key) -> Tensor:
        """One of them, for which the others are left as they lie."""
        place = self.keys.index(key)
        if self._rows is None:
            return self.stack()[place]
        row = self._rows[place]
        return row if isinstance(row, Tensor) else row[0].row(row[1])

    def rows_of(self, keys: Sequence[Key]) -> Tensor:
        """Some of them as the rows of one tensor."""
        places = [self.keys.index(key) for key in keys]
        if self._rows is None:
            stack, first = self.stack(), places[0]
            if places == [*range(first, first + len(places))]:
                return stack[first : first + len(places)]
        else:
            own = [self._rows[place] for place in places]
            sources = {id(r[0]): r[0] for r in own if not isinstance(r, Tensor)}
            if len(sources) == 1 and not any(isinstance(r, Tensor) for r in own):
                (source,) = sources.values()
                return source.rows_of([cast(Any, r)[1] for r in own])
        rows = self.rows()
        return torch.stack([rows[key] for key in keys])

    def parts(self) -> Sequence[Tensor]:
        """The tensors that they are in."""
        if self._stack is not None:
            return (self._stack,)
        return self._resolved() if self._spread is None else self._spread

    @property
    def shape(self) -> torch.Size:
        """Of each."""
        part = self.parts()[0]
        return part.shape[1:] if self.layout else part.shape

    @property
    def dtype(self) -> torch.dtype:
        """Of all."""
        return self.parts()[0].dtype


# What a pending expression is made of
Leaf = Coefficients | Tensor | float
# What jets have in common of which the same operations make the same: a node of the graph whose
# edges are operations done before, by which csrc/operators/jets.cpp does them the next time. Under
# an operation of one tensor the expression, the form and the dtype of its result, under
# torch.nn.functional.linear the first two, and under None how coefficients are computed: the number
# of the kernel, `takes` of a _Plan and the rows of each, its `keys`; the keys of all coefficients
# and, if some are passed, the leaf (-1 for the kernel) and the key that each is; and the form of
# the result.
Form = dict[Any, Any]


class Jet(Tensor):
    """A tensor with Taylor coefficients."""

    frame: Frame
    _settled: Coefficients | None
    _expression: Expression | None
    _leaves: tuple[Leaf, ...]
    _form: Form | None  # if it is known

    @staticmethod
    def of(frame: Frame, coefficients: Coefficients) -> Jet:
        """Settled."""
        return cast(Jet, _C.settled_jet(frame, coefficients))

    @staticmethod
    def of_stack(frame: Frame, keys: tuple[Key, ...], stack: Tensor) -> Jet:
        """Settled: the coefficients are the rows of `stack`."""
        return Jet.of(frame, Coefficients(keys, stack))

    @staticmethod
    def of_rows(frame: Frame, rows: dict[Key, Tensor]) -> Jet:
        """Settled: of coefficients that are tensors of one shape and dtype."""
        keys = frame.ordered(rows)
        return Jet.of(frame, Coefficients(keys, None, [rows[key] for key in keys]))

    @staticmethod
    def pending(
        frame: Frame,
        expression: Expression,
        leaves: tuple[Leaf, ...],
        shape: torch.Size,
        dtype: torch.dtype,
        device: torch.device,
        form: Form | None = None,
    ) -> Jet:
        """An expression of `leaves`, whose inputs and parameters are x0, x1, ... in their order."""
        made = Tensor._make_wrapper_subclass(Jet, shape, dtype=dtype, device=device)
        made.frame, made._settled = frame, None
        made._expression, made._leaves, made._form = expression, leaves, form
        return made

    def settle(self) -> Coefficients:
        """The coefficients, computed now if they are pending."""
        if self._settled is None and not _C.settle_jet(self):
            self._settled = _computed(self)
            self._expression, self._leaves = None, ()
            self._form = _C.form_of(self.frame, self._settled)
        return cast(Coefficients, self._settled)

    @property
    def keys(self) -> tuple[Key, ...]:
        """Of the coefficients that are not zero."""
        return self.settle().keys

    def stack(self) -> Tensor:
        """The coefficients as the rows of one tensor."""
        return self.settle().stack()

    def rows(self) -> dict[Key, Tensor]:
        """The coefficients by their keys."""
        return self.settle().rows()

    @property
    def is_condition(self) -> bool:
        """Whether it is true or false, and has no derivatives."""
        return self._expression is not None and self._expression.is_condition

    def condition(self) -> Tensor:
        """What is true or false as a plain tensor."""
        expression = apply("number", cast(Expression, self._expression))
        dtype = torch.float32
        number = Jet.pending(self.frame, expression, self._leaves, self.shape, dtype, self.device)
        return number.rows()[VALUE] != 0

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        """The shape and the order."""
        return f"Jet(order={self.frame.order}, shape={tuple(self.shape)}, dtype={self.dtype})"

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Called by PyTorch in the place of its function `func`."""
        known = None if kwargs else _C.next_jet(func, args)
        if known is not None:
            return known
        with torch._C.DisableTorchFunctionSubclass():
            handler = HANDLERS.get(func)
            if handler is not None:
                return handler(func, args, kwargs or {})
            rule = RULES.get(func)
            if rule is not None:
                return elementwise(func, rule, args, kwargs or {})
            raise refused(func)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Where an operation came past `__torch_function__`."""
        raise refused(func)


_C.set_jet_classes(Jet, Coefficients)
# What is done with a call of a function of PyTorch: of the function, its arguments and keywords
Handler = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]
HANDLERS: dict[Any, Handler] = {}
PLAIN_TYPES = PLAIN


def jets_in(*values: Any) -> list[Jet]:
    """The jets among arguments, in lists and keywords too."""
    found: list[Jet] = []
    for value in values:
        if isinstance(value, Jet):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found += jets_in(*value)
        elif isinstance(value, dict):
            found += jets_in(*value.values())
    return found


def check_grad_mode(func: Any, frame: Frame) -> None:
    """Refuses what the function does under no_grad of its own, or in a Function."""
    if frame.is_forward and not torch._C._is_fwd_grad_enabled():
        raise refused(func, "in a torch.autograd.Function, whose own derivative would be lost")
    if frame.records and not torch.is_grad_enabled():
        raise refused(
            func, "under torch.no_grad() inside the function has no derivative: use detach()"
        )


# ------------------------------------------------------------------------------------- elementwise


_BY_CHANNELS = (torch.prelu, Tensor.prelu)


def elementwise(func: Any, rule: Rule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A pending jet, of the expression that `fuse` would make."""
    if rule.unreduced is not None:
        args, kwargs, reduction = rule.unreduced(args, kwargs)
        if reduction not in ("none", "mean", "sum"):
            raise refused(
                func, f"with the reduction {reduction!r} is not known: reduce it yourself"
            )
        losses = elementwise(func, replace(rule, unreduced=None), args, kwargs)
        if reduction == "none":
            return losses
        whole = Tensor.mean if reduction == "mean" else Tensor.sum
        return HANDLERS[whole](whole, (losses,), {})
    if func in _BY_CHANNELS and isinstance(args[-1], Tensor) and args[-1].dim() == 1:
        args = (args[0], args[1].reshape((-1, *[1] * max(args[0].dim() - 2, 0))))
    for name in OF_ONE_SHAPE.get(rule.name, ()):
        other = kwargs.get(name)
        if isinstance(other, Tensor) and other.shape != args[0].shape:
            raise refused(func, f"takes {name} of the shape of its first argument")
    if len(args) == 1 and not kwargs and not rule.in_place and rule.name not in TYPED:
        return _unary(func, rule, args[0])
    (first, *_) = jets = jets_in(args, kwargs)
    frame = first.frame
    check_grad_mode(func, frame)
    if rule.in_place or kwargs.get("inplace") or kwargs.get("out") is not None:
        raise refused(func, "changes a tensor in place: bind the result to a name instead")
    kwargs = {k: v for k, v in kwargs.items() if k not in ("inplace", "out")}
    if len(jets) > 1 and any(jet.frame is not frame for jet in jets):
        raise refused(func, "meets a jet of another call")
    dtype = _dtype_of(func, rule, args, kwargs)
    if dtype is torch.bool and rule.name == "add":
        rule = RULES[torch.logical_or]  # as PyTorch adds truth values
    if rule.name in ROUNDED | EXTREMES:
        args, kwargs = _as_they_are_compared(rule, args, kwargs)
    for jet in jets:
        if len(jet._leaves) > _MOST_LEAVES:
            jet.settle()
    joined = _Joined()
    condition = CHOSEN_BY.get(rule.name)
    is_logical = rule.name in LOGICAL
    made = [
        joined.operand(
            value,
            dtype,
            is_number=rule.name != "pow" or i != 1 or not _is_half_integer(value),
            is_condition=is_logical or i == condition,
        )
        for i, value in enumerate(args)
    ]
    others = {
        key: joined.operand(value, dtype, is_number=key != "exponent", is_condition=is_logical)
        for key, value in kwargs.items()
    }
    if rule.name in TYPED:
        others["dtype"] = dtype
    try:
        expression = rule.build(*made, **others)
    except (TypeError, ValueError) as error:
        if type(error) is TypeError and not isinstance(error, FuseTypeError):
            raise
        raise refused(func, f"cannot be taken the jet of: {error}") from None
    if not isinstance(expression, Expression):
        expression = constant(expression)
    if expression.operation == "constant":
        return torch.full(first.shape, expression.value, dtype=dtype, device=first.device)
    shape = first_shape = first.shape
    for tensor in joined.shaped:
        if tensor.shape != first_shape:
            shape = _broadcast(*(t.shape for t in joined.shaped))
            break
    device = first.device
    result = Jet.pending(frame, expression, tuple(joined.leaves), shape, dtype, device)
    if joined.size > _MOST_OPERATIONS and not expression.is_condition:
        result.settle()
    return result


def _as_they_are_compared(
    rule: Rule, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments, numbers and what has no dimensions rounded as PyTorch rounds them before."""
    given = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)]
    floats = [v for v in given if v.is_floating_point()]
    own = [v.dtype for v in floats if v.dim()] or [v.dtype for v in floats]
    if not own:
        return args, kwargs
    dtype = functools.reduce(torch.promote_types, own)
    # CUDA tells in float32 whether numbers are equal.
    as_given = rule.name in ("eq", "ne") and dtype is not torch.float32 and given[0].is_cuda

    def as_compared(value: Any) -> Any:
        if type(value) in (int, float):
            return value if as_given else rounded(value, dtype)
        if any(value is v for v in floats) and torch.promote_types(value.dtype, dtype) != dtype:
            with torch._C._EnableTorchFunction():
                return value.to(dtype)
        return value

    return tuple(map(as_compared, args)), {k: as_compared(v) for k, v in kwargs.items()}


_unaries: dict[Any, tuple[Expression, torch.dtype]] = {}


def _unary(func: Any, rule: Rule, jet: Jet) -> Any:
    """A function of one jet, whose expression is known for the next time."""
    frame, device = jet.frame, jet.device
    check_grad_mode(func, frame)
    before, leaves = jet._expression, jet._leaves
    too_large = before is not None and (
        _size(before) > _MOST_OPERATIONS or len(leaves) > _MOST_LEAVES
    )
    if before is None or too_large:
        before, leaves = input_named("x0"), (jet.settle(),)
    kind = device.type
    autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    key = (func, before, jet.dtype, autocast, kind, len(jet.shape) == 0, torch.get_default_dtype())
    known = _unaries.get(key)
    if known is None:
        try:
            expression = rule.build(before)
        except (TypeError, ValueError) as error:
            raise refused(func, f"cannot be taken the jet of: {error}") from None
        if not isinstance(expression, Expression):
            expression = constant(expression)
        known = _unaries[key] = expression, _dtype_of(func, rule, (jet,), {})
    expression, dtype = known
    if expression.operation == "constant":
        return torch.full(jet.shape, expression.value, dtype=dtype, device=device)
    form = None
    if jet._form is not None and autocast is None and not expression.is_condition and not too_large:
        _, form, _ = jet._form.setdefault(func, (expression, {}, dtype))
    return Jet.pending(frame, expression, leaves, jet.shape, dtype, device, form)


# That a kernel is made of; others are its parameters, so that it serves the next ones too
_PLAIN_NUMBERS = frozenset({-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0})


def _is_half_integer(exponent: Any) -> bool:
    """Whether a power is a few products and a root."""
    return isinstance(exponent, (int, float)) and (2 * exponent) % 1 == 0


class _Joined:
    """The leaves of an expression that is being made of several."""

    def __init__(self) -> None:
        self.leaves: list[Leaf] = []
        self.shaped: list[Tensor] = []  # the operands, whose shapes broadcast
        self.size = 0
        self._places: dict[int, int] = {}
        self._numbers = 0

    def operand(
        self, value: Any, dtype: torch.dtype, *, is_number: bool, is_condition: bool
    ) -> Any:
        """What the builder takes in the place of an argument."""
        if isinstance(value, Jet):
            self.shaped.append(value)
            if value._expression is None:
                return self._leaf(value.settle())
            return self._renamed(value._expression, value._leaves)
        if isinstance(value, Tensor):
            self.shaped.append(value)
            if type(value) not in PLAIN_TYPES:
                raise FuseTypeError(f"an operand is a {type(value).__name__}")
            if not value.is_floating_point():
                if value.is_complex():
                    raise FuseTypeError("an operand is complex")
                value = value.to(torch.float32 if is_condition else dtype)
                if is_condition:
                    return apply("not_equal", self._leaf(value), constant(0))
            return self._leaf(value)
        is_varying = type(value) in (int, float) and is_number and value not in _PLAIN_NUMBERS
        if is_varying and self._numbers < kernel.MAX_PARAMETERS:
            self._numbers += 1
            self.leaves.append(float(value))
            return parameter_named(f"x{len(self.leaves) - 1}")
        return value

    def _leaf(self, leaf: Coefficients | Tensor) -> Expression:
        place = self._places.get(id(leaf))
        if place is None:
            place = self._places[id(leaf)] = len(self.leaves)
            self.leaves.append(leaf)
        return input_named(f"x{place}")

    def _renamed(self, expression: Expression, leaves: Sequence[Leaf]) -> Expression:
        """The expression of another's leaves, which are added."""
        self.size += _size(expression)
        if not self.leaves:
            self.leaves += leaves
            self._places = {id(leaf): i for i, leaf in enumerate(leaves)}
            self._numbers += sum(isinstance(leaf, float) for leaf in leaves)
            return expression
        names: list[str] = []
        for leaf in leaves:
            if not isinstance(leaf, float):
                names.append(self._leaf(leaf).value)
            else:
                self._numbers += 1
                self.leaves.append(leaf)
                names.append(f"x{len(self.leaves) - 1}")
        if all(name == f"x{i}" for i, name in enumerate(names)):
            return expression
        kinds = tuple(not isinstance(leaf, float) for leaf in leaves)
        return _substituted(expression, tuple(names), kinds)


@functools.lru_cache(maxsize=4096)
def _size(expression: Expression) -> int:
    return len(in_order([expression]))


@functools.lru_cache(maxsize=4096)
def _substituted(
    expression: Expression, names: tuple[str, ...], are_tensors: tuple[bool, ...]
) -> Expression:
    make = {True: input_named, False: parameter_named}
    replaced = {
        make[kind](f"x{i}"): make[kind](name)
        for i, (name, kind) in enumerate(zip(names, are_tensors, strict=True))
    }
    (result,) = substitute([expression], replaced)
    return result


_dtypes: dict[Any, torch.dtype] = {}


def _kind(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.dtype, value.dim() == 0
    if isinstance(value, (float, int)) and not isinstance(value, bool):
        return type(value)
    return value


def _dtype_of(func: Any, rule: Rule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.dtype:
    """The dtype of the result, asked of PyTorch with tensors of one element."""
    device = next(v.device for v in (*args, *kwargs.values()) if isinstance(v, Tensor)).type
    autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    key: Any = (func, autocast, device, torch.get_default_dtype())
    key = (*key, *map(_kind, args), *((k, _kind(v)) for k, v in kwargs.items()))
    try:
        found = _dtypes.get(key)
    except TypeError:  # an argument that cannot be a key
        found = key = None
    if found is None:

        def stand_in(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            return torch.ones(() if value.dim() == 0 else (1,), dtype=value.dtype, device=device)

        with torch.no_grad(), torch._C._DisableFuncTorch():
            asked = rule.asked or func
            found = asked(*map(stand_in, args), **{k: stand_in(v) for k, v in kwargs.items()}).dtype
        if key is not None:
            _dtypes[key] = found
    return found


# --------------------------------------------------------------------------------------- the kernel


# How the coefficients of a leaf lie: their keys, and `Coefficients.layout`; None for a number
_Kind = tuple[tuple[Key, ...], tuple[int, ...]] | None


@dataclass(frozen=True, eq=False)
class _Plan:
    """How all coefficients are computed."""

    rows: Rows | None
    takes: tuple[tuple[int, int], ...]  # of each tensor the leaf, and which of its parts
    keys: tuple[Key, ...]  # of the results
    passed: tuple[tuple[Key, int, Key], ...]  # an output that is an input: its leaf and key


def _without_compiler(jet: Jet) -> Coefficients | None:
    """Of a pending jet of one function that is prebuilt; None for others."""
    frame, leaves = jet.frame, jet._leaves
    numbers = {f"x{i}": leaf for i, leaf in enumerate(leaves) if isinstance(leaf, float)}
    expression = cast(Expression, jet._expression)
    leaf = leaves[int(expression.arguments[0].value[1:])]
    if not isinstance(leaf, Coefficients) or leaf.dtype is not jet.dtype:
        return None
    known = prebuilt.function_of(expression, numbers, frame.order, leaf.parts())
    if known is None:
        return None
    graph, parameters = known
    of_orders = {order: row for (order, _), row in leaf.rows().items()}
    derived, operands = prebuilt.filled(graph, frame.order, of_orders)
    results = autograd.apply(derived, parameters, [jet.dtype] * len(operands), operands)
    keys = (VALUE, *((k, 0) for k in range(1, frame.order + 1)))
    return Coefficients(keys, None, list(results))


def _computed(jet: Jet) -> Coefficients:
    """The coefficients of a pending jet."""
    expression, leaves, frame = cast(Expression, jet._expression), jet._leaves, jet.frame
    dtype, shape = jet.dtype, jet.shape
    if (
        frame.signs == (1,)
        and expression.operation in prebuilt.OPERATIONS
        and expression.arguments[0].operation == "input"
    ):
        prebuilt_results = _without_compiler(jet)
        if prebuilt_results is not None:
            return prebuilt_results
    kinds: list[_Kind] = []
    may_pass: list[bool] = []
    numbers: list[float] = []
    parts: list[Sequence[Tensor]] = []
    for leaf in leaves:
        if isinstance(leaf, Coefficients):
            kinds.append((leaf.keys, leaf.layout))
            parts.append(leaf.parts())
            if leaf.spread is not None:
                may_pass.append(False)
                continue
        elif isinstance(leaf, Tensor):
            kinds.append(((VALUE,), ()))
            parts.append((leaf,))
        else:
            kinds.append(None)
            numbers.append(leaf)
            parts.append(())
            may_pass.append(False)
            continue
        may_pass.append(leaf.dtype is dtype and leaf.shape == shape)
    plan = _plan(expression, tuple(kinds), frame, tuple(may_pass))
    found: dict[Key, Tensor | tuple[Coefficients, Key]] = {}
    if plan.rows is not None:
        tensors = [parts[i][part] for i, part in plan.takes]
        (result,) = apply_rows(plan.rows, numbers, [dtype], tensors)
        made = Coefficients(plan.keys, _filled(result, shape))
        found.update((key, (made, key)) for key in plan.keys)
    for key, i, own in plan.passed:
        leaf = leaves[i]
        found[key] = (leaf, own) if isinstance(leaf, Coefficients) else cast(Tensor, leaf)
    own_keys = frame.ordered(found)
    if plan.rows is None or plan.passed:
        made = Coefficients(own_keys, None, [found[key] for key in own_keys])
    number = None if plan.rows is None else plan.rows.number_in_use([dtype], tensors)
    if jet._form is not None and number is not None:
        assert plan.rows is not None
        takes = tuple((*own, n) for own, n in zip(plan.takes, plan.rows.tensors, strict=True))
        passed = {key: own for key, *own in plan.passed}
        rows = tuple(tuple(passed.get(key, (-1, key))) for key in own_keys) if passed else ()
        jet._form[None] = number, takes, plan.keys, own_keys, rows, _C.form_of(frame, made)
    return made


def _filled(stack: Tensor, shape: torch.Size) -> Tensor:
    """Of the shape that it has by PyTorch, where the expression has dropped an operand."""
    return stack if stack.shape[1:] == shape else stack.expand(-1, *shape)


@functools.lru_cache(maxsize=4096)
def _plan(
    expression: Expression, kinds: tuple[_Kind, ...], frame: Frame, may_pass: tuple[bool, ...]
) -> _Plan:
    order, signs, top = frame.order, frame.signs, frame.top
    leaves = [i for i, kind in enumerate(kinds) if kind is not None]
    moving = [i for i in leaves if len(cast(Any, kinds[i])[0]) > 1]
    width = _width(order, len(moving), len(leaves), len(signs))
    steps: list[tuple[dict[Key, Expression], dict[_Named, Expression]]] = []
    for first in range(0, len(signs), width):
        # The values are inputs always, for the shape of a coefficient may be that of another's.
        names: dict[_Named, Expression] = {(i, VALUE): input_named(f"x{i}") for i in leaves}
        results: dict[Key, Expression] = {} if first else {VALUE: expression}
        total: Expression | None = None
        for d in range(first, min(first + width, len(signs))):
            given: dict[Expression, list[Expression | None]] = {}
            for i in moving:
                of_leaf = _coefficients(i, kinds[i], names, first)
                series = [of_leaf((k, d)) for k in range(1, order)]
                highest = of_leaf(top) if d == 0 and signs[0] else None  # of all directions
                if highest is not None and signs[0] < 0:
                    highest = -highest
                given[input_named(f"x{i}")] = [*series, highest]
            walk = Series(given)
            for k in range(1, order):
                derivative = walk.derivative(expression, k)
                if derivative is not None:
                    results[k, d] = derivative
            if d == 0 and not signs[0]:
                linear = {
                    input_named(f"x{i}"): [
                        *[None] * (order - 1),
                        _coefficients(i, kinds[i], names, 0)(top),
                    ]
                    for i in moving
                }
                total = Series(linear).derivative(expression, order)
            last = walk.derivative(expression, order) if signs[d] else None
            if last is not None:
                last = last if signs[d] > 0 else -last
                total = last if total is None else total + last
        if total is not None:
            results[top] = total
        steps.append((results, names))
    return _joined(steps, kinds, frame, may_pass)


# A coefficient of a leaf
_Named = tuple[int, Key]


def _coefficients(
    i: int, kind: _Kind, names: dict[_Named, Expression], first: int
) -> Callable[[Key], Expression | None]:
    """The coefficients of a leaf by names that are the same for all steps."""
    keys = () if kind is None else kind[0]

    def of_leaf(key: Key) -> Expression | None:
        if key not in keys:
            return None
        k, direction = key
        return names.setdefault((i, key), input_named(f"x{i}_{k}_{max(direction - first, 0)}"))

    return of_leaf


def _joined(
    steps: Sequence[tuple[dict[Key, Expression], dict[_Named, Expression]]],
    kinds: tuple[_Kind, ...],
    frame: Frame,
    may_pass: tuple[bool, ...],
) -> _Plan:
    """The plan of steps, each of results and the inputs that they are made of."""
    tops = sum(frame.top in results for results, _ in steps)
    passed = []
    for results, names in steps:
        by_expression = {e: own for own, e in names.items()}
        for key, expression in list(results.items()):
            own = by_expression.get(expression)
            if own is not None and may_pass[own[0]] and (key != frame.top or tops == 1):
                passed.append((key, *own))
                del results[key]
    keys = frame.ordered({key for results, _ in steps for key in results})
    if not keys:
        return _Plan(None, (), (), tuple(passed))
    places: dict[_Named, tuple[tuple[int, int], int, int]] = {}
    for i, kind in enumerate(kinds):
        of_keys, layout = kind or ((), ())
        lie = [((i, part), row, count) for part, count in enumerate(layout) for row in range(count)]
        lie = lie or [((i, part), -1, -1) for part in range(len(of_keys))]
        places.update(((i, key), place) for key, place in zip(of_keys, lie, strict=True))
    parameters = tuple(f"x{i}" for i, kind in enumerate(kinds) if kind is None)
    takes: dict[tuple[int, int], int] = {}  # with the number of rows
    made: list[Step] = []
    for results, names in steps:
        if not results:
            continue
        used = {e.value for e in in_order(results.values()) if e.operation == "input"}
        inputs, read = [], []
        for own, (part, row, count) in places.items():
            if own in names and (own[1] == VALUE or names[own].value in used):
                takes[part] = count
                inputs.append(names[own].value)
                read.append((list(takes).index(part), row))
        graph = Graph("jet", tuple(inputs), parameters, tuple(results.values()), whole=True)
        made.append(Step(graph, tuple(read), tuple((0, keys.index(key)) for key in results)))
    rows = Rows(tuple(made), tuple(takes.values()), (len(keys),))
    return _Plan(rows, tuple(takes), keys, tuple(passed))


def _width(order: int, moving: int, leaves: int, directions: int) -> int:
    """How many directions a kernel and its backward have the operands for."""
    # The gradients of the results, what they are made of, the gradients by that, and sums so far
    still = 2 + 3 * leaves + 2 * moving
    each = (order - 1) * (1 + 2 * moving)
    most = max(1, (_C.max_operands - still) // each) if each else directions
    return math.ceil(directions / math.ceil(directions / most))

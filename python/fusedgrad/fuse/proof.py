"""Whether a record may be served again without running the function: a proof, by a whitelist.

The function's bytecode is run a second time, here, one instruction after the other. Each
instruction, each call and each read must be one of those below, of which it is known that what they
do depends on their operands alone; whatever else comes is the reason why the function runs again on
each call. Every value that is read from outside becomes a guard, compared anew on each call. Then,
by induction over the instructions, a call whose arguments and guards are as they were does what the
recorded one did. At last the second run must have recorded the same as the first, which Python
made.
"""

from __future__ import annotations

import dis
import functools
import inspect
import math
import operator
import sys
import weakref
from collections.abc import Callable, Sequence
from types import (
    BuiltinFunctionType,
    BuiltinMethodType,
    CellType,
    CodeType,
    FunctionType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules import module as _module

from fusedgrad._C import unchanged
from fusedgrad.fuse.trace import PLAIN, Recorder
from fusedgrad.fuse.vocabulary import RULES

MISSING = object()
# Immutable, and with operations that read nothing else
NUMBERS = (int, float, bool, complex)
ATOMS = frozenset({*NUMBERS, str, bytes, type(None), type(...), torch.dtype, torch.device, slice})
_IMMUTABLE = (torch.finfo, torch.iinfo, torch.dtype, torch.device)
_FUNCTIONS: frozenset[Any] = frozenset(
    {
        *(abs, min, max, float, int, bool, len, range, enumerate, zip, round, divmod, sum, pow),
        *(tuple, list, isinstance, type, hasattr, getattr, torch.finfo, torch.iinfo),
        *(torch.is_grad_enabled, torch.get_default_dtype, torch.is_tensor),
        *(torch.is_floating_point, torch.is_complex),
        *(value for value in vars(math).values() if isinstance(value, BuiltinFunctionType)),
    }
)
_OF_TENSORS = frozenset(
    {
        *("dtype", "requires_grad", "device", "is_cuda", "is_cpu", "layout", "is_sparse"),
        *("is_floating_point", "is_complex", "is_signed"),
    }
)
_CONTEXTS = (torch.no_grad, torch.enable_grad, torch.set_grad_enabled)
_CLASSES = frozenset({Tensor, torch.nn.Parameter, *NUMBERS, str, tuple, list, dict})
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = tuple(
    value
    for name, value in vars(_module).items()
    if name.startswith("_global_")
    and name.endswith(("hooks", "kwargs"))
    and isinstance(value, dict)
)
_BINARY = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "**": operator.pow,
    "//": operator.floordiv,
    "%": operator.mod,
    "&": operator.and_,
    "|": operator.or_,
    "^": operator.xor,
    "<<": operator.lshift,
    ">>": operator.rshift,
    "+=": operator.iadd,
    "-=": operator.isub,
    "*=": operator.imul,
    "/=": operator.itruediv,
    "**=": operator.ipow,
    "//=": operator.ifloordiv,
    "%=": operator.imod,
    "&=": operator.iand,
    "|=": operator.ior,
    "^=": operator.ixor,
}
_COMPARE = {
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    ">=": operator.ge,
}
_REFLECTED = {
    "lt": "__gt__",
    "le": "__ge__",
    "eq": "__eq__",
    "ne": "__ne__",
    "gt": "__lt__",
    "ge": "__le__",
}
_UNARY = {
    "UNARY_NEGATIVE": operator.neg,
    "UNARY_POSITIVE": operator.pos,
    "UNARY_INVERT": operator.invert,
    "UNARY_NOT": operator.not_,
}
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE
_MOST_STEPS = 20_000
_PYTHON = sys.version_info[:2]
_NEWEST_PYTHON = (3, 14)  # whose instructions are all known here
_NULL_BELOW = _PYTHON < (3, 13)  # where a call's place for `self` is below the function
_NULL = object()


class NotPlain(Exception):
    """Why a function runs again on each call."""


def same(a: Any, b: Any) -> bool:
    """Whether two values that were read are one to whatever a proved function does with them."""
    if a is b:
        return True
    kind = type(a)
    if kind is not type(b) or kind not in ATOMS or kind is slice:
        return False
    if kind is complex:
        return repr(a) == repr(b)
    return bool(a == b) and (kind is not float or a != 0 or repr(a) == repr(b))


class Guards:
    """The reads of a proof, each to be made again."""

    def __init__(self) -> None:
        """None so far."""
        self.items: list[tuple[Any, Any, Any]] = []  # dictionary, key, value
        # Object, or a weak reference to it, name, value
        self.attributes: list[tuple[Any, str, Any]] = []
        self.lists: list[tuple[Any, list[Any]]] = []
        self.elements: list[tuple[list[Any], int, Any]] = []
        self.tensors: list[tuple[Tensor, Any]] = []  # from outside
        self._seen: set[Any] = set()

    def item(self, holder: Any, key: Any, value: Any) -> None:
        """`holder[key]`, or that there is none."""
        if (id(holder), key) not in self._seen:
            self._seen.add((id(holder), key))
            self.items.append((holder, key, value))

    def attribute(self, holder: Any, name: str, value: Any) -> None:
        """`holder.name`, of what is known to be no property."""
        if (id(holder), name, "attribute") not in self._seen:
            self._seen.add((id(holder), name, "attribute"))
            self.attributes.append((holder, name, value))

    def are_simple(self) -> bool:
        """Whether all are items and attributes."""
        return not (self.lists or self.elements or self.tensors)

    def let_go(self, references: Sequence[Any]) -> None:
        """Keep none of these objects alive, to which these are weak references."""
        of_id = {id(refers()): refers for refers in references}
        self.attributes = [
            (of_id.get(id(held), held), name, value) for held, name, value in self.attributes
        ]

    def hold(self) -> bool:
        """Whether all reads give what they gave."""
        if not unchanged(self.items, self.attributes, MISSING) and not (
            all(same(held.get(key, MISSING), value) for held, key, value in self.items)
            and all(same(_attribute(held, name), value) for held, name, value in self.attributes)
        ):
            return False
        for held, values in self.lists:
            if len(held) != len(values):
                return False
            for now, then in zip(held, values, strict=True):
                if now is not then and not same(now, then):
                    return False
        for held, index, value in self.elements:
            if not -len(held) <= index < len(held):
                return False
            if held[index] is not value and not same(held[index], value):
                return False
        return not self.tensors or all(kind_of(tensor) == kind for tensor, kind in self.tensors)


def _attribute(holder: Any, name: str) -> Any:
    if type(holder) is weakref.ref:
        holder = holder()
    try:
        return getattr(holder, name, MISSING)
    except ValueError:  # of a cell that is empty
        return MISSING


def kind_of(tensor: Tensor) -> tuple[Any, ...]:
    """What of a tensor a record depends on."""
    kind = tensor.dtype, tensor.dim() == 0, tensor.requires_grad, tensor.device
    return type(tensor), *kind, not vars(tensor)


class Prover:
    """Runs a function by its bytecode."""

    def __init__(self, recorder: Recorder) -> None:
        """`recorder` is the mode that is active."""
        self.recorder = recorder
        self.guards = Guards()
        self.dictionaries: dict[type, Any] = {}
        self.fresh: dict[int, Any] = {}  # made by the run, and kept alive
        self.steps = 0

    def fail(self, reason: str) -> NotPlain:
        """To be raised: there is no proof."""
        return NotPlain(reason)

    # ------------------------------------------------------------------------------------- values

    def made(self, value: Any) -> Any:
        """A value that the run itself made."""
        self.fresh[id(value)] = value
        return value

    def is_tensor(self, value: Any) -> bool:
        """Whether it is a tensor that is recorded."""
        return type(value) in PLAIN

    def method(self, value: Any, name: str) -> None:
        """That a tensor's class keeps this method, which others may replace."""
        if self.is_tensor(value):
            self.guards.attribute(type(value), name, getattr(type(value), name, MISSING))

    def is_atom(self, value: Any) -> bool:
        """Whether it cannot change."""
        kind = type(value)
        if kind is tuple:
            return all(self.is_atom(v) for v in value)
        return kind in ATOMS or (isinstance(value, np.generic) and kind.__module__ == "numpy")

    def snapshot(self, value: Any) -> None:
        """The elements of a list that is read as a whole."""
        if id(value) in self.fresh or type(value) in (tuple, range, str):
            return
        if type(value) is list:
            self.guards.lists.append((value, list(value)))
        elif type(value) is dict:
            self.guards.lists.append((value, list(value)))
            for key, item in value.items():
                self.guards.item(value, key, item)
        else:
            raise self.fail(f"it goes through a {type(value).__name__}")

    def empty(self, value: Any) -> None:
        """That a dictionary is empty."""
        if value:
            raise self.fail("a module has hooks")
        self.guards.lists.append((value, []))

    # ------------------------------------------------------------------------------------- reading

    def attribute(self, owner: Any, name: str) -> Any:
        """`owner.name`."""
        kind = type(owner)
        if self.is_tensor(owner):
            if getattr(Tensor, name, None) not in RULES and name not in _OF_TENSORS:
                raise self.fail(f"it reads Tensor.{name}")
            if vars(owner):
                raise self.fail("attributes were set on a tensor")
            self.method(owner, name)
            return getattr(owner, name)
        if kind is ModuleType:
            value = vars(owner).get(name, MISSING)
            if value is MISSING:
                raise self.fail(f"{owner.__name__}.{name} is made by the module's __getattr__")
            self.guards.attribute(owner, "__class__", ModuleType)
            self.guards.item(vars(owner), name, value)
            return value
        if isinstance(owner, _IMMUTABLE) or (kind in ATOMS and kind is not str):
            return getattr(owner, name)
        if kind is type:
            return self._of_class(owner, name)
        if kind is list and name == "append" and id(owner) in self.fresh:
            return owner.append
        if type(kind) is not type:
            raise self.fail(f"it reads {kind.__name__}.{name}, of a class with a metaclass")
        return self._of_instance(owner, kind, name)

    def _in_classes(self, cls: type, name: str) -> Any:
        self.guards.attribute(cls, "__mro__", cls.__mro__)
        for base in cls.__mro__:
            held = self.dictionaries.setdefault(base, base.__dict__)  # made anew at each look
            value = held.get(name, MISSING)
            self.guards.item(held, name, value)
            if value is not MISSING:
                return value
        return MISSING

    def _is_descriptor(self, value: Any) -> bool:
        kind = type(value)
        is_python = bool(kind.__flags__ & _HEAP_TYPE)  # a class that may become one
        return hasattr(kind, "__get__") or (
            is_python and self._in_classes(kind, "__get__") is not MISSING
        )

    def _of_class(self, cls: type, name: str) -> Any:
        if name in vars(type) and name not in ("__name__", "__qualname__"):
            raise self.fail(f"it reads {cls.__name__}.{name}")
        value = self._in_classes(cls, name)
        if value is MISSING:
            raise self.fail(f"{cls.__name__}.{name} is not found")
        if isinstance(value, FunctionType):
            return value
        if isinstance(value, staticmethod):
            return value.__func__
        if isinstance(value, classmethod):
            return MethodType(value.__func__, cls)
        if self._is_descriptor(value):
            raise self.fail(f"{cls.__name__}.{name} is a {type(value).__name__}")
        return value

    def _of_instance(self, owner: Any, cls: type, name: str) -> Any:
        if self._in_classes(cls, "__getattribute__") is not object.__dict__["__getattribute__"]:
            raise self.fail(f"{cls.__name__} has a __getattribute__ of its own")
        if name == "__class__":
            raise self.fail("it reads __class__")
        self.guards.attribute(owner, "__class__", cls)
        value = self._in_classes(cls, name)
        kind = type(value)
        if isinstance(value, MemberDescriptorType):
            found = getattr(owner, name)
            self.guards.attribute(owner, name, found)
            return found
        is_code = kind in (FunctionType, staticmethod, classmethod)
        if value is not MISSING and not is_code and self._is_descriptor(value):
            raise self.fail(f"{cls.__name__}.{name} is a {kind.__name__}")
        own = getattr(owner, "__dict__", None)
        if type(own) is dict:
            self.guards.attribute(owner, "__dict__", own)
            found = own.get(name, MISSING)
            self.guards.item(own, name, found)
            if found is not MISSING:
                return found
        if kind is FunctionType:
            return MethodType(value, owner)
        if kind is staticmethod:
            return value.__func__
        if kind is classmethod:
            return MethodType(value.__func__, cls)
        if value is not MISSING:
            return value
        if isinstance(owner, torch.nn.Module):
            getter = self._in_classes(cls, "__getattr__")
            if getter is not torch.nn.Module.__dict__["__getattr__"] or type(own) is not dict:
                raise self.fail(f"{cls.__name__} has a __getattr__ of its own")
            for place in ("_parameters", "_buffers", "_modules"):
                held = own.get(place)
                if type(held) is not dict:
                    raise self.fail(f"{cls.__name__}.{place} is no dictionary")
                self.guards.item(own, place, held)
                found = held.get(name, MISSING)
                self.guards.item(held, name, found)
                if found is not MISSING:
                    return found
        raise self.fail(f"{cls.__name__}.{name} is not found")

    def item(self, owner: Any, key: Any) -> Any:
        """`owner[key]`."""
        kind = type(owner)
        if kind in (tuple, str, range) and type(key) in (int, bool, slice):
            return owner[key]
        if kind is list and type(key) is int:
            value = owner[key]
            if id(owner) not in self.fresh:
                self.guards.elements.append((owner, key, value))
            return value
        if kind is dict and self.is_atom(key):
            if key not in owner:
                raise self.fail(f"there is no item {key!r}")
            if id(owner) not in self.fresh:
                self.guards.item(owner, key, owner[key])
            return owner[key]
        raise self.fail(f"it reads an item of a {kind.__name__}")

    # ------------------------------------------------------------------------------------- calling

    def call(self, function: Any, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        """`function(*arguments, **keywords)`."""
        kind = type(function)
        if self._is_rule(function):
            for value in (*arguments, *keywords.values()):
                if not (self.is_tensor(value) or self.is_atom(value)):
                    raise self.fail(f"an operation is given a {type(value).__name__}")
            if kind is FunctionType:
                self.guards.attribute(function, "__code__", function.__code__)
            return function(*arguments, **keywords)
        if kind is FunctionType:
            return self.run(function, arguments, keywords)
        if kind is MethodType:
            owner = function.__self__
            if type(owner) in _CONTEXTS and id(owner) in self.fresh:
                return function(*arguments)
            return self.call(function.__func__, [function.__self__, *arguments], keywords)
        if kind is functools.partial:
            for name in ("func", "args", "keywords"):
                self.guards.attribute(function, name, getattr(function, name))
            self.snapshot(function.keywords)
            return self.call(
                function.func, [*function.args, *arguments], {**function.keywords, **keywords}
            )
        if isinstance(function, type):
            if function in _CONTEXTS:
                return self.made(function(*arguments, **keywords))
            if function in _FUNCTIONS:
                return self._builtin(function, arguments, keywords)
            raise self.fail(f"it makes a {function.__name__}")
        if kind in (BuiltinFunctionType, BuiltinMethodType):
            owner = function.__self__
            if type(owner) is list and function.__name__ == "append" and id(owner) in self.fresh:
                return owner.append(*arguments)
            return self._builtin(function, arguments, keywords)
        plain = getattr(kind, "plain_function", None)  # of a fused function
        if plain is not None and kind.__module__ == "fusedgrad.fuse.function":
            return self.call(plain(function), arguments, keywords)
        if isinstance(function, torch.nn.Module):
            return self._module(function, arguments, keywords)
        if type(kind) is type:
            method = self._in_classes(kind, "__call__")
            self.guards.attribute(function, "__class__", kind)
            if isinstance(method, FunctionType):
                return self.run(method, [function, *arguments], keywords)
        raise self.fail(f"it calls a {kind.__name__}")

    def _is_rule(self, function: Any) -> bool:
        try:
            if RULES.get(function) is not None:
                return True
        except TypeError:
            return False
        owner = getattr(function, "__self__", None)
        if owner is not None and self.is_tensor(owner) and not isinstance(function, MethodType):
            return RULES.get(getattr(Tensor, function.__name__, None)) is not None or (
                function.__name__ in _OF_TENSORS
            )
        if isinstance(function, MethodType) and self.is_tensor(owner):
            return RULES.get(function.__func__) is not None
        return False

    def _builtin(self, function: Any, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        if function not in _FUNCTIONS:
            raise self.fail(f"it calls {getattr(function, '__qualname__', function)!s}")
        if function in (isinstance, type):
            if function is type and len(arguments) != 1:
                raise self.fail("it makes a class")
            classes = arguments[1:]
            for each in classes:
                for cls in each if type(each) is tuple else (each,):
                    if cls not in _CLASSES and type(cls) is not type:
                        raise self.fail("it asks for an instance of a class with a metaclass")
            if not (self.is_tensor(arguments[0]) or self.is_atom(arguments[0])):
                self.guards.attribute(arguments[0], "__class__", type(arguments[0]))
            return function(*arguments)
        if function in (getattr, hasattr):
            owner, name = arguments[0], arguments[1]
            if type(name) is not str or len(arguments) > 2 or function is hasattr:
                raise self.fail(f"it calls {function.__name__}()")
            return self.attribute(owner, name)
        for value in (*arguments, *keywords.values()):
            if function in (zip, enumerate, tuple, list, len, sum, min, max) and not self.is_atom(
                value
            ):
                if id(value) not in self.fresh:
                    self.snapshot(value)
                if function in (sum, min, max):
                    if type(value) not in (list, tuple):
                        raise self.fail(f"{function.__name__}() of a {type(value).__name__}")
                    for each in value:
                        if not (self.is_atom(each) or (function is sum and self.is_tensor(each))):
                            raise self.fail(f"{function.__name__}() of a {type(each).__name__}")
            elif not self.is_atom(value) and not (
                self.is_tensor(value) and function is torch.is_tensor
            ):
                if self.is_tensor(value) and function in (abs, pow):
                    continue
                raise self.fail(f"{function.__name__}() of a {type(value).__name__}")
        return self.made(function(*arguments, **keywords))

    def _module(self, module: Any, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        cls = type(module)
        if self._in_classes(cls, "__call__") is not torch.nn.Module.__dict__["__call__"]:
            raise self.fail(f"{cls.__name__} has a __call__ of its own")
        own = module.__dict__
        for name in _HOOKS:
            held = own.get(name)
            self.guards.item(own, name, held)
            self.empty(held)
        for held in _GLOBAL_HOOKS:
            self.empty(held)
        compiled = own.get("_compiled_call_impl", MISSING)
        self.guards.item(own, "_compiled_call_impl", compiled)
        if compiled not in (None, MISSING):
            raise self.fail("a module is compiled")
        return self.call(self.attribute(module, "forward"), arguments, keywords)

    def run(self, function: Any, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        """A Python function."""
        code = function.__code__
        if code.co_flags & (
            inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
        ):
            raise self.fail(f"{code.co_name} is a generator")
        if id(function) not in self.fresh:
            for name in ("__code__", "__defaults__", "__kwdefaults__"):
                self.guards.attribute(function, name, getattr(function, name))
            if function.__kwdefaults__:
                self.snapshot(function.__kwdefaults__)
        return _Frame(self, function, _bound(self, function, arguments, keywords)).run()


def _bound(
    prover: Prover, function: Any, arguments: list[Any], keywords: dict[str, Any]
) -> dict[str, Any]:
    """The arguments by name, as Python binds them."""
    code = function.__code__
    count, only = code.co_argcount, code.co_kwonlyargcount
    names = code.co_varnames
    values: dict[str, Any] = dict(zip(names[:count], arguments[:count], strict=False))
    place = count + only
    if code.co_flags & inspect.CO_VARARGS:
        values[names[place]] = tuple(arguments[count:])
        place += 1
    elif len(arguments) > count:
        raise prover.fail("a call that raises")
    extra: dict[str, Any] = {}
    for key, value in keywords.items():
        if key in names[code.co_posonlyargcount : count + only]:
            if key in values:
                raise prover.fail("a call that raises")
            values[key] = value
        else:
            extra[key] = value
    if code.co_flags & inspect.CO_VARKEYWORDS:
        values[names[place]] = prover.made(extra)
    elif extra:
        raise prover.fail("a call that raises")
    defaults = function.__defaults__ or ()
    for name, value in zip(names[count - len(defaults) : count], defaults, strict=True):
        values.setdefault(name, value)
    for name, value in (function.__kwdefaults__ or {}).items():
        values.setdefault(name, value)
    if any(name not in values for name in names[: count + only]):
        raise prover.fail("a call that raises")
    return values


class _Frame:
    """One call of a Python function: its instructions, variables and stack."""

    def __init__(self, prover: Prover, function: Any, values: dict[str, Any]) -> None:
        self.prover = prover
        self.function = function
        self.code: CodeType = function.__code__
        self.variables = values
        self.cells: dict[str, CellType] = {}
        self.stack: list[Any] = []
        self.keyword_names: tuple[str, ...] = ()

    def run(self) -> Any:
        if _PYTHON > _NEWEST_PYTHON:
            raise self.prover.fail(f"the instructions of Python {sys.version.split()[0]}")
        steps = _steps(self.code)
        at = {step.offset: i for i, step in enumerate(steps)}
        i = 0
        while True:
            self.prover.steps += 1
            if self.prover.steps > _MOST_STEPS:
                raise self.prover.fail("it takes too many steps")
            step = steps[i]
            i += 1
            name = step.opname
            if name == "RETURN_VALUE":
                return self.stack.pop()
            if name == "RETURN_CONST":
                return step.argval
            target = self._step(name, step)
            if target is not None:
                i = at[target]

    def _step(self, name: str, step: dis.Instruction) -> int | None:
        """Do it; where to jump, if it does."""
        method = getattr(self, f"_{name.lower()}", None)
        if method is not None:
            return cast("int | None", method(step))
        if name in _UNARY:
            value = self.stack.pop()
            if not self.prover.is_atom(value) and not (
                self.prover.is_tensor(value) and name != "UNARY_NOT"
            ):
                raise self.prover.fail(f"{name} of a {type(value).__name__}")
            self.prover.method(value, f"__{_UNARY[name].__name__}__")
            self.stack.append(cast(Any, _UNARY[name])(value))
            return None
        raise self.prover.fail(f"the instruction {name}")

    def _resume(self, step: Any) -> None:
        pass

    _nop = _cache = _extended_arg = _precall = _copy_free_vars = _not_taken = _resume

    # ---- names

    def _load(self, name: str) -> None:
        if name in self.cells or name in self.code.co_freevars:
            self.stack.append(self._cell(name)[0])  # from 3.13 on, for a closure
        elif name not in self.variables:
            raise self.prover.fail("an unbound variable")
        else:
            self.stack.append(self.variables[name])

    def _store(self, name: str) -> None:
        value = self.stack.pop()
        if value is _NULL:
            self.variables.pop(name, None)
        else:
            self.variables[name] = value

    def _load_fast(self, step: Any) -> None:
        self._load(step.argval)

    _load_fast_check = _load_fast_borrow = _load_fast

    def _store_fast(self, step: Any) -> None:
        self._store(step.argval)

    def _load_fast_load_fast(self, step: Any) -> None:
        for name in step.argval:
            self._load(name)

    _load_fast_borrow_load_fast_borrow = _load_fast_load_fast

    def _store_fast_store_fast(self, step: Any) -> None:
        for name in step.argval:
            self._store(name)

    def _store_fast_load_fast(self, step: Any) -> None:
        store, load = step.argval
        self._store(store)
        self._load(load)

    def _load_fast_and_clear(self, step: Any) -> None:
        # What a comprehension's variable hides; it is stored again behind it.
        if step.argval in (*self.code.co_cellvars, *self.code.co_freevars):
            raise self.prover.fail("a comprehension whose variable a function uses")
        self.stack.append(self.variables.pop(step.argval, _NULL))

    def _delete_fast(self, step: Any) -> None:
        del self.variables[step.argval]

    def _load_const(self, step: Any) -> None:
        self.stack.append(step.argval)

    _load_small_int = _load_const

    def _load_global(self, step: Any) -> None:
        name = step.argval
        held = self.function.__globals__
        value = held.get(name, MISSING)
        self.prover.guards.item(held, name, value)
        if value is MISSING:
            builtins = held.get("__builtins__")
            builtins = vars(builtins) if isinstance(builtins, ModuleType) else builtins
            value = builtins.get(name, MISSING) if type(builtins) is dict else MISSING
            if value is MISSING:
                raise self.prover.fail(f"there is no name {name}")
            self.prover.guards.item(builtins, name, value)
        if step.arg & 1:
            self._push_function(value)
        else:
            self.stack.append(value)

    def _make_cell(self, step: Any) -> None:
        name = step.argval
        self.cells[name] = CellType(self.variables[name]) if name in self.variables else CellType()

    def _cell(self, name: str) -> tuple[CellType, bool]:
        if name in self.cells:
            return self.cells[name], True
        cell = self.function.__closure__[self.code.co_freevars.index(name)]
        return cell, id(self.function) in self.prover.fresh

    def _load_deref(self, step: Any) -> None:
        cell, own = self._cell(step.argval)
        try:
            value = cell.cell_contents
        except ValueError:
            raise self.prover.fail("an unbound variable") from None
        if not own:
            self.prover.guards.attribute(cell, "cell_contents", value)
        self.stack.append(value)

    def _load_closure(self, step: Any) -> None:
        self.stack.append(self._cell(step.argval)[0])

    def _store_deref(self, step: Any) -> None:
        if step.argval not in self.cells:
            raise self.prover.fail("it sets a variable of an enclosing function")
        self.cells[step.argval].cell_contents = self.stack.pop()

    # ---- the stack

    def _pop_top(self, step: Any) -> None:
        self.stack.pop()

    _pop_iter = _pop_top

    def _push_null(self, step: Any) -> None:
        self.stack.append(_NULL)

    def _push_function(self, function: Any) -> None:
        self.stack += [_NULL, function] if _NULL_BELOW else [function, _NULL]

    def _copy(self, step: Any) -> None:
        self.stack.append(self.stack[-step.arg])

    def _swap(self, step: Any) -> None:
        self.stack[-1], self.stack[-step.arg] = self.stack[-step.arg], self.stack[-1]

    def _taken(self, count: int) -> list[Any]:
        if not count:
            return []
        values = self.stack[-count:]
        del self.stack[-count:]
        return values

    # ---- operations

    def _binary_op(self, step: Any) -> None:
        right, left = self.stack.pop(), self.stack.pop()
        if step.argrepr == "[]":
            self.stack.append(self.prover.item(left, right))
        else:
            self.stack.append(self._operated(_BINARY.get(step.argrepr), left, right))

    def _compare_op(self, step: Any) -> None:
        right, left = self.stack.pop(), self.stack.pop()
        result = self._operated(_COMPARE.get(step.argval), left, right)
        self.stack.append(self._truth(result) if step.argrepr.startswith("bool(") else result)

    def _call_intrinsic_1(self, step: Any) -> None:
        value = self.stack.pop()
        if step.argrepr == "INTRINSIC_UNARY_POSITIVE":
            if not (self.prover.is_atom(value) or self.prover.is_tensor(value)):
                raise self.prover.fail(f"+ of a {type(value).__name__}")
            self.stack.append(+value)
        elif step.argrepr == "INTRINSIC_LIST_TO_TUPLE":
            self.stack.append(tuple(value))
        else:
            raise self.prover.fail(f"the instruction {step.argrepr}")

    def _operated(self, operation: Callable[..., Any] | None, left: Any, right: Any) -> Any:
        prover = self.prover
        for value in (left, right):
            if not (prover.is_tensor(value) or prover.is_atom(value)):
                raise prover.fail(f"an operator of a {type(value).__name__}")
        if operation is None:
            raise prover.fail("an operator that is not known")
        name = operation.__name__.rstrip("_")
        prover.method(left, f"__{name}__")
        prover.method(right, _REFLECTED.get(name, f"__r{name}__"))
        if operation.__name__[0] == "i":
            prover.method(left, f"__{name[1:]}__")
        return operation(left, right)

    def _is_op(self, step: Any) -> None:
        right, left = self.stack.pop(), self.stack.pop()
        self.stack.append((left is right) is not bool(step.arg))

    def _contains_op(self, step: Any) -> None:
        right, left = self.stack.pop(), self.stack.pop()
        if not self.prover.is_atom(left) or type(right) not in (tuple, list, dict, str, range):
            raise self.prover.fail(f"`in` of a {type(right).__name__}")
        if type(right) is dict:  # whose keys may compare as they like
            self.prover.guards.item(right, left, right.get(left, MISSING))
        if type(right) is list:
            self.prover.snapshot(right)
        if type(right) in (list, tuple) and not all(map(self.prover.is_atom, right)):
            raise self.prover.fail("`in` of objects")
        self.stack.append((left in right) is not bool(step.arg))

    def _binary_subscr(self, step: Any) -> None:
        key, owner = self.stack.pop(), self.stack.pop()
        self.stack.append(self.prover.item(owner, key))

    def _binary_slice(self, step: Any) -> None:
        owner, start, stop = self._taken(3)
        self.stack.append(self.prover.item(owner, slice(start, stop)))

    def _build_slice(self, step: Any) -> None:
        self.stack.append(slice(*self._taken(step.arg)))

    def _build_tuple(self, step: Any) -> None:
        self.stack.append(tuple(self._taken(step.arg)))

    def _build_list(self, step: Any) -> None:
        self.stack.append(self.prover.made(self._taken(step.arg)))

    def _build_map(self, step: Any) -> None:
        values = self._taken(2 * step.arg)
        self.stack.append(self.prover.made(dict(zip(values[::2], values[1::2], strict=True))))

    def _build_const_key_map(self, step: Any) -> None:
        keys = self.stack.pop()
        self.stack.append(self.prover.made(dict(zip(keys, self._taken(step.arg), strict=True))))

    def _list_append(self, step: Any) -> None:
        value = self.stack.pop()
        self.stack[-step.arg].append(value)

    def _list_extend(self, step: Any) -> None:
        value = self.stack.pop()
        self.prover.snapshot(value)
        self.stack[-step.arg].extend(value)

    def _list_to_tuple(self, step: Any) -> None:
        self.stack.append(tuple(self.stack.pop()))

    def _dict_merge(self, step: Any) -> None:
        value = self.stack.pop()
        self.prover.snapshot(value)
        self.stack[-step.arg].update(value)

    def _unpack_sequence(self, step: Any) -> None:
        value = self.stack.pop()
        if type(value) not in (tuple, list) or len(value) != step.arg:
            raise self.prover.fail(f"it unpacks a {type(value).__name__}")
        self.prover.snapshot(value)
        self.stack.extend(reversed(value))

    # ---- attributes

    def _load_attr(self, step: Any) -> None:
        if _PYTHON >= (3, 12) and step.arg & 1:
            self._load_method(step)
        else:
            self.stack.append(self.prover.attribute(self.stack.pop(), step.argval))

    def _load_method(self, step: Any) -> None:
        self._push_function(self.prover.attribute(self.stack.pop(), step.argval))

    # ---- control

    def _jump_forward(self, step: Any) -> int:
        return int(step.argval)

    _jump_backward = _jump_backward_no_interrupt = _jump_forward

    def _truth(self, value: Any) -> bool:
        if id(value) in self.prover.fresh and type(value) in (list, dict):
            return bool(value)
        if not self.prover.is_atom(value):
            if type(value) in (list, dict):
                self.prover.snapshot(value)
                return bool(value)
            raise self.prover.fail(f"the truth of a {type(value).__name__}")
        return bool(value)

    def _to_bool(self, step: Any) -> None:
        self.stack.append(self._truth(self.stack.pop()))

    def _conditional(self, step: Any) -> int | None:
        name = step.opname
        value = self.stack.pop()
        if "NONE" in name:
            jumps = (value is None) is ("NOT_NONE" not in name)
        else:
            jumps = self._truth(value) is ("TRUE" in name)
        return int(step.argval) if jumps else None

    _pop_jump_forward_if_true = _pop_jump_forward_if_false = _conditional
    _pop_jump_forward_if_none = _pop_jump_forward_if_not_none = _conditional
    _pop_jump_backward_if_true = _pop_jump_backward_if_false = _conditional
    _pop_jump_backward_if_none = _pop_jump_backward_if_not_none = _conditional
    _pop_jump_if_true = _pop_jump_if_false = _conditional
    _pop_jump_if_none = _pop_jump_if_not_none = _conditional

    def _or_pop(self, step: Any) -> int | None:
        if self._truth(self.stack[-1]) is ("TRUE" in step.opname):
            return int(step.argval)
        self.stack.pop()
        return None

    _jump_if_true_or_pop = _jump_if_false_or_pop = _or_pop

    def _get_iter(self, step: Any) -> None:
        value = self.stack.pop()
        self.prover.snapshot(value)
        self.stack.append(self.prover.made(iter(value)))

    def _for_iter(self, step: Any) -> int | None:
        iterator = self.stack[-1]
        if id(iterator) not in self.prover.fresh:
            raise self.prover.fail("it goes on with an iterator from outside")
        value = next(iterator, _NULL)
        if value is _NULL:
            if _PYTHON < (3, 13):  # an instruction of its own from then on, behind END_FOR
                self.stack.pop()
            return int(step.argval)
        self.stack.append(value)
        return None

    _end_for = _resume

    def _manager(self) -> Any:
        manager = self.stack.pop()
        if type(manager) not in _CONTEXTS or id(manager) not in self.prover.fresh:
            raise self.prover.fail(f"`with` of a {type(manager).__name__}")
        return manager

    def _before_with(self, step: Any) -> None:
        manager = self._manager()
        self.stack += [manager.__exit__, manager.__enter__()]

    def _load_special(self, step: Any) -> None:
        if step.argrepr not in ("__enter__", "__exit__"):
            raise self.prover.fail(f"the instruction {step.argrepr}")
        self._push_function(getattr(self._manager(), step.argrepr))

    # ---- calls

    def _kw_names(self, step: Any) -> None:
        self.keyword_names = self.code.co_consts[step.arg]

    def _call(self, step: Any) -> None:
        names, self.keyword_names = self.keyword_names, ()
        values = self._taken(step.arg)
        function, first = self._taken(2)
        if function is _NULL:  # below, before 3.13
            function, first = first, _NULL
        if first is not _NULL:
            values.insert(0, first)
        split = len(values) - len(names)
        keywords = dict(zip(names, values[split:], strict=True))
        self.stack.append(self.prover.call(function, values[:split], keywords))

    def _call_kw(self, step: Any) -> None:
        self.keyword_names = self.stack.pop()
        self._call(step)

    def _call_function_ex(self, step: Any) -> None:
        keywords: Any = {}
        if _PYTHON >= (3, 14) or step.arg & 1:
            keywords = self.stack.pop()
            keywords = {} if keywords is _NULL else keywords
        arguments = self.stack.pop()
        function, other = self._taken(2)
        if function is _NULL:
            function, other = other, _NULL
        if other is not _NULL:
            raise self.prover.fail("a call with * of a method")
        if type(arguments) not in (tuple, list) or type(keywords) is not dict:
            raise self.prover.fail("a call with * of other than a tuple")
        self.prover.snapshot(arguments)
        self.prover.snapshot(keywords)
        self.stack.append(self.prover.call(function, list(arguments), dict(keywords)))

    def _set_function_attribute(self, step: Any) -> None:
        function, value = self.stack.pop(), self.stack.pop()
        defaults, closure = function.__defaults__, function.__closure__
        keywords = function.__kwdefaults__
        if step.arg == 1:
            defaults = value
        elif step.arg == 2:
            keywords = value
        elif step.arg == 8:
            closure = value
        self._push_new(function.__code__, defaults, keywords, closure)

    def _make_function(self, step: Any) -> None:
        code = self.stack.pop()
        if _PYTHON >= (3, 13):
            self._push_new(code, None, None, tuple(CellType() for _ in code.co_freevars))
            return
        closure = self.stack.pop() if step.arg & 8 else None
        if step.arg & 4:
            self.stack.pop()
        keywords = self.stack.pop() if step.arg & 2 else None
        defaults = self.stack.pop() if step.arg & 1 else None
        self._push_new(code, defaults, keywords, closure)

    def _push_new(self, code: CodeType, defaults: Any, keywords: Any, closure: Any) -> None:
        made = FunctionType(code, self.function.__globals__, code.co_name, defaults, closure)
        made.__kwdefaults__ = keywords
        self.stack.append(self.prover.made(made))


@functools.lru_cache(maxsize=1024)
def _steps(code: CodeType) -> list[dis.Instruction]:
    """The instructions."""
    return list(dis.get_instructions(code))


def prove(
    function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[Recorder, Any, Guards]:
    """The record of a run by the rules above, what it returns, and what it read.

    Raises:
        NotPlain: the function runs again on each call, and why.
    """
    recorder = Recorder()
    prover = Prover(recorder)
    recorder.give(arguments, keywords)
    try:
        with torch.set_grad_enabled(torch.is_grad_enabled()), recorder:
            result = prover.call(function, list(arguments), dict(keywords))
    except NotPlain:
        raise
    except Exception as error:
        raise NotPlain(f"its second run raised {type(error).__name__}: {error}") from None
    if recorder.refused is not None:
        raise NotPlain(str(recorder.refused))
    given = {id(value) for value in (*arguments, *keywords.values())}
    for number in recorder.operands:
        tensor = recorder.nodes[number]
        if id(tensor) in given:
            continue
        prover.guards.tensors.append((tensor, kind_of(tensor)))
    return recorder, result, prover.guards

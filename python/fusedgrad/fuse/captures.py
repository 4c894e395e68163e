"""What a function takes from outside its arguments, read anew on every call.

The bytecode names it: chains that start at a global, at a variable of an enclosing function or at
`self`, and go on through attributes and constant subscripts. So does that of the Python functions
which the chains end in. An object that a chain ends in counts with all that it holds.
"""

from __future__ import annotations

import builtins
import dis
import functools
import operator
import sysconfig
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import BuiltinMethodType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor

_OURS = str(Path(__file__).parents[1])
_GALLERY = f"{_OURS}/activations.py"
# Whose functions are taken to depend on their arguments alone
_PACKAGES = (f"{_OURS}/", f"{Path(torch.__file__).parent}/", "<frozen")
_LIBRARY = f"{sysconfig.get_path('stdlib')}/"
_INSTALLED = f"{sysconfig.get_path('purelib')}/"  # inside the library's folder
# Types of values that stay what they are
PLAIN = frozenset({int, bool, float, complex, str, bytes, range, type(None)})
_MISSING = "nothing can be read"

# (name, whether it is a global one, the attributes and items that follow)
_Path = tuple[tuple[bool, Any], ...]
_Chain = tuple[str, bool, _Path]
_Read = Callable[[], Any]


class _Same:
    """Equal to itself alone, and kept alive, so that no other object takes its identity."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


@functools.lru_cache(maxsize=4096)
def _chains(code: CodeType, own: frozenset[str]) -> tuple[_Chain, ...]:
    """The chains in a function's code from globals and from the names in `own`."""
    found: dict[_Chain, None] = {}
    # The chain on top of the stack, if there is a name
    name, is_global = "", False
    path: _Path = ()

    def end() -> None:
        if name:
            found[name, is_global, path] = None

    steps = [s for s in dis.get_instructions(code) if s.opname != "EXTENDED_ARG"]
    skip = False
    for step, following in zip(steps, [*steps[1:], steps[-1]], strict=True):
        operation, value = step.opname, step.argval
        if skip:
            skip = False
        elif name and operation in ("LOAD_ATTR", "LOAD_METHOD"):
            path = (*path, (True, value))
        elif name and operation in ("LOAD_CONST", "LOAD_SMALL_INT") and _is_item(following):
            path = (*path, (False, value))
            skip = True
        else:
            end()
            name, is_global, path = "", operation in ("LOAD_GLOBAL", "LOAD_NAME"), ()
            if is_global:
                name = value
            elif "LOAD" in operation and ("FAST" in operation or "DEREF" in operation):
                for each in value if isinstance(value, tuple) else (value,):
                    end()
                    name = each if each in own else ""
    end()
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            within = _chains(constant, own & frozenset(constant.co_freevars))
            found.update(dict.fromkeys(within))
    return tuple(found)


def _is_item(step: dis.Instruction) -> bool:
    return step.opname == "BINARY_SUBSCR" or (step.opname == "BINARY_OP" and step.argrepr == "[]")


def _state(value: Any) -> dict[str, Any]:
    """The attributes of an instance."""
    state = dict(getattr(value, "__dict__", {}))
    for base in type(value).__mro__:
        slots = base.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name):
                state[name] = getattr(value, name)
    return state


def _parts(value: Any) -> Any:
    """What an object holds: a sequence, or None of an object without parts."""
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords, *value.keywords.values()]
    if isinstance(value, MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, BuiltinMethodType):
        owner = value.__self__
        return None if owner is None or isinstance(owner, (ModuleType, type)) else [owner]
    if isinstance(value, (FunctionType, ModuleType, type, Tensor)):
        return None
    if hasattr(value, "tolist"):  # an array of NumPy
        return [value.tolist()]
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values(), *_state(value).items()]
    if isinstance(value, Collection):
        return [*value, *_state(value).items()]
    return [*_state(value).items()] or None


def _is_fused(value: Any) -> bool:
    return hasattr(type(value), "expressions_of_call")


def _is_followed(function: Any) -> bool:
    """Whether the code of a function is read for what it takes from outside."""
    if not isinstance(function, FunctionType):
        return False
    path = function.__code__.co_filename
    if path == _GALLERY:
        return True
    return not path.startswith(_PACKAGES) and (
        path.startswith(_INSTALLED) or not path.startswith(_LIBRARY)
    )


def _is_code(value: Any) -> bool:
    """Whether a value is what it is, and what it takes from outside is followed."""
    if isinstance(value, MethodType):
        return _is_fused(value.__self__) or _is_followed(value.__func__)
    if isinstance(value, BuiltinMethodType):
        return _parts(value) is None
    return isinstance(value, (FunctionType, ModuleType, type)) or _is_fused(value)


def _identity(value: Any) -> Any:
    """Equal for one object alone, or for methods that are made anew each time."""
    if isinstance(value, MethodType):
        return (_Same(value.__func__), _Same(value.__self__))
    return _Same(value)


def token(value: Any, seen: frozenset[int] = frozenset()) -> Any:
    """What is equal for values that a function cannot tell apart."""
    kind = type(value)
    if kind is float:
        return value or repr(value)  # the zeros are equal, and not the same
    if kind in PLAIN:
        return (kind, value)  # 1 and True are equal, and not the same
    if isinstance(value, Tensor):
        return (_Same(value), 0 if value.is_inference() else value._version)
    parts = None if _is_code(value) else _parts(value)
    if parts is None:
        return _identity(value)
    if id(value) in seen:
        return (kind, "itself")
    seen = seen | {id(value)}
    return (kind, *[token(part, seen) for part in parts])


class Captures:
    """What a function takes from outside, as far as the functions that it calls now go."""

    def __init__(self, function: Any) -> None:
        """Of a function, a method or any other object that can be called."""
        self._reads: list[_Read] = []
        self._code: list[tuple[_Read, Any]] = []
        self._seen: set[Any] = set()
        self._functions: set[Any] = set()
        self._follow(function)

    def key(self) -> tuple[Any, ...] | None:
        """The present values; None where the functions that are called are others by now."""
        for read, expected in self._code:
            value = read()
            if value is not expected and not (type(value) is MethodType and value == expected):
                return None
        return tuple([token(read()) for read in self._reads])

    def is_as(self, other: Captures) -> bool:
        """Whether the functions that are called are those of another."""
        return self._functions == other._functions

    def _follow(self, value: Any) -> None:
        """Find what a value reads when it is called, and what its parts read."""
        if type(value) in PLAIN or isinstance(value, (Tensor, ModuleType, type)):
            return
        if isinstance(value, MethodType) and _is_fused(value.__self__):
            value = value.__self__
        identity = _identity(value)
        if identity in self._seen:
            return
        self._seen.add(identity)
        if _is_fused(value):
            self._functions.add(identity)
            self._follow(value._function)
        elif isinstance(value, MethodType) and _is_followed(value.__func__):
            self._functions.add(identity)
            self._follow_function(value.__func__, value.__self__)
        elif isinstance(value, FunctionType):
            self._functions.add(identity)
            if _is_followed(value):
                self._follow_function(value, _MISSING)
        else:
            for part in _parts(value) or ():
                self._follow(part)
            call = "forward" if isinstance(value, torch.nn.Module) else "__call__"
            method = getattr(value, call, None)
            if isinstance(method, MethodType) and _is_followed(method.__func__):
                self._follow(method)

    def _follow_function(self, function: Any, owner: Any) -> None:
        code = function.__code__
        cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
        own: dict[str, Callable[[], Any]] = {
            name: functools.partial(operator.attrgetter("cell_contents"), cell)
            for name, cell in cells
        }
        if owner is not _MISSING and code.co_argcount:
            own[code.co_varnames[0]] = functools.partial(_itself, owner)
        for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            if type(default) not in PLAIN:
                self._add(functools.partial(_itself, default), ())
        for name, is_global, path in _chains(code, frozenset(own)):
            if is_global:
                default = getattr(builtins, name, _MISSING)
                self._add(functools.partial(function.__globals__.get, name, default), path)
            else:
                self._add(own[name], path)

    def _add(self, root: _Read, path: _Path) -> None:
        """Read a chain on every call, unless it ends in a function of a module."""
        read = functools.partial(_read, root, path)
        value = read()
        if not _is_code(value):
            self._reads.append(read)
        elif not (path and isinstance(_read(root, ()), ModuleType)):
            self._code.append((read if path else root, value))
        self._follow(value)


def _itself(value: Any) -> Any:
    return value


def _read(root: _Read, path: _Path) -> Any:
    """What a chain leads to now."""
    try:
        value = root()
        for is_attribute, name in path:
            value = getattr(value, name) if is_attribute else value[name]
        return value
    except Exception:
        return _MISSING

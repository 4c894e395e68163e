# ruff: noqa: E501  (lines of programs)
"""Random Python programs that read their state by random routes, and how a fused one fares.

A program is the text of a module: what it reads (globals, cells, defaults, attributes, items, ...),
a function, method, module or partial that computes with tensors, and *changes*, each of which
alters one thing that the function may read. Two copies of the module are made, one with the plain
function and one with the fused, and both are called before and after each change.

    python tests/random_programs.py 17        the text of program 17, and how it fares
    python tests/random_programs.py 0:300     how many are right, refused, wrong

What of its text `fuse` may refuse is among `Program.features`; see BEYOND.
"""

from __future__ import annotations

import collections
import functools
import itertools
import linecache
import os
import random
import re
import sys
import textwrap
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

import fusedgrad

SEED = 20261130
Fuse = Callable[[Any], Any]

# ---------------------------------------------------------------------------- the text of programs

_PRELUDE = '''
import array, builtins, collections, contextlib, contextvars, copy, ctypes, dataclasses, enum, functools
import importlib, itertools, math, operator, os, random, sys, threading, time, types, weakref
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
import fusedgrad


def tensor(seed, shape=(), dtype=torch.float64, requires_grad=False):
    """The same numbers each time: a little above or below 1, integers from -2 to 4."""
    generator = torch.Generator().manual_seed(seed)
    if dtype is torch.bool:
        return torch.rand(shape, generator=generator) < 0.5
    if not dtype.is_floating_point:
        return torch.randint(-2, 5, shape, generator=generator).to(dtype)
    made = 0.5 + torch.rand(shape, generator=generator, dtype=torch.float64)
    return made.to(dtype).requires_grad_(requires_grad)


def set_default(function, name, value):
    """Replaces the default of a positional argument."""
    code = function.__code__
    names = code.co_varnames[: code.co_argcount]
    values = list(function.__defaults__)
    values[names.index(name) - len(names)] = value
    function.__defaults__ = tuple(values)


def get_default(function, name):
    code = function.__code__
    names = code.co_varnames[: code.co_argcount]
    return function.__defaults__[names.index(name) - len(names)]


def module(name, **contents):
    made = types.ModuleType(name)
    vars(made).update(contents)
    return made
'''

# Classes that hold a value, each emitted where a program uses it.
_LIBRARY = {
    "Plain": """
        class Plain:
            def __init__(self, v):
                self.v = v
    """,
    "Fallback": """
        class FallbackBase:
            v = 1.15

        class Fallback(FallbackBase):
            def __init__(self, v):
                self.v = v
    """,
    "Slots": """
        class Slots:
            __slots__ = ("v",)

            def __init__(self, v):
                self.v = v
    """,
    "Property": """
        class Property:
            def __init__(self, v):
                self.raw = v

            @property
            def v(self):
                return self.raw

            @v.setter
            def v(self, new):
                self.raw = new
    """,
    "Attributes": """
        class Attributes:
            def __init__(self, v):
                self.data = {"v": v}

            def __getattr__(self, name):
                try:
                    return vars(self)["data"][name]
                except KeyError:
                    raise AttributeError(name) from None
    """,
    "Everything": """
        class Everything:
            def __init__(self, v):
                self.raw = v

            def __getattribute__(self, name):
                return object.__getattribute__(self, "raw" if name == "v" else name)
    """,
    "Data": """
        @dataclasses.dataclass
        class Data:
            v: object
            w: float = 0.5
    """,
    "Frozen": """
        @dataclasses.dataclass(frozen=True)
        class Frozen:
            v: object
            w: float = 0.5
    """,
    "Descriptor": """
        class Field:
            def __get__(self, owner, kind=None):
                return owner.raw

            def __set__(self, owner, new):
                owner.raw = new

        class Descriptor:
            v = Field()

            def __init__(self, v):
                self.raw = v
    """,
    "Cached": """
        class Cached:
            def __init__(self, v):
                self.raw = v

            @functools.cached_property
            def v(self):
                return self.raw
    """,
    "Item": """
        class Item:
            def __init__(self, v):
                self.raw = v

            def __getitem__(self, key):
                return self.raw

            def __setitem__(self, key, new):
                self.raw = new
    """,
    "Call": """
        class Call:
            def __init__(self, v):
                self.raw = v

            def __call__(self):
                return self.raw
    """,
    "Getter": """
        class Getter:
            def __init__(self, v):
                self.raw = v

            def get(self):
                return self.raw
    """,
    "Series": """
        class Series:
            def __init__(self, v):
                self.raw = v

            def __iter__(self):
                yield self.raw
    """,
    "Missing": """
        class Missing(dict):
            def __missing__(self, key):
                return self["v"]
    """,
    "Odd": """
        class Odd(list):
            def __getitem__(self, key):
                return super().__getitem__(1)
    """,
    "Pair": """
        Pair = collections.namedtuple("Pair", ["w", "v"])
    """,
    "Meta": """
        class Meta(type):
            @property
            def v(cls):
                return cls.raw
    """,
    "Holder": """
        class Holder(nn.Module):
            def __init__(self, v):
                super().__init__()
                self.v = v
    """,
    "box": """
        def box(v):
            def get():
                return v

            def put(new):
                nonlocal v
                v = new

            return get, put
    """,
    "identity": """
        def identity(v):
            return v
    """,
    "Scale": """
        class Scale:
            def __init__(self, factor):
                self.factor = factor

            def __call__(self, t):
                return t * self.factor

            def apply(self, t):
                return torch.tanh(t) * self.factor

            @staticmethod
            def double(t):
                return t * 0.5

            @classmethod
            def halve(cls, t):
                return t / 2
    """,
    "scaled_by": """
        def scaled_by(factor):
            def scaled(t, shift=0.1):
                return t * factor + shift

            return scaled
    """,
    "traced_by": """
        def traced_by(function):
            @functools.wraps(function)
            def wrapper(*arguments, **keywords):
                return function(*arguments, **keywords)

            return wrapper
    """,
    "Times": """
        class Times:
            def __init__(self, factor):
                self.factor = factor

            def __mul__(self, t):
                return t * self.factor

            __rmul__ = __mul__

            def __float__(self):
                return float(self.factor)

            def __bool__(self):
                return self.factor > 1

            def __len__(self):
                return int(self.factor * 2)

            def __contains__(self, v):
                return v < self.factor

            def __eq__(self, other):
                return self.factor == other

            __hash__ = None

            def __enter__(self):
                return self.factor

            def __exit__(self, *error):
                return False
    """,
    "Color": """
        class Color(enum.Enum):
            SOFT = 0.7
            HARD = 1.4

            @property
            def twice(self):
                return self.value * 0.5
    """,
    "Batch": """
        Batch = collections.namedtuple("Batch", ["x", "y", "n", "m"])
    """,
    "Record": """
        @dataclasses.dataclass
        class Record:
            x: object
            y: object
            n: object
            m: object
    """,
    "rec": """
        def rec(t, depth):
            return t if depth <= 0 else rec(torch.tanh(t) * 0.9 + 0.05, depth - 1)
    """,
    "DEGREE": """
        DEGREE = contextvars.ContextVar("DEGREE", default=0.9)
    """,
    "Straight": """
        class Straight(torch.autograd.Function):
            @staticmethod
            def forward(ctx, t):
                return torch.sign(t)

            @staticmethod
            def backward(ctx, g):
                return g * 0.7
    """,
    "scripted": """
        @torch.jit.script
        def scripted(t: torch.Tensor) -> torch.Tensor:
            return torch.tanh(t) * 0.7 + t * t
    """,
}


@dataclass(frozen=True)
class _Container:
    """What holds a value: how it is made (INNER), read and written (OWNER, NEW)."""

    make: str
    reads: tuple[str, ...]
    writes: tuple[str, ...] = ()
    library: str = ""
    leaf: bool = False  # holds Python floats only


_ATTRIBUTE_WRITES = ("OWNER.v = NEW", "setattr(OWNER, 'v', NEW)")
_DICT_READS = (
    *("OWNER['v']", "OWNER['v']", "OWNER['v']", "OWNER.get('v')", "OWNER.get('v', 0.9)"),
    *("operator.itemgetter('v')(OWNER)", "OWNER['vw'[0]]", "dict(OWNER)['v']", "{**OWNER}['v']"),
    *("OWNER.setdefault('v', 0.6)", "[b for a, b in OWNER.items() if a == 'v'][0]"),
    "next(b for a, b in OWNER.items() if a == 'v')",
    *("OWNER.copy()['v']", "(OWNER['v'] if 'v' in OWNER else 0.6)", "list(OWNER.values())[0]"),
    "{a: b for a, b in OWNER.items()}['v']",
)
_DICT_WRITES = (
    *("OWNER['v'] = NEW", "OWNER.update(v=NEW)", "OWNER.clear(); OWNER['v'] = NEW"),
    "OWNER.pop('v'); OWNER['v'] = NEW",
)
_LIST_READS = (
    *("OWNER[1]", "OWNER[1]", "OWNER[1]", "OWNER[-2]", "OWNER[1:][0]", "[w for w in OWNER][1]"),
    *("list(OWNER)[1]", "OWNER[len(OWNER) - 2]", "tuple(OWNER)[1]", "[*OWNER][1]"),
    *("next(itertools.islice(OWNER, 1, None))", "dict(enumerate(OWNER))[1]"),
    *("list(reversed(OWNER))[1]", "(lambda a, b, *rest: b)(*OWNER)", "OWNER.copy()[1]"),
    "(OWNER + [0.1])[1]",
)
_LIST_WRITES = (
    *("OWNER[1] = NEW", "OWNER[:] = [0.5, NEW, 0.25]", "OWNER.insert(1, NEW)"),
    *("OWNER.pop(1); OWNER.insert(1, NEW)", "OWNER.__setitem__(1, NEW)", "OWNER.reverse()"),
    "OWNER.append(0.3)",
)

_CONTAINERS = (
    _Container(
        "types.SimpleNamespace(v=INNER)",
        ("OWNER.v", "getattr(OWNER, 'v')", "vars(OWNER)['v']", "operator.attrgetter('v')(OWNER)"),
        (*_ATTRIBUTE_WRITES, "vars(OWNER)['v'] = NEW"),
    ),
    _Container(
        "Plain(INNER)",
        (
            *("OWNER.v", "OWNER.v", "OWNER.v", "getattr(OWNER, 'v')", "getattr(OWNER, 'v', 0.9)"),
            *("vars(OWNER)['v']", "OWNER.__dict__['v']", "operator.attrgetter('v')(OWNER)"),
            *("(OWNER.v if hasattr(OWNER, 'v') else 0.6)", "getattr(OWNER, 'xv'[1:])"),
            *("object.__getattribute__(OWNER, 'v')", "OWNER.__getattribute__('v')"),
        ),
        (
            *(*_ATTRIBUTE_WRITES, "vars(OWNER)['v'] = NEW", "OWNER.__dict__ = {'v': NEW}"),
            *("OWNER.__dict__.update(v=NEW)", "object.__setattr__(OWNER, 'v', NEW)"),
            "type(OWNER).v = property(lambda self: NEW)",
            "type(OWNER).__getattribute__ = lambda self, name: NEW if name == 'v' else "
            "object.__getattribute__(self, name)",
        ),
        "Plain",
    ),
    _Container(
        "Fallback(INNER)",
        ("OWNER.v", "OWNER.v", "getattr(OWNER, 'v', 0.9)", "getattr(OWNER, 'v')"),
        (
            *("del OWNER.v", "vars(OWNER).clear(); Fallback.v = NEW", "OWNER.v = NEW"),
            *("vars(OWNER).pop('v', None); FallbackBase.v = NEW",),
            "vars(OWNER).pop('v', None); OWNER.__class__ = type('Other', (), {'v': NEW})",
            "vars(OWNER).pop('v', None); "
            "Fallback.__bases__ = (type('OtherBase', (FallbackBase,), {'v': NEW}),)",
        ),
        "Fallback",
    ),
    _Container("Slots(INNER)", ("OWNER.v", "getattr(OWNER, 'v')"), _ATTRIBUTE_WRITES, "Slots"),
    _Container(
        "Property(INNER)",
        ("OWNER.v",),
        (
            *("OWNER.raw = NEW", "OWNER.v = NEW"),
            "Property.v = property(lambda self: NEW)",
        ),
        "Property",
    ),
    _Container(
        "Attributes(INNER)",
        ("OWNER.v", "getattr(OWNER, 'v', 0.9)"),
        ("OWNER.data['v'] = NEW", "OWNER.v = NEW", "OWNER.data = {'v': NEW}"),
        "Attributes",
    ),
    _Container("Everything(INNER)", ("OWNER.v",), ("OWNER.raw = NEW",), "Everything"),
    _Container(
        "Data(INNER)",
        ("OWNER.v", "dataclasses.asdict(OWNER)['w'] * 0 + OWNER.v"),
        _ATTRIBUTE_WRITES,
        "Data",
    ),
    _Container("Frozen(INNER)", ("OWNER.v",), ("object.__setattr__(OWNER, 'v', NEW)",), "Frozen"),
    _Container(
        "Descriptor(INNER)",
        ("OWNER.v",),
        ("OWNER.raw = NEW", "OWNER.v = NEW", "Field.__get__ = lambda self, owner, kind=None: NEW"),
        "Descriptor",
    ),
    _Container(
        "Cached(INNER)",
        ("OWNER.v",),
        ("OWNER.raw = NEW", "OWNER.raw = NEW; vars(OWNER).pop('v', None)", "OWNER.v = NEW"),
        "Cached",
    ),
    _Container(
        "Item(INNER)", ("OWNER['v']", "OWNER[0]"), ("OWNER['v'] = NEW", "OWNER.raw = NEW"), "Item"
    ),
    _Container(
        "Call(INNER)", ("OWNER()",), ("OWNER.raw = NEW", "Call.__call__ = lambda self: NEW"), "Call"
    ),
    _Container(
        "Getter(INNER)",
        ("OWNER.get()", "Getter.get(OWNER)", "operator.methodcaller('get')(OWNER)"),
        ("OWNER.raw = NEW", "OWNER.get = lambda: NEW", "Getter.get = lambda self: NEW"),
        "Getter",
    ),
    _Container(
        "Series(INNER)",
        ("next(iter(OWNER))", "list(OWNER)[0]", "[*OWNER][0]"),
        ("OWNER.raw = NEW",),
        "Series",
    ),
    _Container("{'v': INNER, 'w': 0.5}", _DICT_READS, _DICT_WRITES),
    _Container("{'v': INNER, 'w': 0.5}", ("OWNER['v']",), _DICT_WRITES),
    _Container(
        "{2: 0.5, 1: INNER}", ("OWNER[1]", "OWNER[True]", "OWNER[1.0]"), ("OWNER[1] = NEW",)
    ),
    _Container("collections.OrderedDict(v=INNER)", _DICT_READS[:8], _DICT_WRITES),
    _Container(
        "collections.defaultdict(lambda: 0.8, v=INNER)",
        _DICT_READS[:8],
        (*_DICT_WRITES, "OWNER.pop('v')"),
    ),
    _Container("Missing(v=INNER)", ("OWNER['v']", "OWNER['u']"), _DICT_WRITES[:2], "Missing"),
    _Container(
        "collections.ChainMap({}, {'v': INNER})",
        ("OWNER['v']",),
        ("OWNER['v'] = NEW", "OWNER.maps[1]['v'] = NEW"),
    ),
    _Container("collections.UserDict(v=INNER)", ("OWNER['v']",), ("OWNER['v'] = NEW",)),
    _Container("types.MappingProxyType({'v': INNER})", ("OWNER['v']",)),
    _Container("[0.5, INNER, 0.25]", _LIST_READS, _LIST_WRITES),
    _Container("[0.5, INNER, 0.25]", ("OWNER[1]",), _LIST_WRITES),
    _Container(
        "Odd([0.5, INNER, 0.25])", ("OWNER[0]",), ("list.__setitem__(OWNER, 1, NEW)",), "Odd"
    ),
    _Container(
        "collections.deque([0.5, INNER])",
        ("OWNER[1]", "list(OWNER)[1]"),
        ("OWNER[1] = NEW", "OWNER.append(NEW)", "OWNER.rotate(1)"),
    ),
    _Container("(0.5, INNER)", ("OWNER[1]", "OWNER[-1]", "(lambda a, b: b)(*OWNER)")),
    _Container("Pair(0.5, INNER)", ("OWNER.v", "OWNER[1]", "OWNER._asdict()['v']"), (), "Pair"),
    _Container(
        "module('held', v=INNER)",
        ("OWNER.v", "getattr(OWNER, 'v')", "vars(OWNER)['v']"),
        (*_ATTRIBUTE_WRITES, "vars(OWNER)['v'] = NEW"),
    ),
    _Container(
        "module('held', __getattr__=lambda name: INNER)",
        ("OWNER.v",),
        ("OWNER.v = NEW", "OWNER.__getattr__ = lambda name: NEW"),
    ),
    _Container(
        "type('Made', (), {'v': INNER})",
        ("OWNER.v", "vars(OWNER)['v']", "OWNER().v"),
        ("OWNER.v = NEW", "type.__setattr__(OWNER, 'v', NEW)"),
    ),
    _Container("Meta('Made', (), {'raw': INNER})", ("OWNER.v",), ("OWNER.raw = NEW",), "Meta"),
    _Container(
        "box(INNER)",
        ("OWNER[0]()",),
        ("OWNER[1](NEW)", "OWNER[0].__closure__[0].cell_contents = NEW"),
        "box",
    ),
    _Container(
        "functools.partial(identity, INNER)",
        ("OWNER()", "OWNER.args[0]"),
        ("OWNER.__setstate__((identity, (NEW,), {}, {}))",),
        "identity",
    ),
    _Container(
        "functools.partial(identity, v=INNER)",
        ("OWNER()", "OWNER.keywords['v']"),
        ("OWNER.keywords['v'] = NEW",),
        "identity",
    ),
    _Container(
        "Holder(INNER)",
        ("OWNER.v", "getattr(OWNER, 'v')"),
        ("OWNER.v = NEW", "setattr(OWNER, 'v', NEW)"),
        "Holder",
    ),
    _Container(
        "np.array([0.5, INNER])",
        ("OWNER[1]", "float(OWNER[1])", "OWNER.tolist()[1]", "OWNER[1].item()", "OWNER.max()"),
        ("OWNER[1] = NEW", "OWNER *= 0.9", "OWNER[:] = NEW"),
        leaf=True,
    ),
    _Container(
        "array.array('d', [0.5, INNER])",
        ("OWNER[1]", "list(OWNER)[1]"),
        ("OWNER[1] = NEW",),
        leaf=True,
    ),
    _Container("ctypes.c_double(INNER)", ("OWNER.value",), ("OWNER.value = NEW",), leaf=True),
    _Container(
        "enum.Enum('Kind', {'V': INNER, 'W': 0.3})",
        ("OWNER.V.value", "OWNER['V'].value"),
        ("OWNER.V._value_ = NEW",),
        leaf=True,
    ),
)


@dataclass
class _Place:
    """Where a value is: how the function reads it, and how changes reach and replace it."""

    read: str
    path: str
    write: str  # a statement with NEW, or nothing


@dataclass(frozen=True)
class Call:
    """One call of a program's function."""

    seed: int
    shapes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]  # of x, y, and n and m
    dtypes: tuple[torch.dtype, torch.dtype, torch.dtype]  # of x, y, n
    requires_grad: tuple[bool, bool]
    same: str = ""  # "y": y is x; "captured": x is a captured tensor
    mode: str = "grad"  # "no_grad", "inference"
    options: tuple[tuple[str, str], ...] = ()  # keyword arguments, as text
    attribute: bool = False  # x.scale is set
    second: bool = False  # compare second derivatives too


@dataclass(frozen=True)
class Program:
    """The text of a module with `target`, `call`, `changes`, `tensors`, `probes` and `close`."""

    number: int
    source: str
    features: frozenset[str]
    changes: int
    # Those before any change, and those after each
    calls: tuple[tuple[Call, ...], ...]


# Features that `fuse` may refuse: they ask for values or shapes, or are not elementwise, or act on
# what is not theirs.
BEYOND = frozenset(
    (
        *("value", "shape", "reduction", "view", "random tensor", "swallowed", "argument changed"),
        *("captured changed", "autograd inside", "scripted", "creation", "tensor attribute"),
        *("numpy", "complex", "integer division", "xor", "hook inside", "leaf", "number result"),
    )
)

_CALLABLES: tuple[tuple[str, str, tuple[str, ...]], ...] = (  # text, library, changes of PATH
    ("torch.tanh", "", ()),
    ("torch.sigmoid", "", ()),
    ("F.silu", "", ()),
    ("torch.Tensor.tanh", "", ()),
    ("fusedgrad.tanh", "", ()),
    ("fusedgrad.sigmoid", "", ()),
    ("operator.neg", "", ()),
    ("abs", "", ()),
    ("(lambda t: t * 0.7 + 0.1)", "", ("PATH.__code__ = (lambda t: t * 1.3 - 0.2).__code__",)),
    (
        "(lambda t, a=0.6: t * a)",
        "",
        ("PATH.__defaults__ = (1.2,)", "PATH.__code__ = (lambda t, a: t * a + a).__code__"),
    ),
    (
        "(lambda t, *, a=0.6: torch.tanh(t * a))",
        "",
        ("PATH.__kwdefaults__['a'] = 1.2", "PATH.__kwdefaults__ = {'a': 1.3}"),
    ),
    ("(lambda t: [w * t for w in (0.3, 0.4)][1])", "", ()),
    (
        "functools.partial(torch.clamp, min=-1.137, max=1.213)",
        "",
        ("PATH.keywords['max'] = 0.777",),
    ),
    ("functools.partial(torch.mul, 0.7)", "", ("PATH.__setstate__((torch.mul, (0.3,), {}, {}))",)),
    ("functools.partial(operator.mul, 0.7)", "", ()),
    (
        "Scale(0.8)",
        "Scale",
        (
            *("PATH.factor = 0.5", "Scale.__call__ = lambda self, t: t * 0.9 + 0.1"),
            "PATH.__class__ = type('Scaler', (Scale,), {'__call__': lambda self, t: t * 0.33})",
        ),
    ),
    (
        "Scale(0.8).apply",
        "Scale",
        (
            *("PATH.__self__.factor = 0.5", "Scale.apply = lambda self, t: t * 0.9 + 0.1"),
            "PATH.__func__.__code__ = (lambda self, t: t * self.factor + 0.2).__code__",
        ),
    ),
    ("Scale.double", "Scale", ("PATH.__code__ = (lambda t: t * 0.25).__code__",)),
    ("Scale.halve", "Scale", ()),
    (
        "scaled_by(0.7)",
        "scaled_by",
        (
            "PATH.__closure__[0].cell_contents = 1.2",
            "PATH.__defaults__ = (0.4,)",
        ),
    ),
    (
        "traced_by(scaled_by(0.7))",
        "scaled_by traced_by",
        (
            "PATH.__wrapped__.__defaults__ = (0.4,)",
            "PATH.__closure__[0].cell_contents = torch.tanh",
        ),
    ),
    ("torch.no_grad()(scaled_by(0.7))", "scaled_by", ()),
    (
        "nn.Tanh()",
        "",
        (
            "PATH.register_forward_hook(lambda m, i, o: o * 0.5)",
            "PATH.register_forward_pre_hook(lambda m, i: (i[0] * 0.5,))",
            "PATH.forward = lambda t: t * 0.4",
            "PATH.__class__ = nn.SiLU",
        ),
    ),
    ("nn.Softplus(beta=1.3)", "", ("PATH.beta = 0.7",)),
    (
        "nn.Sequential(nn.Tanh(), nn.SiLU())",
        "",
        (
            "PATH[1] = nn.Mish()",
            "PATH.append(nn.Sigmoid())",
            "PATH[0].register_forward_hook(lambda m, i, o: o * 0.5)",
        ),
    ),
    ("fuse(lambda t: torch.tanh(t) * 0.8)", "", ()),
    ("fuse(lambda t, a=0.7: t * a)", "", ()),
    ("functools.lru_cache(lambda a: scaled_by(a))(0.6)", "scaled_by", ()),
    (
        "functools.partial(scaled_by(0.7), shift=0.2)",
        "scaled_by",
        ("PATH.keywords['shift'] = 0.4",),
    ),
    (
        "functools.singledispatch(lambda t: t * 0.8)",
        "",
        ("PATH.register(torch.Tensor, lambda t: t * 0.3)",),
    ),
)

_SEQUENCES = (
    "[0.3, 0.8]",
    "[0.6, 0.5, 1.1]",
    "(0.9, 0.4)",
    "range(1, 3)",
    "[1]",
    "{'a': 0.7, 'b': 0.9}",
    "collections.deque([0.7, 0.6])",
)
_FLAGS = ("True", "False", "0", "1", "None", "''", "'a'", "[]", "[0]", "0.0", "0.5", "{}", "()")
_MODES = ("'soft'", "'hard'", "None", "'other'", "b'soft'", "1")

# A is a float tensor of magnitude up to about 4, as is the result.
_UNARY = (
    *("torch.sigmoid(A)", "A.sigmoid()", "F.sigmoid(A)", "torch.special.expit(A)", "torch.tanh(A)"),
    *("A.tanh()", "F.tanh(A)", "torch.exp(A * 0.25)", "torch.exp(-abs(A))", "(-A.abs()).exp()"),
    *("torch.expm1(A * 0.25)", "torch.special.expm1(A * 0.25)", "torch.log(A * A + 0.5)"),
    *(
        "(A * A + 0.5).log()",
        "torch.log1p(abs(A))",
        "torch.special.log1p(A * A)",
        "A.abs().log1p()",
    ),
    *("torch.sqrt(A * A + 0.25)", "(A * A + 0.25).sqrt()", "torch.rsqrt(1 + A * A)"),
    *("torch.reciprocal(A * A + 2)", "torch.square(A * 0.5)", "(A * 0.5).square()"),
    *("F.softplus(A)", "F.softplus(A, beta=1.5)", "F.logsigmoid(A)", "F.silu(A)", "F.mish(A)"),
    *("F.gelu(A)", "F.gelu(A, approximate='tanh')", "F.relu(A)", "torch.relu(A)", "A.relu()"),
    *("torch.sin(A)", "A.cos()", "torch.cos(A)", "torch.erf(A)", "torch.special.erf(A)", "abs(A)"),
    *("torch.abs(A)", "-A", "+A", "torch.neg(A)", "A.neg()", "torch.clamp(A, -1.371, 1.219)"),
    *("A.clamp(min=-0.913)", "torch.clamp(A, max=1.117)", "A.clip(-1.3, 1.6)", "A * 0.7"),
    *("A - 0.35", "0.8 - A", "A / 1.7", "1.3 / (1.5 + A * A)", "2.0 ** (A * 0.5)", "2 ** (A / 2)"),
    *("(A * 0.5) ** 2", "(A * 0.5) ** 3 * 0.5", "A ** 1", "A.pow(2) * 0.25", "A ** 0 * 0.6"),
    *("torch.pow(1 + torch.sigmoid(A), 1.7)", "torch.pow(1.3, A)", "F.softplus(A) ** 1.3 * 0.5"),
    *(
        "(1 + A * A) ** -0.5",
        "(A * A + 1) ** 0.5 * 0.5",
        "torch.rsub(A, 1.2)",
        "A.mul(0.6).add(0.1)",
    ),
    *("torch.add(A, 1.5, alpha=0.2)", "torch.true_divide(A, 2)", "torch.div(A, 3)", "A.div(2.5)"),
    *("fusedgrad.sigmoid(A)", "fusedgrad.tanh(A)", "fusedgrad.pow(1 + torch.sigmoid(A), 1.5)"),
    *("fusedgrad.pow(A, 2) * 0.2", "fusedgrad.activations.silu(A)", "torch.negative(A)"),
    *("torch.Tensor.tanh(A)", "torch.Tensor.__mul__(A, 0.7)", "operator.mul(A, 0.6)"),
    *(
        "torch.multiply(A, 0.4)",
        "torch.subtract(A, 0.4)",
        "torch.special.ndtr(A)",
        "A.clone() * 0.9",
    ),
)
_BINARY = (
    *("(A + B) * 0.5", "A - B * 0.5", "A * B * 0.25", "A / (B * B + 1)", "torch.maximum(A, B)"),
    *("torch.minimum(A, B)", "torch.where(A > B, A, torch.tanh(B))", "torch.add(A, B, alpha=0.4)"),
    *("A.add(B, alpha=-0.3)", "torch.sub(A, B, alpha=0.3)", "torch.mul(A, B) * 0.2"),
    *("(1 + torch.sigmoid(A)) ** torch.tanh(B)", "torch.pow(1.2 + torch.sigmoid(A), torch.sin(B))"),
    *("fusedgrad.pow(1 + torch.sigmoid(A), torch.tanh(B))", "A.div(B * B + 1.5)", "A.minimum(B)"),
    "F.binary_cross_entropy_with_logits(A, torch.sigmoid(B), reduction='none') * 0.5",
    "fusedgrad.binary_cross_entropy_with_logits(A, torch.sigmoid(B), reduction='none') * 0.5",
    "F.binary_cross_entropy_with_logits(A, torch.sigmoid(B), torch.sigmoid(A), reduction='none')",
    *("A.where(A < B, B)", "torch.where(A >= B, B, A * 0.5)", "torch.clamp(A, max=torch.tanh(B))"),
    *("GATE(A, B)", "(A, B)[1] * 0.9", "sum([A, B]) * 0.4", "torch.maximum(A, 0.1 * B) - A * 0.2"),
)
_INT_UNARY = (
    *("I + 2", "I * 3", "-I", "abs(I)", "I * I", "I & 3", "I | 1", "~I", "I.clamp(0, 2)"),
    *("torch.clamp(I, min=0)", "I ** 2", "torch.square(I)", "3 - I", "I.neg()", "torch.add(I, 1)"),
)
_INT_BINARY = (
    *("I - J", "I + J", "I * J", "torch.minimum(I, J)", "torch.maximum(I, J)", "I & J", "I | J"),
    *("torch.where(C, I, J)", "I + C", "I * C", "C * J", "torch.add(I, J, alpha=2)", "C + I"),
)
_BOOL = (
    *("I > 1", "I == J", "I != J", "A > B", "A <= 0.137", "~C", "C & D", "C | D", "C + D", "C * D"),
    *("torch.logical_and(C, D)", "torch.logical_not(C)", "torch.logical_or(C, D)", "C == D"),
    *("torch.where(C, D, C)", "I.eq(2)", "torch.gt(A, 0.21)", "(A > 0.1) | C", "(A < B) & ~C"),
    *("torch.ne(I, J)", "I <= J", "0.3 < A", "I > 0.5", "torch.lt(I, J)", "C != (I > 0)"),
)
_MIXED = (
    *("torch.tanh(I * 0.05) + A * 0.5", "torch.sigmoid(I * 0.1) * A", "torch.where(C, A, 0.3)"),
    *("A * C", "A * 0.5 + C", "torch.where(C, A, B)", "A.where(C, B)", "torch.where(C, 0.3, A)"),
    *("A * (I > 1)", "C.to(A.dtype) * A", "torch.tanh(I.float() * 0.1) * A", "(~C) * A"),
    *(
        "torch.tanh(A + I * 0.01)",
        "torch.sin(I * 0.1) * B",
        "torch.tanh(A * I)",
        "torch.tanh(I / 7)",
    ),
    *("torch.where(I == J, A, B)", "torch.where(~C & (A > B), A, 0.0)", "torch.sigmoid(I - J) * A"),
    *("((A > 0.1) + (B > 0.3)) * A", "((I > 0) + (J > 1)) * B", "torch.exp(-abs(I * 0.1)) + A"),
    *("(C + D) * A", "A - C.float() * 0.5", "torch.tanh(I) * 0.5 + A", "A / (abs(I) + 2)"),
    *("torch.where(C, I, 0.25) * 0.1 + A * 0.2", "torch.maximum(A, torch.tanh(I * 0.3))"),
    *("torch.where(C, A, 1)", "torch.tanh((I - 1) ** 2 * 0.1) * A", "torch.where(C, 0.2, 0.7) * A"),
    *(
        "(I + 1_700_000_000 - (J + 1_700_000_000)) * 0.01 + A",
        "torch.sigmoid(I.double() * 0.1) * A",
    ),
)
# Of tensors, asked in the function: Python and PyTorch answer.
_QUESTIONS = (
    *("x.dtype is torch.float32", "y.dtype == torch.float64", "isinstance(x, torch.Tensor)"),
    *("type(x) is torch.Tensor", "x is y", "x is not y", "torch.is_grad_enabled()"),
    *("x.requires_grad", "y.requires_grad", "torch.get_default_dtype() is torch.float32"),
    *("x.is_floating_point()", "n.dtype is torch.int64", "n.dtype in (torch.int32, torch.uint8)"),
    *("torch.is_tensor(s)", "isinstance(s, float)", "type(s) is int", "isinstance(s, bool)"),
    *("isinstance(s, (int, np.floating))", "s is None", "x.device.type == 'cpu'"),
    *("A.requires_grad", "A.dtype is torch.float64", "type(A) is torch.Tensor"),
    *("isinstance(A, nn.Parameter)", "torch.is_inference_mode_enabled()", "mode == 'soft'"),
    *("torch.is_floating_point(n)", "x.dtype.is_floating_point", "torch.finfo(x.dtype).bits == 32"),
    *("torch.finfo(A.dtype).eps < 1e-10", "torch.result_type(x, n) is torch.float64"),
    *("torch.promote_types(x.dtype, y.dtype) is torch.float32", "hasattr(x, 'scale')", "not mode"),
    *("x.device == y.device", "(A > 0).dtype is torch.bool", "(n + m).dtype is torch.int64"),
    *("isinstance(x, nn.Parameter)", "mode in ('hard', None)", "callable(s)", "len(str(mode)) > 4"),
    *("torch.is_tensor(A) and A.is_floating_point()", "(x * n).dtype is torch.float64"),
    *("x.dtype is y.dtype", "A.is_cuda", "x.layout is torch.strided", "mode.__class__ is str"),
    *("A is x", "torch.can_cast(n.dtype, torch.int32)", "x.is_complex()", "id(x) == id(y)"),
    *(
        "isinstance(x, torch.FloatTensor)",
        "x.type() == 'torch.DoubleTensor'",
        "x in (y,) and x is y",
    ),
)
_REGIONS = (
    *("torch.no_grad()", "torch.no_grad()", "torch.enable_grad()", "torch.set_grad_enabled(False)"),
    *("torch.set_grad_enabled(True)", "torch.set_grad_enabled(x.requires_grad)"),
    *("torch.set_grad_enabled(mode == 'soft')", "torch.inference_mode(False)"),
    *("torch.autograd.grad_mode.no_grad()", "torch.set_grad_enabled(not torch.is_grad_enabled())"),
    "torch.inference_mode()",
)
# What fuse may refuse, with its feature. A, B are float tensors, OUT the result.
_BEYOND_STATEMENTS: tuple[tuple[str, str], ...] = (
    ("OUT = A if (A > 0).all() else B", "value"),
    ("OUT = A if bool(m.any()) else B * 0.5", "value"),
    ("OUT = A * (0.7 if A.sum() > 0.1 else 0.3)", "value"),
    ("OUT = A * torch.tanh(A.mean()).item()", "value"),
    ("OUT = A * (0.5 + 0.5 * float(y.detach().abs().max() > 0.9))", "value"),
    ("OUT = A * (0.3 if torch.equal(x, y) else 0.6)", "value"),
    ("OUT = A * (0.3 if torch.allclose(A, B) else 0.6)", "value"),
    ("OUT = A * (0.3 if f'{x}'.count('-') > 2 else 0.6)", "value"),
    ("OUT = A * (0.3 if int(n.sum()) % 2 else 0.6)", "value"),
    ("OUT = A * sum(n.reshape(-1).tolist()) * 0.1", "value"),
    ("OUT = A * (0.3 + 0.1 * x._version)", "value"),
    ("OUT = A * (0.3 if x.grad is None else 0.6)", "leaf"),
    ("OUT = A * (0.3 if A.is_leaf else 0.6)", "leaf"),
    ("OUT = A * (0.3 if A.grad_fn is None else 0.6)", "leaf"),
    ("OUT = A * (0.3 if type(A.grad_fn).__name__ == 'MulBackward0' else 0.6)", "leaf"),
    ("OUT = A * (0.3 if A.retains_grad else 0.6)", "leaf"),
    ("OUT = A * x.dim() * 0.3", "shape"),
    ("OUT = A * (0.1 * x.numel())", "shape"),
    ("OUT = A / (1 + len(x.shape))", "shape"),
    ("OUT = A if x.shape == y.shape else B", "shape"),
    ("OUT = A * (0.3 if A.is_contiguous() else 0.5)", "shape"),
    ("OUT = A * (0.1 * A.size(-1) if A.dim() else 0.3)", "shape"),
    ("OUT = A * (0.3 if A.stride() == x.stride() else 0.5)", "shape"),
    ("OUT = A - A.mean()", "reduction"),
    ("OUT = A * A.sum() * 0.1", "reduction"),
    ("OUT = torch.softmax(A, -1)", "reduction"),
    ("OUT = A - A.amax(-1, keepdim=True) * 0.3 if A.dim() else A", "reduction"),
    ("OUT = torch.cumsum(A, 0) * 0.2 if A.dim() else A", "reduction"),
    ("OUT = A.reshape(A.shape) * 0.5", "view"),
    ("OUT = A.view(-1).view(A.shape) * 0.5", "view"),
    ("OUT = A[..., None].squeeze(-1) * 0.5", "view"),
    ("OUT = A.expand_as(A) * 0.5", "view"),
    ("OUT = torch.stack([A, A * 0.5])[1]", "view"),
    ("OUT = A * torch.rand_like(A)", "random tensor"),
    ("OUT = F.dropout(A, 0.4)", "random tensor"),
    ("OUT = A + torch.randn(())", "random tensor"),
    ("OUT = A * (0.5 + torch.rand(1).item())", "random tensor"),
    ("OUT = A * torch.empty_like(A).uniform_()", "random tensor"),
    (
        "try:\n    OUT = A.softmax(-1)\nexcept Exception:\n    OUT = A * 0.3",
        "swallowed",
    ),
    (
        "try:\n    OUT = A * (0.4 if A.sum() > 0.1 else 0.9)\nexcept Exception:\n    OUT = A * 0.3",
        "swallowed",
    ),
    (
        "try:\n    OUT = A * x.numel() * 0.1\nexcept TypeError:\n    OUT = A * 0.3",
        "swallowed",
    ),
    (
        "try:\n    OUT = A * torch.rand_like(A)\nexcept BaseException:\n    OUT = A * 0.3",
        "swallowed",
    ),
    (
        "with contextlib.suppress(Exception):\n    OUT = A * 0.3\n    OUT = OUT.cumsum(0)",
        "swallowed",
    ),
    ("y.add_(0.5)\nOUT = A * y.detach() * 0.3", "argument changed"),
    ("n += 1\nOUT = A * torch.tanh(n)", "argument changed"),
    ("y.data = y.data * 0.5\nOUT = A * 0.5", "argument changed"),
    ("y.data.mul_(0.5)\nOUT = A * y * 0.5", "argument changed"),
    ("torch.relu_(y.detach())\nOUT = A * 0.5", "argument changed"),
    ("torch.sin(A.detach(), out=y.detach())\nOUT = A * 0.5", "argument changed"),
    ("m.logical_not_()\nOUT = A * m", "argument changed"),
    ("y.requires_grad_(False)\nOUT = A * 0.5 + y", "argument changed"),
    ("SEEN.add_(1)\nOUT = A * SEEN * 0.3", "captured changed"),
    ("SEEN += 1\nOUT = A * SEEN * 0.3", "captured changed"),
    ("SEEN.mul_(0.5)\nOUT = A * 0.5", "captured changed"),
    ("SEEN.fill_(0.5)\nOUT = A * SEEN", "captured changed"),
    ("OUT = A * SEEN.item()", "value"),
    ("OUT = A * float(SEEN) * 0.5", "value"),
    ("OUT = A if SEEN > 0.9 else B * 0.7", "value"),
    ("OUT = A * np.asarray(SEEN).item()", "numpy"),
    ("OUT = torch.tanh(torch.from_numpy(np.tanh(A.detach().numpy()))) * 0.7", "numpy"),
    ("OUT = torch.as_tensor(np.array(A.detach().tolist(), dtype=np.float32)) * B", "numpy"),
    ("OUT = torch.from_dlpack(A.detach().clone()) * 0.5", "numpy"),
    ("OUT = Straight.apply(A) * 0.7", "autograd inside"),
    ("OUT = torch.autograd.grad((x * x).sum(), x)[0] * 0.3 + A", "autograd inside"),
    ("OUT = torch.func.grad(lambda t: (t * t).sum())(A) * 0.2", "autograd inside"),
    (
        "OUT = torch.utils.checkpoint.checkpoint(torch.tanh, A, use_reentrant=False) * 0.5",
        "autograd inside",
    ),
    ("OUT = torch.func.vmap(torch.tanh)(A) * 0.5 if A.dim() else A", "autograd inside"),
    ("OUT = scripted(A) * 0.2", "scripted"),
    ("OUT = A * torch.tensor(0.7)", "creation"),
    ("OUT = A * torch.ones_like(A) * 0.6", "creation"),
    ("OUT = A + torch.zeros(3)", "creation"),
    ("OUT = A + torch.full_like(A, 0.4)", "creation"),
    ("OUT = A + torch.arange(3) * 0.1", "creation"),
    ("OUT = A * torch.tensor(0.7, requires_grad=True)", "creation"),
    ("x.tag = 0.4\nOUT = A * x.tag", "tensor attribute"),
    ("OUT = A * 0.5\nOUT.tag = 0.3\nOUT = OUT * OUT.tag", "tensor attribute"),
    ("OUT = A * getattr(x, 'scale', 0.6)", "tensor attribute"),
    ("OUT = A * {x: 0.4, y: 0.7}[x]", "tensor attribute"),
    ("OUT = (A * 2j).abs() * 0.3", "complex"),
    ("OUT = torch.complex(A, B).real * 0.5", "complex"),
    ("OUT = torch.tanh(n // 2) * A", "integer division"),
    ("OUT = torch.tanh(n % 3) * A", "integer division"),
    ("OUT = torch.where(m ^ (n > 1), A, B)", "xor"),
    ("OUT = torch.tanh(n << 1) * A", "xor"),
    (
        "OUT = A * 0.7\nif OUT.requires_grad:\n    OUT.register_hook(lambda g: g * 0.5)",
        "hook inside",
    ),
    ("if x.requires_grad:\n    x.register_hook(lambda g: g * 0.5)\nOUT = A * x", "hook inside"),
    (
        "with torch.autograd.graph.saved_tensors_hooks(lambda t: t * 2, lambda t: t):\n"
        "    OUT = A * B * 0.3",
        "hook inside",
    ),
    ("OUT = A * 0.5\nOUT.requires_grad_()", "leaf"),
    ("OUT = A.detach().requires_grad_() * 0.5", "leaf"),
    ("OUT = (A * 0.5).detach_() + B", "leaf"),
    ("OUT = A.data * 0.5 + B", "leaf"),
)


@dataclass(frozen=True)
class _Special:
    """A statement that reads or changes state in a way of its own.

    _K is a number of its own in each name, NUM a number drawn anew, A and B are float tensors and
    OUT is what the statement makes.
    """

    definitions: str
    statement: str
    changes: tuple[str, ...] = ()
    probes: tuple[str, ...] = ()  # expressions that are compared after each call
    close: str = ""
    library: str = ""
    own: bool = False  # needs `self`


_FLIPS = ("globals()['V_K'] = NUM", "globals()['V_K'] = NUM")
_NET = """
class Net_K(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(tensor(_K, (3,), FLOAT))
        self.register_buffer("b", tensor(_K, (), FLOAT))
        self.act = nn.Tanh()
        self.layers = nn.ModuleList([nn.SiLU(), nn.Softplus()])
        self.named = nn.ModuleDict({"soft": nn.Sigmoid(), "hard": nn.ReLU()})
        self.weights = nn.ParameterList([nn.Parameter(tensor(_K, (), FLOAT))])
        self.tau = NUM

    def forward(self, t):
        t = self.act(t * self.w) + self.b
        BODY
        return t

NET_K = Net_K()
"""
_NET_BODIES = (
    "t = t * (0.5 if self.training else 0.9)",
    "for layer in self.layers:\n            t = layer(t) * 0.5",
    "t = self.named['soft'](t) * self.weights[0]",
    "t = t / self.tau * 0.5",
    "for name, p in self.named_parameters():\n            t = t * (0.9 if 'w' in name else 1.1)",
    "t = t * self.state_dict()['b']",
    "t = t * sum(1 for _ in self.children()) * 0.2",
    "t = t * (0.5 if self.w.requires_grad else 0.8)",
)
_NET_CHANGES = (
    "NET_K.eval()",
    "NET_K.train(not NET_K.training)",
    "NET_K.tau = NUM",
    "NET_K.b = tensor(1 + _K, (3,), FLOAT)",
    "NET_K.b.mul_(NUM)",
    "NET_K.w = nn.Parameter(tensor(1 + _K, (3,), FLOAT))",
    "NET_K.w.data = tensor(2 + _K, (3,), FLOAT)",
    "with torch.no_grad():\n    NET_K.w.mul_(NUM)",
    "NET_K.w.requires_grad_(False)",
    "NET_K.requires_grad_(not NET_K.w.requires_grad)",
    "NET_K.act = nn.Sigmoid()",
    "NET_K.act.register_forward_hook(lambda m, i, o: o * NUM)",
    "NET_K.act.register_forward_pre_hook(lambda m, i: (i[0] * NUM,))",
    "NET_K.register_forward_hook(lambda m, i, o: o + NUM)",
    "NET_K.register_forward_hook(lambda m, i, k, o: o + NUM, with_kwargs=True)",
    "NET_K.act._forward_hooks.clear()",
    "NET_K.layers.append(nn.Tanh())",
    "NET_K.layers[0] = nn.GELU()",
    "NET_K.named['soft'] = nn.Mish()",
    "NET_K.weights[0] = nn.Parameter(tensor(3 + _K, (), FLOAT))",
    "NET_K.double()",
    "NET_K.float()",
    "NET_K.load_state_dict({k: v * 0.8 for k, v in NET_K.state_dict().items()})",
    "NET_K.forward = lambda t: torch.tanh(t) * NUM",
    "Net_K.forward = lambda self, t: torch.tanh(t * self.w) * NUM",
    "NET_K.act.forward = torch.sigmoid",
    "NET_K.__class__ = type('Sub', (Net_K,), {'forward': lambda self, t: t * self.b})",
    "Net_K.__call__ = lambda self, t: t * NUM",
    "torch.nn.utils.parametrize.register_parametrization(NET_K, 'w', nn.Tanh())",
    "HANDLES.append(torch.nn.modules.module.register_module_forward_hook("
    "lambda m, i, o: o * 0.9 if type(m) is nn.Tanh else None))",
    "globals()['NET_K'] = Net_K()",
)

_SPECIALS = (
    _Special(
        "ITER_K = itertools.cycle([NUM, NUM, NUM])",
        "OUT = A * next(ITER_K)",
        ("globals()['ITER_K'] = itertools.cycle([NUM])",),
    ),
    _Special(
        "def numbers_K():\n    w = 0.5\n    while True:\n        yield w\n"
        "        w = w + 0.1 if w < 1.5 else 0.5\n\nITER_K = numbers_K()",
        "OUT = A * next(ITER_K, 0.5)",
    ),
    _Special("ITER_K = itertools.count(3)", "OUT = A * (0.3 + 0.2 * (next(ITER_K) % 4))"),
    _Special(
        "COUNT_K = 0\n\ndef count_K():\n    global COUNT_K\n    COUNT_K += 1\n    return COUNT_K",
        "OUT = A * (0.5 + 0.1 * (count_K() % 3))",
        probes=("COUNT_K",),
    ),
    _Special("SEEN_K = []", "SEEN_K.append(1)\nOUT = A * 0.8", probes=("len(SEEN_K)",)),
    _Special(
        "SEEN_K = {'n': 0}",
        "SEEN_K['n'] += 1\nOUT = A * (0.5 + 0.25 * (SEEN_K['n'] % 2))",
        probes=("SEEN_K['n']",),
    ),
    _Special(
        "STACK_K = [NUM, NUM, NUM]",
        "OUT = A * STACK_K[0]\nSTACK_K.append(STACK_K.pop(0))",
        ("STACK_K[0] = NUM", "STACK_K.sort()"),
        probes=("tuple(STACK_K)",),
    ),
    _Special(
        "",
        "self.calls_K = getattr(self, 'calls_K', 0) + 1\nOUT = A * (0.4 + 0.3 * (self.calls_K % 3))",
        probes=("OBJ.calls_K",),
        own=True,
    ),
    _Special(
        "def note_K():\n    note_K.calls += 1\n\nnote_K.calls = 0",
        "note_K()\nOUT = A * (0.6 if note_K.calls % 2 else 0.9)",
        ("note_K.calls = 4",),
        probes=("note_K.calls",),
    ),
    _Special(
        "def once_K(t, seen=[]):\n    seen.append(0)\n    return t * (0.9 if len(seen) > 2 else 0.4)",
        "OUT = once_K(A)",
        ("once_K.__defaults__[0].clear()", "once_K.__defaults__ = ([0, 0, 0],)"),
        probes=("len(once_K.__defaults__[0])",),
    ),
    _Special(
        "CACHE_K = {}",
        "OUT = A * CACHE_K.setdefault(mode, NUM)",
        ("CACHE_K.clear()", "CACHE_K['soft'] = NUM", "CACHE_K[None] = NUM"),
        probes=("len(CACHE_K)",),
    ),
    _Special(
        "V_K = NUM\n\n@functools.lru_cache(None)\ndef cached_K(key):\n    return V_K",
        "OUT = A * cached_K(mode)",
        ("globals()['V_K'] = NUM", "globals()['V_K'] = NUM; cached_K.cache_clear()"),
    ),
    _Special(
        "V_K = 2",
        "OUT = A\nfor i in range(V_K):\n    OUT = torch.tanh(OUT) * 0.9 + 0.05 * i",
        ("globals()['V_K'] = 3", "globals()['V_K'] = 1", "globals()['V_K'] = True"),
    ),
    _Special(
        "V_K = 2",
        "OUT, i = A, 0\nwhile i < V_K:\n    OUT = torch.tanh(OUT) * 0.9 + 0.05 * i\n    i += 1\n"
        "    if i > 4:\n        break\nelse:\n    OUT = OUT * 0.7",
        ("globals()['V_K'] = 3", "globals()['V_K'] = 0.5", "globals()['V_K'] = 9"),
    ),
    _Special(
        "BOX_K = types.SimpleNamespace()",
        "try:\n    w = BOX_K.extra\nexcept AttributeError:\n    w = NUM\nOUT = A * w",
        ("BOX_K.extra = NUM", "BOX_K.extra = NUM", "vars(BOX_K).clear()"),
    ),
    _Special(
        "class Late_K:\n    pass\n\nBOX_K = Late_K()",
        "OUT = A * (BOX_K.extra if hasattr(BOX_K, 'extra') else NUM)",
        ("BOX_K.extra = NUM", "Late_K.extra = NUM", "Late_K.__getattr__ = lambda self, name: NUM"),
    ),
    _Special(
        "class Late_K:\n    pass\n\nBOX_K = Late_K()",
        "OUT = A * getattr(BOX_K, 'extra', NUM)",
        (
            *(
                "BOX_K.extra = NUM",
                "Late_K.extra = NUM",
                "Late_K.__getattr__ = lambda self, k: NUM",
            ),
            "Late_K.extra = property(lambda self: NUM)",
        ),
    ),
    _Special(
        "BOX_K = {}",
        "try:\n    w = BOX_K['extra']\nexcept (KeyError, IndexError):\n    w = NUM\n"
        "finally:\n    pass\nOUT = A * w",
        ("BOX_K['extra'] = NUM", "BOX_K.clear()", "globals()['BOX_K'] = []"),
    ),
    _Special(
        "BOX_K = {}",
        "OUT = A * (BOX_K['extra'] if 'extra' in BOX_K else NUM)",
        ("BOX_K['extra'] = NUM", "BOX_K.clear()"),
    ),
    _Special(
        "V_K = NUM",
        "try:\n    w = V_K\nexcept NameError:\n    w = NUM\nOUT = A * w",
        (*_FLIPS, "globals().pop('V_K', None)", "builtins.V_K@COPY@ = NUM"),
    ),
    _Special(
        "CV_K = contextvars.ContextVar('CV_K')\nCV_K.set(NUM)",
        "OUT = A * CV_K.get()",
        ("CV_K.set(NUM)", "CV_K.set(NUM)"),
    ),
    _Special("", "OUT = A * DEGREE.get()", ("DEGREE.set(NUM)",), library="DEGREE"),
    _Special(
        "os.environ['FG_K@COPY@'] = 'NUM'",
        "OUT = A * float(os.environ['FG_K@COPY@'])",
        ("os.environ['FG_K@COPY@'] = 'NUM'",),
        close="os.environ.pop('FG_K@COPY@', None)",
    ),
    _Special(
        "",
        "OUT = A * (0.3 if os.environ.get('FG_K@COPY@') else 0.8)",
        ("os.environ['FG_K@COPY@'] = '1'", "os.environ.pop('FG_K@COPY@', None)"),
        close="os.environ.pop('FG_K@COPY@', None)",
    ),
    _Special(
        "",
        "OUT = A * (0.3 if os.getenv('FG_K@COPY@') else 0.8)",
        ("os.environ['FG_K@COPY@'] = '1'",),
        close="os.environ.pop('FG_K@COPY@', None)",
    ),
    _Special("", "OUT = A * (0.5 + random.random())"),
    _Special("", "OUT = A * random.uniform(0.4, 1.2) + random.choice([0.1, 0.2, 0.3])"),
    _Special("", "OUT = A * (0.5 + np.random.rand())"),
    _Special("", "OUT = A * (0.3 if random.random() < 0.5 else 0.8)"),
    _Special("RNG_K = random.Random(_K)", "OUT = A * (0.5 + RNG_K.random())", ("RNG_K.seed(3)",)),
    _Special(
        "RNG_K = np.random.default_rng(_K)",
        "OUT = A * (0.5 + RNG_K.random())",
    ),
    _Special(
        "RNG_K = random.Random(_K)",
        "OUT = A\nif RNG_K.random() < 0.4:\n    OUT = torch.tanh(A)",
    ),
    _Special(
        "TL_K = threading.local()\nTL_K.v = NUM",
        "OUT = A * TL_K.v",
        ("TL_K.v = NUM", "vars(TL_K)['v'] = NUM"),
    ),
    _Special(
        "KEPT_K = Plain(NUM)\nREF_K = weakref.ref(KEPT_K)",
        "OUT = A * REF_K().v",
        (
            "KEPT_K.v = NUM",
            "globals()['KEPT_K'] = new = Plain(NUM); globals()['REF_K'] = weakref.ref(new)",
        ),
        library="Plain",
    ),
    _Special(
        "KEPT_K = Plain(NUM)\nREF_K = weakref.proxy(KEPT_K)",
        "OUT = A * REF_K.v",
        ("KEPT_K.v = NUM",),
        library="Plain",
    ),
    _Special(
        "sys.modules['fg_settings_K@COPY@'] = module('fg_settings_K@COPY@', v=NUM)",
        "import fg_settings_K@COPY@ as settings\nOUT = A * settings.v",
        (
            "sys.modules['fg_settings_K@COPY@'].v = NUM",
            "sys.modules['fg_settings_K@COPY@'] = module('fg_settings_K@COPY@', v=NUM)",
        ),
        close="sys.modules.pop('fg_settings_K@COPY@', None)",
    ),
    _Special(
        "sys.modules['fg_settings_K@COPY@'] = module('fg_settings_K@COPY@', v=NUM)",
        "from fg_settings_K@COPY@ import v\nOUT = A * v",
        ("sys.modules['fg_settings_K@COPY@'].v = NUM",),
        close="sys.modules.pop('fg_settings_K@COPY@', None)",
    ),
    _Special(
        "sys.modules['fg_settings_K@COPY@'] = module('fg_settings_K@COPY@', v=NUM)",
        "OUT = A * sys.modules['fg_settings_K@COPY@'].v",
        ("sys.modules['fg_settings_K@COPY@'].v = NUM",),
        close="sys.modules.pop('fg_settings_K@COPY@', None)",
    ),
    _Special(
        "sys.modules['fg_settings_K@COPY@'] = module('fg_settings_K@COPY@', v=NUM)",
        "OUT = A * importlib.import_module('fg_settings_K@COPY@').v",
        ("sys.modules['fg_settings_K@COPY@'].v = NUM",),
        close="sys.modules.pop('fg_settings_K@COPY@', None)",
    ),
    _Special(
        "builtins.V_K@COPY@ = NUM",
        "OUT = A * V_K@COPY@",
        (
            "builtins.V_K@COPY@ = NUM",
            "globals()['V_K@COPY@'] = NUM",
            "globals().pop('V_K@COPY@', None)",
        ),
        close="vars(builtins).pop('V_K@COPY@', None)",
    ),
    _Special(
        "",
        "OUT = abs(A) * max(0.3, 0.5) + A * min(0.2, 0.1)",
        (
            *("globals()['abs'] = torch.tanh", "globals()['max'] = lambda *w: 0.9"),
            *("globals().pop('abs', None)", "globals()['min'] = lambda *w: 0.7"),
        ),
    ),
    _Special(
        "F.act_K@COPY@ = torch.tanh",
        "OUT = F.act_K@COPY@(A)",
        ("F.act_K@COPY@ = torch.sigmoid", "F.act_K@COPY@ = lambda t: t * NUM"),
        close="vars(F).pop('act_K@COPY@', None)",
    ),
    _Special(
        "other_K = module('other_K', torch=torch)\n"
        "exec('V = NUM\\ndef scale(t, shift=0.1):\\n    return torch.tanh(t) * V + shift', "
        "vars(other_K))",
        "OUT = other_K.scale(A)",
        (
            *("other_K.V = NUM", "other_K.scale.__globals__['V'] = NUM"),
            *("other_K.scale.__defaults__ = (NUM,)", "other_K.scale = lambda t: t * NUM"),
            "other_K.scale.__code__ = (lambda t, shift: t * V - shift).__code__",
        ),
    ),
    _Special(
        "V_K = NUM\n\ndef scale_K(t, shift=NUM, *, by=NUM):\n    return t * V_K * by + shift",
        "OUT = scale_K(A)",
        (
            *_FLIPS,
            *("scale_K.__defaults__ = (NUM,)", "scale_K.__kwdefaults__['by'] = NUM"),
            *("scale_K.__kwdefaults__ = {'by': NUM}", "globals()['scale_K'] = torch.tanh"),
            "scale_K.__code__ = (lambda t, shift, *, by: torch.tanh(t) * by - shift).__code__",
        ),
    ),
    _Special(
        "V_K = NUM\n\ndef scale_K(t):\n    return t * V_K\n\n"
        "def apply_K(function, t):\n    return function(t) * 0.9",
        "OUT = apply_K(scale_K, A)",
        (*_FLIPS, "globals()['scale_K'] = torch.tanh", "globals()['apply_K'] = lambda f, t: f(t)"),
    ),
    _Special(
        "scale_K = types.FunctionType((lambda t: t * W).__code__, {'W': NUM})",
        "OUT = scale_K(A)",
        ("scale_K.__globals__['W'] = NUM",),
    ),
    _Special(
        "TABLE_K = {'soft': torch.sigmoid, 'hard': lambda t: t * NUM, None: F.silu}",
        "OUT = TABLE_K.get(mode, torch.tanh)(A)",
        (
            *("TABLE_K['soft'] = torch.tanh", "TABLE_K[None] = torch.sin"),
            *("TABLE_K['hard'] = lambda t: t * NUM", "TABLE_K.clear()"),
        ),
    ),
    _Special(
        "TABLE_K = {'soft': NUM, 'hard': NUM, 'None': NUM}",
        "OUT = A * TABLE_K.get(f'{mode}', 0.6)",
        ("TABLE_K['soft'] = NUM", "TABLE_K['hard'] = NUM"),
    ),
    _Special(
        "TABLE_K = {torch.float32: NUM, torch.float64: NUM}",
        "OUT = A * TABLE_K[x.dtype]",
        ("TABLE_K[torch.float32] = NUM", "TABLE_K[torch.float64] = NUM"),
    ),
    _Special(
        "TABLE_K = {torch.Tensor: NUM, nn.Parameter: NUM}",
        "OUT = A * TABLE_K[type(x)]",
        ("TABLE_K[torch.Tensor] = NUM",),
    ),
    _Special(
        "TIMES_K = Times(NUM)",
        "OUT = TIMES_K * A",
        ("TIMES_K.factor = NUM", "Times.__mul__ = lambda self, t: torch.tanh(t)"),
        library="Times",
    ),
    _Special(
        "TIMES_K = Times(NUM)",
        "OUT = A * TIMES_K",
        ("TIMES_K.factor = NUM", "Times.__rmul__ = lambda self, t: torch.tanh(t)"),
        library="Times",
    ),
    _Special(
        "TIMES_K = Times(NUM)",
        "OUT = A * 0.5 if TIMES_K else A * 0.9",
        ("TIMES_K.factor = 0.3", "TIMES_K.factor = 1.4"),
        library="Times",
    ),
    _Special(
        "TIMES_K = Times(NUM)",
        "with TIMES_K as w:\n    OUT = A * w",
        ("TIMES_K.factor = NUM",),
        library="Times",
    ),
    _Special(
        "TIMES_K = Times(NUM)",
        "OUT = A * (0.3 + 0.2 * len(TIMES_K)) + float(TIMES_K)",
        ("TIMES_K.factor = NUM",),
        library="Times",
    ),
    _Special(
        "TIMES_K = Times(NUM)",
        "OUT = A * (0.4 if 0.9 in TIMES_K else 0.7)",
        ("TIMES_K.factor = 0.3", "TIMES_K.factor = 1.4"),
        library="Times",
    ),
    _Special(
        "TIMES_K = Times(NUM)",
        "OUT = A * (0.4 if TIMES_K == 0.7 else 0.8)",
        ("TIMES_K.factor = 0.7", "TIMES_K.factor = 1.4"),
        library="Times",
    ),
    _Special(
        "KIND_K = Color.SOFT",
        "OUT = A * KIND_K.value if KIND_K is Color.SOFT else A * KIND_K.twice",
        ("globals()['KIND_K'] = Color.HARD", "Color.HARD._value_ = NUM"),
        library="Color",
    ),
    _Special(
        "KIND_K = 'SOFT'",
        "OUT = A * Color[KIND_K].value * (0.9 if Color(0.7) is Color[KIND_K] else 0.6)",
        ("globals()['KIND_K'] = 'HARD'", "Color.SOFT.extra = 1"),
        library="Color",
    ),
    _Special(
        "class Level_K(enum.IntEnum):\n    TWO = 2\n    THREE = 3\n\nV_K = Level_K.TWO",
        "OUT = torch.tanh(A) ** V_K",
        (
            "globals()['V_K'] = Level_K.THREE",
            "globals()['V_K'] = 2",
            "globals()['V_K'] = 1.5 + 0.5",
        ),
    ),
    _Special(
        "class Degree_K(float):\n    pass\n\nV_K = Degree_K(NUM)",
        "OUT = A * V_K * (0.5 if type(V_K) is float else 0.8)",
        ("globals()['V_K'] = float(V_K)", "globals()['V_K'] = Degree_K(NUM)"),
    ),
    _Special(
        "SHAPE_K = {'kind': 'scale', 'by': NUM}",
        "match SHAPE_K:\n    case {'kind': 'scale', 'by': w}:\n        OUT = A * w\n"
        "    case [w, *_]:\n        OUT = torch.tanh(A) * w\n    case None:\n        OUT = A * 0.3\n"
        "    case str():\n        OUT = torch.sin(A)\n    case _:\n        OUT = A * 0.8",
        (
            *("SHAPE_K['by'] = NUM", "globals()['SHAPE_K'] = [NUM, 2]"),
            *("globals()['SHAPE_K'] = None", "globals()['SHAPE_K'] = 'text'"),
            "globals()['SHAPE_K'] = 3",
        ),
    ),
    _Special(
        "V_K = NUM",
        "OUT = A * w if (w := V_K) > 0.9 else A * 0.5",
        (*_FLIPS, "globals()['V_K'] = 1", "globals()['V_K'] = np.float32(1.1)"),
    ),
    _Special(
        "LIST_K = [NUM, NUM, NUM]",
        "OUT = A * max(LIST_K) - min(LIST_K) * 0.3",
        ("LIST_K.append(1.6)", "LIST_K[0] = 0.2", "LIST_K.pop()"),
    ),
    _Special(
        "LIST_K = [NUM, NUM, NUM]",
        "OUT = A * (sum(LIST_K) / len(LIST_K)) + sorted(LIST_K)[-1] * 0.2",
        ("LIST_K.append(NUM)", "LIST_K[1] = NUM", "LIST_K.pop()"),
    ),
    _Special(
        "LIST_K = [NUM, NUM]",
        "OUT = functools.reduce(lambda t, w: torch.tanh(t) * w, LIST_K, A)",
        ("LIST_K.append(NUM)", "LIST_K[1] = NUM", "LIST_K.clear()"),
    ),
    _Special(
        "LIST_K = [NUM, NUM]",
        "OUT = sum(list(map(lambda w: A * w * 0.3, LIST_K)))",
        ("LIST_K.append(NUM)", "LIST_K[1] = NUM"),
    ),
    _Special(
        "LIST_K = [0.4, 0.9, 1.2]",
        "OUT = sum(A * w * 0.3 for w in LIST_K if w > 0.5)",
        ("LIST_K.append(NUM)", "LIST_K[0] = 0.8", "LIST_K[1] = 0.1"),
    ),
    _Special(
        "LIST_K = [NUM, NUM]",
        "OUT = A\nfor i, (w, v) in enumerate(zip(LIST_K, reversed(LIST_K))):\n"
        "    OUT = OUT * w * 0.7 + v * i * 0.1",
        ("LIST_K.append(NUM)", "LIST_K[1] = NUM", "LIST_K.insert(0, NUM)"),
    ),
    _Special(
        "DICT_K = {'a': [NUM], 'b': [NUM, NUM]}",
        "OUT = A * sum(w for ws in DICT_K.values() for w in ws) * 0.4",
        ("DICT_K['a'].append(NUM)", "DICT_K['c'] = [NUM]", "DICT_K['b'][0] = NUM"),
    ),
    _Special(
        "DICT_K = {'a': NUM, 'b': NUM}",
        "OUT = A * list(DICT_K.values())[0]",
        ("DICT_K['a'] = DICT_K.pop('a')", "DICT_K['b'] = NUM"),
    ),
    _Special(
        "LIST_K = [NUM, NUM]",
        "OUT = A * (0.4 if any(w > 1 for w in LIST_K) else 0.7) * (1.1 if all(LIST_K) else 0.8)",
        ("LIST_K[0] = 1.5", "LIST_K[1] = 0", "LIST_K[0] = 0.2"),
    ),
    _Special(
        "LIST_K = [NUM, NUM, NUM]",
        "first, *rest = LIST_K\nOUT = A * first + rest[-1] * 0.2",
        ("LIST_K.append(NUM)", "LIST_K[0] = NUM", "LIST_K[:] = [NUM, NUM]"),
    ),
    _Special(
        "SET_K = {'soft', 'a'}",
        "OUT = A * (0.4 if mode in SET_K else 0.7) * (0.9 if SET_K & {'b'} else 1.1)",
        ("SET_K.add('b')", "SET_K.discard('soft')", "SET_K.add('hard')"),
    ),
    _Special(
        "OPTIONS_K = {'min': -0.913}",
        "OUT = torch.clamp(A, **OPTIONS_K)",
        ("OPTIONS_K['max'] = 0.777", "OPTIONS_K['min'] = -0.333", "OPTIONS_K.pop('min')"),
    ),
    _Special(
        "ARGS_K = [NUM, NUM]",
        "OUT = (lambda t, *ws: t * sum(ws) * 0.4)(A, *ARGS_K)",
        ("ARGS_K.append(NUM)", "ARGS_K[0] = NUM"),
    ),
    _Special(
        "V_K = NUM",
        "def inner(t, w=V_K):\n    return t * w + V_K\nOUT = inner(A)",
        _FLIPS,
    ),
    _Special(
        "V_K = NUM",
        "w = V_K\ndef inner(t):\n    nonlocal w\n    w = w * 0.5\n    return t * w\n"
        "OUT = inner(A) + w",
        _FLIPS,
    ),
    _Special(
        "LIMIT_K = NUM",
        "if LIMIT_K > 1.7:\n    raise ValueError('above the limit')\nOUT = A * LIMIT_K",
        ("globals()['LIMIT_K'] = 1.8", "globals()['LIMIT_K'] = NUM"),
    ),
    _Special(
        "LIMIT_K = NUM",
        "assert LIMIT_K < 1.7, 'above the limit'\nOUT = A * 0.9",
        ("globals()['LIMIT_K'] = 1.8", "globals()['LIMIT_K'] = NUM"),
    ),
    _Special(
        "class Trouble_K(Exception):\n    pass\n\nLIMIT_K = 0\n\n"
        "def guard_K():\n    if LIMIT_K:\n        raise Trouble_K",
        "try:\n    guard_K()\nexcept Trouble_K:\n    OUT = torch.tanh(A)\nelse:\n    OUT = A * 0.4",
        ("globals()['LIMIT_K'] = 1", "globals()['LIMIT_K'] = 0"),
    ),
    _Special(
        "",
        "try:\n    OUT = A * (n ** -1)\nexcept RuntimeError:\n    OUT = A * 0.3",
    ),
    _Special("", "try:\n    OUT = A * (1 - m)\nexcept RuntimeError:\n    OUT = A * 0.3"),
    _Special(
        "",
        "try:\n    OUT = A * torch.add(n, 1, alpha=0.5)\nexcept RuntimeError:\n    OUT = A * 0.3",
    ),
    _Special("", "try:\n    OUT = A + 'text'\nexcept TypeError:\n    OUT = A * 0.3"),
    _Special("", "try:\n    OUT = A.nothing\nexcept AttributeError:\n    OUT = A * 0.3"),
    _Special("", "try:\n    OUT = torch.tanh(mode)\nexcept TypeError:\n    OUT = A * 0.3"),
    _Special("", "try:\n    OUT = -m * A\nexcept RuntimeError:\n    OUT = A * 0.3"),
    _Special(
        "",
        "OUT = n + 0\ntry:\n    OUT *= 0.5\nexcept RuntimeError:\n    OUT = OUT * 0.25\n"
        "OUT = A * torch.tanh(OUT)",
    ),
    _Special(
        "V_K = 1",
        "OUT = A * (0.3 if type(V_K) is int else 0.6 if type(V_K) is bool else 0.9)",
        ("globals()['V_K'] = True", "globals()['V_K'] = 1.0", "globals()['V_K'] = np.float64(1)"),
    ),
    _Special(
        "V_K = (1, 2)",
        "OUT = A * (0.3 if V_K[0] is True else 0.6)",
        ("globals()['V_K'] = (True, 2)", "globals()['V_K'] = (1.0, 2)"),
    ),
    _Special(
        "V_K = 0.0",
        "OUT = A * math.copysign(0.7, V_K)",
        ("globals()['V_K'] = -0.0", "globals()['V_K'] = 0.0", "globals()['V_K'] = 0"),
    ),
    _Special(
        "V_K = NUM\nU_K = V_K",
        "OUT = A * (0.4 if V_K is U_K else 0.8)",
        ("globals()['V_K'] = float(str(V_K))", "globals()['U_K'] = V_K"),
    ),
    _Special(
        "V_K = 'ab'\nU_K = 'ab'",
        "OUT = A * (0.4 if V_K is U_K else 0.8) * (1.1 if V_K == U_K else 0.9)",
        ("globals()['V_K'] = ''.join(['a', 'b'])", "globals()['U_K'] = 'c'"),
    ),
    _Special(
        "class Same_K:\n    def __init__(self, v):\n        self.v = v\n\n"
        "    def __eq__(self, other):\n        return True\n\n"
        "    def __hash__(self):\n        return 1\n\nSAME_K = Same_K(NUM)\nHELD_K = {SAME_K: NUM}",
        "OUT = A * SAME_K.v * HELD_K[SAME_K]",
        ("globals()['SAME_K'] = Same_K(NUM)", "SAME_K.v = NUM", "HELD_K[Same_K(1)] = NUM"),
    ),
    _Special(
        "V_K = math.inf",
        "OUT = A.clamp(max=V_K) * 0.9",
        ("globals()['V_K'] = 0.777", "globals()['V_K'] = math.inf", "globals()['V_K'] = 1"),
    ),
    _Special(
        "V_K = NUM",
        "OUT = A * sys._getframe().f_globals['V_K']",
        _FLIPS,
    ),
    _Special("V_K = NUM", "OUT = A * eval('V_K * 0.9')", _FLIPS),
    _Special("V_K = NUM", "w = V_K\nOUT = A * locals()['w']", _FLIPS),
    _Special("V_K = NUM", "OUT = A * globals()['V_K']", _FLIPS),
    _Special("V_K = NUM", "OUT = A * vars(sys.modules[__name__])['V_K']", _FLIPS),
    _Special(
        "FLAG_K = True",
        "before = torch.is_grad_enabled()\ntorch.set_grad_enabled(FLAG_K)\nOUT = A * B * 0.3\n"
        "torch.set_grad_enabled(before)",
        ("globals()['FLAG_K'] = False", "globals()['FLAG_K'] = True"),
    ),
    _Special(
        "FLAG_K = True",
        "with torch.set_grad_enabled(FLAG_K):\n    OUT = A * torch.tanh(x)",
        ("globals()['FLAG_K'] = False", "globals()['FLAG_K'] = 0 == 0"),
    ),
    _Special(
        "GUARD_K = torch.no_grad()",
        "with GUARD_K:\n    OUT = A * torch.tanh(x)\nOUT = OUT + x * 0.2",
        (
            "globals()['GUARD_K'] = contextlib.nullcontext()",
            "globals()['GUARD_K'] = torch.no_grad()",
        ),
    ),
    _Special(
        "@contextlib.contextmanager\ndef maybe_K():\n    with torch.set_grad_enabled(V_K > 1):\n"
        "        yield 0.7\n\nV_K = NUM",
        "with maybe_K() as w:\n    OUT = A * w * torch.tanh(x)",
        ("globals()['V_K'] = 0.5", "globals()['V_K'] = 1.5"),
    ),
    _Special(
        "@torch.no_grad()\ndef frozen_K(t):\n    return torch.sigmoid(t) * V_K\n\nV_K = NUM",
        "OUT = frozen_K(A) * A + torch.tanh(x) * 0.2",
        (*_FLIPS, "globals()['frozen_K'] = torch.enable_grad()(torch.tanh)"),
    ),
    _Special(
        "@torch.no_grad()\ndef frozen_K(t):\n    with torch.enable_grad():\n"
        "        return torch.sigmoid(t) * 0.7",
        "OUT = frozen_K(A) * A",
        ("globals()['frozen_K'] = torch.tanh",),
    ),
    _Special(
        "",
        "guard = torch.no_grad()\nguard.__enter__()\nOUT = torch.tanh(A)\n"
        "guard.__exit__(None, None, None)\nOUT = OUT * A",
    ),
    _Special(
        "",
        "OUT = A + B\nwith torch.no_grad():\n    OUT *= 0.7\nOUT = OUT * 0.5",
    ),
    _Special("", "OUT = (A * 0.7).detach() * B * 0.3 + torch.detach(A)"),
    _Special("", "with torch.no_grad():\n    w = torch.sigmoid(A)\nOUT = w * A"),
    _Special(
        "",
        "with torch.no_grad(), torch.enable_grad():\n    OUT = torch.sigmoid(A) * x",
    ),
    _Special(
        "_V_K = {'a': Plain({'b': [NUM, NUM]})}",
        "OUT = A * operator.itemgetter('b')(operator.attrgetter('v')(_V_K['a']))[1]",
        (
            "_V_K['a'].v['b'][1] = NUM",
            "_V_K['a'].v = {'b': [NUM, NUM]}",
            "_V_K['a'] = Plain({'b': (NUM, NUM)})",
        ),
        library="Plain",
    ),
    _Special(
        "scale_K = scaled_by(NUM)",
        "OUT = scale_K(A)",
        ("globals()['scale_K'] = scaled_by(NUM)", "scale_K.__closure__[0].cell_contents = NUM"),
        library="scaled_by",
    ),
    _Special(
        "ACTS_K = [torch.tanh, lambda t: t * NUM]",
        "OUT = A\nfor act in ACTS_K:\n    OUT = act(OUT)",
        ("ACTS_K.append(torch.sigmoid)", "ACTS_K[1] = lambda t: t * NUM", "ACTS_K.reverse()"),
    ),
    _Special(
        "ACTS_K = {'a': torch.tanh, 'b': torch.sigmoid}",
        "OUT = sum(act(A) for name, act in sorted(ACTS_K.items()))",
        ("ACTS_K['c'] = torch.sin", "ACTS_K['a'] = torch.cos", "ACTS_K.pop('b')"),
    ),
    _Special(
        "DEPTH_K = 2",
        "OUT = rec(A, DEPTH_K)",
        (
            "globals()['DEPTH_K'] = 1",
            "globals()['DEPTH_K'] = 3",
            "globals()['rec'] = lambda t, d: t * 0.3",
        ),
        library="rec",
    ),
    _Special(
        "inner_K = fuse(lambda t, w=0.7: torch.tanh(t * w) * V_K)\nV_K = NUM",
        "OUT = inner_K(A) + inner_K(B, 0.4)",
        (*_FLIPS, "globals()['inner_K'] = fuse(lambda t, w=0.3: t * w)"),
    ),
    _Special(
        "@fuse\ndef inner_K(t):\n    with torch.no_grad():\n        w = torch.sigmoid(t)\n"
        "    return w * t",
        "OUT = inner_K(A)",
        ("globals()['inner_K'] = fuse(lambda t: t * 0.6)",),
    ),
    _Special(
        "class Own_K:\n    def __init__(self):\n        self.v = NUM\n\n    @fuse\n"
        "    def act(self, t):\n        return torch.tanh(t) * self.v\n\nOWN_K = Own_K()",
        "OUT = OWN_K.act(A)",
        ("OWN_K.v = NUM", "Own_K.act = lambda self, t: t * 0.7", "globals()['OWN_K'] = Own_K()"),
    ),
    _Special(
        "def both_K(t):\n    return torch.sin(t), torch.cos(t)",
        "one, two = both_K(A)\nOUT = one * two",
        ("globals()['both_K'] = lambda t: [t, t * 0.5]",),
    ),
    _Special(
        "V_K = NUM",
        "OUT = A * (0.4 if time.perf_counter() > 0 else 0.7) * V_K",
        _FLIPS,
    ),
    _Special(
        "V_K = NUM",
        "OUT = A * math.sqrt(V_K) + round(V_K, 1) * 0.2 + abs(-V_K) // 1 - divmod(V_K, 0.5)[1]",
        (*_FLIPS, "globals()['V_K'] = 2", "globals()['V_K'] = np.float32(0.75)"),
    ),
    _Special(
        "V_K = NUM",
        "OUT = A * float(f'{V_K:.2f}') + int(V_K * 4) * 0.1 + len(str(V_K)) * 0.01",
        (*_FLIPS, "globals()['V_K'] = 1.23456"),
    ),
    _Special(
        "",
        "OUT = A.to(torch.get_default_dtype()) * 0.7",
        ("torch.set_default_dtype(torch.float64)", "torch.set_default_dtype(torch.float32)"),
    ),
    _Special(
        "",
        "OUT = torch.sigmoid(n * 0.3) * A + (n / 7) * 0.1",
        ("torch.set_default_dtype(torch.float64)", "torch.set_default_dtype(torch.float32)"),
    ),
    _Special(
        "def sub_K(t):\n    return t * (0.4 if torch.is_grad_enabled() else 0.9)",
        "with torch.no_grad():\n    w = sub_K(A)\nOUT = w + sub_K(A)",
    ),
)

# ------------------------------------------------------------------------------ writing a program

_TARGETS = (
    *("function", "function", "function", "lambda", "method", "callable", "module", "partial"),
    *("static", "class method", "wrapped", "decorated", "decorated method", "generic"),
)
_SIGNATURES = (
    "plain",
    "plain",
    "plain",
    "stars",
    "batch",
    "record",
    "dict",
    "list",
    "keyword only",
)


class _Writer:
    """Draws a program and writes it down."""

    def __init__(self, number: int) -> None:
        self.rng = random.Random(SEED * 1_000_003 + number)
        self.number = number
        self.count = 0
        self.library: list[str] = []
        self.definitions: list[str] = []
        self.base_lines: list[str] = []
        self.class_lines: list[str] = []
        self.init_lines: list[str] = []
        self.cells: list[tuple[str, str]] = []
        self.defaults: list[tuple[str, str]] = []
        self.keyword_defaults: list[tuple[str, str]] = []
        self.passed: list[tuple[str, str]] = []  # parameters, and the globals passed for them
        self.bound: list[tuple[str, str]] = []  # parameters that a partial gives
        self.body: list[str] = []
        self.changes: list[str] = []
        self.tensors: list[str] = []
        self.probes: list[str] = []
        self.close: list[str] = []
        self.features: set[str] = set()
        self.floats = ["x", "y"]
        self.ints = ["n"]
        self.bools = ["m"]
        self.unread: list[str] = []  # names whose values have not been used yet
        self.target = self.rng.choice(_TARGETS)
        self.signature = self.rng.choice(_SIGNATURES)
        if self.target in ("lambda", "partial", "generic"):
            self.signature = "plain"
        self.own = self.target in ("method", "callable", "module", "decorated method")
        self.under = {
            "method": "Gate.f",
            "callable": "Gate.__call__",
            "module": "Gate.forward",
            "static": "Gate.f",
        }.get(self.target, "f")
        self.open = self.target not in ("decorated", "decorated method", "wrapped", "class method")
        self.integers = self.rng.random() < 0.55
        self.float = self.rng.choice(("torch.float64", "torch.float64", "torch.float32"))

    # ------------------------------------------------------------------------------ small things

    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    def fresh(self, stem: str) -> str:
        self.count += 1
        return f"{stem}_{self.count}"

    def need(self, names: str) -> None:
        for name in names.split():
            if name not in self.library:
                self.library.append(name)

    def number_text(self) -> str:
        """A Python number between 0.4 and 3."""
        kind = self.rng.random()
        value = f"{self.rng.uniform(0.4, 1.6):.3f}"
        if kind < 0.72:
            return value
        if kind < 0.84:
            return self.rng.choice("123")
        if kind < 0.88:
            return "True"
        return f"np.{self.rng.choice(('float32', 'float64'))}({value})"

    def float_text(self) -> str:
        return f"{self.rng.uniform(0.4, 1.6):.3f}"

    def tensor_text(self) -> str:
        shape = self.rng.choice(("()", "()", "(3,)", "(2, 3)", "(1,)"))
        seed = self.rng.randrange(1000)
        kind = self.rng.random()
        dtype = self.float
        if kind < 0.15:
            dtype = self.rng.choice(("torch.int64", "torch.int32", "torch.bool"))
            return f"tensor({seed}, {shape}, {dtype})"
        if kind < 0.3:
            dtype = self.rng.choice(("torch.float32", "torch.float64"))
        made = f"tensor({seed}, {shape}, {dtype}, {self.chance(0.5)})"
        return f"nn.Parameter(tensor({seed}, {shape}, {dtype}))" if self.chance(0.2) else made

    def filled(self, text: str, key: int) -> str:
        """With names and numbers of its own."""
        text = re.sub(r"\b_K\b", str(key), text)
        text = re.sub(r"_K(?![A-Za-z0-9_])", f"_{key}", text)
        text = re.sub(r"\bFLOAT\b", self.float, text)
        return re.sub(r"\bNUM\b", lambda _: self.float_text(), text)

    def with_operands(self, text: str) -> str:
        """With names of values in place of A, B (float), I, J (integer), C, D (bool)."""
        a, b = self.pick(self.floats), self.pick(self.floats)
        if a == b and len(self.floats) > 1:
            b = self.rng.choice([name for name in self.floats if name != a])
        i, j = self.pick(self.ints), self.pick(self.ints)
        c, d = self.pick(self.bools), self.pick(self.bools)
        names = {"A": a, "B": b, "I": i, "J": j, "C": c, "D": d}

        def named(match: re.Match[str]) -> str:
            name = names[match.group()]
            if name in self.unread:
                self.unread.remove(name)
            return name

        if "GATE" in text:
            self.need_gate()
        return re.sub(r"(?<!['.\w])[ABIJCD](?!['\w])", named, text)

    def pick(self, names: list[str]) -> str:
        waiting = [name for name in names if name in self.unread]
        return self.rng.choice(waiting if waiting and self.chance(0.6) else names)

    def need_gate(self) -> None:
        text = "GATE = fuse(lambda a, b: torch.sigmoid(a) * b * 0.5)"
        if text not in self.definitions:
            self.definitions.append(text)

    def add(self, statement: str, stem: str = "v", pool: list[str] | None = None) -> str:
        """A statement that makes OUT."""
        name = self.fresh(stem)
        text = re.sub(r"\bOUT\b", name, self.with_operands(statement))
        self.body += text.split("\n")
        (self.floats if pool is None else pool).append(name)
        self.unread.append(name)
        return name

    # -------------------------------------------------------------------------------------- state

    def root(self, initial: str) -> _Place:
        """A place outside the function, holding `initial` at first."""
        key = self.fresh("")[1:]
        name = f"g_{key}"
        options = ["global", "global", "globals()", "closure", "argument", "function attribute"]
        options += [
            "alias",
            "builtins",
            "imported",
            "other module",
            "class",
            "getter",
            "default box",
        ]
        if self.own:
            options += ["self", "self", "self", "base", "super", "type(self)", "own getter"]
            options += ["property", "slot class", "dict of self"]
        if self.target in ("function", "callable", "method", "generic", "partial"):
            options += ["cell", "cell", "cell"]
        if self.open:
            options += ["default", "default"]
            if self.signature != "stars":
                options.append("keyword default")
        if self.target == "partial":
            options += ["bound", "bound", "bound"]
        kind = self.rng.choice(options)
        define = self.definitions.append
        if kind in ("global", "globals()"):
            define(f"{name} = {initial}")
            read = name if kind == "global" else f"globals()['{name}']"
            return _Place(read, name, f"globals()['{name}'] = NEW")
        if kind == "closure":
            self.need("box")
            define(f"get_{key}, put_{key} = box({initial})")
            return _Place(f"get_{key}()", f"get_{key}()", f"put_{key}(NEW)")
        if kind == "argument":
            define(f"{name} = {initial}")
            self.passed.append((f"a_{key}", name))
            return _Place(f"a_{key}", name, f"globals()['{name}'] = NEW")
        if kind == "function attribute":
            define(f"def holder_{key}():\n    return holder_{key}.v\n\nholder_{key}.v = {initial}")
            read = self.rng.choice((f"holder_{key}.v", f"holder_{key}()"))
            return _Place(read, f"holder_{key}.v", f"holder_{key}.v = NEW")
        if kind == "alias":
            define(f"class Config_{key}:\n    v = {initial}")
            self.body.append(f"alias_{key} = Config_{key}")
            return _Place(f"alias_{key}.v", f"Config_{key}.v", f"Config_{key}.v = NEW")
        if kind == "class":
            define(
                f"class Above_{key}:\n    v = {initial}\n\nclass Config_{key}(Above_{key}):\n"
                f"    pass\n\nmade_{key} = Config_{key}()"
            )
            read = self.rng.choice((f"Config_{key}.v", f"made_{key}.v", f"type(made_{key}).v"))
            owner = self.rng.choice((f"Config_{key}", f"Above_{key}", f"made_{key}"))
            return _Place(read, read, f"{owner}.v = NEW")
        if kind == "builtins":
            name = f"b_{key}_@COPY@"
            define(f"builtins.{name} = {initial}")
            self.close.append(f"vars(builtins).pop('{name}', None)")
            return _Place(name, f"builtins.{name}", f"builtins.{name} = NEW")
        if kind == "imported":
            name = f"fg_state_{key}_@COPY@"
            define(f"sys.modules['{name}'] = module('{name}', v={initial})")
            self.close.append(f"sys.modules.pop('{name}', None)")
            self.body.append(f"import {name} as m_{key}")
            place = f"sys.modules['{name}'].v"
            return _Place(f"m_{key}.v", place, f"{place} = NEW")
        if kind == "other module":
            define(
                f"other_{key} = module('other_{key}', V={initial})\n"
                f"exec('def get():\\n    return V', vars(other_{key}))"
            )
            return _Place(f"other_{key}.get()", f"other_{key}.V", f"other_{key}.V = NEW")
        if kind == "getter":
            define(f"{name} = {initial}\n\ndef get_{key}():\n    return {name}")
            return _Place(f"get_{key}()", name, f"globals()['{name}'] = NEW")
        if kind == "default box":
            define(f"def get_{key}(v={initial}):\n    return v")
            place = f"get_{key}.__defaults__[0]"
            return _Place(f"get_{key}()", place, f"get_{key}.__defaults__ = (NEW,)")
        if kind == "cell":
            self.cells.append((f"c_{key}", initial))
            write = f"PUT('c_{key}', NEW)"
            if self.target == "function" and self.chance(0.3):
                place = f"f.__closure__[f.__code__.co_freevars.index('c_{key}')]"
                write = f"{place}.cell_contents = NEW"
            return _Place(f"c_{key}", f"GET('c_{key}')", write)
        if kind == "default":
            self.defaults.append((f"d_{key}", initial))
            place = f"get_default({self.under}, 'd_{key}')"
            return _Place(f"d_{key}", place, f"set_default({self.under}, 'd_{key}', NEW)")
        if kind == "keyword default":
            self.keyword_defaults.append((f"k_{key}", initial))
            place = f"{self.under}.__kwdefaults__['k_{key}']"
            write = f"{place} = NEW"
            if self.chance(0.5):
                held = f"{self.under}.__kwdefaults__"
                write = f"{held} = {{**{held}, 'k_{key}': NEW}}"
            return _Place(f"k_{key}", place, write)
        if kind == "bound":
            self.bound.append((f"p_{key}", initial))
            place = f"PARTIAL.keywords['p_{key}']"
            return _Place(f"p_{key}", place, f"{place} = NEW")
        return self.own_root(kind, key, initial)

    def own_root(self, kind: str, key: str, initial: str) -> _Place:
        """A place that the function reaches through `self`."""
        if kind == "self":
            self.init_lines.append(f"self.a_{key} = {initial}")
            place = f"OBJ.a_{key}"
            write = self.rng.choice(
                (
                    f"{place} = NEW",
                    f"{place} = NEW",
                    f"setattr(OBJ, 'a_{key}', NEW)",
                    f"object.__setattr__(OBJ, 'a_{key}', NEW)",
                )
            )
            read = self.rng.choice((f"self.a_{key}", f"self.a_{key}", f"getattr(self, 'a_{key}')"))
            return _Place(read, place, write)
        if kind == "dict of self":
            self.init_lines.append(f"vars(self)['a_{key}'] = {initial}")
            place = f"vars(OBJ)['a_{key}']"
            return _Place(f"self.__dict__['a_{key}']", place, f"{place} = NEW")
        if kind == "base":
            self.base_lines.append(f"a_{key} = {initial}")
            owner = self.rng.choice(("Base", "Middle", "Gate", "OBJ"))
            return _Place(f"self.a_{key}", f"OBJ.a_{key}", f"{owner}.a_{key} = NEW")
        if kind == "super":
            self.base_lines.append(f"a_{key} = {initial}")
            owner = self.rng.choice(("Base", "Middle", "Gate"))
            read = self.rng.choice((f"super().a_{key}", f"super(Gate, self).a_{key}"))
            return _Place(read, f"Base.a_{key}", f"{owner}.a_{key} = NEW")
        if kind == "type(self)":
            self.class_lines.append(f"a_{key} = {initial}")
            read = self.rng.choice(
                (f"type(self).a_{key}", f"self.__class__.a_{key}", f"Gate.a_{key}")
            )
            return _Place(read, f"Gate.a_{key}", f"Gate.a_{key} = NEW")
        self.init_lines.append(f"self.a_{key} = {initial}")
        place = f"OBJ.a_{key}"
        name = f"get_{key}"
        if kind == "property":
            self.class_lines.append(f"@property\ndef {name}(self):\n    return self.a_{key}")
            return _Place(f"self.{name}", place, f"{place} = NEW")
        if kind == "slot class":
            self.class_lines.append(
                f"@functools.cached_property\ndef {name}(self):\n    return self.a_{key}"
            )
            clear = f"; vars(OBJ).pop('{name}', None)"
            return _Place(f"self.{name}", place, f"{place} = NEW{self.rng.choice(('', clear))}")
        self.class_lines.append(f"def {name}(self):\n    return self.a_{key}")
        write = self.rng.choice(
            (f"{place} = NEW", f"Gate.{name} = lambda self: NEW", f"OBJ.{name} = lambda: NEW")
        )
        return _Place(f"self.{name}()", place, write)

    def held(self, initial: str, new: Callable[[], str], plain: bool) -> _Place:
        """A place inside up to two containers inside a root; `plain` for a Python float."""
        containers: list[Any] = []
        for _ in range(self.rng.choice((0, 1, 1, 1, 2))):
            leaf_too = plain and not containers
            options = [c for c in _CONTAINERS if leaf_too or not c.leaf]
            containers.append(self.rng.choice(options))
        for container in containers:
            self.need(container.library)

        def made(text: str, outer: Sequence[_Container]) -> str:
            return functools.reduce(lambda t, c: c.make.replace("INNER", t), outer, text)

        place = self.root(made(initial, containers))
        if self.chance(0.7):
            text = made(new(), containers)
            self.changes.append(place.write.replace("NEW", text))
        for depth in range(len(containers) - 1, -1, -1):
            container = containers[depth]
            for write in self.rng.sample(container.writes, min(2, len(container.writes))):
                text = made(new(), containers[:depth])
                change = write.replace("NEW", text).replace("OWNER", place.path)
                self.changes.append(change)
            read = self.rng.choice(container.reads)
            place = _Place(
                read.replace("OWNER", place.read),
                container.reads[0].replace("OWNER", place.path),
                "",
            )
        return place

    def state(self) -> None:
        """Something read from outside, by a statement of the function, and changes of it."""
        kind = self.rng.random()
        if kind < 0.36:
            self.special()
        elif kind < 0.43:
            self.net()
        elif kind < 0.63:
            self.number_state()
        elif kind < 0.76:
            self.tensor_state()
        elif kind < 0.88:
            self.callable_state()
        elif kind < 0.94:
            self.branch_state()
        else:
            self.sequence_state()

    def number_state(self) -> None:
        initial = self.number_text()
        place = self.held(initial, self.number_text, plain=True)
        uses = (
            *("A * S", "S * A", "A + S", "S - A", "A / (S + 0.5)", "torch.tanh(A) + S * 0.5"),
            *(
                "torch.sigmoid(A) ** S",
                "torch.add(A, B, alpha=float(S)) * 0.4",
                "S / (1.5 + A * A)",
            ),
            *("torch.clamp(A, -float(S), float(S))", "F.softplus(A, beta=float(S)) * 0.5"),
            *("torch.where(A > B, A, S)", "fusedgrad.pow(1 + torch.sigmoid(A), S) * 0.3"),
            *("A * S if S > 1 else A * (1 - S / 2)", "A * math.sqrt(S)", "A * min(S, 1.0)"),
            *(
                "torch.mul(A, S)",
                "A * round(float(S), 1)",
                "torch.clamp(A, max=S)",
                "A.clamp(min=-S)",
            ),
            *(
                "torch.tanh(A * S)",
                "torch.pow(1.2 + torch.cos(A), S) * 0.2",
                "(A * 0.2 + 1) ** S * 0.3",
            ),
            *("A * 0.3 if isinstance(S, float) else A * 0.6", "A * (0.4 if S == 1 else 0.7)"),
            "torch.exp(-A * A * S)",
        )
        use = self.rng.choice(uses).replace("S", place.read)
        use = re.sub(r"-True\b", "-1", use)
        self.add(
            f"OUT = torch.tanh({use}) if {self.chance(0.3)} else {use}"
            if self.chance(0.1)
            else f"OUT = {use}"
        )

    def tensor_state(self) -> None:
        def new() -> str:
            return self.number_text() if self.chance(0.12) else self.tensor_text()

        place = self.held(self.tensor_text(), new, plain=False)
        uses = (
            *(
                "A * S",
                "S * A * 0.5",
                "A + S",
                "S - A",
                "torch.tanh(A + S)",
                "torch.where(A > B, A, S)",
            ),
            *("(1 + torch.sigmoid(A)) ** S * 0.2", "A / (S * S + 1)", "torch.mul(A, S) * 0.6"),
            *(
                "A * S if isinstance(S, nn.Parameter) else A + S",
                "torch.tanh(A) * torch.sigmoid(S)",
            ),
            *("A * S if S is x else A - S", "A * (0.5 if S.requires_grad else 0.9) + S * 0.1"),
            "A * (0.4 if S.dtype is torch.float32 else 0.8) + S * 0.1",
            "torch.maximum(A, S * 0.5)",
        )
        self.add(f"OUT = {self.rng.choice(uses).replace('S', place.read)}")
        path = place.path
        self.tensors.append(path)
        changes = (
            f"with torch.no_grad():\n    {path}.mul_({self.float_text()})",
            f"with torch.no_grad():\n    {path}.copy_(torch.tensor({self.float_text()}))",
            f"{path}.data = {self.tensor_text().replace(', True)', ')')}",
            f"{path}.data.fill_({self.float_text()})",
            f"{path}.requires_grad_(not {path}.requires_grad)",
            f"{path}.requires_grad_(False)",
            f"{path}.detach().add_(1)",
        )
        self.changes += self.rng.sample(changes, self.rng.choice((0, 1, 2)))

    def callable_text(self) -> tuple[str, tuple[str, ...]]:
        text, library, changes = self.rng.choice(_CALLABLES)
        self.need(library)
        return text, changes

    def callable_state(self) -> None:
        text, changes = self.callable_text()
        place = self.held(text, lambda: self.callable_text()[0], plain=False)
        self.changes += [
            change.replace("PATH", place.path)
            for change in self.rng.sample(changes, min(2, len(changes)))
        ]
        call = f"({place.read})" if place.read.endswith("()") or " " in place.read else place.read
        uses = (
            "CALL(A)",
            "CALL(A) + CALL(B)",
            "CALL(A * 0.5)",
            "list(map(CALL, [A, B]))[0]",
            "CALL(CALL(A))",
            "(CALL(A) if callable(CALL) else A)",
        )
        self.add(f"OUT = {self.rng.choice(uses).replace('CALL', call)}")

    def branch_state(self) -> None:
        values = self.rng.choice((_FLAGS, _MODES))

        def new() -> str:
            return self.rng.choice(values)

        place = self.held(new(), new, plain=False)
        tests = (
            "S",
            "not S",
            "S is None",
            "S == 'soft'",
            "S in ('soft', 1)",
            "isinstance(S, str)",
            "S or mode == 'soft'",
            "S and x.requires_grad",
            "type(S) is int",
            "S != 'hard'",
            "bool(S) is True",
            "S is True",
        )
        self.branch(self.rng.choice(tests).replace("S", place.read))

    def branch(self, test: str) -> None:
        first, second = self.rng.sample(_UNARY, 2)
        if self.chance(0.3):
            self.add(f"OUT = {first} if {test} else {second}")
            return
        before = self.rng.choice(("", "OUT = A * 0.5\n"))
        self.add(f"{before}if {test}:\n    OUT = {first}\nelse:\n    OUT = {second}")

    def sequence_state(self) -> None:
        def new() -> str:
            return self.rng.choice(_SEQUENCES)

        place = self.held(new(), new, plain=False)
        path = place.path
        self.changes += self.rng.sample(
            (
                f"{path}.append({self.float_text()})",
                f"{path}[0] = {self.float_text()}",
                f"{path}.pop()",
                f"{path}['a'] = {self.float_text()}",
                f"{path}.insert(0, {self.float_text()})",
            ),
            2,
        )
        numbers = f"[w if isinstance(w, (int, float)) else 0.5 for w in {place.read}]"
        uses = (
            f"OUT = A\nfor w in {numbers}:\n    OUT = torch.tanh(OUT * w) + 0.1 * w",
            f"OUT = sum([A * w * 0.3 for w in {numbers}])",
            f"OUT = A * len({place.read}) * 0.4",
            f"OUT = A * (0.3 + 0.2 * max({numbers}))",
            f"OUT = A\nfor i, w in enumerate({numbers}):\n    OUT = OUT * w * 0.5 + i * 0.1",
        )
        self.add(self.rng.choice(uses))

    def special(self) -> None:
        options = [s for s in _SPECIALS if self.own or not s.own]
        special = self.rng.choice(options)
        self.count += 1
        key = self.count
        self.need(special.library)
        if special.definitions:
            self.definitions.append(self.filled(special.definitions, key))
        changes = self.rng.sample(special.changes, min(3, len(special.changes)))
        self.changes += [self.filled(change, key) for change in changes]
        self.probes += [self.filled(probe, key) for probe in special.probes]
        if special.close:
            self.close.append(self.filled(special.close, key))
        self.add(self.filled(special.statement, key))

    def net(self) -> None:
        """A module that the program holds, and what may be done to one."""
        self.count += 1
        key = self.count
        text = _NET.replace("BODY", self.rng.choice(_NET_BODIES))
        self.definitions.append(self.filled(text.strip(), key))
        for change in self.rng.sample(_NET_CHANGES, 4):
            self.changes.append(self.filled(change, key))
        self.tensors += [f"*NET_{key}.parameters()"]
        self.add(f"OUT = NET_{key}(A)")

    # --------------------------------------------------------------------------------------- body

    def statement(self) -> None:
        """A statement without state."""
        kind = self.rng.random()
        if kind < 0.22:
            self.add(f"OUT = {self.rng.choice(_UNARY)}")
        elif kind < 0.42:
            self.add(f"OUT = {self.rng.choice(_BINARY)}")
        elif kind < 0.55:
            self.branch(self.with_operands(self.rng.choice(_QUESTIONS)))
        elif kind < 0.66:
            self.region()
        elif kind < 0.76:
            self.in_place()
        elif self.integers:
            self.integer_statement()
        else:
            self.add(f"OUT = {self.rng.choice(_UNARY)}")

    def integer_statement(self) -> None:
        kind = self.rng.random()
        if kind < 0.2 and len(self.ints) < 4:
            self.add(f"OUT = {self.rng.choice(_INT_UNARY)}", "i", self.ints)
        elif kind < 0.4 and len(self.ints) < 4:
            self.add(f"OUT = {self.rng.choice(_INT_BINARY)}", "i", self.ints)
        elif kind < 0.6:
            self.add(f"OUT = {self.rng.choice(_BOOL)}", "b", self.bools)
        else:
            self.add(f"OUT = {self.rng.choice(_MIXED)}")

    def region(self) -> None:
        region = self.rng.choice(_REGIONS)
        if region == "torch.inference_mode()" and self.chance(0.6):
            region = "torch.no_grad()"
        inside = self.rng.choice(
            (
                f"with {region}:\n    OUT = {self.rng.choice(_UNARY)}",
                f"with {region}:\n    w = {self.rng.choice(_UNARY)}\nOUT = w + A * 0.3",
                f"with {region}:\n    w = torch.sigmoid(A)\nOUT = w * A",
                f"with {region}:\n    w = A * 0.7\n    with {self.rng.choice(_REGIONS)}:\n"
                "        w = w * 0.5 + B\nOUT = w * 0.5",
                f"with {region}:\n    OUT = torch.tanh(A)\nOUT = OUT.detach() * B",
            )
        )
        self.add(inside)

    def in_place(self) -> None:
        number = self.float_text()
        start = self.rng.choice(
            (
                "OUT = A + B",
                f"OUT = A * {number}",
                f"OUT = A - {number}",
                "OUT = A.clone()",
                "OUT = A * 1",
            )
        )
        steps = (
            "OUT += B",
            f"OUT *= {number}",
            f"OUT.add_(B, alpha={number})",
            "OUT.neg_()",
            f"OUT.sub_({number})",
            f"OUT.div_({number})",
            "OUT -= B * 0.5",
            f"torch.Tensor.mul_(OUT, {number})",
            "OUT.add_(m)",
            "OUT.mul_(0.5).add_(0.1)",
            f"alias = OUT\nalias += {number}",
            f"with torch.no_grad():\n    OUT *= {number}",
            "OUT /= 2",
            "OUT.copy_(A * 0.4)",
            "OUT = operator.iadd(OUT, B)",
            "OUT.fill_(0.4)",
            "OUT.mul_(m)",
            "OUT.add_(n, alpha=0.1)",
        )
        ends = (
            "OUT.sigmoid_()",
            "torch.sigmoid_(OUT)",
            "OUT.tanh_()",
            "OUT.clamp_(-1.371, 1.219)",
            "F.relu(OUT, inplace=True)",
            "OUT.relu_()",
            "OUT.sin_()",
            "F.silu(OUT, inplace=True)",
            "OUT.abs_()",
            "OUT.square_()\nOUT = OUT * 0.2",
            "torch.tanh_(OUT)",
            "OUT.clamp_(min=-0.9)",
            "OUT.erf_()",
            "OUT.pow_(2)\nOUT = OUT * 0.2",
            "OUT *= torch.tanh(B)",
        )
        middle = self.rng.sample(steps, self.rng.choice((1, 1, 2)))
        end = [self.rng.choice(ends)] if self.chance(0.6) else []
        self.add("\n".join([start, *middle, *end]))

    def beyond(self) -> None:
        """A statement that fuse may refuse."""
        statement, feature = self.rng.choice(_BEYOND_STATEMENTS)
        self.features.add(feature)
        if "SEEN" in statement:
            self.definitions.append(f"SEEN = tensor(5, (), {self.float})")
            self.changes.append("SEEN.mul_(0.7)")
            self.probes.append("SEEN.item()")
        for name in ("Straight", "scripted"):
            if name in statement:
                self.need(name)
        self.add(statement)

    # ----------------------------------------------------------------------------------- the text

    def program(self) -> Program:
        for _ in range(self.rng.choice((0, 1, 2))):
            self.statement()
        states = self.rng.choice((1, 1, 2, 2, 3))
        for _ in range(states):
            self.state()
            for _ in range(self.rng.choice((0, 1, 1, 2))):
                self.statement()
        if self.chance(0.15):
            self.beyond()
        result = self.result()
        calls_seed = self.rng.randrange(2**30)
        self.rng.shuffle(self.changes)
        self.changes = self.changes[:5]
        source = self.text(result)
        phases = self.calls(random.Random(calls_seed))
        if any(call.attribute for phase in phases for call in phase):
            self.features.add("tensor attribute")
        return Program(self.number, source, frozenset(self.features), len(self.changes), phases)

    def result(self) -> str:
        """The function's result: everything that was not used, together."""
        floats = [name for name in self.floats if name in self.unread] or [self.floats[-1]]
        loose = [name for name in (*self.ints, *self.bools) if name in self.unread]
        terms = [
            name if i == 0 else f"{name} * {0.9 - 0.1 * i:.1f}" for i, name in enumerate(floats)
        ]
        terms += [f"torch.tanh({name} * 0.1)" for name in loose]
        total = " + ".join(terms)
        kind = self.rng.random()
        if kind < 0.8:
            return total
        last, first = floats[-1], self.floats[0]
        if kind < 0.86:
            return f"({total}, torch.tanh({last}))"
        if kind < 0.89:
            return f"[{total}, {last}.detach() * 0.5]"
        if kind < 0.92:
            return f"{{'a': {total}, 'b': {last} * 0.5}}"
        if kind < 0.94:
            return f"({total}, {last} > 0.137)"
        if kind < 0.96:
            return f"({total}, n + 1)"
        if kind < 0.98:
            return f"({total}, ({first} * 0.3, [{last} * 0.2]))"
        self.features.add("number result")
        return f"({total}, 3)"

    def parameters(self) -> str:
        named = [f"{name}={value}" for name, value in self.defaults]
        only = [f"{name}={value}" for name, value in self.keyword_defaults]
        only += [name for name, _ in (*self.passed, *self.bound)]
        first = {
            "plain": ["x", "y", "n", "m"],
            "stars": ["x", "y", "*rest"],
            "batch": ["batch"],
            "record": ["record"],
            "dict": ["data"],
            "list": ["items"],
            "keyword only": ["x", "*", "y", "n", "m"],
        }[self.signature]
        if self.signature == "stars":
            return ", ".join([*first, *named, *only, "**options"])
        if self.signature == "keyword only":
            return ", ".join([*first, "s=0.8", "mode='soft'", *named, *only])
        star = ["*"] if only else []
        return ", ".join([*first, "s=0.8", "mode='soft'", *named, *star, *only])

    def opening(self) -> list[str]:
        return {
            "stars": [
                "n, m, *_ = rest",
                "s = options.get('s', 0.8)",
                "mode = options['mode'] if 'mode' in options else 'soft'",
            ],
            "batch": ["x, y, n, m = batch"],
            "record": ["x, y, n, m = record.x, record.y, record.n, record.m"],
            "dict": ["x, y = data['x'], data['y']", "n, m = data.get('n'), data.get('m')"],
            "list": ["x, y, n, m = items"],
        }.get(self.signature, [])

    def call_text(self) -> str:
        arguments = {
            "plain": "x, y, n, m",
            "stars": "x, y, n, m",
            "batch": "Batch(x, y, n, m)",
            "record": "Record(x, y, n, m)",
            "dict": "{'x': x, 'y': y, 'n': n, 'm': m}",
            "list": "[x, y, n, m]",
            "keyword only": "x, y=y, n=n, m=m",
        }[self.signature]
        if self.signature == "plain" and self.chance(0.3) and self.target != "lambda":
            arguments = "x, m=m, n=n, y=y"
        self.need({"batch": "Batch", "record": "Record"}.get(self.signature, ""))
        extra = "".join(f", {name}={value}" for name, value in self.passed)
        return f"def call(x, y, n, m, **options):\n    return target({arguments}{extra}, **options)"

    def text(self, result: str) -> str:
        body = [*self.opening(), *self.body]
        if self.rng.random() < 0.5:
            body = [*body, f"return {result}"]
        else:
            body = [*body, f"result = {result}", "return result"]
        first = {
            "method": "self, ",
            "callable": "self, ",
            "module": "self, ",
            "decorated method": "self, ",
            "class method": "cls, ",
        }.get(self.target, "")
        name = self.under.rpartition(".")[2] if "." in self.under else "f"
        decorator = {
            "static": "@staticmethod\n",
            "class method": "@classmethod\n",
            "decorated": "@fuse\n",
            "decorated method": "@fuse\n",
        }.get(self.target, "")
        defined = f"{decorator}def {name}({first}{self.parameters()}):\n" + indented(body)
        in_class = "Gate" in self.under or self.target in ("decorated method", "class method")
        if in_class:
            base = "nn.Module" if self.target == "module" else ""
            init = ["super().__init__()", *self.init_lines]
            defined = "\n\n".join(
                [
                    f"class Base({base}):\n" + indented(self.base_lines or ["pass"]),
                    "class Middle(Base):\n    pass",
                    "class Gate(Middle):\n"
                    + indented(["def __init__(self):", *("    " + line for line in init)])
                    + "".join("\n\n" + indented(lines.split("\n")) for lines in self.class_lines)
                    + "\n\n"
                    + indented(defined.split("\n")),
                ]
            )
        names = ["Base", "Middle", "Gate"] if in_class else ["f"]
        if self.cells:
            defined = self.in_closure(defined, names)
        made = {
            "function": "target = fuse(f)",
            "lambda": "target = fuse(lambda x, y, n, m, s=0.8, mode='soft'"
            + "".join(f", *, {n}" if i == 0 else f", {n}" for i, (n, _) in enumerate(self.passed))
            + ": f(x, y, n, m, s, mode"
            + "".join(f", {n}={n}" for n, _ in self.passed)
            + "))",
            "method": "OBJ = Gate()\ntarget = fuse(OBJ.f)",
            "callable": "OBJ = Gate()\ntarget = fuse(OBJ)",
            "module": "OBJ = Gate()\ntarget = fuse(OBJ)",
            "partial": "PARTIAL = functools.partial(f"
            + "".join(f", {n}={value}" for n, value in self.bound)
            + ")\ntarget = fuse(PARTIAL)",
            "static": "OBJ = Gate()\ntarget = fuse(OBJ.f)",
            "class method": "OBJ = Gate()\ntarget = fuse(OBJ.f)",
            "wrapped": "def wrapper(*a, **k):\n    return f(*a, **k)\n\n"
            "target = fuse(functools.wraps(f)(wrapper))",
            "decorated": "target = f",
            "decorated method": "OBJ = Gate()\ntarget = OBJ.f",
            "generic": "def generic(*a, **k):\n    return f(*a, **k)\n\ntarget = fuse(generic)",
        }[self.target]
        call = self.call_text()
        changes = [
            f"def change_{i}():\n" + indented(change.split("\n"))
            for i, change in enumerate(self.changes)
        ]
        tensors = (
            "def tensors():\n    found = []\n"
            + "".join(
                f"    with contextlib.suppress(Exception):\n        found += [{path}]\n"
                for path in self.tensors
            )
            + "    return found"
        )
        probes = f"def probes():\n    return [{', '.join(self.probes)}]"
        close = "def close():\n" + indented(
            ["for handle in HANDLES:", "    handle.remove()", *self.close]
        )
        library = [textwrap.dedent(_LIBRARY[name]).strip() for name in self.library if name]
        parts = [
            _PRELUDE.strip(),
            "HANDLES = []",
            *library,
            *self.definitions,
            defined,
            made,
            call,
            *changes,
            tensors,
            probes,
            close,
        ]
        return "\n\n\n".join(parts) + "\n"

    def in_closure(self, defined: str, names: list[str]) -> str:
        cells = [name for name, _ in self.cells]
        put = ["def put(name, new):", "    nonlocal " + ", ".join(cells)]
        for cell in cells:
            put += [f"    if name == '{cell}':", f"        {cell} = new"]
        get = ["def get(name):", f"    return {{{', '.join(f'{c!r}: {c}' for c in cells)}}}[name]"]
        lines = [f"{name} = {value}" for name, value in self.cells]
        lines += [*put, *get, *defined.split("\n"), f"return {', '.join(names)}, get, put"]
        return "def make():\n" + indented(lines) + f"\n\n{', '.join(names)}, GET, PUT = make()"

    # -------------------------------------------------------------------------------------- calls

    def calls(self, rng: random.Random) -> tuple[tuple[Call, ...], ...]:
        wide = getattr(torch, self.float.removeprefix("torch."))
        other = torch.float32 if wide is torch.float64 else torch.float64
        steady = rng.random() < 0.5
        attribute = "hasattr(x, 'scale')" in "\n".join(self.body) and rng.random() < 0.3
        integer = rng.choice((torch.int64, torch.int64, torch.int32, torch.uint8))
        shape: tuple[int, ...] = rng.choice(((2, 3), (2, 3), (3,), (4, 2, 3)))
        grads = (True, rng.random() < 0.6)

        def one() -> Call:
            shapes = (shape, shape if rng.random() < 0.8 else shape[-1:], shape)
            dtypes, requires_grad = (wide, wide, integer), grads
            same, mode, options = "", "grad", []
            if not steady:
                if rng.random() < 0.25:
                    dtypes = (rng.choice((wide, other)), rng.choice((wide, other)), integer)
                if rng.random() < 0.1:
                    dtypes = (*dtypes[:2], rng.choice((torch.int64, torch.int32)))
                if rng.random() < 0.3:
                    requires_grad = (rng.random() < 0.7, rng.random() < 0.5)
                if rng.random() < 0.1:
                    same = rng.choice(("y", "y", "captured"))
                if rng.random() < 0.2:
                    mode = rng.choice(("no_grad", "no_grad", "inference"))
                if rng.random() < 0.1:
                    shapes = rng.choice(
                        (
                            ((), (), ()),
                            ((2, 3), (), (3,)),
                            ((0, 3), (3,), (1, 3)),
                            ((5, 1), (1, 3), (3,)),
                        )
                    )
            if rng.random() < 0.4:
                s = rng.choice(
                    (
                        f"{rng.uniform(0.4, 1.6):.3f}",
                        "1",
                        "2",
                        "True",
                        "0.75",
                        "np.float64(0.6)",
                        "np.float32(0.6)",
                    )
                )
                options.append(("s", s))
            if rng.random() < 0.3:
                options.append(("mode", rng.choice(_MODES)))
            return Call(
                rng.randrange(2**30),
                shapes,
                dtypes,
                requires_grad,
                same,
                mode,
                tuple(options),
                attribute and rng.random() < 0.5,
                rng.random() < 0.2,
            )

        def phase(first: bool) -> tuple[Call, ...]:
            made = [one() for _ in range(2 if first else rng.choice((1, 2)))]
            if rng.random() < 0.5:
                made.append(made[-1])  # the same again
            return tuple(made)

        return tuple(phase(i == 0) for i in range(len(self.changes) + 1))


def indented(lines: Sequence[str]) -> str:
    """The lines, four columns further in."""
    text = "\n".join(lines)
    return textwrap.indent(text, "    ")


@functools.lru_cache(maxsize=256)
def program(number: int) -> Program:
    """The program of this number, the same each time."""
    return _Writer(number).program()


# ------------------------------------------------------------------------------- two worlds of one

_copies = itertools.count()


class World:
    """One copy of a program's module."""

    def __init__(self, program: Program, fuse: Fuse) -> None:
        """`fuse` makes the function, or leaves it as it is."""
        copy = f"w{next(_copies)}"
        self.program = program
        self.file = f"<program {program.number} {copy}>"
        source = program.source.replace("@COPY@", copy)
        linecache.cache[self.file] = (len(source), None, source.splitlines(True), self.file)
        self.module = types.ModuleType(f"random_program_{copy}")
        sys.modules[self.module.__name__] = self.module  # for dataclasses, pickles and the like
        self.names: dict[str, Any] = vars(self.module)
        self.names["fuse"] = fuse
        exec(compile(source, self.file, "exec"), self.names)

    def tensors(self) -> list[Tensor]:
        """The tensors that the program has outside its function."""
        return [value for value in self.names["tensors"]() if isinstance(value, Tensor)]

    def close(self) -> None:
        """Takes back what it did to the process."""
        self.names["close"]()
        sys.modules.pop(self.module.__name__, None)
        linecache.cache.pop(self.file, None)


@dataclass
class _Answer:
    """What a call gave."""

    error: BaseException | None = None
    value: Any = None
    arguments: tuple[Tensor, ...] = ()
    leaves: list[Tensor] = field(default_factory=list)
    probes: list[Any] = field(default_factory=list)


def _arguments(call: Call, world: World) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(call.seed)

    def real(shape: tuple[int, ...], dtype: torch.dtype, requires_grad: bool) -> Tensor:
        made = torch.randn(shape, generator=generator, dtype=torch.float64).clamp(-3, 3)
        return made.to(dtype).requires_grad_(requires_grad)

    x = real(call.shapes[0], call.dtypes[0], call.requires_grad[0])
    y = real(call.shapes[1], call.dtypes[1], call.requires_grad[1])
    low = 0 if call.dtypes[2] is torch.uint8 else -3
    n = torch.randint(low, 6, call.shapes[2], generator=generator).to(call.dtypes[2])
    m = torch.rand(call.shapes[2], generator=generator) < 0.5
    if call.same == "y":
        y = x
    if call.same == "captured":
        own = [t for t in world.tensors() if t.is_floating_point()]
        x = own[0] if own else x
    if call.attribute:
        x.scale = 0.7  # type: ignore[attr-defined]
    return x, y, n, m


@contextmanager
def _mode(name: str) -> Iterator[None]:
    modes: dict[str, Any] = {"no_grad": torch.no_grad, "inference": torch.inference_mode}
    if name == "grad":
        yield
    else:
        with modes[name]():
            yield


def _called(world: World, call: Call) -> _Answer:
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(call.seed % 2**32)
    arguments = _arguments(call, world)
    answer = _Answer(arguments=arguments)
    options = {name: eval(text, world.names) for name, text in call.options}
    grad_mode = torch.is_grad_enabled()
    try:
        with _mode(call.mode):
            answer.value = world.names["call"](*arguments, **options)
    except Exception as error:
        answer.error = error
    torch.set_grad_enabled(grad_mode)
    leaves = {id(t): t for t in (*arguments[:2], *world.tensors())}
    answer.leaves = [t for t in leaves.values() if t.is_leaf and t.requires_grad]
    try:
        answer.probes = world.names["probes"]()
    except Exception as error:
        answer.probes = [type(error)]
    return answer


class Different(Exception):
    """The fused function gave something else."""


def _flat(value: Any, where: str = "result") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        parts = [_flat(v, f"{where}[{k!r}]") for k, v in value.items()]
    elif isinstance(value, (tuple, list)):
        parts = [_flat(v, f"{where}[{i}]") for i, v in enumerate(value)]
    else:
        return [(where, value)]
    return [(f"type of {where}", type(value)), *itertools.chain(*parts)]


def _compare(what: str, ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    for question in ("dtype", "shape", "requires_grad"):
        mine, other = getattr(ours, question), getattr(theirs, question)
        if mine != other and not what.startswith("gradient"):
            raise Different(f"{what}: {question} {mine}, expected {other}")
    if what.startswith("gradient") and (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
        raise Different(
            f"{what}: {ours.dtype}, {ours.shape}, expected {theirs.dtype}, {theirs.shape}"
        )
    mine, other = ours.detach(), theirs.detach()
    if not theirs.is_floating_point() and not theirs.is_complex():
        if not torch.equal(mine, other):
            raise Different(f"{what}: {mine.tolist()}, expected {other.tolist()}")
        return
    if other.numel() == 0:
        return
    finite = other[other.isfinite()]
    scale = max(1.0, float(finite.abs().max())) if finite.numel() else 1.0
    if not torch.allclose(
        mine.double(), other.double(), tolerance, tolerance * scale, equal_nan=True
    ):
        raise Different(f"{what}: {mine.tolist()}, expected {other.tolist()}")


def _tolerance(answer: _Answer, outputs: Sequence[Tensor]) -> float:
    """Of float64 where nothing of float32 takes part."""
    reals = [t for t in (*answer.arguments[:2], *answer.leaves, *outputs) if t.is_floating_point()]
    narrow = any(t.dtype is not torch.float64 for t in reals)
    return 2e-4 if narrow or torch.get_default_dtype() is not torch.float64 else 1e-9


def _gradients(
    answer: _Answer, outputs: Sequence[Tensor], create_graph: bool
) -> list[Tensor | None] | BaseException:
    generator = torch.Generator().manual_seed(7)
    total = sum(
        (t * torch.rand(t.shape, generator=generator, dtype=torch.float64).to(t.dtype)).sum()
        for t in outputs
    )
    try:
        found = torch.autograd.grad(
            cast(Tensor, total),
            answer.leaves,
            create_graph=create_graph,
            allow_unused=True,
        )
    except Exception as error:
        return error
    return list(found)


def _check_gradients(
    ours: _Answer,
    theirs: _Answer,
    mine: Sequence[Tensor],
    other: Sequence[Tensor],
    tolerance: float,
    orders: int,
    what: str = "gradient",
) -> None:
    """The gradients by all leaves; None is as good as zeros."""
    from fusedgrad import FuseError

    with torch.enable_grad():
        found = _gradients(ours, mine, orders > 1)
        expected = _gradients(theirs, other, orders > 1)
    if isinstance(expected, BaseException):
        return  # what autograd refuses afterwards, as a tensor changed in place
    if isinstance(found, FuseError):
        raise found
    if isinstance(found, BaseException):
        raise Different(f"{what}: {type(found).__name__}: {found}") from found
    seconds: tuple[list[Tensor], list[Tensor]] = ([], [])
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        leaf = theirs.leaves[i]
        a = torch.zeros_like(leaf) if a is None else a
        b = torch.zeros_like(leaf) if b is None else b
        _compare(f"{what} by leaf {i}", a, b, tolerance)
        if b.requires_grad:
            if not a.requires_grad:
                a = a + 0 * ours.leaves[i]
            seconds[0].append(a)
            seconds[1].append(b)
    if orders > 1 and seconds[1]:
        _check_gradients(ours, theirs, *seconds, 5 * tolerance, orders - 1, f"{what} of gradient")


def check(ours: _Answer, theirs: _Answer, second: bool) -> None:
    """Raises `Different`, or the FuseError of ours where the plain function has a value."""
    from fusedgrad import FuseError

    if theirs.error is not None:
        if ours.error is None:
            raise Different(f"a value, expected {type(theirs.error).__name__}: {theirs.error}")
        if not isinstance(ours.error, (FuseError, type(theirs.error))):
            raise Different(
                f"{type(ours.error).__name__}: {ours.error}, expected "
                f"{type(theirs.error).__name__}: {theirs.error}"
            )
        return
    if ours.error is not None:
        raise ours.error
    mine, other = _flat(ours.value), _flat(theirs.value)
    if len(mine) != len(other):
        raise Different(f"{len(mine)} results, expected {len(other)}")
    outputs = [value for _, value in other if isinstance(value, Tensor)]
    tolerance = _tolerance(theirs, outputs)
    for (what, a), (_, b) in zip(mine, other, strict=True):
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            _compare(what, a, b, tolerance)
        elif isinstance(a, Tensor) or isinstance(b, Tensor) or a != b:
            raise Different(f"{what}: {a}, expected {b}")
    for i, (a, b) in enumerate(zip(ours.arguments, theirs.arguments, strict=True)):
        _compare(f"argument {i} after the call", a, b, 1e-12)
    if ours.probes != theirs.probes:
        raise Different(f"state after the call: {ours.probes}, expected {theirs.probes}")
    pairs = [
        (a, b)
        for (_, a), (_, b) in zip(mine, other, strict=True)
        if isinstance(b, Tensor) and b.requires_grad and not b.is_inference()
    ]
    if len(ours.leaves) != len(theirs.leaves):
        raise Different(f"{len(ours.leaves)} leaves, expected {len(theirs.leaves)}")
    if pairs and theirs.leaves:
        _check_gradients(
            ours,
            theirs,
            [a for a, _ in pairs],
            [b for _, b in pairs],
            tolerance,
            2 if second else 1,
        )


@dataclass
class Outcome:
    """How a fused function fared: "right", "refused", "wrong" or "other"."""

    kind: str = "right"
    told: str = ""
    calls: int = 0
    errors: int = 0  # calls in which the plain function raised, too


def outcome(program: Program, fuse: Fuse, plain: Fuse = lambda function: function) -> Outcome:
    """Runs the program with `fuse` beside the program with plain functions, until they differ."""
    result = Outcome()
    default = torch.get_default_dtype()
    library = [
        (function, function.__code__, function.__defaults__)
        for module in (torch.nn.functional, fusedgrad.functional)
        for function in vars(module).values()
        if isinstance(function, types.FunctionType)
    ]
    worlds: list[World] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for how in (fuse, plain):
                try:
                    worlds.append(World(program, how))
                except Exception as error:
                    if how is plain:
                        raise
                    result.kind, result.told = _kind_of(error), f"made: {error!r}"
                    return result
            _run(program, worlds[0], worlds[1], result)
    finally:
        for world in worlds:
            world.close()
        for function, code, defaults in library:  # which a program may have changed
            function.__code__, function.__defaults__ = code, defaults
        torch.set_default_dtype(default)
    return result


def _kind_of(error: BaseException) -> str:
    from fusedgrad import FuseError

    if isinstance(error, FuseError):
        return "refused"
    return "wrong" if isinstance(error, Different) else "other"


def _run(program: Program, fused: World, plain: World, result: Outcome) -> None:
    for phase, calls in enumerate(program.calls):
        if phase:
            errors = [_changed(world, phase - 1) for world in (fused, plain)]
            if errors[0] is not errors[1]:
                result.kind = "other"
                result.told = f"change {phase - 1}: {errors[0]}, expected {errors[1]}"
                return
        for number, call in enumerate(calls):
            theirs = _called(plain, call)
            ours = _called(fused, call)
            result.calls += 1
            result.errors += theirs.error is not None
            try:
                check(ours, theirs, call.second)
            except Exception as error:
                result.kind = _kind_of(error)
                result.told = f"after {phase} changes, call {number} ({call}): {type(error).__name__}: {error}"
                return


def _changed(world: World, number: int) -> type[BaseException] | None:
    try:
        world.names[f"change_{number}"]()
    except Exception as error:
        return type(error)
    return None


def told(program: Program, result: Outcome) -> str:
    """What to print of a program that failed."""
    source = program.source.split("HANDLES = []")[1].strip()
    return (
        f"program {program.number}: {result.kind} {sorted(program.features)}\n{result.told}\n\n"
        f"{source}\n\npython tests/random_programs.py {program.number}"
    )


def main(arguments: Sequence[str]) -> None:
    """One program and how it fares, or how many of a range fare how."""
    which = arguments[0] if arguments else "0:300"
    fuse: Fuse = (lambda f: f) if "--plain" in arguments else fusedgrad.fuse
    if ":" not in which:
        print(told(program(int(which)), outcome(program(int(which)), fuse)))
        return
    os.environ.setdefault("CXX", "no-such-compiler")
    counts: collections.Counter[str] = collections.Counter()
    calls = errors = 0
    for number in range(*map(int, which.split(":"))):
        made = program(number)
        result = outcome(made, fuse)
        counts[result.kind + (" (may be)" if made.features & BEYOND else "")] += 1
        calls += result.calls
        errors += result.errors
        if result.kind != "right" and "--quiet" not in arguments:
            print(number, result.kind, sorted(made.features), result.told[:400])
    print(dict(counts), f"{calls} calls, {errors} of them errors of the plain function too")


if __name__ == "__main__":
    main(sys.argv[1:])

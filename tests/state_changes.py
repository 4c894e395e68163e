"""Ways in which what a function reads changes between two calls, as people write them.

`CASES` maps a name to a function of a tensor, what changes, and what undoes that, or None.
"""

# ruff: noqa
# mypy: ignore-errors

import abc
import builtins
import collections
import dataclasses
import enum
import functools
import math
import os
import sys
import threading
import types
import weakref

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from fusedgrad import fuse

CASES = {}


def case(name, function, change, undo=None):
    CASES[name] = (function, change, undo)


osig = torch.Tensor.sigmoid
omul = torch.Tensor.__mul__
ots = torch.sigmoid
oabs = builtins.abs
case(
    "Tensor.sigmoid",
    lambda x: x.sigmoid(),
    lambda: setattr(torch.Tensor, "sigmoid", lambda s: s * 7),
    lambda: setattr(torch.Tensor, "sigmoid", osig),
)
case(
    "Tensor.__mul__",
    lambda x: x * 2,
    lambda: setattr(torch.Tensor, "__mul__", lambda s, o: torch.add(s, o)),
    lambda: setattr(torch.Tensor, "__mul__", omul),
)
case(
    "torch.sigmoid",
    lambda x: torch.sigmoid(x),
    lambda: setattr(torch, "sigmoid", torch.tanh),
    lambda: setattr(torch, "sigmoid", ots),
)
case(
    "builtins.abs",
    lambda x: abs(x),
    lambda: setattr(builtins, "abs", lambda v: v * 3),
    lambda: setattr(builtins, "abs", oabs),
)


def gshadow():
    globals()["max"] = lambda a, b: 9.0


case("global shadows", lambda x: x * max(1.0, 2.0), gshadow, lambda: globals().pop("max"))


class P:
    a = 2.0

    def __call__(self, x):
        return x * self.a


p = P()
case("instance shadows class", p, lambda: setattr(p, "a", 3.0))
p2 = P()


class P2(P):
    a = 5.0


case("__class__", p2, lambda: setattr(p2, "__class__", P2))


class D:
    def __init__(s):
        s.a = 2.0

    def __call__(s, x):
        return x * s.a


d = D()
case("data descriptor added", d, lambda: setattr(D, "a", property(lambda s: 9.0)))


class D3:
    def __init__(s):
        s.a = 2.0

    def __call__(s, x):
        return x * s.a


d3 = D3()
case(
    "getattribute added",
    d3,
    lambda: setattr(
        D3, "__getattribute__", lambda s, n: 9.0 if n == "a" else object.__getattribute__(s, n)
    ),
)


class D4:
    def f(s, x):
        return x * 2


d4 = D4()
case("method replaced on class", lambda x: d4.f(x), lambda: setattr(D4, "f", lambda s, x: x * 5))
d5 = D4()


class D5:
    def f(s, x):
        return x * 2


d5 = D5()
case("method on instance", lambda x: d5.f(x), lambda: setattr(d5, "f", lambda x: x * 5))


class Meta(type):
    k = 2.0

    @property
    def z(c):
        return c.k


class WM(metaclass=Meta):
    pass


case("metaclass", lambda x: x * WM.z, lambda: setattr(Meta, "k", 4.0))


@dataclasses.dataclass(frozen=True)
class FD:
    a: float = 2.0


fd = FD()
case("frozen dataclass", lambda x: x * fd.a, lambda: object.__setattr__(fd, "a", 3.0))


class E(enum.Enum):
    A = 2.0
    B = 3.0


case("enum", lambda x: x * E.A.value, lambda: setattr(E.A, "_value_", 5.0))
NT = collections.namedtuple("NT", "a b")
nt = [NT(2.0, 3.0)]
case("namedtuple", lambda x: x * nt[0].a, lambda: nt.__setitem__(0, NT(5.0, 1.0)))
part = functools.partial(lambda x, k: x * k, k=2.0)
case("partial keywords", part, lambda: part.keywords.__setitem__("k", 5.0))
part2 = functools.partial(lambda x, k: x * k, k=2.0)
case(
    "partial setstate",
    lambda x: part2(x),
    lambda: part2.__setstate__((lambda x, k: x * k + 1, (), {"k": 3.0}, {})),
)


def md(x, l=[2.0]):
    return x * l[0]


case("mutable default", md, lambda: md.__defaults__[0].__setitem__(0, 7.0))
nest = [[2.0], {"a": {"b": [3.0]}}]
case(
    "nested list",
    lambda x: x * nest[0][0] + nest[1]["a"]["b"][0],
    lambda: nest[1]["a"]["b"].__setitem__(0, 9.0),
)
case("nested list replaced", lambda x: x * nest[0][0], lambda: nest.__setitem__(0, [4.0]))
dq = collections.deque([2.0])
case("deque", lambda x: x * dq[0], lambda: dq.appendleft(5.0))
dd = collections.defaultdict(float, {"a": 2.0})
case("defaultdict", lambda x: x * dd["a"], lambda: dd.__setitem__("a", 5.0))
od = collections.OrderedDict(a=2.0)
case("ordereddict", lambda x: x * od["a"], lambda: od.__setitem__("a", 5.0))
ar = np.array([2.0, 3.0])
case("np array", lambda x: x * float(ar[0]), lambda: ar.__setitem__(0, 5.0))
a0 = np.array(2.0)
case("np 0d", lambda x: x * a0.item(), lambda: a0.__setitem__((), 5.0))


def mk():
    k = 2.0

    def f(x):
        return x * k

    def s(v):
        nonlocal k
        k = v

    return f, s


f_, s_ = mk()
case("nonlocal", f_, lambda: s_(5.0))
w = torch.tensor([1.0, 2.0, 3.0])
case("tensor value", lambda x: x * w, lambda: w.mul_(2))
w2 = torch.tensor([1.0, 2.0, 3.0])
case("tensor data", lambda x: x * w2, lambda: setattr(w2, "data", torch.tensor([4.0, 5.0, 6.0])))
w3 = torch.tensor([1.0, 2.0, 3.0])
case(
    "tensor data dtype",
    lambda x: x * w3,
    lambda: setattr(w3, "data", torch.tensor([4.0, 5.0, 6.0], dtype=torch.float64)),
)
w4 = torch.tensor([1.0, 2.0, 3.0])
case("tensor set_", lambda x: x * w4, lambda: w4.set_(torch.tensor([7.0, 5.0, 6.0])))
w5 = torch.tensor([1.0, 2.0, 3.0])
case("tensor resize", lambda x: x * w5, lambda: w5.resize_(1))
w6 = torch.tensor([1.0, 2.0, 3.0])
case("tensor requires", lambda x: x * w6, lambda: w6.requires_grad_())
w7 = torch.tensor([1.0, 2.0, 3.0])
case(
    "tensor class",
    lambda x: x * w7 if type(w7) is torch.Tensor else x * 3,
    lambda: setattr(w7, "__class__", nn.Parameter),
)
w8 = torch.tensor([1.0, 2.0, 3.0])
case("tensor attr", lambda x: x * getattr(w8, "foo", 1.0), lambda: setattr(w8, "foo", 5.0))
w9 = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
case(
    "tensor grad",
    lambda x: x * (2 if w9.grad is None else 3),
    lambda: setattr(w9, "grad", torch.ones(3)),
)


class M(nn.Module):
    def __init__(s):
        super().__init__()
        s.w = nn.Parameter(torch.ones(3))
        s.register_buffer("b", torch.ones(3))
        s.c = nn.Tanh()
        s.k = 2.0

    def forward(s, x):
        return s.c(x * s.w) + s.b * s.k if s.training else x


for nm, ch in {
    "train": lambda m: m.eval(),
    "param": lambda m: setattr(m, "w", nn.Parameter(torch.full((3,), 2.0))),
    "buffer": lambda m: setattr(m, "b", torch.full((3,), 5.0)),
    "child": lambda m: setattr(m, "c", nn.Sigmoid()),
    "attr": lambda m: setattr(m, "k", 7.0),
    "fwd": lambda m: setattr(m, "forward", lambda x: x * 9),
    "cfwd": lambda m: setattr(m.c, "forward", lambda x: x * 9),
    "hook": lambda m: m.register_forward_hook(lambda a, b, c: c * 2),
    "prehook": lambda m: m.register_forward_pre_hook(lambda a, b: (b[0] * 2,)),
    "chook": lambda m: m.c.register_forward_hook(lambda a, b, c: c * 2),
    "kwhook": lambda m: m.register_forward_pre_hook(
        lambda a, b, k: ((b[0] * 2,), k), with_kwargs=True
    ),
    "bufnone": lambda m: m.register_buffer("b", torch.zeros(3)),
    "param dict": lambda m: m._parameters.__setitem__("w", nn.Parameter(torch.zeros(3))),
    "delbuf": lambda m: (m.__delattr__("b"), setattr(m, "b", torch.full((3,), 8.0))),
    "weightnorm": lambda m: nn.utils.parametrize.register_parametrization(m, "w", nn.Tanh()),
    "to64": lambda m: m.double(),
    "call": lambda m: setattr(m, "__call__", lambda x: x * 9),
    "load": lambda m: m.load_state_dict({"w": torch.full((3,), 3.0), "b": torch.zeros(3)}),
    "reqg": lambda m: m.requires_grad_(False),
}.items():
    m = M()
    case("module " + nm, m, functools.partial(ch, m))
    m2 = M()
    case("module in lambda " + nm, (lambda m2: lambda x: m2(x) * 2)(m2), functools.partial(ch, m2))
g_ = nn.modules.module.register_module_forward_hook
hh = []
mm = M()
case("global hook", mm, lambda: hh.append(g_(lambda a, b, c: c * 2)), lambda: hh.pop().remove())
oc = nn.Module.__call__
mm2 = M()
case(
    "Module.__call__",
    mm2,
    lambda: setattr(nn.Module, "__call__", lambda s, x: x * 4),
    lambda: setattr(nn.Module, "__call__", oc),
)
case(
    "default dtype",
    lambda x: x * torch.tensor(2.0).dtype.itemsize,
    lambda: torch.set_default_dtype(torch.float64),
    lambda: torch.set_default_dtype(torch.float32),
)
case(
    "default dtype int",
    lambda x: x * torch.sigmoid(torch.tensor(3)),
    lambda: torch.set_default_dtype(torch.float64),
    lambda: torch.set_default_dtype(torch.float32),
)
case(
    "environ",
    lambda x: x * float(os.environ.get("ZZ", "2")),
    lambda: os.environ.__setitem__("ZZ", "5"),
    lambda: os.environ.pop("ZZ"),
)
tl = threading.local()
tl.a = 2.0
case("thread local", lambda x: x * tl.a, lambda: setattr(tl, "a", 5.0))
cnt = [2.0]


@functools.lru_cache
def lc(k):
    return cnt[0]


case("lru_cache clear", lambda x: x * lc(1), lambda: (cnt.__setitem__(0, 5.0), lc.cache_clear()))
cp = [2.0]


class CP:
    @functools.cached_property
    def z(s):
        return cp[0]


cpi = CP()
case(
    "cached_property del", lambda x: x * cpi.z, lambda: (cp.__setitem__(0, 7.0), delattr(cpi, "z"))
)
case("globals()", lambda x: x * globals()["GG"], lambda: globals().__setitem__("GG", 5.0))
GG = 2.0
case("global", lambda x: x * GG2, lambda: globals().__setitem__("GG2", 5.0))
GG2 = 2.0
mod = types.ModuleType("momo")


def of_the_module(name):
    if name != "zz":  # such as __file__, which others ask for
        raise AttributeError(name)
    return MV[0]


mod.__getattr__ = of_the_module
MV = [2.0]
case("module getattr", lambda x: x * mod.zz, lambda: MV.__setitem__(0, 5.0))
sys.modules["momo"] = mod
mod.q = 2.0


def imp(x):
    import momo

    return x * momo.q


case("import inside", imp, lambda: setattr(mod, "q", 6.0))


def imp2(x):
    from momo import q

    return x * q


mod2 = types.ModuleType("momo2")
sys.modules["momo2"] = mod2
mod2.q = 2.0


def imp2(x):
    from momo2 import q

    return x * q


case("from import inside", imp2, lambda: setattr(mod2, "q", 6.0))
case("eval", lambda x: x * eval("GE"), lambda: globals().__setitem__("GE", 5.0))
GE = 2.0
st = {2.0}
case("set", lambda x: x * sum(st), lambda: st.add(5.0))
case("in set", lambda x: x * (2 if 5.0 in st else 3), lambda: (st.clear(), st.add(5.0)))
L = [1, 2]
case("in list", lambda x: x * (2 if 9 in L else 3), lambda: L.append(9))
DD = {"a": 1}
case("in dict", lambda x: x * (2 if "b" in DD else 3), lambda: DD.__setitem__("b", 1))


class Odd:
    equal = False

    def __hash__(s):
        return hash("a")

    def __eq__(s, o):
        return Odd.equal


DO = {Odd(): 1}
case(
    "in dict of what compares as it likes",
    lambda x: x * (2 if "a" in DO else 3),
    lambda: setattr(Odd, "equal", True),
)
DG = {"a": 1.0}
case("dict get missing", lambda x: x * DG.get("b", 2.0), lambda: DG.__setitem__("b", 5.0))
case("dict values", lambda x: x * sum(DG.values()), lambda: DG.__setitem__("c", 5.0))
DK = {"k": 2.0}


def kwf(x, k=1.0, j=1.0):
    return x * k * j


case("**dict", lambda x: kwf(x, **DK), lambda: DK.__setitem__("j", 5.0))
TL = [2.0, 3.0]
case("*list", lambda x: kwf(x, *TL), lambda: TL.__setitem__(1, 5.0))


def unp(x):
    a, b = TL2
    return x * a * b


TL2 = [2.0, 3.0]
case("unpack", unp, lambda: TL2.__setitem__(1, 5.0))


def loop(x):
    for k in TL3:
        x = x * k
    return x


TL3 = [2.0, 3.0]
case("for", loop, lambda: TL3.append(5.0))


def mt(x):
    match MS["k"]:
        case 1:
            return x * 2
        case _:
            return x * 3


MS = {"k": 1}
case("match", mt, lambda: MS.__setitem__("k", 2))


def tr(x):
    try:
        return x * DT["z"]
    except KeyError:
        return x * 7


DT = {}
case("try", tr, lambda: DT.__setitem__("z", 2.0))
sl = [slice(0, 1)]
case("str", lambda x: x * len(SS[0]), lambda: SS.__setitem__(0, "abcd"))
SS = ["ab"]
case("bytearray", lambda x: x * BA[0], lambda: BA.__setitem__(0, 9))
BA = bytearray(b"\x02")
case("len list", lambda x: x * len(LL), lambda: LL.append(1))
LL = [1]
case("neg zero", lambda x: x / NZ[0], lambda: NZ.__setitem__(0, -0.0))
NZ = [0.0]
case(
    "int float",
    lambda x: torch.pow(IF[0], x.to(torch.int32)) if False else x.to(torch.int32) * IF[0],
    lambda: IF.__setitem__(0, 2.0),
)
IF = [2]
case("bool int", lambda x: (x > 0) + BI[0], lambda: BI.__setitem__(0, 1))
BI = [True]
case("nan", lambda x: x * NN[0], lambda: NN.__setitem__(0, float("nan")))
NN = [1.0]
wr = P()
wr.a = 2.0
ref = [weakref.ref(wr)]
case("weakref", lambda x: x * ref[0]().a, lambda: setattr(wr, "a", 5.0))
case("id new obj", lambda x: x * OB[0].a, lambda: OB.__setitem__(0, P2()))
OB = [P()]
fn = [lambda x: x * 2]
case("list of fn", lambda x: fn[0](x), lambda: fn.__setitem__(0, lambda x: x * 5))
gfn = lambda x: x * 2
case("global fn", lambda x: gfn(x), lambda: globals().__setitem__("gfn", lambda x: x * 6))
hfn = lambda x: x * 2
case("fn code", lambda x: hfn(x), lambda: setattr(hfn, "__code__", (lambda x: x * 6).__code__))
ff = fuse(lambda x: x * FK[0])
FK = [2.0]
case("inner fused", lambda x: ff(x) + 1, lambda: FK.__setitem__(0, 5.0))
dfn = fuse(lambda x: x * x * FK2[0])
FK2 = [2.0]
dd_ = dfn.derivative(0)
case("inner derivative", lambda x: dd_(x) + 1, lambda: FK2.__setitem__(0, 5.0))


class CM:
    v = 2.0

    def __enter__(s):
        return s.v

    def __exit__(s, *a):
        pass


cm = CM()


def usecm(x):
    with cm as k:
        return x * k


case("context manager", usecm, lambda: setattr(CM, "v", 5.0))


class Idx:
    v = 2.0

    def __getitem__(s, i):
        return s.v

    def __len__(s):
        return int(s.v)

    def __bool__(s):
        return s.v > 3

    def __eq__(s, o):
        return s.v > 3

    def __contains__(s, o):
        return s.v > 3

    def __iter__(s):
        return iter([s.v])

    def __float__(s):
        return s.v

    def __index__(s):
        return int(s.v)

    def __mul__(s, o):
        return o * s.v

    def __rmul__(s, o):
        return o * s.v

    __hash__ = object.__hash__


ix = Idx()
for nm, f in {
    "getitem": lambda x: x * ix[0],
    "len": lambda x: x * len(ix),
    "bool": lambda x: x * 2 if ix else x,
    "eq": lambda x: x * 2 if ix == 1 else x,
    "contains": lambda x: x * 2 if 1 in ix else x,
    "iter": lambda x: x * sum(ix),
    "float": lambda x: x * float(ix),
    "index": lambda x: x * [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0][ix],
    "mul": lambda x: ix * x,
    "rmul": lambda x: x * ix,
    "not": lambda x: x * 2 if not ix else x,
    "and": lambda x: x * 2 if (ix and True) else x,
}.items():
    case("dunder " + nm, f, lambda: setattr(Idx, "v", 5.0), lambda: setattr(Idx, "v", 2.0))


class CL:
    k = 2.0

    @classmethod
    def c(cls, x):
        return x * cls.k

    @staticmethod
    def s(x):
        return x * CL.k


case("classmethod", CL.c, lambda: setattr(CL, "k", 5.0), lambda: setattr(CL, "k", 2.0))
case("staticmethod", CL.s, lambda: setattr(CL, "k", 5.0), lambda: setattr(CL, "k", 2.0))


class Sub(CL):
    pass


case("inherit shadow", lambda x: Sub.c(x), lambda: setattr(Sub, "k", 9.0))


class B1:
    q = 2.0


class B2:
    q = 5.0


class BB(B1):
    pass


bb = BB()
case("bases", lambda x: x * bb.q, lambda: setattr(BB, "__bases__", (B2,)))
case(
    "math const",
    lambda x: x * math.pi,
    lambda: setattr(math, "pi", 2.0),
    lambda: setattr(math, "pi", 3.141592653589793),
)
case(
    "F.silu code",
    lambda x: F.silu(x),
    lambda: setattr(F, "silu", lambda x: x * 3),
    lambda: setattr(F, "silu", SIL),
)
SIL = F.silu
SC = F.silu.__code__
case(
    "F.silu __code__",
    lambda x: F.silu(x),
    lambda: setattr(F.silu, "__code__", (lambda input, inplace=False: input * 3).__code__),
    lambda: setattr(F.silu, "__code__", SC),
)
SD = F.softplus
case(
    "a flag of torch",
    lambda x: x * (2 if torch.utils.deterministic.fill_uninitialized_memory else 3),
    lambda: setattr(torch.utils.deterministic, "fill_uninitialized_memory", False),
    lambda: setattr(torch.utils.deterministic, "fill_uninitialized_memory", True),
)
case(
    "num threads",
    lambda x: x * torch.get_num_threads(),
    lambda: torch.set_num_threads(1),
    lambda: torch.set_num_threads(2),
)
case(
    "grad enabled",
    lambda x: x * 2 if torch.is_grad_enabled() else x * 3,
    lambda: torch.set_grad_enabled(False),
    lambda: torch.set_grad_enabled(True),
)
case(
    "torch.finfo",
    lambda x: x * torch.finfo(x.dtype).eps,
    lambda: setattr(torch, "finfo", lambda d: types.SimpleNamespace(eps=3.0)),
    lambda: setattr(torch, "finfo", TF),
)
TF = torch.finfo
case(
    "isinstance", lambda x: x * 2 if isinstance(x, AB) else x * 3, lambda: AB.register(torch.Tensor)
)


class AB(abc.ABC):
    pass


case("hasattr", lambda x: x * 2 if hasattr(HA, "zz") else x * 3, lambda: setattr(HA, "zz", 1))


class HA:
    pass


case("getattr default", lambda x: x * getattr(HA, "zzz", 2.0), lambda: setattr(HA, "zzz", 5.0))
case("vars", lambda x: x * vars(HV)["a"], lambda: setattr(HV, "a", 5.0))


class HV:
    a = 2.0


case("dir", lambda x: x * len(dir(HA)), lambda: setattr(HA, "nn", 1))


settings = types.ModuleType("settings")
settings.alpha = 2.0


class Settings(types.ModuleType):
    @property
    def alpha(self):
        return 5.0


case(
    "the class of a module",
    lambda x: x * settings.alpha,
    lambda: setattr(settings, "__class__", Settings),
)


class Becomes:
    v = 2.0


class HasOne:
    d = Becomes()


has_one = HasOne()
for nm, holder in {"an instance": has_one, "a class": HasOne}.items():
    case(
        f"becomes a descriptor, of {nm}",
        lambda x, holder=holder: x * holder.d.v,
        lambda: setattr(Becomes, "__get__", lambda s, o, t: types.SimpleNamespace(v=9.0)),
        lambda: delattr(Becomes, "__get__"),
    )
zeros = [complex(1, 0.0)]
case(
    "the sign of a complex 0",
    lambda x: x * math.copysign(2.0, zeros[0].imag),
    lambda: zeros.__setitem__(0, complex(1, -0.0)),
)


scale = torch.tensor([0.1, 0.2, 0.3])
case(
    "a method of a tensor", lambda x: x * scale.tanh(), lambda: setattr(scale, "tanh", lambda: 3.0)
)

"""What tracers have got wrong, each kind with its neighbours: fused is as plain, or an error."""

import concurrent.futures
import contextlib
import contextvars
import functools
import gc
import inspect
import sys
import types
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.dlpack import from_dlpack, to_dlpack  # type: ignore[attr-defined]

import fusedgrad
import state_changes
from fusedgrad import FuseError
from fusedgrad.fuse import compile as compilation
from fusedgrad.fuse import proof

X = torch.tensor([0.5, -1.0, 2.0])
Function = Callable[..., Any]


def _same(function: Function, *arguments: Any, fused: Any = None) -> None:
    """Value, dtype, requires_grad and gradients, of two calls."""
    fused = fused or fusedgrad.fuse(function)
    for _ in range(2):
        results = []
        for call in (function, fused):
            own = [
                a.detach().clone().requires_grad_(a.requires_grad) if isinstance(a, Tensor) else a
                for a in arguments
            ]
            result = call(*own)
            leaves = [a for a in own if isinstance(a, Tensor) and a.requires_grad]
            grads: Any = ()
            if result.requires_grad:
                grads = torch.autograd.grad(result.sum(), leaves, allow_unused=True)
            results.append((result.detach(), result.requires_grad, result.dtype, grads))
        (plain, *rest), (got, *others) = results
        torch.testing.assert_close(got, plain)
        assert rest[:2] == others[:2]
        for ours, theirs in zip(others[2], rest[2], strict=True):
            assert (ours is None) == (theirs is None)
            if ours is not None:
                torch.testing.assert_close(ours, theirs)


# ------------------------------------------------------------------------------------- grad modes


@torch.no_grad()
def _weight(x: Tensor) -> Tensor:
    return torch.sigmoid(x)


def _blocked(context: Callable[[], Any]) -> Function:
    def f(x: Tensor) -> Tensor:
        with context():
            w = torch.sigmoid(x)
        return w * x

    return f


def _in_place_without_record(x: Tensor) -> Tensor:
    y = x * 3
    with torch.no_grad():
        y.mul_(2)
    return y * x


GRAD_MODES: list[Function] = [
    _blocked(torch.no_grad),
    _blocked(torch.enable_grad),
    _blocked(lambda: torch.set_grad_enabled(False)),
    lambda x: _weight(x) * x,
    lambda x: torch.sigmoid(x).detach() * x,
    lambda x: (x.detach() * 2) + torch.no_grad()(torch.tanh)(x),
    lambda x: x * 2 if torch.is_grad_enabled() else x * 3,
    lambda x: x * 2 if (x * 1).requires_grad else x * 3,
    _in_place_without_record,
]


@pytest.mark.parametrize("outside", [contextlib.nullcontext, torch.no_grad])
@pytest.mark.parametrize("function", GRAD_MODES)
def test_grad_modes_inside(function: Function, outside: Any) -> None:
    with outside():
        _same(function, X.clone().requires_grad_())


def test_a_blocked_gradient_is_none_and_no_zeros() -> None:
    x, w = X.clone().requires_grad_(), torch.ones(3, requires_grad=True)
    fusedgrad.fuse(lambda x, w: x * w.detach())(x, w).sum().backward()
    assert w.grad is None


# ----------------------------------------------------------------- type, identity and attributes

BRANCHES: dict[str, tuple[Function, tuple[Any, ...]]] = {
    "float": (lambda x, a: x * a if isinstance(a, float) else x * 0, (X, 2.0)),
    "tensor": (lambda x: x * 2 if isinstance(x, torch.Tensor) else x * 0, (X,)),
    "type": (lambda x: x * 2 if type(x) is torch.Tensor else x * 0, (X,)),
    "parameter": (
        lambda x: x * 2 if isinstance(x, nn.Parameter) else x * 3,
        (nn.Parameter(X.clone()),),
    ),
    "dtype": (lambda x: x + (1 if x.dtype is torch.float32 else 2), (X,)),
    "one object": (lambda x, y: x * 2 if x is y else x * 3, (X, X)),
    "attribute": (lambda x: x * 2 if hasattr(x, "scale") else x * 3, (X,)),
    "leaf": (lambda x: x * 2 if x.is_leaf else x * 3, (X,)),
    "device": (lambda x: x * 2 if x.device.type == "cpu" else x * 3, (X,)),
    "result's device": (lambda x: x * 2 if (x * x).is_cpu else x * 3, (X,)),
    "finfo": (lambda x: x * torch.finfo(x.dtype).eps, (X,)),
    "floating": (lambda x: x * 2 if x.is_floating_point() else x * 3, (X,)),
    "number": (lambda x, a: x * a if type(a) is np.float32 else x, (X, np.float32(3))),
}


@pytest.mark.parametrize("name", BRANCHES)
def test_branches_see_what_they_see_without_fuse(name: str) -> None:
    function, arguments = BRANCHES[name]
    expected = function(*arguments)
    fused = fusedgrad.fuse(function)
    for _ in range(2):
        torch.testing.assert_close(fused(*arguments), expected)


def test_the_same_object_or_not_is_told_apart_on_each_call() -> None:
    f = fusedgrad.fuse(lambda x, y: x * 2 if x is y else x * 3)
    assert f(X, X).tolist() == (X * 2).tolist()
    assert f(X, X.clone()).tolist() == (X * 3).tolist()
    assert f(X, X).tolist() == (X * 2).tolist()


def test_dictionaries_keyed_by_tensors() -> None:
    scales = {X: 2.0}
    f = fusedgrad.fuse(lambda x: x * scales[x])
    assert f(X).tolist() == (2 * X).tolist()


# ----------------------------------------------------------------------------------------- integers

I = torch.tensor([16_777_216, 16_777_217, 16_777_218])  # noqa: E741
M = torch.tensor([True, True, False])
N = torch.tensor([True, False, False])
U = torch.tensor([0, 128, 255], dtype=torch.uint8)
INTEGERS: dict[str, tuple[Function, tuple[Tensor, ...]]] = {
    "difference": (lambda a, b: torch.sigmoid(a - b), (I + 1, I)),
    "product with a float": (lambda a, b, x: (a - b) * x, (I + 1, I, X)),
    "comparison": (lambda a, x: torch.where(a == 16_777_217, x, 0.0), (I, X)),
    "beyond 2^53": (lambda a, b, x: (a - b) * x, (I * 10**10 + 1, I * 10**10, X.double())),
    "bool sum": (lambda m, n, x: (m + n) * x, (M, N, X)),
    "sum of comparisons": (lambda x: ((x > 0) + (x > 0.5)) * x, (X,)),
    "wraps around": (lambda u: (u - 128) / 128.0, (U,)),
    "mask": (lambda x, m: torch.where(m, x, 0.0), (X, M)),
    "inverted mask": (lambda x, m: torch.where(~m, x, 0.0), (X, M)),
    "masks": (lambda x, m, n: torch.where(m & ~n | (x > 1), x, -x), (X, M, N)),
    "of a comparison": (lambda x, i: (x > 0).long() * i + x, (X, I)),
    "remainder": (lambda x, i: x * (i % 3), (X, I)),
    "floor": (lambda x, i: x * (i // 5), (X, I)),
    "result": (lambda i: i * 3 + 1, (I,)),
    "cast": (lambda x, i: x * i.to(torch.float64), (X, I)),
    "true division": (lambda i: i / 3, (I,)),
    "exclusive or": (lambda x, m, n: x * (m ^ n), (X, M, N)),
}


def _after_use(x: Tensor, i: Tensor) -> Tensor:
    doubled = i + 1
    y = x * doubled
    doubled += 2
    doubled -= i
    return y + doubled


def _mask_after_use(x: Tensor, m: Tensor, n: Tensor) -> Tensor:
    mask = ~n
    y = torch.where(mask, x, 0.0)
    mask &= m
    return y + torch.where(mask, x, 2 * x)


INTEGERS["in place, after use"] = (_after_use, (X, torch.tensor([1, 2, 3])))
INTEGERS["a mask in place, after use"] = (_mask_after_use, (X, M, N))


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_and_bools_are_pytorchs(name: str) -> None:
    function, arguments = INTEGERS[name]
    expected = function(*arguments)
    fused = fusedgrad.fuse(function)
    for _ in range(2):
        got = fused(*arguments)
        assert got.dtype is expected.dtype
        torch.testing.assert_close(got, expected)


def test_integers_to_a_negative_power_are_pytorchs_error() -> None:
    with pytest.raises(RuntimeError, match="negative integer powers"):
        fusedgrad.fuse(lambda i: (i**-1) * 1.0)(I)


JUMPS: dict[str, Callable[[Any, float], Any]] = {
    "eq": lambda x, c: torch.where(x == c, 2.0, x),
    "lt": lambda x, c: torch.where(c > x, 2.0, x),
    "ge": lambda x, c: torch.where(torch.ge(input=x, other=c), x, -x),
    "clamp": lambda x, c: torch.clamp(x, -c, c),
    "clamp_min": lambda x, c: x.clamp_min(c),
    "remainder": lambda x, c: x % c,
    "fmod": lambda x, c: torch.fmod(x, c),
    "hardshrink": lambda x, c: F.hardshrink(x, c),
}


@pytest.mark.parametrize("name", JUMPS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_number_is_compared_in_the_dtype_of_the_tensor(dtype: torch.dtype, name: str) -> None:
    numbers = [0.1, 0.3, 0.7]  # above and below what they are rounded to
    x = torch.tensor([*numbers, -0.1, -0.3, -0.7], dtype=dtype, requires_grad=True)
    fused = fusedgrad.fuse(JUMPS[name])
    for number in numbers:  # the third of them as a parameter
        _same(JUMPS[name], x, number, fused=fused)


OF_TENSORS: dict[str, Callable[[Any, Any], Any]] = {
    "eq": lambda x, t: torch.where(x == t, 2.0, x),
    "computed": lambda x, t: torch.where(x == t * 1, 2.0, x) * t,
    "reflected": lambda x, t: torch.where(t > x, 2.0, x),
    "clamp": lambda x, t: torch.clamp(x, max=t) * t,
    "both bounds": lambda x, t: torch.clamp(x, t, 2 * t),
    "in place": lambda x, t: (x * 1).clamp_(max=t),
    "remainder": lambda x, t: x % t,
    "maximum": lambda x, t: torch.maximum(x, t),
    "fmin": lambda x, t: torch.fmin(x, other=t),
    "floor": lambda x, t: torch.div(x, t, rounding_mode="floor"),
    "floor_divide": lambda x, t: x.detach() // t.detach() * x,
}


@pytest.mark.parametrize("name", OF_TENSORS)
@pytest.mark.parametrize(
    ("dtype", "wider"), [(torch.float16, torch.float32), (torch.float32, torch.float64)]
)
def test_a_tensor_without_dimensions_is_compared_in_the_dtype_of_the_others(
    dtype: torch.dtype, wider: torch.dtype, name: str
) -> None:
    x = torch.tensor([0.1, 0.2, 0.3, 0.7], dtype=dtype, requires_grad=True)
    f = OF_TENSORS[name]
    fused = fusedgrad.fuse(f)
    for number in (0.1, 0.3, 0.7):
        _same(f, x, torch.tensor(number, dtype=wider), fused=fused)
    t = torch.tensor(0.1, dtype=wider, requires_grad=True)
    expected = torch.autograd.grad(f(x, t).sum(), (x, t), allow_unused=True)
    # A half's remainder has a rounded quotient for its derivative in PyTorch.
    if expected[1] is not None and dtype is torch.float32:
        found = fused.value_and_grad(x, t)[1]
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(fused.derivative(1)(x, t).sum().to(wider), expected[1])


def test_a_number_is_compared_in_float32_beside_float64() -> None:
    x = torch.tensor([0.1, 0.2], requires_grad=True)

    def f(x: Tensor, c: float) -> Tensor:
        return torch.where(x == c, x.double(), 0.0)

    fused = fusedgrad.fuse(f)
    _same(f, x, 0.1, fused=fused)
    with pytest.raises(FuseError, match="changes from call to call"):
        fused(x, 0.2)


# ------------------------------------------------------------------------------- state from outside


class _Config:
    alpha = 2.0


class _Base:
    alpha = 2.0

    @property
    def beta(self) -> float:
        return self.alpha + 1


class _Derived(_Base):
    def by_super(self, x: Tensor) -> Tensor:
        return super().alpha * x

    def by_property(self, x: Tensor) -> Tensor:
        return self.beta * x


class _Slots:
    __slots__ = ("alpha",)

    def __init__(self) -> None:
        self.alpha = 2.0

    def __call__(self, x: Tensor) -> Tensor:
        return self.alpha * x


def _scale(config: Any, x: Tensor) -> Tensor:
    return cast(Tensor, config.alpha * x)


def _defaults(x: Tensor, a: float = 2.0, *, b: float = 3.0) -> Tensor:
    return a * x + b


SETTINGS = types.ModuleType("settings")
TABLE: dict[str, list[float]] = {"a": [2.0]}
VARIABLE = contextvars.ContextVar("VARIABLE", default=2.0)


def _changes() -> dict[str, tuple[Function, Callable[[], Any]]]:
    SETTINGS.alpha = 2.0  # type: ignore[attr-defined]
    _Config.alpha = _Base.alpha = 2.0
    _defaults.__defaults__, _defaults.__kwdefaults__ = (2.0,), {"b": 3.0}
    TABLE["a"] = [2.0]
    VARIABLE.set(2.0)
    hooked, slots, plain = nn.Tanh(), _Slots(), types.SimpleNamespace(alpha=2.0)

    def by_alias(x: Tensor) -> Tensor:
        c = _Config
        return c.alpha * x

    def add_hook() -> None:
        hooked.register_forward_hook(lambda module, inputs, output: output * 2)

    return {
        "a class under another name": (by_alias, lambda: setattr(_Config, "alpha", 5.0)),
        "a module handed on": (
            lambda x: _scale(SETTINGS, x),
            lambda: setattr(SETTINGS, "alpha", 5.0),
        ),
        "a partial": (functools.partial(_scale, _Config), lambda: setattr(_Config, "alpha", 8.0)),
        "super": (_Derived().by_super, lambda: setattr(_Base, "alpha", 6.0)),
        "a property": (_Derived().by_property, lambda: setattr(_Base, "alpha", 6.0)),
        "a hook": (hooked, add_hook),
        "a slot": (slots, lambda: setattr(slots, "alpha", 7.0)),
        "a namespace": (lambda x: x * plain.alpha, lambda: setattr(plain, "alpha", 7.0)),
        "vars": (lambda x: x * vars(plain)["alpha"], lambda: setattr(plain, "alpha", 7.0)),
        "a default": (_defaults, lambda: setattr(_defaults, "__defaults__", (4.0,))),
        "a keyword's default": (
            _defaults,
            lambda: cast(Any, _defaults).__kwdefaults__.update(b=9.0),
        ),
        "an item": (lambda x: x * TABLE["a"][0], lambda: TABLE["a"].__setitem__(0, 9.0)),
        "a longer list": (lambda x: x * sum(TABLE["a"]), lambda: TABLE["a"].append(9.0)),
        "a loop": (lambda x: x * len([v for v in TABLE["a"]]), lambda: TABLE["a"].append(9.0)),  # noqa: C416
        "a context variable": (lambda x: x * VARIABLE.get(), lambda: VARIABLE.set(3.0)),
        "its code": (
            _defaults,
            lambda: setattr(_defaults, "__code__", (lambda x, a, *, b: x - a + b).__code__),
        ),
    }


@pytest.mark.parametrize("name", _changes())
def test_a_change_outside_is_seen(name: str) -> None:
    code = _defaults.__code__
    function, change = _changes()[name]
    try:
        fused = fusedgrad.fuse(function)
        for _ in range(3):
            torch.testing.assert_close(fused(X), function(X))
        before = fused(X)
        change()
        for _ in range(3):
            torch.testing.assert_close(fused(X), function(X))
        assert not torch.equal(before, fused(X))
    finally:
        _defaults.__code__ = code
        _changes()


@pytest.mark.sampled(4)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", state_changes.CASES)
def test_a_change_of_any_kind_is_seen(name: str) -> None:
    function, change, undo = state_changes.CASES[name]
    fused = fusedgrad.fuse(function)
    try:
        for call in range(6):
            if call == 3:
                change()
            right: Any = None
            try:
                right = function(X)
            except Exception as error:
                with pytest.raises(type(error)):
                    fused(X)
                continue
            found = fused(X)
            torch.testing.assert_close(found, right, equal_nan=True)
            assert found.requires_grad == right.requires_grad
    finally:
        if undo is not None:
            undo()


def test_each_rule_of_the_whitelist_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a guard left out, or one wrong function known as plain, a stale value comes out."""

    def stale(function: Function, change: Callable[[], Any]) -> bool:
        fused = fusedgrad.fuse(function)
        fused(X)
        fused(X)
        change()
        return not torch.equal(fused(X), function(X))

    cases = {
        "item": _changes()["a class under another name"],
        "attribute": _changes()["a slot"],
    }
    for guard, case in cases.items():
        with monkeypatch.context() as broken:
            broken.setattr(proof.Guards, guard, lambda *_: None)
            assert stale(*case), guard
    calls = iter(range(1, 100))

    def count() -> int:
        return next(calls)

    with monkeypatch.context() as broken:
        broken.setattr(proof.Prover, "run", lambda self, f, a, k: f(*a, **k))
        assert stale(lambda x: x * VARIABLE.get(), lambda: VARIABLE.set(3.0))
    _changes()
    assert not stale(lambda x: x * (count() * 0 + 1), lambda: None)


def test_explain_says_why_a_function_runs_again() -> None:
    served = fusedgrad.fuse(lambda x: torch.tanh(x) * _Config.alpha)
    assert "served without running again" in served.explain(X)
    again = fusedgrad.fuse(lambda x: x * VARIABLE.get())
    assert "runs again on each call: ContextVar" in again.explain(X)


def test_effects_happen_on_each_call() -> None:
    seen: list[int] = []

    def f(x: Tensor) -> Tensor:
        seen.append(1)
        return x * len(seen)

    fused = fusedgrad.fuse(f)
    for i in range(1, 5):
        assert fused(X).tolist() == (X * i).tolist()
        assert len(seen) == i


def test_a_grad_mode_that_is_left_behind_is_left_on_each_call() -> None:
    @fusedgrad.fuse
    def f(x: Tensor) -> Tensor:
        torch.set_grad_enabled(False)
        return x * 2

    for _ in range(3):
        with torch.enable_grad():
            assert not f(X).requires_grad
            assert not torch.is_grad_enabled()


# ------------------------------------------------------------------------------------------ kernels


def _gradients(function: Function) -> list[Any]:
    x = torch.tensor([-1.0, 0.0, 1.0], requires_grad=True)
    z = torch.tensor([-1.0, 0.0, 2.0], requires_grad=True)
    return [g.tolist() for g in torch.autograd.grad(function(x, z).sum(), (x, z))]


def test_kernels_of_one_text_have_their_own_gradients() -> None:
    pairs: list[Function] = [
        lambda x, z: torch.clamp(x, min=z),
        lambda x, z: torch.maximum(x, z),
        lambda x, z: torch.clamp(x, max=z),
        lambda x, z: torch.minimum(x, z),
        lambda x, z: x * z,
        lambda x, z: x * z.detach() + 0 * z,
    ]
    for function in pairs:
        assert _gradients(fusedgrad.fuse(function)) == _gradients(function)


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> list[str]:
    monkeypatch.setenv("FUSEDGRAD_CACHE_DIR", str(tmp_path))
    made: list[str] = []
    compiled = compilation._compiled

    def counted(command: Any, source: str) -> bytes:
        made.append(source)
        return compiled(command, source)

    monkeypatch.setattr(compilation, "_compiled", counted)
    return made


ANNEALED: dict[str, Function] = {
    "quotient": lambda x, a: torch.sigmoid(x / a) * torch.tanh(x),
    "exponent": lambda x, a: (1 + x * x) ** a,
    "bound": lambda x, a: torch.clamp(x, -a, a) * 0.75,
    "threshold": lambda x, a: torch.where(x > a, x, 0.25 * x),
    "both": lambda x, a: a * torch.tanh(x * (1 - a)),
    "int": lambda x, a: x * round(100 * a),
}


@pytest.mark.parametrize("name", ANNEALED)
def test_a_number_that_changes_is_compiled_twice(compilations: list[str], name: str) -> None:
    function = ANNEALED[name]
    fused = fusedgrad.fuse(function)
    value = 0.9
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(30):
            torch.testing.assert_close(fused(X, value), function(X, value))
            value *= 0.97
    assert len(compilations) <= 2
    assert len(fused._structures) == 1


def test_a_derivative_that_is_taken_in_each_call_is_one(compilations: list[str]) -> None:
    fused = fusedgrad.fuse(lambda x, a: torch.tanh(x) * a * 0.625)
    for a in (0.5, 1.5, 2.5, 3.5):
        found = fused.derivative(0)(X, a)
        torch.testing.assert_close(found, 0.625 * a / torch.cosh(X) ** 2)
    assert len(compilations) <= 2


@pytest.mark.parametrize("name", ["round", "polygamma", "mvlgamma"])
def test_an_int_that_names_another_operation_may_change(name: str) -> None:
    functions: dict[str, Callable[[Tensor, int], Tensor]] = {
        "round": lambda x, n: torch.round(x * 1.2345, decimals=n),
        "polygamma": lambda x, n: torch.polygamma(n, x + 2),
        "mvlgamma": lambda x, n: torch.mvlgamma(x + 5, n),
    }
    function = functions[name]
    fused = fusedgrad.fuse(function)
    for n in (1, 2, 1, 3):
        torch.testing.assert_close(fused(X, n), function(X, n))


def test_ten_thousand_numbers_take_no_memory_and_no_more_entries(
    compilations: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSEDGRAD_CACHE_DIR", str(tmp_path))
    annealed = types.SimpleNamespace(tau=1.0)
    by_state = fusedgrad.fuse(lambda x: torch.sigmoid(x / annealed.tau))
    by_argument = fusedgrad.fuse(lambda x, tau, n: torch.tanh(x * tau) ** n)

    def steps(first: int, last: int) -> None:
        for step in range(first, last):
            annealed.tau = 1 / step
            by_state(X)
            by_argument(X, 0.5 * step, step % 7 + 2)

    steps(1, 1000)
    count, files = len(compilations), len(list(tmp_path.rglob("*")))
    steps(1000, 3000)
    gc.collect()
    before = sys.getallocatedblocks()
    steps(3000, 10_000)
    gc.collect()
    grown = sys.getallocatedblocks() - before
    assert count <= 4
    assert len(compilations) == count
    assert len(list(tmp_path.rglob("*"))) == files
    assert grown < 500, grown


# What PyTorch computes a part of again on each call
REPLAYED: dict[str, Function] = {
    "integers": lambda x: torch.tanh(x) * ((x > 0).int() + 1),
    "sums": lambda x: torch.tanh(x).sum() / (x > 0).sum(),
    "in place": lambda x: torch.tanh(x).add_(x),
}


@pytest.mark.parametrize("name", REPLAYED)
def test_what_is_served_keeps_no_argument_alive(name: str) -> None:
    fused = fusedgrad.fuse(REPLAYED[name])
    x = X.clone()
    refers = weakref.ref(x)
    for _ in range(3):
        fused(x)
    del x
    gc.collect()
    assert refers() is None
    _same(REPLAYED[name], X, fused=fused)
    assert "without running again" in fused.explain(X)


def test_what_is_served_goes_with_its_objects() -> None:
    scaled = fusedgrad.fuse(lambda x, by: by.alpha * x)
    for _ in range(20):  # at the same few addresses
        module = _Gate()
        refers = weakref.ref(module)
        for module.alpha in (2.0, 2.0, 3.0, 3.0):
            torch.testing.assert_close(module.gate(X), module.alpha * torch.tanh(X))
            torch.testing.assert_close(scaled(X, module), module.alpha * X)
        del module
        gc.collect()
        assert refers() is None
    assert not scaled._entries
    assert not vars(_Gate)["gate"]._entries


@pytest.mark.usefixtures("without_compiler")
def test_a_structure_that_keeps_changing_is_told_once_and_stays_right() -> None:
    def f(x: Tensor, n: int) -> Tensor:
        for _ in range(n):
            x = torch.tanh(x)
        return x

    fused = fusedgrad.fuse(f)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for n in range(1, 80):
            torch.testing.assert_close(fused(X, n), f(X, n))
    assert sum("different things" in str(w.message) for w in caught) == 1


# -------------------------------------------------------------------------------- ways of writing


class _Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.alpha = 2.0
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("shift", torch.full((3,), 0.5))
        self.act = nn.Tanh()

    @fusedgrad.fuse
    def gate(self, x: Tensor) -> Any:
        return self.alpha * torch.tanh(x)

    @classmethod
    @fusedgrad.fuse
    def of_class(cls, x: Tensor) -> Any:
        return torch.tanh(x) * 3

    @staticmethod
    @fusedgrad.fuse
    def static(x: Tensor) -> Any:
        return torch.tanh(x) * 4

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x * self.weight) + self.shift  # type: ignore[no-any-return]


def test_methods_of_every_kind() -> None:
    module = _Gate()
    for got, scale in ((module.gate(X), 2), (module.of_class(X), 3), (module.static(X), 4)):
        torch.testing.assert_close(got, scale * torch.tanh(X))
    module.alpha = 5.0
    torch.testing.assert_close(module.gate(X), 5 * torch.tanh(X))
    value, (slope,) = module.gate.value_and_grad(X)
    torch.testing.assert_close(value, 5 * torch.tanh(X))
    torch.testing.assert_close(slope, 5 * (1 - torch.tanh(X) ** 2))
    assert "tanh(x)" in str(module.gate)


def test_a_bound_method_is_one() -> None:
    class Gate:
        @fusedgrad.fuse
        def act(self, x: Tensor, a: float = 2.0) -> Tensor:
            return torch.tanh(x) * a

    gate, other = Gate(), Gate()
    assert gate.act == gate.act != other.act
    assert len({gate.act, gate.act, other.act}) == 2
    assert gate.act.__self__ is gate
    assert gate.act.__func__ is Gate.act
    assert list(inspect.signature(gate.act).parameters) == ["x", "a"]


def test_a_tensor_that_is_returned_twice_is_one() -> None:
    @fusedgrad.fuse
    def f(x: Tensor) -> tuple[Tensor, list[Tensor]]:
        y = torch.tanh(x)
        return y, [y, y * 2]

    for _ in range(3):
        first, (second, _) = f(X)
        assert first is second
    x = X.clone().requires_grad_()
    _, (grad,) = f.value_and_grad(x)
    torch.testing.assert_close(grad.detach(), 4 / torch.cosh(X) ** 2)


def test_a_module_gives_gradients_to_its_parameters() -> None:
    module = _Gate()
    fused = fusedgrad.fuse(module)
    for _ in range(2):
        module.weight.grad = None
        fused(X).sum().backward()
        got = module.weight.grad
        module.weight.grad = None
        module(X).sum().backward()
        torch.testing.assert_close(got, module.weight.grad)
    module.weight = nn.Parameter(torch.full((3,), 2.0))
    torch.testing.assert_close(fused(X), module(X))


@dataclass
class _Record:
    x: Tensor
    scale: float


class _Pair(NamedTuple):
    first: Tensor
    second: Tensor


def test_arguments_and_results_of_any_shape() -> None:
    f = fusedgrad.fuse(lambda a, *b, c=2.0, **d: a * c + sum(b) + d.get("e", 0))
    torch.testing.assert_close(f(X, X, c=3.0, e=X), 5 * X)
    torch.testing.assert_close(f(X), 2 * X)
    g = fusedgrad.fuse(lambda r, d: {"a": r.x * r.scale, "b": _Pair(d["y"][0], d["y"][1] * 2)})
    for scale in (2.0, 3.0):
        result = g(_Record(X, scale), {"y": [X, X]})
        torch.testing.assert_close(result["a"], scale * X)
        assert result["b"].first is X
        torch.testing.assert_close(result["b"].second, 2 * X)


def test_in_place_on_an_intermediate_is_an_ordinary_operation() -> None:
    def f(x: Tensor) -> Tensor:
        y = x * 3
        y += 1
        y.mul_(x).sigmoid_()
        return F.relu(y * 2, inplace=True)

    _same(f, X.clone().requires_grad_())


def test_jit_trace_and_compile() -> None:
    f = fusedgrad.fuse(lambda x: torch.tanh(x) * x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for function in (f, f.derivative(0), fusedgrad.activations.silu):
            traced = torch.jit.trace(function, X)  # type: ignore[no-untyped-call]
            torch.testing.assert_close(traced(X), function(X))
    compiled = torch.compile(f.derivative(0), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(X), f.derivative(0)(X))


# ----------------------------------------------------------------------------------------- refusals


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.sign(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return -grads[0]


def _scripted(x: Tensor) -> Tensor:
    return torch.tanh(x) * 2


REFUSED: dict[str, Function] = {
    "a custom Function": lambda x: _StraightThrough.apply(x) * x,  # type: ignore[no-untyped-call]
    "of a result": lambda x: _Reversed.apply(x * 2) * x,  # type: ignore[no-untyped-call]
    "of an argument": lambda x: _Reversed.apply(x) * x,  # type: ignore[no-untyped-call]
    "a checkpoint": lambda x: checkpoint(torch.tanh, x, use_reentrant=False),
    "a derivative": lambda x: torch.autograd.grad(torch.tanh(x).sum(), x)[0],
    "a transform": lambda x: torch.func.grad(lambda t: torch.tanh(t).sum())(x),
    "a reduction": lambda x: x.sum() * x,
    "a shape": lambda x: x * x.shape[0],
    "a value": lambda x: x if x.sum() > 0 else -x,
    "an item": lambda x: x * x[0],
    "numpy": lambda x: np.exp(x),
    "random": lambda x: F.dropout(x),
    "an argument in place": lambda x: x.add_(1),
    "a real part": lambda x: x.real,
    "a complex number": lambda x: x.to(torch.complex64),
    "of a complex number": lambda x: x.to(torch.complex64).abs(),
    "a transpose": lambda x: x.T,
    "a hook": lambda x: (x * 2).register_hook(print),
    "DLPack": lambda x: from_dlpack(x * 2),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_elementwise_is_a_fuse_error(name: str) -> None:
    x = X.clone().requires_grad_()
    with pytest.raises(FuseError):
        fusedgrad.fuse(REFUSED[name])(x)
    gc.collect()  # a checkpoint of PyTorch 2.11 leaves its hooks until the error's frames are gone
    assert x.tolist() == X.tolist()
    assert x.grad is None


def test_a_scripted_function_of_an_argument_is_as_without_fuse() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(_scripted)
    _same(lambda x: scripted(x) * x, X.clone().requires_grad_())
    with pytest.raises(FuseError):
        fusedgrad.fuse(lambda x: scripted(x * 2) * x)(X)


# ------------------------------------------------- derivatives that the grad mode does not decide


class _Recording(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        with torch.enable_grad():
            return torch.tanh(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return 7 * grads[0]


def _hidden() -> dict[str, Function]:
    """Functions of which a part is differentiated by rules that the record does not have."""
    functions: dict[str, Any] = {}
    for kind in (_StraightThrough, _Reversed, _Recording):
        for name, inner in (("argument", lambda x: x), ("result", torch.sin)):
            functions[f"{kind.__name__} of an {name}"] = lambda x, k=kind, i=inner: (
                k.apply(i(x)) * x
            )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(_scripted)
    pool = concurrent.futures.ThreadPoolExecutor(1)
    return functions | {
        "a scripted function": lambda x: scripted(x) * x,
        "another thread": lambda x: pool.submit(torch.sin, x).result() * x,
        "a reentrant checkpoint": lambda x: checkpoint(torch.sin, x, use_reentrant=True) * x,
        "no_grad": lambda x: torch.no_grad()(torch.sin)(x) * x,
        "inference_mode": lambda x: torch.inference_mode()(torch.sin)(x) * x,
        "detach": lambda x: x.detach() * x,
        "in place without a record": _in_place_without_record,
        "a capsule": lambda x: x * from_dlpack(to_dlpack(x * 2)),
    }


def _of_autograd(function: Function, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x).sum(), x)[0]


# Each derivative of a fused function, and PyTorch's own of a plain one
DERIVATIVES: dict[str, tuple[Function, Function]] = {
    "value_and_grad": (lambda f, x: f.value_and_grad(x)[1][0], _of_autograd),
    "derivative": (lambda f, x: f.derivative(0)(x), _of_autograd),
    "backward": (_of_autograd, _of_autograd),
    "grad": 2 * (lambda f, x: torch.func.grad(lambda t: f(t).sum())(x),),
    "jvp": 2 * (lambda f, x: torch.func.jvp(f, (x,), (torch.ones_like(x),))[1],),
    "grad of jvp": 2
    * (
        lambda f, x: torch.func.grad(
            lambda t: torch.func.jvp(f, (t,), (torch.ones_like(t),))[1].sum()
        )(x),
    ),
}


@pytest.mark.parametrize("outside", [contextlib.nullcontext, torch.no_grad])
@pytest.mark.parametrize("kind", DERIVATIVES)
@pytest.mark.parametrize("name", _hidden())
def test_every_derivative_is_pytorchs_or_refused(name: str, kind: str, outside: Any) -> None:
    function = _hidden()[name]
    ours, theirs = DERIVATIVES[kind]
    errors: tuple[type[Exception], ...] = (FuseError,)
    right = None
    try:
        right = theirs(function, X)
    except (RuntimeError, BufferError):  # as of a Function without setup_context, by a transform
        errors = (FuseError, RuntimeError, BufferError)
    with contextlib.suppress(*errors):
        with outside() if kind in ("value_and_grad", "derivative") else contextlib.nullcontext():
            found = ours(fusedgrad.fuse(function), X)
        torch.testing.assert_close(found, right)


def test_gradients_under_no_grad_inside_are_refused_by_none() -> None:
    """What the rules above must not refuse: PyTorch's own ways of leaving a gradient out."""
    for name in ("no_grad", "detach", "in place without a record"):
        f = fusedgrad.fuse(_hidden()[name])
        torch.testing.assert_close(f.derivative(0)(X), _of_autograd(_hidden()[name], X))


def test_an_error_of_tokens_alone_is_a_fuse_error() -> None:
    def capsule(x: Tensor) -> Tensor:
        return x * from_dlpack(to_dlpack(x.detach() * 2))

    with pytest.raises(FuseError, match="BufferError where tensors have no values"):
        fusedgrad.fuse(capsule)(X)

    def own(x: Tensor) -> Tensor:
        raise KeyError(f"of the function itself: {x.dtype}")

    with pytest.raises(KeyError, match="of the function itself"):
        fusedgrad.fuse(own)(X)


def test_a_sum_at_the_end_is_served_as_a_sum() -> None:
    for function in (lambda x: x.sum(), lambda x: torch.tanh(x * 2).mean()):
        fused = fusedgrad.fuse(function)
        for _ in range(3):
            _same(function, X.clone().requires_grad_(), fused=fused)


@pytest.mark.slow
def test_a_compiled_function_inside_is_inlined() -> None:
    inner = torch.compile(lambda t: torch.tanh(t) * 2)
    module = torch.compile(torch.nn.Tanh())
    _same(lambda x: inner(x * 2) * x + module(x), X.clone().requires_grad_())
    assert torch._dynamo.eval_frame._stance.stance == "default"


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.half().float(),
        lambda x: x - x.bfloat16().float(),
        lambda x: (2 * x.half()).double(),
        lambda x: x.double().float().double(),
        lambda x: torch.where(x.half() > 0.1, x, 0),
    ],
)
def test_a_rounding_inside_is_refused(function: Function) -> None:
    with pytest.raises(FuseError, match="a cast has rounded"):
        fusedgrad.fuse(function)(X)


def test_a_cast_at_the_end_rounds() -> None:
    functions: list[Function] = [lambda x: (2 * x).half(), lambda x: 2 * x.bfloat16()]
    for function in functions:
        assert torch.equal(fusedgrad.fuse(function)(X), function(X))

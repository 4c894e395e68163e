"""`f.jet(order)`: against mpmath's Taylor coefficients, nested autograd and its own derivatives."""

import copy
import math
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fusedgrad
from benchmarks import accuracy_jets
from fusedgrad import FuseError
from fusedgrad.fuse import jet as taylor
from fusedgrad.fuse import kernel, prebuilt
from fusedgrad.fuse.expression import in_order
from test_fuse_random import _EXPRESSIONS

POINTS = 4
# Largest errors by order, over all functions and dtypes: docs/accuracy.md has them all
BOUNDS = (4.0, 11.0, 6.0, 6.0, 9.0, 9.0, 12.0, 12.0, 12.0)


@pytest.mark.sampled(8)
@pytest.mark.parametrize("case", accuracy_jets.CASES, ids=lambda case: case.name)
def test_jets_are_exact_in_the_range_and_in_both_tails(case: accuracy_jets.Case) -> None:
    for dtype in accuracy_jets.DTYPES:
        errors = accuracy_jets.errors(case, dtype, accuracy_jets.HIGHEST, POINTS)
        for error, bound in zip(errors, BOUNDS, strict=True):
            assert error.ulp <= bound, (dtype, errors)


def test_tails_hold_what_a_rounded_output_has_lost() -> None:
    jet = fusedgrad.fuse(lambda x: fusedgrad.tanh(x)).jet(3)
    x = torch.tensor([-25.0, 25.0])
    _, *got = jet((x, torch.ones(2)))
    slope = 4 * torch.exp(-2 * x.double().abs())
    for k, derivative in enumerate(got):
        expected = slope * (-2 * x.sign().double()) ** k
        torch.testing.assert_close(derivative.double(), expected, rtol=1e-6, atol=0)


# ---------------------------------------------------------------------------- nested autograd


def nested(function: Callable[..., Tensor], arguments: Sequence[Any], order: int) -> list[Tensor]:
    """By autograd through the curve, in float64."""
    shape = kernel.broadcast([a[0] if type(a) is tuple else a for a in arguments])
    time = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    moved = [
        sum(d * time**k / math.factorial(k) for k, d in enumerate(a)) if type(a) is tuple else a
        for a in arguments
    ]
    result = [function(*moved)]
    for _ in range(order):
        slope: Tensor | None = None
        if result[-1].requires_grad:
            (slope,) = torch.autograd.grad(
                result[-1].sum(), time, create_graph=True, allow_unused=True
            )
        result.append(torch.zeros_like(result[0]) if slope is None else slope)
    return result


def _close(got: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for k, (a, b) in enumerate(zip(got, expected, strict=True)):
        scale = max(1.0, b.detach().abs().max().item())
        torch.testing.assert_close(a / scale, b / scale, rtol=1e-10, atol=1e-10, msg=f"order {k}")


def _series(generator: torch.Generator, *lengths: int) -> list[Any]:
    def made() -> Tensor:
        return torch.randn(5, dtype=torch.float64, generator=generator)

    return [tuple(made() for _ in range(n + 1)) if n else made() for n in lengths]


@pytest.mark.sampled(6)
@pytest.mark.parametrize("number", range(0, 300, 25))
def test_random_functions_agree_with_nested_autograd(number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    function = _EXPRESSIONS[number]
    for order in (1, 3):
        lengths = random.Random(number).choice([(order, order), (order, 0), (1, order)])
        arguments = _series(generator, *lengths)
        got = fusedgrad.fuse(function).jet(order)(*arguments)
        _close(got, nested(function, arguments, order))


FUNCTIONS: dict[str, tuple[Callable[..., Tensor], int]] = {
    "two variables": (lambda x, z: torch.sigmoid(x**2 + z) + torch.tanh(x**3 * z**2), 2),
    "pow": (lambda x, z: (x * x + 0.5) ** z, 2),
    "quotient": (lambda x, z: torch.sin(x) / (1 + z * z), 2),
    "hypotenuse": (lambda x, z: torch.sqrt(x * x + z * z + 0.1), 2),
    "loss": (lambda x, z: F.binary_cross_entropy_with_logits(x, z, reduction="none"), 2),
    "pieces": (lambda x, z: torch.where(x > z, torch.exp(x) * z, torch.relu(z) + x.abs()), 2),
    "constants": (lambda x: (0.5 * torch.tanh(0.5 * x) + 1.25) / 3 - x.detach() * x**3, 1),
    "negative power": (lambda x: (x * x + 0.5) ** -2 + (x * x + 0.5) ** -1.5, 1),
    "gelu of tanh": (lambda x: F.gelu(x, approximate="tanh") * F.silu(x), 1),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("order", [2, 5])
def test_functions_agree_with_nested_autograd(name: str, order: int) -> None:
    function, count = FUNCTIONS[name]
    arguments = _series(torch.Generator().manual_seed(order), *[order] * count)
    _close(fusedgrad.fuse(function).jet(order)(*arguments), nested(function, arguments, order))


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", ["two variables", "gelu of tanh", "negative power"])
def test_gradients_of_jets(name: str) -> None:
    function, count = FUNCTIONS[name]
    arguments = _series(torch.Generator().manual_seed(1), *[2] * count)
    flat = [d.requires_grad_() for a in arguments for d in a]
    jet = fusedgrad.fuse(function).jet(2)

    def of(*rows: Tensor) -> Any:
        return jet(*(rows[i : i + 3] for i in range(0, len(rows), 3)))

    assert torch.autograd.gradcheck(of, flat)
    if count == 1:
        assert torch.autograd.gradgradcheck(of, flat)


def test_the_highest_order_and_its_gradient_of_three_arguments() -> None:
    """More operands than one kernel takes are several kernels."""

    def f(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return torch.sin(x * y) * torch.tanh(z + x)

    arguments = _series(torch.Generator().manual_seed(2), 6, 6, 6)
    flat = [d.requires_grad_() for a in arguments for d in a]
    assert len(flat) + 7 > 27
    got, expected = fusedgrad.fuse(f).jet(6)(*arguments), nested(f, arguments, 6)
    _close(got, expected)
    weights = torch.linspace(0.5, 1.5, 7, dtype=torch.float64)
    grads = [
        torch.autograd.grad(sum(w * o.sum() for w, o in zip(weights, rows, strict=True)), flat)
        for rows in (got, expected)
    ]
    _close(*grads)


# ------------------------------------------------------------------------------- what it costs


def _graph_of(function: Callable[..., Tensor]) -> Any:
    return fusedgrad.fuse(function)._example()


def test_absent_derivatives_cost_nothing() -> None:
    graph = _graph_of(lambda x, z: torch.tanh(x) * z)
    full = taylor.jet(graph, 4, ((1, 2, 3, 4), (1, 2, 3, 4)))
    constant = taylor.jet(graph, 4, ((1, 2, 3, 4), ()))
    short = taylor.jet(graph, 4, ((1,), ()))
    assert short.inputs == ("x", "x_1", "z")
    sizes = [len(in_order(g.outputs)) for g in (full, constant, short)]
    assert sizes[0] > sizes[1] > sizes[2]
    linear = taylor.jet(_graph_of(lambda x: 3 * x), 4, ((1,),))
    assert [o.operation for o in linear.outputs] == ["multiply", "multiply", *["constant"] * 3]


def test_size_is_quadratic_in_the_order_and_not_exponential() -> None:
    graph = _graph_of(lambda x: torch.sigmoid(x))
    orders = [tuple(range(1, n + 1)) for n in (4, 8)]
    small, large = (len(in_order(taylor.jet(graph, len(o), (o,)).outputs)) for o in orders)
    assert large <= 5 * small


def test_one_kernel_and_one_for_the_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers: list[int] = []
    fused = kernel.fused

    def counted(number: int, *rest: Any) -> Any:
        numbers.append(number)
        return fused(number, *rest)

    monkeypatch.setattr(kernel, "fused", counted)
    jet = fusedgrad.fuse(lambda x: torch.tanh(x)).jet(4)
    rows = [torch.randn(7, requires_grad=True) for _ in range(5)]
    results = jet(tuple(rows))
    assert len(numbers) == 1
    sum(r.sum() for r in results).backward()
    assert len(numbers) <= 2


_WITHOUT_COMPILER = """
import warnings
import torch
import fusedgrad as fg
from torch.profiler import profile

warnings.simplefilter("error", UserWarning)  # of operations one by one
FUNCTIONS = {
    "sigmoid": (fg.sigmoid, torch.sigmoid),
    "tanh": (fg.tanh, torch.tanh),
    "pow(2.5)": (lambda x: fg.pow(x, 2.5), lambda x: x**2.5),
    "pow(3)": (lambda x: fg.pow(x, 3), lambda x: x**3),
}


def nested(function, x, v, order):
    at = lambda t: function(x + t * v)
    rows = []
    for _ in range(order + 1):
        rows.append(at(torch.zeros((), dtype=x.dtype)))
        at = (lambda b: lambda t: torch.func.jvp(b, (t,), (torch.ones_like(t),))[1])(at)
    return rows


def whole(function, x, v, order):
    given = [v, *[torch.zeros_like(x).requires_grad_() for _ in range(order - 1)]]
    value, derivatives = fg.jet(function, (x,), (given,))
    return [value, *derivatives]


for name, (function, formula) in FUNCTIONS.items():
    fused = fg.fuse(lambda x: function(x))
    given = lambda x, v, order: fused.jet(order)((x, v))
    passed = lambda x, v, order: whole(formula, x, v, order)
    for order, calls in ((1, [given]), (2, [given]), (3, [given]), (4, [given, passed])):
        for call in calls:
            x, v = ((torch.rand(50) + 0.5).double().requires_grad_() for _ in range(2))
            expected = nested(formula, x, v, order)
            for used in ([*range(order + 1)], [order]) if order == 4 else ([order],):
                with profile() as profiled:
                    got = call(x, v, order)
                    grads = torch.autograd.grad(sum(got[i].sum() for i in used), (x, v))
                wanted = sum(expected[i].sum() for i in used)
                own = torch.autograd.grad(wanted, (x, v), retain_graph=True)
                for a, b in zip([*got, *grads], [*expected, *own], strict=True):
                    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)
                kernels = [e for e in profiled.events() if e.name == "fusedgrad::fused"]
                assert len(kernels) == 2, (name, order, used)
"""


def test_jets_of_activations_need_no_compiler(tmp_path: Path) -> None:
    """Neither `f.jet` nor `fusedgrad.jet` of sigmoid, tanh and pow: one kernel each way."""
    environment = os.environ | {"CXX": "no-such-compiler", "FUSEDGRAD_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", _WITHOUT_COMPILER], check=True, env=environment)
    assert not [*tmp_path.iterdir()]


def test_prebuilt_jets_are_what_their_program_writes() -> None:
    written = Path(__file__).parents[1] / "csrc" / "math" / "jets.h"

    def words(text: str) -> str:
        return "".join(line.strip().removeprefix("//") for line in text.splitlines()).replace(
            " ", ""
        )

    assert words(written.read_text()) == words(prebuilt.source())


# ------------------------------------------------------------------------- as a function is called


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtypes(dtype: torch.dtype) -> None:
    x = torch.randn(6).to(dtype)
    results = fusedgrad.fuse(lambda x: torch.sigmoid(x)).jet(2)((x, torch.ones_like(x)))
    assert [r.dtype for r in results] == [dtype] * 3


def test_outputs_numbers_structures_and_broadcasting() -> None:
    def f(x: Tensor, z: Tensor, a: float = 2.0) -> dict[str, Any]:
        return {"both": x * z * a, "one": torch.exp(z), "given": x, "whole": x > 0}

    x, z = torch.randn(3, 1), torch.randn(4)
    v = torch.randn(3, 1)
    for a in (2.0, 3.0, 4.0):
        result = fusedgrad.fuse(f).jet(2)((x, v), z, a=a)
        assert torch.equal(result["both"][1], v * z * a)
        assert [r.shape for r in result["one"]] == [(4,)] * 3
        assert not any(r.any() for r in result["one"][1:])
        assert torch.equal(result["given"][0], x)
        assert torch.equal(result["given"][1], v)
        assert torch.equal(result["whole"][0], x > 0)


def test_one_tensor_given_twice_moves_twice() -> None:
    x = torch.randn(4, dtype=torch.float64)
    one = torch.ones_like(x)
    got = fusedgrad.fuse(lambda x, z: x * z).jet(2)((x, one), (x, 2 * one))
    _close(got, [x * x, 3 * x, 4 * one])


def test_calls_are_served_again() -> None:
    fused = fusedgrad.fuse(lambda x: torch.tanh(x))
    for scale in (1.0, 2.0, 3.0):
        x = torch.full((3,), scale, dtype=torch.float64)
        _close(fused.jet(1)((x, x)), [torch.tanh(x), x / torch.cosh(x) ** 2])
    assert fused.jet(1)._traced._entries  # proved: the function does not run again


def test_reductions_derivatives_methods_and_numbers_that_vary() -> None:
    class Scaled:
        def __init__(self, scale: float) -> None:
            self.scale = scale

        @fusedgrad.fuse
        def f(self, x: Tensor) -> Tensor:
            return torch.sin(self.scale * x)

    x = torch.randn(6, dtype=torch.float64)
    one = torch.ones_like(x)
    for scale in (1.5, 2.5, 3.5):
        got = Scaled(scale).f.jet(2)((x, one))
        _close(got, nested(lambda x, s=scale: torch.sin(s * x), [(x, one)], 2))
    mean = fusedgrad.fuse(torch.exp, reduction="mean").jet(2)((x, one))
    _close(mean, [x.exp().mean()] * 3)
    slope = fusedgrad.fuse(lambda x: torch.sin(x)).derivative(0).jet(1)((x, one))
    _close(slope, [x.cos(), -x.sin()])


def test_transforms() -> None:
    x, v = torch.randn(2, 3, 4, dtype=torch.float64)
    jet = fusedgrad.fuse(lambda x: torch.tanh(x)).jet(2)
    together = torch.vmap(lambda v: jet((x[0], v)))(v)
    for row, each in enumerate(v):
        _close([t[row] for t in together], jet((x[0], each)))
    slope = torch.func.jacrev(lambda x: jet((x, v))[1].sum())(x)
    y = torch.tanh(x)
    _close([slope], [-2 * y * (1 - y * y) * v])


class _Subclass(Tensor):
    pass


def test_torch_compile_and_subclasses() -> None:
    jet = fusedgrad.fuse(lambda x: torch.sin(x)).jet(3)
    x = torch.randn(5, dtype=torch.float64)
    v = torch.ones_like(x)
    compiled = torch.compile(lambda x, v: jet((2 * x, v)), backend="eager")
    _close(compiled(x, v), jet((2 * x, v)))
    of_subclass = jet((x.as_subclass(_Subclass), v))
    _close([t.as_subclass(Tensor) for t in of_subclass], jet((x, v)))


def _module_level(x: Tensor) -> Tensor:
    return torch.exp(x)


module_level = fusedgrad.fuse(_module_level)


def test_text_and_copies() -> None:
    jet = fusedgrad.fuse(lambda x: torch.exp(x)).jet(2)
    assert str(jet).endswith("x_1 * exp(x), x_1 * (x_1 * exp(x)) + x_2 * exp(x)")
    assert "math::exp" in jet.source("cpu")
    assert "math::exp" in jet.source("cuda", gradients=True)
    assert repr(jet) == "<fused function f.jet(2)>"
    assert copy.deepcopy(jet)._order == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f, x: f.jet(0), "expected an int from 1 to 8"),
        (lambda f, x: f.jet(9), "expected an int from 1 to 8"),
        (lambda f, x: f.jet(True), "expected an int from 1 to 8"),
        (lambda f, x: f.jet(1)((x, x, x)), "with 2 derivatives, expected at most 1"),
        (lambda f, x: f.jet(1)((x, x[:1])), "has shape (1,), expected that of the argument, (3,)"),
        (lambda f, x: f.jet(1)((x, x.double())), "has dtype torch.float64, the argument"),
        (lambda f, x: f.jet(1)((x, 1.0)), "is float, expected a tensor or None"),
        (lambda f, x: f.jet(1)((x.int(), x.int())), "expected one dtype of floats"),
        (
            lambda f, x: fusedgrad.fuse(lambda x: f.jet(1)((x, x))[1])(x),
            "inside a fused function cannot be fused",
        ),
    ],
)
def test_errors(call: Callable[[Any, Tensor], Any], message: str) -> None:
    with pytest.raises(FuseError) as caught:
        call(fusedgrad.fuse(lambda x: torch.tanh(x)), torch.ones(3))
    assert message in str(caught.value)


def test_pickled_by_name() -> None:
    again = pickle.loads(pickle.dumps(fusedgrad.fuse(_module_level).jet(3)))
    assert torch.equal(again((X := torch.ones(2), X))[1], X.exp())

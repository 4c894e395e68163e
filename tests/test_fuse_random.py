"""300 random expressions against mpmath, values and partials, in the range and in the tails."""

import random
from collections.abc import Callable
from typing import Any

import mpmath
import pytest
import torch
from mpmath import mp, mpf
from torch import Tensor

import fusedgrad
from exact_expressions import evaluate
from fusedgrad.fuse.graph import Graph
from ulp import ulp_error

_F = torch.nn.functional

SEED = 20261121
EXPRESSIONS = 300
# As many as a kernel takes outputs
PER_KERNEL = 30
BOUND = 8.0

_UNARY: list[Callable[[Any], Any]] = [
    *(torch.sigmoid, torch.tanh, torch.exp, torch.expm1, torch.sin, torch.cos, torch.erf),
    *(torch.abs, torch.relu, torch.square, torch.neg, _F.softplus, _F.logsigmoid),
    *(_F.silu, _F.mish, _F.gelu),
    lambda a: torch.log(a * a + 0.5),
    lambda a: torch.log1p(torch.abs(a)),
    lambda a: torch.sqrt(a * a + 0.25),
    lambda a: torch.rsqrt(1 + a * a),
    lambda a: torch.reciprocal(a * a + 2),
    lambda a: a**3,
    lambda a: _F.softplus(a) ** 2.3,
    lambda a: torch.clamp(a, -2.5, 3.5),
    lambda a: 0.3 * a,
    lambda a: a - 1.25,
]
_BINARY: list[Callable[[Any, Any], Any]] = [
    *(torch.add, torch.sub, torch.mul, torch.maximum, torch.minimum),
    lambda a, b: a / (b * b + 1),
    lambda a, b: torch.where(a > b, a, torch.tanh(b)),
    lambda a, b: (1 + torch.sigmoid(a)) ** torch.tanh(b),
    lambda a, b: fusedgrad.binary_cross_entropy_with_logits(a, torch.sigmoid(b), reduction="none"),
]


def _random_expression(generator: random.Random, depth: int) -> Callable[[Any, Any], Any]:
    if depth == 0:
        first = generator.random() < 0.5
        return lambda x, z: x if first else z
    left = _random_expression(generator, depth - 1)
    if generator.random() < 0.55:
        unary = generator.choice(_UNARY)
        return lambda x, z: unary(left(x, z))
    binary = generator.choice(_BINARY)
    right = _random_expression(generator, generator.randrange(depth))
    return lambda x, z: binary(left(x, z), right(x, z))


_GENERATOR = random.Random(SEED)
_EXPRESSIONS = [_random_expression(_GENERATOR, 1 + number % 4) for number in range(EXPRESSIONS)]
_RANGE = [(_GENERATOR.gauss(0, 1.5), _GENERATOR.gauss(0, 1.5)) for _ in range(3)]
_TAILS = [(_GENERATOR.uniform(-60, 60), _GENERATOR.choice([-1, 1]) * 2.0**k) for k in (-9, 4)]


def _in_range(values: dict[Any, mpf], info: torch.finfo) -> bool:
    """Whether no intermediate result overflows or is subnormal, which no bound is about."""
    return all(info.tiny <= abs(v) <= info.max / 4 for v in values.values() if v)


def _checked(
    graph: Graph, index: int, values: Tensor, points: list[tuple[mpf, mpf]], by: int | None
) -> int:
    """How many values of one output were compared."""
    checked = 0
    output = graph.outputs[index]
    info = torch.finfo(values.dtype)
    for point, value in zip(points, values.tolist(), strict=True):
        inputs = dict(zip(("x", "z"), point, strict=True))
        parts: dict[Any, mpf] = {}
        exact, condition = evaluate(output, inputs, parts)
        if not _in_range(parts, info):
            continue
        checked += 1
        if exact == 0:
            assert value == 0
            continue
        error = ulp_error(value, exact, values.dtype)
        assert error <= BOUND * condition, (index, by, [*map(float, point)], value, float(exact))
    return checked


@pytest.mark.sampled(10)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("begin", range(0, EXPRESSIONS, PER_KERNEL))
def test_random_expressions_are_exact(
    begin: int, dtype: torch.dtype, request: pytest.FixtureRequest
) -> None:
    if begin or dtype is torch.float64:  # the first ones are compiled as a user's are
        request.getfixturevalue("compiled_fast")
    group = _EXPRESSIONS[begin : begin + PER_KERNEL]
    fused = fusedgrad.fuse(lambda x, z: tuple(e(x, z) + 0 * (x + z) for e in group))
    x, z = (torch.tensor(c, dtype=dtype) for c in zip(*_RANGE, *_TAILS, strict=True))
    points = [(mpf(a), mpf(b)) for a, b in zip(x.tolist(), z.tolist(), strict=True)]
    graph = fused._example()
    checked = 0
    with mp.workdps(100):  # digits that cancel
        for by in (None, 0, 1):
            function = fused if by is None else fused.derivative(by)
            derived = graph if by is None else graph.derivative(("x", "z")[by])
            for index, values in enumerate(function(x, z)):
                checked += _checked(derived, index, values, points, by)
    assert checked >= 0.6 * 3 * PER_KERNEL * len(points)


@pytest.mark.parametrize("begin", range(0, EXPRESSIONS, PER_KERNEL))
def test_symbolic_partials_are_those_of_the_expressions(begin: int) -> None:
    group = _EXPRESSIONS[begin : begin + PER_KERNEL]
    fused = fusedgrad.fuse(lambda x, z: tuple(e(x, z) + 0 * (x + z) for e in group))
    graph = fused._example()
    with mp.workdps(50):
        for name in ("x", "z"):
            derived = graph.derivative(name)
            for output, partial in zip(graph.outputs, derived.outputs, strict=True):
                for point in _RANGE:
                    inputs = dict(zip(("x", "z"), map(mpf, point), strict=True))

                    def moved(u: mpf, inputs: Any = inputs, output: Any = output) -> mpf:
                        return evaluate(output, inputs | {name: u}, {}, slopes=False)[0]  # noqa: B023

                    numeric = mpmath.diff(moved, inputs[name])
                    symbolic = evaluate(partial, inputs, {}, slopes=False)[0]
                    scale = mpf(10) ** -15 * (1 + abs(numeric))
                    assert abs(symbolic - numeric) <= scale

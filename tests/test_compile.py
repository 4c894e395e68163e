"""torch.compile and torch.export: whole graphs, the formulas fused, the kernels' accuracy."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from mpmath import mp, mpf
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._inductor import metrics

import fusedgrad
from ulp import exact_values, largest_ulp_error, loss_of_logits, sigmoid
from unary_functions import UNARY

Function = Callable[..., Any]


def loss(function: Function, *names: str, reduction: str = "mean") -> Function:
    return lambda x, t, *weights: function(
        x, t, reduction=reduction, **dict(zip(names, weights, strict=True))
    )


# a function, and the number of tensors that it takes
CASES: dict[str, tuple[Function, int]] = {
    **{name: (getattr(fusedgrad, name), 1) for name in UNARY},
    "pow, exponent 2": (lambda x: fusedgrad.pow(x, 2), 1),
    "pow, exponent 2.5": (lambda x: fusedgrad.pow(x, 2.5), 1),
    "pow of a number": (lambda x: fusedgrad.pow(3, x), 1),
    "pow of two tensors": (fusedgrad.pow, 2),
    "loss": (loss(fusedgrad.binary_cross_entropy), 2),
    "weighted loss": (loss(fusedgrad.binary_cross_entropy, "weight", reduction="none"), 3),
    "loss of logits": (loss(fusedgrad.binary_cross_entropy_with_logits), 2),
    "weighted loss of logits": (
        loss(fusedgrad.binary_cross_entropy_with_logits, "weight", "pos_weight", reduction="sum"),
        4,
    ),
    "nn.Sigmoid": (fusedgrad.nn.Sigmoid(), 1),
    "nn.Tanh": (fusedgrad.nn.Tanh(), 1),
    "nn.BCELoss": (fusedgrad.nn.BCELoss(weight=torch.tensor([0.5, 2.0, 1.0])), 2),
    "nn.BCEWithLogitsLoss": (fusedgrad.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0)), 2),
}

cases = pytest.mark.parametrize(("function", "count"), CASES.values(), ids=CASES.keys())
every_shape = pytest.mark.parametrize(
    "dynamic",
    [None, *(pytest.param(dynamic, marks=pytest.mark.slow) for dynamic in (True, False))],
    ids="dynamic={}".format,
)
backends = pytest.mark.parametrize(
    "backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]
)


def operands(count: int, rows: int = 5) -> list[Tensor]:
    return [torch.empty(rows, 3).uniform_(0.1, 0.9).requires_grad_() for _ in range(count)]


def value_and_gradients(function: Function, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    value = function(*inputs)
    return value, *torch.autograd.grad(value.sum(), inputs)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()


@pytest.mark.sampled(4)
@backends
@every_shape
@cases
def test_one_graph_forward_and_backward_for_any_size(
    function: Function, count: int, dynamic: bool | None, backend: str
) -> None:
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(function, backend=counter, fullgraph=True, dynamic=dynamic)
    for rows in (5, 7, 11):
        inputs = operands(count, rows)
        expected = value_and_gradients(function, inputs)
        torch.testing.assert_close(value_and_gradients(compiled, inputs), expected)
    # Without dynamic shapes each size is compiled; by default the second makes sizes dynamic.
    assert counter.frame_count == {None: 2, True: 1, False: 3}[dynamic]
    with torch.no_grad():
        torch.testing.assert_close(compiled(*inputs), expected[0])


@cases
def test_formulas_are_traced_and_no_operator_hides_them(function: Function, count: int) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    torch.compile(function, backend=counter, fullgraph=True)(*operands(count))
    targets = [str(n.target) for graph in counter.graphs for n in graph.graph.nodes]
    assert len(targets) > count
    assert not [target for target in targets if "fusedgrad" in target]


def test_inductor_fuses_an_operation_with_its_neighbours() -> None:
    def function(x: Tensor) -> Tensor:
        return fusedgrad.sigmoid(x * 2 + 1) * fusedgrad.tanh(x - 1) + fusedgrad.pow(x, 3)

    (x,) = operands(1)
    metrics.reset()
    value_and_gradients(torch.compile(function, fullgraph=True), [x])
    assert metrics.generated_kernel_count == 2  # forward, backward


def powers_of_two(limit: float, dtype: torch.dtype) -> Tensor:
    magnitudes = torch.logspace(-10, limit, 201, base=2, dtype=torch.float64)
    return torch.cat([magnitudes, -magnitudes]).to(dtype)


# value and derivative, exact; each within 2 and 4 ULP of it after compilation
EXACT: dict[str, tuple[Function, Function, Function]] = {
    "sigmoid": (fusedgrad.sigmoid, sigmoid, lambda x: sigmoid(x) * sigmoid(-x)),
    "tanh": (fusedgrad.tanh, mp.tanh, lambda x: mp.sech(x) ** 2),
    "cube": (lambda x: fusedgrad.pow(x, 3), lambda x: x**3, lambda x: 3 * x**2),
    "loss of logits": (
        lambda x: fusedgrad.binary_cross_entropy_with_logits(
            x, torch.ones_like(x), reduction="none"
        ),
        lambda x: loss_of_logits(x, mpf(1)),
        lambda x: -sigmoid(-x),
    ),
}


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        pytest.param(torch.float64, marks=pytest.mark.slow),
        pytest.param(torch.bfloat16, marks=pytest.mark.slow),
        pytest.param(torch.float16, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_compiled_formulas_are_exact_in_both_tails(dtype: torch.dtype) -> None:
    # In float16 exp(-8) is as small as a normal number gets.
    x = powers_of_two(3 if dtype is torch.float16 else 5.3, dtype)
    inputs = [x.clone().requires_grad_() for _ in EXACT]

    @torch.compile(fullgraph=True)
    def compiled(*inputs: Tensor) -> list[Tensor]:
        return [case[0](x) for case, x in zip(EXACT.values(), inputs, strict=True)]

    values = compiled(*inputs)
    gradients = torch.autograd.grad(values, inputs, [torch.ones_like(x) for _ in EXACT])
    half = dtype in (torch.float16, torch.bfloat16)  # rounded once
    for (_, value, derivative), actual, gradient in zip(
        EXACT.values(), values, gradients, strict=True
    ):
        assert largest_ulp_error(actual, exact_values(value, x)) <= (0.51 if half else 2)
        assert largest_ulp_error(gradient, exact_values(derivative, x)) <= (0.51 if half else 4)


@backends
def test_compiled_formulas_at_infinity_are_finite_or_exact(backend: str) -> None:
    def function(x: Tensor) -> Tensor:
        ones = torch.ones_like(x)
        loss = fusedgrad.binary_cross_entropy_with_logits(x, ones, reduction="none")
        return fusedgrad.sigmoid(x) + fusedgrad.tanh(x) + loss

    x = torch.tensor([torch.inf, -torch.inf, 1e4, -1e4], requires_grad=True)
    value, grad = value_and_gradients(torch.compile(function, backend=backend), [x])
    assert value.tolist() == [2, torch.inf, 2, 9999]
    assert grad.tolist() == [0, -1, 0, -1]


def test_probabilities_are_checked_in_a_graph_too() -> None:
    compiled = torch.compile(fusedgrad.binary_cross_entropy, backend="aot_eager", fullgraph=True)
    with pytest.raises(RuntimeError, match="between 0 and 1"):
        compiled(torch.tensor([0.5, 1.5]), torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize(
    "dtype",
    [torch.uint8, torch.int64, torch.bool, torch.complex64, torch.float16, torch.float64],
    ids=str,
)
@pytest.mark.parametrize(
    "function",
    [
        fusedgrad.sigmoid,
        fusedgrad.tanh,
        lambda x: fusedgrad.pow(x, 2),
        lambda x: fusedgrad.pow(x, 2.5),
        lambda x: fusedgrad.pow(2, x),
    ],
    ids=["sigmoid", "tanh", "square", "power", "exponential"],
)
def test_compiled_results_have_the_dtype_of_eager_ones(
    function: Function, dtype: torch.dtype
) -> None:
    x = torch.tensor([0, 1, 1]).to(dtype)
    actual = torch.compile(function, backend="aot_eager", fullgraph=True)(x)
    torch.testing.assert_close(actual, function(x))


@pytest.mark.parametrize(
    "function",
    [fusedgrad.sigmoid, fusedgrad.tanh, lambda x, out: fusedgrad.pow(x, 2, out=out)],
    ids=["sigmoid", "tanh", "pow"],
)
def test_out_is_written_in_a_graph(function: Function) -> None:
    x, out = torch.rand(3), torch.empty(3)
    torch.compile(lambda x, out: function(x, out=out), backend="aot_eager", fullgraph=True)(x, out)
    torch.testing.assert_close(out, function(x, out=torch.empty(3)))


TRANSFORMS: dict[str, Callable[[Function], Function]] = {
    "grad": lambda f: torch.func.grad(lambda x: f(x).sum()),
    "vmap": torch.func.vmap,
    "per-sample gradient": lambda f: torch.func.vmap(torch.func.grad(lambda x: f(x).sum())),
    "jvp": lambda f: lambda x: torch.func.jvp(f, (x,), (x,)),
    "second derivative": lambda f: torch.func.grad(
        lambda x: torch.func.grad(lambda x: f(x).sum())(x).sum()
    ),
    "hessian": lambda f: torch.func.hessian(lambda x: f(x).sum()),
}

TRANSFORMED: dict[str, Function] = {
    "sigmoid": fusedgrad.sigmoid,
    "pow": lambda x: fusedgrad.pow(x * 2, 2.5),
    "pow of two tensors": lambda x: fusedgrad.pow(x * 2, x + 1),
    "loss": lambda x: fusedgrad.binary_cross_entropy(x, x * x),
    "loss of logits": lambda x: fusedgrad.binary_cross_entropy_with_logits(x, x * x),
}


@pytest.mark.sampled(8)
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS.keys())
@pytest.mark.parametrize("function", TRANSFORMED.values(), ids=TRANSFORMED.keys())
def test_transforms_of_torch_func_compile(
    function: Function, transform: Callable[[Function], Function]
) -> None:
    x = torch.empty(4, 3).uniform_(0.1, 0.9)
    compiled = torch.compile(transform(function), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), transform(function)(x))


class Network(nn.Module):
    """Every module of fusedgrad.nn, and pow."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 4), fusedgrad.nn.Tanh(), nn.Linear(4, 1))
        self.sigmoid = fusedgrad.nn.Sigmoid()
        self.loss = fusedgrad.nn.BCELoss()
        self.loss_of_logits = fusedgrad.nn.BCEWithLogitsLoss(pos_weight=torch.tensor([2.0]))

    def forward(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        logits = fusedgrad.pow(self.inner(x), 3)
        loss = self.loss(self.sigmoid(logits), target)
        return logits, loss + self.loss_of_logits(logits, target)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("strict", [True, False], ids=["strict", "non-strict"])
@pytest.mark.parametrize("dynamic", [True, False], ids=["dynamic", "static"])
def test_export_of_a_network(strict: bool, dynamic: bool) -> None:
    network, inputs = Network(), (torch.randn(6, 3), torch.rand(6, 1))
    rows = torch.export.Dim("rows")
    program = torch.export.export(
        network, inputs, strict=strict, dynamic_shapes=[{0: rows}] * 2 if dynamic else None
    )
    decomposed = program.run_decompositions()
    targets = {str(node.target) for node in decomposed.graph.nodes if node.op == "call_function"}
    assert targets
    assert all(target.startswith("aten.") for target in targets)  # runs without fusedgrad
    if dynamic:
        inputs = torch.randn(9, 3), torch.rand(9, 1)
    for module in (program.module(), decomposed.module()):
        torch.testing.assert_close(module(*inputs), network(*inputs))


def test_a_compiled_network_trains_as_the_eager_one() -> None:
    network = Network()
    inputs = torch.randn(6, 3), torch.rand(6, 1)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    gradients = [
        torch.autograd.grad(model(*inputs)[1], list(network.parameters()))
        for model in (compiled, network)
    ]
    torch.testing.assert_close(*gradients)

"""All results of one backward come of one node and one kernel, at any order, and are exact."""

import contextlib
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import fusedgrad
from unary_functions import UNARY, Array, Result, plain, total

Function = Callable[[Tensor], Tensor]
Form = dict[tuple[frozenset[str], int], int]  # of factors and an order of derivative: how often


def falling_power(x: Array, order: int) -> Result:
    factor = np.longdouble(1)
    for k in range(order):
        factor *= np.longdouble(3.5) - k
    return plain(factor * x ** (np.longdouble(3.5) - order))


FUNCTIONS: dict[str, tuple[Function, Callable[[Array, int], Result]]] = {
    **{name: (getattr(fusedgrad, name), row.derivative) for name, row in UNARY.items()},
    "pow": (lambda x: fusedgrad.pow(x, 3.5), falling_power),
}
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


class Chain:
    """A function differentiated again and again, each time by all that came before."""

    def __init__(self, function: Function, x: Tensor) -> None:
        self.tensors = {"x": x}
        self.results = [function(x)]
        self.forms: list[Form] = [{(frozenset(), 0): 1}]

    def differentiate(self, rng: np.random.Generator, given: Sequence[bool]) -> None:
        """By those of the results that are given a gradient."""
        names = list(self.tensors)
        form: Form = {}
        grads: list[Tensor] = []
        order = len(self.tensors)
        for i, (result, terms) in enumerate(zip(self.results, self.forms, strict=True)):
            if not given[i]:
                continue
            name = f"{order}.{i}"
            values = rng.choice([-1, 1], result.shape) * rng.uniform(0.5, 2, result.shape)
            grads.append(torch.tensor(values).to(result.dtype).requires_grad_())
            self.tensors[name] = grads[-1]
            for (factors, n), count in terms.items():
                form[factors | {name}, n] = count
        outputs = [result for result, is_given in zip(self.results, given, strict=True) if is_given]
        found = torch.autograd.grad(
            outputs, [self.tensors[n] for n in names], grads, create_graph=True, allow_unused=True
        )
        gradients = {name: gradient(form, name) for name in names}
        assert [g is not None for g in found] == [bool(gradients[name]) for name in names]
        self.results = [g for g in found if g is not None]
        self.forms = [gradients[name] for name in names if gradients[name]]

    def expected(self, derivative: Callable[[Array, int], Result]) -> list[Result]:
        """The results, and the sums of the magnitudes of their terms."""
        values = {
            name: np.asarray(t.detach().double(), np.longdouble) for name, t in self.tensors.items()
        }

        def term(factors: frozenset[str], order: int, count: int) -> Result:
            value, magnitude = derivative(values["x"], order)
            product = count * np.prod([values[name] for name in factors], axis=0)
            return value * product, magnitude * np.abs(product)

        return [total(*(term(*key, count) for key, count in f.items())) for f in self.forms]


def gradient(form: Form, name: str) -> Form:
    if name == "x":
        return {(factors, order + 1): count for (factors, order), count in form.items()}
    return {(f - {name}, order): count for (f, order), count in form.items() if name in f}


def chain(name: str, dtype: torch.dtype, orders: int, seed: int = 0) -> Chain:
    rng = np.random.default_rng(seed)
    x = torch.tensor(rng.uniform(0.1, 4, 700)).to(dtype)
    if name != "pow":
        x[::2] *= -1
    result = Chain(FUNCTIONS[name][0], x.requires_grad_())
    for _ in range(orders):
        given = rng.random(len(result.results)) < 0.8
        given[rng.integers(len(given))] = True
        result.differentiate(rng, list(given))
    return result


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_of_every_order_are_exact(name: str, dtype: torch.dtype, seed: int) -> None:
    for orders in range(1, 6):
        nested = chain(name, dtype, orders, seed)
        reference = nested.expected(FUNCTIONS[name][1])
        for result, (value, magnitude) in zip(nested.results, reference, strict=True):
            ours = np.asarray(result.detach().double(), np.longdouble)
            if dtype.itemsize > 2:
                # 2.5 units of a derivative, and roundings of products and sums
                error = np.abs(ours - value) / (magnitude * torch.finfo(dtype).eps)
                assert error.max() <= 2.5 + 0.5 * (2 * orders + len(reference))
            else:  # rounded once: to a neighbour in any case
                nearest = torch.tensor(np.asarray(value, np.float64)).to(dtype)
                exact = torch.tensor(np.asarray(value, np.float64))
                unit = (
                    torch.nextafter(nearest.abs(), torch.tensor(torch.inf, dtype=dtype)).double()
                    - nearest.abs().double()
                )
                slack = torch.tensor(np.asarray(magnitude, np.float64)) * 2.0**-20
                error = (result.detach().double() - exact).abs()
                assert bool((error <= 0.5 * unit + slack).all())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_more_operands_than_a_kernel_takes(name: str) -> None:
    nested = chain(name, torch.float64, 8)
    assert len(nested.tensors) + len(nested.results) > 64  # kernels take 32
    reference = nested.expected(FUNCTIONS[name][1])
    for result, (value, magnitude) in zip(nested.results, reference, strict=True):
        error = np.abs(np.asarray(result.detach(), np.longdouble) - value)
        assert (error / (magnitude * torch.finfo(torch.float64).eps)).max() <= 2.5 + 0.5 * 16


def nodes(results: Sequence[Tensor]) -> set[object]:
    return {result.grad_fn for result in results}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_one_node_and_one_kernel_serve_each_order(name: str) -> None:
    nested = Chain(FUNCTIONS[name][0], torch.rand(5, requires_grad=True))
    counts = []
    for _ in range(5):
        with torch.profiler.profile() as profile:
            nested.differentiate(np.random.default_rng(0), [True] * len(nested.results))
        kernels = [
            e.name
            for e in profile.events()
            if e.name.startswith("fusedgrad::") and e.name.islower()
        ]
        counts.append((len(nested.results), len(kernels)))
        assert len(nodes(nested.results)) == 1
    # grad f'; its two gradients; the gradients by those and by what they are made of
    assert counts == [(1, 1), (2, 1), (3, 1), (5, 1), (8, 1)]


def test_a_result_without_an_operand_has_no_gradient_by_it() -> None:
    x, g, h = (torch.rand(5, requires_grad=True) for _ in range(3))
    (first,) = torch.autograd.grad(fusedgrad.tanh(x), x, g, create_graph=True)
    by_g, _ = torch.autograd.grad(first, [g, x], h, create_graph=True)  # h f'
    (by_itself,) = torch.autograd.grad(by_g.sum(), g, retain_graph=True, allow_unused=True)
    assert by_itself is None
    by_h, none = torch.autograd.grad(by_g.sum(), [h, g], allow_unused=True)
    torch.testing.assert_close(by_h, 1 - torch.tanh(x.detach()) ** 2)
    assert none is None


def test_a_node_keeps_its_operands_alone() -> None:
    for orders in range(2, 5):
        nested = Chain(fusedgrad.tanh, torch.rand(5, requires_grad=True))
        kept: list[Tensor] = []

        def pack(tensor: Tensor, kept: list[Tensor] = kept) -> Tensor:
            kept.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            for _ in range(orders):
                kept.clear()
                nested.differentiate(np.random.default_rng(0), [True] * len(nested.results))
        operands = {tensor.data_ptr() for tensor in nested.tensors.values()}
        assert [tensor.data_ptr() in operands for tensor in kept] == [True] * len(operands)


class Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return func(*args, **(kwargs or {}))


def compiled_autograd() -> contextlib.AbstractContextManager[None]:
    return torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager"))


WAYS: dict[str, Callable[[], contextlib.AbstractContextManager[object]]] = {
    "dispatch mode": Mode,
    "compiled autograd": compiled_autograd,
    "anomaly mode": torch.autograd.detect_anomaly,
}


@pytest.mark.filterwarnings("ignore:Anomaly")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_are_the_same_in_any_mode(name: str, way: str, dtype: torch.dtype) -> None:
    nested = chain(name, dtype, orders=3)
    grads = [torch.linspace(-1, 1, 700).to(dtype) for _ in nested.results]
    inputs = list(nested.tensors.values())

    def gradients() -> list[Tensor]:
        for tensor in inputs:
            tensor.grad = None
        torch.autograd.backward(nested.results, grads, retain_graph=True)
        return [tensor.grad for tensor in inputs if tensor.grad is not None]

    expected = gradients()
    with WAYS[way]():
        found = gradients()
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        near = 8 * torch.finfo(dtype).eps  # where terms cancel, of the greatest
        torch.testing.assert_close(one, other, rtol=near, atol=near * float(other.abs().max()))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_are_batched_and_pushed_forward(name: str) -> None:
    nested = chain(name, torch.float64, orders=3)
    inputs = list(nested.tensors.values())
    grads = [torch.randn(2, 700, dtype=torch.float64) for _ in nested.results]
    batched = torch.autograd.grad(
        nested.results, inputs, grads, is_grads_batched=True, retain_graph=True, allow_unused=True
    )

    def gradients(*grads: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(
            nested.results, inputs, grads, create_graph=True, allow_unused=True
        )

    vmapped = torch.func.vmap(gradients)(*grads)
    primals, tangents = [g[0] for g in grads], [g[1] for g in grads]
    expected, pushed = torch.func.jvp(  # type: ignore[misc]  # no auxiliary result
        gradients, tuple(primals), tuple(tangents)
    )
    for i, first in enumerate(gradients(*primals)):
        for found in (batched[i][0], vmapped[i][0], expected[i]):
            torch.testing.assert_close(found, first)
    for i, second in enumerate(gradients(*tangents)):  # linear in the gradients
        for found in (batched[i][1], vmapped[i][1], pushed[i]):
            torch.testing.assert_close(found, second)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_operands_lie_anywhere(name: str) -> None:
    def gradients(x: Tensor, *grads: Tensor) -> list[Tensor]:
        nested = Chain(FUNCTIONS[name][0], x)
        results = nested.results
        for order in range(1, 4):
            results = list(
                torch.autograd.grad(
                    results,
                    [x, *grads[: order - 1]],
                    list(grads[order - 1 : order]) * len(results),
                    create_graph=True,
                )
            )
        return results

    leaves = [torch.rand(4, 6, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    expected = gradients(*leaves)
    transposed = [leaf.mT.contiguous().mT for leaf in leaves]
    of_every_second = [torch.stack([leaf, leaf], dim=1)[:, 0] for leaf in leaves]
    for moved in (transposed, of_every_second):
        assert not moved[0].is_contiguous()
        for one, other in zip(gradients(*moved), expected, strict=True):
            assert torch.equal(one, other)

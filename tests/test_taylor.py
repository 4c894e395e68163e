"""Taylor mode through whole functions: against nested autograd, and what it refuses."""

import functools
import itertools
import math
import random
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
import torch
import torch._dynamo.compiled_autograd
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor, nn

import fusedgrad
from cuda_backend import ON_CUDA
from fusedgrad.fuse import kernel
from fusedgrad.taylor import TaylorError, rows
from fusedgrad.taylor.tensor import HANDLERS, Jet

Function = Callable[..., Any]

DEVICES = ["cpu", ON_CUDA]


def nested(
    function: Function, primals: tuple[Tensor, ...], series: tuple[Any, ...], order: int
) -> list[Tensor]:
    """By `torch.func.jvp` inside itself, along the curve."""

    def at(time: Tensor) -> Tensor:
        moved = [
            x + sum((d * time**k / math.factorial(k) for k, d in enumerate(own or (), 1)), x * 0)
            for x, own in zip(primals, series, strict=True)
        ]
        return function(*moved)  # type: ignore[no-any-return]

    result: list[Tensor] = []
    body: Callable[[Tensor], Tensor] = at
    zero = torch.zeros((), dtype=torch.float64)
    for _ in range(order + 1):
        result.append(body(zero))
        body = _slope(body)
    return result


def _slope(body: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda time: torch.func.jvp(body, (time,), (torch.ones_like(time),))[1]


def close(got: Any, expected: Any) -> None:
    for k, (a, b) in enumerate(zip(got, expected, strict=True)):
        assert a.shape == b.shape
        scale = max(1.0, b.detach().abs().max().item())
        torch.testing.assert_close(a / scale, b / scale, rtol=1e-10, atol=1e-10, msg=f"order {k}")


def check(function: Function, *shapes: tuple[int, ...], order: int = 3, seed: int = 0) -> None:
    """Of one argument of each shape: all derivatives along one curve, and gradients of all."""
    generator = torch.Generator().manual_seed(seed)

    def made(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    primals = tuple(made(shape).requires_grad_() for shape in shapes)
    series = tuple(
        [made(s).requires_grad_() for _ in range(order - i)] for i, s in enumerate(shapes)
    )
    value, derivatives = fusedgrad.jet(function, primals, series)
    got = [value, *derivatives]
    expected = nested(function, primals, series, order)
    close(got, expected)
    leaves = [*primals, *(d for own in series for d in own)]
    weights = [made(tuple(value.shape)) for _ in got]
    sums = [
        torch.stack([(w * d).sum() for w, d in zip(weights, each, strict=True)]).sum()
        for each in (got, expected)
    ]
    grads = [torch.autograd.grad(s, leaves, allow_unused=True) for s in sums]
    for a, b in zip(*grads, strict=True):
        a = torch.zeros(()) if a is None else a
        b = torch.zeros(()) if b is None else b
        scale = max(1.0, b.abs().max().item())
        torch.testing.assert_close(a / scale + 0 * b, b / scale, rtol=1e-9, atol=1e-9)


# --------------------------------------------------------------------------------------- networks


def _network(*sizes: int, activation: Function = nn.Tanh) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), activation()]
    return nn.Sequential(*layers[:-1]).double()


class _Attention(nn.Module):
    """Products of what moves with what moves."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.q, self.k, self.v = (nn.Linear(3, 4).double() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        weights = torch.softmax(q @ k.transpose(-1, -2) / 2, -1)
        return torch.einsum("bij,bjk->bik", weights, v).sum(-1)


class _Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.first = nn.Conv2d(2, 3, 3, padding=1).double()
        self.norm = nn.BatchNorm2d(3).double().eval()
        self.second = nn.ConvTranspose2d(3, 1, 2, stride=2).double()
        self.drop = nn.Dropout().eval()

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.silu(self.norm(self.first(x)))
        hidden = F.avg_pool2d(self.drop(hidden), 2)
        return self.second(hidden).flatten(1)  # type: ignore[no-any-return]


NETWORKS: dict[str, tuple[Function, tuple[tuple[int, ...], ...]]] = {
    "tanh": (_network(2, 8, 8, 1), ((5, 2),)),
    "silu and gelu": (nn.Sequential(_network(2, 5, 3, activation=nn.SiLU), nn.GELU()), ((4, 2),)),
    "skip connection": (
        lambda x: x + torch.sin(F.linear(torch.tanh(x), torch.ones(2, 2, dtype=torch.float64) / 3)),
        ((4, 2),),
    ),
    "attention": (_Attention(), ((2, 3, 3),)),
    "convolutions": (_Convolutional(), ((2, 2, 4, 4),)),
    "two arguments": (
        lambda x, y: torch.tanh(torch.cat([x, y * x], -1)) @ torch.eye(4, 3, dtype=torch.float64),
        ((5, 2), (5, 2)),
    ),
    "fourier features": (
        lambda x: torch.cat([torch.sin(2.5 * x), torch.cos(x * math.pi)], -1).mean(-1),
        ((6, 2),),
    ),
}


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_agree_with_nested_autograd(name: str) -> None:
    function, shapes = NETWORKS[name]
    check(function, *shapes)


def test_parameters_have_the_gradients_of_nested_autograd() -> None:
    network = _network(1, 7, 6, 1)
    x = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None].requires_grad_()
    u = network(x)
    for _ in range(4):
        (u,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    got = fusedgrad.derivatives(network, x, torch.ones_like(x), 4)[-1]
    parameters = list(network.parameters())
    grads = [
        torch.autograd.grad((each**2).mean(), [x, *parameters], allow_unused=True)
        for each in (u, got)
    ]
    for theirs, ours in zip(*grads, strict=True):
        assert (theirs is None) == (ours is None)
        if ours is not None:
            close([ours], [theirs])


def test_a_layer_may_have_no_units() -> None:
    x = torch.ones(5, 2, dtype=torch.float64)
    first, second = x.new_ones(0, 2), x.new_ones(4, 0)
    nothing, bias = x.new_ones(0), x.new_ones(4).requires_grad_()

    def function(x: Tensor) -> Tensor:
        hidden = torch.tanh(F.linear(x, first, nothing))
        return F.linear(hidden, second, bias)

    for _ in range(2):  # the second time in C++
        value, *others = fusedgrad.derivatives(function, x, x, 3)
        assert torch.equal(value, function(x))
        assert not any(other.any() for other in others)
        (grad,) = torch.autograd.grad(value.sum(), bias)
        assert grad.tolist() == [5.0] * 4


def _random_function(generator: random.Random) -> Function:
    """Layers and operations in any order, of a tensor of shape (3, 4)."""
    weights = [torch.randn(4, 4, dtype=torch.float64) / 2 for _ in range(6)]
    steps: list[Function] = [
        torch.tanh,
        lambda x: F.linear(x, weights[0], weights[1][0]),
        lambda x: x @ weights[2],
        lambda x: x * torch.sigmoid(x),
        lambda x: x - x.mean(0, keepdim=True),
        lambda x: torch.einsum("ij,jk->ik", x, weights[3]) + 1.5,
        lambda x: x.T.reshape(3, 4),
        lambda x: torch.cat([x[:, 1:], x[:, :1]], 1),
        lambda x: F.softplus(x, beta=2.0) / (1 + x**2),
        lambda x: torch.where(x > 0.1, x, 0.5 * x) ** 2 / 2,
        lambda x: torch.stack([x, torch.cos(x)]).sum(0),
        lambda x: (x @ x.mT) @ x / 4,
        lambda x: torch.matmul(weights[4], x.unsqueeze(-1)).squeeze(-1),
        lambda x: F.binary_cross_entropy_with_logits(x, torch.sigmoid(x), reduction="none"),
        lambda x: torch.stack([row * 1.25 for row in x]),
    ]
    chosen = [generator.choice(steps) for _ in range(6)]

    def function(x: Tensor) -> Tensor:
        for step in chosen:
            x = step(x)
        return x

    return function


@pytest.mark.sampled(4)
@pytest.mark.parametrize("seed", range(8))
def test_random_networks_agree_with_nested_autograd(seed: int) -> None:
    torch.manual_seed(seed)
    check(_random_function(random.Random(seed)), (3, 4), order=3, seed=seed)


# --------------------------------------------------------------------------------------- operations


def _of_weight(x: Tensor) -> Tensor:
    return torch.arange(12, dtype=torch.float64).reshape(3, 4) / 7


OPERATIONS: dict[str, Function] = {
    "view": lambda x: x.view(2, 6).view([4, 3]),
    "transposes": lambda x: x.t().transpose(0, 1).permute(1, 0).mT.T.swapaxes(0, 1),
    "index": lambda x: x[1:, None, ..., -1] * x[0, 0],
    "index by tensors": lambda x: x[torch.tensor([0, 2]), torch.tensor([1, 3])],
    "mask": lambda x: x[torch.tensor([True, False, True])],
    "condition of itself": lambda x: torch.where((x > 0) & (x < 1), x**2, x),
    "split": lambda x: torch.cat(x.split(2, dim=1)[::-1], 1) + torch.stack(x.chunk(3)).squeeze(1),
    "unbind": lambda x: sum(x.unbind(0)),
    "iterate": lambda x: sum(row**2 for row in x),
    "stack": lambda x: torch.stack([x, x.new_ones(3, 4), 2 * x], -1),
    "differences": lambda x: torch.diff(x, prepend=torch.ones(3, 1, dtype=x.dtype)),
    "sums": lambda x: x.sum() + x.mean(0) + x.sum(1, keepdim=True).mean(),
    "cumsum": lambda x: x.cumsum(1).flip(0).roll(1, 0),
    "pad": lambda x: F.pad(x, (1, 2), value=1.5) * F.pad(x, (2, 1)),
    "expand": lambda x: x[:, :1].expand(3, 5).unsqueeze(0).repeat(2, 1, 1),
    "outer": lambda x: torch.outer(x[0], x[1]) + torch.outer(x[0], torch.ones(4).double()),
    "addmm": lambda x: torch.addmm(x[:, :3], x, x.mT, beta=0.5, alpha=2),
    "softmaxes": lambda x: F.softmax(x, 0) + x.log_softmax(1) + x.logsumexp(1, keepdim=True),
    "losses": lambda x: (
        F.mse_loss(x, _of_weight(x))
        + fusedgrad.binary_cross_entropy_with_logits(
            x, torch.full((3, 4), 0.25, dtype=torch.float64)
        )
    ),
    "fused functions": lambda x: (
        fusedgrad.activations.silu(x) + fusedgrad.pow(fusedgrad.tanh(x), 3)
    ),
    "constants": lambda x: 2.5 * x / 3 + torch.ones_like(x) * x.detach() - x.clone().contiguous(),
    "casts": lambda x: x.float().double() * 0 + x.to(torch.float64),
    "clamp": lambda x: x.clamp(-1, 0.75) + torch.maximum(x, x**2) + x.abs() + F.relu(x),
    "long": lambda x: _repeated(x, 60),
    "whole numbers": lambda x: x * torch.div(x, 0.3, rounding_mode="floor") + x.round(),
    "addcmul": lambda x: torch.addcmul(x, x, torch.sin(x), value=0.25),
    "integers": lambda x: x * x.detach().to(torch.int64) + 7 * x - 3,
    "powers": lambda x: (x * x + 1) ** 1.3 + (x * x + 1) ** -2.5 + x**3 + 2.0**x,
    "broadcasting": lambda x: x[:, :1] * torch.tanh(x) * x[0] + x[0, 0] * x[1],
    "tensordot": lambda x: torch.tensordot(x, _of_weight(x), dims=([1], [1])),
    "masked": lambda x: torch.where(torch.eye(3, 4).bool(), x, torch.zeros((), dtype=x.dtype)),
    "asked": lambda x: x.reshape(x.shape[0] * x.size(1)).view(*x.shape) * x.dim() * len(x),
    "addition of a scalar tensor": lambda x: x * torch.tensor(2.0, dtype=torch.float64) + x.sum(),
}


def _repeated(x: Tensor, count: int) -> Tensor:
    for _ in range(count):
        x = x - 0.1 * torch.sin(x)
    return x


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_agree_with_nested_autograd(name: str) -> None:
    check(OPERATIONS[name], (3, 4), order=2)


def _layer_norm_by_hand(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred * torch.rsqrt((centred * centred).mean(-1, keepdim=True) + 1e-5)


# Of which PyTorch's own higher derivatives in forward mode are wrong (layer_norm's second, in 2.13)
# or an error (the gradients of the norm's): each beside its formula.
BY_HAND: dict[str, tuple[Function, Function]] = {
    "layer_norm": (lambda x: F.layer_norm(x, (4,)), _layer_norm_by_hand),
    "vector_norm": (lambda x: torch.linalg.vector_norm(x, dim=1), lambda x: (x * x).sum(1).sqrt()),
    "norm": (lambda x: x.norm(), lambda x: (x * x).sum().sqrt()),
    "norm of a matrix": (lambda x: torch.linalg.norm(x), lambda x: (x * x).sum().sqrt()),
    "norms of rows": (lambda x: torch.linalg.norm(x, 2, 1), lambda x: (x * x).sum(1).sqrt()),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_operations_agree_with_their_formulas(name: str) -> None:
    function, by_hand = BY_HAND[name]
    x, *series = torch.randn(4, 3, 4, dtype=torch.float64)
    value, got = fusedgrad.jet(function, (x,), (series,))
    close([value, *got], nested(by_hand, (x,), (series,), 3))


def test_dropout_takes_the_same_elements_of_all_coefficients() -> None:
    x = torch.ones(1000, dtype=torch.float64)
    value, (first, second) = fusedgrad.jet(lambda x: F.dropout(x, 0.25), (x,), ([x, 2 * x],))
    assert 150 < (value == 0).sum() < 350
    close([first, second], [value, 2 * value])


def test_a_condition_decides_as_in_pytorch() -> None:
    def f(x: Tensor) -> Tensor:
        return x**2 if (x > 0).all() else x  # `all` of a comparison is no jet

    x = torch.ones(3, dtype=torch.float64)
    with pytest.raises(TaylorError):
        fusedgrad.jet(f, (x,), ((x,),))

    def g(x: Tensor) -> Tensor:
        return x**2 if x[0] > 0 else x

    assert fusedgrad.jet(g, (x,), ((x,),))[1][0].tolist() == [2, 2, 2]


def test_structures_constants_and_short_series() -> None:
    x = torch.randn(4, dtype=torch.float64)
    one = torch.ones_like(x)

    def f(x: Tensor, y: Tensor, scale: int) -> dict[str, Any]:
        return {"product": x * y * scale, "constant": y + 1, "linear": 3 * x, "number": 5}

    values, series = fusedgrad.jet(f, (x, one, 2), ([one], None, None))
    close([values["product"], *series["product"]], [2 * x, 2 * one])
    close([values["constant"], *series["constant"]], [2 * one, 0 * one])
    assert values["number"] == series["number"] == 5
    _, (first, second, third) = fusedgrad.jet(torch.sin, (x,), ([one, one, one],))
    close([first, second, third], nested(torch.sin, (x,), ([one, one, one],), 3)[1:])


# ------------------------------------------------------------------------ kernels and their number


def _kernels(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    numbers: list[int] = []
    call_rows = rows.call_rows

    def counted(number: int, *rest: Any) -> Any:
        numbers.append(number)
        return call_rows(number, *rest)

    monkeypatch.setattr(rows, "call_rows", counted)
    return numbers


def test_one_matrix_product_and_one_kernel_a_layer() -> None:
    network = _network(2, 8, 8, 8, 1)
    x = torch.randn(5, 2, dtype=torch.float64)

    def step() -> None:
        result = fusedgrad.derivatives(network, x, torch.ones_like(x), 4)[-1]
        torch.autograd.backward(result.sum())

    step()
    with torch.profiler.profile(record_shapes=True) as profile:
        step()
    products, kernels = (
        [event for event in profile.events() or () if event.name == name]
        for name in ("aten::mm", "fusedgrad::fused_rows")
    )
    # The first layer has two coefficients, the last bias is added to the value alone.
    assert [event.input_shapes[0][0] for event in products[:4]] == [10, 25, 25, 25]
    assert len(products) == 4 + 7  # the points are constants
    assert len(kernels) == 7
    known = len(rows._rows)
    network = _network(2, 8, 8, 8, 8, 1)
    step()
    assert len(rows._rows) == known  # layers of one kind share a kernel


_OPERATORS: dict[str, Callable[..., Sequence[Tensor]]] = {
    "derivatives": lambda f, x: fusedgrad.derivatives(f, x, torch.ones_like(x), 3),
    "laplacian": lambda f, x: fusedgrad.laplacian(f)(x),
    "bilaplacian": lambda f, x: fusedgrad.bilaplacian(f)(x),
}


@pytest.mark.parametrize("name", _OPERATORS)
def test_layers_that_were_seen_need_no_python(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What C++ does of them the next time has the same bits, and so have its gradients."""
    network = _network(3, 5, 5, 2)
    last = nn.Linear(2, 2).double()

    def f(x: Tensor) -> Tensor:
        hidden = network(x)
        return torch.sin(last(hidden) * 0.7) + F.linear(hidden, last.weight, last.bias)

    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)

    def found() -> list[Tensor]:
        results = _OPERATORS[name](f, x)
        total = torch.stack([(r**2).sum() for r in results]).sum()
        return [*results, *torch.autograd.grad(total, [x, *network.parameters()])]

    expected = found()
    monkeypatch.setitem(HANDLERS, F.linear, lambda *_: pytest.fail("asked Python"))
    for a, b in zip(found(), expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", _OPERATORS)
@pytest.mark.parametrize("joined", [(False, True), (True, False)])
def test_layers_that_were_seen_take_coefficients_that_lie_in_another_way(
    name: str, joined: Sequence[bool]
) -> None:
    layer = nn.Linear(3, 3).double()
    x = torch.randn(4, 3, dtype=torch.float64)

    def along(is_joined: bool, sizes: Sequence[int]) -> Sequence[Tensor]:
        def f(x: Tensor) -> Tensor:
            apart = torch.einsum("...i,...j->...j", x, x) if sizes else x
            value = torch.sign(apart)  # of which there is one coefficient
            bent = torch.sin(apart)
            if is_joined:
                layer(apart.reshape(-1, 3))
            return layer(value) + layer(bent)  # type: ignore[no-any-return]

        return _OPERATORS[name](f, x)

    for sizes in ((), (3,)):
        for a, b in zip(*(along(own, sizes) for own in joined), strict=True):
            assert torch.equal(a, b)


def test_layers_that_were_seen_meet_other_states_of_pytorch() -> None:
    network = _network(2, 4, 4, 1)
    x = torch.randn(5, 2, dtype=torch.float64)

    def second(parameters: dict[str, Tensor], x: Tensor = x) -> Tensor:
        function = functools.partial(torch.func.functional_call, network, parameters)
        return fusedgrad.derivatives(function, x, torch.ones_like(x), 2)[2]

    own = {name: p.detach().clone() for name, p in network.named_parameters()}
    expected = second(own)
    close([second(own)], [expected])
    moved = {name: p + 1e-6 for name, p in own.items()}
    slope = (second(moved) - second({name: p - 1e-6 for name, p in own.items()})) / 2e-6
    ones = {name: torch.ones_like(p) for name, p in own.items()}
    tangent = torch.func.jvp(second, (own,), (ones,))[1]
    torch.testing.assert_close(tangent, slope, rtol=1e-6, atol=1e-6)
    with forward_ad.dual_level():
        make: Any = forward_ad.make_dual
        unpack: Any = forward_ad.unpack_dual
        tangent = unpack(second({name: make(p, ones[name]) for name, p in own.items()})).tangent
    torch.testing.assert_close(tangent, slope, rtol=1e-6, atol=1e-6)
    stacked = {name: torch.stack([p, moved[name]]) for name, p in own.items()}
    close(torch.vmap(second)(stacked).unbind(), [expected, second(moved)])
    single = {name: p.float() for name, p in own.items()}
    assert second(single, x.float()).dtype is torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert second(single, x.float()).dtype is torch.bfloat16
    with pytest.raises(RuntimeError, match="dtype"):
        second(single)

    def stopped(x: Tensor) -> Tensor:
        with torch.no_grad():
            return cast(Tensor, network(x))

    with pytest.raises(TaylorError, match="no_grad"):
        fusedgrad.derivatives(stopped, x, torch.ones_like(x), 2)


def test_numbers_that_vary_are_parameters_of_one_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = _kernels(monkeypatch)
    x = torch.randn(3, dtype=torch.float64)
    for scale in (0.3, 1.5, 3):
        _, (first,) = fusedgrad.jet(lambda x, s=scale: torch.sin(s * x), (x,), ((x,),))
        close([first], [scale * x * torch.cos(scale * x)])
    assert len(set(numbers)) == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lie", ["side by side", "transposed", "every other"])
def test_results_do_not_depend_on_how_the_coefficients_lie(lie: str, dtype: torch.dtype) -> None:
    """Of 37 rows of 40 elements, of which 12 are taken at a time where the bias is one of them."""
    torch.manual_seed(0)
    given = [torch.randn(37, 40, dtype=dtype) for _ in range(3)]
    others = [torch.randn(s, dtype=dtype) for s in ((40,), (1, 40), (), (37, 1), (37, 40))]

    def along(other: Tensor, is_whole: bool) -> list[Tensor]:
        x, v, w = (t.clone().requires_grad_() for t in given)
        b = other.clone().requires_grad_()

        def curve(t: Tensor) -> Tensor:
            if lie == "transposed":
                t = t.mT.clone().mT
            elif lie == "every other":
                t = torch.stack([t, t], -1)[..., 0]
            return torch.tanh(t * (b.expand(37, 40).clone() if is_whole else b))

        value, (first, second) = fusedgrad.jet(curve, (x,), ((v, w),))
        total = value.float().sum() + first.float().sum() + (second.float() ** 2).sum()
        grads = torch.autograd.grad(total, (x, v, w, b))
        return [value, first, second, *grads]

    for other in others:
        for _ in range(2):  # a backward of Python's, then one of C++'s
            got, expected = along(other, False), along(other, True)
            for a, b in zip(got[:-1], expected[:-1], strict=True):
                assert torch.equal(a, b)
            eps = torch.finfo(dtype).eps
            torch.testing.assert_close(got[-1], expected[-1], rtol=64 * eps, atol=64 * eps)


def test_a_batch_of_gradients() -> None:
    """Of which all coefficients, or one, have one."""
    network = _network(2, 8, 8, 1)
    x = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    results = fusedgrad.derivatives(network, x, torch.ones_like(x), 3)
    batch = torch.randn(3, 5, 1, dtype=torch.float64)
    gradient: Any = functools.partial(torch.autograd.grad, retain_graph=True)
    for some in (results, results[2:3]):
        (together,) = gradient(some, x, [batch] * len(some), is_grads_batched=True)
        apart = [gradient(some, x, [each] * len(some))[0] for each in batch]
        close(together.unbind(), apart)


def test_what_a_backward_keeps() -> None:
    network = _network(2, 8, 8, 1)
    x = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    third = fusedgrad.derivatives(network, x, torch.ones_like(x), 3)[-1].sum()
    leaves = [x, *network.parameters()]
    first = torch.autograd.grad(third, leaves, retain_graph=True, allow_unused=True)
    again = torch.autograd.grad(third, leaves, create_graph=True, allow_unused=True)
    # Not to the bit: C++'s backward and Python's, which create_graph takes, differ by 2e-16 here.
    for a, b in zip(first, again, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)
    torch.autograd.grad(third, x)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(third, x)


# ------------------------------------------------------------------------------- dtypes, transforms


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtypes(dtype: torch.dtype) -> None:
    network = _network(2, 8, 1)
    x = torch.randn(5, 2, dtype=torch.float64)
    expected = fusedgrad.derivatives(network, x, torch.ones_like(x), 2)
    got = fusedgrad.derivatives(network.to(dtype), x.to(dtype), torch.ones(5, 2).to(dtype), 2)
    tolerance = 8 * torch.finfo(dtype).eps
    for a, b in zip(got, expected, strict=True):
        assert a.dtype is dtype
        torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=tolerance)
    torch.autograd.backward([d.sum() for d in got])


def test_autocast() -> None:
    network = _network(2, 8, 1).float()
    x = torch.randn(5, 2)
    exact = fusedgrad.derivatives(network, x, torch.ones_like(x), 2)
    with torch.autocast("cpu", torch.bfloat16):
        plain = network(x)
        got = fusedgrad.derivatives(network, x, torch.ones_like(x), 2)
        assert [d.dtype for d in got] == [plain.dtype] * 3
        torch.autograd.backward(got[2].sum())
    for a, b in zip(got, exact, strict=True):
        torch.testing.assert_close(a.float(), b, rtol=0.1, atol=0.05)
    assert [getattr(p.grad, "dtype", None) for p in network[0].parameters()] == [torch.float32] * 2


def test_vmap_over_directions_and_gradients_of_gradients() -> None:
    network = _network(3, 6, 1)
    x = torch.randn(2, 3, dtype=torch.float64)
    directions = torch.eye(3, dtype=torch.float64)
    second = torch.vmap(lambda v: fusedgrad.derivatives(network, x, v, 2)[2])(directions)
    hessians = torch.stack([torch.func.hessian(lambda p: network(p)[0])(p) for p in x])
    close(second[..., 0], hessians.diagonal(dim1=-2, dim2=-1).mT)

    def loss(p: Tensor) -> Tensor:
        return fusedgrad.derivatives(network, p, directions[0], 2)[2].sum()

    x.requires_grad_()
    (slope,) = torch.autograd.grad(loss(x), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    fourth = fusedgrad.derivatives(network, x.detach(), directions[0], 4)[4]
    close([torch.func.jacrev(loss)(x.detach())], [slope.detach()])
    (again,) = torch.autograd.grad(
        torch.autograd.grad(loss(x), x, create_graph=True)[0][:, 0].sum(), x
    )
    close([again[:, :1]], [fourth])
    assert curvature.shape == x.shape
    assert torch.autograd.gradcheck(loss, (x,))


def test_compiled_autograd_runs_the_nodes() -> None:
    network = _network(2, 4, 1)
    parameters = list(network.parameters())[:-1]
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)

    fused = fusedgrad.fuse(fusedgrad.tanh)
    mean = fusedgrad.fuse(lambda a, b: torch.mean(a * b))

    def loss() -> Tensor:
        value, _, laplacian = fusedgrad.laplacian(network)(x)
        return cast(Tensor, mean(fused(value), laplacian))

    expected = torch.autograd.grad(loss(), [x, *parameters])
    value = loss()
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
        torch.autograd.backward(value)
    close([each.grad for each in (x, *parameters)], expected)


class _Unmoved(torch.autograd.Function):
    """The sum, through which no gradient passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> None:
        return None


def _row(function: Function) -> Function:
    return lambda x: fusedgrad.jet(function, (x,), ((torch.ones_like(x),),))[1][0]


@pytest.mark.parametrize(
    ("function", "node"),
    [
        (fusedgrad.sigmoid, "SigmoidBackward"),
        (fusedgrad.fuse(lambda x: torch.sin(x) * x), "FusedBackward"),
        (fusedgrad.fuse(lambda x: torch.sin(x) * x, reduction="sum"), "FusedBackward"),
        (_row(torch.tanh), "RowsBackward"),
        (_row(lambda x: F.linear(x, torch.ones(4, 2).double())), "LinearBackward"),
    ],
    ids=["operator", "fused", "reduction", "rows", "linear"],
)
def test_compiled_autograd_runs_the_nodes_of_results_that_nobody_uses(
    function: Function, node: str
) -> None:
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    result = function(x)
    recorded = result.grad_fn
    while recorded is not None and recorded.name() != f"fusedgrad::{node}":
        recorded = recorded.next_functions[0][0]
    assert recorded is not None
    value = _Unmoved.apply(result)  # type: ignore[no-untyped-call]
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
        torch.autograd.backward(value)
    assert x.grad is None


def test_without_gradients_nothing_is_recorded() -> None:
    network = _network(2, 4, 1)
    with torch.no_grad():
        got = fusedgrad.derivatives(network, torch.ones(2, 2).double(), torch.ones(2).double(), 2)
    assert not any(d.requires_grad for d in got)


# ------------------------------------------------------------------------------------- operators


def _hessians(function: Function, x: Tensor) -> Tensor:
    return torch.stack([torch.func.hessian(lambda p: function(p[None])[0, 0])(p) for p in x])


@pytest.mark.sampled(4)
@pytest.mark.parametrize("count", [1, 2, 5, 21])
def test_laplacian(count: int) -> None:
    network = _network(count, 6, 5, 1)
    x = torch.randn(3, count, dtype=torch.float64, requires_grad=True)
    result = fusedgrad.laplacian(network)(x)
    hessians = _hessians(network, x)
    expected = hessians.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)
    close([result.value, result.laplacian], [network(x), expected])
    (gradient,) = torch.autograd.grad(result.value.sum(), x, create_graph=True)
    close([result.gradient[:, 0]], [gradient])
    leaves = [x, *list(network.parameters())[:-1]]
    grads = [
        torch.autograd.grad(each.sum(), leaves, create_graph=True)
        for each in (result.laplacian, expected)
    ]
    close(*grads)
    weights = [torch.randn_like(leaf) for leaf in leaves]
    close(*[torch.autograd.grad(of, leaves, weights) for of in grads])


def test_directions_are_not_repeated_for_each_point() -> None:
    network = _network(3, 6, 1)
    x = torch.randn(50, 3, dtype=torch.float64)
    directions = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    with torch.profiler.profile(record_shapes=True) as profile:
        got = fusedgrad.laplacian(network, directions=directions)(x).laplacian
    products = [e.input_shapes[0][0] for e in profile.events() or () if e.name == "aten::mm"]
    assert products == [50, 7, 9 * 50]
    along = [fusedgrad.derivatives(network, x, d, 2)[2] for d in directions.unbind()]
    expected = torch.stack(along).mean(0)
    close([got], [expected])
    close(*[torch.autograd.grad((each**2).sum(), directions) for each in (got, expected)])
    (point,) = fusedgrad.laplacian(network, directions=directions)(x[3]).laplacian[None]
    close([point], [got[3]])


def test_many_directions_are_one_call_of_few_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = _kernels(monkeypatch)
    network = _network(60, 4, 4, 1)
    x = torch.randn(3, 60, dtype=torch.float64)
    for _ in range(2):  # the second finds its kernels and its backward without Python
        torch.autograd.backward(fusedgrad.laplacian(network)(x).laplacian.sum())
    assert len(numbers) == len(set(numbers)) == 5
    for forward in [rows._rows[number] for number in numbers[:2]]:
        (backward,) = [own for own in rows._rows.values() if own.tensors[1:] == forward.tensors]
        for each in (forward, backward):
            assert len(each.steps) > 5
            assert len({step.graph.outputs for step in each.summing}) <= 3


@pytest.mark.parametrize("device", DEVICES)
def test_many_directions_of_coefficients_that_are_not_side_by_side(device: str) -> None:
    """Sums over directions in the place where they are read, of strided operands."""
    x = torch.randn(3, 21, dtype=torch.float64).to(device).requires_grad_()

    def f(x: Tensor) -> Tensor:
        return torch.stack([torch.sin(x.mT), torch.cos(2 * x).mT], -1).sum((0, -1))

    result = fusedgrad.laplacian(f)(x)
    expected = -torch.sin(x).sum(-1) - 4 * torch.cos(2 * x).sum(-1)
    close([result.laplacian], [expected])
    close(*[torch.autograd.grad(each.sum(), x) for each in (result.laplacian, expected)])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("device", DEVICES)
def test_many_directions_are_summed_where_they_are_written(
    device: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward and backward, in steps; of half types each sum so far is rounded."""
    numbers = _kernels(monkeypatch)
    x = torch.linspace(-1.5, 2, 80).reshape(2, 40).to(device, dtype).requires_grad_()
    weight = torch.ones(40, device=device, dtype=dtype, requires_grad=True)
    for _ in range(2):  # the second finds its backward without Python
        numbers.clear()
        got = fusedgrad.laplacian(lambda x: (torch.tanh(x) * weight).sum(-1))(x).laplacian
        gradients = torch.autograd.grad(got.sum(), (x, weight))
        steps = [step for number in numbers for step in rows._rows[number].summing]
        assert any(set(step.read) & set(step.writes) for step in steps)
        wide = x.detach().double().cpu().requires_grad_()
        slopes = -2 * torch.tanh(wide) / torch.cosh(wide) ** 2
        expected = [slopes.sum(-1), *torch.autograd.grad(slopes.sum(), wide), slopes.sum(0)]
        for a, b in zip([got, *gradients], expected, strict=True):
            assert (a.device.type, a.dtype) == (device, dtype)
            bound = 30 * torch.finfo(dtype).eps * slopes.abs().sum(-1).max()
            assert ((a.double().cpu() - b).abs() <= bound).all()


def test_laplacian_with_weights_and_with_given_directions() -> None:
    network = _network(3, 6, 1)
    x = torch.randn(4, 3, dtype=torch.float64)
    hessians = _hessians(network, x)
    weight = torch.randn(3, 3, dtype=torch.float64)
    weight = weight + weight.mT
    got = fusedgrad.laplacian(network, weight=weight)(x)
    close([got.laplacian[:, 0]], [(hessians * weight).sum((-1, -2))])
    zero = fusedgrad.laplacian(network, weight=torch.zeros(3, 3))(x)
    assert not zero.laplacian.any()
    directions = torch.randn(7, 3, dtype=torch.float64)
    got = fusedgrad.laplacian(network, directions=directions)(x)
    expected = torch.einsum("bij,si,sj->b", hessians, directions, directions) / 7
    close([got.laplacian[:, 0]], [expected])
    assert got.gradient.shape == (4, 1, 7)


@pytest.mark.parametrize("count", [1, 2, 4, 5])
def test_bilaplacian(count: int) -> None:
    network = _network(count, 5, 1)
    x = torch.randn(2, count, dtype=torch.float64)

    def laplace(p: Tensor) -> Tensor:
        return torch.func.hessian(lambda q: network(q[None])[0, 0])(p).trace()  # type: ignore[no-any-return]

    expected = torch.stack([torch.func.hessian(laplace)(p).trace() for p in x])
    got, lower = fusedgrad.bilaplacian(network)(x), fusedgrad.laplacian(network)(x)
    close([got.bilaplacian[:, 0]], [expected])
    close(got[:3], lower)
    directions = torch.randn(3, count, dtype=torch.float64)
    estimate = fusedgrad.bilaplacian(network, directions=directions)(x)
    along = [fusedgrad.derivatives(network, x, d, 4) for d in directions]
    close([estimate.bilaplacian], [torch.stack([a[4] for a in along]).mean(0) / 3])
    close([estimate.laplacian], [torch.stack([a[2] for a in along]).mean(0)])


def test_products_in_the_collapsed_form() -> None:
    torch.manual_seed(3)
    network = _Attention()

    def f(x: Tensor) -> Tensor:
        return network(x[:, None, :] * torch.tensor([[1.0], [0.5]], dtype=x.dtype)) ** 2  # type: ignore[no-any-return]

    x = torch.randn(3, 3, dtype=torch.float64)
    got = fusedgrad.laplacian(f)(x).laplacian
    hessians = torch.stack(
        [torch.func.jacfwd(torch.func.jacfwd(lambda p: f(p[None])[0]))(p) for p in x]
    )
    close([got], [hessians.diagonal(dim1=-2, dim2=-1).sum(-1)])


# ---------------------------------------------------------------------------------------- errors


def _in_place(x: Tensor) -> Tensor:
    y = 2 * x
    y += 1
    return y


def _without_grad(x: Tensor) -> Tensor:
    with torch.no_grad():
        y = torch.sin(x)
    return x * y


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * grad


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.tanh(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: torch.linalg.inv(x), "linalg_inv"),
        (lambda x: torch.sort(x)[0], "torch.sort"),
        (lambda x: x.max(), "Tensor.max is no operation that jet() knows"),
        (lambda x: x.item(), "Tensor.item"),
        (lambda x: x.numpy(), "Tensor.numpy"),
        (_in_place, "in place"),
        (lambda x: F.relu(x, inplace=True), "in place"),
        (lambda x: x.mul_(2), "in place"),
        (_without_grad, "torch.no_grad()"),
        (lambda x: F.batch_norm(x, None, None, training=True), "call eval()"),
        (lambda x: x.norm(p=3), "of order 3 is not known"),
        (lambda x: torch.linalg.norm(x, 2), "of a matrix of order 2 is not known"),
        (lambda x: cast(Any, F).mse_loss(x, x, weight=x), "with weight"),
        (lambda x: F.dropout(x, inplace=True), "in place"),
        (lambda x: torch.einsum("ij,jk,kl->il", x, x, x), "multiply two at a time"),
        (lambda x: torch.fft.fft(x), "fft"),
        (lambda x: cast(Any, _Doubled).apply(x), "in a torch.autograd.Function"),
        (lambda x: F.kl_div(x, x, reduction="batchmean"), "the reduction 'batchmean'"),
        (lambda x: cast(Any, F).l1_loss(x, x, weight=x), "the reduction 'mean by weights'"),
        (lambda x: torch.autograd.grad(x.sum(), x), "grad"),
        (lambda x: x.__setitem__(0, 1.0), "__setitem__"),
    ],
)
def test_what_is_not_known_is_an_error_with_the_line(function: Function, message: str) -> None:
    x = torch.eye(2, dtype=torch.float64) + 0.1
    with pytest.raises(TaylorError) as caught:
        fusedgrad.jet(function, (x,), ((x,),))
    assert message in str(caught.value)
    assert "test_taylor.py:" in str(caught.value)


def test_a_function_with_a_rule_of_its_own_is_refused_under_no_grad_and_when_seen_before() -> None:
    x = torch.ones(5, 2)
    layer = torch.nn.Linear(2, 2)

    def seen(x: Tensor) -> Tensor:
        return 2 * torch.tanh(layer(x))

    def f(x: Tensor) -> Tensor:
        return seen(x) + cast(Tensor, cast(Any, _Straight).apply(layer(x)))

    for records in (False, True):
        with torch.set_grad_enabled(records):
            for _ in range(2):
                fusedgrad.derivatives(seen, x, x, 2)
            for _ in range(2):
                with pytest.raises(TaylorError, match=r"in a torch\.autograd\.Function"):
                    fusedgrad.derivatives(f, x, x, 2)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, t: ((x > 0.05) + (x < 1)) * x,
        lambda x, t: torch.where(x == 0.1, 2 * x, x),
        lambda x, t: torch.where(t >= x, 2 * x, x),
        lambda x, t: torch.clamp(x, max=t) * x,
        lambda x, t: torch.where(x == 0.2, x.double(), 2 * x),
        lambda x, t: x % t,
    ],
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_what_jumps_is_compared_as_in_pytorch(function: Function, dtype: torch.dtype) -> None:
    """Truth values that are added, and what PyTorch rounds to the dtype of the tensor before."""
    x = torch.tensor([0.1, 0.2, 0.3], dtype=dtype)
    t = torch.tensor(0.1, dtype=torch.float32 if dtype is torch.float16 else torch.float64)
    value, slope = fusedgrad.derivatives(lambda x: function(x, t), x, torch.ones_like(x), 1)
    x.requires_grad_()
    expected = function(x, t)
    torch.testing.assert_close(value, expected.detach())
    (gradient,) = torch.autograd.grad(expected.sum(), x)
    torch.testing.assert_close(slope, gradient.to(slope.dtype))


X = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: fusedgrad.jet(torch.sin, (X,), ()), ValueError, "1 primals and 0 series"),
        (lambda: fusedgrad.jet(torch.sin, (X,), (None,)), ValueError, "got 0 derivatives"),
        (lambda: fusedgrad.jet(torch.sin, (X,), ([X] * 9,)), ValueError, "expected 1 to 8"),
        (lambda: fusedgrad.jet(torch.sin, (X,), ([X.double()],)), TypeError, "torch.float64"),
        (lambda: fusedgrad.jet(torch.sin, (X,), ([X[0]],)), ValueError, "has shape (3,)"),
        (lambda: fusedgrad.jet(torch.sin, (X,), (cast(Any, [1.0]),)), TypeError, "is float"),
        (lambda: fusedgrad.jet(torch.sin, (X.int(),), ([X],)), TypeError, "torch.int32"),
        (lambda: fusedgrad.derivatives(torch.sin, X, X, 0), ValueError, "order is 0"),
        (lambda: fusedgrad.derivatives(lambda x: (x,), X, X, 1), TypeError, "returns tuple"),
        (lambda: fusedgrad.laplacian(torch.sin)(X.int()), TypeError, "tensor of floats"),
        (
            lambda: fusedgrad.laplacian(torch.sin, weight=X)(X),
            ValueError,
            "has shape (2, 3), expected (3, 3)",
        ),
        (
            lambda: fusedgrad.laplacian(torch.sin, weight=torch.arange(9.0).view(3, 3))(X),
            ValueError,
            "not symmetric",
        ),
        (
            lambda: fusedgrad.laplacian(torch.sin, weight=X, directions=X),
            ValueError,
            "one of them",
        ),
        (
            lambda: fusedgrad.laplacian(torch.sin, directions=X[:, :2])(X),
            ValueError,
            "expected (S, 3)",
        ),
    ],
)
def test_arguments_that_do_not_fit(call: Callable[[], Any], kind: type, message: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert message in str(caught.value)


def test_a_jet_says_what_it_is() -> None:
    seen: list[str] = []

    def f(x: Tensor) -> Tensor:
        assert isinstance(x, Jet)
        seen.append(repr(x))
        return x

    fusedgrad.jet(f, (X,), ([X, X],))
    assert seen == ["Jet(order=2, shape=(2, 3), dtype=torch.float32)"]
    assert kernel.MAX_PARAMETERS >= 1

"""Every elementwise operation of PyTorch's own database under fuse, and the ties of its pieces.

The operations are OpInfo's unary and binary ones and the elementwise losses and activations, but
for random ones and those of other results than floats or bool. Value, gradient and second
derivative are PyTorch's, in float64. `REFUSED` may only shrink.
"""

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from mpmath import mp, mpf
from torch import Tensor
from torch.nn import functional as F
from torch.testing._internal import common_methods_invocations as database

import fusedgrad
from fusedgrad import FuseError

# What is refused, and the way out that the documentation names
REFUSED = {"nn.functional.glu"}  # halves of its argument: write a * torch.sigmoid(b)
# Where PyTorch's own result is further from the exact one than the tolerance, the greatest relative
# difference: its 1/6 is a float's, its trigamma function has ten digits.
PYTORCHS_ERROR = {"nn.functional.hardsigmoid": 1e-7, "polygamma": 1e-9, "special.polygamma": 1e-9}

_LEFT_OUT = {
    *("real", "angle", "complex", "polar", "frexp", "bfloat16", "bool", "byte", "char", "double"),
    *("half", "int", "long", "short", "cdouble", "cfloat", "chalf", "float", "fill", "isreal"),
    *("nn.functional.rrelu", "nextafter", "max", "min"),
}
_MORE = {
    *("addcmul", "addcdiv", "lerp", "where", "clamp", "masked_fill", "logaddexp2"),
    *(
        f"nn.functional.{name}"
        for name in (
            *("leaky_relu", "hardswish", "gelu", "silu", "glu", "mse_loss", "l1_loss", "kl_div"),
            *("smooth_l1_loss", "huber_loss", "poisson_nll_loss", "gaussian_nll_loss"),
            *("soft_margin_loss", "hinge_embedding_loss", "margin_ranking_loss"),
            *("binary_cross_entropy", "binary_cross_entropy_with_logits"),
        )
    ),
}
SAMPLES = 3


def _infos() -> dict[str, Any]:
    found: dict[str, Any] = {}
    more = (info for info in database.op_db if info.name in _MORE)
    for info in (*database.unary_ufuncs, *database.binary_ufuncs, *more):
        base = info.name.rsplit(".", 1)[-1] if info.name.startswith("_refs") else info.name
        if torch.float64 not in info.dtypes or info.name.startswith("_refs."):
            continue
        if base in _LEFT_OUT or base.startswith(("jiterator", "conj")):
            continue
        found.setdefault(f"{info.name} {info.variant_test_name}".strip(), info)
    return found


INFOS = _infos()


def _values(sample: Any) -> list[Any]:
    return [sample.input, *sample.args, *sample.kwargs.values()]


def _of_tensors(info: Any, sample: Any) -> Callable[..., Any]:
    """The operation as a function of the tensors among its arguments."""
    values = _values(sample)
    places = [i for i, value in enumerate(values) if isinstance(value, Tensor)]
    count, keys, operation = 1 + len(sample.args), list(sample.kwargs), info.op

    def function(*tensors: Tensor) -> Any:
        given = list(values)
        for place, tensor in zip(places, tensors, strict=True):
            given[place] = tensor
        return operation(*given[:count], **dict(zip(keys, given[count:], strict=True)))

    return function


def _samples(info: Any) -> Iterator[tuple[Callable[..., Any], list[Tensor], Tensor]]:
    """Functions, tensors for them, and what PyTorch gives."""
    count = 0
    for sample in info.sample_inputs("cpu", torch.float64, requires_grad=info.supports_autograd):
        tensors = [value for value in _values(sample) if isinstance(value, Tensor)]
        if count == SAMPLES or not tensors:
            continue
        if any(not t.numel() or t.dtype not in (torch.float64, torch.bool) for t in tensors):
            continue
        function = _of_tensors(info, sample)
        try:
            want = function(*tensors)
        except Exception:
            continue
        if isinstance(want, Tensor) and want.dtype in (torch.float64, torch.bool):
            count += 1
            yield function, tensors, want


def _second(grads: Any, leaves: list[Tensor]) -> list[Tensor]:
    moving = [grad.sum() for grad in grads if grad.requires_grad]
    if not moving:
        return [torch.zeros_like(leaf) for leaf in leaves]
    options: Any = {"allow_unused": True, "materialize_grads": True}
    return list(torch.autograd.grad(moving, leaves, **options))


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", INFOS)
def test_is_pytorchs_or_refused_by_name(name: str) -> None:
    torch.manual_seed(0)
    info = INFOS[name]
    loose = PYTORCHS_ERROR.get(info.name, 0.0)

    def compare(got: Any, want: Any, tolerance: float) -> None:
        rtol = max(tolerance, loose)
        torch.testing.assert_close(got, want, equal_nan=True, rtol=rtol, atol=rtol / 100)

    for function, tensors, want in _samples(info):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fused = fusedgrad.fuse(function)
            if name in REFUSED:
                with pytest.raises(FuseError, match=info.name.rsplit(".", 1)[-1]):
                    fused(*tensors)
                continue
            got = fused(*tensors)
        compare(got, want, 1e-11)
        leaves = [tensor for tensor in tensors if tensor.requires_grad]
        if not leaves or not want.requires_grad:
            continue
        direction = torch.randn_like(want.detach())
        options: Any = {"create_graph": info.supports_gradgrad, "allow_unused": True}
        options |= {"materialize_grads": True}
        ours = torch.autograd.grad(got, leaves, direction, **options)
        theirs = torch.autograd.grad(want, leaves, direction, **options)
        compare(ours, theirs, 1e-8)
        if info.supports_gradgrad:
            compare(_second(ours, leaves), _second(theirs, leaves), 1e-6)


def test_at_least_150_pass() -> None:
    assert len(INFOS) >= 182
    assert len(INFOS) - len(REFUSED) >= 150
    assert INFOS.keys() >= REFUSED


@pytest.mark.parametrize("order", [1, 2, 3])
def test_polygamma_has_the_digits_that_pytorch_has_not(order: int) -> None:
    x = torch.tensor([-3.9999, -0.5, 0.3, 1.4616, 2.0, 9.0, 100.0], dtype=torch.float64)
    got = fusedgrad.fuse(lambda x: torch.polygamma(order, x))(x)
    with mp.workdps(40):
        for at, value in zip(x.tolist(), got.tolist(), strict=True):
            exact = mp.polygamma(order, mpf(at))
            assert abs(value - exact) <= 2e-15 * abs(exact), at


# --------------------------------------------------------------------------------------- the rest


X = torch.tensor([-7.5, -3.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 3.0, 6.0, 20.5], dtype=torch.float64)
Y = torch.tensor([2.0, -3.0, 1.0, -0.5, 1.0, 0.0, 0.5, -1.0, 3.0, 2.0, -0.25], dtype=torch.float64)
SLOPE = torch.tensor([0.2], dtype=torch.float64)
TIES: dict[str, Callable[..., Tensor]] = {
    "abs": lambda x, y: torch.abs(x),
    "clamp": lambda x, y: x.clamp(-1, 3),
    "clamp with tensors": lambda x, y: torch.clamp(x, y, y + 2),
    "clamp_min": lambda x, y: x.clamp_min(y),
    "clamp_max": lambda x, y: x.clamp_max(y),
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "fmax": torch.fmax,
    "fmin": torch.fmin,
    "relu": lambda x, y: F.relu(x),
    "relu6": lambda x, y: F.relu6(x),
    "hardtanh": lambda x, y: F.hardtanh(x, -3.0, 3.0),
    "hardswish": lambda x, y: F.hardswish(x),
    "hardshrink": lambda x, y: F.hardshrink(x, 0.5),
    "softshrink": lambda x, y: F.softshrink(x, 0.5),
    "threshold": lambda x, y: F.threshold(x, 0.5, 20.0),
    "leaky_relu": lambda x, y: F.leaky_relu(x, 0.2),
    "prelu": lambda x, y: F.prelu(x, SLOPE),
    "elu": lambda x, y: F.elu(x, 0.7),
    "celu": lambda x, y: F.celu(x, 0.5),
    "selu": lambda x, y: F.selu(x),
    "softsign": lambda x, y: F.softsign(x),
    "copysign": torch.copysign,
    "remainder": torch.remainder,
    "fmod": torch.fmod,
    "round": lambda x, y: torch.round(x) * y + torch.round(y, decimals=1),
    "frac": lambda x, y: torch.frac(x),
    "sign": lambda x, y: torch.sign(x) * y,
    "lerp": lambda x, y: torch.lerp(x, y, 0.5),
    "heaviside": lambda x, y: torch.heaviside(x.detach(), y.detach()) * y,
    "smooth_l1": lambda x, y: F.smooth_l1_loss(x, y, reduction="none", beta=0.5),
    "huber": lambda x, y: F.huber_loss(x, y, reduction="none", delta=0.5),
    "hinge": lambda x, y: F.hinge_embedding_loss(x, torch.sign(y), reduction="none"),
    "softplus with a threshold": lambda x, y: F.softplus(x, 2.0, 1.0),
    "floor": lambda x, y: torch.floor(x) * y,
    "masked_fill": lambda x, y: x.masked_fill(y > 0, 2.0),
    "masks": lambda x, y: torch.where((x > 0) ^ (y > 0) & ~torch.isnan(x), x * y, -y),
    "a mask as a number": lambda x, y: (x > 0) * y + (x >= 0.5).double(),
    "logical of floats": lambda x, y: torch.where(torch.logical_and(x, y), x, y),
    "in place": lambda x, y: (x * y).clamp_(-2, 2).add_(x, alpha=2).masked_fill_(x > 3, 0.5),
    "integers": lambda x, y: x * ((x.int() // 2) % 3 - (1 << (y > 0).int())),
    "floor_divide": lambda x, y: torch.div(x, y, rounding_mode="floor") + x.detach() // 0.3,
    "nan_to_num": lambda x, y: torch.nan_to_num(torch.where(x > 5, torch.inf, x), posinf=5.0) * y,
}


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", TIES)
def test_ties_are_as_the_installed_pytorch_has_them(name: str) -> None:
    function = TIES[name]
    results = []
    for each in (fusedgrad.fuse(function), function):
        x, y = X.clone().requires_grad_(), Y.clone().requires_grad_()
        value = each(x, y)
        grads = torch.autograd.grad(value.sum(), (x, y), allow_unused=True, materialize_grads=True)
        results.append((value.detach(), *grads))
    torch.testing.assert_close(*results, rtol=1e-14, atol=1e-15, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_branch_that_is_not_taken_has_no_gradient(dtype: torch.dtype) -> None:
    x = torch.tensor([-1.0, 0.0, 4.0], dtype=dtype, requires_grad=True)
    functions = {
        lambda x: torch.where(x > 0, torch.sqrt(x), 0.0): [0.0, 0.0, 0.25],
        lambda x: torch.where(x != 0, 1 / x, 0.0): [-1.0, 0.0, -0.0625],
        lambda x: torch.where(x > 0, torch.log(x), x): [1.0, 1.0, 0.25],
        lambda x: (1 / x).masked_fill(x == 0, 0.0): [-1.0, 0.0, -0.0625],
        lambda x: torch.where(x > 1, x, torch.exp(1e3 * x.clamp(max=0))) * (x > 1): [0.0, 0.0, 1.0],
    }
    for function, want in functions.items():
        fused = fusedgrad.fuse(function)
        (grad,) = torch.autograd.grad(fused(x).sum(), x, create_graph=True)
        assert grad.tolist() == want
        (second,) = torch.autograd.grad(grad.sum(), x, allow_unused=True, materialize_grads=True)
        assert second.isfinite().all()


def test_prelu_has_its_weight_along_the_channels() -> None:
    x = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    for weight in (torch.rand(3, dtype=torch.float64), torch.tensor([0.3], dtype=torch.float64)):
        weight.requires_grad_()
        fused = fusedgrad.fuse(lambda x, w: F.prelu(x, w))
        for _ in range(3):
            got = torch.autograd.grad(fused(x, weight).sum(), (x, weight))
            want = torch.autograd.grad(F.prelu(x, weight).sum(), (x, weight))
            torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    ("step", "named"),
    [
        (torch.special.bessel_j0, "bessel_j0"),
        (lambda x: x // 0.3, "__floordiv__"),
        (lambda x: 2 // x, "__rfloordiv__"),
        (lambda x: torch.floor_divide(x, x + 1), "floor_divide"),
        (lambda x: torch.heaviside(x, torch.ones((), dtype=x.dtype)), "heaviside"),
    ],
)
def test_what_pytorch_does_not_differentiate_is_no_constant(
    step: Callable[[Tensor], Tensor], named: str
) -> None:
    x = torch.rand(3, dtype=torch.float64)
    fused = fusedgrad.fuse(lambda x: x * step(x))
    torch.testing.assert_close(fused(x), x * step(x))
    with pytest.raises(FuseError, match=f"{named} has no derivative"):
        fused(x.requires_grad_())
    with pytest.raises(FuseError, match=f"{named} has no derivative"):
        torch.func.jvp(fused, (x.detach(),), (x.detach(),))
    with pytest.raises(FuseError, match=f"{named} has no derivative"):
        fused.derivative(0)(x.detach())


LOSSES: dict[str, Callable[..., Tensor]] = {
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "smooth_l1": F.smooth_l1_loss,
    "huber": F.huber_loss,
    "soft_margin": F.soft_margin_loss,
    "hinge": F.hinge_embedding_loss,
    "kl_div": F.kl_div,
    "poisson": F.poisson_nll_loss,
    "bce": lambda x, t, **how: F.binary_cross_entropy(torch.sigmoid(x), torch.sigmoid(t), **how),
    "bce with logits": F.binary_cross_entropy_with_logits,
    "gaussian": lambda x, t, **how: F.gaussian_nll_loss(x, t, t * t + 0.1, **how),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_reduce_within_the_kernel(name: str, reduction: str) -> None:
    torch.manual_seed(1)
    loss = LOSSES[name]
    x, t = torch.randn(4, 7, dtype=torch.float64), torch.rand(4, 7, dtype=torch.float64)
    # PyTorch does not differentiate these by their targets.
    t.requires_grad_(name not in ("soft_margin", "hinge"))
    x.requires_grad_()
    leaves = (x, t) if t.requires_grad else (x,)
    fused = fusedgrad.fuse(lambda x, t: loss(x * 2, t, reduction=reduction))
    got, want = fused(x, t), loss(x * 2, t, reduction=reduction)
    torch.testing.assert_close(got, want)
    wanted = torch.autograd.grad(want.sum(), leaves)
    torch.testing.assert_close(torch.autograd.grad(got.sum(), leaves), wanted)
    value, grads = fused.value_and_grad(x, t)
    torch.testing.assert_close((value, *grads[: len(leaves)]), (want, *wanted))


MSE: Any = F.mse_loss  # whose stub knows no weight
L1: Any = F.l1_loss
HUBER: Any = F.huber_loss
REDUCED: dict[str, Callable[..., Tensor]] = {
    "mse, weights": lambda x, t, **how: MSE(x, t, weight=t, **how),
    "l1, weights": lambda x, t, **how: L1(x, t, weight=t, **how),
    "huber, weights": lambda x, t, **how: HUBER(x, t, weight=t, **how),
    "mse, weights that are computed": lambda x, t, **how: MSE(x, t, weight=t * t, **how),
    "kl_div": F.kl_div,
    "kl_div of logarithms": lambda x, t, **how: F.kl_div(x, t, log_target=True, **how),
}


@pytest.mark.parametrize(
    ("name", "reduction"),
    [
        (name, reduction)
        for name in REDUCED
        for reduction in ("none", "mean", "sum", *["batchmean"] * ("kl_div" in name))
    ],
)
def test_losses_are_weighted_and_divided_as_pytorchs(name: str, reduction: str) -> None:
    loss = functools.partial(REDUCED[name], reduction=reduction)
    fused = fusedgrad.fuse(loss)
    for rows in (4, 3, 3):
        torch.manual_seed(rows)
        x, t = (torch.rand(rows, 7, dtype=torch.float64, requires_grad=True) for _ in range(2))
        got, want = fused(x, t), loss(x, t)
        torch.testing.assert_close(got, want)
        grads = (torch.autograd.grad(each.sum(), (x, t)) for each in (got, want))
        torch.testing.assert_close(*grads)


def test_nothing_goes_on_with_a_reduced_number() -> None:
    x = torch.rand(3)
    with pytest.raises(FuseError, match="a mean or a sum beside elements"):
        fusedgrad.fuse(lambda x: x * x.mean())(x)
    with pytest.raises(FuseError, match="beside a tensor of elements"):
        fusedgrad.fuse(lambda x: (x.exp().mean(), x))(x)


def test_what_is_cast_to_double_is_computed_in_double() -> None:
    x = torch.linspace(-2, 2, 9, requires_grad=True)
    fused = fusedgrad.fuse(lambda x: (x * 2).double().exp())
    value = fused(x)
    assert value.dtype is torch.float64
    torch.testing.assert_close(value, torch.exp(2 * x.double()), rtol=1e-15, atol=0)
    (grad,) = torch.autograd.grad(value.sum(), x)
    assert grad.dtype is torch.float32


def test_nan_to_num_bounds_a_half_type() -> None:
    x = torch.tensor([1.0, 2.0, -2.0, 0.0], dtype=torch.float16)

    def function(x: Tensor) -> Tensor:
        return torch.nan_to_num(x * 60000 * 100)

    assert fusedgrad.fuse(function)(x).tolist() == function(x).tolist()


def test_an_argument_named_inplace_changes_what_it_is_given() -> None:
    x = torch.randn(5)

    def function(x: Tensor) -> Tensor:
        y = x * 1
        return F.elu(y, 1.0, True) + F.relu(y, True) + y

    torch.testing.assert_close(fusedgrad.fuse(function)(x), function(x))


@pytest.mark.parametrize(
    ("input", "target", "told"),
    [(0.5, 2.0, "target"), (0.5, -1.0, "target"), (1.5, 1.0, "input"), (-0.5, 0.0, "input")],
)
@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("loss", [F.binary_cross_entropy, fusedgrad.binary_cross_entropy])
def test_probabilities_out_of_bounds_are_pytorchs_error(
    loss: Any, input: float, target: float, told: str, reduction: str
) -> None:
    fused = fusedgrad.fuse(lambda x, t: loss(x, t, reduction=reduction))
    for _ in range(3):  # recorded, proved, served
        inside = torch.full((3,), 0.5)
        torch.testing.assert_close(
            fused(inside, inside).mean().item(), 0.6931472, rtol=1e-6, atol=0
        )
        with pytest.raises(RuntimeError, match=f"all elements of {told} should be between 0 and 1"):
            fused(torch.tensor([0.5, input]), torch.tensor([0.5, target]))

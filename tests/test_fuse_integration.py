"""Fused functions among PyTorch's tools: they behave as the operations they are made of."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import fusedgrad
from fusedgrad import FuseError, activations
from fusedgrad.fuse import autograd
from fusedgrad.torch_versions import VERSION
from test_distributed import distributed, full, in_two_processes


def two(x: Tensor, z: Tensor) -> Tensor:
    return torch.sigmoid(x**2 + z) + torch.tanh(x**3 * z**2)


def loss(x: Tensor, t: Tensor) -> Tensor:
    return F.softplus(x) - x * t


FUSED = fusedgrad.fuse(two)


def _pair(*shape: int, requires_grad: bool = False) -> tuple[Tensor, Tensor]:
    x, z = torch.randn(2, *shape, dtype=torch.float64)
    return x.requires_grad_(requires_grad), z.requires_grad_(requires_grad)


# ------------------------------------------------------------------------------------- patched()


def test_patched_traces_and_runs_the_same_function() -> None:
    def body(x: Tensor, z: Tensor) -> Tensor:
        return x.sigmoid() + torch.tanh(z) ** 2 + torch.square(x) + F.sigmoid(z) + 2**x

    x, z = _pair(9, requires_grad=True)
    with fusedgrad.patched():
        fused = fusedgrad.fuse(body)
        y = fused(x, z)
        grads = torch.autograd.grad(y.sum(), (x, z))
    expected = body(x, z)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(grads, torch.autograd.grad(expected.sum(), (x, z)))
    assert "sigmoid(" in str(fused)


def test_patched_refuses_what_is_refused_without_it() -> None:
    def body(x: Tensor) -> Tensor:
        return x.sigmoid_()

    for context in (torch.no_grad(), fusedgrad.patched()):
        with context, pytest.raises(FuseError, match="sigmoid_ changes its tensor in place"):
            fusedgrad.fuse(body)(torch.ones(2))


# -------------------------------------------------------------------------------------- autocast

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    function.__name__: function
    for function in (
        *(torch.exp, torch.expm1, torch.log, torch.log1p, torch.sqrt, torch.rsqrt, torch.sin),
        *(torch.cos, torch.erf, torch.sigmoid, torch.tanh, torch.relu, torch.abs, torch.sign),
        *(torch.reciprocal, torch.square, F.softplus, F.logsigmoid, F.silu, F.mish, F.gelu),
        *(fusedgrad.sigmoid, fusedgrad.tanh),
    )
} | {
    "power": lambda x: x**2.5,
    "power of a number": lambda x: 2**x,
    "clamp": lambda x: torch.clamp(x, -1, 1),
    "fused": activations.softcap,
}
BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": lambda x, z: x + z,
    "power of tensors": lambda x, z: x**z,
    "maximum": torch.maximum,
    "where": lambda x, z: torch.where(x > 0.5, z, 2 * z),
    "loss": lambda x, z: F.binary_cross_entropy_with_logits(x, z, reduction="none"),
    "our loss": lambda x, z: fusedgrad.binary_cross_entropy_with_logits(x, z, reduction="none"),
    "powers": lambda x, z: torch.exp(x) + z**2,
}
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", [*UNARY, *BINARY])
def test_dtypes_under_autocast_are_those_of_the_operations(name: str, dtype: torch.dtype) -> None:
    functions: Any = UNARY | BINARY
    function, fused = functions[name], fusedgrad.fuse(functions[name])
    for first in DTYPES:
        for other in DTYPES if name in BINARY else DTYPES[:1]:
            tensors = [torch.rand(3, dtype=first), torch.rand(3, dtype=other)]
            if name in UNARY:
                tensors.pop()
            with torch.autocast("cpu", dtype=dtype):
                try:
                    expected = function(*tensors)
                except RuntimeError:  # PyTorch promotes no half types among each other there
                    continue
                assert fused(*tensors).dtype is expected.dtype
            if first is not other and name in BINARY:
                continue
            # The same function outside: a plan for autocast is not used there.
            assert fused(*tensors).dtype is function(*tensors).dtype


def test_what_autocast_computes_in_float32_is_not_rounded_before() -> None:
    body = BINARY["loss"]
    x, t = torch.randn(64).bfloat16(), torch.rand(64).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert body(x, t).dtype is torch.float32
        assert torch.equal(fusedgrad.fuse(body)(x, t), fusedgrad.fuse(body)(x.float(), t.float()))


def test_gradients_under_autocast_have_the_dtype_of_their_operand() -> None:
    x = torch.rand(5, dtype=torch.bfloat16, requires_grad=True)
    t = torch.rand(5, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = fusedgrad.fuse(BINARY["loss"])(x, t)
    value.sum().backward()
    assert (x.grad.dtype, t.grad.dtype) == (x.dtype, t.dtype)  # type: ignore[union-attr]


# ------------------------------------------------------------------------------ integers and bool


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.uint8, torch.bool])
@pytest.mark.parametrize("default", [torch.float32, torch.float64], ids=str)
def test_integers_and_bool_promote_as_in_pytorch(dtype: torch.dtype, default: torch.dtype) -> None:
    x = torch.tensor([0, 1, 1, 0, 1, 0, 0], dtype=dtype)
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        for body in (
            lambda x: torch.sigmoid(x),
            lambda x: torch.exp(x) * x,
            lambda x: x / 2,
            lambda x: torch.tanh(0.5 * x),
            lambda x: torch.sqrt(x) + 2.5,
        ):
            ours, theirs = fusedgrad.fuse(body)(x), body(x)
            assert ours.dtype is theirs.dtype
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
        for floating in DTYPES:
            z = torch.rand(7).to(floating).requires_grad_()
            y = FUSED(z, x)
            expected = two(z, x)
            assert y.dtype is expected.dtype
            (grad,) = torch.autograd.grad(y.sum(), z)
            assert grad.dtype is floating
            tolerance = 4 * torch.finfo(floating).eps
            torch.testing.assert_close(y, expected, rtol=tolerance, atol=tolerance)
    finally:
        torch.set_default_dtype(before)


def test_integer_results_are_pytorchs_and_complex_tensors_refused() -> None:
    double = fusedgrad.fuse(lambda x: 2 * x)
    assert torch.equal(double(torch.arange(3)), 2 * torch.arange(3))
    with pytest.raises(FuseError, match=r"x has dtype torch\.complex64"):
        double(torch.ones(3, dtype=torch.complex64))
    with pytest.raises(FuseError, match=r"torch\.int64, by which no gradient is taken"):
        FUSED.value_and_grad(torch.ones(3), torch.arange(3))


def test_a_condition_takes_no_part_in_promotion() -> None:
    x, z = torch.randn(5, dtype=torch.float64), torch.randn(5)
    body = BINARY["where"]
    assert fusedgrad.fuse(body)(x, z).dtype is body(x, z).dtype is torch.float32


# -------------------------------------------------------------------------------- DTensor and gloo


def check_distributed(mesh: Any) -> None:
    from torch.distributed.tensor import Replicate, Shard

    mean = fusedgrad.fuse(two, reduction="mean")
    for first, second in (
        (Shard(0), Shard(0)),
        (Shard(1), Shard(1)),
        (Replicate(), Replicate()),
        (Shard(0), Replicate()),
        (Replicate(), Shard(1)),
        (Shard(1), Shard(0)),
    ):
        inputs = [torch.rand(5, 4, dtype=torch.float64) for _ in range(2)]
        whole = [tensor.clone().requires_grad_() for tensor in inputs]
        parts = [distributed(inputs[0], mesh, first), distributed(inputs[1], mesh, second)]
        message = f"{first} {second}"
        expected, result = two(*whole), FUSED(*parts)
        torch.testing.assert_close(full(result), expected, msg=message)
        if first == Shard(0):
            assert result.placements == (Shard(0),), message
        cotangent = torch.rand_like(expected)
        given = distributed(cotangent, mesh, Replicate())
        theirs = torch.autograd.grad(expected, whole, cotangent, create_graph=True)
        ours = torch.autograd.grad(result, parts, given, create_graph=True)
        for one, other in zip(theirs, ours, strict=True):
            torch.testing.assert_close(full(other), one, msg=message)
        (second_order,) = torch.autograd.grad(theirs[0].sum(), whole[0])
        (ours_second,) = torch.autograd.grad(ours[0].sum(), parts[0])
        torch.testing.assert_close(full(ours_second), second_order, msg=message)

        reduced = mean(*parts)
        torch.testing.assert_close(full(reduced), expected.mean(), msg=message)
        expected = two(*whole).mean()
        for one, other in zip(
            torch.autograd.grad(expected, whole), torch.autograd.grad(reduced, parts), strict=True
        ):
            torch.testing.assert_close(full(other), one, msg=message)

    # Rows broadcast, and an activation of the gallery
    x = distributed(torch.randn(6, 3), mesh, Shard(0))
    row = distributed(torch.randn(3), mesh, Replicate())
    y = FUSED(x, row)
    torch.testing.assert_close(full(y), two(full(x), full(row)))
    grads = torch.autograd.grad(y.sum(), (x, row))
    assert [grad.shape for grad in grads] == [x.shape, row.shape]
    assert full(activations.silu(x)).shape == x.shape


def test_shards_agree_with_the_whole() -> None:
    in_two_processes(check_distributed)


# --------------------------------------------------------------------- compile, export, transforms


@pytest.mark.sampled(6)
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_compiled_in_one_graph(backend: str, reduction: Any) -> None:
    torch._dynamo.reset()
    fused = fusedgrad.fuse(two, reduction=reduction)
    compiled = torch.compile(lambda x, z: 2 * fused(x, z), backend=backend, fullgraph=True)
    x, z = _pair(7, requires_grad=True)
    expected = 2 * fused(x, z)
    torch.testing.assert_close(compiled(x, z), expected)
    torch.testing.assert_close(
        torch.autograd.grad(compiled(x, z).sum(), (x, z)),
        torch.autograd.grad(expected.sum(), (x, z)),
    )


def test_exported() -> None:
    class Gate(torch.nn.Module):
        def forward(self, x: Tensor, z: Tensor) -> Tensor:
            return cast(Tensor, FUSED(x, z))

    x, z = _pair(7)
    program = torch.export.export(Gate(), (x, z))
    torch.testing.assert_close(program.module()(x, z), two(x, z))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_transforms_of_a_reduced_function_agree_with_pytorch(reduction: Any) -> None:
    func = torch.func
    fused = fusedgrad.fuse(two, reduction=reduction)

    def eager(x: Tensor, z: Tensor) -> Tensor:
        y = two(x, z)
        return y.mean() if reduction == "mean" else y.sum()

    x, z = _pair(3, 4)
    for transform in (
        lambda f: func.grad(f, argnums=(0, 1))(x, z),
        lambda f: func.vmap(f)(x, z),
        lambda f: func.vmap(f, in_dims=(0, None))(x, z[0]),
        lambda f: func.vmap(func.grad(f))(x, z),
        lambda f: func.jvp(f, (x, z), (z, x)),
        lambda f: func.hessian(f)(x, z),
        lambda f: func.jacfwd(func.jacfwd(f))(x, z),
        lambda f: func.jacrev(func.jacrev(f, argnums=1))(x, z),
    ):
        torch.testing.assert_close(transform(fused), transform(eager))


def test_a_nested_transform_of_what_no_gradient_reaches_is_zero() -> None:
    f = fusedgrad.fuse(lambda x, z: x * z.detach() + torch.tanh(x))
    x, z = torch.randn(2, 3)
    mixed = torch.func.jacfwd(torch.func.jacrev(f, argnums=1), argnums=0)(x, z)
    assert torch.equal(mixed, torch.zeros(3, 3, 3))


@pytest.mark.parametrize("kind", ["derivative", "value_and_grad", "jet"])
def test_functionalized_derivatives_are_derivatives(kind: str) -> None:
    f = fusedgrad.fuse(lambda x, z: torch.tanh(x) * z)
    slope: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "derivative": f.derivative(0),
        "value_and_grad": lambda x, z: f.value_and_grad(x, z)[1][0],
        "jet": lambda x, z: f.jet(1)((x, torch.ones_like(x)), z)[1],
    }
    x, z = torch.randn(2, 3)
    right = z / torch.cosh(x) ** 2
    torch.testing.assert_close(torch.func.functionalize(slope[kind])(x, z), right)
    if kind != "jet":  # which leaves Dynamo's graph
        compiled = torch.compile(slope[kind], fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(x, z), right)


@pytest.mark.parametrize("kind", ["derivative", "jet"])
def test_no_gradient_of_a_derivative_is_recorded_under_no_grad(kind: str) -> None:
    f = fusedgrad.fuse(torch.tanh)
    x = torch.randn(3, requires_grad=True)

    def slope(x: Tensor) -> Tensor:
        if kind == "jet":
            return cast(Tensor, f.jet(1)((x, torch.ones_like(x)))[1])
        return cast(Tensor, f.derivative(0)(x))

    for _ in range(3):  # recorded, then served
        with torch.no_grad():
            assert not slope(x).requires_grad
        assert slope(x).requires_grad
    found = torch.func.grad(lambda x: (torch.no_grad()(slope)(x) * x).sum())(x.detach())
    torch.testing.assert_close(found, slope(x).detach())


def test_a_transform_inside_a_checkpoint_or_inference_mode() -> None:
    f = fusedgrad.fuse(torch.tanh)
    x = torch.randn(3, requires_grad=True)

    def slope(x: Tensor) -> Tensor:
        return torch.func.grad(lambda x: f(x).sum())(x)  # type: ignore[no-any-return]

    right = 1 / torch.cosh(x.detach()) ** 2
    torch.testing.assert_close(checkpoint(slope, x, use_reentrant=True).detach(), right)
    inside = torch.inference_mode()(slope)
    if VERSION >= (2, 12):
        torch.testing.assert_close(inside(x).clone(), right)
    else:  # where PyTorch's own operations give zeros
        with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
            inside(x)
    traced = make_fx(slope, tracing_mode="fake")(x.detach())
    torch.testing.assert_close(traced(x.detach()), right)


def test_forward_over_forward_over_forward() -> None:
    func = torch.func
    x, z = torch.randn(2, dtype=torch.float64)
    third = func.jacfwd(func.jacfwd(func.jacfwd(FUSED)))(x, z)
    torch.testing.assert_close(third, func.jacfwd(func.jacfwd(func.jacfwd(two)))(x, z))


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("again", [False, True], ids=["served", "runs again"])
def test_the_first_calls_of_a_function_inside_checkpoints(reentrant: bool, again: bool) -> None:
    def function(x: Tensor, z: Tensor) -> Tensor:
        if again:
            print(end="")
        return two(x, z)

    fused = fusedgrad.fuse(function)
    x, z = _pair(6, requires_grad=True)
    expected = torch.autograd.grad(two(x, z).sum(), (x, z))
    for _ in range(3):  # recorded and proved, then served
        y = checkpoint(fused, x, z, use_reentrant=reentrant)
        y.sum().backward()
        torch.testing.assert_close((x.grad, z.grad), expected)
        x.grad = z.grad = None


def test_checkpoints_hooks_and_retained_graphs() -> None:
    x, z = _pair(6, requires_grad=True)
    expected = torch.autograd.grad(two(x, z).sum(), (x, z))
    y = checkpoint(FUSED, x, z, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), (x, z)), expected)
    y = FUSED(x, z)
    torch.autograd.grad(y.sum(), (x, z), retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), (x, z)), expected)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(y.sum(), (x, z))
    with torch.autograd.graph.save_on_cpu():
        y = FUSED(x, z)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), (x, z)), expected)


def test_a_tensor_changed_in_place_is_noticed_in_backward() -> None:
    x, z = _pair(6, requires_grad=True)
    w = 2 * x
    y = FUSED(w, z)
    w.mul_(3)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_gradients_of_many_at_once() -> None:
    x, z = _pair(4, requires_grad=True)
    for fused in (FUSED, fusedgrad.fuse(two, reduction="mean")):
        y = fused(x, z)
        rows = torch.randn(3, *y.shape, dtype=torch.float64)
        batched = torch.autograd.grad(y, (x, z), rows, is_grads_batched=True, retain_graph=True)
        for i, row in enumerate(rows):
            one = torch.autograd.grad(y, (x, z), row, retain_graph=True)
            torch.testing.assert_close(tuple(b[i] for b in batched), one)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_gradcheck(reduction: Any) -> None:
    fused = fusedgrad.fuse(two, reduction=reduction)
    x = torch.randn(3, 1, dtype=torch.float64, requires_grad=True)
    z = torch.randn(2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(fused, (x, z), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(fused, (x, z))


# ----------------------------------------------------------------------------------------- opcheck


@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(requires_grad: bool) -> None:
    f = fusedgrad.fuse(lambda x, z, a=1.5: (torch.tanh(x * a) * z, x + z * x))
    x = torch.randn(4, requires_grad=requires_grad)
    z = torch.randn(3, 1, requires_grad=requires_grad)
    f(x, z)
    f(x, z, 2.0)
    (structure,) = f._structures.values()
    (number,) = cast(Any, structure.varying).numbers.values()
    arguments = (number, [x, z], [2.0], [torch.float32, torch.float16])
    # PyTorch's test_schema cannot read a list of dtypes.
    tests = ("test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(torch.ops.fusedgrad.fused.default, arguments, test_utils=tests)

    g = fusedgrad.fuse(lambda x, z, a=1.5: torch.tanh(x * a) * z, reduction="mean")
    g(x, z)
    g(x, z, 2.0)
    (structure,) = g._structures.values()
    graph = cast(Any, structure.varying).graph
    number = autograd.recording_kernel(graph, [x, z], [torch.float32])
    for reduction in (1, 2):
        reduced = (number, [x, z], [2.0], torch.float32, reduction)
        torch.library.opcheck(torch.ops.fusedgrad.fused_reduction.default, reduced)


# -------------------------------------------------------------------------------------- reductions


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("shapes", [((5, 7), (5, 7)), ((5, 1), (7,)), ((), (3,)), ((0, 3), (3,))])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_reductions_are_those_of_pytorch(reduction: Any, shapes: Any, dtype: torch.dtype) -> None:
    fused = fusedgrad.fuse(two, reduction=reduction)
    x, z = (torch.randn(shape).to(dtype).requires_grad_() for shape in shapes)
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, z)]
    expected = getattr(two(*exact), reduction)()
    value = fused(x, z)
    assert (value.dtype, value.shape) == (dtype, ())
    tolerance = 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(
        value, expected.to(dtype), rtol=tolerance, atol=tolerance, equal_nan=True
    )
    grads = torch.autograd.grad(value, (x, z))
    exact_grads = torch.autograd.grad(expected, exact)
    tolerance = max(4 * torch.finfo(dtype).eps, 1e-14 if dtype is torch.float64 else 1e-6)
    value_again, grads_again = fused.value_and_grad(x, z)
    torch.testing.assert_close(value_again, value, equal_nan=True)
    for mine, again, true in zip(grads, grads_again, exact_grads, strict=True):
        assert mine.dtype is again.dtype is dtype
        for grad in (mine, again):
            torch.testing.assert_close(grad, true.to(dtype), rtol=tolerance, atol=tolerance)


def test_the_mean_of_many_halves_keeps_its_gradient() -> None:
    fused = fusedgrad.fuse(lambda x: 3 * x, reduction="mean")
    x = torch.ones(2**20, dtype=torch.float16, requires_grad=True)
    scaled = 2.0**15 * fused(x).float()
    (grad,) = torch.autograd.grad(scaled, x)
    assert torch.equal(grad, torch.full_like(x, 3 * 2.0**-5))


def test_decorator_parameters_and_names() -> None:
    @fusedgrad.fuse(reduction="mean")
    def scaled(x: Tensor, t: Tensor, a: float = 2.0) -> Tensor:
        """A loss."""
        return a * (x - t) ** 2

    assert str(scaled) == "scaled(x, t, a) = mean((x - t) ** 2 * a)"
    assert scaled.__doc__ == "A loss."
    x, t = torch.randn(2, 6, dtype=torch.float64)
    torch.testing.assert_close(scaled(x, t), 2 * F.mse_loss(x, t))
    torch.testing.assert_close(scaled(x, t, a=0.5), 0.5 * F.mse_loss(x, t))
    torch.testing.assert_close(scaled.derivative(2)(x, t), F.mse_loss(x, t))
    torch.testing.assert_close(scaled.derivative(0)(x, t), (4 * (x - t)).mean())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_sum_beyond_the_dtype_is_infinite_as_in_pytorch(dtype: torch.dtype) -> None:
    x = torch.full((10,), 0.9 * torch.finfo(dtype).max, dtype=dtype)
    assert fusedgrad.fuse(lambda x: x * 1, reduction="sum")(x).item() == torch.inf
    ones = torch.ones_like(x)
    loss = fusedgrad.binary_cross_entropy_with_logits(-x, ones, reduction="sum")
    assert loss.dtype is dtype
    assert loss.item() == torch.inf


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_an_argument_is_reduced_as_it_is(dtype: torch.dtype) -> None:
    x = torch.tensor([0.5, 3.0, -1.0, 2.0], dtype=dtype, requires_grad=True)
    result = fusedgrad.fuse(lambda x: x, reduction="mean")(x)
    assert (result.item(), result.dtype) == (1.125, dtype)
    assert torch.equal(torch.autograd.grad(result, x)[0], torch.full_like(x, 0.25))


def test_reductions_that_are_refused() -> None:
    with pytest.raises(FuseError, match="reduction is 'max', expected 'none', 'mean' or 'sum'"):
        fusedgrad.fuse(two, reduction="max")  # type: ignore[call-overload]
    x = torch.ones(3)
    with pytest.raises(FuseError, match="returns a tuple, expected one tensor of floats to take"):
        fusedgrad.fuse(lambda x: (x, 2 * x), reduction="mean")(x)
    with pytest.raises(FuseError, match=r"returns a tensor of torch\.int64, expected one tensor"):
        fusedgrad.fuse(lambda x: x.long(), reduction="mean")(x)
    inner = fusedgrad.fuse(lambda x: x * x, reduction="sum")
    with pytest.raises(FuseError, match="its reduction is 'sum'"):
        fusedgrad.fuse(lambda x: inner(x) + x)(x)


def test_reduction_of_some_of_the_arguments() -> None:
    def body(x: Tensor, z: Tensor) -> Tensor:
        return torch.tanh(x)

    x, z = torch.randn(3, requires_grad=True), torch.randn(4, 1)
    fused = fusedgrad.fuse(body, reduction="sum")
    torch.testing.assert_close(fused(x, z), body(x, z).sum())
    (grad,) = torch.autograd.grad(fused(x, z), x)
    torch.testing.assert_close(grad, torch.autograd.grad(body(x, z).sum(), x)[0])


def test_reduction_on_other_tensors_and_without_a_compiler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fusedgrad.fuse import kernel

    fused = fusedgrad.fuse(two, reduction="mean")
    meta = fused(torch.empty(3, device="meta"), torch.empty(4, 1, device="meta"))
    assert (meta.shape, meta.dtype, meta.device.type) == ((), torch.float32, "meta")
    with torch._subclasses.fake_tensor.FakeTensorMode():
        fake = fused(torch.empty(3), torch.empty(4, 1))
        assert (fake.shape, fake.dtype) == ((), torch.float32)
    monkeypatch.setattr(kernel, "_compiled", lambda *arguments: None)
    x, z = _pair(5, requires_grad=True)
    again = fusedgrad.fuse(two, reduction="mean")
    torch.testing.assert_close(again(x, z), two(x, z).mean())
    torch.testing.assert_close(
        torch.autograd.grad(again(x, z), (x, z)), torch.autograd.grad(two(x, z).mean(), (x, z))
    )


def test_reductions_are_the_same_for_any_number_of_threads() -> None:
    x, t = torch.randn(300_001), torch.rand(300_001)
    fused = fusedgrad.fuse(loss, reduction="mean")
    before = torch.get_num_threads()
    values = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        values.append(fused(x, t).item())
    torch.set_num_threads(before)
    assert len(set(values)) == 1
    torch.testing.assert_close(values[0], loss(x.double(), t.double()).mean().item())


def test_a_reduction_of_a_fused_function() -> None:
    mean = fusedgrad.fuse(activations.focal_loss, reduction="mean")
    x, t = torch.randn(2, 50).sigmoid()
    torch.testing.assert_close(mean(x, t, 0.5), activations.focal_loss(x, t, 0.5).mean())


# ------------------------------------------------------------------------------------------ memory

_PEAK = """
import sys, torch, fusedgrad
torch.set_num_threads(1)
def resident(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))
def forget_peak():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
n = 2**22
body = lambda x, t: torch.nn.functional.softplus(x) - x * t
kind = sys.argv[1]
fused = fusedgrad.fuse(body, reduction="mean" if kind == "reduced" else "none")
def arguments(n):
    x = torch.randn(n // 4, 4)
    t = torch.rand(4) if kind == "broadcast" else torch.rand(n // 4, 4)
    return x.requires_grad_(), t.requires_grad_(kind == "broadcast")
small = arguments(64)
def work(x, t, grad):
    start = resident("VmRSS")
    forget_peak()
    y = fused(x, t)
    forward = resident("VmHWM") - start
    start = resident("VmRSS")
    forget_peak()
    grads = torch.autograd.grad(y, [v for v in (x, t) if v.requires_grad], grad)
    return forward, resident("VmHWM") - start
ones = torch.ones(())
work(*arguments(64), ones if kind == "reduced" else ones.expand(16, 4))
found = work(*arguments(n), ones if kind == "reduced" else ones.expand(n // 4, 4))
print(*(taken / (4 * n) for taken in found))
"""


@pytest.mark.sampled(6)
@pytest.mark.parametrize(
    ("kind", "forward", "backward"),
    # In tensors of the whole size: the result, and then the gradients, but for one that is summed
    [("reduced", 0, 1), ("plain", 1, 1), ("broadcast", 1, 1)],
)
def test_memory_is_results_and_gradients(kind: str, forward: int, backward: int) -> None:
    output = subprocess.run(
        [sys.executable, "-c", _PEAK, kind],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
    ).stdout
    taken = [float(number) for number in output.split()]
    assert abs(taken[0] - forward) < 0.1
    assert abs(taken[1] - backward) < 0.1


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("again", [False, True], ids=["served", "runs again"])
def test_others_modes_see_the_kernel_alone(again: bool) -> None:
    def function(x: Tensor, z: Tensor) -> Tensor:
        if again:
            print(end="")
        return two(x, z)

    fused = fusedgrad.fuse(function)
    pair = _pair(6, requires_grad=True)
    for _ in range(3):
        with _Counting() as mode:
            fused(*pair)
        assert {*mode.seen} - {"aten.promote_types.default"} == {"fusedgrad.fused.default"}

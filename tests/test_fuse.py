"""fuse: values and derivatives against mpmath, PyTorch's conventions, and how a call is run."""

import copy
import functools
import math
import pickle
from collections.abc import Callable
from typing import Any, cast

import mpmath
import numpy as np
import pytest
import torch
from mpmath import mp, mpf
from torch import Tensor

import fusedgrad
from exact_expressions import evaluate
from fused_functions import CASES, Case, columns, rows
from fusedgrad import FuseError
from fusedgrad.fuse.function import Fused
from ulp import ulp_error

_F = torch.nn.functional
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

# Times the condition number of the expression
BOUND = 8.0


def _check(case: Case, fused: Fused, order: tuple[int, ...], values: Tensor, tensors: Any) -> None:
    """Every value of the derivative of this order is within the bound."""
    graph = fused._example()
    for name, times in zip(graph.inputs, order, strict=True):
        graph = graph.derivative(*[name] * times)
    with mp.workdps(60):
        for row, value in zip(rows(tensors), values.tolist(), strict=True):
            exact = mpmath.diff(case.exact, row, order) if any(order) else case.exact(*row)
            symbolic, condition = evaluate(
                graph.outputs[0], dict(zip(graph.inputs, row, strict=True))
            )
            # Differences have lost digits; that both are right is what they are compared for.
            scale = abs(exact) + abs(symbolic) / condition + mpf(10) ** -30
            assert abs(symbolic - exact) <= mpf(10) ** -12 * scale
            error = ulp_error(value, symbolic, values.dtype)
            assert error <= BOUND * condition, (order, [*map(float, row)], value, float(exact))


@pytest.mark.sampled(6)
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_value_and_partials_are_exact(case: Case, dtype: torch.dtype) -> None:
    tensors = columns(case, dtype)
    arity = len(tensors)
    fused = fusedgrad.fuse(case.function)
    value, grads = fused.value_and_grad(*tensors)
    _check(case, fused, (0,) * arity, value, tensors)
    for i, grad in enumerate(grads):
        _check(case, fused, tuple(int(i == j) for j in range(arity)), grad, tensors)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_second_and_third_derivatives_are_exact(case: Case) -> None:
    tensors = columns(case, torch.float64)
    arity = len(tensors)
    fused = fusedgrad.fuse(case.function)
    for i in range(arity):
        for argnums in ((0, i), (0, i, 0)):
            order = tuple(argnums.count(j) for j in range(arity))
            _check(case, fused, order, fused.derivative(*argnums)(*tensors), tensors)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_without_a_compiler_the_results_are_as_exact(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fusedgrad.fuse import kernel

    monkeypatch.setattr(kernel, "_compiled", lambda *arguments: None)
    test_value_and_partials_are_exact(case, torch.float64)
    test_value_and_partials_are_exact(case, torch.float32)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_half_types_are_rounded_once(case: Case) -> None:
    fused = fusedgrad.fuse(case.function)
    for dtype in DTYPES[2:]:
        tensors = columns(case, dtype)
        if not all(tensor.isfinite().all() for tensor in tensors):
            continue
        value, grads = fused.value_and_grad(*tensors)
        wide_value, wide_grads = fused.value_and_grad(*(t.float() for t in tensors))
        for half, wide in zip((value, *grads), (wide_value, *wide_grads), strict=True):
            assert half.dtype is dtype
            torch.testing.assert_close(half, wide.to(dtype), rtol=0, atol=0, equal_nan=True)


@pytest.mark.sampled(8)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_gradcheck(case: Case) -> None:
    fused = fusedgrad.fuse(case.function)
    tensors = [column.clamp(-4, 4).requires_grad_() for column in columns(case, torch.float64)]
    if case.name in (
        "log",
        "log1p",
        "sqrt",
        "rsqrt",
        "reciprocal",
        "constant power",
        "negative power",
    ):
        tensors = [tensor.detach().clamp(min=0.25).requires_grad_() for tensor in tensors]
    arguments = tuple(tensors)
    assert torch.autograd.gradcheck(
        fused, arguments, check_forward_ad=True, check_batched_grad=True
    )
    assert torch.autograd.gradgradcheck(fused, arguments)


@fusedgrad.fuse
def two(x: Tensor, z: Tensor) -> Tensor:
    return fusedgrad.sigmoid(x**2 + z) + fusedgrad.tanh(x**3 * z**2)


def unfused(x: Tensor, z: Tensor) -> Tensor:
    return torch.sigmoid(x**2 + z) + torch.tanh(x**3 * z**2)


SHAPES: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((5, 7), (5, 7)),
    ((5, 7), (7,)),
    ((5, 1), (1, 7)),
    ((), (3,)),
    ((4,), ()),
    ((), ()),
    ((0, 3), (3,)),
    ((2, 3, 4, 5), (3, 1, 5)),
    ((1000, 70), (1000, 1)),
]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_broadcasts_and_reduces_gradients_as_pytorch(shapes: tuple[Any, Any]) -> None:
    arguments = [torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in shapes]
    y, expected = two(*arguments), unfused(*arguments)
    torch.testing.assert_close(y, expected)
    grad = torch.randn_like(y)
    ours = torch.autograd.grad(y, arguments, grad)
    theirs = torch.autograd.grad(expected, arguments, grad)
    for mine, other, argument in zip(ours, theirs, arguments, strict=True):
        assert mine.shape == argument.shape
        torch.testing.assert_close(mine, other)


def test_strides_are_followed_and_kept() -> None:
    x = torch.randn(6, 5, 4, dtype=torch.float64).permute(2, 0, 1)
    z = torch.randn(4, 12, 10, dtype=torch.float64)[:, ::2, ::2]
    torch.testing.assert_close(two(x, z), unfused(x, z))
    assert two(x, x).stride() == unfused(x, x).stride()
    channels_last = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    assert two(channels_last, channels_last).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("first", DTYPES, ids=str)
@pytest.mark.parametrize("second", DTYPES, ids=str)
@pytest.mark.parametrize("scalar", [False, True])
def test_mixed_dtypes_promote_as_pytorch(
    first: torch.dtype, second: torch.dtype, scalar: bool
) -> None:
    x = torch.randn(50).to(first).requires_grad_()
    z = torch.randn(() if scalar else (50,)).to(second).requires_grad_()
    y = two(x, z)
    assert y.dtype is torch.result_type(x, z)
    grads = torch.autograd.grad(y.sum(), (x, z))
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, z)]
    expected = unfused(*exact)
    torch.testing.assert_close(y, expected.to(y.dtype))
    exact_grads = torch.autograd.grad(expected.sum(), exact)
    for mine, theirs, dtype in zip(grads, exact_grads, (first, second), strict=True):
        assert mine.dtype is dtype
        # A sum is of values that float32 holds.
        tolerance = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps * 20)
        torch.testing.assert_close(mine, theirs.to(dtype), rtol=tolerance, atol=tolerance)


def test_double_results_are_rounded_to_half_once() -> None:
    # Halfway between two numbers of bfloat16 but for a part that float32 would lose.
    x = torch.tensor(1 + 2**-8 + 2**-40, dtype=torch.float64)
    one = torch.ones(1, dtype=torch.bfloat16)
    product = fusedgrad.fuse(lambda x, z: x * z)(x, one)
    assert product.dtype is torch.bfloat16
    assert product.item() == 1 + 2**-7


def test_several_outputs_have_their_own_shapes_and_gradients() -> None:
    @fusedgrad.fuse
    def f(x: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.sigmoid(x), x * z, torch.exp(z)

    x = torch.randn(3, dtype=torch.float64, requires_grad=True)
    z = torch.randn(4, 1, dtype=torch.float64, requires_grad=True)
    ours, theirs = f(x, z), (torch.sigmoid(x), x * z, torch.exp(z))
    assert isinstance(ours, tuple)
    assert [y.shape for y in ours] == [y.shape for y in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)
    ones = [torch.ones_like(y) for y in ours]
    torch.testing.assert_close(
        torch.autograd.grad(ours, (x, z), ones), torch.autograd.grad(theirs, (x, z), ones)
    )


def test_an_output_that_is_not_used_gives_its_arguments_no_gradient() -> None:
    def f(x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        return torch.sin(x), x * z

    fused = fusedgrad.fuse(f)
    for create_graph in (False, True):
        x, z = (torch.ones(3, requires_grad=True) for _ in range(2))
        by_x, by_z = torch.autograd.grad(
            fused(x, z)[0].sum(), (x, z), create_graph=create_graph, allow_unused=True
        )
        torch.testing.assert_close(by_x, torch.cos(x))
        assert by_z is None


def test_one_output_may_be_used_without_the_other() -> None:
    f = fusedgrad.fuse(lambda x: (torch.sin(x), torch.cos(x)))
    x = torch.randn(5, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(f(x)[1].sum(), x)
    torch.testing.assert_close(grad, -torch.sin(x))


@pytest.mark.parametrize("number", [np.float32(0.5), np.float64(0.5), np.int64(3)])
def test_numbers_of_other_types_are_numbers(number: Any) -> None:
    x = torch.ones(2)
    for f in (lambda x, s: x * s, lambda x, s: x * number):
        fused = fusedgrad.fuse(f)
        assert fused(x, number).tolist() == [float(number)] * 2
    assert fusedgrad.fuse(lambda x, s: x * s).derivative(0)(x, number).tolist() == [number] * 2


class _Gate(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = 2.0
        self.act = fusedgrad.activations.silu
        self.scaled = fusedgrad.fuse(self._scaled)
        self.slope = self.act.derivative(0)

    def _scaled(self, x: Tensor) -> Tensor:
        return x * self.scale

    def forward(self, x: Tensor) -> Any:
        return self.scaled(self.act(x)) + self.slope(x)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_fused_functions_are_copied_and_pickled(copied: Callable[[Any], Any]) -> None:
    module, x = _Gate(), torch.randn(3)
    twin = copied(module)
    assert twin.act is module.act
    assert torch.equal(twin(x), module(x))
    twin.scale = 5.0
    assert torch.equal(twin.scaled(x), 5 * x)
    assert torch.equal(module.scaled(x), 2 * x)


def test_a_fused_lambda_cannot_be_pickled() -> None:
    with pytest.raises(pickle.PicklingError, match=r"fused function .*<lambda> of test_fuse"):
        pickle.dumps(fusedgrad.fuse(lambda x: x * 2))
    assert copy.deepcopy(fusedgrad.fuse(lambda x: x * 2))(torch.ones(1)).item() == 2


def test_a_power_of_constants_may_overflow() -> None:
    def f(x: Tensor) -> Tensor:
        return x * torch.full_like(x, 1e200) ** 2

    x = torch.tensor([1.0, -2.0], dtype=torch.float64)
    torch.testing.assert_close(fusedgrad.fuse(f)(x), f(x))


def test_outputs_of_constants_alone_require_no_gradient() -> None:
    f = fusedgrad.fuse(lambda x, y: (y * y, torch.sigmoid(x * y), x * x * 1.5))
    x, y = torch.randn(2, 5, dtype=torch.float64)
    x.requires_grad_()
    constant, first, second = f(x, y)
    assert not constant.requires_grad
    with pytest.raises(RuntimeError, match="does not require grad"):
        torch.autograd.grad(constant.sum(), x)
    for create_graph in (True, False):
        outputs = (first.sum() + 2 * second.sum(),)
        (grad,) = torch.autograd.grad(outputs, x, create_graph=create_graph, retain_graph=True)
        s = torch.sigmoid(x * y)
        torch.testing.assert_close(grad, s * (1 - s) * y + 6 * x)
    (grad,) = torch.autograd.grad(f(y, x)[0].sum(), x)
    torch.testing.assert_close(grad, 2 * x)


def test_floats_are_parameters_and_integers_part_of_the_function() -> None:
    @fusedgrad.fuse
    def f(x: Tensor, scale: float = 0.5, order: int = 2, *, sharp: bool = False) -> Tensor:
        y = torch.tanh(scale * x) ** order
        return y / scale if sharp else y

    x = torch.randn(9, dtype=torch.float64)
    torch.testing.assert_close(f(x), torch.tanh(0.5 * x) ** 2)
    torch.testing.assert_close(f(x, 0.25), torch.tanh(0.25 * x) ** 2)
    with pytest.warns(UserWarning, match="this kernel takes them as constants: 3.0, 3"):
        cubed = f(x, scale=3.0, order=3)
    torch.testing.assert_close(cubed, torch.tanh(3 * x) ** 3)
    torch.testing.assert_close(f(x, sharp=True), torch.tanh(0.5 * x) ** 2 / 0.5)
    torch.testing.assert_close(f(x, 0.5, 1, sharp=True), torch.tanh(0.5 * x) / 0.5)
    by_scale = f.derivative(1)(x, 0.75)
    torch.testing.assert_close(by_scale, 2 * torch.tanh(0.75 * x) * x / torch.cosh(0.75 * x) ** 2)


def test_numbers_from_outside_are_followed() -> None:
    factor = 2.0
    f = fusedgrad.fuse(lambda x: factor * x)
    x = torch.ones(2)
    assert f(x).tolist() == [2, 2]
    factor = 3.0
    assert f(x).tolist() == [3, 3]


ALPHA = 2.0


class _Scale:
    alpha = 2.0

    def __init__(self) -> None:
        self.alphas = [2.0, 5.0]
        self.fused = fusedgrad.fuse(self.scaled)

    def scaled(self, x: Tensor) -> Tensor:
        return x * self.alpha

    def __call__(self, x: Tensor) -> Tensor:
        return self.scaled(x)


def _helper(x: Tensor) -> Tensor:
    return ALPHA * x


def _by_alias(x: Tensor, scale: Any) -> Any:
    return x * scale.alpha


def _set(scale: _Scale, alpha: float) -> None:
    scale.alpha = scale.alphas[0] = alpha


@pytest.mark.parametrize(
    "function_of",
    [
        lambda scale: scale.fused,
        lambda scale: lambda x: x * scale.alpha,
        lambda scale: lambda x: x * scale.alphas[0],
        lambda scale: lambda x: x * min(scale.alphas),
        lambda scale: lambda x: x * max([each for each in scale.alphas][:1]),  # noqa: C416
        lambda scale: lambda x: x * vars(scale).get("alpha", 2.0),
        lambda scale: lambda x: x * getattr(scale, "alpha"),  # noqa: B009
        lambda scale: lambda x: _by_alias(x, scale),
        lambda scale: lambda x: scale.scaled(x),
        lambda scale: lambda x: scale(x),
        lambda scale: lambda x: scale.fused(x),
        lambda scale: functools.partial(_by_alias, scale=scale),
        lambda scale: scale,
    ],
)
def test_attributes_and_items_from_outside_are_followed(function_of: Any) -> None:
    scale, x = _Scale(), torch.ones(2)
    f = fusedgrad.fuse(function_of(scale))
    for alpha in (2.0, 3.0, -0.0, 0.0, 2.0):
        _set(scale, alpha)
        assert str(f(x).tolist()) == str([alpha] * 2)


def test_globals_of_helpers_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.ones(2)
    f, late = fusedgrad.fuse(lambda x: _helper(x)), fusedgrad.fuse(lambda x: LATE * x)  # type: ignore[name-defined]  # noqa: F821
    for alpha in (2.0, 3.0):
        monkeypatch.setitem(globals(), "ALPHA", alpha)
        monkeypatch.setitem(globals(), "LATE", alpha)
        assert f(x).tolist() == late(x).tolist() == [alpha] * 2
    monkeypatch.setitem(globals(), "_helper", lambda x: x * 7)
    assert f(x).tolist() == [7, 7]


def test_numbers_from_outside_keep_their_places() -> None:
    factor: float | None = 2.0
    summand: float | None = None
    f = fusedgrad.fuse(lambda x: x * factor if factor is not None else x + summand)
    assert f(torch.ones(2)).tolist() == [2, 2]
    factor, summand = None, 2.0
    assert f(torch.ones(2)).tolist() == [3, 3]


def test_the_objects_among_the_arguments_are_followed() -> None:
    f, scale = fusedgrad.fuse(_by_alias), _Scale()
    for alpha in (2.0, 3.0):
        scale.alpha = alpha
        assert f(torch.ones(2), scale).tolist() == [alpha] * 2


def test_fused_functions_call_fused_functions() -> None:
    gate = fusedgrad.fuse(lambda x, limit=2.0: limit * torch.tanh(x / limit))
    outer = fusedgrad.fuse(lambda x, z: gate(x * z) + two.derivative(1)(x, z) - gate(z, 5.0))
    x, z = torch.randn(2, 7, dtype=torch.float64)
    expected = 2 * torch.tanh(x * z / 2) + two.derivative(1)(x, z) - 5 * torch.tanh(z / 5)
    torch.testing.assert_close(outer(x, z), expected)


def test_derivative_is_a_fused_function_of_the_whole_shape() -> None:
    x, z = torch.randn(3, dtype=torch.float64), torch.randn(4, 1, dtype=torch.float64)
    total = fusedgrad.fuse(lambda x, z: x + z)
    assert total.derivative(0)(x, z).tolist() == [[1.0] * 3] * 4
    assert total.derivative(0, 1)(x, z).tolist() == [[0.0] * 3] * 4
    mixed = two.derivative(0).derivative(1)
    torch.testing.assert_close(mixed(x, z), two.derivative(1, 0)(x, z))


def test_only_the_inputs_are_saved() -> None:
    x = torch.randn(1000, requires_grad=True)
    z = torch.randn(1000, requires_grad=True)
    saved: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        two(x, z)
    assert saved == [x.data_ptr(), z.data_ptr()]


class _Counter(torch.utils._python_dispatch.TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operators, and the elements that fused kernels write."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[str] = []
        self.written = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.calls.append(func.name())
        if func.name() == "fusedgrad::fused":
            self.written += sum(output.numel() for output in result)
        return result


def test_forward_and_backward_are_one_kernel_each() -> None:
    x, z = (torch.randn(100, requires_grad=True) for _ in range(2))
    grad = torch.ones(100)
    with _Counter() as counter:
        y = two(x, z)
        torch.autograd.grad(y, (x, z), grad)
    assert [name for name in counter.calls if "fused" in name] == ["fusedgrad::fused"] * 2
    assert counter.written == 300


def test_only_needed_gradients_are_computed() -> None:
    x, z = torch.randn(100, requires_grad=True), torch.randn(100)
    y = two(x, z)
    with _Counter() as counter:
        torch.autograd.grad(y, x, torch.ones(100))
    assert counter.written == 100


def test_value_and_grad_reduces_to_the_shape_of_each_argument() -> None:
    x, z = torch.randn(6, 5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    with _Counter() as counter:
        value, (dx, dz) = two.value_and_grad(x, z)
    assert counter.calls.count("fusedgrad::fused") == 1
    leaves = [x.clone().requires_grad_(), z.clone().requires_grad_()]
    expected = unfused(*leaves)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close((dx, dz), torch.autograd.grad(expected.sum(), leaves))


def test_torch_func_transforms_agree_with_pytorch() -> None:
    x, z = torch.randn(2, 5, dtype=torch.float64)
    func = torch.func
    for transform in (
        lambda f: func.grad(lambda x, z: f(x, z).sum())(x, z),
        lambda f: func.vmap(func.grad(f))(x, z),
        lambda f: func.vmap(func.grad(func.grad(f)))(x, z),
        lambda f: func.jacrev(f, argnums=(0, 1))(x, z),
        lambda f: func.jacfwd(f, argnums=(0, 1))(x, z),
        lambda f: func.hessian(lambda x: f(x, z).sum())(x),
        lambda f: func.vmap(f, in_dims=(0, None))(x, z),
        lambda f: func.vmap(f, in_dims=(None, 0), out_dims=1)(x, z),
        lambda f: func.jvp(f, (x, z), (z, x)),
        lambda f: func.functional_call(torch.nn.Identity(), {}, (f(x, z),)),
    ):
        torch.testing.assert_close(transform(two), transform(unfused))


def test_fourth_order_by_repeated_backward() -> None:
    x = torch.linspace(-3, 3, 7, dtype=torch.float64, requires_grad=True)
    f = fusedgrad.fuse(lambda x: torch.sigmoid(x) * torch.tanh(x))
    y = f(x)
    for _ in range(4):
        (y,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    with mp.workdps(60):
        for value, at in zip(y.tolist(), x.tolist(), strict=True):
            exact = mpmath.diff(lambda u: mp.tanh(u) / (1 + mp.exp(-u)), mpf(at), 4)
            assert abs(value - exact) < 1e-13


def test_compiled_graph_has_no_break() -> None:
    torch._dynamo.reset()
    f = fusedgrad.fuse(lambda x, z: torch.sigmoid(x**2 + z) + torch.tanh(x**3 * z**2))

    @torch.compile(backend="aot_eager", fullgraph=True)
    def around(x: Tensor, z: Tensor) -> Tensor:
        return cast(Tensor, f(x, z) * 2)

    x, z = (torch.randn(5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    torch.testing.assert_close(around(x, z), 2 * unfused(x, z))
    compiled = torch.autograd.grad(around(x, z).sum(), (x, z))
    torch.testing.assert_close(compiled, torch.autograd.grad(2 * unfused(x, z).sum(), (x, z)))


def test_pytorchs_conventions_at_the_edges_of_pieces() -> None:
    zero, one = torch.zeros(1), torch.ones(1)
    functions: list[tuple[Callable[..., Any], tuple[Tensor, ...]]] = [
        (torch.abs, (zero,)),
        (torch.relu, (zero,)),
        (torch.sign, (zero,)),
        (lambda x: torch.clamp(x, 0, 1), (zero,)),
        (lambda x: torch.clamp(x, 0, 1), (one,)),
        (lambda x, z: torch.clamp(x, min=z), (zero, zero)),
        (lambda x, low, high: torch.clamp(x, low, high), (zero, zero, one)),
        (lambda x, low, high: torch.clamp(x, low, high), (zero, one, one)),
        (lambda x, low, high: torch.clamp(x, low, high), (-one, zero, one)),
        (lambda x, low, high: torch.clamp(x, low, high), (2 * one, zero, one)),
        (lambda x, low, high: torch.clamp(x, low, high), (zero, one, -one)),
        (torch.maximum, (one, one)),
        (torch.minimum, (one, one)),
        (lambda x: x**2.0, (zero,)),
        (lambda x: x**1, (zero,)),
        (lambda x: x**0, (zero,)),
        (lambda x: x**0.5, (zero,)),
        (lambda x, e: x**e, (zero, one)),
        (lambda x, e: x**e, (zero, zero)),
        (torch.sqrt, (zero,)),
        (torch.atan2, (zero, zero)),
        (torch.atan2, (-zero, zero)),
        (torch.erfinv, (one,)),
        (torch.special.ndtri, (zero,)),
        (torch.special.ndtri, (one,)),
    ]
    for function, arguments in functions:
        plain = [argument.clone().requires_grad_() for argument in arguments]
        expected = function(*plain)
        grads = torch.autograd.grad(expected.sum(), plain, allow_unused=True)
        fused = fusedgrad.fuse(lambda *a, function=function: function(*a))
        value, ours = fused.value_and_grad(*arguments)
        assert torch.equal(value, expected)
        for mine, theirs in zip(ours, grads, strict=True):
            assert mine.item() == (0 if theirs is None else theirs.item())


def test_derivatives_at_the_ends_and_outside_of_a_domain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fusedgrad.fuse import kernel

    inf = math.inf
    cases: list[tuple[Callable[[Tensor], Tensor], float, float, float]] = [
        (torch.erfinv, 1.0, inf, inf),
        (torch.erfinv, -1.0, inf, -inf),
        (torch.special.ndtri, 0.0, inf, -inf),
        (torch.special.ndtri, 1.0, inf, inf),
        (torch.logit, 0.0, inf, -inf),
        *((f, 1.5, math.nan, math.nan) for f in (torch.erfinv, torch.special.ndtri, torch.logit)),
        *((f, -inf, math.nan, math.nan) for f in (torch.erfinv, torch.special.ndtri, torch.logit)),
        (torch.logit, math.nan, math.nan, math.nan),
    ]
    for _ in range(2):
        for function, at, first, second in cases:
            x = torch.tensor([at], dtype=torch.float64)
            f = fusedgrad.fuse(lambda x, function=function: function(x))
            for derivative, expected in ((f.derivative(0), first), (f.derivative(0, 0), second)):
                found = derivative(x)
                want = torch.tensor([expected]).double()
                assert torch.equal(found.nan_to_num(7.0), want.nan_to_num(7.0)), (function, at)
        monkeypatch.setattr(kernel, "_compiled", lambda *arguments: None)


def test_nan_and_infinities_pass_as_in_pytorch() -> None:
    x = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0])
    for function in (
        *(torch.exp, torch.expm1, torch.log, torch.log1p, torch.sqrt, torch.rsqrt, torch.sin),
        *(torch.cos, torch.erf, torch.sigmoid, torch.tanh, torch.relu, torch.abs, torch.sign),
        *(_F.softplus, _F.logsigmoid, torch.reciprocal, torch.square),
        *(lambda x: torch.clamp(x, -1, 1), lambda x: x**3, lambda x: x**-1, lambda x: x**0.7),
    ):
        ours = fusedgrad.fuse(lambda x, function=function: function(x))(x)
        theirs = function(x)
        torch.testing.assert_close(ours, theirs, equal_nan=True, rtol=0, atol=0)
        assert torch.equal(torch.signbit(ours[1:]), torch.signbit(theirs[1:])) or ours.isnan().any()


def test_gradients_of_broadcast_arguments_are_summed_in_their_kernel() -> None:
    x, z = torch.randn(50, 1, requires_grad=True), torch.randn(60, requires_grad=True)
    y = two(x, z)
    with _Counter() as counter:
        torch.autograd.grad(y, (x, z), torch.ones(50, 60))
    calls = [name for name in counter.calls if "fused" in name or "sum" in name]
    assert calls == ["fusedgrad::fused"]


def test_fused_operations_of_this_package_compile_without_a_break() -> None:
    torch._dynamo.reset()

    @torch.compile(backend="aot_eager", fullgraph=True)
    def around(x: Tensor, z: Tensor) -> Tensor:
        return cast(Tensor, two(x, z) * 2)

    x, z = torch.randn(2, 5, dtype=torch.float64)
    torch.testing.assert_close(around(x, z), 2 * unfused(x, z))


def test_text_is_the_expression() -> None:
    assert str(two) == "two(x, z) = sigmoid(x ** 2 + z) + tanh(x ** 3 * z ** 2)"
    assert "math::sigmoid(" in two.source("cpu")
    assert "math::tanh_derivative(" in two.source("cpu", gradients=True)
    with pytest.raises(FuseError, match="backend is 'hip'"):
        two.source("hip")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda x, z: x - (z - x), "x - (z - x)"),
        (lambda x, z: (x + z) * 2, "2 * (x + z)"),
        (lambda x, z: -(x**2), "-x ** 2"),
        (lambda x, z: (-x) ** 2, "(-x) ** 2"),
        (lambda x, z: x / (z / x), "x / (z / x)"),
        (lambda x, z: x**z**2, "x ** (z ** 2)"),
        (lambda x, z: torch.where((x > z) & (x < 1), x, z), "where((x > z) & (x < 1), x, z)"),
        # simplified, where no bit changes
        (lambda x, z: torch.neg(-x) * 1 / 1, "x"),
        (lambda x, z: x + 0, "x + 0"),  # -0 + 0 is +0
        (lambda x, z: x - 0, "x"),
        (lambda x, z: x * 0, "0 * x"),  # NaN and infinity
        (lambda x, z: x + (-z), "x - z"),
        (lambda x, z: x / 4, "0.25 * x"),
        (lambda x, z: x / 3, "x / 3"),
    ],
)
def test_expressions_are_simplified_only_where_no_bit_changes(
    function: Callable[..., Tensor], text: str
) -> None:
    fused = fusedgrad.fuse(function)
    assert str(fused) == f"f(x, z) = {text}"
    x, z = torch.randn(2, 100).abs()
    torch.testing.assert_close(fused(x, z), function(x, z), rtol=1e-6, atol=0)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_no_line_of_the_code_is_longer_than_100_columns(case: Case) -> None:
    fused = fusedgrad.fuse(case.function)
    for source in (fused, fused.derivative(0), fused.derivative(0, 0)):
        for backend in ("cpu", "cuda"):
            text = source.source(backend, gradients=True)
            assert max(map(len, text.splitlines())) <= 100


def test_long_arguments_and_names_stay_within_100_columns() -> None:
    def with_a_long_name(
        first_of_all_the_arguments: Tensor, second_of_all_the_arguments: Tensor, a: float = 1.0
    ) -> Tensor:
        y = torch.sin(first_of_all_the_arguments * second_of_all_the_arguments * a)
        return y + torch.where(y > 0, first_of_all_the_arguments, second_of_all_the_arguments)

    fused = fusedgrad.fuse(with_a_long_name)
    assert max(map(len, fused.source("cpu", gradients=True).splitlines())) <= 100
    x, z = torch.randn(2, 5)
    torch.testing.assert_close(fused(x, z), fused._function(x, z))


@pytest.mark.parametrize("huge", [1.0, 2.0**23, 2.0**25, 1e30, math.inf, math.nan])
def test_sine_of_moderate_and_of_any_arguments_agree(huge: float) -> None:
    f = fusedgrad.fuse(lambda x, a=1.0: torch.sin(a * x) + torch.cos(torch.sin(x)))
    x = torch.linspace(-100, 100, 1000)
    x[500] = huge  # sends its block another way
    theirs = torch.sin(x.double()) + torch.cos(torch.sin(x.double()))
    torch.testing.assert_close(f(x), theirs.float(), rtol=1e-5, atol=1e-6, equal_nan=True)
    alone = f(x.roll(1)[:500])
    assert torch.equal(alone, f(x)[[-1, *range(499)]])


def test_shared_subexpressions_are_computed_once() -> None:
    f = fusedgrad.fuse(lambda x: torch.exp(torch.sin(x)) + torch.sin(x))
    assert f.source("cpu", gradients=True).count("Reduction::sin(") == 1
    assert f.source("cpu", gradients=True).count("math::exp(") == 1


@pytest.mark.parametrize("threads", [1, 2])
def test_large_tensors_are_split_among_threads(threads: int) -> None:
    torch.set_num_threads(threads)
    x = torch.randn(300_001, requires_grad=True)
    z = torch.randn(300_001)
    torch.testing.assert_close(two(x, z), unfused(x, z))


def test_compiler_output_is_right_for_more_operands_than_a_kernel_takes() -> None:
    f = fusedgrad.fuse(lambda *xs: sum(x * x for x in xs))
    xs = [torch.randn(5, requires_grad=True) for _ in range(40)]
    f(*xs).sum().backward()
    for x in xs:
        torch.testing.assert_close(x.grad, 2 * x.detach())

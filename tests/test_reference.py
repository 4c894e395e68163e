"""The formulas in PyTorch operations agree with the kernels, and stand in where there are none."""

import math
from collections.abc import Callable
from typing import Any

import mpmath
import pytest
import torch
from mpmath import mp, mpc
from torch import Tensor

import fusedgrad
from fusedgrad import operators, reference
from ulp import DIGITS, DTYPES, HALF_DTYPES
from unary_functions import UNARY

OPS = torch.ops.fusedgrad
INF = float("inf")

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)

# operator: its arguments, from tensors g, h, x (any real), p, t (in [0, 1]), w and one more weight
ARGUMENTS: dict[str, Callable[[dict[str, Tensor]], tuple[Any, ...]]] = {
    "pow.Tensor_Scalar": lambda v: (v["w"], 2.5),
    "pow.Tensor_Tensor": lambda v: (v["w"], v["x"]),
    "pow.Scalar": lambda v: (1.5, v["x"]),
    "pow_backward.Tensor_Scalar": lambda v: (v["g"], v["w"], 2.5),
    "pow_backward.Tensor_Tensor": lambda v: (v["g"], v["w"], v["x"], [True, True]),
    "pow_double_backward.Tensor_Scalar": lambda v: (v["h"], v["g"], v["w"], 2.5),
    "pow_triple_backward.Tensor_Scalar": lambda v: (v["h"], v["g"], v["h"], v["w"], 2.5, 3),
    "pow_derivative": lambda v: (v["g"], v["w"], v["x"], 2, 1),
    "pow_derivative_backward": lambda v: (v["h"], v["g"], v["w"], v["x"], 2, 0),
    "binary_cross_entropy_derivative": lambda v: (v["g"], v["p"], v["t"], 3, 0),
    "binary_cross_entropy_derivative_backward": lambda v: (
        *(v["h"], v["g"], 0.45 * v["p"] + 0.05, v["t"]),
        *(2, 0),
    ),
    "pow_double_backward.Tensor_Tensor": lambda v: (v["h"], v["g"], v["g"], v["w"], v["x"]),
    "binary_cross_entropy": lambda v: (v["p"], v["t"], v["w"], 0),
    "binary_cross_entropy_backward": lambda v: (v["g"], v["p"], v["t"], v["w"], 0, [True] * 3),
    "binary_cross_entropy_double_backward": lambda v: (
        *(v[name] for name in "hgptw"),
        0,
    ),
    "binary_cross_entropy_with_logits": lambda v: (*(v[name] for name in "xtwu"), 0),
    "binary_cross_entropy_with_logits_backward": lambda v: (
        *(v[name] for name in "gxtwu"),
        0,
        [True] * 4,
    ),
    "binary_cross_entropy_with_logits_double_backward": lambda v: (
        *(v[name] for name in "hgxtwu"),
        0,
    ),
}
for _name in UNARY:
    ARGUMENTS |= {
        _name: lambda v: (v["x"],),
        f"{_name}_backward": lambda v: (v["g"], v["x"]),
        f"{_name}_double_backward": lambda v: (v["h"], v["g"], v["x"]),
        f"{_name}_triple_backward": lambda v: (v["h"], v["g"], v["h"], v["x"], 2),
    }


def overload(name: str) -> Any:
    packet, _, suffix = name.partition(".")
    return getattr(getattr(OPS, packet), suffix or "default")


def tensors(dtype: torch.dtype) -> dict[str, Tensor]:
    """Values that keep every result normal, in float16, too."""
    n = 200
    values = {
        "g": torch.rand(n) + 0.5,
        "h": torch.rand(n) + 0.5,
        "x": torch.linspace(-6, 6, n),
        "p": torch.rand(n) * 0.9 + 0.05,
        "t": torch.rand(n).round(),
        "w": torch.rand(n) + 0.5,
        "u": torch.rand(n) + 0.5,
    }
    return {name: value.to(dtype) for name, value in values.items()}


def as_list(results: Any) -> list[Tensor]:
    return [results] if isinstance(results, Tensor) else list(results)


@every_dtype
@pytest.mark.parametrize("name", ARGUMENTS)
def test_reference_agrees_with_the_kernel(name: str, dtype: torch.dtype) -> None:
    arguments = ARGUMENTS[name](tensors(dtype))
    # Both are within a few units of the exact value; half types differ where a rounding ties.
    units = 12 if dtype not in HALF_DTYPES else 1
    eps = torch.finfo(dtype).eps
    ours = as_list(operators._IMPLEMENTATIONS[name][1](*arguments))
    for actual, expected in zip(ours, as_list(overload(name)(*arguments)), strict=True):
        assert actual.dtype is dtype
        scale = expected.double().abs().clamp(min=torch.finfo(dtype).tiny)
        terms_cancel = ("pow_double", "triple", "pow_derivative", "pos_weight", "target")
        if any(each in name for each in terms_cancel):
            scale = scale.clamp(min=1e-2)  # sums whose terms cancel
        error = (actual.double() - expected.double()).abs() / (scale * eps)
        assert error.max().item() <= units * (4 if "double" in name or "backward" in name else 1)


@every_dtype
def test_reference_is_right_where_activations_saturate(dtype: torch.dtype) -> None:
    x = torch.tensor([-9.0, 9.0], dtype=dtype)
    one = torch.ones_like(x)
    exact = float(mp.exp(-9) / (1 + mp.exp(-9)) ** 2)
    values = reference.sigmoid_backward(one, x).tolist()
    assert values == pytest.approx([exact, exact], rel=4 * torch.finfo(dtype).eps)


def test_reference_has_no_nan_at_infinity() -> None:
    x = torch.tensor([INF, -INF], dtype=torch.float64)
    one = torch.ones_like(x)
    assert reference.sigmoid(x).tolist() == [1.0, 0.0]
    assert reference.sigmoid_backward(one, x).tolist() == [0.0, 0.0]
    assert reference.tanh_backward(one, x).tolist() == [0.0, 0.0]
    t = torch.tensor([1.0, 0.0], dtype=torch.float64)
    loss = reference.binary_cross_entropy_with_logits
    assert loss(x, t, None, None, 0).tolist() == [0.0, 0.0]
    assert loss(-x, t, torch.zeros_like(x), None, 0).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", [name for name in ARGUMENTS if name.startswith("pow")])
def test_reference_takes_the_kernels_side_at_base_zero(name: str) -> None:
    grid = torch.cartesian_prod(torch.tensor([0.0, 1.0]), torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0]))
    x, e = grid.double().unbind(1)
    values = {"g": torch.ones_like(x), "h": torch.ones_like(x), "w": x, "x": e}
    arguments = ARGUMENTS[name](values)
    ours = as_list(operators._IMPLEMENTATIONS[name][1](*arguments))
    for actual, expected in zip(ours, as_list(overload(name)(*arguments)), strict=True):
        assert torch.allclose(actual, expected, rtol=1e-14, atol=0, equal_nan=True)


def test_a_term_of_a_target_of_zero_outweighs_a_power_that_overflows() -> None:
    p, t = torch.tensor([1e-6, 1 - 2**-20]), torch.tensor([0.0, 1.0])
    arguments = torch.ones(2), p, t, 8, 0
    ours = operators._IMPLEMENTATIONS["binary_cross_entropy_derivative"][1](*arguments)
    exact = math.factorial(7) / torch.maximum(p, 1 - p).double() ** 8
    assert ours.tolist() == pytest.approx(exact.tolist(), rel=1e-6)
    assert OPS.binary_cross_entropy_derivative(*arguments).tolist() == pytest.approx(exact.tolist())


# complex numbers

POINTS = [0.5 + 1j, -0.5 - 2j, 3 - 1j, -20 + 0.3j, 20 + 0.3j, 1e-8j, -0.0 + 0j, 40 - 1j]

COMPLEX: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[mpc], mpc]]] = {
    "sigmoid": (fusedgrad.sigmoid, lambda z: 1 / (1 + mp.exp(-z))),
    "tanh": (fusedgrad.tanh, mp.tanh),
    "pow 3": (lambda z: fusedgrad.pow(z, 3), lambda z: z**3),
    "pow 1.5": (lambda z: fusedgrad.pow(z + 2j, 1.5), lambda z: (z + 2j) ** mp.mpf(1.5)),
}


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize(("function", "exact"), COMPLEX.values(), ids=COMPLEX.keys())
def test_complex_derivatives_are_exact(
    function: Callable[[Tensor], Tensor], exact: Callable[[mpc], mpc], order: int
) -> None:
    z = torch.tensor(POINTS, dtype=torch.complex128, requires_grad=True)
    value = function(z)
    for remaining in reversed(range(order)):
        (grad,) = torch.autograd.grad(value, z, torch.ones_like(value), create_graph=remaining > 0)
        value = grad.conj()  # PyTorch's gradient is the conjugate of the derivative
    with mp.workdps(DIGITS):
        for point, result in zip(POINTS, value.tolist(), strict=True):
            true = mpmath.diff(exact, mpc(point), order) if order else exact(mpc(point))
            assert float(abs(mpc(result) - true)) <= 1e-14 * max(float(abs(true)), 1e-300)


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "pow"])
def test_complex_values_keep_conjugate_and_permuted_inputs(name: str) -> None:
    z = torch.randn(3, 4, dtype=torch.complex64).conj().t()
    arguments = (z, 2) if name == "pow" else (z,)
    ours, theirs = (getattr(module, name)(*arguments) for module in (fusedgrad, torch))
    assert (ours.shape, ours.stride(), ours.dtype) == (theirs.shape, theirs.stride(), theirs.dtype)
    torch.testing.assert_close(ours, theirs)


# devices without kernels


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_device_without_kernels_runs_the_reference(name: str) -> None:
    arguments = ARGUMENTS[name](tensors(torch.float32))
    # What a tensor of such a device would reach; the formulas then run on it as on any.
    elsewhere = torch._C.DispatchKeySet(torch._C.DispatchKey.MPS)
    results = as_list(overload(name).redispatch(elsewhere, *arguments))
    expected = as_list(operators._IMPLEMENTATIONS[name][1](*arguments))
    for result, true in zip(results, expected, strict=True):
        assert torch.equal(result, true)


@pytest.mark.parametrize(
    "name", ["sigmoid.out", "tanh.out", "pow.Tensor_Scalar_out", "pow.Tensor_Tensor_out"]
)
def test_a_device_without_kernels_writes_out(name: str) -> None:
    arguments = ARGUMENTS[name.removesuffix(".out").removesuffix("_out")](tensors(torch.float32))
    elsewhere = torch._C.DispatchKeySet(torch._C.DispatchKey.MPS)
    out = torch.empty(200)
    overload(name).redispatch(elsewhere, *arguments, out=out)
    torch.testing.assert_close(
        out, overload(name.removesuffix(".out").removesuffix("_out"))(*arguments)
    )


def test_probabilities_are_checked_on_a_device_without_kernels() -> None:
    with pytest.raises(RuntimeError, match="all elements of input should be between 0 and 1"):
        reference.binary_cross_entropy(torch.tensor([1.5]), torch.tensor([1.0]), None, 0)

"""Derivatives of every order, in every dtype, by every argument, under every transform."""

# mypy: disable-error-code="no-untyped-call"

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from mpmath import mp, mpf
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import fusedgrad
from ulp import (
    DTYPES,
    HALF_DTYPES,
    derivative,
    exact_values,
    largest_ulp_error,
    loss_of_logits,
    loss_of_probabilities,
    sigmoid,
)
from unary_functions import UNARY

Function = Callable[..., Tensor]


RANDOM = torch.Generator().manual_seed(0)


def any_real(*shape: int) -> Tensor:
    values = torch.randn(*shape, dtype=torch.float64, generator=RANDOM)
    return values.mul(2).requires_grad_()


def probability(*shape: int) -> Tensor:
    values = torch.rand(*shape, dtype=torch.float64, generator=RANDOM)
    return values.mul(0.8).add(0.1).requires_grad_()


def any_complex(*shape: int) -> Tensor:
    values = torch.randn(*shape, dtype=torch.complex128, generator=RANDOM)
    return values.requires_grad_()


def loss(function: Function, reduction: str, *names: str) -> Function:
    """`function` of an input, a target, and the optional arguments that are named."""

    def of_tensors(input: Tensor, target: Tensor, *others: Tensor) -> Tensor:
        optional = dict(zip(names, others, strict=True))
        return function(input, target, **optional, reduction=reduction)

    return of_tensors


ELEMENTWISE: dict[str, tuple[Function, Sequence[Tensor]]] = {
    **{name: (getattr(fusedgrad, name), [any_real(2, 3)]) for name in UNARY},
    "pow, exponent 3": (lambda x: fusedgrad.pow(x, 3), [any_real(2, 3)]),
    "pow, exponent -2": (lambda x: fusedgrad.pow(x, -2), [probability(2, 3)]),
    "pow, exponent 2.5": (lambda x: fusedgrad.pow(x, 2.5), [probability(2, 3)]),
    "pow, base 2.5": (lambda e: fusedgrad.pow(2.5, e), [any_real(2, 3)]),
    "pow of two tensors": (fusedgrad.pow, [probability(3), any_real(2, 1)]),
}

LOSSES: dict[str, tuple[Function, Sequence[Tensor]]] = {}
for _reduction in ("none", "mean", "sum"):
    LOSSES |= {
        f"loss of logits, {_reduction}": (
            loss(fusedgrad.binary_cross_entropy_with_logits, _reduction),
            [any_real(2, 3), probability(2, 3)],
        ),
        f"weighted loss of logits, {_reduction}": (
            loss(fusedgrad.binary_cross_entropy_with_logits, _reduction, "weight", "pos_weight"),
            [any_real(2, 3), probability(2, 3), probability(3), probability(2, 1)],
        ),
        f"loss of probabilities, {_reduction}": (
            loss(fusedgrad.binary_cross_entropy, _reduction),
            [probability(2, 3), probability(2, 3)],
        ),
        f"weighted loss of probabilities, {_reduction}": (
            loss(fusedgrad.binary_cross_entropy, _reduction, "weight"),
            [probability(2, 3), probability(2, 3), probability(3)],
        ),
    }

COMPLEX: dict[str, tuple[Function, Sequence[Tensor]]] = {
    "sigmoid": (fusedgrad.sigmoid, [any_complex(3)]),
    "tanh": (fusedgrad.tanh, [any_complex(3)]),
    "pow, exponent 2.5": (lambda x: fusedgrad.pow(x, 2.5), [any_complex(3)]),
    "pow, real base and complex exponent": (lambda x: fusedgrad.pow(x, 1 + 2j), [probability(3)]),
    "pow of two tensors": (fusedgrad.pow, [any_complex(3), any_complex(2, 1)]),
    "pow of a real and a complex tensor": (fusedgrad.pow, [probability(3), any_complex(3)]),
}

REAL = ELEMENTWISE | LOSSES


def one_of(cases: dict[str, Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("function", "inputs"), cases.values(), ids=cases.keys())


@one_of(REAL)
def test_first_derivatives_agree_with_differences(
    function: Function, inputs: Sequence[Tensor]
) -> None:
    gradcheck(
        function,
        tuple(inputs),
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
    )


@one_of(REAL)
def test_second_derivatives_agree_with_differences(
    function: Function, inputs: Sequence[Tensor]
) -> None:
    gradgradcheck(function, tuple(inputs), check_fwd_over_rev=True, check_batched_grad=True)


@one_of(COMPLEX)
def test_complex_derivatives_agree_with_differences(
    function: Function, inputs: Sequence[Tensor]
) -> None:
    gradcheck(function, tuple(inputs), check_forward_ad=True)
    gradgradcheck(function, tuple(inputs))


def gradients(function: Function, order: int) -> Callable[..., tuple[Tensor, ...]]:
    """The sums of all the derivatives of an order, by each input."""

    def of_inputs(*inputs: Tensor) -> tuple[Tensor, ...]:
        value = function(*inputs)
        for i in range(order):
            grads = torch.autograd.grad(
                value.sum(), inputs, create_graph=True, materialize_grads=True
            )
            # Unequal factors, so that derivatives by different inputs do not trade places.
            value = torch.stack([grad.sum() * (1 + i + j) for j, grad in enumerate(grads)])
        return grads

    return of_inputs


@one_of(REAL)
def test_third_derivatives_agree_with_differences(
    function: Function, inputs: Sequence[Tensor]
) -> None:
    gradcheck(gradients(function, 2), tuple(inputs))


@one_of(REAL)
def test_fourth_derivatives_agree_with_differences(
    function: Function, inputs: Sequence[Tensor]
) -> None:
    gradcheck(gradients(function, 3), tuple(tensor[:1] for tensor in inputs), atol=1e-4)


def nth_derivative(function: Function, order: int, x: Tensor) -> Tensor:
    """The derivative of an elementwise function at the elements of x."""
    x = x.detach().requires_grad_()
    y = function(x)
    for remaining in reversed(range(order)):
        (y,) = torch.autograd.grad(y, x, torch.ones_like(y), create_graph=remaining > 0)
    return y


# Points in both tails, around 0, and 0 itself; past them the derivative underflows.
POINTS = {
    torch.float64: [-650.0, -30.0, -3.0, -0.5, -1e-9, 0.0, 1e-9, 0.25, 5.0, 40.0, 330.0],
    torch.float32: [-80.0, -20.0, -3.0, -0.5, -1e-6, 0.0, 1e-6, 0.25, 5.0, 20.0, 40.0],
    torch.bfloat16: [-80.0, -20.0, -3.0, -0.5, -1e-6, 0.0, 1e-6, 0.25, 5.0, 20.0, 40.0],
    torch.float16: [-9.0, -5.0, -3.0, -0.5, -1e-3, 0.0, 1e-3, 0.25, 2.0, 4.0, 5.0],
}

FUNCTIONS: dict[str, tuple[Function, Callable[[mpf], mpf], float]] = {
    # name: function, exact function, the factor that keeps its derivatives from underflow
    **{name: (getattr(fusedgrad, name), row.exact, row.scale) for name, row in UNARY.items()},
    "loss of logits": (
        lambda x: fusedgrad.binary_cross_entropy_with_logits(
            x, torch.full_like(x, 0.25), reduction="none"
        ),
        lambda x: loss_of_logits(x, mpf(0.25)),
        1.0,
    ),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivative_is_exact_in_the_tails_and_around_zero(
    name: str, order: int, dtype: torch.dtype
) -> None:
    function, exact, factor = FUNCTIONS[name]
    x = torch.tensor(POINTS[dtype], dtype=dtype) * factor
    values = nth_derivative(function, order, x)
    # Derivatives beyond the second add a few terms, each right to about 3 units.
    bound = (4 if order <= 2 else 16) if dtype not in HALF_DTYPES else 0.55
    assert largest_ulp_error(values, exact_values(derivative(exact, order), x)) <= bound


POWERS = [3, 0.5, -0.5, -2, 2.5, 10]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("exponent", POWERS)
def test_derivative_of_pow_by_the_base_is_exact(
    exponent: float, order: int, dtype: torch.dtype
) -> None:
    x = torch.tensor([0.0625, 0.3, 1.0, 1.7, 4.0], dtype=dtype)
    values = nth_derivative(lambda x: fusedgrad.pow(x, exponent), order, x)
    exact = exact_values(derivative(lambda x: x ** mpf(exponent), order), x)
    assert largest_ulp_error(values, exact) <= (4 if dtype not in HALF_DTYPES else 0.55)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_derivative_of_pow_by_the_exponent_is_exact(order: int, dtype: torch.dtype) -> None:
    e = torch.tensor([-3.0, -0.5, 0.0, 0.3, 2.0, 5.5], dtype=dtype)
    values = nth_derivative(lambda e: fusedgrad.pow(torch.full_like(e, 1.75), e), order, e)
    exact = exact_values(derivative(lambda e: mpf(1.75) ** e, order), e)
    assert largest_ulp_error(values, exact) <= (8 if dtype not in HALF_DTYPES else 0.55)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_derivative_of_the_loss_of_probabilities_is_exact(order: int, dtype: torch.dtype) -> None:
    p = torch.tensor([0.01, 0.25, 0.5, 0.75, 0.99], dtype=dtype)

    def function(p: Tensor) -> Tensor:
        return fusedgrad.binary_cross_entropy(p, torch.ones_like(p), reduction="none")

    exact = exact_values(derivative(lambda p: loss_of_probabilities(p, mpf(1)), order), p)
    bound = 8 if dtype not in HALF_DTYPES else 0.55
    assert largest_ulp_error(nth_derivative(function, order, p), exact) <= bound


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("argument", ["target", "weight", "pos_weight"])
def test_gradient_of_the_loss_of_logits_by_its_other_arguments_is_exact(
    argument: str, dtype: torch.dtype
) -> None:
    x = torch.tensor([-30.0, -2.0, 0.0, 0.5, 8.0, 30.0], dtype=dtype)
    tensors = {
        name: torch.full_like(x, value, requires_grad=name == argument)
        for name, value in {"target": 0.25, "weight": 1.5, "pos_weight": 3.0}.items()
    }
    loss: Function = fusedgrad.binary_cross_entropy_with_logits
    value = loss(x, **tensors, reduction="sum")
    (grad,) = torch.autograd.grad(value, tensors[argument])
    orders = [0, *(int(name == argument) for name in tensors)]
    columns = [tensor.detach() for tensor in tensors.values()]
    exact = exact_values(derivative(loss_of_logits, *orders), x, *columns)
    assert largest_ulp_error(grad, exact) <= (3 if dtype not in HALF_DTYPES else 0.55)


@one_of(REAL)
def test_gradient_has_the_shape_and_dtype_of_its_operand(
    function: Function, inputs: Sequence[Tensor]
) -> None:
    for dtype in DTYPES:
        operands = [tensor.detach().to(dtype).requires_grad_() for tensor in inputs]
        for grad, operand in zip(
            torch.autograd.grad(function(*operands).sum(), operands), operands, strict=True
        ):
            assert (grad.shape, grad.dtype) == (operand.shape, operand.dtype)


def test_gradient_of_a_broadcast_operand_is_the_sum_over_the_broadcast() -> None:
    base = torch.tensor([2.0, 3.0], dtype=torch.float64, requires_grad=True)
    exponent = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64, requires_grad=True)
    by_base, by_exponent = torch.autograd.grad(
        fusedgrad.pow(base, exponent).sum(), (base, exponent)
    )
    assert by_base.tolist() == [1 + 4 + 12, 1 + 6 + 27]
    exact = [sum(mpf(x) ** e * mp.log(x) for x in (2, 3)) for e in (1, 2, 3)]
    assert largest_ulp_error(by_exponent, exact) <= 4


@one_of({name: case for name, case in REAL.items() if len(case[1]) > 1})
def test_only_the_needed_gradients_are_computed(
    function: Function, inputs: Sequence[Tensor]
) -> None:
    expected = torch.autograd.grad(function(*inputs).sum(), inputs)
    for i in range(len(inputs)):
        operands = [tensor.detach() for tensor in inputs]
        operands[i].requires_grad_()
        function(*operands).sum().backward()
        assert [operand.grad is not None for operand in operands] == [
            j == i for j in range(len(inputs))
        ]
        torch.testing.assert_close(operands[i].grad, expected[i], rtol=1e-14, atol=0)


MIXED = [
    (torch.float32, torch.float64),
    (torch.float64, torch.float32),
    (torch.bfloat16, torch.float32),
    (torch.float16, torch.bfloat16),
]


@pytest.mark.parametrize(("left", "right"), MIXED, ids=str)
def test_gradients_of_pow_of_mixed_dtypes_have_each_operands_dtype(
    left: torch.dtype, right: torch.dtype
) -> None:
    x = torch.tensor([1.5, 2.0], dtype=left, requires_grad=True)
    e = torch.tensor([2.5, -1.0], dtype=right, requires_grad=True)
    grads = torch.autograd.grad(fusedgrad.pow(x, e).sum(), (x, e))
    columns = (x.detach(), e.detach())
    for grad, operand, orders in zip(grads, (x, e), ((1, 0), (0, 1)), strict=True):
        assert grad.dtype is operand.dtype
        exact = exact_values(derivative(lambda x, e: x**e, *orders), *columns)
        assert largest_ulp_error(grad, exact) <= 3


def test_gradient_of_pow_with_an_integer_exponent_tensor() -> None:
    x = torch.tensor([-2.0, 0.0, 3.0], requires_grad=True)
    fusedgrad.pow(x, torch.tensor([3, 2, 1])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [12.0, 0.0, 1.0]


def test_gradients_of_the_loss_with_a_target_of_another_dtype() -> None:
    x = torch.tensor([0.5, -1.0], requires_grad=True)
    t = torch.tensor([0.25, 1.0], dtype=torch.float64, requires_grad=True)
    grads = torch.autograd.grad(fusedgrad.binary_cross_entropy_with_logits(x, t), (x, t))
    assert [grad.dtype for grad in grads] == [torch.float32, torch.float64]
    exact = exact_values(derivative(loss_of_logits, 1, 0), x.detach(), t.detach())
    assert largest_ulp_error(grads[0], [value / 2 for value in exact]) <= 2.5


@pytest.mark.parametrize(
    ("exponent", "expected"), [(0, 0.0), (1, 1.0), (2, 0.0), (3, 0.0)], ids=str
)
def test_first_derivative_of_pow_at_base_zero(exponent: int, expected: float) -> None:
    zero = torch.zeros(1, dtype=torch.float64)
    assert nth_derivative(lambda x: fusedgrad.pow(x, exponent), 1, zero).item() == expected


@pytest.mark.parametrize(
    ("exponent", "order", "expected"),
    [(2, 2, 2.0), (3, 2, 0.0), (1, 2, 0.0), (3, 3, 6.0), (2, 3, 0.0), (4, 4, 24.0), (2, 4, 0.0)],
)
@pytest.mark.parametrize("kind", ["number", "tensor"])
def test_higher_derivatives_of_pow_at_base_zero(
    kind: str, exponent: int, order: int, expected: float
) -> None:
    zero = torch.zeros(1, dtype=torch.float64)
    power = exponent if kind == "number" else torch.tensor([exponent], dtype=torch.float64)
    assert nth_derivative(lambda x: fusedgrad.pow(x, power), order, zero).item() == expected


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_derivative_by_the_exponent_at_base_zero_is_zero(exponent: float) -> None:
    e = torch.tensor([exponent], dtype=torch.float64)
    values = [
        nth_derivative(lambda e: fusedgrad.pow(torch.zeros_like(e), e), order, e).item()
        for order in (1, 2, 3)
    ]
    assert values == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_derivatives_of_a_negative_base_by_an_integer_power(order: int) -> None:
    x = torch.tensor([-1.5, -0.25], dtype=torch.float64)
    power = torch.tensor(5.0, dtype=torch.float64)
    exact = exact_values(derivative(lambda x: x**5, order), x)
    values = nth_derivative(lambda x: fusedgrad.pow(x, power), order, x)
    assert largest_ulp_error(values, exact) <= 4


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_at_infinity_are_finite(name: str, order: int, dtype: torch.dtype) -> None:
    x = torch.tensor([float("inf"), float("-inf")], dtype=dtype)
    expected = torch.zeros(2, dtype=dtype)
    if name == "loss of logits" and order == 1:
        expected = torch.tensor([0.75, -0.25], dtype=dtype)
    elif name in UNARY:
        with np.errstate(over="ignore"):
            limits = UNARY[name].derivative(x.double().numpy(), order)[0]
        expected = torch.from_numpy(limits).to(dtype)
    assert torch.equal(nth_derivative(FUNCTIONS[name][0], order, x), expected)


def test_gradients_of_an_infinite_logit_with_weights_of_zero_are_zero() -> None:
    x = torch.tensor([float("inf"), float("-inf")], dtype=torch.float64, requires_grad=True)
    t = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    w = torch.zeros(2, dtype=torch.float64)
    value = fusedgrad.binary_cross_entropy_with_logits(x, t, w, reduction="sum")
    by_input, by_target = torch.autograd.grad(value, (x, t))
    assert by_input.tolist() == [0.0, 0.0]
    assert by_target.tolist() == [0.0, 0.0]


@one_of(REAL)
def test_saved_tensors_are_the_inputs(function: Function, inputs: Sequence[Tensor]) -> None:
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function(*inputs)
    pointers = {tensor.data_ptr() for tensor in inputs}
    kept = {tensor.data_ptr() for tensor in saved if tensor.numel() > 1}
    assert kept == pointers


@one_of(REAL)
def test_modifying_a_saved_input_is_pytorchs_error(
    function: Function, inputs: Sequence[Tensor]
) -> None:
    for i in range(len(inputs)):
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        operands = [leaf.clone() for leaf in leaves]
        value = function(*operands).sum()
        operands[i].data.mul_(1)  # no modification that autograd sees
        with torch.no_grad():
            operands[i].mul_(0.5)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            value.backward()


def test_backward_twice_without_retaining_the_graph_is_pytorchs_error() -> None:
    value = fusedgrad.sigmoid(any_real(3)).sum()
    value.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        value.backward()


@one_of(REAL | {f"complex {name}": case for name, case in COMPLEX.items()})
def test_vmap_agrees_with_a_loop(function: Function, inputs: Sequence[Tensor]) -> None:
    batch = [torch.stack([tensor.detach(), tensor.detach() * 0.5], dim=-1) for tensor in inputs]
    looped = torch.stack([function(*(t[..., i] for t in batch)) for i in range(2)])
    batched = torch.vmap(function, in_dims=-1)(*batch)
    torch.testing.assert_close(batched, looped, rtol=1e-15, atol=0)


@one_of(REAL)
def test_vmap_over_one_argument_broadcasts_the_others(
    function: Function, inputs: Sequence[Tensor]
) -> None:
    values = [tensor.detach() for tensor in inputs]
    for i in range(len(values)):
        batch: list[Tensor] = list(values)
        batch[i] = torch.stack([values[i], values[i] * 0.5])
        looped = torch.stack(
            [function(*(batch[j][k] if j == i else values[j] for j in range(len(values))))
             for k in range(2)]
        )  # fmt: skip
        in_dims = tuple(0 if j == i else None for j in range(len(values)))
        batched = torch.vmap(function, in_dims=in_dims)(*batch)
        torch.testing.assert_close(batched, looped, rtol=1e-15, atol=0)


@one_of(REAL)
def test_per_sample_gradients_agree_with_a_loop(
    function: Function, inputs: Sequence[Tensor]
) -> None:
    batch = [torch.stack([tensor.detach(), tensor.detach() * 0.5]) for tensor in inputs]
    positions = tuple(range(len(inputs)))
    gradient = torch.func.grad(lambda *values: function(*values).sum(), positions)
    batched = torch.vmap(gradient)(*batch)
    looped = [gradient(*(tensor[i] for tensor in batch)) for i in range(2)]
    for i, grads in enumerate(zip(*looped, strict=True)):
        torch.testing.assert_close(batched[i], torch.stack(grads), rtol=1e-14, atol=1e-300)


@one_of(REAL)
def test_hessians_by_all_modes_agree(function: Function, inputs: Sequence[Tensor]) -> None:
    values = tuple(tensor.detach() for tensor in inputs)
    positions = tuple(range(len(values)))

    def total(*tensors: Tensor) -> Tensor:
        return function(*tensors).sum()

    expected = torch.autograd.functional.hessian(total, values)
    modes = {
        "forward over reverse": torch.func.hessian(total, positions),
        "reverse over reverse": torch.func.jacrev(torch.func.jacrev(total, positions), positions),
        "reverse over forward": torch.func.jacrev(torch.func.jacfwd(total, positions), positions),
    }
    for name, mode in modes.items():
        actual = mode(*values)
        for i, row in enumerate(expected):
            for j, block in enumerate(row):
                torch.testing.assert_close(
                    actual[i][j], block, rtol=1e-12, atol=1e-14, msg=f"{name}, {i}, {j}"
                )


def reverse(function: Function) -> Function:
    return torch.func.grad(function)


def forward(function: Function) -> Function:
    return lambda x: torch.func.jvp(function, (x,), (torch.ones_like(x),))[1]


@pytest.mark.parametrize(
    "modes",
    list(itertools.product((reverse, forward), repeat=3)),
    ids=lambda modes: " of ".join(mode.__name__ for mode in reversed(modes)),
)
@one_of(REAL)
def test_third_derivative_is_the_same_in_every_mix_of_modes(
    function: Function, inputs: Sequence[Tensor], modes: Sequence[Callable[[Function], Function]]
) -> None:
    value = inputs[0].detach().flatten()[0]
    others = [tensor.detach().flatten()[0] for tensor in inputs[1:]]

    def of_first(x: Tensor) -> Tensor:
        return function(x, *others)

    third = of_first
    for mode in modes:
        third = mode(third)
    expected = nth_derivative(of_first, 3, value)
    torch.testing.assert_close(third(value), expected, rtol=1e-12, atol=1e-14)


@one_of(REAL)
def test_dual_numbers_carry_the_directional_derivative(
    function: Function, inputs: Sequence[Tensor]
) -> None:
    values = [tensor.detach() for tensor in inputs]
    tangents = [torch.randn_like(value) for value in values]
    _, expected, *_ = torch.func.jvp(function, tuple(values), tuple(tangents))
    with forward_ad.dual_level(), torch.no_grad():
        duals = [forward_ad.make_dual(v, t) for v, t in zip(values, tangents, strict=True)]
        tangent = forward_ad.unpack_dual(function(*duals)).tangent
    torch.testing.assert_close(tangent, expected, rtol=1e-14, atol=0)


def test_a_pullback_kept_after_its_transform_can_be_differentiated() -> None:
    _, pull_back, *_ = torch.func.vjp(fusedgrad.sigmoid, torch.tensor(0.5, dtype=torch.float64))
    cotangent = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    (value,) = pull_back(cotangent)
    (grad,) = torch.autograd.grad(value, cotangent)
    exact = exact_values(derivative(sigmoid, 1), torch.tensor([0.5]))
    assert largest_ulp_error(grad, exact) <= 3.5


def test_checkpoint_recomputes_the_same_gradient() -> None:
    from torch.utils.checkpoint import checkpoint

    x = any_real(5)
    direct = torch.autograd.grad(fusedgrad.tanh(x).sum(), x)
    recomputed = torch.autograd.grad(checkpoint(fusedgrad.tanh, x, use_reentrant=False).sum(), x)
    assert torch.equal(direct[0], recomputed[0])


@pytest.mark.parametrize("name", ["Sigmoid", "Tanh"])
def test_function_classes_are_the_functions(name: str) -> None:
    x = any_real(4)
    applied = getattr(fusedgrad.autograd, name).apply(x)
    assert torch.equal(applied, getattr(fusedgrad, name.lower())(x))
    assert type(applied.grad_fn).__name__ == f"{name}Backward"


CLASSES: dict[str, tuple[Function, Sequence[Tensor]]] = {
    "sigmoid": (lambda *x: fusedgrad.autograd.Sigmoid.apply(*x), [any_real(3)]),
    "tanh": (lambda *x: fusedgrad.autograd.Tanh.apply(*x), [any_real(3)]),
    "pow with a number": (lambda x: fusedgrad.autograd.Pow.apply(x, 2.5), [probability(3)]),
    "pow": (lambda *x: fusedgrad.autograd.Pow.apply(*x), [probability(3), any_real(2, 1)]),
    "loss": (
        lambda x, t, w: fusedgrad.autograd.BinaryCrossEntropy.apply(x, t, w, 1),
        [probability(3), probability(3), probability(3)],
    ),
    "loss of logits": (
        lambda x, t, w, p: fusedgrad.autograd.BinaryCrossEntropyWithLogits.apply(x, t, w, p, 2),
        [any_real(3), probability(3), probability(3), probability(1)],
    ),
}


@one_of(CLASSES)
def test_function_classes_are_differentiable_twice(
    function: Function, inputs: Sequence[Tensor]
) -> None:
    gradcheck(function, tuple(inputs), check_batched_grad=True)
    gradgradcheck(function, tuple(inputs), check_batched_grad=True)


def test_pow_class_takes_numbers_on_either_side() -> None:
    x = probability(3)
    for arguments in ((x, 2), (2.0, x), (x, x)):
        assert torch.equal(fusedgrad.autograd.Pow.apply(*arguments), fusedgrad.pow(*arguments))


def test_loss_classes_have_optional_weights_and_no_reduction_by_default() -> None:
    x, t = probability(3), probability(3)
    for function, of_class in (
        (fusedgrad.binary_cross_entropy, fusedgrad.autograd.BinaryCrossEntropy),
        (
            fusedgrad.binary_cross_entropy_with_logits,
            fusedgrad.autograd.BinaryCrossEntropyWithLogits,
        ),
    ):
        assert torch.equal(of_class.apply(x, t), function(x, t, reduction="none"))


@pytest.mark.parametrize("dtype", HALF_DTYPES, ids=str)
def test_second_derivative_of_a_mean_in_half_types_is_rounded_once(dtype: torch.dtype) -> None:
    # 1 / n is subnormal in float16: a factor rounded to the dtype would show.
    n = 1 << 17
    x = torch.zeros(n, dtype=dtype, requires_grad=True)
    value = fusedgrad.binary_cross_entropy_with_logits(x, torch.zeros_like(x))
    (grad,) = torch.autograd.grad(value, x, create_graph=True)
    (second,) = torch.autograd.grad(grad[0] * 2.0**14, x)
    assert second[0].item() == pytest.approx(0.25 * 2.0**14 / n, rel=2**-8)


@pytest.mark.parametrize("dtype", HALF_DTYPES, ids=str)
@pytest.mark.parametrize(
    ("function", "exact"),
    [
        (fusedgrad.pow, torch.pow),
        (lambda x, y: fusedgrad.pow(y, x), lambda x, y: torch.pow(y, x)),
        (
            lambda x, y: fusedgrad.binary_cross_entropy(x, x, y, reduction="none"),
            lambda x, y: -y * (x * x.log() + (1 - x) * (1 - x).log()),
        ),
        (
            lambda x, y: fusedgrad.binary_cross_entropy_with_logits(
                x, x, pos_weight=y, reduction="none"
            ),
            lambda x, y: (1 - x) * x + (1 + (y - 1) * x) * torch.log1p(torch.exp(-x)),
        ),
    ],
)
def test_gradients_of_a_broadcast_half_are_summed_before_they_are_rounded(
    function: Function, exact: Function, dtype: torch.dtype
) -> None:
    n = 4096
    x = torch.linspace(0.25, 0.75, n).to(dtype)
    y = torch.tensor([1.5], dtype=dtype, requires_grad=True)
    # Terms that all but cancel; in float16 some are beyond its largest number.
    grad = torch.where(torch.arange(n) % 2 == 0, 60000.0, -59968.0).to(dtype)
    wide = y.detach().double().requires_grad_()
    (got,) = torch.autograd.grad(function(x, y), y, grad)
    (want,) = torch.autograd.grad(exact(x.double(), wide), wide, grad.double())
    # Half a unit in the last place, and what float32 loses in adding up terms of 60,000
    assert abs(got.double() - want) <= 0.51 * torch.finfo(dtype).eps * abs(want) + 2**-18 * 6e4

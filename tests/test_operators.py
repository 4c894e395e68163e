"""Every operator passes torch.library.opcheck: schema, fake tensors, autograd keys, compilation."""

import functools
import itertools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck, gradgradcheck

import fusedgrad
from fusedgrad import operators, reference
from unary_functions import UNARY

OPS = torch.ops.fusedgrad

LAYOUTS: dict[str, Callable[[], Tensor]] = {
    "contiguous": lambda: torch.rand(2, 3, 4, 5),
    "permuted": lambda: torch.rand(4, 2, 5, 3).permute(1, 3, 0, 2),
    "channels last": lambda: torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    "expanded": lambda: torch.rand(2, 1, 4, 1).expand(2, 3, 4, 5),
    "0-dim": lambda: torch.rand(()),
    "empty": lambda: torch.rand(2, 0, 4),
}

KINDS = {"": 1, "_backward": 2, "_double_backward": 3, "_triple_backward": 4}


def several(make: Callable[[], Tensor], count: int) -> tuple[Tensor, ...]:
    return tuple(make() for _ in range(count))


# operator: arguments made from a function that makes a tensor of the layout
OPERATORS: dict[Any, Callable[[Callable[[], Tensor]], tuple[Any, ...]]] = {
    **{
        getattr(OPS, name + kind).default: functools.partial(several, count=count)
        for name in UNARY
        for kind, count in KINDS.items()
    },
    OPS.pow.Tensor_Scalar: lambda make: (make(), 2.5),
    OPS.pow.Tensor_Tensor: lambda make: (make(), make()),
    OPS.pow.Scalar: lambda make: (2, make()),
    OPS.pow_backward.Tensor_Scalar: lambda make: (make(), make(), 2.5),
    OPS.pow_backward.Tensor_Tensor: lambda make: (make(), make(), make(), [True, True]),
    OPS.pow_double_backward.Tensor_Scalar: lambda make: (make(), make(), make(), 2.5),
    OPS.pow_triple_backward.Tensor_Scalar: lambda make: (make(), make(), make(), make(), 2.5),
    OPS.pow_derivative.default: lambda make: (make(), make(), make(), 1, 1),
    OPS.pow_derivative_backward.default: lambda make: (*several(make, 4), 1, 2),
    OPS.binary_cross_entropy_derivative.default: lambda make: (*several(make, 3), 3, 0),
    OPS.binary_cross_entropy_derivative_backward.default: lambda make: (*several(make, 4), 3, 0),
    OPS.pow_double_backward.Tensor_Tensor: lambda make: tuple(make() for _ in range(5)),
    OPS.binary_cross_entropy.default: lambda make: (make(), make(), make(), 0),
    OPS.binary_cross_entropy_backward.default: lambda make: (
        *(make() for _ in range(4)),
        0,
        [True, True, True],
    ),
    OPS.binary_cross_entropy_double_backward.default: lambda make: (
        *(make() for _ in range(5)),
        0,
    ),
    OPS.binary_cross_entropy_with_logits.default: lambda make: (*(make() for _ in range(4)), 0),
    OPS.binary_cross_entropy_with_logits_backward.default: lambda make: (
        *(make() for _ in range(5)),
        0,
        [True, True, True, True],
    ),
    OPS.binary_cross_entropy_with_logits_double_backward.default: lambda make: (
        *(make() for _ in range(6)),
        0,
    ),
}

OUT_OPERATORS: dict[Any, Callable[[Callable[[], Tensor]], tuple[Any, ...]]] = {
    OPS.sigmoid.out: lambda make: (make(),),
    OPS.tanh.out: lambda make: (make(),),
    OPS.pow.Tensor_Scalar_out: lambda make: (make(), 2.5),
    OPS.pow.Tensor_Tensor_out: lambda make: (make(), make()),
    OPS.pow.Scalar_out: lambda make: (2, make()),
}


@pytest.mark.sampled(8)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("operator", OPERATORS, ids=str)
def test_opcheck(operator: Any, layout: Callable[[], Tensor]) -> None:
    torch.library.opcheck(operator, OPERATORS[operator](layout))


@pytest.mark.sampled(8)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("operator", OUT_OPERATORS, ids=str)
def test_opcheck_of_the_operators_with_out(operator: Any, layout: Callable[[], Tensor]) -> None:
    out = torch.empty_like(layout())
    torch.library.opcheck(operator, OUT_OPERATORS[operator](layout), {"out": out})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("operator", OPERATORS, ids=str)
def test_fake_tensors_have_the_dtype_of_the_result(operator: Any, dtype: torch.dtype) -> None:
    arguments = OPERATORS[operator](lambda: torch.rand(3, dtype=dtype))
    torch.library.opcheck(operator, arguments, test_utils="test_faketensor")


RECORDED = list(OPERATORS)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("operator", RECORDED, ids=str)
def test_opcheck_of_the_operators_with_a_backward(operator: Any) -> None:
    def make() -> Tensor:
        return torch.rand(3, 2, requires_grad=True)

    torch.library.opcheck(operator, OPERATORS[operator](make))


@pytest.mark.parametrize("operator", RECORDED, ids=str)
def test_operators_differentiate_themselves(operator: Any) -> None:
    def make() -> Tensor:
        values = torch.empty(3, dtype=torch.float64).uniform_(0.1, 0.9)
        return values.requires_grad_()

    arguments = OPERATORS[operator](make)
    gradcheck(operator, arguments, check_batched_grad=True)
    gradgradcheck(operator, arguments, check_batched_grad=True)


@pytest.mark.parametrize("operator", RECORDED, ids=str)
def test_a_recorded_backward_may_be_mapped(operator: Any) -> None:
    def make() -> Tensor:
        return torch.rand(3, requires_grad=True)

    arguments = OPERATORS[operator](make)
    inputs = [argument for argument in arguments if isinstance(argument, Tensor)]
    results = operator(*arguments)
    value = results if isinstance(results, Tensor) else torch.stack(list(results)).sum(0)

    def pull_back(cotangent: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(value, inputs, cotangent, retain_graph=True)

    cotangents = torch.rand(2, 3)
    for i, mapped in enumerate(zip(*torch.vmap(pull_back)(cotangents), strict=True)):
        torch.testing.assert_close(mapped, pull_back(cotangents[i]))


@pytest.mark.parametrize("reduction", [1, 2], ids=["mean", "sum"])
@pytest.mark.parametrize(
    "operator",
    [OPS.binary_cross_entropy.default, OPS.binary_cross_entropy_with_logits.default],
    ids=str,
)
def test_opcheck_of_a_reduced_loss(operator: Any, reduction: int) -> None:
    *operands, _ = OPERATORS[operator](LAYOUTS["permuted"])
    torch.library.opcheck(operator, (*operands, reduction))


def strides(results: Any) -> list[Any]:
    """The shapes and strides of one result or several."""
    return [(r.shape, r.stride()) for r in ([results] if isinstance(results, Tensor) else results)]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("operator", OPERATORS, ids=str)
def test_fake_tensors_have_the_strides_of_the_result(
    operator: Any, layout: Callable[[], Tensor]
) -> None:
    arguments = OPERATORS[operator](layout)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fakes = torch.utils._pytree.tree_map_only(Tensor, mode.from_tensor, arguments)
        expected = strides(operator(*fakes))
    assert strides(operator(*arguments)) == expected


@pytest.mark.parametrize("first", range(3))
@pytest.mark.parametrize("operator", OPERATORS, ids=str)
def test_fake_tensors_of_different_layouts_have_the_strides_of_the_result(
    operator: Any, first: int
) -> None:
    test_fake_tensors_have_the_strides_of_the_result(operator, rotating(first))


def rotating(first: int) -> Callable[[], Tensor]:
    """Makes tensors of one shape in one layout after the other."""
    shape = (2, 3, 4, 5)
    makers = [
        lambda: torch.rand(shape),
        lambda: torch.rand(shape).contiguous(memory_format=torch.channels_last),
        lambda: torch.rand(shape[::-1]).permute(3, 2, 1, 0),
    ]
    order = itertools.cycle(makers[first:] + makers[:first])
    return lambda: next(order)()


def test_every_operator_is_checked() -> None:
    names = set(torch._C._dispatch_get_all_op_names())
    ours = {name for name in names if name.startswith("fusedgrad::")}
    checked = {operator.name() for operator in [*OPERATORS, *OUT_OPERATORS]}
    # These run kernels compiled at run time, which fusedgrad.fuse's own tests hold.
    assert ours - {"fusedgrad::fused", "fusedgrad::fused_reduction"} == checked


def test_cuda_tensors_without_cuda_kernels_take_the_reference_with_one_warning() -> None:
    # The function that the CUDA key dispatches to in such a build: it does not look at the device.
    x, out = torch.tensor([-20.0, 0.5]), torch.empty(2)
    operators.warn_of_no_cuda.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = operators.without_cuda_kernels(reference.sigmoid)(x)
        operators.without_cuda_kernels(operators._stored(reference.sigmoid))(x, out=out)
    assert torch.equal(value, reference.sigmoid(x))
    assert torch.equal(out, value)
    assert [str(warning.message).split(";")[0] for warning in caught] == [
        "this build of fusedgrad has no CUDA kernels, so CUDA tensors take the same formulas in "
        "PyTorch operations"
    ]
    built = fusedgrad._C.cuda_version() is not None
    has_key = torch._C._dispatch_has_kernel_for_dispatch_key
    assert has_key("fusedgrad::sigmoid", "CUDA")
    assert built or has_key("fusedgrad::pow_double_backward.Tensor_Tensor", "CUDA")


@pytest.mark.parametrize(
    ("built", "used", "driver", "warned"),
    [
        ("13.0", "12.8", 12080, True),
        ("13.0", "12.8", 13000, False),
        ("13.0", "12.8", 0, False),
        ("13.2", "13.0", 12080, False),
        (None, "12.8", 12080, False),
        ("13.0", None, 12080, False),
    ],
)
def test_a_driver_too_old_for_the_kernels_alone_is_named(
    built: str | None,
    used: str | None,
    driver: int,
    warned: bool,
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
) -> None:
    monkeypatch.setattr(fusedgrad._C, "cuda_version", lambda: built)
    monkeypatch.setattr(torch.version, "cuda", used)
    monkeypatch.setattr(torch._C, "_cuda_getDriverVersion", lambda: driver, raising=False)
    operators._warn_of_an_old_driver()
    said = [str(warning.message) for warning in recwarn]
    assert ["its driver is of CUDA 12.8, torch of 12.8" in one for one in said] == [True] * warned

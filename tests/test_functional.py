"""The public functions are drop-in: shapes, strides, dtypes and special values are PyTorch's."""

# mypy: disable-error-code="no-untyped-call"

import contextlib
import itertools
import math
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mpmath import mp, mpf
from torch import Tensor

import fusedgrad
from ulp import (
    DTYPES,
    HALF_DTYPES,
    exact_values,
    largest_ulp_error,
    loss_of_logits,
    loss_of_probabilities,
    sigmoid,
)

INF, NAN = float("inf"), float("nan")
ALL_DTYPES = (
    *DTYPES,
    torch.complex64,
    torch.complex128,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.bool,
)

Call = Callable[..., Tensor]

UNARY: dict[str, tuple[Call, Call]] = {
    "sigmoid": (fusedgrad.sigmoid, torch.sigmoid),
    "tanh": (fusedgrad.tanh, torch.tanh),
    "pow 2": (lambda x, **out: fusedgrad.pow(x, 2, **out), lambda x, **out: torch.pow(x, 2, **out)),
    "pow 2.5": (
        lambda x, **out: fusedgrad.pow(x, 2.5, **out),
        lambda x, **out: torch.pow(x, 2.5, **out),
    ),
    "2 to the power": (
        lambda x, **out: fusedgrad.pow(2, x, **out),
        lambda x, **out: torch.pow(2, x, **out),
    ),
}
LOSSES: dict[str, tuple[Call, Call]] = {
    "logits": (
        fusedgrad.binary_cross_entropy_with_logits,
        F.binary_cross_entropy_with_logits,
    ),
    "probabilities": (fusedgrad.binary_cross_entropy, F.binary_cross_entropy),
}

LAYOUTS: dict[str, Callable[[], Tensor]] = {
    "contiguous": lambda: torch.rand(2, 3, 4, 5),
    "channels last": lambda: torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    "channels last, 1 channel": lambda: torch.rand(2, 1, 4, 5).contiguous(
        memory_format=torch.channels_last
    ),
    "permuted": lambda: torch.rand(4, 2, 5, 3).permute(1, 3, 0, 2),
    "transposed": lambda: torch.rand(7, 3).t(),
    "expanded": lambda: torch.rand(3, 1).expand(3, 4),
    "strided": lambda: torch.rand(6, 8)[::2, 1::3],
    "offset by one element": lambda: torch.rand(17)[1:],
    "flipped": lambda: torch.rand(4, 5).flip(1),
    "diagonal": lambda: torch.rand(5, 5).diagonal(),
    "0-dim": lambda: torch.rand(()),
    "one element": lambda: torch.rand(1, 1, 1),
    "empty": lambda: torch.rand(0),
    "empty in the middle": lambda: torch.rand(3, 0, 2),
    "nine dimensions": lambda: torch.rand(2, 1, 2, 1, 2, 1, 2, 2, 2).transpose(0, 8),
}

layouts = pytest.mark.parametrize("make", LAYOUTS.values(), ids=LAYOUTS.keys())
unary = pytest.mark.parametrize(("ours", "theirs"), UNARY.values(), ids=UNARY.keys())
losses = pytest.mark.parametrize(("ours", "theirs"), LOSSES.values(), ids=LOSSES.keys())
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def form(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.layout


def outcome(function: Call, *arguments: Any, **keywords: Any) -> Any:
    """The form of the result, or the type of the error."""
    try:
        return form(function(*arguments, **keywords))
    except Exception as error:
        return type(error)


@unary
@layouts
def test_result_has_pytorchs_shape_and_strides(
    ours: Call, theirs: Call, make: Callable[[], Tensor]
) -> None:
    x = make()
    assert form(ours(x)) == form(theirs(x))


@unary
@layouts
def test_result_does_not_depend_on_the_layout(
    ours: Call, theirs: Call, make: Callable[[], Tensor]
) -> None:
    x = make()
    expected = [ours(value.reshape(1)).item() for value in x.reshape(-1)]
    assert ours(x).flatten().tolist() == expected


@losses
@layouts
def test_loss_has_pytorchs_shape_and_strides(
    ours: Call, theirs: Call, make: Callable[[], Tensor]
) -> None:
    x, t = make(), make()
    assert form(ours(x, t, reduction="none")) == form(theirs(x, t, reduction="none"))
    assert form(ours(x, t)) == form(theirs(x, t))


@losses
@layouts
def test_loss_does_not_depend_on_the_layout(
    ours: Call, theirs: Call, make: Callable[[], Tensor]
) -> None:
    x, t = make(), make()
    pairs = zip(x.reshape(-1), t.reshape(-1), strict=True)
    expected = [ours(a.reshape(1), b.reshape(1)).item() for a, b in pairs]
    assert ours(x, t, reduction="none").flatten().tolist() == expected


BROADCASTS = [((3, 1), (1, 4)), ((2, 3, 4), (4,)), ((), (3,)), ((5, 1, 2), (3, 1)), ((0, 3), (1,))]


@pytest.mark.parametrize(("left", "right"), BROADCASTS, ids=str)
def test_pow_broadcasts_as_pytorchs(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    x, e = torch.rand(left), torch.rand(right)
    assert form(fusedgrad.pow(x, e)) == form(torch.pow(x, e))
    expected = [fusedgrad.pow(a, b).item() for a, b in zip(
        x.expand(torch.pow(x, e).shape).flatten(), e.expand(torch.pow(x, e).shape).flatten(),
        strict=True,
    )]  # fmt: skip
    assert fusedgrad.pow(x, e).flatten().tolist() == expected


@pytest.mark.parametrize("first", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_pow_of_two_layouts_has_pytorchs_strides(first: Callable[[], Tensor]) -> None:
    x = first()
    e = torch.rand(x.shape).transpose(0, -1).contiguous().transpose(0, -1) if x.dim() else x
    assert form(fusedgrad.pow(x, e)) == form(torch.pow(x, e))
    assert form(fusedgrad.pow(e, x)) == form(torch.pow(e, x))


@pytest.mark.parametrize("default", [torch.float32, torch.float64, torch.float16], ids=str)
@unary
@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_type_promotion_is_pytorchs(
    dtype: torch.dtype, ours: Call, theirs: Call, default: torch.dtype
) -> None:
    torch.set_default_dtype(default)
    for x in (torch.ones(3, dtype=dtype), torch.ones((), dtype=dtype)):
        assert outcome(ours, x) == outcome(theirs, x)


@pytest.mark.parametrize("right", ALL_DTYPES, ids=str)
@pytest.mark.parametrize("left", ALL_DTYPES, ids=str)
def test_type_promotion_of_pow_of_two_tensors_is_pytorchs(
    left: torch.dtype, right: torch.dtype
) -> None:
    for shapes in itertools.product([(3,), ()], repeat=2):
        x, e = torch.ones(shapes[0], dtype=left), torch.ones(shapes[1], dtype=right)
        assert outcome(fusedgrad.pow, x, e) == outcome(torch.pow, x, e)


@pytest.mark.parametrize("number", [True, 2, 2.0, 2.5, 2j], ids=repr)
@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_type_promotion_of_pow_with_a_number_is_pytorchs(
    dtype: torch.dtype, number: complex
) -> None:
    for x in (torch.ones(3, dtype=dtype), torch.ones((), dtype=dtype)):
        assert outcome(fusedgrad.pow, x, number) == outcome(torch.pow, x, number)
        assert outcome(fusedgrad.pow, number, x) == outcome(torch.pow, number, x)


@pytest.mark.parametrize("number", [np.float64(2.5), np.float32(2.5), np.int64(2)], ids=repr)
def test_pow_takes_numpy_numbers(number: Any) -> None:
    x = torch.tensor([4.0])
    assert fusedgrad.pow(x, number).item() == 4.0 ** float(number)


@losses
@pytest.mark.parametrize("target", ALL_DTYPES, ids=str)
@pytest.mark.parametrize("input", ALL_DTYPES, ids=str)
def test_type_promotion_of_losses_is_pytorchs(
    input: torch.dtype, target: torch.dtype, ours: Call, theirs: Call
) -> None:
    x, t = torch.ones(3, dtype=input), torch.ones(3, dtype=target)
    assert outcome(ours, x, t) == outcome(theirs, x, t)


@losses
@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_type_promotion_of_weights_is_pytorchs(
    dtype: torch.dtype, ours: Call, theirs: Call
) -> None:
    x, w = torch.full((3,), 0.5), torch.ones(3, dtype=dtype)
    names = ["weight", "pos_weight"] if ours is LOSSES["logits"][0] else ["weight"]
    for name in names:
        assert outcome(ours, x, x, **{name: w}) == outcome(theirs, x, x, **{name: w})


def test_complex_target_of_logits_gives_the_loss_of_each_part() -> None:
    x, t = torch.tensor([0.5, -2.0]), torch.tensor([0.25 + 1j, 1.0])
    ours = fusedgrad.binary_cross_entropy_with_logits(x, t, reduction="none")
    theirs = F.binary_cross_entropy_with_logits(x, t, reduction="none")
    torch.testing.assert_close(ours, theirs)


# values


@every_dtype
def test_values_are_exact_in_both_tails(dtype: torch.dtype) -> None:
    x = torch.tensor([-80.0, -9.0, -1.0, -1e-4, 0.0, 1e-4, 0.3, 5.0, 9.0, 80.0], dtype=dtype)
    bound = 2.5 if dtype not in HALF_DTYPES else 0.52
    for function, exact in ((fusedgrad.sigmoid, sigmoid), (fusedgrad.tanh, mp.tanh)):
        assert largest_ulp_error(function(x), exact_values(exact, x)) <= bound


@every_dtype
@pytest.mark.parametrize("exponent", [2, 3, 0.5, -0.5, -1, -2, 2.5, 1 / 3, 10, -7.3])
def test_powers_are_exact(exponent: float, dtype: torch.dtype) -> None:
    x = torch.tensor([0.3, 0.5, 1.0, 1.7, 2.0, 2.9], dtype=dtype)
    # A number that is no number of the dtype is rounded to the one computed in, as in PyTorch.
    computed = torch.tensor(exponent, dtype=torch.promote_types(dtype, torch.float32)).item()
    exact = exact_values(lambda x: x ** mpf(computed), x)
    bound = 2.5 if dtype not in HALF_DTYPES else 0.52
    assert largest_ulp_error(fusedgrad.pow(x, exponent), exact) <= bound


@every_dtype
@pytest.mark.parametrize("target", [0.0, 0.25, 1.0])
def test_losses_are_exact_in_both_tails(target: float, dtype: torch.dtype) -> None:
    x = torch.tensor([-80.0, -8.0, -0.5, 0.0, 0.5, 8.0, 80.0], dtype=dtype)
    w, p = torch.full_like(x, 1.5), torch.full_like(x, 3.0)
    t = torch.full_like(x, target)
    bound = 3 if dtype not in HALF_DTYPES else 0.52
    plain = fusedgrad.binary_cross_entropy_with_logits(x, t, reduction="none")
    assert largest_ulp_error(plain, exact_values(loss_of_logits, x, t)) <= bound
    weighted = fusedgrad.binary_cross_entropy_with_logits(x, t, w, pos_weight=p, reduction="none")
    assert largest_ulp_error(weighted, exact_values(loss_of_logits, x, t, w, p)) <= bound


@every_dtype
@pytest.mark.parametrize("target", [0.0, 0.25, 1.0])
def test_losses_of_probabilities_are_exact(target: float, dtype: torch.dtype) -> None:
    p = torch.tensor([1e-3, 0.25, 0.5, 0.75, 0.99], dtype=dtype)
    t, w = torch.full_like(p, target), torch.full_like(p, 1.5)
    bound = 3 if dtype not in HALF_DTYPES else 0.52
    value = fusedgrad.binary_cross_entropy(p, t, w, reduction="none")
    assert largest_ulp_error(value, exact_values(loss_of_probabilities, p, t, w)) <= bound


@pytest.mark.parametrize("sign", [1, -1])
@every_dtype
def test_zero_and_infinity_and_nan(dtype: torch.dtype, sign: int) -> None:
    x = torch.tensor([0.0, INF, NAN], dtype=dtype) * sign
    s, h = fusedgrad.sigmoid(x).tolist(), fusedgrad.tanh(x).tolist()
    assert s[:2] == [0.5, max(sign, 0)]
    assert h[:2] == [0.0, sign]
    assert math.copysign(1, h[0]) == sign  # tanh(-0.0) is -0.0
    assert math.isnan(s[2])
    assert math.isnan(h[2])


SPECIAL = (0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 3.0, -3.0, 2.5, INF, -INF, NAN)


def same(a: float, b: float) -> bool:
    """Equal with the sign of zero, or both NaN."""
    return (a == b and math.copysign(1, a) == math.copysign(1, b)) or (a != a and b != b)


@every_dtype
def test_special_cases_of_pow_are_those_of_c(dtype: torch.dtype) -> None:
    pairs = list(itertools.product(SPECIAL, repeat=2))
    x = torch.tensor([pair[0] for pair in pairs], dtype=dtype)
    e = torch.tensor([pair[1] for pair in pairs], dtype=dtype)
    with np.errstate(all="ignore"):
        expected = torch.from_numpy(np.power(x.double().numpy(), e.double().numpy())).to(dtype)
    exact = [base in (0, 1, INF) or exponent % 1 == 0 or math.isinf(exponent)
             for base, exponent in ((abs(base), exponent) for base, exponent in pairs)]  # fmt: skip
    wrong = {
        (base, exponent): (ours, theirs)
        for (base, exponent), ours, theirs, is_exact in zip(
            pairs, fusedgrad.pow(x, e).tolist(), expected.tolist(), exact, strict=True
        )
        if is_exact or theirs != theirs
        if not same(ours, theirs)
    }
    assert wrong == {}


@pytest.mark.parametrize("exponent", SPECIAL)
@every_dtype
def test_special_cases_of_pow_with_a_number_are_those_of_c(
    dtype: torch.dtype, exponent: float
) -> None:
    x = torch.tensor(SPECIAL, dtype=dtype)
    by_number = fusedgrad.pow(x, exponent).tolist()
    by_tensor = fusedgrad.pow(x, torch.full_like(x, exponent)).tolist()
    finite = [math.isfinite(v) and v not in (0.0, 1.0, -1.0) for v in by_tensor]
    wrong = {
        base: (number, tensor)
        for base, number, tensor, ordinary in zip(
            SPECIAL, by_number, by_tensor, finite, strict=True
        )
        if not (ordinary or same(number, tensor))
    }
    assert wrong == {}


@every_dtype
def test_infinite_logits_have_no_nan(dtype: torch.dtype) -> None:
    x = torch.tensor([INF, INF, -INF, -INF, INF, -INF], dtype=dtype)
    t = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.5, 0.5], dtype=dtype)
    value = fusedgrad.binary_cross_entropy_with_logits(x, t, reduction="none")
    assert value.tolist() == [0.0, INF, 0.0, INF, INF, INF]


def test_gradient_of_logits_with_targets_of_every_size() -> None:
    sizes = torch.tensor([0.0, 1e-45, 1e-30, 0.3, 0.5, 0.7, 1, 2, -3, 3e38, -3e38])
    x = torch.linspace(-110, 110, 2201).repeat(len(sizes), 1).requires_grad_()
    t = sizes.unsqueeze(1).expand_as(x)
    loss = fusedgrad.binary_cross_entropy_with_logits(x, t, reduction="sum")
    (slope,) = torch.autograd.grad(loss, x)
    wide, target = x.detach().double(), t.double()
    below, above = torch.sigmoid(wide) - target, (1 - target) - torch.sigmoid(-wide)
    exact = torch.where(wide < 0, below, above)
    assert largest_ulp_error(slope, exact.flatten().tolist()) <= 2.5


@every_dtype
def test_weights_of_zero_silence_infinite_logits(dtype: torch.dtype) -> None:
    x = torch.tensor([INF, -INF], dtype=dtype)
    t = torch.tensor([0.0, 1.0], dtype=dtype)
    zero = torch.zeros(2, dtype=dtype)
    loss = fusedgrad.binary_cross_entropy_with_logits
    assert loss(x, t, zero, reduction="none").tolist() == [0.0, 0.0]
    assert loss(x, t, pos_weight=zero, reduction="none").tolist() == [INF, 0.0]


@every_dtype
def test_logarithms_of_probabilities_are_clamped_at_minus_100(dtype: torch.dtype) -> None:
    p = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=dtype)
    t = torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=dtype)
    value = fusedgrad.binary_cross_entropy(p, t, reduction="none")
    assert value.tolist() == [100.0, 100.0, 0.0, 0.0]


# reductions


@losses
@every_dtype
def test_reduction_is_that_of_the_exact_losses(
    dtype: torch.dtype, ours: Call, theirs: Call
) -> None:
    n = 1000
    x, t = torch.rand(n, dtype=dtype).clamp(0.01, 0.98), torch.rand(n, dtype=dtype).round()
    exact = loss_of_logits if ours is LOSSES["logits"][0] else loss_of_probabilities
    total = sum(exact_values(exact, x, t))
    # The sum is accumulated in float64, so that for float64 losses its roundings show.
    bound = {torch.float64: n / 2, torch.float32: 0.52}.get(dtype, 0.52)
    assert largest_ulp_error(ours(x, t, reduction="sum"), [total]) <= bound
    assert largest_ulp_error(ours(x, t, reduction="mean"), [total / n]) <= bound


@losses
def test_mean_of_nothing_is_nan_and_its_sum_zero(ours: Call, theirs: Call) -> None:
    nothing = torch.rand(0, 3)
    assert math.isnan(ours(nothing, nothing).item())
    assert ours(nothing, nothing, reduction="sum").item() == 0.0


def relative_error_of_the_mean(n: int) -> float:
    """Of n float32 losses, against their values summed in float64."""
    x, t = torch.randn(n) * 4, torch.rand(n).round_()
    loss = fusedgrad.binary_cross_entropy_with_logits
    exact = 0.0
    for a, b in zip(x.split(1 << 22), t.split(1 << 22), strict=True):
        exact += loss(a.double(), b.double(), reduction="sum").item()
    error: float = loss(x, t, reduction="mean").item() * n / exact - 1
    return abs(error)


def test_mean_of_ten_million_losses() -> None:
    assert relative_error_of_the_mean(10**7) < 1e-6


@pytest.mark.slow
def test_mean_of_a_hundred_million_losses() -> None:
    assert relative_error_of_the_mean(10**8) < 1e-6


@losses
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_reductions_repeat_bit_for_bit(ours: Call, theirs: Call, threads: int) -> None:
    torch.set_num_threads(threads)
    x, t = torch.rand(300_001), torch.rand(300_001)
    assert len({ours(x, t).item() for _ in range(10)}) == 1


@unary
def test_result_is_the_same_for_any_number_of_threads(ours: Call, theirs: Call) -> None:
    x = torch.rand(300_001)
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(ours(x))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


WORK = {
    "elementwise": "fusedgrad.tanh(x)",
    "reduction": "fusedgrad.binary_cross_entropy_with_logits(x, x)",
}


# In a process of its own: threads once begun stay, and spin for a while, whatever is asked later.
# LLVM's OpenMP, which clang takes, is told nothing by PyTorch, whose own is GNU's: there it is one
# thread or as many as there are cores.
@pytest.mark.parametrize("work", WORK.values(), ids=WORK.keys())
def test_threads_follow_set_num_threads(work: str) -> None:
    program = f"""
import os, torch, fusedgrad
x = torch.rand(1 << 20)
for threads in (1, 3):
    torch.set_num_threads(threads)
    before = len(os.listdir("/proc/self/task"))
    {work}
    print(len(os.listdir("/proc/self/task")) - before)
print("/libomp" in open("/proc/self/maps").read())
"""
    printed = subprocess.check_output([sys.executable, "-c", program], text=True)
    serial, parallel, is_llvm = printed.split()
    others = 2 if is_llvm == "False" else len(os.sched_getaffinity(0)) - 1
    assert (int(serial), int(parallel)) == (0, others)


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("base", [1e300, -1e39, 70_000, 2**60])
def test_a_base_that_overflows_is_infinite(
    base: float, dtype: torch.dtype, requires_grad: bool
) -> None:
    x = torch.tensor([0.5, 2, -1, 0], dtype=dtype, requires_grad=requires_grad)
    torch.testing.assert_close(fusedgrad.pow(base, x), torch.pow(base, x), equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "power",
    [
        lambda x: fusedgrad.pow(1e300, x),
        fusedgrad.fuse(lambda x: 1e300**x),
        lambda x: torch.func.vmap(lambda each: fusedgrad.pow(1e300, each))(x),
    ],
    ids=["pow", "fused", "vmap"],
)
def test_the_logarithm_of_a_base_that_overflows_is_its_own(
    power: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype
) -> None:
    x = torch.tensor([0.0, -0.0, 2.0, -1.0], dtype=dtype, requires_grad=True)
    for _ in range(2):
        found, expected = power(x), torch.pow(1e300, x)
        for _ in range(3):
            torch.testing.assert_close(found, expected)
            (found,), (expected,) = (
                torch.autograd.grad(y.sum(), x, create_graph=True) for y in (found, expected)
            )
    along = (x.detach(),), (torch.ones_like(x),)
    tangents = [torch.func.jvp(f, *along) for f in (power, lambda each: torch.pow(1e300, each))]
    torch.testing.assert_close(*tangents)


@pytest.mark.parametrize(
    "power",
    [
        lambda x: fusedgrad.autograd.Pow.apply(1e300, x),
        torch.compile(lambda x: fusedgrad.pow(1e300, x), backend="eager", fullgraph=True),
    ],
    ids=["Function", "compiled"],
)
def test_a_base_that_overflows_is_infinite_to_others_too(
    power: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    x = torch.tensor([0.5, 2, -1, 0])
    torch.testing.assert_close(power(x), torch.pow(1e300, x))


@pytest.mark.parametrize("wanted", ["exponent", "base", "both"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("base", [2.5, 1e-38, 0.0, -2.0, INF])
def test_bits_of_a_power_do_not_depend_on_the_bases_beside_it(
    base: float, dtype: torch.dtype, wanted: str
) -> None:
    exponents = torch.randn(4096, dtype=dtype) * 6
    one = torch.full((4096,), base, dtype=dtype)
    mixed = one.clone()
    mixed[::512] = 1.25  # of each block of the kernel
    others = torch.arange(4096) % 512 != 0
    results = []
    for bases in (one, mixed):
        leaves = [x.clone().requires_grad_() for x in (bases, exponents)]
        value = fusedgrad.pow(*leaves)
        kept = {"base": leaves[:1], "exponent": leaves[1:], "both": leaves}[wanted]
        slopes = torch.autograd.grad(value.sum(), kept)
        bits = torch.int32 if dtype == torch.float32 else torch.int64
        results.append(torch.stack([value.detach(), *slopes])[:, others].view(bits))
    assert torch.equal(*results)


# out=


@unary
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "expanded"])
def test_out_holds_the_result_whatever_its_layout(ours: Call, theirs: Call, layout: str) -> None:
    out = LAYOUTS[layout]()
    x = torch.rand(out.shape)
    strides = out.stride()
    assert ours(x, out=out) is out
    assert out.stride() == strides
    assert torch.equal(out, ours(x))


@unary
def test_out_may_be_the_input(ours: Call, theirs: Call) -> None:
    x = torch.rand(100)
    expected = ours(x)
    ours(x, out=x)
    assert torch.equal(x, expected)


@unary
@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
@pytest.mark.parametrize("result", [torch.float32, torch.int64, torch.complex64], ids=str)
def test_out_is_cast_as_pytorchs(
    ours: Call, theirs: Call, dtype: torch.dtype, result: torch.dtype
) -> None:
    x = torch.ones(3, dtype=result)
    expected = outcome(theirs, x, out=torch.empty(3, dtype=dtype))
    assert outcome(ours, x, out=torch.empty(3, dtype=dtype)) == expected


@unary
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_out_of_another_shape_is_resized_with_pytorchs_warning(
    ours: Call, theirs: Call, dtype: torch.dtype
) -> None:
    x, out = torch.rand(3, dtype=dtype), torch.empty(2, dtype=dtype)
    torch.set_warn_always(True)
    with pytest.warns(UserWarning, match="An output with one or more elements was resized"):
        ours(x, out=out)
    assert torch.equal(out, ours(x))


@unary
def test_empty_out_is_resized_silently(ours: Call, theirs: Call) -> None:
    x, out = torch.rand(3), torch.empty(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours(x, out=out)
    assert torch.equal(out, ours(x))


def test_out_of_pow_of_two_tensors() -> None:
    x, e = torch.rand(3, 1), torch.rand(4)
    out = torch.empty(4, 3).t()
    fusedgrad.pow(x, e, out=out)
    assert torch.equal(out, fusedgrad.pow(x, e))


def test_out_is_written_where_no_gradient_is_recorded() -> None:
    x = torch.rand(3, requires_grad=True)
    out = torch.empty(3)
    with torch.no_grad():
        fusedgrad.sigmoid(x, out=out)
    assert torch.equal(out, fusedgrad.sigmoid(x.detach()))


# what records a gradient and what does not

SETTINGS: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "grad": contextlib.nullcontext,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
}


@unary
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize("requires_grad", [True, False])
def test_result_requires_grad_where_pytorchs_does(
    ours: Call,
    theirs: Call,
    setting: Callable[[], contextlib.AbstractContextManager[Any]],
    requires_grad: bool,
) -> None:
    x = torch.rand(3, requires_grad=requires_grad)
    with setting():
        assert ours(x).requires_grad == theirs(x).requires_grad
        assert ours(x).is_inference() == theirs(x).is_inference()


@losses
def test_loss_requires_grad_if_any_argument_does(ours: Call, theirs: Call) -> None:
    for i in range(3):
        arguments = [torch.full((3,), 0.5, requires_grad=i == j) for j in range(3)]
        assert ours(*arguments).requires_grad
    assert not ours(*(argument.detach() for argument in arguments)).requires_grad


# protocols


class Tagged(Tensor):
    """A subclass that notes the functions it is given to."""

    calls: list[Any] = []  # noqa: RUF012

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.calls.append(func)
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.fixture
def calls() -> Iterator[list[Any]]:
    Tagged.calls.clear()
    yield Tagged.calls
    Tagged.calls.clear()


def test_subclasses_see_the_call_and_are_returned(calls: list[Any]) -> None:
    x = torch.full((3,), 0.5).as_subclass(Tagged)
    cases: list[tuple[Call, tuple[Any, ...]]] = [
        (fusedgrad.sigmoid, (x,)),
        (fusedgrad.tanh, (x,)),
        (fusedgrad.pow, (x, 2)),
        (fusedgrad.binary_cross_entropy, (x, x)),
        (fusedgrad.binary_cross_entropy_with_logits, (x, x)),
    ]
    for function, arguments in cases:
        calls.clear()
        assert isinstance(function(*arguments), Tagged)
        assert calls[0] is function


def test_parameters_give_plain_tensors() -> None:
    assert type(fusedgrad.sigmoid(torch.nn.Parameter(torch.rand(3)))) is Tensor


def test_meta_tensors_have_shapes_only() -> None:
    x = torch.empty(2, 3, device="meta", dtype=torch.bfloat16)
    for result in (fusedgrad.sigmoid(x), fusedgrad.tanh(x), fusedgrad.pow(x, 2.5)):
        assert (result.device.type, result.shape, result.dtype) == ("meta", x.shape, x.dtype)


# signatures


def test_losses_take_the_deprecated_arguments_of_pytorch() -> None:
    x = torch.rand(3)
    for ours, theirs in LOSSES.values():
        with pytest.warns(UserWarning, match="size_average and reduce args will be deprecated"):
            value = ours(x, x, None, False, True)
        torch.testing.assert_close(value, theirs(x, x, reduction="sum"))


def test_positional_reduction_is_not_taken_for_size_average() -> None:
    x = torch.rand(3)
    for ours, _ in LOSSES.values():
        with pytest.raises(TypeError, match="pass reduction='none' by keyword"):
            ours(x, x, None, "none")


def test_show_config_names_versions_and_instruction_sets() -> None:
    text = fusedgrad.show_config()
    assert f"fusedgrad {fusedgrad.__version__}" in text
    assert f"torch: {torch.__version__}, built against " in text
    assert any(f"CPU: {name} in use" in text for name in ("baseline", "avx2", "avx512"))
    assert "CUDA: " in text
    assert ("CUDA device: none" in text) == (not torch.cuda.is_available())


WRITES: dict[str, tuple[Call, Call]] = {
    "sigmoid": (lambda x, o: fusedgrad.sigmoid(x, out=o), lambda x, o: torch.sigmoid(x, out=o)),
    "tanh": (lambda x, o: fusedgrad.tanh(x, out=o), lambda x, o: torch.tanh(x, out=o)),
    "pow": (lambda x, o: fusedgrad.pow(x, 2, out=o), lambda x, o: torch.pow(x, 2, out=o)),
    "pow of a number": (
        lambda x, o: fusedgrad.pow(2.0, x, out=o),
        lambda x, o: torch.pow(2.0, x, out=o),
    ),
    "pow of tensors": (
        lambda x, o: fusedgrad.pow(x, x, out=o),
        lambda x, o: torch.pow(x, x, out=o),
    ),
}


@pytest.mark.parametrize("who", ["fusedgrad", "patched()"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("name", WRITES)
def test_out_counts_as_a_write(name: str, who: str, dtype: torch.dtype) -> None:
    ours, theirs = WRITES[name]
    saved = torch.full((3,), 2.0, dtype=dtype, requires_grad=True) * 1
    product = (saved * saved).sum().abs()
    with torch.no_grad(), fusedgrad.patched() if who != "fusedgrad" else torch.no_grad():
        (ours if who == "fusedgrad" else theirs)(torch.ones(3, dtype=dtype), saved)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


@pytest.mark.parametrize("name", WRITES)
def test_out_of_inference_is_not_written_outside_of_it(name: str) -> None:
    with torch.inference_mode():
        frozen = torch.full((3,), 7.0)
    with pytest.raises(RuntimeError, match="Inplace update to inference tensor"):
        WRITES[name][0](torch.ones(3), frozen)
    assert frozen.tolist() == [7.0] * 3
    with torch.inference_mode():
        WRITES[name][0](torch.ones(3), frozen)
    assert frozen[0] != 7

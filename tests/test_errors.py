"""Bad input gets PyTorch's type of error, and a message that names what was expected."""

# mypy: disable-error-code="no-untyped-call"

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fusedgrad

X = torch.full((3,), 0.5)
LONG = torch.arange(3)
GRAD = X.clone().requires_grad_()

LOSS, THEIR_LOSS = fusedgrad.binary_cross_entropy, F.binary_cross_entropy
LOGITS, THEIR_LOGITS = (
    fusedgrad.binary_cross_entropy_with_logits,
    F.binary_cross_entropy_with_logits,
)

OUTSIDE_TARGET = "all elements of target should be between 0 and 1"
OUTSIDE = "all elements of input should be between 0 and 1"
INTEGERS = "input has dtype torch.int64, expected float64"

# what is wrong: our call, PyTorch's, the arguments, what the message says
CASES: dict[
    str, tuple[Callable[..., Any], Callable[..., Any], tuple[Any, ...], dict[str, Any], str]
]
CASES = {
    "sigmoid of a number": (
        fusedgrad.sigmoid, torch.sigmoid, (1.0,), {}, r"sigmoid.*'input' must be Tensor, not float",
    ),
    "tanh of a list": (
        fusedgrad.tanh, torch.tanh, ([1.0],), {}, r"tanh.*'input' must be Tensor, not list",
    ),
    "out is not a tensor": (
        fusedgrad.tanh, torch.tanh, (X,), {"out": 3}, r"tanh.*'out' must be Tensor, not int",
    ),
    "two numbers to pow": (
        fusedgrad.pow, torch.pow, (2, 3.0), {}, r"must be a Tensor, got int and float",
    ),
    "pow of a string": (
        fusedgrad.pow, torch.pow, (X, "2"), {}, r"'exponent' must be Tensor or Number, not str",
    ),
    "pow of a list": (
        fusedgrad.pow, torch.pow, ([2], X), {}, r"'input' must be Tensor or Number, not list",
    ),
    "integers to a negative power": (
        fusedgrad.pow, torch.pow, (LONG, -1), {},
        r"exponent is -1, expected >= 0 .*int64: Integers to negative integer powers",
    ),
    "bool to a bool tensor": (
        fusedgrad.pow, torch.pow, (X > 0, X > 0), {}, r"not implemented for 'Bool'",
    ),
    "shapes that do not broadcast": (
        fusedgrad.pow, torch.pow, (X, torch.rand(2)), {},
        r"The size of tensor a \(3\) must match the size of tensor b \(2\)",
    ),
    "out of an integer dtype": (
        fusedgrad.sigmoid, torch.sigmoid, (X,), {"out": torch.empty(3, dtype=torch.int64)},
        r"sigmoid.*out has dtype torch.int64, which the result's torch.float32 can't be cast to",
    ),
    "out of a real dtype for a complex result": (
        fusedgrad.tanh, torch.tanh, (X + 1j,), {"out": torch.empty(3)},
        r"tanh.*out has dtype torch.float32, which the result's torch.complex64 can't be cast to",
    ),
    "out of an integer dtype for pow": (
        fusedgrad.pow, torch.pow, (X, 2.5), {"out": torch.empty(3, dtype=torch.int64)},
        r"pow.*out has dtype torch.int64",
    ),
    "out that requires grad": (
        fusedgrad.pow, torch.pow, (X, 2), {"out": GRAD}, r"pow\(\): out requires grad",
    ),
    "out with an input that requires grad": (
        fusedgrad.sigmoid, torch.sigmoid, (GRAD,), {"out": torch.empty(3)},
        r"sigmoid\(\): an input requires grad",
    ),
    "out whose elements are one": (
        fusedgrad.sigmoid, torch.sigmoid, (X,), {"out": torch.empty(1).expand(3)},
        r"more than one element of the written-to tensor refers to a single memory location",
    ),
    "out that overlaps the input": (
        fusedgrad.tanh, torch.tanh, ((_six := torch.rand(6))[:5],), {"out": _six[1:]},
        r"some elements of the input tensor and the written-to tensor refer to a single memory",
    ),
    "float8": (
        fusedgrad.sigmoid, torch.sigmoid, (X.to(torch.float8_e5m2),), {},
        r"not implemented for 'Float8",
    ),
    "probability above 1": (
        LOSS, THEIR_LOSS, (X * 3, X), {}, OUTSIDE,
    ),
    "probability below 0": (
        LOSS, THEIR_LOSS, (-X, X), {}, OUTSIDE,
    ),
    "probability NaN": (
        LOSS, THEIR_LOSS, (X * float("nan"), X), {}, OUTSIDE,
    ),
    "one probability of many outside": (
        LOSS, THEIR_LOSS, (torch.cat([torch.rand(70001), X * 3]), torch.rand(70004)),
        {"reduction": "none"}, OUTSIDE,
    ),
    "probability outside that needs a gradient": (
        LOSS, THEIR_LOSS, ((X * 3).requires_grad_(), X), {},
        OUTSIDE,
    ),
    "target above 1": (
        LOSS, THEIR_LOSS, (X, X * 3), {}, OUTSIDE_TARGET,
    ),
    "target below 0": (
        LOSS, THEIR_LOSS, (X, -X), {"reduction": "sum"}, OUTSIDE_TARGET,
    ),
    "target NaN": (
        LOSS, THEIR_LOSS, (X, X * float("nan")), {"weight": X}, OUTSIDE_TARGET,
    ),
    "one target of many outside": (
        LOSS, THEIR_LOSS, (torch.rand(70004), torch.cat([torch.rand(70001), X * 3])),
        {"reduction": "none"}, OUTSIDE_TARGET,
    ),
    "target of another dtype": (
        LOSS, THEIR_LOSS, (X, X.double()), {},
        r"target has dtype torch.float64, expected the dtype of input, torch.float32",
    ),
    "probabilities of an integer dtype": (
        LOSS, THEIR_LOSS, (LONG // 3, LONG // 3), {}, INTEGERS,
    ),
    "complex probabilities": (
        LOSS, THEIR_LOSS, (X + 0j, X + 0j), {}, r"dtype torch.complex64, expected float64",
    ),
    "logits of an integer dtype": (
        LOGITS, THEIR_LOGITS, (LONG, X), {}, INTEGERS,
    ),
    "target of an integer dtype": (
        LOGITS, THEIR_LOGITS, (X, LONG), {},
        r"target has dtype torch.int64, expected a floating-point one",
    ),
    "pos_weight of dtype bool": (
        LOGITS, THEIR_LOGITS, (X, X), {"pos_weight": X > 0},
        r"pos_weight has dtype torch.bool, .* the dtype of input, torch.float32",
    ),
    "pos_weight that is a number": (
        LOGITS, THEIR_LOGITS, (X, X), {"pos_weight": 2.0},
        r"'pos_weight' must be Tensor, not float",
    ),
    "weight that is a number": (
        LOGITS, THEIR_LOGITS, (X, X), {"weight": 2.0}, r"'weight' must be Tensor, not float",
    ),
    "pos_weight of a larger shape": (
        LOGITS, THEIR_LOGITS, (X, X), {"pos_weight": torch.rand(2, 3)},
        r"pos_weight has size \(2, 3\), expected one that broadcasts to the size of input, \(3,\)",
    ),
}  # fmt: skip

for _name, _ours, _theirs in (
    ("probabilities", LOSS, THEIR_LOSS),
    ("logits", LOGITS, THEIR_LOGITS),
):
    CASES |= {
        f"unknown reduction of {_name}": (
            _ours, _theirs, (X, X), {"reduction": "average"},
            r"reduction is 'average', expected 'none', 'mean' or 'sum'",
        ),
        f"no reduction of {_name}": (
            _ours, _theirs, (X, X), {"reduction": None}, r"reduction is None, expected 'none'",
        ),
        f"target of another shape for {_name}": (
            _ours, _theirs, (X, X[None]), {},
            r"target has size \(1, 3\), expected the size of input, \(3,\)",
        ),
        f"weight that does not broadcast for {_name}": (
            _ours, _theirs, (X, X), {"weight": torch.rand(2)},
            r"weight has size \(2,\), expected one that broadcasts to the size of input, \(3,\)",
        ),
        f"weight of a larger shape for {_name}": (
            _ours, _theirs, (X, X), {"weight": torch.rand(2, 3)},
            r"weight has size \(2, 3\), expected one that broadcasts to the size of input, \(3,\)",
        ),
        f"complex weight for {_name}": (
            _ours, _theirs, (X, X), {"weight": X + 0j},
            r"weight has dtype torch.complex64, .* the dtype of input, torch.float32",
        ),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("ours", "theirs", "arguments", "keywords", "message"), CASES.values(), ids=CASES.keys()
)
def test_error_is_pytorchs_and_says_what_was_expected(
    ours: Callable[..., Any],
    theirs: Callable[..., Any],
    arguments: tuple[Any, ...],
    keywords: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(Exception) as expected:  # noqa: PT011
        theirs(*arguments, **keywords)
    with pytest.raises(expected.type, match=message) as raised:
        ours(*arguments, **keywords)
    assert raised.type is expected.type


@pytest.mark.parametrize("function", [LOSS, LOGITS])
@pytest.mark.parametrize("position", ["input", "target"])
def test_loss_of_what_is_no_tensor_is_a_type_error(
    function: Callable[..., Tensor], position: str
) -> None:
    # PyTorch's own is an AttributeError about the missing attribute 'size'.
    arguments: dict[str, Any] = {"input": X, "target": X, position: 0.5}
    with pytest.raises(TypeError, match=f"'{position}' must be Tensor, not float"):
        function(**arguments)


def test_weight_of_probabilities_that_is_a_number_is_a_type_error() -> None:
    weight: Any = 2.0
    with pytest.raises(TypeError, match="'weight' must be Tensor, not float"):
        LOSS(X, X, weight)


def test_exponent_beyond_64_bits_is_refused() -> None:
    with pytest.raises((OverflowError, RuntimeError)):
        fusedgrad.pow(X, 2**70)


def test_missing_extension_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib
    import sys

    monkeypatch.setitem(sys.modules, "fusedgrad._C", None)
    with pytest.raises(ImportError, match=r"fusedgrad\._C, is missing or was built for another"):
        importlib.reload(fusedgrad)

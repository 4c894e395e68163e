"""Every derivative of the two notebooks: the exact value, and what each library answers.

The first notebook differentiates compositions at x = 3, z = 2; the second follows one logistic
loss back through sigma = sigmoid(z) and z = w1 x1 + w2 x2 + b.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import mpmath
import torch
from mpmath import mp, mpf

from benchmarks.contenders import FUSEDGRAD, TORCH, Contender

DIGITS = 50
DTYPES = (torch.float64, torch.float32)


def ulp_error(value: float, exact: mpf, dtype: torch.dtype) -> float:
    """Distance from `value` to `exact` in units in the last place of `dtype` at `exact`."""
    info = torch.finfo(dtype)
    _, exponent = mpmath.frexp(max(abs(exact), mpf(info.tiny)))
    return float(abs(mpf(value) - exact) / mpmath.ldexp(mpf(info.eps), int(exponent) - 1))


@dataclass(frozen=True)
class Derivative:
    """One row: a derivative, its exact value, and how a library computes it in a dtype."""

    expression: str
    name: str
    exact: mpf
    compute: Callable[[Contender, torch.dtype], float]


@dataclass(frozen=True)
class Answer:
    """What one library gives for a derivative in one dtype."""

    contender: str
    dtype: torch.dtype
    value: float
    ulp: float


def sigmoid_derivative(x: mpf) -> mpf:
    return mp.exp(-x) / (1 + mp.exp(-x)) ** 2


def tanh_derivative(x: mpf) -> mpf:
    return 4 / (mp.exp(x) + mp.exp(-x)) ** 2


def calculus() -> Iterator[Derivative]:
    """The first notebook, at x = 3 and z = 2."""
    x, z = mpf(3), mpf(2)
    sigmoid = 1 / (1 + mp.exp(-(x**2)))

    def derivative(
        expression: str,
        name: str,
        exact: mpf,
        function: Callable[[Contender, torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> Derivative:
        def compute(library: Contender, dtype: torch.dtype) -> float:
            inputs = {
                "x": torch.tensor(3.0, dtype=dtype, requires_grad=True),
                "z": torch.tensor(2.0, dtype=dtype, requires_grad=True),
            }
            y = function(library, inputs["x"], inputs["z"])
            return torch.autograd.grad(y, inputs[name.removeprefix("dy/d")])[0].item()

        return Derivative(expression, name, exact, compute)

    yield derivative("x", "dy/dx", mpf(1), lambda lib, x, z: x)
    yield derivative("x**2", "dy/dx", 2 * x, lambda lib, x, z: lib.pow(x, 2))
    yield derivative(
        "x**2 + x**3",
        "dy/dx",
        2 * x + 3 * x**2,
        lambda lib, x, z: lib.pow(x, 2) + lib.pow(x, 3),
    )
    yield derivative(
        "sigmoid(x**2) + tanh(x**3)",
        "dy/dx",
        sigmoid_derivative(x**2) * 2 * x + tanh_derivative(x**3) * 3 * x**2,
        lambda lib, x, z: lib.sigmoid(lib.pow(x, 2)) + lib.tanh(lib.pow(x, 3)),
    )

    def two_variables(lib: Contender, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return lib.sigmoid(lib.pow(x, 2) + z) + lib.tanh(lib.pow(x, 3) * lib.pow(z, 2))

    outer_sigmoid, outer_tanh = sigmoid_derivative(x**2 + z), tanh_derivative(x**3 * z**2)
    yield derivative(
        "sigmoid(x**2 + z) + tanh(x**3 * z**2)",
        "dy/dx",
        outer_sigmoid * 2 * x + outer_tanh * 3 * x**2 * z**2,
        two_variables,
    )
    yield derivative(
        "sigmoid(x**2 + z) + tanh(x**3 * z**2)",
        "dy/dz",
        outer_sigmoid + outer_tanh * 2 * x**3 * z,
        two_variables,
    )
    yield derivative(
        "tanh(x + sigmoid(x**2))",
        "dy/dx",
        tanh_derivative(x + sigmoid) * (1 + sigmoid_derivative(x**2) * 2 * x),
        lambda lib, x, z: lib.tanh(x + lib.sigmoid(lib.pow(x, 2))),
    )


def logistic_chain(library: Contender, dtype: torch.dtype, fused: bool) -> dict[str, float]:
    """Derivatives along the second notebook's chain, at x = (1, 2), w = (2, 1), b = 1, y = 1.

    `fused` takes the loss from z directly; otherwise it goes through sigma = sigmoid(z).
    """
    x = torch.tensor([1.0, 2.0], dtype=dtype)
    w = torch.tensor([2.0, 1.0], dtype=dtype, requires_grad=True)
    b = torch.tensor([1.0], dtype=dtype, requires_grad=True)
    y = torch.tensor([1.0], dtype=dtype)
    z = w.dot(x) + b
    if fused:
        along = {"dL/dz": z}
        loss = library.binary_cross_entropy_with_logits(z, y)
    else:
        sigma = library.sigmoid(z)
        along = {"dL/dsigma": sigma, "dL/dz": z}
        loss = library.binary_cross_entropy(sigma, y)
    along |= {"dL/db": b, "dL/dw": w}
    gradients = dict(zip(along, torch.autograd.grad(loss, list(along.values())), strict=True))
    dw1, dw2 = gradients.pop("dL/dw").tolist()
    return {name: g.item() for name, g in gradients.items()} | {"dL/dw1": dw1, "dL/dw2": dw2}


def logistic() -> Iterator[Derivative]:
    """The second notebook, in both spellings of the loss."""
    x1, x2, w1, w2, b, y = (mpf(v) for v in (1, 2, 2, 1, 1, 1))
    z = w1 * x1 + w2 * x2 + b
    sigma = 1 / (1 + mp.exp(-z))
    dsigma = -(y / sigma - (1 - y) / (1 - sigma))
    dz = dsigma * sigmoid_derivative(z)
    exact = {"dL/dsigma": dsigma, "dL/dz": dz, "dL/db": dz, "dL/dw1": x1 * dz, "dL/dw2": x2 * dz}

    def derivative(expression: str, name: str, fused: bool) -> Derivative:
        return Derivative(
            expression,
            name,
            exact[name],
            lambda library, dtype: logistic_chain(library, dtype, fused)[name],
        )

    for name in exact:
        yield derivative("L = bce(sigmoid(z), 1)", name, fused=False)
    for name in exact:
        if name != "dL/dsigma":  # the fused spelling has no sigma
            yield derivative("L = bce_with_logits(z, 1)", name, fused=True)


def table() -> list[tuple[Derivative, list[Answer]]]:
    """Every derivative with both libraries' answers in both dtypes."""
    with mp.workdps(DIGITS):
        return [
            (
                row,
                [
                    Answer(
                        library.name,
                        dtype,
                        value := row.compute(library, dtype),
                        ulp_error(value, row.exact, dtype),
                    )
                    for dtype in DTYPES
                    for library in (FUSEDGRAD, TORCH)
                ],
            )
            for row in (*calculus(), *logistic())
        ]


def show() -> None:
    """Prints the table, one row for each derivative."""
    digits = {torch.float64: 17, torch.float32: 9}
    print("Each derivative of the two notebooks (x = 3, z = 2; the chain: z = 5, label 1).")
    print(
        "ULP: distance of the answer before it from the exact value, in its dtype's last place.\n"
    )
    heading = f"{'expression':38}{'':11}{'exact (mpmath)':23}"
    for dtype in DTYPES:
        for library in (FUSEDGRAD, TORCH):
            title = f"{library.name} {str(dtype).removeprefix('torch.')}"
            heading += f"{title:{digits[dtype] + 7}}{'ULP':>8}  "
    print(heading.rstrip())
    for row, answers in table():
        line = f"{row.expression:38}{row.name:11}{mpmath.nstr(row.exact, 17):23}"
        for answer in answers:
            precision = digits[answer.dtype]
            line += f"{answer.value:<{precision + 7}.{precision}g}{answer.ulp:8,.1f}  "
        print(line.rstrip())

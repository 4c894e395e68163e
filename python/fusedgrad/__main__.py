"""`python -m fusedgrad`: what was built, and whether it computes what it must on this machine.

Every operation runs in every dtype on every device at hand, as a user would run it: its value, its
gradients, and the derivative of the first of them. The results are compared with
`fusedgrad.reference` in float64 on the CPU; those of a fused function with its expressions, taken
operation by operation. It ends with status 1 if an error is larger than its bound.

That the formulas are right is the business of the tests: this looks for a broken build, compiler or
device. It takes about ten seconds, most of them in the compiler.
"""

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import fusedgrad
from fusedgrad import activations, reference
from fusedgrad.fuse import Fused, kernel

# In ULP. Gradients whose terms cancel a little and tails in float64 come near; a broken build errs
# by thousands.
BOUNDS = {torch.float64: 64.0, torch.float32: 16.0, torch.bfloat16: 1.0, torch.float16: 1.0}

POINTS = 4099  # several blocks of the vector loops, and a rest


@dataclass(frozen=True)
class Results:
    """What an operation returns, and its derivatives."""

    value: Tensor
    gradients: Sequence[Tensor]  # by every input
    second: Sequence[Tensor] = ()  # the first gradient's derivative by the first input


Function = Callable[..., Results]


@dataclass(frozen=True)
class Operation:
    """How an operation is run on inputs of any dtype, and its exact results on those in float64."""

    name: str
    inputs: Sequence[Tensor]  # float64
    run: Function
    exact: Function


def spread(*values: float) -> Tensor:
    """The values by turns, float64 [POINTS]."""
    return torch.tensor(values, dtype=torch.float64).repeat(POINTS // len(values) + 1)[:POINTS]


LOGITS = torch.linspace(-80, 80, POINTS, dtype=torch.float64)  # exp(-80) is normal in float32
FAR = LOGITS.abs() > 4  # where a soft target lets no gradient vanish
TARGET = torch.where(FAR, spread(0.0, 1.0, 0.25, 0.75), spread(0.0, 1.0))
WEIGHT = spread(0.5, 1.0, 3.0)
POS_WEIGHT = torch.where(FAR, spread(1.0, 0.5, 2.0, 4.0, 8.0), 1.0)
PROBABILITY = torch.where(LOGITS < 0, -LOGITS / 256, 1 - LOGITS / 256).clamp(2.0**-8, 1 - 2.0**-8)
BASE = torch.logspace(-2, 2, POINTS, base=2.0, dtype=torch.float64)
EXPONENT = spread(-3.0, -1.25, 0.5, 2.0, 2.5)
COTANGENT = spread(1.0, -0.5, 1.5, 2.0)  # exact in every dtype
# None is close to a zero of a derivative, next to which float32 keeps no digit.
ACTIVATED = spread(-39, -6, -3.5, -2, -0.5, -0.25, -0.1, 0.1, 0.25, 0.5, 1, 2, 3.5, 6, 39)


def cotangent(output: Tensor) -> Tensor:
    """A gradient of the output."""
    return COTANGENT[: output.numel()].reshape(output.shape).to(output)


def differentiated(call: Callable[..., Tensor]) -> Function:
    """`call` and its derivatives by autograd."""

    def run(*inputs: Tensor) -> Results:
        inputs = tuple(x.detach().requires_grad_() for x in inputs)
        value = call(*inputs)
        gradients = torch.autograd.grad(value, inputs, cotangent(value))
        first, *others = inputs[0], *(x.detach() for x in inputs[1:])
        again = call(first, *others)
        (gradient,) = torch.autograd.grad(again, first, cotangent(value), create_graph=True)
        second = torch.autograd.grad(gradient, first, cotangent(first))
        return Results(value.detach(), gradients, second)

    return run


def of_reference(
    name: str, call: Callable[..., Tensor], inputs: Sequence[Tensor], formula: str, *numbers: int
) -> Operation:
    """Of tensors and numbers; `formula` is its name in `fusedgrad.reference`."""

    def exact(*inputs: Tensor) -> Results:
        value = getattr(reference, formula)(*inputs, *numbers)
        grad, grad_grad = cotangent(value), cotangent(inputs[0])
        everything = [[True] * len(inputs)] if len(inputs) > 1 else []
        firsts = getattr(reference, f"{formula}_backward")(grad, *inputs, *numbers, *everything)
        double_backward = getattr(reference, f"{formula}_double_backward")
        _, second = double_backward(grad_grad, grad, *inputs, *numbers)
        return Results(value, firsts if everything else [firsts], [second])

    return Operation(name, inputs, differentiated(call), exact)


def power_of_number(exponent: float) -> Operation:
    """pow with a number as exponent."""

    def exact(x: Tensor) -> Results:
        grad = cotangent(x)
        first = reference.pow_scalar_backward(grad, x, exponent)
        _, second = reference.pow_scalar_double_backward(grad, grad, x, exponent)
        return Results(reference.pow(x, exponent), [first], [second])

    run = differentiated(lambda x: fusedgrad.pow(x, exponent))
    return Operation(f"pow(x, {exponent:g})", [BASE], run, exact)


def power() -> Operation:
    """pow of two tensors."""

    def exact(x: Tensor, e: Tensor) -> Results:
        grad, none = cotangent(x), torch.zeros_like(x)
        firsts = reference.pow_backward(grad, x, e, (True, True))
        _, second, _ = reference.pow_double_backward(grad, none, grad, x, e)
        return Results(reference.pow(x, e), firsts, [second])

    return Operation("pow(x, y)", [BASE, EXPONENT], differentiated(fusedgrad.pow), exact)


def losses() -> Iterator[Operation]:
    """Both losses, with every weight, in every reduction, and as modules."""
    nn = fusedgrad.nn
    with_logits = "binary_cross_entropy_with_logits"
    logits = [LOGITS, TARGET, WEIGHT, POS_WEIGHT]
    probabilities = [PROBABILITY, TARGET, WEIGHT]
    reductions = {"none": reference.NONE, "mean": reference.MEAN, "sum": reference.SUM}
    for reduction, code in reductions.items():

        def of_logits(x: Tensor, t: Tensor, w: Tensor, p: Tensor, how: str = reduction) -> Tensor:
            return fusedgrad.binary_cross_entropy_with_logits(x, t, w, pos_weight=p, reduction=how)

        def of_probabilities(p: Tensor, t: Tensor, w: Tensor, how: str = reduction) -> Tensor:
            return fusedgrad.binary_cross_entropy(p, t, w, reduction=how)

        yield of_reference(f"{with_logits}, {reduction}", of_logits, logits, with_logits, code)
        name = "binary_cross_entropy"
        yield of_reference(f"{name}, {reduction}", of_probabilities, probabilities, name, code)
    yield of_reference(
        "nn.BCEWithLogitsLoss",
        lambda x, t, w, p: nn.BCEWithLogitsLoss(weight=w, pos_weight=p)(x, t),
        logits,
        with_logits,
        reference.MEAN,
    )
    yield of_reference(
        "nn.BCELoss",
        lambda p, t, w: nn.BCELoss(weight=w)(p, t),
        probabilities,
        "binary_cross_entropy",
        reference.MEAN,
    )


def by_operations(function: Fused, *inputs: Tensor) -> list[Tensor]:
    """The value of a fused function and its partial derivatives, without its kernels."""
    graph = function._example().value_and_grad()
    given = function._signature.parameters
    numbers = [given[name.removesuffix("_")].default for name in graph.parameters]
    return kernel.evaluate(graph, inputs, numbers, [torch.float64] * len(graph.outputs))


@fusedgrad.fuse
def gate(x: Tensor, z: Tensor) -> Any:
    """That of recurrent networks: a function that fuse sees for the first time."""
    return fusedgrad.sigmoid(x) * fusedgrad.tanh(z)


def fused_by_user() -> Operation:
    """A fused function's three kernels: value, gradients, a derivative of its own."""

    def run(x: Tensor, z: Tensor) -> Results:
        inputs = [x.detach().requires_grad_(), z.detach().requires_grad_()]
        value = gate(*inputs)
        gradients = torch.autograd.grad(value, inputs, torch.ones_like(value))
        return Results(value.detach(), gradients, [gate.derivative(0, 1)(x, z)])

    def exact(x: Tensor, z: Tensor) -> Results:
        value, *gradients = by_operations(gate, x, z)
        _, second = by_operations(gate.derivative(0), x, z)[1:]
        return Results(value, gradients, [second])

    return Operation("fuse: sigmoid(x) * tanh(z)", [ACTIVATED, ACTIVATED.flip(0)], run, exact)


def activation(name: str) -> Operation:
    """A function of `fusedgrad.activations`: one kernel for its value and gradients."""
    function: Fused = getattr(activations, name)
    first = ACTIVATED.abs() if name == "log1mexp" else ACTIVATED
    is_loss = name.endswith(("_loss", "_entropy"))
    second = spread(0.0, 1.0) if is_loss else ACTIVATED.flip(0)

    def run(*inputs: Tensor) -> Results:
        return Results(*function.value_and_grad(*inputs))

    def exact(*inputs: Tensor) -> Results:
        value, *gradients = by_operations(function, *inputs)
        return Results(value, gradients)

    inputs = [first, second][: len(function._example().inputs)]
    return Operation(f"activations.{name}", inputs, run, exact)


def operations() -> Iterator[Operation]:
    """Everything that computes."""
    yield of_reference("sigmoid", fusedgrad.sigmoid, [LOGITS], "sigmoid")
    yield of_reference("tanh", fusedgrad.tanh, [LOGITS], "tanh")
    yield of_reference("nn.Sigmoid", fusedgrad.nn.Sigmoid(), [LOGITS], "sigmoid")
    yield of_reference("nn.Tanh", fusedgrad.nn.Tanh(), [LOGITS], "tanh")
    yield from map(power_of_number, (2, 3, 0.5, -1, 2.5))
    yield power()
    yield from losses()
    yield fused_by_user()
    yield from map(activation, activations.__all__)


def largest_ulp(values: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """The largest distance of a value from its exact one in units in the last place.

    Infinity where one is infinite or NaN, or far beyond the largest number, and the other is not.
    """
    largest = 0.0
    for value, true in zip(values, exact, strict=True):
        info = torch.finfo(value.dtype)
        wide = value.detach().double().cpu()
        true = torch.where(true.abs() < info.max * (1 + info.eps / 4), true, true.to(value.dtype))
        _, exponent = torch.frexp(true.abs().clamp(min=info.tiny))
        error = (wide - true).abs() / torch.ldexp(torch.full_like(true, info.eps), exponent - 1)
        same = (wide == true) | (wide.isnan() & true.isnan())
        error = torch.where(same, 0.0, error.nan_to_num(torch.inf, torch.inf))
        largest = max(largest, error.max().item())
    return largest


def check(operation: Operation, dtype: torch.dtype, device: str) -> list[float]:
    """The largest errors of the value, the gradients and the second derivative, in ULP."""
    inputs = [x.to(dtype) for x in operation.inputs]
    got = operation.run(*(x.to(device) for x in inputs))
    exact = operation.exact(*(x.double() for x in inputs))
    return [
        largest_ulp([got.value], [exact.value]),
        largest_ulp(got.gradients, exact.gradients),
        largest_ulp(got.second, exact.second),
    ]


def line(operation: Operation, dtype: torch.dtype, device: str) -> tuple[str, bool]:
    """One line of the report, ending in ok or in what failed, and whether it is ok."""
    passed = False
    try:
        errors = check(operation, dtype, device)
    except Exception as error:  # what a broken build or device raises is part of the report
        numbers, verdict = "", f"FAILED: {type(error).__name__}: {error}"
    else:
        numbers = "".join(f"{error:11.3g}" for error in errors)
        passed = max(errors) <= BOUNDS[dtype]
        verdict = "ok" if passed else f"FAILED: more than {BOUNDS[dtype]:g}"
    kind = str(dtype).removeprefix("torch.")
    text = f"{operation.name:<41}{kind:<9}{device:<5}{numbers:<33}  {verdict}"
    return text, passed


def main() -> int:
    """Prints a line for each operation, dtype and device; returns 1 if a check failed, else 0."""
    print(fusedgrad.show_config())
    print(f"{'largest error in ULP':<56}{'value':>10}{'gradients':>11}{'second':>11}")
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    count = failed = 0
    for operation, device, dtype in itertools.product(operations(), devices, BOUNDS):
        text, passed = line(operation, dtype, device)
        print(text)
        count += 1
        failed += not passed
    print(f"{failed} of {count} checks FAILED" if failed else f"all {count} checks passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m benchmarks.accuracy`: the largest errors of fusedgrad and torch, in ULP.

Both libraries run as a user runs them, derivatives by autograd; fusedgrad._C compares the results
with exact values from the C library in a wider type. float32 functions of one variable are scanned
over all 2^32 inputs (torch's over every 251st), half types over all 2^16; float64 and pow over
samples. All of it takes a quarter of an hour on two processors; --stride 251 takes a minute.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks.contenders import FUSEDGRAD, TORCH, Contender
from benchmarks.report import README, conditions, machine, markdown, write_between_markers
from fusedgrad import _C

LIBRARIES = (FUSEDGRAD, TORCH)
TARGETS = (0.0, 1.0, 0.3)
EXPONENTS = (2, 3, 0.5, -0.5, -1, -2, 2.5, 1 / 3, 10, -7.3)
HALF_TYPES = (torch.bfloat16, torch.float16)
HALF_EXPONENT = 2.5  # exact in every half type, so that the libraries compute the same power
INTEGERS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
}
CHUNK = 2**20
TORCH_STRIDE = 251  # torch's errors show in a sample; prime, so that it meets all last digits
SAMPLES = 2**21

Operation = Callable[[Contender, torch.Tensor, torch.Tensor], torch.Tensor]
Inputs = tuple[torch.Tensor, torch.Tensor]  # x and the parameter beside it, of x's shape
Chunk = Callable[[], Inputs]  # made where it is used, since all of them do not fit in memory


@dataclass(frozen=True)
class Function:
    """A value or a derivative, and the name of its exact counterpart in fusedgrad._C."""

    title: str
    exact: str
    operation: Operation  # (library, x, parameter)
    order: int = 0
    by: int = 0  # the derivative is by x (0) or by the parameter (1)

    def __call__(self, library: Contender, x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        if self.order == 0:
            return self.operation(library, x, p)
        inputs = [x.clone(), p.clone()]
        variable = inputs[self.by].requires_grad_()
        result = self.operation(library, *inputs)
        for order in range(1, self.order + 1):
            again = order < self.order
            (result,) = torch.autograd.grad(
                result, variable, torch.ones_like(result), create_graph=again
            )
        return result


def sigmoid(library: Contender, x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    return library.sigmoid(x)


def tanh(library: Contender, x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    return library.tanh(x)


def pow_tensor(library: Contender, x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    return library.pow(x, p)


def pow_scalar(exponent: float) -> Operation:
    return lambda library, x, p: library.pow(x, exponent)


def loss(library: Contender, x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    return library.binary_cross_entropy_with_logits(x, p, reduction="none")


UNARY = [
    Function("sigmoid", "sigmoid", sigmoid),
    Function("sigmoid′", "sigmoid_derivative", sigmoid, 1),
    Function("sigmoid″", "sigmoid_second_derivative", sigmoid, 2),
    Function("tanh", "tanh", tanh),
    Function("tanh′", "tanh_derivative", tanh, 1),
    Function("tanh″", "tanh_second_derivative", tanh, 2),
]
LOSS = [
    Function("BCE with logits", "binary_cross_entropy_with_logits", loss),
    Function("its gradient", "binary_cross_entropy_with_logits_derivative", loss, 1),
]
POW_TENSOR = [
    Function("pow(x, y)", "pow", pow_tensor),
    Function("its derivative by x", "pow_base_derivative", pow_tensor, 1),
    Function("its derivative by y", "pow_exponent_derivative", pow_tensor, 1, by=1),
]


def pow_functions(exponent: float) -> list[Function]:
    operation = pow_scalar(exponent)
    return [
        Function(f"pow(x, {exponent:.3g})", "pow_scalar", operation),
        Function("its derivative", "pow_scalar_base_derivative", operation, 1),
    ]


@dataclass
class Errors:
    """What a function's results are worth over all inputs seen."""

    count: int = 0
    largest: float = 0.0  # in ULP
    misrounded: int = 0
    wrong: int = 0  # NaN, infinity or the opposite sign where it must not be
    zeros: int = 0  # results that are 0 and must not be; counted for half types only

    def add(self, other: "Errors") -> None:
        self.count += other.count
        self.largest = max(self.largest, other.largest)
        self.misrounded += other.misrounded
        self.wrong += other.wrong
        self.zeros += other.zeros


def ulp_errors(name: str, x: torch.Tensor, p: torch.Tensor, result: torch.Tensor) -> _C.Errors:
    """What fusedgrad._C says of the results at x, handed over as bits: numpy has no bfloat16."""
    integer = INTEGERS[x.dtype]
    inputs, results = x.view(integer).numpy(), result.view(integer).numpy()
    dtype = str(x.dtype).removeprefix("torch.")
    return _C.ulp_errors(name, dtype, inputs, results, p.double().numpy())


def compare(function: Function, library: Contender, chunk: Chunk) -> Errors:
    """The errors of the library's results on one chunk. The sign of a zero is not looked at."""
    x, p = chunk()
    result = function(library, x, p).detach()
    found = ulp_errors(function.exact, x, p, result)
    if not found.wrong and x.dtype not in HALF_TYPES:
        return Errors(found.count, found.max_ulp, found.misrounded)
    zero = result == 0
    found = ulp_errors(function.exact, x[~zero], p[~zero], result[~zero])
    # A zero counts as wrong under one sign, or under both if the exact value is no number.
    plus, minus = (
        ulp_errors(function.exact, x[zero], p[zero], sign * torch.zeros_like(x[zero]))
        for sign in (1, -1)
    )
    zeros = plus.misrounded + minus.misrounded
    return Errors(
        count=x.numel(),
        largest=max(found.max_ulp, plus.max_ulp, minus.max_ulp),
        misrounded=found.misrounded + zeros,
        wrong=found.wrong + plus.wrong + minus.wrong - plus.count,
        zeros=zeros,
    )


def measure(function: Function, library: Contender, chunks: Sequence[Chunk]) -> Errors:
    """The errors over all chunks, a thread for each processor."""
    total = Errors()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for errors in pool.map(lambda chunk: compare(function, library, chunk), chunks):
            total.add(errors)
    return total


def every_float32(parameter: float, stride: int) -> list[Chunk]:
    """Every `stride`-th bit pattern."""

    def chunk(start: int) -> Inputs:
        stop = min(start + CHUNK * stride, 2**32)
        x = torch.arange(start, stop, stride).to(torch.int32).view(torch.float32)
        return x, torch.full_like(x, parameter)

    return [partial(chunk, start) for start in range(0, 2**32, CHUNK * stride)]


def every_half(dtype: torch.dtype, parameter: float) -> list[Chunk]:
    x = torch.arange(2**16).to(torch.int16).view(dtype)
    return [lambda: (x, torch.full_like(x, parameter))]


def samples(dtype: torch.dtype, count: int, parameter: float | None = None) -> list[Chunk]:
    """Numbers of every magnitude and, as many, of ordinary ones; without a parameter, its own."""
    generator = torch.Generator().manual_seed(0)
    integer = INTEGERS[dtype]
    limits = torch.iinfo(integer)
    patterns = torch.randint(
        limits.min, limits.max, (count // 2,), dtype=integer, generator=generator
    )
    ordinary = torch.randn(count // 2, dtype=dtype, generator=generator) * 8
    x = torch.cat([patterns.view(dtype), ordinary])
    if parameter is None:
        p = torch.randn(count, dtype=dtype, generator=generator) * 4
    else:
        p = torch.full_like(x, parameter)
    size = max(1, min(CHUNK, count // 8))
    return [
        partial(lambda part: (x[part], p[part]), slice(start, start + size))
        for start in range(0, count, size)
    ]


@dataclass(frozen=True)
class Row:
    """A function over a set of inputs, and each library's errors there."""

    title: str
    errors: dict[str, Errors]


def row(
    title: str,
    function: Function,
    chunks: Sequence[Chunk],
    torchs_chunks: Sequence[Chunk] | None = None,
) -> Row:
    print(title, file=sys.stderr)
    errors = {
        FUSEDGRAD.name: measure(function, FUSEDGRAD, chunks),
        TORCH.name: measure(function, TORCH, torchs_chunks or chunks),
    }
    return Row(title, errors)


def worst(title: str, rows: Iterable[Row]) -> Row:
    """One row for several."""
    total = {library.name: Errors() for library in LIBRARIES}
    for part in rows:
        for name, errors in part.errors.items():
            total[name].add(errors)
    return Row(title, total)


def pow_rows(dtype: torch.dtype, count: int) -> Iterator[Row]:
    """The worst over the fixed exponents, and tensor exponents."""
    listed = ", ".join(f"{exponent:.3g}" for exponent in EXPONENTS)
    for index, title in enumerate((f"pow(x, e), e one of {listed}", "its derivative")):
        yield worst(
            title,
            (
                row(f"{dtype} pow {e:.3g}", pow_functions(e)[index], samples(dtype, count, e))
                for e in EXPONENTS
            ),
        )
    for function in POW_TENSOR:
        yield row(function.title, function, samples(dtype, count))


def unary_and_loss() -> Iterator[tuple[str, Function, float]]:
    """Title, function and parameter of each row on one variable."""
    for function in UNARY:
        yield function.title, function, 0.0
    for target in TARGETS:
        for function in LOSS:
            yield f"{function.title}, target {target:g}", function, target


def float32_rows(stride: int, count: int) -> Iterator[Row]:
    for title, function, parameter in unary_and_loss():
        ours, torchs = (every_float32(parameter, s) for s in (stride, max(stride, TORCH_STRIDE)))
        yield row(title, function, ours, torchs)
    yield from pow_rows(torch.float32, count)


def float64_rows(count: int) -> Iterator[Row]:
    for title, function, parameter in unary_and_loss():
        yield row(title, function, samples(torch.float64, count, parameter))
    yield from pow_rows(torch.float64, count)


def half_rows(dtype: torch.dtype) -> Iterator[Row]:
    for title, function, parameter in unary_and_loss():
        yield row(title, function, every_half(dtype, parameter))
    for function in pow_functions(HALF_EXPONENT):
        yield row(function.title, function, every_half(dtype, HALF_EXPONENT))


def largest_text(errors: Errors) -> str:
    form = ".2f" if errors.largest < 1000 else ",.0f" if errors.largest < 1e6 else ".1e"
    text = f"{errors.largest:{form}}"
    return f"{text}, {errors.wrong:,} wrong" if errors.wrong else text


def wide_table(float32: Sequence[Row], float64: Sequence[Row]) -> str:
    heading = ["function"]
    heading += [f"{dtype} {lib.name}" for dtype in ("float32", "float64") for lib in LIBRARIES]
    rows = [
        [single.title]
        + [largest_text(each.errors[lib.name]) for each in (single, double) for lib in LIBRARIES]
        for single, double in zip(float32, float64, strict=True)
    ]
    return markdown(heading, rows)


def half_table(dtype: torch.dtype) -> str:
    heading = [str(dtype).removeprefix("torch.")]
    for library in LIBRARIES:
        heading += [library.name, "not correctly rounded", "wrong zeros"]
    rows = []
    for each in half_rows(dtype):
        cells = [each.title]
        for library in LIBRARIES:
            errors = each.errors[library.name]
            cells += [largest_text(errors), f"{errors.misrounded:,}", f"{errors.zeros:,}"]
        rows.append(cells)
    return markdown(heading, rows)


def report(stride: int, count: int) -> str:
    which = "every input" if stride == 1 else f"one input in {stride:,}"
    which += f" (torch: one in {max(stride, TORCH_STRIDE):,})"
    wide = wide_table(list(float32_rows(stride, count)), list(float64_rows(count)))
    parts = [
        f"Largest error in ULP; float32 over {which}, float64 and pow over {count:,} "
        f'samples. "Wrong" counts NaN, infinities and opposite signs that must not be.',
        wide,
        "Half types, every input; 0.5 is a correctly rounded result.",
        *(half_table(dtype) for dtype in HALF_TYPES),
        f"{conditions(machine())}.",
    ]
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.accuracy")
    parser.add_argument("--stride", type=int, default=1, help="take every n-th float32 only")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="of float64 and of pow")
    parser.add_argument("--write", action="store_true", help="put the tables in README.md")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # the threads are this program's own
    text = report(options.stride, options.samples)
    print(text)
    if options.write:
        write_between_markers("accuracy", text, README)


if __name__ == "__main__":
    main()

"""The errors of every function that fused functions are made of, and of its first two derivatives.

`python -m tools.function_errors --write` puts the largest, with their witnesses, in
docs/accuracy.md; `--samples` says how many numbers of each. The unit is the ULP of the exact value,
from mpmath, over the condition number where that is above 1: what an input's own last place may
change is no fault of the function's.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations_with_replacement
from typing import Any, cast

import mpmath
import torch
from mpmath import mp, mpf

from benchmarks.report import DOCS, markdown, write_between_markers
from fusedgrad.fuse import kernel
from fusedgrad.fuse.expression import Expression, constant, gradients, make
from fusedgrad.fuse.functions import FUNCTIONS, Function
from fusedgrad.fuse.graph import Graph, input_named
from tools.exact_functions import exact

BOUND = 4.0
DTYPES = (torch.float32, torch.float64)
# Derivatives of other functions, which are measured as those, and pieces, which are exact
PARTS = (
    *("sigmoid_derivative", "sigmoid_second_derivative", "tanh_derivative", "silu_derivative"),
    *("tanh_second_derivative", "gelu_derivative", "mish_derivative", "sinc_derivative"),
    *("sinc_second_derivative", "atan_derivative", "erf_derivative", "erfcx_1", "erfcx_2"),
    *("erfinv_derivative", "ndtri_derivative", "bessel_i"),
    *("inverse_mills", "inverse_mills_derivative", "mills_excess", "normal_pdf"),
    *("i1e_derivative", "i1e_second_derivative", "softsign_derivative", "mish_second_derivative"),
    *("cathetus_reciprocal", "erfinv_second_derivative", "exp2_times"),
    *(
        "hypotenuse_slope",
        "hypot_slope",
        "atan2_slope",
        "cathetus",
        "outer_cathetus",
        "one_minus_square",
    ),
    *("log_of_probability", "gap", "bounded", "weighted", "truncated_quotient"),
    *("floored_quotient", "kummer", "signbit", "fmod", "remainder", "copysign", "sign", "round"),
    *("floor", "ceil", "trunc", "hypotenuse"),
)
_UNIT = (-1.0, 1.0)
_PROBABILITY = (0.0, 1.0)
_POSITIVE = (0.0, math.inf)
_ALL = (-math.inf, math.inf)
DOMAINS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("asin", "acos", "atanh", "erfinv"), _UNIT),
    **dict.fromkeys(("logit", "ndtri"), _PROBABILITY),
    **dict.fromkeys(("sqrt", "log", "log2", "log10", "entr"), _POSITIVE),
    "log1p": (-1.0, math.inf),
    "acosh": (1.0, math.inf),
    "xlogy": _POSITIVE,
    "xlog1py": _POSITIVE,
    "i0": (-600, 600),
    "i1": (-600, 600),
    "i0e": (-1e4, 1e4),
    "i1e": (-1e4, 1e4),
    "lgamma": (-50.0, 1e30),
    "polygamma": (-50.0, 1e30),
    "tan": (-1e5, 1e5),
    "sin": (-1e5, 1e5),
    "cos": (-1e5, 1e5),
    "sinc": (-1e5, 1e5),
}
# Where exp(x) would have more digits than mpmath can count, and beyond which all is said
MODERATE = 1e4
# What is so small may be the derivative of something large, of whose digits it takes that many
TINY = 1e-15
DIGITS = 450


# The first derivatives of what is an inverse, sqrt(c pi) exp(b y^2) of the value y
_INVERSES: dict[str, tuple[mpf, mpf]] = {
    "erfinv": (mpf("0.25"), mpf(1)),
    "ndtri": (mpf(2), mpf("0.5")),
}


@dataclass(frozen=True)
class Case:
    """A function or a derivative of it: by the arguments of these numbers, in turn."""

    function: Function
    value: Any
    by: tuple[int, ...]

    @property
    def title(self) -> str:
        name = self.function.name
        if self.function.name == "polygamma":
            name = "digamma" if self.value == 0 else f"polygamma({self.value})"
        if self.function.arity == 1:
            return name + "′" * len(self.by)
        return name + "".join(f", by {'abcd'[i]}" for i in self.by)

    def exact(self, *numbers: mpf) -> mpf:
        function = exact(self.function.name, self.value)
        if not self.by:
            return function(*numbers)
        if self.function.name == "polygamma" and self.function.arity == 1:
            return exact("polygamma", self.value + len(self.by))(*numbers)
        if self.function.name == "lgamma":
            return exact("polygamma", len(self.by) - 1)(*numbers)
        if self.function.name in _INVERSES:
            y = function(*numbers)
            scale, slope = _INVERSES[self.function.name]
            first = mp.sqrt(scale * mp.pi) * mp.exp(slope * y * y)
            return first if len(self.by) == 1 else 2 * slope * y * first**2
        for i in self.by:
            function = _slope(function, i)
        return function(*numbers)

    def condition(self, numbers: tuple[mpf, ...], value: mpf) -> float:
        """How much a relative change of the arguments changes the value, relatively."""
        if value == 0:
            return math.inf
        total = mpf(0)
        for i, number in enumerate(numbers):
            step = abs(number) * mpf(10) ** (-mp.dps // 3)
            if step == 0:
                continue
            moved = [n + step if j == i else n for j, n in enumerate(numbers)]
            total += abs((self.exact(*moved) - value) / step * number / value)
        return float(total)


@dataclass(frozen=True)
class Found:
    """The largest error of a case, over its condition number, and where."""

    case: Case
    error: float
    at: tuple[float, ...]
    got: float
    want: float


def _slope(function: Callable[..., mpf], i: int) -> Callable[..., mpf]:
    """The derivative by an argument, from differences that are small beside it."""

    def slope(*numbers: mpf) -> mpf:
        with mp.workdps(mp.dps + 40):
            step = (abs(numbers[i]) or 1) * mpf(10) ** -20
            above, below = (
                function(*numbers[:i], numbers[i] + by, *numbers[i + 1 :]) for by in (step, -step)
            )
            return (above - below) / (2 * step)

    return slope


def cases() -> Iterator[Case]:
    """Every function, its derivatives and their derivatives."""
    for function in FUNCTIONS:
        if function.name in PARTS or function.arity > 2 or function.is_condition:
            continue
        values = range(3) if function.name == "polygamma" else [None]
        for value in values:
            yield Case(function, value, ())
            for order in (1, 2):
                for by in combinations_with_replacement(range(function.arity), order):
                    yield Case(function, value, by)


def numbers(name: str, dtype: torch.dtype, count: int, seed: int) -> list[float]:
    """Of every size within the domain, most of them where functions move, and its ends."""
    low, high = DOMAINS.get(name, _ALL)
    generator = random.Random(f"{name} {seed}")
    low, high = max(low, -MODERATE if low != 0 else 0), min(high, max(MODERATE, 0))
    found: list[float] = []
    while len(found) < count + 4:
        size = 2.0 ** generator.uniform(-12, 4)
        if generator.random() < 0.25:
            size = 2.0 ** generator.uniform(-100, 13)
        x = generator.choice((-1, 1)) * size
        if generator.random() < 0.3 and math.isfinite(low) and abs(low) < 2:
            x = low + size  # next to an end
        if generator.random() < 0.3 and math.isfinite(high) and abs(high) < 2:
            x = high - size
        if low <= x <= high:
            found.append(x)
    tensor = torch.tensor(found, dtype=torch.float64).to(dtype)
    return [x for x in tensor.tolist() if low < x < high]


Rows = list[tuple[float, ...]]
BATCH = 30  # operands of a kernel


def cases_of(function: Function, value: Any) -> list[Case]:
    """A function and its derivatives."""
    return [case for case in cases() if (case.function, case.value) == (function, value)]


@cache
def batches() -> list[list[tuple[Function, Any]]]:
    """Functions that one kernel computes, with their derivatives: most of its time is compiling."""
    batches: list[list[tuple[Function, Any]]] = [[]]
    left = BATCH
    for function, value in dict.fromkeys((case.function, case.value) for case in cases()):
        size = function.arity + len(cases_of(function, value))
        if size > left:
            batches.append([])
            left = BATCH
        batches[-1].append((function, value))
        left -= size
    return batches


@cache
def _batch(
    function: Function, value: Any, dtype: torch.dtype, count: int, seed: int
) -> tuple[Rows, dict[tuple[int, ...], list[float]]]:
    """Arguments for a function, and what it and its derivatives give."""
    (batch,) = (batch for batch in batches() if (function, value) in batch)
    found = _computed(batches().index(batch), dtype, count, seed)
    return cast(tuple[Rows, dict[tuple[int, ...], list[float]]], found[function.name, value])


@cache
def _graph(number: int) -> Graph:
    """Of a batch, whose outputs are those of each function and its derivatives in turn."""
    names: list[str] = []
    outputs: list[Expression] = []
    for function, value in batches()[number]:
        own = [f"{function.name}_{value or 0}_{i}".replace(" ", "") for i in range(function.arity)]
        names += own
        whole = make(function.name, *map(input_named, own), value=value)
        for case in cases_of(function, value):
            output = whole
            for i in case.by:
                (output,) = gradients([output], [constant(1)], [input_named(own[i])])
            outputs.append(output)
    return Graph("f", tuple(names), (), tuple(outputs), whole=True)


def computed(number: int, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The outputs of a batch, in the dtype of its operands."""
    graph = _graph(number)
    return kernel.run(graph, tensors, (), [tensors[0].dtype] * len(graph.outputs))


@cache
def _computed(number: int, dtype: torch.dtype, count: int, seed: int) -> dict[Any, Any]:
    columns = [
        numbers(function.name, dtype, count, seed + i)
        for function, _ in batches()[number]
        for i in range(function.arity)
    ]
    length = min(map(len, columns))
    tensors = [torch.tensor(column[:length], dtype=dtype) for column in columns]
    results = iter(computed(number, tensors))
    found: dict[Any, Any] = {}
    arguments = iter(tensors)
    for function, value in batches()[number]:
        own_columns = [next(arguments).tolist() for _ in range(function.arity)]
        rows = list(zip(*own_columns, strict=True))
        values = {case.by: next(results).tolist() for case in cases_of(function, value)}
        found[function.name, value] = rows, values
    return found


def measured(case: Case, dtype: torch.dtype, count: int, seed: int = 0) -> Found:
    """The largest error among so many numbers."""
    rows, values = _batch(case.function, case.value, dtype, count, seed)
    worst = Found(case, -1.0, (), 0.0, 0.0)
    info = torch.finfo(dtype)
    with mp.workdps(60):
        for row, got in zip(rows, values[case.by], strict=True):
            arguments = tuple(map(mpf, row))
            try:
                want = case.exact(*arguments)
                if abs(want) < TINY:
                    with mp.workdps(DIGITS):
                        want = case.exact(*arguments)
            except (ValueError, ZeroDivisionError, OverflowError, mpmath.NoConvergence):
                continue
            if not mpmath.isfinite(want) or isinstance(want, mpmath.mpc):
                continue
            size = max(abs(want), mpf(info.tiny))
            _, exponent = mpmath.frexp(size)
            unit = mpmath.ldexp(mpf(info.eps), int(exponent) - 1)
            if abs(want) > info.max:
                error = 0.0 if math.isinf(got) and (got > 0) == (want > 0) else math.inf
                if abs(want) < info.max * (1 + 4 * info.eps):
                    continue
            else:
                error = float(abs(mpf(got) - want) / unit) if math.isfinite(got) else math.inf
            if error > max(worst.error, 0.5):
                error /= max(1.0, case.condition(arguments, want))
            if error > worst.error:
                worst = Found(case, error, row, got, float(want))
    return worst


def _table(count: int) -> str:
    rows = []
    for case in cases():
        cells = [case.title]
        for dtype in DTYPES:
            found = measured(case, dtype, count)
            at = ", ".join(number.hex() for number in found.at)
            cells += [f"{found.error:.2f}", at]
            print(case.title, dtype, found, flush=True)
        rows.append(cells)
    return markdown(["function", "float32", "at", "float64", "at"], rows)


def main() -> None:
    """Measures, prints, and with --write replaces the table of docs/accuracy.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    text = _table(arguments.samples)
    if arguments.write:
        write_between_markers("function-errors", text, DOCS / "accuracy.md")


if __name__ == "__main__":
    main()

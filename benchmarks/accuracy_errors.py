"""The errors of a library's results in ULP, beside exact values from fusedgrad._C."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.accuracy_libraries import BITS, Function, Library, dtype_name
from fusedgrad import _C

HALF_TYPES = (torch.bfloat16, torch.float16)

Inputs = tuple[Tensor, Tensor]  # x and the parameter beside it, of x's shape
Chunk = Callable[[], Inputs]  # made where it is used, since all of them do not fit in memory


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


def ulp_errors(name: str, x: Tensor, p: Tensor, result: Tensor) -> _C.Errors:
    """What fusedgrad._C says of the results at x, handed over as bits: numpy has no bfloat16."""
    bits = BITS[x.dtype]
    inputs, results = x.view(bits).numpy(), result.view(bits).numpy()
    return _C.ulp_errors(name, dtype_name(x.dtype), inputs, results, p.double().numpy())


def compare(function: Function, library: Library, chunk: Chunk) -> Errors:
    """The errors of the library's results on one chunk. The sign of a zero is not looked at."""
    x, p = chunk()
    result = library.evaluate(function, x, p)
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

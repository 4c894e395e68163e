"""`python -m benchmarks.gpu_checks`: every operator and dtype on a device, against the CPU.

Each row, a line of JSON, tells the largest error in ULP against the mathematics and the largest
distance from the CPU's result, 0 where all bits are the same; its bound is that of the tests. Then
the functions of the benchmarks, forward and backward, as a user calls them: of these the distance
is from what the CPU computes in float64, in ULP and what an ULP of each input moves, and the bound
twice what the CPU's is in float32.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from benchmarks.works import WORKS, Work
from cuda_backend import DTYPES, Backend, Emulated, Operand, Operators, contiguous, parameters_of
from cuda_oracles import OPERATIONS, SUMS, bound, errors, largest_error, numbers, ulp

Row = dict[str, Any]


def row_of(name: str, dtype: torch.dtype, error: float, distance: float, most: float) -> Row:
    return {
        "operation": name,
        "dtype": str(dtype).removeprefix("torch."),
        "error, ULP": round(error, 2),
        "from the CPU, ULP": round(distance, 2),
        "bound": round(most, 2),
        "verdict": "passed" if error <= most and distance <= 2 * most else "FAILED",
    }


def inputs_of(name: str, dtype: torch.dtype, size: int) -> list[Operand]:
    operands = enumerate(OPERATIONS[name].inputs)
    return [contiguous(numbers(each, (size,), seed), dtype) for seed, each in operands]


def operator_row(device: Backend, cpu: Backend, name: str, dtype: torch.dtype, size: int) -> Row:
    """Of an operator and its derivatives, at every parameter that the tests try."""
    operation = OPERATIONS[name]
    inputs = inputs_of(name, dtype, size)
    computed_in = np.float64 if dtype == torch.float64 else np.float32
    error = distance = 0.0
    for parameter in operation.parameters:
        if "cross_entropy" in name and parameter not in (None, 1):
            continue  # a mean has one gradient, and the kernels' own tests
        rounded = [computed_in(each) for each in parameters_of(parameter)]
        exact = operation.oracle(*(operand.exact() for operand in inputs), *rounded)
        on_both = [
            backend.elementwise(name, inputs, operation.outputs, parameter)
            for backend in (device, cpu)
        ]
        for got, own, true in zip(*on_both, exact, strict=True):
            value = own.double().numpy().astype(np.longdouble)
            error = max(error, largest_error(got, true))
            distance = max(distance, largest_error(got, (value, true[1])))
    return row_of(name, dtype, error, distance, bound(name, dtype))


def sum_row(device: Backend, cpu: Backend, name: str, dtype: torch.dtype, size: int) -> Row:
    """Of a loss that is summed."""
    inputs = inputs_of(SUMS[name], dtype, size)
    (terms,) = OPERATIONS[SUMS[name]].oracle(*(operand.exact() for operand in inputs))
    total, magnitude = (np.asarray(part.sum()) for part in terms)
    got, own = (backend.sum(name, inputs, 1.0) for backend in (device, cpu))
    value = np.asarray(own.double().item(), dtype=np.longdouble)
    error, distance = (largest_error(got, (each, magnitude)) for each in (total, value))
    return row_of(name, dtype, error, distance, 3)


def computed(work: Work, inputs: Sequence[Tensor], device: str) -> list[Tensor]:
    """The value and the gradients, on the CPU."""
    operands = [x.to(device) for x in inputs]
    wanted = [x.requires_grad_() for x in operands[: work.derivatives]]
    value = work.ours(*operands)
    upstream = torch.linspace(0.5, 2, value.numel()).reshape(value.shape).to(value)
    gradients = torch.autograd.grad(value, wanted, upstream)
    return [x.detach().cpu() for x in (value, *gradients)]


def sensitivity(work: Work, wide: Sequence[Tensor], exact: Sequence[Tensor], eps: float) -> Any:
    """How far each result moves when an input does by one unit in its last place, all added up."""
    moved = [torch.zeros_like(x) for x in exact]
    for i, x in enumerate(wide):
        beside = [x * (1 + eps) if i == j else other for j, other in enumerate(wide)]
        for total, there, here in zip(moved, computed(work, beside, "cpu"), exact, strict=True):
            total += (there - here).abs()
    return moved


def distance_of(
    results: Sequence[Tensor], exact: Sequence[Tensor], moved: Sequence[Tensor]
) -> float:
    """The largest, in ULP and what such a step of the inputs makes; infinite for another class."""
    largest = 0.0
    for got, true, step in zip(results, exact, moved, strict=True):
        value = true.numpy().astype(np.longdouble)
        error = errors(got, (value, np.abs(value)))
        unit = ulp(value, got.dtype)
        step = np.maximum(step.numpy(), torch.finfo(got.dtype).tiny)  # what is less may be zero
        largest = max(largest, float((error * unit / (unit + step)).max()))
    return largest


def distances(work: Work, drawn: Sequence[Tensor], device: str) -> Iterator[tuple[Any, float]]:
    """By dtype, from what the CPU computes in float64."""
    for dtype in DTYPES:
        inputs = [x.to(dtype) for x in drawn]
        wide = [x.double() for x in inputs]
        exact = computed(work, wide, "cpu")
        moved = sensitivity(work, wide, exact, torch.finfo(dtype).eps)
        yield dtype, distance_of(computed(work, inputs, device), exact, moved)


def work_rows(work: Work, device: str, size: int) -> Iterator[Row]:
    torch.manual_seed(0)
    drawn = [make(size) for make in work.inputs]
    most = 2 * dict(distances(work, drawn, "cpu"))[torch.float32] + 4
    for dtype, distance in distances(work, drawn, device):
        yield row_of(work.name, dtype, distance, distance, most)


def rows(device: str, size: int, only: str) -> Iterator[Row]:
    backend: Backend = Emulated() if device == "emulated" else Operators(device)
    cpu = Operators("cpu")
    for name in (each for each in OPERATIONS if only in each):
        for dtype in DTYPES:
            yield operator_row(backend, cpu, name, dtype, size)
    for name in (each for each in SUMS if only in each):
        for dtype in DTYPES:
            yield sum_row(backend, cpu, name, dtype, size)
    if device != "emulated":  # which has no tensors of PyTorch's
        for work in (each for each in WORKS if only in each.name):
            yield from work_rows(work, device, size)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu", "emulated"), default="cuda")
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--only", default="", help="operations whose name holds this text")
    options = parser.parse_args()
    failed = 0
    np.seterr(all="ignore")  # an oracle evaluates both sides of a choice
    for row in rows(options.device, options.size, options.only):
        print(json.dumps(row), flush=True)
        failed += row["verdict"] != "passed"
    print(f"{failed} rows failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Runs a graph on tensors: compiled where it can be, else operation by operation."""

from __future__ import annotations

import functools
import threading
import warnings
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from fusedgrad import _C, operators, reference
from fusedgrad.fuse import forms, nvrtc, prebuilt
from fusedgrad.fuse.compile import CompilerError, block_address
from fusedgrad.fuse.errors import FuseTypeError
from fusedgrad.fuse.expression import OPERATIONS, in_order
from fusedgrad.fuse.generate import cpu_source, cuda_source, python_source
from fusedgrad.fuse.graph import Graph
from fusedgrad.operations.shared import HALF_DTYPES
from fusedgrad.torch_versions import dtypes_of

fused = _C.fused
# Tensors that no class of others handles as it likes
_OWN = (Tensor, torch.nn.Parameter)
_CPU = torch.device("cpu")
MOST_NODES = 4000  # 1,563 took 1.9 s to compile on one core
_MOST_DIMS = 16  # of what a CUDA kernel sums, as csrc/cuda/addresses.h
_MOST_SUMS = 8  # of a CUDA kernel over dimensions: a thread has as many of each as a pack elements
MAX_PARAMETERS: int = _C.max_parameters
fused_reduction = operators._ops.fused_reduction.default
_lock = threading.RLock()
_kernels: dict[Any, int] = {}
_graphs: dict[int, Graph] = {}  # of each kernel, with the inputs that it reads

# What a call depends on besides values: dtypes, the dtypes asked for, what is read.
_Key = tuple[Any, ...]


class _Plans:
    """What was found out about a graph."""

    def __init__(self, graph: Graph) -> None:
        made_of = frozenset().union(*graph.used)
        # A graph of constants takes its shape from an input that it does not read.
        self.read = tuple(i for i, name in enumerate(graph.inputs) if name in made_of) or (0,)
        self.kernels: dict[_Key, int | None] = {}


_plans: weakref.WeakKeyDictionary[Graph, _Plans] = weakref.WeakKeyDictionary()


def _plans_of(graph: Graph) -> _Plans:
    plans = _plans.get(graph)
    if plans is None:
        with _lock:
            plans = _plans.setdefault(graph, _Plans(graph))
    return plans


def broadcast(tensors: Sequence[Tensor]) -> torch.Size:
    """The shape of all of them broadcast together."""
    shapes = (tensor.shape for tensor in tensors)
    return cast(torch.Size, torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]


def run(
    graph: Graph,
    tensors: Sequence[Tensor],
    parameters: Sequence[float],
    dtypes: Sequence[torch.dtype],
    summed: Sequence[int] = (),
) -> list[Tensor]:
    """The outputs, at the shape of all tensors broadcast together.

    Each output is summed over the dimensions that are the bits of its number in `summed`, bit 0 the
    last, which stay with size 1.

    Raises:
        FuseTypeError: a dtype without kernels.
    """
    if summed and not _sums_in_kernel(tensors):
        return _written_and_summed(graph, tensors, parameters, dtypes, summed)
    sums = False
    over: tuple[bool, ...] = ()
    if summed and not all([tensor.is_cpu for tensor in tensors]):  # noqa: C419
        every = (1 << max(tensor.dim() for tensor in tensors)) - 1
        sums = all(dims == every for dims in summed)
        over = () if sums else tuple([dims != 0 for dims in summed])
        parts = _parts_on_cuda(summed) if over else ()
        if len(parts) > 1:
            return _in_parts(graph, tensors, parameters, dtypes, summed, parts)
    number, read = kernel_of(graph, tensors, dtypes, sums=sums, summed=over)
    if number is None:
        if len(graph.outputs) > 1 and len(graph.outputs) + len(read) > _C.max_operands:
            every_output = range(len(graph.outputs))
            half = len(every_output) // 2
            halves = every_output[:half], every_output[half:]
            return _in_parts(graph, tensors, parameters, dtypes, summed, halves)
        if summed:
            return _written_and_summed(graph, tensors, parameters, dtypes, summed)
        return evaluate(graph, tensors, parameters, dtypes)
    operands = tensors if len(read) == len(tensors) else [tensors[i] for i in read]
    return fused(number, operands, parameters, dtypes, summed)


def _sums_in_kernel(tensors: Sequence[Tensor]) -> bool:
    """Whether a kernel may sum its outputs: on a device, of no more dimensions than it takes."""
    if not all([type(tensor) in _OWN for tensor in tensors]):  # noqa: C419
        return False
    if all([tensor.is_cpu for tensor in tensors]):  # noqa: C419
        return True
    return max(tensor.dim() for tensor in tensors) <= _MOST_DIMS


def _parts_on_cuda(summed: Sequence[int]) -> list[list[int]]:
    """The outputs of each kernel, which sums a few of them, all over the same dimensions.

    What is not summed is written by the first.
    """
    whole = [i for i, dims in enumerate(summed) if dims == 0]
    parts = []
    for dims in dict.fromkeys(filter(None, summed)):
        same = [i for i, own in enumerate(summed) if own == dims]
        parts += [same[i : i + _MOST_SUMS] for i in range(0, len(same), _MOST_SUMS)]
    parts[0] = sorted(whole + parts[0])
    return parts


def _in_parts(
    graph: Graph,
    tensors: Sequence[Tensor],
    parameters: Sequence[float],
    dtypes: Sequence[torch.dtype],
    summed: Sequence[int],
    parts: Sequence[Sequence[int]],
) -> list[Tensor]:
    """As `run`, by a kernel for each part of the outputs."""
    results: dict[int, Tensor] = {}
    for part in parts:
        own = [summed[i] for i in part] if summed else ()
        outputs = run(
            _part(graph, tuple(part)), tensors, parameters, [dtypes[i] for i in part], own
        )
        results.update(zip(part, outputs, strict=True))
    return [results[i] for i in range(len(dtypes))]


def _written_and_summed(
    graph: Graph,
    tensors: Sequence[Tensor],
    parameters: Sequence[float],
    dtypes: Sequence[torch.dtype],
    summed: Sequence[int],
) -> list[Tensor]:
    """As `run`, where no kernel sums its outputs.

    What has to be summed is computed by itself, so that one tensor more exists and not several, and
    is not rounded to a half type before.
    """
    whole = tuple([i for i, dims in enumerate(summed) if dims == 0])
    parts = [(i,) for i, dims in enumerate(summed) if dims != 0]
    results: dict[int, Tensor] = {}
    for part in [whole, *parts] if whole else parts:
        wide = [
            torch.float32 if summed[i] and dtypes[i] in HALF_DTYPES else dtypes[i] for i in part
        ]
        for i, output in zip(part, run(_part(graph, part), tensors, parameters, wide), strict=True):
            results[i] = _sum_over(output, summed[i]).to(dtypes[i])
    return [results[i] for i in range(len(summed))]


def _sum_over(output: Tensor, dims: int) -> Tensor:
    chosen = [-1 - i for i in range(output.dim()) if dims >> i & 1]
    return output.sum(chosen, keepdim=True) if chosen else output


def summed_dims(target: torch.Size, shape: torch.Size) -> int:
    """The dimensions of `shape` over which a gradient is summed to that of `target`, for `run`."""
    if target == shape:
        return 0
    own = (1,) * (len(shape) - len(target)) + tuple(target)
    pairs = zip(reversed(own), reversed(shape), strict=True)
    return sum(1 << i for i, (a, b) in enumerate(pairs) if a != b)


def _part(graph: Graph, indices: tuple[int, ...]) -> Graph:
    """Some of the outputs, at the shape of all inputs."""
    return (graph if graph.whole else _made_whole(graph)).part(indices)


@functools.lru_cache(maxsize=1024)
def _made_whole(graph: Graph) -> Graph:
    return replace(graph, whole=True)


def kernel_of(
    graph: Graph,
    tensors: Sequence[Tensor],
    dtypes: Sequence[torch.dtype],
    *,
    sums: bool = False,
    summed: tuple[bool, ...] = (),
) -> tuple[int | None, tuple[int, ...]]:
    """The number of the kernel for these tensors, None if there is none, and which it reads.

    `dtypes` are those of its outputs, of which the `sums` over all elements are wanted, or each
    element; on CUDA, where some are `summed` over dimensions, the kernel is another. It may be
    called again for other tensors of these dtypes on such a device, if they have one shape, or if
    it reads all.

    Raises:
        FuseTypeError: a dtype without kernels.
    """
    # A comprehension in a list, because a generator would cost twice as much.
    if all([tensor.is_cpu for tensor in tensors]):  # noqa: C419
        return _cpu_kernel_of(graph, tensors)
    return _cuda_kernel_of(graph, tensors, dtypes, sums, summed)


def device_of(tensors: Sequence[Tensor]) -> torch.device:
    """That of a kernel for these tensors: the CPU's if all are there."""
    return next((tensor.device for tensor in tensors if not tensor.is_cpu), _CPU)


def _cpu_kernel_of(graph: Graph, tensors: Sequence[Tensor]) -> tuple[int | None, tuple[int, ...]]:
    key: _Key = tuple([tensor.dtype for tensor in tensors])
    plans, read = _plans_and_read(graph, tensors)
    number = plans.kernels.get((key, read), -1)
    if number == -1:
        _check_dtypes(graph, tensors)
        number = plans.kernels[key, read] = _compiled(graph, read, torch.float64 in key)
    return number, read


def _cuda_kernel_of(
    graph: Graph,
    tensors: Sequence[Tensor],
    dtypes: Sequence[torch.dtype],
    sums: bool,
    summed: tuple[bool, ...],
) -> tuple[int | None, tuple[int, ...]]:
    target = nvrtc.target_of(tensors)
    plans, read = _plans_and_read(graph, tensors)
    if target is None:
        return None, read
    key: _Key = (target, sums, summed, *dtypes, *[tensor.dtype for tensor in tensors])
    number = plans.kernels.get((key, read), -1)
    if number == -1:
        _check_dtypes(graph, tensors)
        own = [*dtypes, *(tensors[i].dtype for i in read)]
        wide = computed(tensors) is torch.float64
        with nvrtc.on_device_of(tensors):
            number = _compiled_for_cuda(graph, read, own, wide, target, sums, summed)
            plans.kernels[key, read] = number
    return number, read


def _plans_and_read(graph: Graph, tensors: Sequence[Tensor]) -> tuple[_Plans, tuple[int, ...]]:
    plans = _plans.get(graph) or _plans_of(graph)
    read = plans.read
    if len(read) < len(tensors) and not _same_shape(tensors, read):
        read = tuple(range(len(tensors)))
    return plans, read


def without_kernel(graph: Graph, name: str, dtype: torch.dtype) -> FuseTypeError:
    """The error of an input whose dtype has no kernel."""
    return FuseTypeError(
        f"{graph.name}: {name} has dtype {dtype}, for which there is no kernel, "
        f"expected float64, float32, float16 or bfloat16: pass {name}.to(torch.float32)"
    )


def _check_dtypes(graph: Graph, tensors: Sequence[Tensor]) -> None:
    for name, tensor in zip(graph.inputs, tensors, strict=True):
        if tensor.dtype not in operators.KERNEL_DTYPES:
            raise without_kernel(graph, name, tensor.dtype)


def _same_shape(tensors: Sequence[Tensor], read: Sequence[int]) -> bool:
    """Whether the tensors that are read broadcast to the shape of all."""
    shape = tensors[0].shape
    if all(tensor.shape == shape for tensor in tensors):
        return True
    return broadcast([tensors[i] for i in read]) == broadcast(tensors)


_warnings: list[str] = []


def _warned(of: str) -> bool:
    """Whether this has been asked before."""
    _warnings.append(of)
    return _warnings.count(of) > 1


def _is_too_large(graph: Graph) -> bool:
    """Whether compilation would take more than seconds; with one warning."""
    if len(in_order(graph.outputs)) <= MOST_NODES:
        return False
    if not _warned("a smaller graph"):
        warnings.warn(
            f"{graph.name} has more than {MOST_NODES} operations and runs operation by operation: "
            "fuse its parts",
            stacklevel=2,
        )
    return True


def _compiled(graph: Graph, read: Sequence[int], wide: bool) -> int | None:
    """The number of the CPU kernel, None where the graph must be evaluated."""
    inputs, parameters = len(read), len(graph.parameters)
    if (
        graph.interpreted
        or _is_too_large(graph)
        or len(graph.outputs) + inputs > _C.max_operands
        or parameters > _C.max_parameters
    ):
        return None
    names = [graph.inputs[i] for i in read]
    source = cpu_source(graph, names, wide)
    used = _moving(graph, names)

    def add() -> int:
        address = _kernels.get(source)  # of another graph, whose derivatives may differ
        if address is None:
            address = prebuilt.address_of(graph, wide) or block_address(source)
            _kernels[source] = address
        return _C.add_fused_kernel(address, wide, used, inputs, parameters)

    return _number_of((source, wide), graph, read, add, "a C++ compiler")


def _moving(graph: Graph, names: Sequence[str]) -> list[int]:
    """For each output a bit i for the input i of these names that a gradient passes to."""
    moves = graph.used if graph.moves is None else graph.moves
    return [sum((name in own) << i for i, name in enumerate(names)) for own in moves]


def _compiled_for_cuda(
    graph: Graph,
    read: Sequence[int],
    dtypes: Sequence[torch.dtype],
    wide: bool,
    target: str,
    sums: bool = False,
    summed: tuple[bool, ...] = (),
) -> int | None:
    """The number of the CUDA kernel, None where the graph must be evaluated."""
    if graph.interpreted or _is_too_large(graph) or len(dtypes) > _C.max_operands:
        return None
    names = [graph.inputs[i] for i in read]
    computed = "double" if wide else "float"
    source = cuda_source(graph, names, nvrtc.types(dtypes), computed, sums=sums, summed=summed)

    def add() -> int:
        used, parameters = _moving(graph, names), len(graph.parameters)
        number = None if sums or summed else prebuilt.add_for_cuda(graph, dtypes, used)
        if number is not None:
            return number
        code = nvrtc.code_of(source, target)
        try:
            bits = sum(each << i for i, each in enumerate(summed))
            return _C.add_fused_cuda_kernel(code, wide, used, dtypes, parameters, sums, bits)
        except RuntimeError as error:
            raise CompilerError(f"the driver does not load what NVRTC made, {error}") from error

    return _number_of((source, target), graph, read, add, "a CUDA kernel")


def _number_of(
    made_of: tuple[Any, ...],
    graph: Graph,
    read: Sequence[int],
    add: Callable[[], int],
    compiler: str,
) -> int | None:
    """The number of the kernel that `add` adds; None where none is compiled.

    Graphs of equal text may have other derivatives, as clamp and maximum: a number is one graph's.
    """
    names = (graph.inputs, graph.parameters, graph.whole, graph.shapes, graph.moves)
    key = (*made_of, tuple(read), graph.outputs, names)
    with _lock:
        if key not in _kernels:
            try:
                number = add()
            except CompilerError as error:
                if not _warned(compiler):
                    warnings.warn(
                        f"fused functions run operation by operation, for lack of {compiler}: "
                        f"{error}",
                        stacklevel=2,
                    )
                return None
            _kernels[key] = number
            inputs = tuple(graph.inputs[i] for i in read)
            _graphs[number] = graph if inputs == graph.inputs else replace(graph, inputs=inputs)
        return _kernels[key]


def graph_of(number: int) -> Graph:
    """What a kernel computes, of the inputs that it reads."""
    return _graphs[number]


@functools.cache
def _evaluator(source: str) -> Any:
    names = dict(vars(forms))
    names.update({name: o.evaluate for name, o in OPERATIONS.items() if o.evaluate is not None})
    exec(compile(source, "<fused function>", "exec"), names)
    return names["evaluate"]


def computed(tensors: Sequence[Tensor]) -> torch.dtype:
    """The dtype that a kernel computes in."""
    wide = any([tensor.dtype is torch.float64 for tensor in tensors])  # noqa: C419
    return torch.float64 if wide else torch.float32


def evaluate(
    graph: Graph,
    tensors: Sequence[Tensor],
    parameters: Sequence[float],
    dtypes: Sequence[torch.dtype],
) -> list[Tensor]:
    """As `run`, in PyTorch operations, each of them at the precision of the kernel."""
    numbers = [torch.tensor(value, dtype=torch.float64) for value in parameters]
    dtype = computed(tensors)
    operands = [tensor.to(dtype) for tensor in tensors]
    results = _evaluator(python_source(graph))(*operands, *numbers)
    shape = broadcast(tensors)
    return [
        torch.as_tensor(result, device=tensors[0].device).to(dtype).expand(shape)
        for result, dtype in zip(results, dtypes, strict=True)
    ]


def _fused_fake(
    kernel: int,
    inputs: list[Tensor],
    parameters: list[float],
    dtypes: list[torch.dtype],
    summed: Sequence[int] = (),
) -> list[Tensor]:
    result = operators._elementwise(*inputs)
    outputs = [torch.empty_like(result, dtype=dtype) for dtype in dtypes_of(dtypes)]
    return [*map(_sum_over, outputs, summed)] if summed else outputs


def _fused_by_operations(
    kernel: int,
    inputs: list[Tensor],
    parameters: list[float],
    dtypes: list[torch.dtype],
    summed: Sequence[int] = (),
) -> list[Tensor]:
    graph, dtypes = _graphs[kernel], dtypes_of(dtypes)
    if not summed:
        return evaluate(graph, inputs, parameters, dtypes)
    values = evaluate(graph, inputs, parameters, [computed(inputs)] * len(dtypes))
    sums = map(_sum_over, values, summed)
    return [value.to(dtype) for value, dtype in zip(sums, dtypes, strict=True)]


def reduced(values: Tensor, dtype: torch.dtype, reduction: int) -> Tensor:
    """The mean or the sum."""
    return (values.mean() if reduction == reference.MEAN else values.sum()).to(dtype)


def _fused_reduction_fake(
    kernel: int, inputs: list[Tensor], parameters: list[float], dtype: torch.dtype, reduction: int
) -> Tensor:
    return inputs[0].new_empty((), dtype=dtype)


def _fused_reduction_by_operations(
    kernel: int, inputs: list[Tensor], parameters: list[float], dtype: torch.dtype, reduction: int
) -> Tensor:
    (values,) = evaluate(_graphs[kernel], inputs, parameters, [computed(inputs)])
    return reduced(values, dtype, reduction)


torch.library.register_fake("fusedgrad::fused", _fused_fake)
torch.library.register_fake("fusedgrad::fused_reduction", _fused_reduction_fake)
# As the other operators that return lists: for torch.autograd.grad(..., is_grads_batched=True).
operators._library.impl("fused", _fused_by_operations, "Batched")

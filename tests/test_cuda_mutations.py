"""Kernels broken on purpose: the checks of test_cuda_kernels.py must notice every one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import test_cuda_kernels as suite
from cuda_backend import Emulated, LaunchError, misaligned
from cuda_emulator import EmulationError
from cuda_mutation import Mutation, copied


def _elementwise(backend: Emulated) -> None:
    name, dtype = "sigmoid_double_backward", torch.float32
    for size in (127, 4097):
        suite.check(backend, name, suite.inputs_of(name, dtype, (size,)))
    for size in (200, 4097):
        suite.check(backend, name, suite.inputs_of(name, dtype, (size,), misaligned))
    for kind in ("permuted", "spaced", "flipped"):
        suite.test_a_layout_changes_no_bit(backend, dtype, kind)
    suite.test_broadcasting_changes_no_bit(backend, dtype, (5, 1, 33))
    suite.test_scalars_among_aligned_operands_change_no_bit(backend, dtype, {1})
    suite.test_a_number_on_the_host_is_a_scalar(backend, dtype, {1})
    suite.check_that_strided_kernels_take_no_numbers(backend, name)


def _sums(backend: Emulated) -> None:
    name, dtype = "binary_cross_entropy_with_logits_sum", torch.float32
    for size in (17, 10_000):
        suite.test_a_sum_is_exact_to_few_ulps(backend, dtype, name, size)
    suite.test_a_sum_loses_no_small_terms(backend)
    suite.test_a_sum_with_an_infinite_term_is_infinite(backend)
    suite.test_a_sum_reads_any_layout(backend, dtype, "permuted")
    suite.check_that_sums_take_no_numbers(backend, name)


@dataclass(frozen=True)
class KernelMutation(Mutation):
    """With the checks that must notice it."""

    checks: Callable[[Emulated], None] = _elementwise


MUTATIONS = (
    KernelMutation("the tail is dropped", "packing.h", "full + (rest != 0)", "full"),
    KernelMutation(
        "the tail ends early",
        "elementwise_kernel.cuh",
        "? size : rest)",
        "? size : rest - 1)",
    ),
    KernelMutation(
        "a pack that is not full is read whole",
        "operands.cuh",
        "if (left >= Operands::Raw::kElements) {\n#pragma",
        "if (left > 0) {\n#pragma",
    ),
    KernelMutation(
        "a pack that is not full is written whole",
        "operands.cuh",
        "if (left >= Operands::Raw::kElements) {\n        operands.store",
        "if (left > 0) {\n        operands.store",
    ),
    KernelMutation(
        "of a short tile more is left out than there is not",
        "operands.cuh",
        "count <= kThreads * kElements",
        "count <= 2 * kThreads * kElements",
    ),
    KernelMutation(
        "a tile too many",
        "elementwise_kernel.cuh",
        "blockIdx.x < full_tiles",
        "blockIdx.x <= full_tiles",
    ),
    KernelMutation(
        "strided chunks lie a tile apart",  # those of aligned ones: test_fuse_cuda.py
        "operands.cuh",
        "= tile * size +",
        "= tile * uint32_t{kTile} +",
    ),
    KernelMutation(
        "a chunk is a tile", "elementwise_kernel.cuh", "? size : rest", "? Operands::kTile : rest"
    ),
    KernelMutation(
        "outputs are swapped",
        "elementwise_kernel.cuh",
        "outputs[i] = Raw::pack(y[i])",
        "outputs[i] = Raw::pack(y[kOutputs - 1 - i])",
    ),
    KernelMutation(
        "dimensions are swapped",
        "packing.h",
        "static_cast<int32_t>(elements.strides[operand + i][d])",
        "static_cast<int32_t>(elements.strides[operand + i][elements.ndim - 1 - d])",
    ),
    KernelMutation(
        "operands share strides", "operands.cuh", "strides[dimension][i];", "strides[dimension][0];"
    ),
    KernelMutation(
        "alignment is not asked for",
        "packing.h",
        "(elements.data[i]) % (pack * bytes_of(i))",
        "(elements.data[i]) % 1",
    ),
    KernelMutation(
        "spaced operands are taken for contiguous",
        "packing.h",
        "if (stride != bytes_of(i)) return false;",
        "",
    ),
    KernelMutation(
        "a scalar is taken for a row",
        "operands.cuh",
        "kPackBytes;\n  }\n\n  __device__ bool has_scalars() const { return kInputs > 1 &&",
        "kPackBytes;\n  }\n\n  __device__ bool has_scalars() const { return false &&",
    ),
    KernelMutation(
        "a number is taken for its address",
        "packing.h",
        "result.immediates = elements.immediates;",
        "",
    ),
    KernelMutation(
        "so it is by strided kernels",
        "packing.h",
        "if (elements.immediates != 0) return cudaErrorInvalidValue;",
        "",
    ),
    KernelMutation(
        "so it is by sums",
        "packing.h",
        "!takes_immediates(outputs, elements.operands)",
        "false",
        _sums,
    ),
    KernelMutation("a quotient is one too small", "packing.h", "* rest / d + 1)", "* rest / d)"),
    KernelMutation(
        "packs overlap",
        "operands.cuh",
        "           threadIdx.x * kPackBytes;",
        "           threadIdx.x * (kPackBytes / 2);",
    ),
    KernelMutation("the barrier is missing", "reduction_kernel.cuh", "__syncthreads();", "", _sums),
    KernelMutation(
        "half a warp is left out",
        "reduction_kernel.cuh",
        "distance = kWarp / 2",
        "distance = kWarp / 4",
        _sums,
    ),
    KernelMutation(
        "a warp is left out",
        "reduction_kernel.cuh",
        "warp < kBlock / kWarp",
        "warp < kBlock / kWarp - 1",
        _sums,
    ),
    KernelMutation(
        "a sum drops the tail",
        "reduction_kernel.cuh",
        "tile < full_tiles + (rest != 0)",
        "tile < full_tiles",
        _sums,
    ),
    KernelMutation(
        "a sum's tail is a whole tile",
        "reduction_kernel.cuh",
        "bound(tile < full_tiles",
        "bound(tile <= full_tiles",
        _sums,
    ),
    KernelMutation(
        "a sum adds what there is not", "reduction_kernel.cuh", "if (e < count) {", "{", _sums
    ),
    KernelMutation(
        "tiles are summed twice", "reduction_kernel.cuh", "tile += gridDim.x", "tile += 1", _sums
    ),
    KernelMutation(
        "a partial sum is read before it is written",
        "reduction_kernel.cuh",
        "if (!first_part) ",
        "",
        _sums,
    ),
    KernelMutation(
        "a partial sum is left out", "reduction_kernel.cuh", "i < count;", "i + 1 < count;", _sums
    ),
    KernelMutation(
        "what rounding took is forgotten",
        "reduction_kernel.cuh",
        "low += (high - (sum - added)) + (x - added);",
        "",
        _sums,
    ),
    KernelMutation(
        "infinity is compensated",
        "reduction_kernel.cuh",
        "isfinite(high) ? static_cast<double>(high) + static_cast<double>(low) : high",
        "static_cast<double>(high) + static_cast<double>(low)",
        _sums,
    ),
    KernelMutation(
        "the scale is forgotten", "reduction_kernel.cuh", "value() * scale", "value()", _sums
    ),
)


@pytest.mark.parametrize("checks", [_elementwise, _sums])
def test_the_checks_pass_unbroken_kernels(
    tmp_path: Path, checks: Callable[[Emulated], None]
) -> None:
    checks(Emulated(csrc=copied(tmp_path)))


@pytest.mark.sampled(12)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.title)
def test_a_broken_kernel_is_noticed(tmp_path: Path, mutation: KernelMutation) -> None:
    csrc = copied(tmp_path)
    mutation.apply(csrc)
    with pytest.raises((AssertionError, EmulationError, LaunchError)):
        mutation.checks(Emulated(csrc=csrc))

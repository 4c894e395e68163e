// Every number that decides how a kernel is launched, and where it comes from.
#pragma once

#include <cstdint>

namespace fusedgrad::cuda {

// PyTorch's block for elementwise kernels (aten/src/ATen/native/cuda/thread_constants.h). With up
// to 32 registers a thread, as many blocks as a multiprocessor takes threads stand on it at once.
inline constexpr int kThreads = 128;

// 128-bit accesses of each operand a thread makes. What counts is the memory in flight on a
// multiprocessor, accesses * 16 bytes * inputs * its threads; CCCL measured how much saturates each
// architecture (cub/device/dispatch/tuning/tuning_transform.cuh, arch_to_min_bytes_in_flight).
// Two accesses are enough on all of them with one input already, so one number serves them all;
// from four operands on one access is enough, and two would need more than 40 registers.
constexpr int accesses(int operands, int elements) {
  return operands < 3 && elements == 4 ? 4 : operands < 5 ? 2 : 1;
}

namespace detail {

struct Multiprocessor {
  int threads;       // resident at once
  int needed_bytes;  // in flight
};
inline constexpr Multiprocessor kMultiprocessors[] = {
    {1024, 12 * 1024},  // 7.5
    {2048, 16 * 1024},  // 8.0
    {1536, 16 * 1024},  // 8.6, 8.9
    {2048, 48 * 1024},  // 9.0
    {2048, 64 * 1024},  // 10.0
    {1536, 48 * 1024},  // 12.0: its limit of threads allows no more
};

constexpr bool enough_in_flight() {
  for (const Multiprocessor& m : kMultiprocessors) {
    for (int inputs = 1; inputs <= 6; ++inputs) {
      if (m.threads * 16 * inputs * accesses(inputs + 1, 4) < m.needed_bytes) return false;
    }
  }
  return true;
}
static_assert(enough_in_flight());

}  // namespace detail

// Elements of a strided operand a thread takes: as PyTorch's unrolled kernels.
inline constexpr int kStridedElements = 4;

// Strided operands are addressed with 32-bit byte offsets; larger ones are launched in parts.
inline constexpr int64_t kMaxOffset = INT32_MAX;

// A reduction's first level: the blocks that an H100 (132 multiprocessors) holds at once, 16 each,
// rounded to a power of two. Fixed, so that a sum does not depend on the device.
inline constexpr int64_t kReductionBlocks = 2048;
// Its second level is one block.
inline constexpr int kCombineThreads = 256;

}  // namespace fusedgrad::cuda

// Every number that decides how a kernel is launched, and where it comes from.
#pragma once

#include <cstdint>

namespace fusedgrad::cuda {

// PyTorch's block for elementwise kernels (aten/src/ATen/native/cuda/thread_constants.h). With up
// to 32 registers a thread, as many blocks as a multiprocessor takes threads stand on it at once.
inline constexpr int kThreads = 128;

inline constexpr int kPackBytes = 16;  // of a 128-bit access

// How many 128-bit accesses of each operand a thread makes, for `elements` in one access. What
// counts is the memory in flight on a multiprocessor, threads * inputs * accesses * 16 bytes; CCCL
// measured how much each architecture needs (cub/device/dispatch/tuning/tuning_transform.cuh,
// arch_to_min_bytes_in_flight). Two accesses are enough on all of them, so one number serves them
// all. With one input float32 makes four, so that like the half types it spreads what a thread does
// once over 16 elements; from five operands on, two would need more than 40 registers.
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
    {1536, 48 * 1024},  // 12.0, not measured: as 9.0, whose memory is faster
};

constexpr bool enough_in_flight() {
  for (const Multiprocessor& m : kMultiprocessors) {
    for (int inputs = 1; inputs <= 6; ++inputs) {
      for (int elements : {2, 4, 8}) {
        const int bytes = m.threads * inputs * accesses(inputs + 1, elements) * 16;
        if (bytes < m.needed_bytes) return false;
      }
    }
  }
  return true;
}
static_assert(enough_in_flight());

}  // namespace detail

// Elements of strided operands a thread takes: as PyTorch's unrolled kernels, which is twice as
// many of half types, so that as many bytes are in flight; fewer of float64, whose functors fill
// the registers, and of many operands, whose offsets do.
constexpr int strided_elements(int operands, int bytes) {
  return operands > 8 ? 1 : bytes == 8 ? 2 : bytes == 2 && operands <= 4 ? 8 : 4;
}

// Elements that a block takes at once, of so many operands of so many bytes each.
constexpr int64_t contiguous_tile(int operands, int bytes) {
  return int64_t{kThreads} * accesses(operands, kPackBytes / bytes) * (kPackBytes / bytes);
}
constexpr int64_t strided_tile(int operands, int bytes) {
  return int64_t{kThreads} * strided_elements(operands, bytes);
}

// Strided operands are addressed with 32-bit byte offsets; larger ones are launched in parts.
inline constexpr int64_t kMaxOffset = INT32_MAX;

// The blocks that an H100 (132 multiprocessors) holds at once, 16 each, rounded to a power of two.
// Elements of which as many blocks take one access of each operand are spread over them, as by cub
// (cub/device/dispatch/dispatch_transform.cuh, items_per_thread_evenly_spread).
inline constexpr int64_t kResidentBlocks = 2048;
// A reduction's first level: as many, fixed so that a sum does not depend on the device.
inline constexpr int64_t kReductionBlocks = 2048;
// Its second level is one block.
inline constexpr int kCombineThreads = 256;

}  // namespace fusedgrad::cuda

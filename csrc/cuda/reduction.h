// The two levels of a sum, as the host launches them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "cuda/launch.h"
#include "cuda/packing.h"
#include "cuda/tuning.h"

namespace fusedgrad::cuda {

// The first level's blocks: a function of the number of elements, and of what a block takes.
inline int64_t reduction_blocks(int64_t numel, int64_t tile) {
  return std::min((numel + tile - 1) / tile, kReductionBlocks);
}

// launch(elements, blocks, first_part), in parts unless they are `contiguous`, and
// combine(blocks), unless one block does it all. A block's partial sums have `bytes`.
template <class Launch, class Combine>
cudaError_t in_two_levels(const Elements& elements, bool contiguous, int64_t tile, int64_t bytes,
                          int64_t workspace_bytes, const Launch& launch, const Combine& combine) {
  const int64_t blocks = reduction_blocks(elements.numel, tile);
  if (workspace_bytes < blocks * bytes) return cudaErrorInvalidValue;
  cudaError_t error = cudaSuccess;
  if (contiguous) {
    error = launch(elements, static_cast<uint32_t>(blocks), true);
  } else if (blocks != 0) {
    bool first_part = true;
    error = in_parts(elements, [&](const Elements& part) {
      return launch(part, static_cast<uint32_t>(blocks), std::exchange(first_part, false));
    });
  }
  if (error != cudaSuccess || blocks == 1) return error;
  return combine(static_cast<uint32_t>(blocks));
}

}  // namespace fusedgrad::cuda

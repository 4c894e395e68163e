// What NVRTC compiles of the sums of a fused function's outputs: as cuda/fused.cuh, and
//
//   using Outputs = Totals<float>;
//   FUSEDGRAD_SUM_KERNEL(contiguous, Fused<float>, Contiguous<float, 0, 2>)
//   FUSEDGRAD_COMBINE_KERNEL(float)
#pragma once

#include "cuda/reduction_kernel.cuh"

#define FUSEDGRAD_SUM_KERNEL(name, Functor, ...)                                                   \
  extern "C" __global__ void __launch_bounds__(fusedgrad::cuda::kThreads) name(                    \
      const __grid_constant__ Functor functor, const __grid_constant__ __VA_ARGS__ operands,       \
      uint32_t full_tiles, uint32_t rest, fusedgrad::cuda::SumsOf<__VA_ARGS__, Outputs>* partials, \
      bool first_part, double scale, const __grid_constant__ Outputs totals) {                     \
    fusedgrad::cuda::sum_tiles(functor, operands, full_tiles, rest, partials, first_part, scale,   \
                               totals);                                                            \
  }

#define FUSEDGRAD_COMBINE_KERNEL(T)                                                     \
  extern "C" __global__ void __launch_bounds__(fusedgrad::cuda::kCombineThreads)        \
      combine(const fusedgrad::cuda::Sums<T, Outputs::kSums>* partials, uint32_t count, \
              double scale, const __grid_constant__ Outputs totals) {                   \
    fusedgrad::cuda::combine_blocks(partials, count, scale, totals);                    \
  }

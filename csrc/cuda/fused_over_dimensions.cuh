// What NVRTC compiles of a fused function whose outputs are summed over dimensions, here the second
// of three: as cuda/fused.cuh, and
//
//   constexpr uint32_t kSummed = 0b010;
//   using Targets = SumTargets<float>;
//   FUSEDGRAD_SUMMED_KERNEL(contiguous, Fused<float>, SummedOver<float, 4, 2, float, ..., float>)
//   FUSEDGRAD_SUMMED_KERNEL(strided, Fused<float>, SummedOver<float, 1, 2, float, ..., float>)
//   FUSEDGRAD_COMBINE_PIECES_KERNEL(float)
#pragma once

#include "cuda/summed_kernel.cuh"

#define FUSEDGRAD_SUMMED_KERNEL(name, Functor, ...)                                               \
  extern "C" __global__ void __launch_bounds__(fusedgrad::cuda::kThreads)                         \
      name(const __grid_constant__ Functor functor, const __grid_constant__ __VA_ARGS__ operands, \
           const __grid_constant__ fusedgrad::cuda::SumPlan plan,                                 \
           fusedgrad::cuda::Sum<__VA_ARGS__::Element>* partials,                                  \
           const __grid_constant__ Targets targets) {                                             \
    fusedgrad::cuda::sum_over_dimensions<kSummed>(functor, operands, plan, partials, targets);    \
  }

#define FUSEDGRAD_COMBINE_PIECES_KERNEL(T)                                                        \
  extern "C" __global__ void __launch_bounds__(fusedgrad::cuda::kThreads)                         \
      combine(const fusedgrad::cuda::Sum<T>* partials, uint32_t kept, int count, uint32_t pieces, \
              int kept_lanes, const __grid_constant__ Targets targets) {                          \
    fusedgrad::cuda::combine_pieces(partials, kept, count, pieces, kept_lanes, targets);          \
  }

// What NVRTC compiles of a fused function: its functor, and these kernels of it, which
// csrc/cuda/fused.cu launches by their names.
//
//   FUSEDGRAD_KERNEL(contiguous, Fused<float>, Contiguous<float, 1, 2>)
//   FUSEDGRAD_KERNEL(strided, Fused<float>, Strided<float, 1, 2>)
#pragma once

#include "cuda/elementwise_kernel.cuh"

#define FUSEDGRAD_KERNEL(name, Functor, ...)                                                      \
  extern "C" __global__ void __launch_bounds__(fusedgrad::cuda::kThreads)                         \
      name(const __grid_constant__ Functor functor, const __grid_constant__ __VA_ARGS__ operands, \
           uint32_t full_tiles, uint32_t rest, uint32_t size) {                                   \
    fusedgrad::cuda::evaluate_tile(functor, operands, full_tiles, rest, size);                    \
  }

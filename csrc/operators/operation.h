// An operation as every backend knows it: the same name on each floor.
//
//   elementwise(FUSEDGRAD_OPERATION(sigmoid_backward), {grad, input})
//   elementwise(FUSEDGRAD_OPERATION(pow_scalar, exponent), {input})
#pragma once

#include "cpu/kernel.h"

#ifdef FUSEDGRAD_CUDA
#include "cuda/launch.h"
#endif

namespace fusedgrad::operators {

#ifdef FUSEDGRAD_CUDA
// A launcher of csrc/cuda with its parameter, if it has one.
class CudaLauncher {
 public:
  CudaLauncher(cuda::Elementwise* launch) : plain_(launch) {}  // NOLINT: a launcher is one
  CudaLauncher(cuda::ElementwiseWithParameter* launch, double parameter)
      : with_parameter_(launch), parameter_(parameter) {}

  cudaError_t operator()(DType dtype, const cuda::Elements& elements, cudaStream_t stream) const {
    return plain_ != nullptr ? plain_(dtype, elements, stream)
                             : with_parameter_(dtype, elements, parameter_, stream);
  }

 private:
  cuda::Elementwise* plain_ = nullptr;
  cuda::ElementwiseWithParameter* with_parameter_ = nullptr;
  double parameter_ = 0;
};
#endif

struct Operation {
  const char* name;
  cpu::Kernel cpu;
#ifdef FUSEDGRAD_CUDA
  CudaLauncher cuda;
#endif
};

// An operation of one output that can be summed as it is computed.
struct Summable : Operation {
#ifdef FUSEDGRAD_CUDA
  cuda::Reduction* cuda_sum;
#endif
};

#ifdef FUSEDGRAD_CUDA
#define FUSEDGRAD_OPERATION(operation, ...)                   \
  ::fusedgrad::operators::Operation {                         \
    #operation, ::fusedgrad::cpu::operation(__VA_ARGS__), {   \
      ::fusedgrad::cuda::operation __VA_OPT__(, ) __VA_ARGS__ \
    }                                                         \
  }
#define FUSEDGRAD_SUMMABLE(operation)                                  \
  ::fusedgrad::operators::Summable {                                   \
    FUSEDGRAD_OPERATION(operation), ::fusedgrad::cuda::operation##_sum \
  }
#else
#define FUSEDGRAD_OPERATION(operation, ...) \
  ::fusedgrad::operators::Operation { #operation, ::fusedgrad::cpu::operation(__VA_ARGS__) }
#define FUSEDGRAD_SUMMABLE(operation) \
  ::fusedgrad::operators::Summable { FUSEDGRAD_OPERATION(operation) }
#endif

// Registers the same functions for every device that has kernels.
#ifdef FUSEDGRAD_CUDA
#define FUSEDGRAD_IMPLEMENT(m)                                       \
  static void implement_operators(torch::Library& m);                \
  TORCH_LIBRARY_IMPL(fusedgrad, CPU, m) { implement_operators(m); }  \
  TORCH_LIBRARY_IMPL(fusedgrad, CUDA, m) { implement_operators(m); } \
  static void implement_operators(torch::Library& m)
#else
#define FUSEDGRAD_IMPLEMENT(m) TORCH_LIBRARY_IMPL(fusedgrad, CPU, m)
#endif

}  // namespace fusedgrad::operators

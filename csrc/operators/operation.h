// An operation as every backend knows it: the same name on each floor.
//
//   elementwise(FUSEDGRAD_OPERATION(sigmoid_backward), {grad, input})
//   elementwise(FUSEDGRAD_OPERATION(pow_scalar, exponent), {input})
#pragma once

#include "cpu/kernel.h"

#ifdef FUSEDGRAD_CUDA
#include "cuda/launch.h"
#include "cuda/sums.h"
#endif

namespace fusedgrad::operators {

#ifdef FUSEDGRAD_CUDA
// A launcher of csrc/cuda with its parameters, if it has any; none for what runs on the CPU alone.
class CudaLauncher {
 public:
  CudaLauncher() = default;
  CudaLauncher(cuda::Elementwise* launch) : plain_(launch) {}  // NOLINT: a launcher is one
  CudaLauncher(cuda::ElementwiseWithParameter* launch, double parameter)
      : with_parameter_(launch), first_(parameter) {}
  CudaLauncher(cuda::ElementwiseWithTwoParameters* launch, double first, double second)
      : with_two_(launch), first_(first), second_(second) {}

  cudaError_t operator()(DType dtype, const cuda::Elements& elements, cudaStream_t stream) const {
    if (plain_ != nullptr) return plain_(dtype, elements, stream);
    if (with_parameter_ != nullptr) return with_parameter_(dtype, elements, first_, stream);
    return with_two_(dtype, elements, first_, second_, stream);
  }

 private:
  cuda::Elementwise* plain_ = nullptr;
  cuda::ElementwiseWithParameter* with_parameter_ = nullptr;
  cuda::ElementwiseWithTwoParameters* with_two_ = nullptr;
  double first_ = 0;
  double second_ = 0;
};
#endif

struct Operation {
  const char* name;
  cpu::Kernel cpu;
#ifdef FUSEDGRAD_CUDA
  CudaLauncher cuda = {};
#endif
};

// An operation of one output that can be summed as it is computed.
struct Summable : Operation {
#ifdef FUSEDGRAD_CUDA
  cuda::Reduction* cuda_sum;
#endif
};

// An operation whose last output can be summed over dimensions as it is computed.
struct SummableOverDimensions : Operation {
#ifdef FUSEDGRAD_CUDA
  cuda::OverDimensions* cuda_over_dimensions;
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
#define FUSEDGRAD_SUMMABLE_OVER_DIMENSIONS(operation, ...)     \
  ::fusedgrad::operators::SummableOverDimensions {             \
    FUSEDGRAD_OPERATION(operation __VA_OPT__(, ) __VA_ARGS__), \
        ::fusedgrad::cuda::operation##_over_dimensions         \
  }
#else
#define FUSEDGRAD_OPERATION(operation, ...) \
  ::fusedgrad::operators::Operation { #operation, ::fusedgrad::cpu::operation(__VA_ARGS__) }
#define FUSEDGRAD_SUMMABLE(operation) \
  ::fusedgrad::operators::Summable { FUSEDGRAD_OPERATION(operation) }
#define FUSEDGRAD_SUMMABLE_OVER_DIMENSIONS(operation, ...)    \
  ::fusedgrad::operators::SummableOverDimensions {            \
    FUSEDGRAD_OPERATION(operation __VA_OPT__(, ) __VA_ARGS__) \
  }
#endif

// Registers the functions of a class: define() its schemas, implement() the kernels, the same for
// every device that has them, record() what autograd does.
#ifdef FUSEDGRAD_CUDA
#define FUSEDGRAD_IMPLEMENT(Class)                               \
  TORCH_LIBRARY_IMPL(fusedgrad, CPU, m) { Class::implement(m); } \
  TORCH_LIBRARY_IMPL(fusedgrad, CUDA, m) { Class::implement(m); }
#else
#define FUSEDGRAD_IMPLEMENT(Class) \
  TORCH_LIBRARY_IMPL(fusedgrad, CPU, m) { Class::implement(m); }
#endif
#define FUSEDGRAD_OPERATORS(Class)                           \
  TORCH_LIBRARY_FRAGMENT(fusedgrad, m) { Class::define(m); } \
  FUSEDGRAD_IMPLEMENT(Class)                                 \
  TORCH_LIBRARY_IMPL(fusedgrad, Autograd, m) { Class::record(m); }

}  // namespace fusedgrad::operators

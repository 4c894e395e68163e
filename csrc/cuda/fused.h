// Kernels compiled at run time: loading and launching them.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/launch.h"

namespace fusedgrad::cuda {

// A loaded kernel of cuda/fused.cuh. It stays loaded until the process ends.
struct FusedKernel {
  cudaKernel_t contiguous;  // null where the operands have several dtypes
  cudaKernel_t strided;
  int outputs;
  int inputs;
  bool wide;  // computed in double
  int bytes;  // of an element; where they differ, of the type it is computed in
};

// Loads the kernels `contiguous` (unless `mixed`) and `strided` of `code`, a cubin or PTX.
cudaError_t load_fused(const void* code, bool mixed, FusedKernel* kernel);

// `elements` as the kernel was compiled for; strides in bytes are each operand's own.
cudaError_t launch_fused(const FusedKernel& kernel, const Elements& elements,
                         const double* parameters, int parameter_count, cudaStream_t stream);

}  // namespace fusedgrad::cuda

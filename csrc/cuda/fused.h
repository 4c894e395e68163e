// Kernels compiled at run time: loading and launching them.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/launch.h"

namespace fusedgrad::cuda {

// A loaded kernel of cuda/fused.cuh. It stays loaded until the process ends.
struct FusedKernel {
  cudaKernel_t contiguous;  // null where the operands have several dtypes
  cudaKernel_t strided;
  cudaKernel_t combine;  // null unless the outputs are summed
  int outputs;
  int inputs;
  bool wide;  // computed in double
  int bytes;  // of an element; where they differ, of the type it is computed in
};

// Loads the kernels `contiguous` (unless `mixed`), `strided` and `combine` (if `sums`) of `code`, a
// cubin or PTX.
cudaError_t load_fused(const void* code, bool mixed, bool sums, FusedKernel* kernel);

// `elements` as the kernel was compiled for; strides in bytes are each operand's own.
cudaError_t launch_fused(const FusedKernel& kernel, const Elements& elements,
                         const double* parameters, int parameter_count, cudaStream_t stream);

// As a Reduction of cuda/launch.h for each output, of inputs of their own dtypes; `totals` has the
// address of each. It takes the workspace of one for each output.
cudaError_t launch_fused_sum(const FusedKernel& kernel, const Elements& elements,
                             const double* parameters, int parameter_count, double scale,
                             void* const* totals, void* workspace, int64_t workspace_bytes,
                             cudaStream_t stream);

}  // namespace fusedgrad::cuda

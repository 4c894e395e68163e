// Kernels compiled at run time: loading and launching them.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/launch.h"

namespace fusedgrad::cuda {

// A loaded kernel of cuda/fused.cuh or its likes. It stays loaded until the process ends.
struct FusedKernel {
  cudaKernel_t contiguous;
  cudaKernel_t strided;
  cudaKernel_t combine;  // null unless the outputs are summed
  int outputs;
  int inputs;
  bool wide;  // computed in double
  int bytes;  // of an element; where the operands have several dtypes, of the type it is computed
              // in
  int widths[kMaxOperands];  // bytes of an element of each operand that is no sum
  int widest;                // of them
  uint32_t summed;           // bit i: output i is summed over dimensions
};

// Loads the kernels `contiguous`, `strided` and `combine` (if `sums`) of `code`, a cubin or PTX.
cudaError_t load_fused(const void* code, bool sums, FusedKernel* kernel);

// `elements` as the kernel was compiled for; strides in bytes are each operand's own.
cudaError_t launch_fused(const FusedKernel& kernel, const Elements& elements,
                         const double* parameters, int parameter_count, cudaStream_t stream);

// As a Reduction of cuda/launch.h for each output, of inputs of their own dtypes; `totals` has the
// address of each. It takes the workspace of one for each output.
cudaError_t launch_fused_sum(const FusedKernel& kernel, const Elements& elements,
                             const double* parameters, int parameter_count, double scale,
                             void* const* totals, void* workspace, int64_t workspace_bytes,
                             cudaStream_t stream);

// `elements` has the outputs that are written, the inputs, and the sums: with strides 0 in the
// dimensions that they are over, all in the same. There is one element at least.
cudaError_t launch_fused_over_dimensions(const FusedKernel& kernel, const Elements& elements,
                                         const double* parameters, int parameter_count,
                                         void* workspace, int64_t workspace_bytes,
                                         cudaStream_t stream);

// What it needs of device memory, aligned to 16 bytes
int64_t workspace_bytes_over_dimensions(const FusedKernel& kernel, const Elements& elements);

}  // namespace fusedgrad::cuda

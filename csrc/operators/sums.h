// Results of kernels that are summed where they are computed, and not written to memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "cpu/kernel.h"
#include "operators/operation.h"

namespace fusedgrad::operators {

// Runs a kernel over the broadcast inputs. Output i with a defined tensor in `outputs` is written
// there; in the place of an undefined one comes its sum over the dimensions that are the bits of
// summed[i], bit 0 the last, which stay with size 1: of dtype dtypes[i], accumulated in float64 and
// rounded once, bit for bit the same for any number of threads.
void run_with_sums(const char* name, const cpu::Kernel& kernel, bool wide,
                   std::vector<at::Tensor>& outputs, at::TensorList inputs,
                   at::ArrayRef<at::ScalarType> dtypes, at::IntArrayRef summed);

#ifdef FUSEDGRAD_CUDA
// The same of a kernel for CUDA, which sums all that it does over the same dimensions: accumulated
// in twice the digits that it computes in, bit for bit the same for any order of blocks.
void run_with_sums(const char* name, const cuda::FusedKernel& kernel,
                   at::ArrayRef<double> parameters, std::vector<at::Tensor>& outputs,
                   at::TensorList inputs, at::ArrayRef<at::ScalarType> dtypes,
                   at::IntArrayRef summed);
#endif

// The outputs of an operation, of inputs of one dtype: the last of the shape of `like`, one of
// them, summed over the dimensions in which that was broadcast; one before it lies as `whole`.
std::vector<at::Tensor> elementwise_with_sum(const SummableOverDimensions& operation,
                                             const std::vector<at::Tensor>& inputs,
                                             const at::Tensor& like, at::Tensor whole = {});

}  // namespace fusedgrad::operators

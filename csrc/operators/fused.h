// Kernels compiled at run time, known by a number.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace fusedgrad::cuda {
struct FusedKernel;
}

namespace fusedgrad::operators {

// A kernel whose loaded code has its Block<double> (if `wide`) or Block<float> at `address`.
int64_t add_fused_kernel(uintptr_t address, bool wide, std::vector<uint64_t> used, int inputs,
                         int parameters);

// torch.ops.fusedgrad.fused, without what PyTorch spends on the arguments of any operator.
std::vector<at::Tensor> call_fused(int64_t kernel, at::TensorList inputs,
                                   at::ArrayRef<double> parameters,
                                   at::ArrayRef<at::ScalarType> dtypes, at::IntArrayRef summed);

// A tensor among several, and one of its rows (of its first dimension); -1 for all of it.
using Row = std::pair<int64_t, int64_t>;

// A kernel that reads rows of tensors and writes rows of results, which it finds among the tensors
// behind all inputs. It may write where it reads.
struct RowsStep {
  int64_t kernel;
  std::vector<Row> read;
  std::vector<Row> writes;
};

// Steps one after the other. `tensors` has for each input, and `results` for each result, how many
// rows it is, -1 for an operand itself; results are fresh, of the shape of all inputs together.
struct RowsKernel {
  std::vector<RowsStep> steps;
  std::vector<int64_t> tensors;
  std::vector<int64_t> results;
  std::vector<at::ScalarType> dtypes;
};

// Records nothing.
std::vector<at::Tensor> fused_rows(const RowsKernel& rows, const std::vector<at::Tensor>& inputs,
                                   const std::vector<double>& parameters);

#ifdef FUSEDGRAD_CUDA
// A kernel for CUDA whose machine code or PTX is `code`, for outputs and then inputs of `dtypes`.
// One of `sums` gives the sums of all elements of its outputs in their place; `summed` has bit i
// set where it sums output i over the dimensions that a call says.
int64_t add_fused_cuda_kernel(const std::string& code, bool wide, std::vector<uint64_t> used,
                              std::vector<at::ScalarType> dtypes, int parameters, bool sums,
                              uint32_t summed);

// A prebuilt one for CUDA, for operands that are all of one dtype; `used` as of add_fused_kernel.
int64_t add_prebuilt_cuda_kernel(const cuda::FusedKernel& kernel, at::ScalarType dtype,
                                 std::vector<uint64_t> used, int parameters);
#endif

// The kernel of the gradients of another, and those of its operands (the gradients of all outputs,
// then the inputs) that it reads.
struct FusedBackward {
  int64_t kernel;
  std::vector<int64_t> read;
};

// For tensors of one shape and a backward that is not differentiated again; `wanted` has bit i set
// where the gradient by input i is one of the results.
void set_fused_backward(int64_t kernel, uint64_t wanted, FusedBackward backward);

// Every other backward: the gradients that are wanted, of the shapes of the inputs. Gradients of
// outputs that nobody used are undefined.
using FusedDifferentiableBackward = std::vector<at::Tensor>(int64_t kernel,
                                                            const std::vector<at::Tensor>& grads,
                                                            const std::vector<at::Tensor>& inputs,
                                                            const std::vector<double>& parameters,
                                                            uint64_t wanted);

void set_fused_differentiable_backward(std::function<FusedDifferentiableBackward> function);

}  // namespace fusedgrad::operators

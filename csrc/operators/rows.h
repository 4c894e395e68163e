// Kernels whose operands are rows of a few tensors, under autograd: what Taylor mode runs on.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "operators/fused.h"

namespace fusedgrad::operators {

int64_t add_rows_kernel(RowsKernel kernel);

// Runs them by the number that it was added under, differentiable.
std::vector<at::Tensor> call_rows(int64_t number, const std::vector<at::Tensor>& inputs,
                                  const std::vector<double>& parameters);

// The gradients of a call: the results of another kernel, of the gradients of its results and then
// its inputs.
struct RowsBackward {
  int64_t number;
  std::vector<int64_t> targets;  // the inputs whose gradients the results are
  // Inputs whose gradient is the sum of a row of a result, which is another's gradient too
  std::vector<std::pair<int64_t, Row>> shared;
};

// For a backward that is not differentiated again. `needed` has bit i set where the gradient by
// input i is asked for, `summed` where that input was broadcast.
void set_rows_backward(int64_t number, uint64_t needed, uint64_t summed, RowsBackward backward);

// Every other backward: the gradients that are needed, of the shapes of the inputs.
using RowsDifferentiableBackward = std::vector<at::Tensor>(int64_t number,
                                                           const std::vector<at::Tensor>& grads,
                                                           const std::vector<at::Tensor>& inputs,
                                                           const std::vector<double>& parameters,
                                                           uint64_t needed, uint64_t summed);

void set_rows_differentiable_backward(std::function<RowsDifferentiableBackward> function);

// torch.unbind, whose backward makes one tensor of the rows that have a gradient.
std::vector<at::Tensor> unbound_rows(const at::Tensor& stack);

// torch.nn.functional.linear without a bias: one node, where no mode or transform sees to it.
at::Tensor linear_of_rows(const at::Tensor& input, const at::Tensor& weight);

}  // namespace fusedgrad::operators

// Runs the kernels over PyTorch's tensors: broadcasting, type promotion, strides and threads are
// at::TensorIterator's.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "cpu/kernel.h"

namespace fusedgrad::operators {

using at::Tensor;

struct Range {
  int input;  // which input of the kernel must lie in [0, 1]
};

// Applies the kernel and returns its outputs, the undefined ones of `outputs` freshly allocated
// with PyTorch's strides, the defined ones resized and cast as PyTorch does for `out=`. `name`
// stands in error messages.
std::vector<Tensor> elementwise(const char* name, const cpu::Kernel& kernel,
                                std::vector<Tensor> outputs, const std::vector<Tensor>& inputs,
                                std::optional<Range> unit_interval = std::nullopt);

// One fresh output.
Tensor elementwise(const char* name, const cpu::Kernel& kernel, const std::vector<Tensor>& inputs,
                   std::optional<Range> unit_interval = std::nullopt);

// scale * the sum of a one-output kernel over the broadcast inputs, a 0-dim tensor of their common
// dtype. Accumulated in float64, bit for bit the same for any number of threads.
Tensor scaled_sum(const char* name, const cpu::Kernel& kernel, const std::vector<Tensor>& inputs,
                  double scale, std::optional<Range> unit_interval = std::nullopt);

}  // namespace fusedgrad::operators

// Recording for reverse-mode differentiation.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <vector>

namespace fusedgrad::operators {

// A backward that is differentiated again, or transformed by torch.func: the gradients of the
// operands, of which `mask` asks for some. `operation` is the name of its class in
// fusedgrad.autograd, where such backwards are.
using DifferentiableBackward = std::vector<at::Tensor>(const std::string& operation,
                                                       const at::Tensor& grad,
                                                       const std::vector<at::Tensor>& operands,
                                                       const at::Scalar& parameter,
                                                       const std::vector<bool>& mask);

// Whether a transform of torch.func is active.
bool is_transformed();

void set_differentiable_backward(std::function<DifferentiableBackward> function);

}  // namespace fusedgrad::operators

// How operators are differentiated, in reverse and in forward mode, any number of times.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/function.h>

#include <vector>

namespace fusedgrad::operators {

using torch::autograd::variable_list;

// What an operation has besides its operands: an exponent or a reduction; an order of derivative.
struct Parameters {
  at::Scalar number = 0;
  int64_t order = 0;
};

// Differentiates one result of an operator. `backward` returns the gradients of the operands that
// `mask` asks for, at the broadcast shape, by that of the result. It consists of operators that are
// themselves differentiable, so that one rule serves every order. The result is elementwise in the
// operands, or a sum of what is: then its tangent is the sum of `backward` by each operand's. It is
// a holomorphic function of the last `inputs` operands, or, with factors before them, the product
// of the factors and the conjugate of one. `summed`, if there is one, returns the gradients of
// their operands' shapes, summed as they are computed, or none where it cannot: of dense tensors of
// one dtype, below autograd.
struct Rule {
  using Backward = variable_list(const at::Tensor& grad, const variable_list& operands,
                                 const Parameters& parameters, const std::vector<bool>& mask);

  const char* name;
  size_t inputs;
  Backward* backward;
  Backward* summed = nullptr;
};

// Whether a transform of torch.func is active.
bool is_transformed();

// Whether an operand has a tangent, or requires a gradient that would be recorded.
bool is_differentiated(at::TensorList operands);

// The result, which was computed below autograd, with its history and its tangent. An undefined
// operand is one that is absent.
at::Tensor recorded(at::Tensor result, const Rule& rule, at::TensorList operands,
                    const Parameters& parameters = {});

template <class Forward>
auto below_autograd(const Forward& forward) {
  const at::AutoDispatchBelowADInplaceOrView guard;
  return forward();
}

// The gradients that were wanted, each in its place
template <class Mask>
variable_list spread(const std::vector<at::Tensor>& wanted, const Mask& mask) {
  variable_list results(mask.size());
  auto next = wanted.begin();
  for (size_t i = 0; i < mask.size(); ++i) {
    if (mask[i]) results[i] = *next++;
  }
  return results;
}

// Of a real tensor, itself: PyTorch would ask its dispatcher.
inline at::Tensor conjugate(const at::Tensor& tensor) {
  return tensor.is_complex() ? tensor.conj() : tensor;
}

}  // namespace fusedgrad::operators

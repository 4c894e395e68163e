#include "cpu/pow.h"

#include <ATen/ScalarOps.h>
#include <ATen/native/TypeProperties.h>
#include <ATen/ops/pow.h>
#include <torch/library.h>

#include "operators/elementwise.h"
#include "operators/layout.h"

namespace fusedgrad::operators {
namespace {

bool has_kernel(at::ScalarType type) { return at::isFloatingType(type); }

void pow_tensor_scalar_out(const Tensor& input, const at::Scalar& exponent, Tensor out) {
  const at::ScalarType type = at::result_type(input, exponent);
  if (has_kernel(type)) {
    elementwise(FUSEDGRAD_OPERATION(pow_scalar, exponent.toDouble()), {out}, {input.to(type)});
  } else {
    at::pow_out(out, input, exponent);
  }
}

void pow_tensor_tensor_out(const Tensor& input, const Tensor& exponent, Tensor out) {
  if (has_kernel(at::result_type(input, exponent))) {
    elementwise(FUSEDGRAD_OPERATION(pow), {out}, {input, exponent});
  } else {
    at::pow_out(out, input, exponent);
  }
}

// PyTorch's own promotion and integer arithmetic where the result is not floating point.
Tensor pow_tensor_scalar(const Tensor& input, const at::Scalar& exponent) {
  const at::ScalarType type = at::result_type(input, exponent);
  if (!has_kernel(type)) return at::pow(input, exponent);
  return elementwise(FUSEDGRAD_OPERATION(pow_scalar, exponent.toDouble()), {input.to(type)});
}

Tensor pow_tensor_tensor(const Tensor& input, const Tensor& exponent) {
  if (!has_kernel(at::result_type(input, exponent))) return at::pow(input, exponent);
  return elementwise(FUSEDGRAD_OPERATION(pow), {input, exponent});
}

// A Python number takes part in type promotion as a number, not as a tensor.
Tensor pow_scalar(const at::Scalar& input, const Tensor& exponent) {
  return pow_tensor_tensor(at::native::wrapped_scalar_tensor(input, exponent.device()), exponent);
}

void pow_scalar_out(const at::Scalar& input, const Tensor& exponent, Tensor out) {
  pow_tensor_tensor_out(at::native::wrapped_scalar_tensor(input, exponent.device()), exponent, out);
}

Tensor pow_backward_tensor_scalar(const Tensor& grad, const Tensor& input,
                                  const at::Scalar& exponent) {
  return elementwise(FUSEDGRAD_OPERATION(pow_scalar_backward, exponent.toDouble()), {grad, input});
}

std::tuple<Tensor, Tensor> pow_double_backward_tensor_scalar(const Tensor& grad_grad,
                                                             const Tensor& grad,
                                                             const Tensor& input,
                                                             const at::Scalar& exponent) {
  const std::vector<Tensor> results =
      elementwise(FUSEDGRAD_OPERATION(pow_scalar_double_backward, exponent.toDouble()),
                  {Tensor(), Tensor()}, {grad_grad, grad, input});
  return {results[0], results[1]};
}

std::vector<Tensor> pow_backward_tensor_tensor(const Tensor& grad, const Tensor& input,
                                               const Tensor& exponent,
                                               std::array<bool, 2> output_mask) {
  const std::vector<Tensor> inputs = {grad, input, exponent};
  // where(exponent == 0, 0, grad * (exponent * input**(exponent - 1)))
  const auto for_input = [&] {
    const Tensor power = layout({input, layout({exponent})});
    return layout({layout({exponent}), layout({grad, layout({exponent, power})})});
  };
  // grad * where((input == 0) & (exponent >= 0), 0, result * log(input))
  const auto for_exponent = [&] {
    const Tensor condition = layout({layout({input}), layout({exponent})});
    const Tensor product = layout({layout({input, exponent}), layout({input})});
    return layout({grad, layout({condition, product})});
  };
  if (output_mask[0] && output_mask[1]) {
    return elementwise(FUSEDGRAD_OPERATION(pow_backward),
                       {empty_as(for_input, inputs), empty_as(for_exponent, inputs)}, inputs);
  }
  if (output_mask[0]) {
    return elementwise(FUSEDGRAD_OPERATION(pow_backward_input), {empty_as(for_input, inputs)},
                       inputs);
  }
  if (output_mask[1]) {
    return elementwise(FUSEDGRAD_OPERATION(pow_backward_exponent), {empty_as(for_exponent, inputs)},
                       inputs);
  }
  return {};
}

std::tuple<Tensor, Tensor, Tensor> pow_double_backward_tensor_tensor(
    const Tensor& grad_grad_input, const Tensor& grad_grad_exponent, const Tensor& grad,
    const Tensor& input, const Tensor& exponent) {
  const std::vector<Tensor> results =
      elementwise(FUSEDGRAD_OPERATION(pow_double_backward), {Tensor(), Tensor(), Tensor()},
                  {grad_grad_input, grad_grad_exponent, grad, input, exponent});
  return {results[0], results[1], results[2]};
}

}  // namespace

FUSEDGRAD_IMPLEMENT(m) {
  m.impl("pow.Tensor_Scalar", pow_tensor_scalar);
  m.impl("pow.Tensor_Tensor", pow_tensor_tensor);
  m.impl("pow.Scalar", pow_scalar);
  m.impl("pow.Tensor_Scalar_out", pow_tensor_scalar_out);
  m.impl("pow.Tensor_Tensor_out", pow_tensor_tensor_out);
  m.impl("pow.Scalar_out", pow_scalar_out);
  m.impl("pow_backward.Tensor_Scalar", pow_backward_tensor_scalar);
  m.impl("pow_backward.Tensor_Tensor", pow_backward_tensor_tensor);
  m.impl("pow_double_backward.Tensor_Scalar", pow_double_backward_tensor_scalar);
  m.impl("pow_double_backward.Tensor_Tensor", pow_double_backward_tensor_tensor);
}

}  // namespace fusedgrad::operators

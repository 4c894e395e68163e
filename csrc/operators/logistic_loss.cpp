#include "cpu/logistic_loss.h"

#include <ATen/ExpandUtils.h>
#include <ATen/core/Reduction.h>
#include <ATen/ops/ones.h>
#include <torch/library.h>

#include "operators/elementwise.h"

namespace fusedgrad::operators {
namespace {

using OptionalTensor = std::optional<Tensor>;

constexpr Range kFirstInput{0};

void check_target(const char* name, const Tensor& input, const Tensor& target) {
  TORCH_CHECK_VALUE(target.sizes() == input.sizes(), name, ": target has size ", target.sizes(),
                    ", expected the size of input, ", input.sizes());
}

void check_reduction(const char* name, int64_t reduction) {
  TORCH_CHECK_VALUE(reduction == at::Reduction::None || reduction == at::Reduction::Mean ||
                        reduction == at::Reduction::Sum,
                    name, ": reduction is ", reduction, ", expected 0 (none), 1 (mean) or 2 (sum)");
}

// A weight that was not given counts as one.
Tensor or_one(const OptionalTensor& weight, const Tensor& input) {
  return weight ? *weight : at::ones({}, input.options());
}

// The number of losses that a mean is over: input and target, broadcast with the weights.
double scale_of(int64_t reduction, const Tensor& input,
                const std::vector<OptionalTensor>& weights) {
  if (reduction != at::Reduction::Mean) return 1;
  at::DimVector sizes(input.sizes());
  for (const OptionalTensor& weight : weights) {
    if (weight) sizes = at::infer_size_dimvector(sizes, weight->sizes());
  }
  return 1.0 / static_cast<double>(c10::multiply_integers(sizes));
}

Tensor loss(const char* name, const cpu::Kernel& kernel, const std::vector<Tensor>& inputs,
            int64_t reduction, double scale, std::optional<Range> unit_interval) {
  if (reduction == at::Reduction::None) return elementwise(name, kernel, inputs, unit_interval);
  return scaled_sum(name, kernel, inputs, scale, unit_interval);
}

Tensor binary_cross_entropy_with_logits(const Tensor& input, const Tensor& target,
                                        const OptionalTensor& weight,
                                        const OptionalTensor& pos_weight, int64_t reduction) {
  const char* name = "binary_cross_entropy_with_logits";
  check_target(name, input, target);
  check_reduction(name, reduction);
  const double scale = scale_of(reduction, input, {weight, pos_weight});
  if (!weight && !pos_weight) {
    return loss(name, cpu::binary_cross_entropy_with_logits(), {input, target}, reduction, scale,
                std::nullopt);
  }
  return loss(name, cpu::binary_cross_entropy_with_logits_weighted(),
              {input, target, or_one(weight, input), or_one(pos_weight, input)}, reduction, scale,
              std::nullopt);
}

std::vector<Tensor> binary_cross_entropy_with_logits_backward(
    const Tensor& grad, const Tensor& input, const Tensor& target, const OptionalTensor& weight,
    const OptionalTensor& pos_weight, int64_t reduction, std::array<bool, 4> output_mask) {
  const char* name = "binary_cross_entropy_with_logits_backward";
  check_target(name, input, target);
  check_reduction(name, reduction);
  const double scale = scale_of(reduction, input, {weight, pos_weight});
  std::vector<Tensor> results;
  if (output_mask[0] && !weight && !pos_weight) {
    results.push_back(elementwise(name, cpu::binary_cross_entropy_with_logits_backward(scale),
                                  {grad, input, target}));
    output_mask[0] = false;
  }
  constexpr std::array kernels = {cpu::binary_cross_entropy_with_logits_backward_weighted,
                                  cpu::binary_cross_entropy_with_logits_backward_target,
                                  cpu::binary_cross_entropy_with_logits_backward_weight,
                                  cpu::binary_cross_entropy_with_logits_backward_pos_weight};
  for (size_t i = 0; i < kernels.size(); ++i) {
    if (!output_mask[i]) continue;
    results.push_back(
        elementwise(name, kernels[i](scale),
                    {grad, input, target, or_one(weight, input), or_one(pos_weight, input)}));
  }
  return results;
}

std::tuple<Tensor, Tensor> binary_cross_entropy_with_logits_double_backward(
    const Tensor& grad_grad, const Tensor& grad, const Tensor& input, const Tensor& target,
    const OptionalTensor& weight, const OptionalTensor& pos_weight, int64_t reduction) {
  const char* name = "binary_cross_entropy_with_logits_double_backward";
  check_target(name, input, target);
  check_reduction(name, reduction);
  const std::vector<Tensor> results = elementwise(
      name,
      cpu::binary_cross_entropy_with_logits_double_backward(
          scale_of(reduction, input, {weight, pos_weight})),
      {Tensor(), Tensor()},
      {grad_grad, grad, input, target, or_one(weight, input), or_one(pos_weight, input)});
  return {results[0], results[1]};
}

Tensor binary_cross_entropy(const Tensor& input, const Tensor& target, const OptionalTensor& weight,
                            int64_t reduction) {
  const char* name = "binary_cross_entropy";
  check_target(name, input, target);
  check_reduction(name, reduction);
  const double scale = scale_of(reduction, input, {weight});
  if (!weight) {
    return loss(name, cpu::binary_cross_entropy(), {input, target}, reduction, scale, kFirstInput);
  }
  return loss(name, cpu::binary_cross_entropy_weighted(), {input, target, *weight}, reduction,
              scale, kFirstInput);
}

std::vector<Tensor> binary_cross_entropy_backward(const Tensor& grad, const Tensor& input,
                                                  const Tensor& target,
                                                  const OptionalTensor& weight, int64_t reduction,
                                                  std::array<bool, 3> output_mask) {
  const char* name = "binary_cross_entropy_backward";
  check_target(name, input, target);
  check_reduction(name, reduction);
  const double scale = scale_of(reduction, input, {weight});
  std::vector<Tensor> results;
  if (output_mask[0] && !weight) {
    results.push_back(
        elementwise(name, cpu::binary_cross_entropy_backward(scale), {grad, input, target}));
    output_mask[0] = false;
  }
  constexpr std::array kernels = {cpu::binary_cross_entropy_backward_weighted,
                                  cpu::binary_cross_entropy_backward_target,
                                  cpu::binary_cross_entropy_backward_weight};
  for (size_t i = 0; i < kernels.size(); ++i) {
    if (!output_mask[i]) continue;
    results.push_back(
        elementwise(name, kernels[i](scale), {grad, input, target, or_one(weight, input)}));
  }
  return results;
}

std::tuple<Tensor, Tensor> binary_cross_entropy_double_backward(
    const Tensor& grad_grad, const Tensor& grad, const Tensor& input, const Tensor& target,
    const OptionalTensor& weight, int64_t reduction) {
  const char* name = "binary_cross_entropy_double_backward";
  check_target(name, input, target);
  check_reduction(name, reduction);
  const std::vector<Tensor> results = elementwise(
      name, cpu::binary_cross_entropy_double_backward(scale_of(reduction, input, {weight})),
      {Tensor(), Tensor()}, {grad_grad, grad, input, target, or_one(weight, input)});
  return {results[0], results[1]};
}

}  // namespace

TORCH_LIBRARY_IMPL(fusedgrad, CPU, m) {
  m.impl("binary_cross_entropy_with_logits", binary_cross_entropy_with_logits);
  m.impl("binary_cross_entropy_with_logits_backward", binary_cross_entropy_with_logits_backward);
  m.impl("binary_cross_entropy_with_logits_double_backward",
         binary_cross_entropy_with_logits_double_backward);
  m.impl("binary_cross_entropy", binary_cross_entropy);
  m.impl("binary_cross_entropy_backward", binary_cross_entropy_backward);
  m.impl("binary_cross_entropy_double_backward", binary_cross_entropy_double_backward);
}

}  // namespace fusedgrad::operators

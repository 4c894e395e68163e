#include "cpu/logistic_loss.h"

#include <ATen/ExpandUtils.h>
#include <ATen/core/Reduction.h>
#include <ATen/ops/ones.h>
#include <torch/library.h>

#include "operators/elementwise.h"

namespace fusedgrad::operators {
namespace {

using OptionalTensor = std::optional<Tensor>;

// The factor 1/N of a mean, 1 of the other reductions; checks the arguments of every operator here
// first. N counts the losses: input and target, broadcast with the weights.
double scale_of(const char* name, const Tensor& input, const Tensor& target,
                const std::vector<OptionalTensor>& weights, int64_t reduction) {
  TORCH_CHECK_VALUE(target.sizes() == input.sizes(), name, ": target has size ", target.sizes(),
                    ", expected the size of input, ", input.sizes());
  TORCH_CHECK_VALUE(reduction == at::Reduction::None || reduction == at::Reduction::Mean ||
                        reduction == at::Reduction::Sum,
                    name, ": reduction is ", reduction, ", expected 0 (none), 1 (mean) or 2 (sum)");
  if (reduction != at::Reduction::Mean) return 1;
  at::DimVector sizes(input.sizes());
  for (const OptionalTensor& weight : weights) {
    if (weight) sizes = at::infer_size_dimvector(sizes, weight->sizes());
  }
  return 1.0 / static_cast<double>(c10::multiply_integers(sizes));
}

// A weight that was not given counts as one.
Tensor or_one(const OptionalTensor& weight, const Tensor& input) {
  return weight ? *weight : at::ones({}, input.options());
}

Tensor loss(const Summable& operation, const std::vector<Tensor>& inputs, int64_t reduction,
            double scale, Domain domain = Domain::Any) {
  if (reduction == at::Reduction::None) return elementwise(operation, inputs, domain);
  return scaled_sum(operation, inputs, scale, domain);
}

Tensor binary_cross_entropy_with_logits(const Tensor& input, const Tensor& target,
                                        const OptionalTensor& weight,
                                        const OptionalTensor& pos_weight, int64_t reduction) {
  const double scale =
      scale_of("binary_cross_entropy_with_logits", input, target, {weight, pos_weight}, reduction);
  if (!weight && !pos_weight) {
    return loss(FUSEDGRAD_SUMMABLE(binary_cross_entropy_with_logits), {input, target}, reduction,
                scale);
  }
  return loss(FUSEDGRAD_SUMMABLE(binary_cross_entropy_with_logits_weighted),
              {input, target, or_one(weight, input), or_one(pos_weight, input)}, reduction, scale);
}

std::vector<Tensor> binary_cross_entropy_with_logits_backward(
    const Tensor& grad, const Tensor& input, const Tensor& target, const OptionalTensor& weight,
    const OptionalTensor& pos_weight, int64_t reduction, std::array<bool, 4> output_mask) {
  const double scale = scale_of("binary_cross_entropy_with_logits_backward", input, target,
                                {weight, pos_weight}, reduction);
  const bool weighted = weight || pos_weight;
  std::vector<Tensor> results;
  if (output_mask[0] && !weighted) {
    results.push_back(
        elementwise(FUSEDGRAD_OPERATION(binary_cross_entropy_with_logits_backward, scale),
                    {grad, input, target}));
    output_mask[0] = false;
  }
  const Operation operations[] = {
      FUSEDGRAD_OPERATION(binary_cross_entropy_with_logits_backward_weighted, scale),
      FUSEDGRAD_OPERATION(binary_cross_entropy_with_logits_backward_target, scale),
      FUSEDGRAD_OPERATION(binary_cross_entropy_with_logits_backward_weight, scale),
      FUSEDGRAD_OPERATION(binary_cross_entropy_with_logits_backward_pos_weight, scale)};
  for (size_t i = 0; i < output_mask.size(); ++i) {
    if (!output_mask[i]) continue;
    results.push_back(elementwise(
        operations[i], {grad, input, target, or_one(weight, input), or_one(pos_weight, input)}));
  }
  return results;
}

std::tuple<Tensor, Tensor> binary_cross_entropy_with_logits_double_backward(
    const Tensor& grad_grad, const Tensor& grad, const Tensor& input, const Tensor& target,
    const OptionalTensor& weight, const OptionalTensor& pos_weight, int64_t reduction) {
  const double scale = scale_of("binary_cross_entropy_with_logits_double_backward", input, target,
                                {weight, pos_weight}, reduction);
  const std::vector<Tensor> results = elementwise(
      FUSEDGRAD_OPERATION(binary_cross_entropy_with_logits_double_backward, scale),
      {Tensor(), Tensor()},
      {grad_grad, grad, input, target, or_one(weight, input), or_one(pos_weight, input)});
  return {results[0], results[1]};
}

Tensor binary_cross_entropy(const Tensor& input, const Tensor& target, const OptionalTensor& weight,
                            int64_t reduction) {
  const double scale = scale_of("binary_cross_entropy", input, target, {weight}, reduction);
  if (!weight) {
    return loss(FUSEDGRAD_SUMMABLE(binary_cross_entropy), {input, target}, reduction, scale,
                Domain::UnitInterval);
  }
  return loss(FUSEDGRAD_SUMMABLE(binary_cross_entropy_weighted), {input, target, *weight},
              reduction, scale, Domain::UnitInterval);
}

std::vector<Tensor> binary_cross_entropy_backward(const Tensor& grad, const Tensor& input,
                                                  const Tensor& target,
                                                  const OptionalTensor& weight, int64_t reduction,
                                                  std::array<bool, 3> output_mask) {
  const double scale =
      scale_of("binary_cross_entropy_backward", input, target, {weight}, reduction);
  std::vector<Tensor> results;
  if (output_mask[0] && !weight) {
    results.push_back(elementwise(FUSEDGRAD_OPERATION(binary_cross_entropy_backward, scale),
                                  {grad, input, target}));
    output_mask[0] = false;
  }
  const Operation operations[] = {
      FUSEDGRAD_OPERATION(binary_cross_entropy_backward_weighted, scale),
      FUSEDGRAD_OPERATION(binary_cross_entropy_backward_target, scale),
      FUSEDGRAD_OPERATION(binary_cross_entropy_backward_weight, scale)};
  for (size_t i = 0; i < output_mask.size(); ++i) {
    if (!output_mask[i]) continue;
    results.push_back(elementwise(operations[i], {grad, input, target, or_one(weight, input)}));
  }
  return results;
}

std::tuple<Tensor, Tensor> binary_cross_entropy_double_backward(
    const Tensor& grad_grad, const Tensor& grad, const Tensor& input, const Tensor& target,
    const OptionalTensor& weight, int64_t reduction) {
  const double scale =
      scale_of("binary_cross_entropy_double_backward", input, target, {weight}, reduction);
  const std::vector<Tensor> results =
      elementwise(FUSEDGRAD_OPERATION(binary_cross_entropy_double_backward, scale),
                  {Tensor(), Tensor()}, {grad_grad, grad, input, target, or_one(weight, input)});
  return {results[0], results[1]};
}

}  // namespace

FUSEDGRAD_IMPLEMENT(m) {
  m.impl("binary_cross_entropy_with_logits", binary_cross_entropy_with_logits);
  m.impl("binary_cross_entropy_with_logits_backward", binary_cross_entropy_with_logits_backward);
  m.impl("binary_cross_entropy_with_logits_double_backward",
         binary_cross_entropy_with_logits_double_backward);
  m.impl("binary_cross_entropy", binary_cross_entropy);
  m.impl("binary_cross_entropy_backward", binary_cross_entropy_backward);
  m.impl("binary_cross_entropy_double_backward", binary_cross_entropy_double_backward);
}

}  // namespace fusedgrad::operators

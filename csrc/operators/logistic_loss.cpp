#include "cpu/logistic_loss.h"

#include <ATen/ExpandUtils.h>
#include <ATen/core/Reduction.h>
#include <ATen/ops/ones.h>
#include <torch/library.h>

#include "operators/elementwise.h"
#include "operators/layout.h"

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

// A fresh result that lies as PyTorch's operations on one of the inputs leave it.
Tensor empty_as_one(const Tensor& input, const std::vector<Tensor>& inputs) {
  return empty_as([&] { return layout({input}); }, inputs);
}

// The losses lie as `like`, one of the inputs.
Tensor loss(const Summable& operation, const std::vector<Tensor>& inputs, const Tensor& like,
            int64_t reduction, double scale, Domain domain = Domain::Any) {
  if (reduction != at::Reduction::None) return scaled_sum(operation, inputs, scale, domain);
  return elementwise(operation, {empty_as_one(like, inputs)}, inputs, domain)[0];
}

// A gradient, which lies as the input does.
Tensor gradient(const Operation& operation, const std::vector<Tensor>& grad_input_target_weights) {
  const Tensor result = empty_as_one(grad_input_target_weights[1], grad_input_target_weights);
  return elementwise(operation, {result}, grad_input_target_weights)[0];
}

Tensor binary_cross_entropy_with_logits(const Tensor& input, const Tensor& target,
                                        const OptionalTensor& weight,
                                        const OptionalTensor& pos_weight, int64_t reduction) {
  const double scale =
      scale_of("binary_cross_entropy_with_logits", input, target, {weight, pos_weight}, reduction);
  if (!weight && !pos_weight) {
    return loss(FUSEDGRAD_SUMMABLE(binary_cross_entropy_with_logits), {input, target}, target,
                reduction, scale);
  }
  return loss(FUSEDGRAD_SUMMABLE(binary_cross_entropy_with_logits_weighted),
              {input, target, or_one(weight, input), or_one(pos_weight, input)}, target, reduction,
              scale);
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
        gradient(FUSEDGRAD_OPERATION(binary_cross_entropy_with_logits_backward, scale),
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
    const std::vector<Tensor> inputs = {grad, input, target, or_one(weight, input),
                                        or_one(pos_weight, input)};
    // PyTorch's formulas begin with pos_weight * target, and with log_sigmoid(-input), which on the
    // CPU is contiguous.
    if (i == 0 && pos_weight) {
      const auto product = [&] { return layout({*pos_weight, target}); };
      results.push_back(elementwise(operations[i], {empty_as(product, inputs)}, inputs)[0]);
    } else if (i == 1 && pos_weight && input.is_cpu()) {
      const Tensor result = empty_like(contiguous_layout(input.sizes()), inputs);
      results.push_back(elementwise(operations[i], {result}, inputs)[0]);
    } else {
      results.push_back(gradient(operations[i], inputs));
    }
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
    return loss(FUSEDGRAD_SUMMABLE(binary_cross_entropy), {input, target}, input, reduction, scale,
                Domain::UnitInterval);
  }
  return loss(FUSEDGRAD_SUMMABLE(binary_cross_entropy_weighted), {input, target, *weight}, input,
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
    results.push_back(
        gradient(FUSEDGRAD_OPERATION(binary_cross_entropy_backward, scale), {grad, input, target}));
    output_mask[0] = false;
  }
  const Operation operations[] = {
      FUSEDGRAD_OPERATION(binary_cross_entropy_backward_weighted, scale),
      FUSEDGRAD_OPERATION(binary_cross_entropy_backward_target, scale),
      FUSEDGRAD_OPERATION(binary_cross_entropy_backward_weight, scale)};
  for (size_t i = 0; i < output_mask.size(); ++i) {
    if (!output_mask[i]) continue;
    results.push_back(gradient(operations[i], {grad, input, target, or_one(weight, input)}));
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

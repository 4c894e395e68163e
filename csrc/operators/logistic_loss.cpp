#include "cpu/logistic_loss.h"

#include <ATen/ExpandUtils.h>
#include <ATen/core/Reduction.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/ones_like.h>
#include <torch/library.h>

#include "math/logistic_loss.h"
#include "operators/binary.h"
#include "operators/dispatch.h"
#include "operators/elementwise.h"
#include "operators/layout.h"
#include "operators/recording.h"
#include "operators/sums.h"

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

// A weight that was not given counts as one, a number of the CPU.
Tensor or_one(const OptionalTensor& weight, const Tensor& input) {
  return weight ? *weight : at::ones({}, input.options().device(at::kCPU));
}

// A fresh result that lies as PyTorch's operations on one of the inputs leave it.
Tensor empty_as_one(const Tensor& input, const std::vector<Tensor>& inputs) {
  return empty_as([&] { return layout({input}); }, inputs);
}

// The losses lie as `like`, one of the inputs.
Tensor loss(const Summable& operation, const std::vector<Tensor>& inputs, const Tensor& like,
            int64_t reduction, double scale, Domain domain = Domain::Any) {
  if (reduction != at::Reduction::None) return scaled_sum(operation, inputs, scale, domain);
  return elementwise(operation, inputs, empty_as_one(like, inputs), domain);
}

// A gradient, which lies as the input does.
Tensor gradient(const Operation& operation, const std::vector<Tensor>& grad_input_target_weights) {
  return elementwise(operation, grad_input_target_weights,
                     empty_as_one(grad_input_target_weights[1], grad_input_target_weights));
}

// The gradient by a weight, of its shape if it is `summed`.
Tensor gradient_by_weight(const SummableOverDimensions& operation,
                          const std::vector<Tensor>& grad_input_target_weights,
                          const Tensor& weight, bool summed) {
  if (!summed || weight.sizes() == grad_input_target_weights[1].sizes()) {
    return gradient(operation, grad_input_target_weights);
  }
  return elementwise_with_sum(operation, grad_input_target_weights, weight)[0];
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

// The gradients that are wanted, at the broadcast shape; those by weights of theirs if `summed`.
std::vector<Tensor> gradients_with_logits(const Tensor& grad, const Tensor& input,
                                          const Tensor& target, const OptionalTensor& weight,
                                          const OptionalTensor& pos_weight, int64_t reduction,
                                          std::array<bool, 4> output_mask, bool summed) {
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
      FUSEDGRAD_OPERATION(binary_cross_entropy_with_logits_backward_target, scale)};
  const SummableOverDimensions of_weights[] = {
      FUSEDGRAD_SUMMABLE_OVER_DIMENSIONS(binary_cross_entropy_with_logits_backward_weight, scale),
      FUSEDGRAD_SUMMABLE_OVER_DIMENSIONS(binary_cross_entropy_with_logits_backward_pos_weight,
                                         scale)};
  for (size_t i = 0; i < output_mask.size(); ++i) {
    if (!output_mask[i]) continue;
    const std::vector<Tensor> inputs = {grad, input, target, or_one(weight, input),
                                        or_one(pos_weight, input)};
    // PyTorch's formulas begin with pos_weight * target, and with log_sigmoid(-input), which on the
    // CPU is contiguous.
    if (i > 1) {
      results.push_back(gradient_by_weight(of_weights[i - 2], inputs, inputs[i + 1], summed));
    } else if (i == 0 && pos_weight) {
      const auto product = [&] { return layout({*pos_weight, target}); };
      results.push_back(elementwise(operations[i], inputs, empty_as(product, inputs)));
    } else if (i == 1 && pos_weight && input.is_cpu()) {
      results.push_back(
          elementwise(operations[i], inputs, empty_like(contiguous_layout(input.sizes()), inputs)));
    } else {
      results.push_back(gradient(operations[i], inputs));
    }
  }
  return results;
}

std::vector<Tensor> binary_cross_entropy_with_logits_backward(
    const Tensor& grad, const Tensor& input, const Tensor& target, const OptionalTensor& weight,
    const OptionalTensor& pos_weight, int64_t reduction, std::array<bool, 4> output_mask) {
  return gradients_with_logits(grad, input, target, weight, pos_weight, reduction, output_mask,
                               /*summed=*/false);
}

std::tuple<Tensor, Tensor> binary_cross_entropy_with_logits_double_backward(
    const Tensor& grad_grad, const Tensor& grad, const Tensor& input, const Tensor& target,
    const OptionalTensor& weight, const OptionalTensor& pos_weight, int64_t reduction) {
  const double scale = scale_of("binary_cross_entropy_with_logits_double_backward", input, target,
                                {weight, pos_weight}, reduction);
  return std::tuple_cat(elementwise<2>(
      FUSEDGRAD_OPERATION(binary_cross_entropy_with_logits_double_backward, scale), {},
      {grad_grad, grad, input, target, or_one(weight, input), or_one(pos_weight, input)}));
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

std::vector<Tensor> gradients_of_probabilities(const Tensor& grad, const Tensor& input,
                                               const Tensor& target, const OptionalTensor& weight,
                                               int64_t reduction, std::array<bool, 3> output_mask,
                                               bool summed) {
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
      FUSEDGRAD_OPERATION(binary_cross_entropy_backward_target, scale)};
  for (size_t i = 0; i < output_mask.size(); ++i) {
    if (!output_mask[i]) continue;
    const std::vector<Tensor> inputs = {grad, input, target, or_one(weight, input)};
    results.push_back(i < 2 ? gradient(operations[i], inputs)
                            : gradient_by_weight(FUSEDGRAD_SUMMABLE_OVER_DIMENSIONS(
                                                     binary_cross_entropy_backward_weight, scale),
                                                 inputs, inputs[3], summed));
  }
  return results;
}

std::vector<Tensor> binary_cross_entropy_backward(const Tensor& grad, const Tensor& input,
                                                  const Tensor& target,
                                                  const OptionalTensor& weight, int64_t reduction,
                                                  std::array<bool, 3> output_mask) {
  return gradients_of_probabilities(grad, input, target, weight, reduction, output_mask,
                                    /*summed=*/false);
}

std::tuple<Tensor, Tensor> binary_cross_entropy_double_backward(
    const Tensor& grad_grad, const Tensor& grad, const Tensor& input, const Tensor& target,
    const OptionalTensor& weight, int64_t reduction) {
  const double scale =
      scale_of("binary_cross_entropy_double_backward", input, target, {weight}, reduction);
  return std::tuple_cat(
      elementwise<2>(FUSEDGRAD_OPERATION(binary_cross_entropy_double_backward, scale), {},
                     {grad_grad, grad, input, target, or_one(weight, input)}));
}

// Under autograd. The operands of a loss are its input, target and weights, undefined where absent.

enum Operand : size_t { kInput, kTarget, kWeight, kPosWeight };

OptionalTensor optional(const Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}

template <size_t N>
std::array<bool, N> only(size_t index) {
  std::array<bool, N> mask = {};
  mask[index] = true;
  return mask;
}

// The tensors in float where they are of half types: what is made of several operations is rounded
// once.
variable_list wide(const variable_list& tensors) {
  variable_list results = tensors;
  for (Tensor& tensor : results) {
    if (tensor.defined() && at::isReducedFloatingType(tensor.scalar_type())) {
      tensor = tensor.to(at::kFloat);
    }
  }
  return results;
}

struct Logits {
  static constexpr const char* kName = "binary_cross_entropy_with_logits";
  static constexpr const char* kNode = "BinaryCrossEntropyWithLogits";
  static constexpr size_t kOperands = 4;
  using Mask = std::array<bool, kOperands>;

  static Tensor value(const variable_list& operands, int64_t reduction) {
    static const auto op =
        find<Tensor(const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&,
                    int64_t)>("fusedgrad::binary_cross_entropy_with_logits");
    return op.call(operands[0], operands[1], optional(operands[2]), optional(operands[3]),
                   reduction);
  }

  static variable_list backward(const Tensor& grad, const variable_list& operands,
                                int64_t reduction, const Mask& mask) {
    static const auto op =
        find<std::vector<Tensor>(const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&,
                                 const OptionalTensor&, int64_t, Mask)>(
            "fusedgrad::binary_cross_entropy_with_logits_backward");
    return spread(op.call(grad, operands[0], operands[1], optional(operands[2]),
                          optional(operands[3]), reduction, mask),
                  mask);
  }

  static std::vector<Tensor> summed(const Tensor& grad, const variable_list& operands,
                                    int64_t reduction, const Mask& mask) {
    return gradients_with_logits(grad, operands[0], operands[1], optional(operands[2]),
                                 optional(operands[3]), reduction, mask, /*summed=*/true);
  }

  static std::tuple<Tensor, Tensor> double_backward(const Tensor& grad_grad, const Tensor& grad,
                                                    const variable_list& operands,
                                                    int64_t reduction) {
    static const auto op =
        find<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                        const OptionalTensor&, const OptionalTensor&, int64_t)>(
            "fusedgrad::binary_cross_entropy_with_logits_double_backward");
    return op.call(grad_grad, grad, operands[0], operands[1], optional(operands[2]),
                   optional(operands[3]), reduction);
  }

  // From here on factor times a second derivative of (1 - t) softplus(x) + p t softplus(-x), the
  // factor with its weight and scale.

  static Tensor by_input_twice(const Tensor& factor, const variable_list& operands) {
    static const auto op =
        find<Tensor(const Tensor&, const Tensor&, int64_t)>("fusedgrad::sigmoid_backward");
    const Tensor &t = operands[kTarget], &p = operands[kPosWeight];
    return op.call(p.defined() ? factor * (1 - t + p * t) : factor, operands[kInput], 1);
  }

  static Tensor mixed(const Tensor& factor, const variable_list& operands, size_t i, size_t j) {
    static const auto sigmoid = find<Tensor(const Tensor&)>("fusedgrad::sigmoid");
    if (i == j) return Tensor();  // linear in the target and in its weight
    const Tensor &x = operands[kInput], &t = operands[kTarget], &p = operands[kPosWeight];
    if (i != kInput && j != kInput) {  // softplus(-x)
      return backward(factor, {x, at::ones_like(t), Tensor(), at::ones_like(p)},
                      at::Reduction::None, only<kOperands>(kPosWeight))[kPosWeight];
    }
    const Tensor falling = sigmoid.call(-x);
    if (i == kPosWeight || j == kPosWeight) return -(factor * (t * falling));
    return p.defined() ? -(factor * (sigmoid.call(x) + p * falling)) : -factor;
  }
};

struct ProbabilityDerivatives {
  static constexpr const char* kName = "binary_cross_entropy";
  static constexpr const char* kSecond = "target";
  static constexpr const char* kNode = "BinaryCrossEntropy";
  static constexpr int64_t kMost = math::BinaryCrossEntropyDerivative<float>::kMost;

  static Operation derivative(double by_input, double by_target) {
    return FUSEDGRAD_OPERATION(binary_cross_entropy_derivative, by_input, by_target);
  }
  static Operation derivative_backward(double by_input, double by_target) {
    return FUSEDGRAD_OPERATION(binary_cross_entropy_derivative_backward, by_input, by_target);
  }
};
using OfProbabilities = BinaryFamily<ProbabilityDerivatives>;

struct Probabilities {
  static constexpr const char* kName = "binary_cross_entropy";
  static constexpr const char* kNode = "BinaryCrossEntropy";
  static constexpr size_t kOperands = 3;
  using Mask = std::array<bool, kOperands>;

  static Tensor value(const variable_list& operands, int64_t reduction) {
    static const auto op =
        find<Tensor(const Tensor&, const Tensor&, const OptionalTensor&, int64_t)>(
            "fusedgrad::binary_cross_entropy");
    return op.call(operands[0], operands[1], optional(operands[2]), reduction);
  }

  static variable_list backward(const Tensor& grad, const variable_list& operands,
                                int64_t reduction, const Mask& mask) {
    static const auto op =
        find<std::vector<Tensor>(const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&,
                                 int64_t, Mask)>("fusedgrad::binary_cross_entropy_backward");
    return spread(op.call(grad, operands[0], operands[1], optional(operands[2]), reduction, mask),
                  mask);
  }

  static std::vector<Tensor> summed(const Tensor& grad, const variable_list& operands,
                                    int64_t reduction, const Mask& mask) {
    return gradients_of_probabilities(grad, operands[0], operands[1], optional(operands[2]),
                                      reduction, mask, /*summed=*/true);
  }

  static std::tuple<Tensor, Tensor> double_backward(const Tensor& grad_grad, const Tensor& grad,
                                                    const variable_list& operands,
                                                    int64_t reduction) {
    static const auto op =
        find<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                        const OptionalTensor&, int64_t)>(
            "fusedgrad::binary_cross_entropy_double_backward");
    return op.call(grad_grad, grad, operands[0], operands[1], optional(operands[2]), reduction);
  }

  static Tensor by_input_twice(const Tensor& factor, const variable_list& operands) {
    return OfProbabilities::derivative(factor, operands[kInput], operands[kTarget], 2, 0);
  }

  static Tensor mixed(const Tensor& factor, const variable_list& operands, size_t i, size_t j) {
    if (i == j) return Tensor();
    return OfProbabilities::derivative(factor, operands[kInput], operands[kTarget], 1, 1);
  }
};

// How a loss is differentiated. The first order is one kernel for each gradient, the second by the
// input one more. The input's derivatives of higher order are a family, sigmoid's or one of its
// own, and so are mixed ones.
template <class Loss>
struct Recorded {
  static constexpr size_t kOperands = Loss::kOperands;

  static typename Loss::Mask wanted(const std::vector<bool>& mask) {
    typename Loss::Mask result;
    std::copy(mask.begin(), mask.end(), result.begin());
    return result;
  }

  static variable_list backward(const Tensor& grad, const variable_list& operands,
                                const Parameters& parameters, const std::vector<bool>& mask) {
    return Loss::backward(grad, operands, parameters.number.toLong(), wanted(mask));
  }

  // Unless a weight has more elements than the input
  static variable_list summed(const Tensor& grad, const variable_list& operands,
                              const Parameters& parameters, const std::vector<bool>& mask) {
    at::DimVector sizes(operands[kInput].sizes());
    for (const Tensor& operand : operands) {
      if (operand.defined()) sizes = at::infer_size_dimvector(sizes, operand.sizes());
    }
    if (operands[kInput].sizes() != sizes) return {};
    return spread(Loss::summed(grad, operands, parameters.number.toLong(), wanted(mask)), mask);
  }

  static constexpr Rule kValue = {Loss::kNode, kOperands, backward, summed};

  // Of the gradient by the operand whose index is `parameters.order`; before the operands, the
  // gradient of the loss.
  static variable_list gradients(const Tensor& grad, const variable_list& all,
                                 const Parameters& parameters, const std::vector<bool>& mask) {
    const auto index = static_cast<size_t>(parameters.order);
    const int64_t reduction = parameters.number.toLong();
    const variable_list operands(all.begin() + 1, all.end());
    variable_list results(all.size());
    if (index == kInput && std::none_of(mask.begin() + 2, mask.end(), [](bool b) { return b; })) {
      if (mask[1]) {
        std::tie(results[0], results[1]) = Loss::double_backward(grad, all[0], operands, reduction);
      } else {
        results[0] = Loss::backward(grad, operands, reduction, only<kOperands>(index))[index];
      }
      return results;
    }
    if (at::isReducedFloatingType(operands[kInput].scalar_type())) {
      results = gradients(grad.to(at::kFloat), wide(all), parameters, mask);
      for (Tensor& result : results) {
        if (result.defined()) result = result.to(operands[kInput].scalar_type());
      }
      return results;
    }
    if (mask[0]) {
      results[0] = Loss::backward(grad, operands, reduction, only<kOperands>(index))[index];
    }
    const Tensor product = grad * all[0];
    variable_list unweighted = operands;  // of the same broadcast shape, so of the same mean
    if (operands[kWeight].defined()) unweighted[kWeight] = at::ones_like(operands[kWeight]);
    for (size_t i = 0; i < kOperands; ++i) {
      if (!mask[i + 1]) continue;
      Tensor& result = results[i + 1];
      if (index == kWeight || i == kWeight) {
        const size_t other = index == kWeight ? i : index;
        if (other == kWeight) continue;
        result = Loss::backward(product, unweighted, reduction, only<kOperands>(other))[other];
      } else if (index == kInput && i == kInput) {
        result = std::get<1>(Loss::double_backward(grad, all[0], operands, reduction));
      } else {
        result = Loss::mixed(weighted(product, operands, reduction), operands, index, i);
      }
    }
    return results;
  }

  static constexpr Rule kPartial = {Loss::kNode, kOperands, gradients};

  static Tensor weighted(const Tensor& factor, const variable_list& operands, int64_t reduction) {
    std::vector<OptionalTensor> weights;
    for (size_t i = kWeight; i < kOperands; ++i) weights.push_back(optional(operands[i]));
    const double scale =
        scale_of(Loss::kName, operands[kInput], operands[kTarget], weights, reduction);
    const Tensor scaled = scale == 1 ? factor : factor * scale;
    return operands[kWeight].defined() ? scaled * operands[kWeight] : scaled;
  }

  static Tensor value(const variable_list& operands, int64_t reduction) {
    return recorded(below_autograd([&] { return Loss::value(operands, reduction); }), kValue,
                    operands, {reduction});
  }

  static std::vector<Tensor> backward(const Tensor& grad, const variable_list& operands,
                                      int64_t reduction, const typename Loss::Mask& mask) {
    const variable_list partials =
        below_autograd([&] { return Loss::backward(grad, operands, reduction, mask); });
    variable_list all = {grad};
    all.insert(all.end(), operands.begin(), operands.end());
    std::vector<Tensor> results;
    for (size_t i = 0; i < kOperands; ++i) {
      if (!mask[i]) continue;
      results.push_back(recorded(partials[i], kPartial, all, {reduction, static_cast<int64_t>(i)}));
    }
    return results;
  }

  static std::tuple<Tensor, Tensor> double_backward(const Tensor& grad_grad, const Tensor& grad,
                                                    const variable_list& operands,
                                                    int64_t reduction) {
    variable_list all = {grad_grad, grad};
    all.insert(all.end(), operands.begin(), operands.end());
    if (!is_differentiated(all)) {
      return below_autograd(
          [&] { return Loss::double_backward(grad_grad, grad, operands, reduction); });
    }
    const at::ScalarType type = operands[kInput].scalar_type();
    all = wide(all);
    const variable_list wide_operands(all.begin() + 2, all.end());
    const Tensor first =
        Loss::backward(all[0], wide_operands, reduction, only<kOperands>(kInput))[kInput];
    const Tensor second =
        Loss::by_input_twice(weighted(all[0] * all[1], wide_operands, reduction), wide_operands);
    return {first.to(type), second.to(type)};
  }
};

struct Losses {
  static Tensor with_logits(const Tensor& input, const Tensor& target, const OptionalTensor& weight,
                            const OptionalTensor& pos_weight, int64_t reduction) {
    return Recorded<Logits>::value(
        {input, target, weight.value_or(Tensor()), pos_weight.value_or(Tensor())}, reduction);
  }
  static std::vector<Tensor> with_logits_backward(
      const Tensor& grad, const Tensor& input, const Tensor& target, const OptionalTensor& weight,
      const OptionalTensor& pos_weight, int64_t reduction, std::array<bool, 4> output_mask) {
    return Recorded<Logits>::backward(
        grad, {input, target, weight.value_or(Tensor()), pos_weight.value_or(Tensor())}, reduction,
        output_mask);
  }
  static std::tuple<Tensor, Tensor> with_logits_double_backward(
      const Tensor& grad_grad, const Tensor& grad, const Tensor& input, const Tensor& target,
      const OptionalTensor& weight, const OptionalTensor& pos_weight, int64_t reduction) {
    return Recorded<Logits>::double_backward(
        grad_grad, grad, {input, target, weight.value_or(Tensor()), pos_weight.value_or(Tensor())},
        reduction);
  }
  static Tensor of_probabilities(const Tensor& input, const Tensor& target,
                                 const OptionalTensor& weight, int64_t reduction) {
    return Recorded<Probabilities>::value({input, target, weight.value_or(Tensor())}, reduction);
  }
  static std::vector<Tensor> of_probabilities_backward(const Tensor& grad, const Tensor& input,
                                                       const Tensor& target,
                                                       const OptionalTensor& weight,
                                                       int64_t reduction,
                                                       std::array<bool, 3> output_mask) {
    return Recorded<Probabilities>::backward(grad, {input, target, weight.value_or(Tensor())},
                                             reduction, output_mask);
  }
  static std::tuple<Tensor, Tensor> of_probabilities_double_backward(
      const Tensor& grad_grad, const Tensor& grad, const Tensor& input, const Tensor& target,
      const OptionalTensor& weight, int64_t reduction) {
    return Recorded<Probabilities>::double_backward(
        grad_grad, grad, {input, target, weight.value_or(Tensor())}, reduction);
  }

  // A backward operator returns its gradients at the broadcast shape, and only those that its
  // output_mask asks for; summing one to an operand's shape is the caller's. reduction: 0 none, 1
  // mean, 2 sum (at::Reduction).
  static void define(torch::Library& m) {
    m.def(
        "binary_cross_entropy_with_logits(Tensor input, Tensor target, Tensor? weight,"
        " Tensor? pos_weight, int reduction) -> Tensor");
    m.def(
        "binary_cross_entropy_with_logits_backward(Tensor grad, Tensor input, Tensor target,"
        " Tensor? weight, Tensor? pos_weight, int reduction, bool[4] output_mask) -> Tensor[]");
    m.def(
        "binary_cross_entropy_with_logits_double_backward(Tensor grad_grad, Tensor grad,"
        " Tensor input, Tensor target, Tensor? weight, Tensor? pos_weight, int reduction)"
        " -> (Tensor, Tensor)");
    m.def(
        "binary_cross_entropy(Tensor input, Tensor target, Tensor? weight, int reduction)"
        " -> Tensor");
    m.def(
        "binary_cross_entropy_backward(Tensor grad, Tensor input, Tensor target, Tensor? weight,"
        " int reduction, bool[3] output_mask) -> Tensor[]");
    m.def(
        "binary_cross_entropy_double_backward(Tensor grad_grad, Tensor grad, Tensor input,"
        " Tensor target, Tensor? weight, int reduction) -> (Tensor, Tensor)");
    OfProbabilities::define(m);
  }

  static void implement(torch::Library& m) {
    m.impl("binary_cross_entropy_with_logits", binary_cross_entropy_with_logits);
    m.impl("binary_cross_entropy_with_logits_backward", binary_cross_entropy_with_logits_backward);
    m.impl("binary_cross_entropy_with_logits_double_backward",
           binary_cross_entropy_with_logits_double_backward);
    m.impl("binary_cross_entropy", binary_cross_entropy);
    m.impl("binary_cross_entropy_backward", binary_cross_entropy_backward);
    m.impl("binary_cross_entropy_double_backward", binary_cross_entropy_double_backward);
    OfProbabilities::implement(m);
  }

  static void record(torch::Library& m) {
    m.impl("binary_cross_entropy_with_logits", with_logits);
    m.impl("binary_cross_entropy_with_logits_backward", with_logits_backward);
    m.impl("binary_cross_entropy_with_logits_double_backward", with_logits_double_backward);
    m.impl("binary_cross_entropy", of_probabilities);
    m.impl("binary_cross_entropy_backward", of_probabilities_backward);
    m.impl("binary_cross_entropy_double_backward", of_probabilities_double_backward);
    OfProbabilities::record(m);
  }
};

}  // namespace

FUSEDGRAD_OPERATORS(Losses)

}  // namespace fusedgrad::operators

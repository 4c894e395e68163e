// The operators under autograd. A torch.autograd.Function would record them as well, but in Python
// it costs more than the rest of a call on a small tensor.
#include "operators/recording.h"

#include <ATen/SavedTensorHooks.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/library.h>

#include <array>
#include <utility>

#include "operators/dispatch.h"
#include "operators/patch.h"
#include "operators/torch_versions.h"

namespace fusedgrad::operators {
namespace {

using at::Tensor;
using torch::autograd::variable_list;
using OptionalTensor = std::optional<Tensor>;

std::function<DifferentiableBackward>& differentiable_backward() {
  static auto* function = new std::function<DifferentiableBackward>;  // outlives the interpreter
  return *function;
}

// An undefined tensor stands for an operand that is absent.
OptionalTensor optional(const Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}

// What backward has to know of an operation: its class in fusedgrad.autograd, and the kernel, which
// returns the gradients that `mask` asks for, at the broadcast shape.
struct Operation {
  const char* name;
  std::vector<Tensor> (*backward)(const Tensor& grad, const variable_list& operands,
                                  const at::Scalar& parameter, const std::vector<bool>& mask);
};

template <size_t N>
std::array<bool, N> array(const std::vector<bool>& mask) {
  std::array<bool, N> result;
  std::copy(mask.begin(), mask.end(), result.begin());
  return result;
}

class Node final : public torch::autograd::Node {
 public:
  Node(const Operation& operation, const variable_list& operands, at::Scalar parameter)
      : torch::autograd::Node(torch::autograd::collect_next_edges(operands)),
        operation_(operation),
        parameter_(std::move(parameter)) {
    // What a checkpoint recomputes on PyTorch saves as many tensors, of the same sizes: mark ours,
    // first, where a hook counts, so that it raises its error about a recomputation that differs.
    if (is_patched() && at::SavedTensorDefaultHooks::get_hooks()) {
      marker_ = torch::autograd::SavedVariable(at::empty({0}, at::kByte), /*is_output=*/false);
    }
    for (const Tensor& operand : operands) saved_.emplace_back(operand, /*is_output=*/false);
  }

  std::string name() const override {
    return std::string("fusedgrad::") + operation_.name + "Backward";
  }

  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (torch::autograd::SavedVariable& operand : saved_) operand.reset_data();
    marker_.reset_data();
  }

  variable_list apply(variable_list&& grads) override {
    const Tensor& grad = grads[0];
    variable_list results(saved_.size());
    if (!grad.defined()) return results;
    const variable_list operands = unpack();
    std::vector<bool> mask(saved_.size());
    for (size_t i = 0; i < mask.size(); ++i) mask[i] = task_should_compute_output(i);
    if (at::GradMode::is_enabled() || is_transformed() || grad._fw_grad(/*level=*/0).defined()) {
      return differentiable_backward()(operation_.name, grad, operands, parameter_, mask);
    }
    const at::AutoDispatchBelowADInplaceOrView guard;
    const std::vector<Tensor> wanted = operation_.backward(grad, operands, parameter_, mask);
    for (size_t i = 0, next = 0; i < mask.size(); ++i) {
      if (!mask[i]) continue;
      const Tensor& gradient = wanted[next++];
      const c10::SymIntArrayRef sizes = operands[i].sym_sizes();
      results[i] = gradient.sym_sizes() == sizes ? gradient : gradient.sum_to_size_symint(sizes);
    }
    return results;
  }

 private:
  variable_list unpack() {
    const std::lock_guard<std::mutex> lock(mutex_);
    variable_list operands;
    for (torch::autograd::SavedVariable& operand : saved_) operands.push_back(operand.unpack());
    return operands;
  }

  const Operation& operation_;
  at::Scalar parameter_;
  torch::autograd::SavedVariable marker_;
  std::vector<torch::autograd::SavedVariable> saved_;
};

// Runs `forward` below autograd, and records the operation if an operand requires its gradient.
template <class Forward>
Tensor record(const Operation& operation, at::TensorList operands, const at::Scalar& parameter,
              const Forward& forward) {
  bool requires_grad = false;
  for (const Tensor& operand : operands) {
    requires_grad = requires_grad || (operand.defined() && operand.requires_grad());
    TORCH_CHECK_NOT_IMPLEMENTED(
        !operand.defined() || !c10::AutogradState::get_tls_state().get_fw_grad_mode() ||
            !operand._fw_grad(/*level=*/0).defined(),
        operation.name,
        ": the operator has no forward-mode derivative, the function of fusedgrad has");
  }
  const auto below_autograd = [&] {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return forward();
  };
  if (!requires_grad || !at::GradMode::is_enabled()) return below_autograd();
  const auto node = make_node<Node>(operation, operands.vec(), parameter);
  Tensor result = below_autograd();
  torch::autograd::set_history(result, node);
  return result;
}

using UnaryOperator = Tensor(const Tensor&);
using UnaryBackward = Tensor(const Tensor&, const Tensor&);

Tensor sigmoid(const Tensor& input) {
  static const auto value = find<UnaryOperator>("fusedgrad::sigmoid");
  static const auto backward = find<UnaryBackward>("fusedgrad::sigmoid_backward");
  static const Operation operation = {
      "Sigmoid",
      [](const Tensor& grad, const variable_list& operands, const at::Scalar&,
         const std::vector<bool>&) -> std::vector<Tensor> {
        return {backward.call(grad, operands[0])};
      }};
  return record(operation, input, 0, [&] { return value.call(input); });
}

Tensor tanh(const Tensor& input) {
  static const auto value = find<UnaryOperator>("fusedgrad::tanh");
  static const auto backward = find<UnaryBackward>("fusedgrad::tanh_backward");
  static const Operation operation = {
      "Tanh",
      [](const Tensor& grad, const variable_list& operands, const at::Scalar&,
         const std::vector<bool>&) -> std::vector<Tensor> {
        return {backward.call(grad, operands[0])};
      }};
  return record(operation, input, 0, [&] { return value.call(input); });
}

Tensor pow_tensor_scalar(const Tensor& input, const at::Scalar& exponent) {
  static const auto value =
      find<Tensor(const Tensor&, const at::Scalar&)>("fusedgrad::pow", "Tensor_Scalar");
  static const auto backward = find<Tensor(const Tensor&, const Tensor&, const at::Scalar&)>(
      "fusedgrad::pow_backward", "Tensor_Scalar");
  static const Operation operation = {
      "PowScalar",
      [](const Tensor& grad, const variable_list& operands, const at::Scalar& parameter,
         const std::vector<bool>&) -> std::vector<Tensor> {
        return {backward.call(grad, operands[0], parameter)};
      }};
  return record(operation, input, exponent, [&] { return value.call(input, exponent); });
}

Tensor pow_tensor_tensor(const Tensor& input, const Tensor& exponent) {
  static const auto value =
      find<Tensor(const Tensor&, const Tensor&)>("fusedgrad::pow", "Tensor_Tensor");
  static const auto backward =
      find<std::vector<Tensor>(const Tensor&, const Tensor&, const Tensor&, std::array<bool, 2>)>(
          "fusedgrad::pow_backward", "Tensor_Tensor");
  static const Operation operation = {"Pow", [](const Tensor& grad, const variable_list& operands,
                                                const at::Scalar&, const std::vector<bool>& mask) {
                                        return backward.call(grad, operands[0], operands[1],
                                                             array<2>(mask));
                                      }};
  return record(operation, {input, exponent}, 0, [&] { return value.call(input, exponent); });
}

Tensor binary_cross_entropy(const Tensor& input, const Tensor& target, const OptionalTensor& weight,
                            int64_t reduction) {
  static const auto value =
      find<Tensor(const Tensor&, const Tensor&, const OptionalTensor&, int64_t)>(
          "fusedgrad::binary_cross_entropy");
  static const auto backward =
      find<std::vector<Tensor>(const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&,
                               int64_t, std::array<bool, 3>)>(
          "fusedgrad::binary_cross_entropy_backward");
  static const Operation operation = {
      "BinaryCrossEntropy", [](const Tensor& grad, const variable_list& operands,
                               const at::Scalar& parameter, const std::vector<bool>& mask) {
        return backward.call(grad, operands[0], operands[1], optional(operands[2]),
                             parameter.toLong(), array<3>(mask));
      }};
  return record(operation, {input, target, weight.value_or(Tensor())}, reduction,
                [&] { return value.call(input, target, weight, reduction); });
}

Tensor binary_cross_entropy_with_logits(const Tensor& input, const Tensor& target,
                                        const OptionalTensor& weight,
                                        const OptionalTensor& pos_weight, int64_t reduction) {
  static const auto value =
      find<Tensor(const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&,
                  int64_t)>("fusedgrad::binary_cross_entropy_with_logits");
  static const auto backward =
      find<std::vector<Tensor>(const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&,
                               const OptionalTensor&, int64_t, std::array<bool, 4>)>(
          "fusedgrad::binary_cross_entropy_with_logits_backward");
  static const Operation operation = {
      "BinaryCrossEntropyWithLogits",
      [](const Tensor& grad, const variable_list& operands, const at::Scalar& parameter,
         const std::vector<bool>& mask) {
        return backward.call(grad, operands[0], operands[1], optional(operands[2]),
                             optional(operands[3]), parameter.toLong(), array<4>(mask));
      }};
  return record(
      operation, {input, target, weight.value_or(Tensor()), pos_weight.value_or(Tensor())},
      reduction, [&] { return value.call(input, target, weight, pos_weight, reduction); });
}

}  // namespace

bool is_transformed() {
  const c10::DispatchKeySet included = c10::impl::tls_local_dispatch_key_set().included_;
  return included.has_any(c10::DispatchKeySet({c10::DispatchKey::FuncTorchDynamicLayerFrontMode,
                                               c10::DispatchKey::FuncTorchDynamicLayerBackMode}));
}

void set_differentiable_backward(std::function<DifferentiableBackward> function) {
  differentiable_backward() = std::move(function);
}

TORCH_LIBRARY_IMPL(fusedgrad, Autograd, m) {
  m.impl("sigmoid", sigmoid);
  m.impl("tanh", tanh);
  m.impl("pow.Tensor_Scalar", pow_tensor_scalar);
  m.impl("pow.Tensor_Tensor", pow_tensor_tensor);
  m.impl("binary_cross_entropy", binary_cross_entropy);
  m.impl("binary_cross_entropy_with_logits", binary_cross_entropy_with_logits);
}

}  // namespace fusedgrad::operators

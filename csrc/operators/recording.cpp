// The operators under autograd. A torch.autograd.Function would record them as well, but in Python
// it costs more than the rest of a call on a small tensor.
#include "operators/recording.h"

#include <ATen/ExpandUtils.h>
#include <ATen/SavedTensorHooks.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros_like.h>
#include <ATen/record_function.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "operators/compiled.h"
#include "operators/patch.h"
#include "operators/torch_versions.h"

namespace fusedgrad::operators {
namespace {

using at::Tensor;

constexpr int64_t kMostDimensions = 16;  // that a sum over dimensions takes on every device

bool has_tangent(const Tensor& tensor) {
  return tensor.defined() && tensor._fw_grad(/*level=*/0).defined();
}

Tensor summed_to(const Tensor& tensor, c10::SymIntArrayRef sizes) {
  return tensor.sym_sizes() == sizes ? tensor : tensor.sum_to_size_symint(sizes);
}

bool is_half(const Tensor& tensor) {
  return tensor.defined() && at::isReducedFloatingType(tensor.scalar_type());
}

Tensor widened(const Tensor& tensor) { return is_half(tensor) ? tensor.to(at::kFloat) : tensor; }

// Whether a gradient of a half type is summed over the elements that share its operand. Rounded
// before, the terms would lose the sum's digits, or make it NaN where infinities meet.
bool sums_halves(const Tensor& grad, const variable_list& operands, const std::vector<bool>& mask) {
  if (!std::any_of(operands.begin(), operands.end(), is_half)) return false;
  c10::SymDimVector sizes(grad.sym_sizes().begin(), grad.sym_sizes().end());
  for (const Tensor& operand : operands) {
    if (operand.defined()) sizes = at::infer_size_symdimvector(sizes, operand.sym_sizes());
  }
  for (size_t i = 0; i < operands.size(); ++i) {
    if (mask[i] && is_half(operands[i]) && operands[i].sym_sizes() != c10::SymIntArrayRef(sizes))
      return true;
  }
  return false;
}

// Whether those that are defined have one shape
bool are_alike(const variable_list& operands) {
  return std::all_of(operands.begin(), operands.end(), [&](const Tensor& operand) {
    return !operand.defined() || operand.sym_sizes() == operands[0].sym_sizes();
  });
}

// Whether a kernel alone takes them, with no need of the dispatcher
bool are_plain(const Tensor& grad, const variable_list& operands) {
  const auto is_plain = [&grad](const Tensor& tensor) {
    if (!tensor.defined()) return true;
    const c10::DispatchKeySet keys = tensor.key_set() -
                                     c10::autograd_dispatch_keyset_with_ADInplaceOrView -
                                     c10::autocast_dispatch_keyset;
    return (keys == c10::DispatchKeySet(c10::DispatchKey::CPU) ||
            keys == c10::DispatchKeySet(c10::DispatchKey::CUDA)) &&
           tensor.scalar_type() == grad.scalar_type() && tensor.dim() <= kMostDimensions;
  };
  return at::isFloatingType(grad.scalar_type()) &&
         !c10::impl::TorchDispatchModeTLS::any_modes_set() && is_plain(grad) &&
         std::all_of(operands.begin(), operands.end(), is_plain);
}

// The gradients that `mask` asks for, of their operands' shapes
variable_list differentiate(const Rule& rule, const Tensor& grad, const variable_list& operands,
                            const Parameters& parameters, const std::vector<bool>& mask) {
  // A shorter way where nothing differentiates this backward.
  std::optional<at::AutoDispatchBelowADInplaceOrView> guard;
  if (!at::GradMode::is_enabled() && !is_transformed() && !has_tangent(grad) &&
      std::none_of(operands.begin(), operands.end(), has_tangent)) {
    guard.emplace();
    if (rule.summed != nullptr && !are_alike(operands) && are_plain(grad, operands)) {
      RECORD_FUNCTION(rule.name, c10::ArrayRef<const c10::IValue>{});
      variable_list results = rule.summed(grad, operands, parameters, mask);
      if (!results.empty()) return results;
    }
  }
  const bool wide = sums_halves(grad, operands, mask);
  variable_list taken = operands;
  if (wide) std::transform(operands.begin(), operands.end(), taken.begin(), widened);
  variable_list results = rule.backward(wide ? widened(grad) : grad, taken, parameters, mask);
  for (size_t i = 0; i < results.size(); ++i) {
    if (!mask[i]) {
      results[i] = Tensor();
    } else if (results[i].defined()) {
      results[i] = summed_to(results[i], operands[i].sym_sizes());
      if (wide) results[i] = results[i].to(operands[i].scalar_type());
    }
  }
  return results;
}

class Node final : public OperandsNode {
 public:
  Node(const Rule& rule, at::TensorList operands, const Parameters& parameters)
      : OperandsNode(operands), rule_(rule), parameters_(parameters) {}

  std::string name() const override { return std::string("fusedgrad::") + rule_.name + "Backward"; }

  variable_list apply(variable_list&& grads) override {
    if (!grads[0].defined()) return variable_list(num_outputs());
    return differentiate(rule_, grads[0], unpack(), parameters_, wanted());
  }

  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& args) const override {
    collect(args, rule_.name, parameters_);
  }

  // Puts a call of `compiled` into the graph, as PyTorch's own nodes do.
  variable_list apply_with_saved(const variable_list& grads,
                                 torch::dynamo::autograd::SwapSavedVariables& saved) override {
    PackedArgs packed;
    packed.pack(reinterpret_cast<int64_t>(&rule_));
    pack(packed, parameters_, saved);
    return call_compiled(rule_.name, compiled, packed, grads, next_edges(), saved);
  }

 private:
  static variable_list compiled(const variable_list& grads, const std::vector<c10::IValue>& args) {
    PackedArgs packed(args);
    const auto& rule = *reinterpret_cast<const Rule*>(packed.unpack<int64_t>());
    const auto [parameters, mask, operands] = unpacked(packed);
    return differentiate(rule, grads[0], operands, parameters, mask);
  }

  const Rule& rule_;
  Parameters parameters_;
};

bool requires_gradient(at::TensorList operands) {
  return at::GradMode::is_enabled() &&
         std::any_of(operands.begin(), operands.end(), [](const Tensor& operand) {
           return operand.defined() && operand.requires_grad();
         });
}

// The tangent of what `rule` differentiates
Tensor tangent_of(const Tensor& result, const Rule& rule, at::TensorList operands,
                  const Parameters& parameters) {
  // What is summed is not rounded to a half type before.
  const bool sums = result.dim() == 0 && at::isReducedFloatingType(result.scalar_type());
  const auto wide = [sums](const Tensor& tensor) { return sums ? tensor.to(at::kFloat) : tensor; };
  // The rule conjugates the cotangent of what is holomorphic in the operand.
  const size_t factors = operands.size() - rule.inputs;
  const auto along = [&](size_t i, const Tensor& tensor) {
    return factors > 0 && i >= factors ? tensor : conjugate(tensor);
  };
  variable_list primals;
  for (const Tensor& operand : operands) {
    primals.push_back(operand.defined() ? wide(operand._fw_primal(/*level=*/0)) : Tensor());
  }
  Tensor tangent;
  std::vector<bool> mask(operands.size());
  for (size_t i = 0; i < operands.size(); ++i) {
    if (!has_tangent(operands[i])) continue;
    mask[i] = true;
    const Tensor given = along(i, wide(operands[i]._fw_grad(/*level=*/0)));
    Tensor term = rule.backward(given, primals, parameters, mask)[i];
    mask[i] = false;
    if (!term.defined()) continue;  // the result does not depend on the operand
    term = along(i, term);
    tangent = tangent.defined() ? tangent + term : term;
  }
  if (!tangent.defined()) return at::zeros_like(result);
  // A result may have a shape that its own operands do not make: its kernel had others besides.
  tangent = result.dim() == 0 ? tangent.sum() : tangent.expand_symint(result.sym_sizes());
  return tangent.to(result.scalar_type());
}

}  // namespace

OperandsNode::OperandsNode(at::TensorList operands)
    : torch::autograd::Node(torch::autograd::collect_next_edges(operands)) {
  // What a checkpoint recomputes on PyTorch saves as many tensors, of the same sizes: mark ours,
  // first, where a hook counts, so that it raises its error about a recomputation that differs.
  if (is_patched() && at::SavedTensorDefaultHooks::get_hooks()) {
    marker_ = torch::autograd::SavedVariable(at::empty({0}, at::kByte), /*is_output=*/false);
  }
  saved_.reserve(operands.size());
  for (const Tensor& operand : operands) saved_.emplace_back(operand, /*is_output=*/false);
}

void OperandsNode::release_variables() {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (torch::autograd::SavedVariable& operand : saved_) operand.reset_data();
  marker_.reset_data();
}

std::vector<bool> OperandsNode::wanted() const {
  std::vector<bool> mask(saved_.size());
  for (size_t i = 0; i < mask.size(); ++i) mask[i] = task_should_compute_output(i);
  return mask;
}

variable_list OperandsNode::unpack() {
  const std::lock_guard<std::mutex> lock(mutex_);
  variable_list operands;
  operands.reserve(saved_.size());
  for (torch::autograd::SavedVariable& operand : saved_) operands.push_back(operand.unpack());
  return operands;
}

void OperandsNode::collect(torch::dynamo::autograd::CompiledNodeArgs& args, const char* name,
                           const Parameters& parameters) const {
  args.collect(std::string(name));
  args.collect(saved_, /*is_output=*/false);
  args.collect(parameters.number);
  args.collect(parameters.order);
  for (const bool each : wanted()) args.collect(each);
}

void OperandsNode::pack(PackedArgs& packed, const Parameters& parameters,
                        torch::dynamo::autograd::SwapSavedVariables& saved) {
  saved.before(saved_);
  packed.pack(parameters.number);
  packed.pack(parameters.order);
  packed.pack(wanted());
  for (const Tensor& operand : unpack()) packed.pack(operand);
  saved.after(saved_);
}

OperandsNode::Packed OperandsNode::unpacked(PackedArgs& packed) {
  Packed result;
  result.parameters.number = packed.unpack<at::Scalar>();
  result.parameters.order = packed.unpack<int64_t>();
  result.mask = packed.unpack<std::vector<bool>>();
  for (size_t i = 0; i < result.mask.size(); ++i) {
    result.operands.push_back(packed.unpack<Tensor>());
  }
  return result;
}

bool is_transformed() {
  const c10::DispatchKeySet included = c10::impl::tls_local_dispatch_key_set().included_;
  return included.has_any(c10::DispatchKeySet({c10::DispatchKey::FuncTorchDynamicLayerFrontMode,
                                               c10::DispatchKey::FuncTorchDynamicLayerBackMode}));
}

bool is_differentiated(at::TensorList operands) {
  return requires_gradient(operands) || std::any_of(operands.begin(), operands.end(), has_tangent);
}

Tensor recorded(Tensor result, const Rule& rule, at::TensorList operands,
                const Parameters& parameters) {
  if (requires_gradient(operands)) {
    torch::autograd::set_history(result, make_node<Node>(rule, operands, parameters));
  }
  if (std::any_of(operands.begin(), operands.end(), has_tangent)) {
    result._set_fw_grad(tangent_of(result, rule, operands, parameters), /*level=*/0,
                        /*is_inplace_op=*/false);
  }
  return result;
}

}  // namespace fusedgrad::operators

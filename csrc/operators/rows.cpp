#include "operators/rows.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ExpandUtils.h>
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/unbind.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <optional>

#include "cpu/walk.h"
#include "operators/compiled.h"
#include "operators/elementwise.h"
#include "operators/recording.h"
#include "operators/registry.h"
#include "operators/torch_versions.h"

namespace fusedgrad::operators {
namespace {

using at::Tensor;
using torch::autograd::SavedVariable;

struct Entry {
  RowsKernel kernel;
  std::map<std::pair<uint64_t, uint64_t>, RowsBackward> backward;  // by `needed` and `summed`
};

Registry<Entry>& registry() {
  static Registry<Entry> instance("call_rows");
  return instance;
}

const RowsKernel& kernel_of(int64_t number) {
  return registry().with(number, [](Entry& entry) -> const RowsKernel& { return entry.kernel; });
}

const RowsBackward* backward_of(int64_t number, uint64_t needed, uint64_t summed) {
  return registry().with(number, [=](const Entry& entry) -> const RowsBackward* {
    const auto found = entry.backward.find({needed, summed});
    return found == entry.backward.end() ? nullptr : &found->second;  // a map's never move either
  });
}

std::function<RowsDifferentiableBackward>& differentiable_backward() {
  static auto* function = new std::function<RowsDifferentiableBackward>;
  return *function;  // outlives the interpreter
}

bool has_tangent(const Tensor& tensor) { return tensor._fw_grad(/*level=*/0).defined(); }

// Of torch.autograd.grad(..., is_grads_batched=True), which is no transform of torch.func
bool is_batched(const Tensor& tensor) { return tensor.key_set().has(c10::DispatchKey::Batched); }

// Whether a backward is that of plain tensors, and nothing differentiates it.
bool is_last(const variable_list& grads) {
  return !at::GradMode::is_enabled() && !is_transformed() &&
         !c10::impl::TorchDispatchModeTLS::any_modes_set() &&
         std::none_of(grads.begin(), grads.end(), has_tangent) &&
         std::none_of(grads.begin(), grads.end(), is_batched);
}

// The shape of each of the rows of a tensor, of itself if it has none
c10::SymIntArrayRef shape_of_row(const Tensor& tensor, bool has_rows) {
  return tensor.sym_sizes().slice(has_rows ? 1 : 0);
}

// A gradient, or one of its rows (-1: all of it), summed to the shape of a vector, where it is few
// numbers, which at::sum_to takes several operators for; undefined where that has to.
Tensor summed_to_vector(const Tensor& grad, int64_t row, const Tensor& input) {
  const at::ScalarType type = grad.scalar_type();
  const int64_t numel = row < 0 ? grad.numel() : grad.numel() / grad.size(0);
  if (!grad.is_cpu() || !grad.is_contiguous() || input.scalar_type() != type || input.dim() != 1 ||
      input.size(0) != grad.size(-1) || numel == 0 || numel > at::internal::GRAIN_SIZE ||
      (type != at::kFloat && type != at::kDouble)) {
    return {};
  }
  Tensor sums = at::empty(input.sizes(), grad.options());
  const int64_t columns = grad.size(-1), offset = std::max<int64_t>(row, 0) * numel;
  const auto* const values = static_cast<const char*>(grad.const_data_ptr());
  cpu::sum_rows(dtype_of("fused_rows", type), values + offset * grad.element_size(),
                numel / columns, columns, sums.mutable_data_ptr());
  return sums;
}

// The gradient summed to the shape of its input, row by row.
Tensor summed_to(const Tensor& grad, const Tensor& input, bool has_rows) {
  c10::DimVector sizes(input.sizes().slice(has_rows ? 1 : 0));
  if (has_rows) {
    sizes.insert(sizes.begin(), grad.dim() - input.dim(), 1);
    sizes.insert(sizes.begin(), input.size(0));
  }
  return at::sum_to(grad, sizes).reshape(input.sizes()).to(input.scalar_type());
}

class RowsNode final : public KernelNode {
 public:
  RowsNode(int64_t number, const std::vector<Tensor>& inputs, const std::vector<double>& parameters)
      : KernelNode(torch::autograd::collect_next_edges(inputs), number, inputs, parameters) {}

  std::string name() const override { return "fusedgrad::RowsBackward"; }

  variable_list apply(variable_list&& grads) override {
    const auto defined = [](const Tensor& grad) { return grad.defined(); };
    if (std::none_of(grads.begin(), grads.end(), defined)) return variable_list(num_outputs());
    return gradients(unpack(), std::move(grads));
  }

  variable_list apply_with_saved(const variable_list& grads,
                                 torch::dynamo::autograd::SwapSavedVariables& saved) override {
    return call_compiled(name(), compiled, packed(saved), grads, next_edges(), saved);
  }

 private:
  static variable_list compiled(const variable_list& grads, const std::vector<c10::IValue>& args) {
    PackedArgs packed(args);
    return gradients(KernelCall::unpacked(packed), variable_list(grads));
  }

  static variable_list gradients(const KernelCall& call, variable_list&& grads) {
    const auto& [number, parameters, inputs, needed] = call;
    const RowsKernel& kernel = kernel_of(number);
    const auto has_rows = [&kernel = kernel](size_t i) { return kernel.tensors[i] >= 0; };
    c10::SymDimVector shape;
    for (size_t i = 0; i < inputs.size(); ++i) {
      shape = at::infer_size_symdimvector(shape, shape_of_row(inputs[i], has_rows(i)));
    }
    bool is_known = is_last(grads);
    for (size_t i = 0; i < grads.size(); ++i) {
      if (!grads[i].defined()) {
        c10::SymDimVector sizes = shape;
        if (kernel.results[i] >= 0) sizes.insert(sizes.begin(), kernel.results[i]);
        grads[i] = at::zeros_symint(sizes, inputs[0].options().dtype(kernel.dtypes[i]));
      }
      is_known = is_known && grads[i].scalar_type() == kernel.dtypes[i];
    }
    uint64_t summed = 0;
    for (size_t i = 0; i < inputs.size(); ++i) {
      summed |=
          static_cast<uint64_t>(shape_of_row(inputs[i], has_rows(i)) != c10::SymIntArrayRef(shape))
          << i;
    }
    const RowsBackward* backward = is_known ? backward_of(number, needed, summed) : nullptr;
    if (backward == nullptr) {
      return differentiable_backward()(number, grads, inputs, parameters, needed, summed);
    }
    const at::AutoDispatchBelowADInplaceOrView guard;
    std::vector<Tensor> operands = std::move(grads);
    operands.insert(operands.end(), inputs.begin(), inputs.end());
    const std::vector<Tensor> results =
        fused_rows(kernel_of(backward->number), operands, parameters);
    variable_list found(inputs.size());
    for (size_t i = 0; i < results.size(); ++i) {
      const int64_t target = backward->targets[i];
      found[target] = summed >> target & 1 ? summed_to(results[i], inputs[target], has_rows(target))
                                           : results[i];
    }
    for (const auto& [target, row] : backward->shared) {
      const Tensor& result = results[row.first];
      found[target] = summed_to_vector(result, row.second, inputs[target]);
      if (found[target].defined()) continue;
      found[target] = summed_to(row.second < 0 ? result : result.select(0, row.second),
                                inputs[target], /*has_rows=*/false);
    }
    return found;
  }
};

bool is_recorded(const Tensor& tensor) { return tensor.requires_grad(); }

// Of a matrix and the rows of a tensor
class LinearNode final : public torch::autograd::Node {
 public:
  LinearNode(const Tensor& input, const Tensor& weight)
      : torch::autograd::Node(torch::autograd::collect_next_edges(input, weight)) {
    // What the gradients that will be asked for are made of
    if (weight.requires_grad()) input_ = SavedVariable(input, /*is_output=*/false);
    if (input.requires_grad()) weight_ = SavedVariable(weight, /*is_output=*/false);
  }

  std::string name() const override { return "fusedgrad::LinearBackward"; }

  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    input_.reset_data();
    weight_.reset_data();
  }

  variable_list apply(variable_list&& grads) override {
    if (!grads[0].defined()) return variable_list(2);
    const auto [input, weight] = unpack();
    std::optional<at::AutoDispatchBelowADInplaceOrView> guard;
    if (is_last(grads)) guard.emplace();
    return gradients(grads[0], input, weight);
  }

  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& args) const override {
    args.collect(input_, /*is_output=*/false);
    args.collect(weight_, /*is_output=*/false);
    for (const size_t i : {0, 1}) args.collect(task_should_compute_output(i));
  }

  variable_list apply_with_saved(const variable_list& grads,
                                 torch::dynamo::autograd::SwapSavedVariables& saved) override {
    PackedArgs packed;
    saved.before(input_);
    saved.before(weight_);
    const auto [input, weight] = unpack();
    packed.pack(input);
    packed.pack(weight);
    saved.after(input_);
    saved.after(weight_);
    return call_compiled(name(), compiled, packed, grads, next_edges(), saved);
  }

 private:
  static variable_list compiled(const variable_list& grads, const std::vector<c10::IValue>& args) {
    PackedArgs packed(args);
    const auto input = packed.unpack<Tensor>();
    return gradients(grads[0], input, packed.unpack<Tensor>());
  }

  // What the wanted gradients are made of; undefined for the others
  std::pair<Tensor, Tensor> unpack() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return {task_should_compute_output(1) ? input_.unpack() : Tensor(),
            task_should_compute_output(0) ? weight_.unpack() : Tensor()};
  }

  static Tensor as_matrix(const Tensor& tensor) {
    return tensor.reshape_symint({-1, tensor.sym_size(-1)});
  }

  static variable_list gradients(const Tensor& of_result, const Tensor& input,
                                 const Tensor& weight) {
    const Tensor grad = as_matrix(of_result);
    variable_list results(2);
    if (weight.defined()) {
      c10::SymDimVector sizes(of_result.sym_sizes());
      sizes.back() = weight.sym_size(1);
      results[0] = at::mm(grad, weight).view_symint(sizes);
    }
    if (input.defined()) {
      const Tensor matrix = as_matrix(input);
      // Of few rows and many columns, for which MKL takes a sixth of the time
      results[1] = matrix.sym_size(1) < grad.sym_size(1) ? at::mm(matrix.t(), grad).t()
                                                         : at::mm(grad.t(), matrix);
    }
    return results;
  }

  SavedVariable input_, weight_;
};

// Of the rows of a tensor, most of which are not used
class UnbindNode final : public torch::autograd::Node {
 public:
  explicit UnbindNode(const Tensor& stack)
      : torch::autograd::Node(torch::autograd::collect_next_edges(stack)) {}

  std::string name() const override { return "fusedgrad::UnbindBackward"; }

  variable_list apply(variable_list&& grads) override {
    const auto defined = [](const Tensor& grad) { return grad.defined(); };
    return std::any_of(grads.begin(), grads.end(), defined) ? gradients(grads, {})
                                                            : variable_list(1);
  }

  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs&) const override {}

  variable_list apply_with_saved(const variable_list& grads,
                                 torch::dynamo::autograd::SwapSavedVariables& saved) override {
    return call_compiled(name(), gradients, PackedArgs(), grads, next_edges(), saved);
  }

 private:
  static variable_list gradients(const variable_list& grads, const std::vector<c10::IValue>&) {
    const Tensor& some = *std::find_if(grads.begin(), grads.end(),
                                       [](const Tensor& grad) { return grad.defined(); });
    const bool are_plain =
        is_last(grads) && std::all_of(grads.begin(), grads.end(), [&some](const Tensor& grad) {
          return !grad.defined() ||
                 (grad.is_cpu() && grad.is_contiguous() && grad.sizes() == some.sizes() &&
                  grad.scalar_type() == some.scalar_type());
        });
    if (!are_plain) {
      std::vector<Tensor> rows;
      for (const Tensor& grad : grads) rows.push_back(grad.defined() ? grad : at::zeros_like(some));
      return {at::stack(rows)};
    }
    c10::DimVector sizes(some.sizes());
    sizes.insert(sizes.begin(), static_cast<int64_t>(grads.size()));
    Tensor stack = at::detail::empty_cpu(sizes, some.options());
    auto* to = static_cast<char*>(stack.data_ptr());
    for (const Tensor& grad : grads) {
      to = grad.defined()
               ? std::copy_n(static_cast<const char*>(grad.const_data_ptr()), some.nbytes(), to)
               : std::fill_n(to, some.nbytes(), char{0});
    }
    return {stack};
  }
};

}  // namespace

int64_t add_rows_kernel(RowsKernel kernel) { return registry().add({std::move(kernel), {}}); }

std::vector<Tensor> call_rows(int64_t number, const std::vector<Tensor>& inputs,
                              const std::vector<double>& parameters) {
  TORCH_CHECK_NOT_IMPLEMENTED(std::none_of(inputs.begin(), inputs.end(), has_tangent),
                              "call_rows: there is no forward-mode derivative");
  NodePointer<RowsNode> node;
  if (at::GradMode::is_enabled() && std::any_of(inputs.begin(), inputs.end(), is_recorded)) {
    node = make_node<RowsNode>(number, inputs, parameters);
  }
  std::vector<Tensor> results = fused_rows(kernel_of(number), inputs, parameters);
  if (node) {
    for (Tensor& result : results) torch::autograd::set_history(result, node);
  }
  return results;
}

void set_rows_backward(int64_t number, uint64_t needed, uint64_t summed, RowsBackward backward) {
  // The first stays: a backward may be reading it.
  registry().with(number, [&](Entry& entry) {
    entry.backward.try_emplace({needed, summed}, std::move(backward));
  });
}

void set_rows_differentiable_backward(std::function<RowsDifferentiableBackward> function) {
  differentiable_backward() = std::move(function);
}

std::vector<Tensor> unbound_rows(const Tensor& stack) {
  if (is_transformed() || c10::impl::TorchDispatchModeTLS::any_modes_set() || has_tangent(stack) ||
      !at::GradMode::is_enabled() || !is_recorded(stack)) {
    return at::unbind(stack);
  }
  const auto node = make_node<UnbindNode>(stack);
  std::vector<Tensor> rows = [&stack] {
    const at::AutoDispatchBelowAutograd guard;  // they are views still
    return at::unbind(stack);
  }();
  for (Tensor& row : rows) torch::autograd::set_history(row, node);
  return rows;
}

Tensor linear_of_rows(const Tensor& input, const Tensor& weight) {
  const bool is_plain = !is_transformed() && !c10::impl::TorchDispatchModeTLS::any_modes_set() &&
                        !at::autocast::is_autocast_enabled(input.device().type()) &&
                        !has_tangent(input) && !has_tangent(weight);
  if (!is_plain || input.scalar_type() != weight.scalar_type() ||
      input.device() != weight.device() || weight.dim() != 2 || weight.numel() == 0 ||
      input.dim() == 0 || input.size(-1) != weight.size(1)) {
    return at::linear(input, weight);
  }
  NodePointer<LinearNode> node;
  if (at::GradMode::is_enabled() && (is_recorded(input) || is_recorded(weight))) {
    node = make_node<LinearNode>(input, weight);
  }
  Tensor result = below_autograd([&] {
    c10::DimVector sizes(input.sizes());
    sizes.back() = weight.size(0);
    return at::mm(input.reshape({-1, input.size(-1)}), weight.t()).view(sizes);
  });
  if (node) torch::autograd::set_history(result, node);
  return result;
}

}  // namespace fusedgrad::operators

// Nodes of autograd's graph under compiled autograd, which puts a call of each into a graph of its
// own, as it does with PyTorch's nodes.
#pragma once

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "operators/recording.h"

namespace fusedgrad::operators {

using torch::dynamo::autograd::PackedArgs;

// `backward` of the gradients, of which at least one is defined, and of what was packed: what a
// node's apply_with_saved returns.
inline variable_list call_compiled(
    const std::string& name,
    variable_list (*backward)(const variable_list& grads, const std::vector<c10::IValue>& packed),
    const PackedArgs& packed, const variable_list& grads, const torch::autograd::edge_list& edges,
    torch::dynamo::autograd::SwapSavedVariables& saved) {
  using torch::dynamo::autograd::IValuePacker;
  std::vector<at::TypePtr> schema;
  for (const c10::IValue& value : packed.vec()) {
    schema.push_back(value.isTensor() ? at::TensorType::get() : value.type());
  }
  const auto& compiler = torch::dynamo::autograd::getPyCompilerInterface();
  // Whether gradients are defined is known when the graph runs, and not before.
  const auto guarded = [backward, count = edges.size()](const variable_list& grads,
                                                        const std::vector<c10::IValue>& packed) {
    const auto defined = [](const at::Tensor& grad) { return grad.defined(); };
    if (std::none_of(grads.begin(), grads.end(), defined)) return variable_list(count);
    return backward(grads, packed);
  };
  const std::string function =
      compiler->bind_function(saved.get_py_compiler(), name, guarded, schema,
                              /*is_custom_function=*/true, /*is_traceable=*/true);
  return compiler->call_function(
      saved.get_py_compiler(), "apply_functional", function, grads, packed.vec(),
      IValuePacker<std::vector<std::optional<torch::autograd::InputMetadata>>>::pack(
          torch::dynamo::autograd::get_input_metadata(edges)));
}

// What a call of a kernel has kept for its backward, and which gradients are wanted, bit i for
// input i.
struct KernelCall {
  int64_t number;
  std::vector<double> parameters;
  std::vector<at::Tensor> inputs;
  uint64_t wanted;

  void pack(PackedArgs& packed) const {
    packed.pack(number);
    packed.pack(static_cast<int64_t>(wanted));
    packed.pack(static_cast<int64_t>(parameters.size()));
    packed.pack(static_cast<int64_t>(inputs.size()));
    for (const double parameter : parameters) packed.pack(parameter);
    for (const at::Tensor& input : inputs) packed.pack(input);
  }

  static KernelCall unpacked(PackedArgs& packed) {
    KernelCall call;
    call.number = packed.unpack<int64_t>();
    call.wanted = static_cast<uint64_t>(packed.unpack<int64_t>());
    call.parameters.resize(packed.unpack<int64_t>());
    call.inputs.resize(packed.unpack<int64_t>());
    for (double& parameter : call.parameters) parameter = packed.unpack<double>();
    for (at::Tensor& input : call.inputs) input = packed.unpack<at::Tensor>();
    return call;
  }
};

// Keeps the operands of what a rule or products differentiate.
class OperandsNode : public torch::autograd::Node {
 public:
  explicit OperandsNode(at::TensorList operands);

  void release_variables() override;

 protected:
  std::vector<bool> wanted() const;
  variable_list unpack();

  // Under compiled autograd: what it distinguishes nodes by, and the operands, the parameters and
  // the mask of the gradients that are wanted, as a call takes them.
  void collect(torch::dynamo::autograd::CompiledNodeArgs& args, const char* name,
               const Parameters& parameters) const;
  void pack(PackedArgs& packed, const Parameters& parameters,
            torch::dynamo::autograd::SwapSavedVariables& saved);
  struct Packed {
    Parameters parameters;
    std::vector<bool> mask;
    variable_list operands;
  };
  static Packed unpacked(PackedArgs& packed);

 private:
  torch::autograd::SavedVariable marker_;
  std::vector<torch::autograd::SavedVariable> saved_;
};

// Keeps the inputs of a call, and nothing else.
class KernelNode : public torch::autograd::Node {
 public:
  KernelNode(torch::autograd::edge_list&& edges, int64_t number, at::TensorList inputs,
             at::ArrayRef<double> parameters)
      : torch::autograd::Node(std::move(edges)), number_(number), parameters_(parameters.vec()) {
    saved_.reserve(inputs.size());
    for (const at::Tensor& input : inputs) saved_.emplace_back(input, /*is_output=*/false);
  }

  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (torch::autograd::SavedVariable& input : saved_) input.reset_data();
  }

  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& args) const override {
    args.collect(number_);
    args.collect(parameters_);
    args.collect(saved_, /*is_output=*/false);
    args.collect(wanted());
  }

 protected:
  uint64_t wanted() const {
    uint64_t bits = 0;
    for (size_t i = 0; i < saved_.size(); ++i) {
      bits |= static_cast<uint64_t>(task_should_compute_output(i)) << i;
    }
    return bits;
  }

  KernelCall unpack() {
    const std::lock_guard<std::mutex> lock(mutex_);
    KernelCall call{number_, parameters_, {}, wanted()};
    call.inputs.reserve(saved_.size());
    for (const torch::autograd::SavedVariable& input : saved_) {
      call.inputs.push_back(input.unpack());
    }
    return call;
  }

  PackedArgs packed(torch::dynamo::autograd::SwapSavedVariables& saved) {
    PackedArgs packed;
    saved.before(saved_);
    unpack().pack(packed);
    saved.after(saved_);
    return packed;
  }

 private:
  int64_t number_;
  std::vector<double> parameters_;
  std::vector<torch::autograd::SavedVariable> saved_;
};

}  // namespace fusedgrad::operators

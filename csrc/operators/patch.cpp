// PyTorch's own operators, run on this library's where a thread asks for it (fusedgrad.patched).
//
// The kernels stand at a dispatch key that no tensor has and that a thread includes: nothing is
// asked, and nothing costs, where it does not. It is the first key of all but the tracers' of
// Python, so that the call is seen as the user made it, before autocast and functorch; and it is a
// part of at::ThreadLocalState, with which it follows into the threads of backward.
#include "operators/patch.h"

#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/library.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "operators/recording.h"

namespace fusedgrad::operators {
namespace {

constexpr auto kPatched = c10::DispatchKey::TESTING_ONLY_GenericMode;

std::function<PatchedCall>& patched_call() {
  static auto* function = new std::function<PatchedCall>;  // outlives the interpreter
  return *function;
}

// Whether a call is as a user makes it, and not one that a kernel of PyTorch makes in turn, below
// autograd or, of an operator that consists of others, inside a transform of torch.func.
bool is_users_call() {
  if (c10::impl::tls_is_dispatch_key_excluded(c10::DispatchKey::FuncTorchDynamicLayerFrontMode)) {
    return false;
  }
  return !c10::impl::tls_is_dispatch_key_excluded(c10::DispatchKey::AutogradFunctionality) ||
         c10::InferenceMode::is_enabled();
}

// A real tensor with a kernel, and nobody but autograd interested in the call.
bool ordinary(const at::Tensor& tensor) {
  const at::ScalarType type = tensor.scalar_type();
  return (tensor.is_cpu() || tensor.is_cuda()) && tensor.layout() == at::kStrided &&
         !tensor.is_nested() && !tensor.is_quantized() &&
         (type == at::kFloat || type == at::kDouble || type == at::kBFloat16 ||
          type == at::kHalf) &&
         !tensor.key_set().has_any(c10::DispatchKeySet(
             {c10::DispatchKey::Python, c10::DispatchKey::Functionalize,
              c10::DispatchKey::FuncTorchGradWrapper, c10::DispatchKey::FuncTorchBatched})) &&
         !tensor._fw_grad(/*level=*/0).defined() &&
         !at::autocast::is_autocast_enabled(tensor.device().type());
}

// Runs one operator of PyTorch on `ours`, whose arguments are the same.
class Patched final : public c10::OperatorKernel {
 public:
  explicit Patched(std::optional<c10::OperatorHandle> ours) : ours_(std::move(ours)) {}

  void operator()(const c10::OperatorHandle& op, c10::DispatchKeySet keys,
                  torch::jit::Stack* stack) const {
    if (is_users_call()) {
      if (ours_ && all_ordinary(torch::jit::last(*stack, op.schema().arguments().size()))) {
        return ours_->callBoxed(stack);
      }
      const c10::impl::ExcludeDispatchKeyGuard guard(kPatched);
      if (patched_call()(op, stack)) return;
    }
    op.redispatchBoxed(keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, kPatched),
                       stack);
  }

 private:
  static bool all_ordinary(at::ArrayRef<c10::IValue> arguments) {
    if (is_transformed()) return false;
    const at::Tensor* first = nullptr;
    for (const c10::IValue& argument : arguments) {
      if (!argument.isTensor() || !argument.toTensor().defined()) continue;
      const at::Tensor& tensor = argument.toTensor();
      if (!ordinary(tensor)) return false;
      // Other dtypes and shapes than the first one's are the business of the public functions.
      if (first != nullptr &&
          (tensor.scalar_type() != first->scalar_type() || tensor.device() != first->device() ||
           !tensor.sizes().equals(first->sizes()))) {
        return false;
      }
      if (first == nullptr) first = &tensor;
    }
    return true;
  }

  std::optional<c10::OperatorHandle> ours_;
};

void implement(torch::Library& m, const char* name, bool has_operator) {
  std::optional<c10::OperatorHandle> ours;
  if (has_operator) {
    const std::string full = std::string("fusedgrad::") + name;
    const size_t dot = full.find('.');
    ours = c10::Dispatcher::singleton().findSchemaOrThrow(
        full.substr(0, dot).c_str(), dot == std::string::npos ? "" : full.substr(dot + 1).c_str());
  }
  m.impl(name, torch::CppFunction::makeFromBoxedFunctor(std::make_unique<Patched>(ours)));
}

}  // namespace

bool is_patched() { return c10::impl::tls_is_dispatch_key_included(kPatched); }

bool set_patched(bool patched) {
  const bool before = is_patched();
  if (before == patched) return before;
  // Here and not at import, so that a process that never asks for it keeps its dispatcher.
  static torch::Library* const library = [] {
    auto* m = new torch::Library(torch::Library::IMPL, "aten", kPatched, __FILE__, __LINE__);
    for (const char* name : {"sigmoid", "tanh", "pow.Tensor_Scalar", "pow.Tensor_Tensor",
                             "binary_cross_entropy", "binary_cross_entropy_with_logits"}) {
      implement(*m, name, /*has_operator=*/true);
    }
    for (const char* name :
         {"special_expit", "special_expit.out", "square", "square_", "square.out", "sigmoid_",
          "sigmoid.out", "tanh_", "tanh.out", "pow.Scalar", "pow_.Scalar", "pow_.Tensor",
          "pow.Tensor_Scalar_out", "pow.Tensor_Tensor_out", "pow.Scalar_out"}) {
      implement(*m, name, /*has_operator=*/false);
    }
    return m;
  }();
  static_cast<void>(library);
  c10::impl::tls_set_dispatch_key_included(kPatched, patched);
  return before;
}

void set_patched_call(std::function<PatchedCall> function) { patched_call() = std::move(function); }

TORCH_LIBRARY_IMPL(_, TESTING_ONLY_GenericMode, m) {
  m.fallback(torch::CppFunction::makeFallthrough());
}

}  // namespace fusedgrad::operators

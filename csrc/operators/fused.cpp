#include "operators/fused.h"

#include <ATen/ExpandUtils.h>
#include <ATen/Parallel.h>
#include <ATen/TensorIterator.h>
#include <ATen/core/Reduction.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/library.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

#include "cpu/memory.h"
#include "cpu/walk.h"
#include "operators/compiled.h"
#include "operators/dispatch.h"
#include "operators/elementwise.h"
#include "operators/recording.h"
#include "operators/registry.h"
#include "operators/sums.h"
#include "operators/torch_versions.h"
#ifdef FUSEDGRAD_CUDA
#include "cuda/fused.h"
#include "operators/cuda.h"
#endif

namespace fusedgrad::operators {
namespace {

using torch::autograd::variable_list;

struct FusedKernel {
  cpu::Kernel kernel;
  bool wide;
  int parameters;
  std::vector<uint64_t> used;  // by each output, bit i for input i
  // By the gradients that are wanted, bit i for input i
  std::map<uint64_t, FusedBackward> backward;
#ifdef FUSEDGRAD_CUDA
  cuda::FusedKernel cuda = {};
  std::vector<at::ScalarType> dtypes = {};  // of a kernel for CUDA, which has no block for the CPU
#endif
};

Registry<FusedKernel>& registry() {
  static Registry<FusedKernel> instance("fused");
  return instance;
}

const FusedKernel& kernel_of(int64_t number) {
  return registry().with(number, [](FusedKernel& kernel) -> const FusedKernel& { return kernel; });
}

// Whether a kernel serves inputs of these dtypes: one for CUDA was compiled for its own.
bool takes([[maybe_unused]] const FusedKernel& fused, [[maybe_unused]] at::TensorList inputs) {
#ifdef FUSEDGRAD_CUDA
  for (size_t i = 0; i < inputs.size() && !fused.dtypes.empty(); ++i) {
    if (fused.dtypes[fused.cuda.outputs + i] != inputs[i].scalar_type()) return false;
  }
#endif
  return true;
}

std::optional<FusedBackward> backward_of(int64_t number, uint64_t wanted) {
  return registry().with(number, [wanted](const FusedKernel& kernel) {
    const auto found = kernel.backward.find(wanted);
    return found == kernel.backward.end() ? std::nullopt : std::optional(found->second);
  });
}

std::function<FusedDifferentiableBackward>& differentiable_backward() {
  static auto* function = new std::function<FusedDifferentiableBackward>;
  return *function;  // outlives the interpreter
}

at::TensorIterator iterator(const std::vector<Tensor>& outputs, at::TensorList inputs,
                            at::ScalarType dtype) {
  const at::Device device = common_device(inputs);
  at::TensorIteratorConfig config;
  config.check_all_same_dtype(false).check_all_same_device(false);
  if (!outputs.empty()) config.declare_static_dtype_and_device(dtype, device);
  for (const Tensor& output : outputs) config.add_output(output);
  for (const Tensor& input : inputs) config.add_const_input(input);
  return config.build();
}

// The iterator over fresh outputs and the inputs; the outputs are added to `outputs`, with the
// strides that TensorIterator gives the first.
at::TensorIterator allocate(std::vector<Tensor>& outputs, at::TensorList inputs,
                            at::ArrayRef<at::ScalarType> dtypes) {
  const bool one_dtype =
      std::all_of(dtypes.begin(), dtypes.end(), [&](auto dtype) { return dtype == dtypes[0]; });
  at::TensorIterator iter =
      iterator(std::vector<Tensor>(one_dtype ? dtypes.size() : 1), inputs, dtypes[0]);
  for (int i = 0; i < iter.noutputs(); ++i) outputs.push_back(iter.output(i));
  if (!one_dtype) {
    for (size_t i = 1; i < dtypes.size(); ++i) {
      outputs.push_back(at::empty_strided(outputs[0].sizes(), outputs[0].strides(),
                                          outputs[0].options().dtype(dtypes[i])));
    }
    iter = iterator(outputs, inputs, dtypes[0]);
  }
  for (const Tensor& output : outputs) {
    if (output.is_cpu()) cpu::advise_huge_pages(output.data_ptr(), output.nbytes());
  }
  return iter;
}

// The outputs that are not summed; the others are undefined.
std::vector<Tensor> allocate_whole(at::TensorList inputs, at::ArrayRef<at::ScalarType> dtypes,
                                   at::IntArrayRef summed) {
  std::vector<at::ScalarType> whole;
  for (size_t i = 0; i < summed.size(); ++i) {
    if (summed[i] == 0) whole.push_back(dtypes[i]);
  }
  std::vector<Tensor> written;
  if (!whole.empty()) allocate(written, inputs, whole);
  std::vector<Tensor> outputs(summed.size());
  auto next = written.begin();
  for (size_t i = 0; i < summed.size(); ++i) {
    if (summed[i] == 0) outputs[i] = *next++;
  }
  return outputs;
}

void check_counts(const FusedKernel& fused, size_t inputs, at::ArrayRef<double> parameters,
                  size_t outputs) {
  const auto check = [](const char* what, size_t given, int expected) {
    TORCH_CHECK(given == static_cast<size_t>(expected), "fused: got ", given, " ", what,
                ", expected ", expected);
  };
  check("inputs", inputs, fused.kernel.inputs);
  check("dtypes", outputs, fused.kernel.outputs);
  check("parameters", parameters.size(), fused.parameters);
}

// The kernel with its parameters, after a check that it was made for such a call: of so many
// operands that are `inputs`, or rows of them.
cpu::Kernel checked(const FusedKernel& fused, size_t operands, at::TensorList inputs,
                    at::ArrayRef<double> parameters, size_t outputs) {
  check_counts(fused, operands, parameters, outputs);
  TORCH_CHECK(fused.kernel.float32 != nullptr || fused.kernel.float64 != nullptr,
              "fused: CPU tensors for a kernel of another device");
  for (const Tensor& input : inputs) {
    TORCH_CHECK(fused.wide || input.scalar_type() != at::kDouble,
                "fused: a float64 tensor for a kernel that computes in float32");
  }
  cpu::Kernel kernel = fused.kernel;
  std::copy(parameters.begin(), parameters.end(), kernel.parameters.begin());
  return kernel;
}

std::array<DType, cpu::kMaxOperands> types_of(const at::TensorIterator& iter) {
  std::array<DType, cpu::kMaxOperands> types;
  for (int i = 0; i < iter.ntensors(); ++i) types[i] = dtype_of("fused", iter.dtype(i));
  return types;
}

void run(const cpu::Kernel& kernel, bool wide, at::TensorIterator& iter) {
  const auto types = types_of(iter);
  iter.for_each([&](char** data, const int64_t* strides, int64_t size0, int64_t size1) {
    cpu::elementwise(kernel, wide, types.data(), {data, strides, size0, size1});
  });
}

std::vector<Tensor> fused(int64_t number, at::TensorList inputs, at::ArrayRef<double> parameters,
                          at::ArrayRef<at::ScalarType> dtypes, at::IntArrayRef summed) {
  const FusedKernel& fused = kernel_of(number);
  const cpu::Kernel kernel = checked(fused, inputs.size(), inputs, parameters, dtypes.size());
  std::vector<Tensor> outputs;
  if (!summed.empty()) {
    TORCH_CHECK(summed.size() == dtypes.size(), "fused: got ", summed.size(),
                " numbers of summed dimensions for ", dtypes.size(), " outputs");
    outputs = allocate_whole(inputs, dtypes, summed);
    run_with_sums("fused", kernel, fused.wide, outputs, inputs, dtypes, summed);
    return outputs;
  }
  if (const Tensor* const first = alike(inputs)) {
    std::array<DType, cpu::kMaxOperands> types;
    for (size_t i = 0; i < dtypes.size(); ++i) types[i] = dtype_of("fused", dtypes[i]);
    const DType given = dtype_of("fused", first->scalar_type());
    std::fill_n(types.begin() + dtypes.size(), inputs.size(), given);
    outputs.resize(dtypes.size());
    elementwise_of_alike(outputs.data(), *first, inputs, dtypes,
                         [&](char** data, const int64_t* strides, int64_t size0, int64_t size1) {
                           cpu::elementwise(kernel, fused.wide, types.data(),
                                            {data, strides, size0, size1});
                         });
    return outputs;
  }
  at::TensorIterator iter = allocate(outputs, inputs, dtypes);
  run(kernel, fused.wide, iter);
  return outputs;
}

double scale_of(int64_t reduction, int64_t n) {
  return reduction == at::Reduction::Mean ? 1.0 / static_cast<double>(n) : 1.0;
}

void check_reduction(int64_t reduction) {
  TORCH_CHECK_VALUE(reduction == at::Reduction::Mean || reduction == at::Reduction::Sum,
                    "fused_reduction: reduction is ", reduction, ", expected 1 (mean) or 2 (sum)");
}

#ifdef FUSEDGRAD_CUDA
void run_on_cuda(const FusedKernel& fused, at::ArrayRef<double> parameters,
                 const at::TensorIterator& iter) {
  for (int i = 0; i < iter.ntensors(); ++i) {
    TORCH_CHECK(iter.dtype(i) == fused.dtypes[i], "fused: operand ", i, " has dtype ",
                iter.dtype(i), ", expected ", fused.dtypes[i]);
  }
  launch("fused", iter, [&](const cuda::Elements& elements, cudaStream_t stream) {
    return cuda::launch_fused(fused.cuda, elements, parameters.data(), fused.parameters, stream);
  });
}

void check_on_cuda(const FusedKernel& fused, at::TensorList inputs, at::ArrayRef<double> parameters,
                   size_t outputs, bool sums = false) {
  check_counts(fused, inputs.size(), parameters, outputs);
  TORCH_CHECK(!fused.dtypes.empty(), "fused: CUDA tensors for a kernel of the CPU");
  TORCH_CHECK(sums == (fused.cuda.combine != nullptr && fused.cuda.summed == 0),
              "fused: the kernel ",
              sums ? "writes its outputs, expected one that sums them"
                   : "sums its outputs, expected one that writes them");
}

void check_dtypes_on_cuda(const FusedKernel& fused, at::TensorList inputs,
                          at::ArrayRef<at::ScalarType> dtypes) {
  TORCH_CHECK(takes(fused, inputs) && dtypes == at::ArrayRef(fused.dtypes).slice(0, dtypes.size()),
              "fused: the kernel was compiled for other dtypes");
}

// The sums of all elements of the outputs, or their means, in fresh tensors of so many dimensions.
std::vector<Tensor> totals_on_cuda(const FusedKernel& fused, at::TensorList inputs,
                                   at::ArrayRef<double> parameters,
                                   at::ArrayRef<at::ScalarType> dtypes, int64_t dimensions,
                                   int64_t reduction) {
  check_on_cuda(fused, inputs, parameters, dtypes.size(), /*sums=*/true);
  check_dtypes_on_cuda(fused, inputs, dtypes);
  const at::TensorIterator iter = iterator({}, inputs, dtypes[0]);
  const at::TensorOptions options = at::device(common_device(inputs));
  const double scale = scale_of(reduction, iter.numel());
  std::vector<Tensor> totals;
  std::vector<void*> data;
  for (at::ScalarType dtype : dtypes) {
    totals.push_back(at::empty(c10::DimVector(dimensions, 1), options.dtype(dtype)));
    data.push_back(totals.back().data_ptr());
  }
  launch_sums(
      "fused", iter,
      [&](const cuda::Elements& elements) {
        return fused.cuda.outputs * cuda::reduction_workspace_bytes(elements.numel);
      },
      [&](const cuda::Elements& elements, void* workspace, int64_t bytes, cudaStream_t stream) {
        return cuda::launch_fused_sum(fused.cuda, elements, parameters.data(), fused.parameters,
                                      scale, data.data(), workspace, bytes, stream);
      });
  return totals;
}

// The outputs for inputs that are `alike`
std::vector<Tensor> of_alike_on_cuda(const FusedKernel& fused, const Tensor& first,
                                     at::TensorList inputs, at::ArrayRef<double> parameters,
                                     at::ArrayRef<at::ScalarType> dtypes) {
  check_dtypes_on_cuda(fused, inputs, dtypes);
  std::vector<Tensor> outputs(dtypes.size());
  launch("fused", first.device(), elements_of_alike(outputs.data(), first, inputs, dtypes),
         [&](const cuda::Elements& elements, cudaStream_t stream) {
           return cuda::launch_fused(fused.cuda, elements, parameters.data(), fused.parameters,
                                     stream);
         });
  return outputs;
}

// The outputs, of which those of the kernel's bits are summed over the dimensions that are the bits
// of their numbers in `summed`, which stay with size 1.
std::vector<Tensor> sums_on_cuda(const FusedKernel& fused, at::TensorList inputs,
                                 at::ArrayRef<double> parameters,
                                 at::ArrayRef<at::ScalarType> dtypes, at::IntArrayRef summed) {
  check_counts(fused, inputs.size(), parameters, dtypes.size());
  check_dtypes_on_cuda(fused, inputs, dtypes);
  std::vector<Tensor> outputs = allocate_whole(inputs, dtypes, summed);
  run_with_sums("fused", fused.cuda, parameters, outputs, inputs, dtypes, summed);
  return outputs;
}

// Whether those that are summed are those that the kernel sums, all over the same dimensions
bool is_summed_so(const FusedKernel& fused, at::IntArrayRef summed) {
  int64_t over = 0;
  for (size_t i = 0; i < summed.size(); ++i) {
    if ((summed[i] != 0) != (fused.cuda.summed >> i & 1)) return false;
    if (summed[i] != 0 && over != 0 && summed[i] != over) return false;
    if (summed[i] != 0) over = summed[i];
  }
  return over != 0;
}

std::vector<Tensor> fused_on_cuda(int64_t number, at::TensorList inputs,
                                  at::ArrayRef<double> parameters,
                                  at::ArrayRef<at::ScalarType> dtypes, at::IntArrayRef summed) {
  const FusedKernel& fused = kernel_of(number);
  if (!summed.empty()) {
    TORCH_CHECK(summed.size() == dtypes.size(), "fused: got ", summed.size(),
                " numbers of summed dimensions for ", dtypes.size(), " outputs");
    int64_t dimensions = 0;
    for (const Tensor& input : inputs) dimensions = std::max(dimensions, input.dim());
    const int64_t all = (int64_t{1} << dimensions) - 1;
    if (fused.cuda.summed == 0 &&
        std::all_of(summed.begin(), summed.end(), [all](int64_t dims) { return dims == all; })) {
      return totals_on_cuda(fused, inputs, parameters, dtypes, dimensions, at::Reduction::Sum);
    }
    TORCH_CHECK_NOT_IMPLEMENTED(
        is_summed_so(fused, summed),
        "fused: a kernel for CUDA sums the outputs that it was compiled for, over the same "
        "dimensions");
    return sums_on_cuda(fused, inputs, parameters, dtypes, summed);
  }
  check_on_cuda(fused, inputs, parameters, dtypes.size());
  if (const Tensor* const first = alike(inputs)) {
    return of_alike_on_cuda(fused, *first, inputs, parameters, dtypes);
  }
  std::vector<Tensor> outputs;
  run_on_cuda(fused, parameters, allocate(outputs, inputs, dtypes));
  return outputs;
}

Tensor fused_reduction_on_cuda(int64_t number, at::TensorList inputs,
                               at::ArrayRef<double> parameters, at::ScalarType dtype,
                               int64_t reduction) {
  check_reduction(reduction);
  return totals_on_cuda(kernel_of(number), inputs, parameters, dtype, /*dimensions=*/0,
                        reduction)[0];
}
#endif

Tensor fused_reduction(int64_t number, at::TensorList inputs, at::ArrayRef<double> parameters,
                       at::ScalarType dtype, int64_t reduction) {
  const FusedKernel& fused = kernel_of(number);
  const cpu::Kernel kernel = checked(fused, inputs.size(), inputs, parameters, /*outputs=*/1);
  check_reduction(reduction);
  dtype_of("fused", dtype);
  at::TensorIterator iter = iterator({}, inputs, dtype);
  const auto types = types_of(iter);
  const double sum =
      summed(iter, [&](char** data, const int64_t* strides, int64_t size0, int64_t size1) {
        return cpu::sum(kernel, fused.wide, types.data(), {data, strides, size0, size1});
      });
  return rounded(sum * scale_of(reduction, iter.numel()), at::dtype(dtype));
}

using FusedOperator = std::vector<Tensor>(int64_t, at::TensorList, at::ArrayRef<double>,
                                          at::ArrayRef<at::ScalarType>, at::IntArrayRef);
using FusedReductionOperator = Tensor(int64_t, at::TensorList, at::ArrayRef<double>, at::ScalarType,
                                      int64_t);

const c10::TypedOperatorHandle<FusedOperator>& fused_operator() {
  static const auto handle = find<FusedOperator>("fusedgrad::fused");
  return handle;
}

const c10::TypedOperatorHandle<FusedReductionOperator>& fused_reduction_operator() {
  static const auto handle = find<FusedReductionOperator>("fusedgrad::fused_reduction");
  return handle;
}

// A fused function under autograd
class FusedNode final : public KernelNode {
 public:
  // No gradient goes to the inputs that are not among `moving`, as under no_grad.
  FusedNode(int64_t number, at::TensorList inputs, at::ArrayRef<double> parameters,
            int64_t reduction, uint64_t moving)
      : KernelNode(torch::autograd::collect_next_edges(only(inputs, moving)), number, inputs,
                   parameters),
        reduction_(reduction) {}

  std::string name() const override { return "fusedgrad::FusedBackward"; }

  variable_list apply(variable_list&& grads) override {
    const bool any =
        std::any_of(grads.begin(), grads.end(), [](const Tensor& grad) { return grad.defined(); });
    if (!any) return variable_list(num_outputs());
    const KernelCall call = unpack();
    if (reduction_ != at::Reduction::None) grads = {of_elements(grads[0], call.inputs, reduction_)};
    if (is_plain(grads, call)) {
      const std::optional<FusedBackward> backward = backward_of(call.number, call.wanted);
      if (backward) {
        const variable_list read = operands(*backward, grads, call);
        if (takes(kernel_of(backward->kernel), read)) return run(*backward, read, call);
      }
    }
    return differentiable(call, grads);
  }

  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& args) const override {
    KernelNode::compiled_args(args);
    args.collect(reduction_);
  }

  variable_list apply_with_saved(const variable_list& grads,
                                 torch::dynamo::autograd::SwapSavedVariables& saved) override {
    PackedArgs args = packed(saved);
    args.pack(reduction_);
    return call_compiled(name(), compiled, args, grads, next_edges(), saved);
  }

 private:
  static variable_list compiled(const variable_list& grads, const std::vector<c10::IValue>& args) {
    PackedArgs packed(args);
    const KernelCall call = KernelCall::unpacked(packed);
    const auto reduction = packed.unpack<int64_t>();
    if (reduction == at::Reduction::None) return differentiable(call, grads);
    return differentiable(call, {of_elements(grads[0], call.inputs, reduction)});
  }

  static variable_list differentiable(const KernelCall& call, const variable_list& grads) {
    return differentiable_backward()(call.number, grads, call.inputs, call.parameters, call.wanted);
  }

  static variable_list only(at::TensorList inputs, uint64_t moving) {
    variable_list result(inputs.size());
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (moving >> i & 1) result[i] = inputs[i];
    }
    return result;
  }

  // The gradient of each element, from that of their sum or mean.
  static Tensor of_elements(Tensor grad, const variable_list& inputs, int64_t reduction) {
    c10::SymDimVector sizes;
    for (const Tensor& input : inputs) {
      sizes = at::infer_size_symdimvector(sizes, input.sym_sizes());
    }
    // 1/n of many elements would be 0 in half precision.
    if (at::isReducedFloatingType(grad.scalar_type())) grad = grad.to(at::kFloat);
    if (reduction == at::Reduction::Mean) {
      const c10::SymInt count = c10::multiply_integers(sizes);
      grad = grad.mul(scale_of(reduction, count.guard_int(__FILE__, __LINE__)));
    }
    return grad.expand_symint(sizes);
  }

  // Whether a kernel alone gives the gradients.
  static bool is_plain(const variable_list& grads, const KernelCall& call) {
    const bool wide = kernel_of(call.number).wide;
    if (at::GradMode::is_enabled() || is_transformed()) return false;
    for (const Tensor& grad : grads) {
      if (!grad.defined() || grad._fw_grad(/*level=*/0).defined()) return false;
      if (grad.scalar_type() == at::kDouble && !wide) return false;
    }
    return std::all_of(call.inputs.begin(), call.inputs.end(), [&](const Tensor& input) {
      return input.sym_sizes() == grads[0].sym_sizes();
    });
  }

  static variable_list operands(const FusedBackward& backward, const variable_list& grads,
                                const KernelCall& call) {
    variable_list all = grads;
    all.insert(all.end(), call.inputs.begin(), call.inputs.end());
    variable_list read;
    for (int64_t i : backward.read) read.push_back(all[i]);
    return read;
  }

  static variable_list run(const FusedBackward& backward, const variable_list& read,
                           const KernelCall& call) {
    const variable_list& inputs = call.inputs;
    std::vector<at::ScalarType> dtypes;
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (call.wanted >> i & 1) dtypes.push_back(inputs[i].scalar_type());
    }
    const at::AutoDispatchBelowADInplaceOrView guard;
    const std::vector<Tensor> found =
        fused_operator().call(backward.kernel, read, call.parameters, dtypes, {});
    variable_list results(inputs.size());
    for (size_t i = 0, next = 0; i < inputs.size(); ++i) {
      if (call.wanted >> i & 1) results[i] = found[next++];
    }
    return results;
  }

  int64_t reduction_;
};

// `result` becomes the next output of `node`.
void set_history(Tensor& result, const FusedKernel&, uint64_t, const NodePointer<FusedNode>& node) {
  torch::autograd::set_history(result, node);
}

// Those that use none of the inputs that require gradients, bits in `requiring`, stay constants.
void set_history(std::vector<Tensor>& results, const FusedKernel& fused, uint64_t requiring,
                 const NodePointer<FusedNode>& node) {
  for (size_t i = 0; i < results.size(); ++i) {
    if (i >= fused.used.size() || fused.used[i] & requiring) {
      torch::autograd::set_history(results[i], node);
    } else {
      node->add_input_metadata(torch::autograd::Node::undefined_input());
    }
  }
}

// Runs `forward` below autograd and records it, if an input requires its gradient.
template <class Forward>
auto record(int64_t number, at::TensorList inputs, at::ArrayRef<double> parameters,
            int64_t reduction, const Forward& forward) {
  uint64_t requiring = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Tensor& input = inputs[i];
    requiring |= static_cast<uint64_t>(input.requires_grad()) << i;
    TORCH_CHECK_NOT_IMPLEMENTED(
        !c10::AutogradState::get_tls_state().get_fw_grad_mode() ||
            !input._fw_grad(/*level=*/0).defined(),
        "fused: the operator has no forward-mode derivative, the fused function has");
  }
  NodePointer<FusedNode> node;
  if (requiring != 0 && at::GradMode::is_enabled()) {
    uint64_t moving = 0;
    for (uint64_t used : kernel_of(number).used) moving |= used;
    requiring &= moving;
    if (requiring != 0) {
      node = make_node<FusedNode>(number, inputs, parameters, reduction, moving);
    }
  }
  auto result = [&] {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return forward();
  }();
  if (node) set_history(result, kernel_of(number), requiring, node);
  return result;
}

std::vector<Tensor> fused_recorded(int64_t number, at::TensorList inputs,
                                   at::ArrayRef<double> parameters,
                                   at::ArrayRef<at::ScalarType> dtypes, at::IntArrayRef summed) {
  return record(number, inputs, parameters, at::Reduction::None,
                [&] { return fused_operator().call(number, inputs, parameters, dtypes, summed); });
}

Tensor fused_reduction_recorded(int64_t number, at::TensorList inputs,
                                at::ArrayRef<double> parameters, at::ScalarType dtype,
                                int64_t reduction) {
  return record(number, inputs, parameters, reduction, [&] {
    return fused_reduction_operator().call(number, inputs, parameters, dtype, reduction);
  });
}

// Of an operand that is a tensor, or one of its rows
at::IntArrayRef shape_of(const Tensor& tensor, int64_t row) {
  return tensor.sizes().slice(row < 0 ? 0 : 1);
}

// For operands on the CPU that lie side by side: the number of elements after which the smaller
// ones repeat, 0 if there are none but single elements. Nothing for others, which
// at::TensorIterator can walk over.
std::optional<int64_t> period_of(const std::vector<Tensor>& inputs,
                                 const std::vector<int64_t>& rows, at::IntArrayRef sizes) {
  int64_t period = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i].is_cpu() || !inputs[i].is_contiguous()) return std::nullopt;
    at::IntArrayRef shape = shape_of(inputs[i], rows[i]);
    if (shape == sizes) continue;
    while (!shape.empty() && shape[0] == 1) shape = shape.slice(1);
    if (shape.empty()) continue;
    if (shape != sizes.slice(sizes.size() - shape.size())) return std::nullopt;
    const int64_t own = c10::multiply_integers(shape);
    if (period != 0 && own != period) return std::nullopt;
    period = own;
  }
  return period;
}

// The kernel over such operands, of which a whole one has `numel` elements.
void run_on_rows(const cpu::Kernel& kernel, bool wide, const std::vector<Tensor>& tensors,
                 const RowsStep& step, int64_t period, int64_t numel) {
  if (numel == 0) return;
  const int64_t size0 = period == 0 ? numel : period;
  const int count = kernel.outputs + kernel.inputs;
  std::array<DType, cpu::kMaxOperands> types;
  std::array<char*, cpu::kMaxOperands> data;
  std::array<int64_t, 2 * cpu::kMaxOperands> strides{};
  int filled = 0;
  for (const std::vector<Row>* rows : {&step.writes, &step.read}) {
    for (const auto& [i, row] : *rows) {
      const Tensor& tensor = tensors[i];
      const int64_t elements = c10::multiply_integers(shape_of(tensor, row));
      const int64_t size = static_cast<int64_t>(tensor.element_size());
      types[filled] = dtype_of("fused", tensor.scalar_type());
      data[filled] = static_cast<char*>(const_cast<void*>(tensor.const_data_ptr()));
      data[filled] += std::max<int64_t>(row, 0) * elements * size;
      strides[filled] = elements == 1 ? 0 : size;
      strides[count + filled] = elements == numel ? size0 * size : 0;
      ++filled;
    }
  }
  const int64_t size1 = numel / size0;
  const bool is_one = size1 == 1;  // whose elements are shared out, not its rows
  const int64_t grain = std::max<int64_t>(1, at::internal::GRAIN_SIZE / (is_one ? 1 : size0));
  at::parallel_for(0, is_one ? size0 : size1, grain, [&](int64_t begin, int64_t end) {
    std::array<char*, cpu::kMaxOperands> part;
    for (int i = 0; i < count; ++i) part[i] = data[i] + begin * strides[is_one ? i : count + i];
    const int64_t n = end - begin;
    cpu::elementwise(kernel, wide, types.data(),
                     {part.data(), strides.data(), is_one ? n : size0, is_one ? 1 : n});
  });
}

void check_operands(int outputs, int inputs) {
  TORCH_CHECK(outputs > 0 && inputs > 0 && outputs + inputs <= cpu::kMaxOperands,
              "fused: ", outputs, " outputs and ", inputs, " inputs, expected at most ",
              cpu::kMaxOperands);
}

}  // namespace

int64_t add_fused_kernel(uintptr_t address, bool wide, std::vector<uint64_t> used, int inputs,
                         int parameters) {
  const int outputs = static_cast<int>(used.size());
  check_operands(outputs, inputs);
  TORCH_CHECK(parameters >= 0 && parameters <= cpu::kMaxParameters, "fused: ", parameters,
              " parameters, expected at most ", cpu::kMaxParameters);
  FusedKernel fused{{outputs, inputs, nullptr, nullptr, {}}, wide, parameters, std::move(used), {}};
  if (wide) {
    fused.kernel.float64 = reinterpret_cast<cpu::Block<double>*>(address);
  } else {
    fused.kernel.float32 = reinterpret_cast<cpu::Block<float>*>(address);
  }
  return registry().add(std::move(fused));
}

std::vector<Tensor> call_fused(int64_t kernel, at::TensorList inputs,
                               at::ArrayRef<double> parameters, at::ArrayRef<at::ScalarType> dtypes,
                               at::IntArrayRef summed) {
  return fused_operator().call(kernel, inputs, parameters, dtypes, summed);
}

std::vector<Tensor> fused_rows(const RowsKernel& rows, const std::vector<Tensor>& inputs,
                               const std::vector<double>& parameters) {
  RECORD_FUNCTION("fusedgrad::fused_rows", c10::ArrayRef<const c10::IValue>{});
  const at::AutoDispatchBelowADInplaceOrView below;
  TORCH_CHECK(!inputs.empty() && inputs.size() == rows.tensors.size(), "fused_rows: got ",
              inputs.size(), " tensors, expected ", rows.tensors.size());
  c10::DimVector sizes;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const int64_t count = rows.tensors[i];
    TORCH_CHECK(count < 0 || (inputs[i].dim() > 0 && inputs[i].size(0) == count),
                "fused_rows: tensor ", i, " has shape ", inputs[i].sizes(), ", expected ", count,
                " rows");
    sizes = at::infer_size_dimvector(sizes, shape_of(inputs[i], count));
  }
  const std::optional<int64_t> period = period_of(inputs, rows.tensors, sizes);
  std::vector<Tensor> tensors = inputs;
  for (size_t i = 0; i < rows.results.size(); ++i) {
    c10::DimVector own = sizes;
    if (rows.results[i] >= 0) own.insert(own.begin(), rows.results[i]);
    tensors.push_back(at::empty(own, at::device(common_device(inputs)).dtype(rows.dtypes[i])));
    if (tensors.back().is_cpu()) {
      cpu::advise_huge_pages(tensors.back().data_ptr(), tensors.back().nbytes());
    }
  }
  for (const RowsStep& step : rows.steps) {
    const FusedKernel& fused = kernel_of(step.kernel);
    const size_t outputs = step.writes.size();
    if (period) {
      const cpu::Kernel kernel = checked(fused, step.read.size(), inputs, parameters, outputs);
      run_on_rows(kernel, fused.wide, tensors, step, *period, c10::multiply_integers(sizes));
      continue;
    }
    const auto operands_of = [&tensors](const std::vector<Row>& of) {
      std::vector<Tensor> operands;
      for (const auto& [i, row] : of) {
        operands.push_back(row < 0 ? tensors[i] : tensors[i].select(0, row));
      }
      return operands;
    };
    const std::vector<Tensor> targets = operands_of(step.writes);
    const std::vector<Tensor> operands = operands_of(step.read);
#ifdef FUSEDGRAD_CUDA
    if (!common_device(operands).is_cpu()) {
      check_on_cuda(fused, operands, parameters, outputs);
      run_on_cuda(fused, parameters, iterator(targets, operands, targets[0].scalar_type()));
      continue;
    }
#endif
    const cpu::Kernel kernel = checked(fused, operands.size(), operands, parameters, outputs);
    at::TensorIterator iter = iterator(targets, operands, targets[0].scalar_type());
    run(kernel, fused.wide, iter);
  }
  return {tensors.begin() + static_cast<std::ptrdiff_t>(inputs.size()), tensors.end()};
}

#ifdef FUSEDGRAD_CUDA

static_assert(cpu::kMaxOperands == cuda::kMaxOperands);

int64_t add_fused_cuda_kernel(const std::string& code, bool wide, std::vector<uint64_t> used,
                              std::vector<at::ScalarType> dtypes, int parameters, bool sums,
                              uint32_t summed) {
  const int outputs = static_cast<int>(used.size());
  const int inputs = static_cast<int>(dtypes.size()) - outputs;
  check_operands(outputs, inputs);
  FusedKernel fused{{outputs, inputs, nullptr, nullptr, {}}, wide, parameters, std::move(used), {}};
  fused.cuda.outputs = outputs;
  fused.cuda.inputs = inputs;
  fused.cuda.wide = wide;
  fused.cuda.summed = summed;
  std::vector<at::ScalarType> lying;  // of the operands that are no sums
  for (int i = 0; i < outputs + inputs; ++i) {
    if (i >= outputs || !(sums || (summed >> i & 1))) lying.push_back(dtypes[i]);
  }
  for (size_t i = 0; i < lying.size(); ++i) {
    fused.cuda.widths[i] = size_of(dtype_of("fused", lying[i]));
    fused.cuda.widest = std::max(fused.cuda.widest, fused.cuda.widths[i]);
  }
  const bool mixed =
      std::any_of(lying.begin(), lying.end(), [&](auto dtype) { return dtype != lying[0]; });
  fused.cuda.bytes = mixed ? size_of(wide ? DType::Float64 : DType::Float32) : fused.cuda.widest;
  const bool combined = sums || summed != 0;
  const cudaError_t error = cuda::load_fused(code.data(), combined, &fused.cuda);
  TORCH_CHECK(error == cudaSuccess, "fused: CUDA error: ", cudaGetErrorString(error));
  fused.dtypes = std::move(dtypes);
  return registry().add(std::move(fused));
}

int64_t add_prebuilt_cuda_kernel(const cuda::FusedKernel& kernel, at::ScalarType dtype,
                                 std::vector<uint64_t> used, int parameters) {
  FusedKernel fused{{kernel.outputs, kernel.inputs, nullptr, nullptr, {}},
                    kernel.wide,
                    parameters,
                    std::move(used),
                    {}};
  fused.cuda = kernel;
  fused.dtypes.assign(kernel.outputs + kernel.inputs, dtype);
  return registry().add(std::move(fused));
}

TORCH_LIBRARY_IMPL(fusedgrad, CUDA, m) {
  m.impl("fused", fused_on_cuda);
  m.impl("fused_reduction", fused_reduction_on_cuda);
}

#endif

void set_fused_backward(int64_t kernel, uint64_t wanted, FusedBackward backward) {
  registry().with(kernel, [&](FusedKernel& fused) {
    fused.backward.insert_or_assign(wanted, std::move(backward));
  });
}

void set_fused_differentiable_backward(std::function<FusedDifferentiableBackward> function) {
  differentiable_backward() = std::move(function);
}

TORCH_LIBRARY_IMPL(fusedgrad, CPU, m) {
  m.impl("fused", fused);
  m.impl("fused_reduction", fused_reduction);
}

TORCH_LIBRARY_IMPL(fusedgrad, Autograd, m) {
  m.impl("fused", fused_recorded);
  m.impl("fused_reduction", fused_reduction_recorded);
}

}  // namespace fusedgrad::operators

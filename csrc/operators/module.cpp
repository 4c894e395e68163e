// fusedgrad._C: what is no operator. Importing it registers the operators.
#include <pybind11/complex.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>

#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "cpu/block.h"
#include "cpu/capability.h"
#include "cpu/jets.h"
#include "cpu/kernel.h"
#include "operators/calls.h"
#include "operators/fused.h"
#include "operators/jets.h"
#include "operators/patch.h"
#include "operators/rows.h"

#ifdef FUSEDGRAD_CUDA
#include <cuda_runtime_api.h>

#include "cuda/jets.h"
#include "operators/elementwise.h"
#endif

namespace fusedgrad {

void bind_accuracy(pybind11::module_& m);  // csrc/accuracy/bindings.cpp

namespace {

std::vector<std::string> cpu_capabilities() {
  std::vector<std::string> names;
  for (cpu::Capability capability : cpu::built_capabilities()) names.push_back(name(capability));
  return names;
}

// The toolkit's version, or nothing where no CUDA kernels were built.
std::optional<std::string> cuda_version() {
#ifdef FUSEDGRAD_CUDA
  return std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10);
#else
  return std::nullopt;
#endif
}

std::vector<std::string> cuda_architectures() {
  std::vector<std::string> names;
#ifdef FUSEDGRAD_CUDA
  std::istringstream list(FUSEDGRAD_CUDA_ARCHITECTURES);
  for (std::string name; std::getline(list, name, ';');) names.push_back(name);
#endif
  return names;
}

pybind11::object to_python(const at::Tensor& tensor) {
  return pybind11::reinterpret_steal<pybind11::object>(THPVariable_Wrap(tensor));
}

pybind11::object to_python(const at::Scalar& number) {
  if (number.isFloatingPoint()) return pybind11::float_(number.toDouble());
  if (number.isComplex()) return pybind11::cast(number.toComplexDouble());
  return pybind11::int_(number.toLong());
}

pybind11::list to_python(const std::vector<at::Tensor>& tensors) {
  pybind11::list result;
  for (const at::Tensor& tensor : tensors) result.append(to_python(tensor));
  return result;
}

// The tensors that a Python function returns, None for an undefined one.
template <class... Arguments>
std::vector<at::Tensor> call(PyObject* function, const Arguments&... arguments) {
  try {
    const auto results =
        pybind11::handle(function)(arguments...).template cast<std::vector<pybind11::object>>();
    std::vector<at::Tensor> tensors;
    for (const pybind11::object& result : results) {
      tensors.push_back(result.is_none() ? at::Tensor() : THPVariable_Unpack(result.ptr()));
    }
    return tensors;
  } catch (pybind11::error_already_set& error) {
    error.restore();
    python_error persistent;  // which the autograd engine hands on as it is
    persistent.persist();
    throw persistent;
  }
}

pybind11::object to_python(const c10::IValue& value) {
  if (value.isTensor()) return to_python(value.toTensor());
  if (value.isScalar()) return to_python(value.toScalar());
  return pybind11::none();
}

// The functions below are never released: a backward may run until the process ends.

// `function` takes the name of an operator of PyTorch, its overload and a tuple of its arguments,
// and returns its result in a sequence, or an empty one.
void set_patched_call(pybind11::object function) {
  PyObject* const held = function.release().ptr();
  operators::set_patched_call([held](const c10::OperatorHandle& op, torch::jit::Stack* stack) {
    const pybind11::gil_scoped_acquire gil;
    const size_t count = op.schema().arguments().size();
    pybind11::tuple arguments(count);
    for (size_t i = 0; i < count; ++i) {
      arguments[i] = to_python(torch::jit::peek(*stack, i, count));
    }
    const std::vector<at::Tensor> results =
        call(held, op.operator_name().name, op.operator_name().overload_name, arguments);
    if (results.empty()) return false;
    torch::jit::drop(*stack, count);
    torch::jit::push(*stack, results[0]);
    return true;
  });
}

// `function` takes and returns what FusedDifferentiableBackward does.
void set_fused_differentiable_backward(pybind11::object function) {
  PyObject* const held = function.release().ptr();
  operators::set_fused_differentiable_backward(
      [held](int64_t kernel, const std::vector<at::Tensor>& grads,
             const std::vector<at::Tensor>& inputs, const std::vector<double>& parameters,
             uint64_t wanted) {
        const pybind11::gil_scoped_acquire gil;
        return call(held, kernel, to_python(grads), to_python(inputs), parameters, wanted);
      });
}

void set_fused_backward(int64_t kernel, uint64_t wanted, int64_t backward,
                        std::vector<int64_t> read) {
  operators::set_fused_backward(kernel, wanted, {backward, std::move(read)});
}

template <class Jets>
Jets jets_of(const std::map<std::string, Jets>& jets, const std::string& function) {
  const auto found = jets.find(function);
  TORCH_CHECK_VALUE(found != jets.end(), "jets: function is '", function,
                    "', expected pow, sigmoid or tanh");
  return found->second;
}

// Of each of a function's jets and their gradients, in the order of csrc/cpu/jets.h, the address of
// its Block<float> and that of its Block<double>
std::vector<std::pair<uintptr_t, uintptr_t>> jet_blocks(const std::string& function) {
  static const std::map<std::string, std::vector<cpu::Kernel> (*)()> jets = {
      {"pow", cpu::pow_jets}, {"sigmoid", cpu::sigmoid_jets}, {"tanh", cpu::tanh_jets}};
  std::vector<std::pair<uintptr_t, uintptr_t>> blocks;
  for (const cpu::Kernel& jet : jets_of(jets, function)()) {
    blocks.emplace_back(reinterpret_cast<uintptr_t>(jet.float32),
                        reinterpret_cast<uintptr_t>(jet.float64));
  }
  return blocks;
}

#ifdef FUSEDGRAD_CUDA
int64_t add_cuda_jet(const std::string& function, int number, at::ScalarType dtype,
                     std::vector<uint64_t> used, int parameters) {
  static const std::map<std::string, cuda::FusedKernel (*)(int, DType)> jets = {
      {"pow", cuda::pow_jet}, {"sigmoid", cuda::sigmoid_jet}, {"tanh", cuda::tanh_jet}};
  TORCH_CHECK_VALUE(number >= 0 && number < cuda::kJets, "jets: number is ", number,
                    ", expected one from 0 to ", cuda::kJets - 1);
  const cuda::FusedKernel jet = jets_of(jets, function)(number, operators::dtype_of("jets", dtype));
  return operators::add_prebuilt_cuda_kernel(jet, dtype, std::move(used), parameters);
}
#endif

using RowsStep = std::tuple<int64_t, std::vector<operators::Row>, std::vector<operators::Row>>;

int64_t add_rows_kernel(const std::vector<RowsStep>& steps, std::vector<int64_t> tensors,
                        std::vector<int64_t> results, std::vector<at::ScalarType> dtypes) {
  operators::RowsKernel rows{{}, std::move(tensors), std::move(results), std::move(dtypes)};
  for (const auto& [kernel, read, writes] : steps) rows.steps.push_back({kernel, read, writes});
  return operators::add_rows_kernel(std::move(rows));
}

void set_rows_backward(int64_t number, uint64_t needed, uint64_t summed, int64_t backward,
                       std::vector<int64_t> targets,
                       std::vector<std::pair<int64_t, operators::Row>> shared) {
  operators::set_rows_backward(number, needed, summed,
                               {backward, std::move(targets), std::move(shared)});
}

// `function` takes and returns what RowsDifferentiableBackward does.
void set_rows_differentiable_backward(pybind11::object function) {
  PyObject* const held = function.release().ptr();
  operators::set_rows_differentiable_backward(
      [held](int64_t number, const std::vector<at::Tensor>& grads,
             const std::vector<at::Tensor>& inputs, const std::vector<double>& parameters,
             uint64_t needed, uint64_t summed) {
        const pybind11::gil_scoped_acquire gil;
        return call(held, number, to_python(grads), to_python(inputs), parameters, needed, summed);
      });
}

}  // namespace
}  // namespace fusedgrad

PYBIND11_MODULE(_C, m) {
  using namespace fusedgrad;
  m.def("torch_version", [] { return FUSEDGRAD_TORCH_VERSION; });
  m.def("cpu_capability", [] { return cpu::name(cpu::capability()); });
  m.def("cpu_capabilities", cpu_capabilities);
  m.def("cuda_version", cuda_version);
  m.def("cuda_architectures", cuda_architectures);
  m.def("add_fused_kernel", operators::add_fused_kernel);
  m.def("jet_blocks", jet_blocks);
  m.def("add_rows_kernel", add_rows_kernel);
  m.def("call_rows", torch::wrap_pybind_function_no_gil(operators::call_rows));
  m.def("set_rows_backward", set_rows_backward);
  m.def("set_rows_differentiable_backward", set_rows_differentiable_backward);
  m.def("unbound_rows", torch::wrap_pybind_function_no_gil(operators::unbound_rows));
  m.def("linear_of_rows", torch::wrap_pybind_function_no_gil(operators::linear_of_rows));
#ifdef FUSEDGRAD_CUDA
  m.def("add_fused_cuda_kernel", operators::add_fused_cuda_kernel);
  m.def("add_cuda_jet", add_cuda_jet);
#endif
  m.def("set_patched", operators::set_patched);
  m.def("is_patched", operators::is_patched);
  m.def("set_patched_call", set_patched_call);
  m.def("set_fused_backward", set_fused_backward);
  m.def("set_fused_differentiable_backward", set_fused_differentiable_backward);
  m.attr("max_operands") = static_cast<int>(cpu::kMaxOperands);
  m.attr("max_parameters") = static_cast<int>(cpu::kMaxParameters);
  operators::bind_calls(m.ptr());
  operators::bind_jets(m.ptr());
  bind_accuracy(m);
}

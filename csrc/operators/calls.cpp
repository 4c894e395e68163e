#include "operators/calls.h"

#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/Reduction.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <pybind11/pybind11.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/forward_grad.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/jit/frontend/tracer.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "operators/dispatch.h"
#include "operators/recording.h"

namespace fusedgrad::operators {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// No mode of PyTorch wants to see the call, and no transform.
bool unobserved() {
  return !at::impl::torch_function_mode_enabled() &&
         !c10::impl::TorchDispatchModeTLS::any_modes_set() && !is_transformed();
}

// The tensor of a Python object that is one and no subclass, of a device and a dtype with kernels
// and without a forward derivative; null for anything else.
const Tensor* ordinary(PyObject* value) {
  if (!THPVariable_CheckExact(value)) return nullptr;
  const Tensor& tensor = THPVariable_Unpack(value);
  const at::ScalarType type = tensor.scalar_type();
  const bool has_kernel =
      type == at::kFloat || type == at::kDouble || type == at::kBFloat16 || type == at::kHalf;
  const bool has_device = tensor.is_cpu() || tensor.is_cuda();
  return has_device && has_kernel && !tensor._fw_grad(/*level=*/0).defined() ? &tensor : nullptr;
}

bool autocasts(const Tensor& tensor) {
  return at::autocast::is_autocast_enabled(tensor.device().type());
}

PyObject* not_implemented() {
  Py_INCREF(Py_NotImplemented);
  return Py_NotImplemented;
}

// Calls an operator as PyTorch's own functions do, without the interpreter's lock.
template <class Handle, class... Arguments>
PyObject* call(const Handle& handle, const Arguments&... arguments) {
  const auto unlocked = [&] {
    const pybind11::gil_scoped_release release;
    return handle.call(arguments...);
  };
  return THPVariable_Wrap(unlocked());
}

using UnaryOperator = Tensor(const Tensor&);

PyObject* sigmoid(PyObject*, PyObject* input) {
  HANDLE_TH_ERRORS
  static const auto handle = find<UnaryOperator>("fusedgrad::sigmoid");
  const Tensor* const x = ordinary(input);
  return x != nullptr && unobserved() ? call(handle, *x) : not_implemented();
  END_HANDLE_TH_ERRORS
}

PyObject* tanh(PyObject*, PyObject* input) {
  HANDLE_TH_ERRORS
  static const auto handle = find<UnaryOperator>("fusedgrad::tanh");
  const Tensor* const x = ordinary(input);
  return x != nullptr && unobserved() ? call(handle, *x) : not_implemented();
  END_HANDLE_TH_ERRORS
}

// The number of an object that is exactly a float, or an int of few digits
std::optional<at::Scalar> number(PyObject* value) {
  if (PyFloat_CheckExact(value)) return at::Scalar(PyFloat_AS_DOUBLE(value));
  if (!PyLong_CheckExact(value)) return std::nullopt;
  int overflow = 0;
  const long long integer = PyLong_AsLongLongAndOverflow(value, &overflow);
  if (overflow != 0) return std::nullopt;
  return at::Scalar(static_cast<int64_t>(integer));
}

PyObject* pow(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  static const auto by_scalar =
      find<Tensor(const Tensor&, const at::Scalar&)>("fusedgrad::pow", "Tensor_Scalar");
  static const auto by_tensor =
      find<Tensor(const Tensor&, const Tensor&)>("fusedgrad::pow", "Tensor_Tensor");
  TORCH_CHECK_TYPE(count == 2, "pow() takes 2 arguments, got ", count);
  const Tensor* const x = ordinary(arguments[0]);
  if (x == nullptr || !unobserved() || autocasts(*x)) return not_implemented();
  if (const std::optional<at::Scalar> exponent = number(arguments[1])) {
    return call(by_scalar, *x, *exponent);
  }
  const Tensor* const e = ordinary(arguments[1]);
  if (e == nullptr || autocasts(*e)) return not_implemented();
  return call(by_tensor, *x, *e);
  END_HANDLE_TH_ERRORS
}

// The code of the reduction that a Python string names, exactly
std::optional<int64_t> reduction(PyObject* name) {
  if (!PyUnicode_CheckExact(name)) return std::nullopt;
  const auto is = [name](const char* other) {
    return PyUnicode_CompareWithASCIIString(name, other) == 0;
  };
  if (is("mean")) return at::Reduction::Mean;
  if (is("none")) return at::Reduction::None;
  if (is("sum")) return at::Reduction::Sum;
  return std::nullopt;
}

// The operands of a loss: tensors of one shape, one dtype and, for their errors' sake, one device.
struct Loss {
  const Tensor* input;
  const Tensor* target;
  int64_t reduction;
};

std::optional<Loss> loss(PyObject* const* arguments, Py_ssize_t count) {
  TORCH_CHECK_TYPE(count == 3, "a loss takes 3 arguments, got ", count);
  const Tensor* const input = ordinary(arguments[0]);
  const Tensor* const target = ordinary(arguments[1]);
  const std::optional<int64_t> code = reduction(arguments[2]);
  if (input == nullptr || target == nullptr || !code || !unobserved() || autocasts(*input) ||
      input->scalar_type() != target->scalar_type() || input->device() != target->device() ||
      input->sizes() != target->sizes()) {
    return std::nullopt;
  }
  return Loss{input, target, *code};
}

PyObject* binary_cross_entropy(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  static const auto handle =
      find<Tensor(const Tensor&, const Tensor&, const OptionalTensor&, int64_t)>(
          "fusedgrad::binary_cross_entropy");
  const std::optional<Loss> given = loss(arguments, count);
  if (!given) return not_implemented();
  return call(handle, *given->input, *given->target, OptionalTensor(), given->reduction);
  END_HANDLE_TH_ERRORS
}

PyObject* binary_cross_entropy_with_logits(PyObject*, PyObject* const* arguments,
                                           Py_ssize_t count) {
  HANDLE_TH_ERRORS
  static const auto handle =
      find<Tensor(const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&,
                  int64_t)>("fusedgrad::binary_cross_entropy_with_logits");
  const std::optional<Loss> given = loss(arguments, count);
  if (!given) return not_implemented();
  return call(handle, *given->input, *given->target, OptionalTensor(), OptionalTensor(),
              given->reduction);
  END_HANDLE_TH_ERRORS
}

// What of a tensor a record depends on, as one number
int64_t kind_of(const Tensor& tensor) {
  const c10::Device device = tensor.device();
  int64_t kind = static_cast<int64_t>(tensor.scalar_type());
  kind |= static_cast<int64_t>(tensor.dim() == 0) << 8;
  kind |= static_cast<int64_t>(tensor.requires_grad()) << 9;
  kind |= static_cast<int64_t>(device.type()) << 16;
  return kind | (static_cast<int64_t>(device.index()) & 0xffff) << 24;
}

bool has_attributes(PyObject* value) {
  const auto held = pybind11::reinterpret_steal<pybind11::object>(
      PyObject_GenericGetDict(value, /*context=*/nullptr));
  if (!held) throw pybind11::error_already_set();
  return PyDict_GET_SIZE(held.ptr()) != 0;
}

bool is_immutable(PyObject* value) {
  return value == Py_None || PyLong_CheckExact(value) || PyBool_Check(value) ||
         PyUnicode_CheckExact(value);
}

// The key of a call of a fused function, of the function, the arguments and the keywords: what its
// record depends on besides what it reads from outside. NotImplemented for a call that Python sees
// to: under a mode, a transform, autocast or forward mode, or of other arguments than these.
PyObject* call_key(PyObject*, PyObject* const* given, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 3, "call_key() takes 3 arguments, got ", count);
  if (!unobserved() || at::autocast::is_autocast_enabled(c10::kCPU) ||
      at::autocast::is_autocast_enabled(c10::kCUDA) || torch::jit::tracer::isTracing() ||
      torch::autograd::ForwardADLevel::try_get_by_idx(0) != nullptr) {
    return not_implemented();
  }
  const auto address = [](PyObject* object) {
    return pybind11::reinterpret_steal<pybind11::object>(PyLong_FromVoidPtr(object));
  };
  std::vector<pybind11::object> key;
  if (PyMethod_Check(given[0])) {
    key.push_back(address(PyMethod_GET_FUNCTION(given[0])));
    key.push_back(address(PyMethod_GET_SELF(given[0])));
  } else {
    key.push_back(address(given[0]));
  }
  int64_t state = static_cast<int64_t>(at::typeMetaToScalarType(at::get_default_dtype()));
  state |= static_cast<int64_t>(at::GradMode::is_enabled()) << 8;
  state |= static_cast<int64_t>(c10::InferenceMode::is_enabled()) << 9;
  key.push_back(pybind11::int_(state));
  std::vector<PyObject*> values;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(given[1]); ++i) {
    values.push_back(PyTuple_GET_ITEM(given[1], i));
  }
  PyObject *name = nullptr, *value = nullptr;
  for (Py_ssize_t place = 0; PyDict_Next(given[2], &place, &name, &value) != 0;) {
    key.push_back(pybind11::reinterpret_borrow<pybind11::object>(name));
    values.push_back(value);
  }
  for (size_t i = 0; i < values.size(); ++i) {
    if (THPVariable_CheckExact(values[i])) {
      if (has_attributes(values[i])) return not_implemented();
      const auto first = std::find(values.begin(), values.end(), values[i]) - values.begin();
      const int64_t kind = kind_of(THPVariable_Unpack(values[i]));
      key.push_back(address(reinterpret_cast<PyObject*>(Py_TYPE(values[i]))));
      key.push_back(pybind11::int_(kind | static_cast<int64_t>(first) << 40));
    } else if (PyFloat_CheckExact(values[i])) {
      const double number = PyFloat_AS_DOUBLE(values[i]);
      int64_t bits = 0;  // of which NaN equals itself, and 0 does not equal -0
      std::memcpy(&bits, &number, sizeof bits);
      key.push_back(address(reinterpret_cast<PyObject*>(&PyFloat_Type)));
      key.push_back(pybind11::int_(bits));
    } else if (is_immutable(values[i])) {
      key.push_back(address(reinterpret_cast<PyObject*>(Py_TYPE(values[i]))));
      key.push_back(pybind11::reinterpret_borrow<pybind11::object>(values[i]));
    } else {
      return not_implemented();
    }
  }
  pybind11::tuple result(key.size());
  for (size_t i = 0; i < key.size(); ++i) {
    PyTuple_SET_ITEM(result.ptr(), static_cast<Py_ssize_t>(i), key[i].release().ptr());
  }
  return result.release().ptr();
  END_HANDLE_TH_ERRORS
}

PyCFunction fast(PyObject* (*function)(PyObject*, PyObject* const*, Py_ssize_t)) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

}  // namespace

void bind_calls(PyObject* module) {
  static PyMethodDef methods[] = {
      {"sigmoid", sigmoid, METH_O, nullptr},
      {"tanh", tanh, METH_O, nullptr},
      {"pow", fast(pow), METH_FASTCALL, nullptr},
      {"binary_cross_entropy", fast(binary_cross_entropy), METH_FASTCALL, nullptr},
      {"binary_cross_entropy_with_logits", fast(binary_cross_entropy_with_logits), METH_FASTCALL,
       nullptr},
      {"call_key", fast(call_key), METH_FASTCALL, nullptr},
      {nullptr, nullptr, 0, nullptr}};
  if (PyModule_AddFunctions(module, methods) != 0) throw pybind11::error_already_set();
}

}  // namespace fusedgrad::operators

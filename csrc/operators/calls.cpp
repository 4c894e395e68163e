#include "operators/calls.h"

#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/Reduction.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <c10/util/SmallVector.h>
#include <pybind11/pybind11.h>
#include <torch/csrc/Dtype.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/forward_grad.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/jit/frontend/tracer.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "operators/dispatch.h"
#include "operators/fused.h"
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

bool requires_grad(const Tensor& tensor) { return tensor.requires_grad(); }
template <class Other>
bool requires_grad(const Other&) {
  return false;
}

// What `call` returns, without the interpreter's lock and, if there is nothing to record, without
// the way through autograd.
template <class Call>
auto unlocked(bool is_recorded, const Call& call) {
  const pybind11::gil_scoped_release release;
  return is_recorded && at::GradMode::is_enabled() ? call() : below_autograd(call);
}

// Calls an operator as PyTorch's own functions do.
template <class Handle, class... Arguments>
PyObject* call(const Handle& handle, const Arguments&... arguments) {
  return THPVariable_Wrap(
      unlocked((requires_grad(arguments) || ...), [&] { return handle.call(arguments...); }));
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
  static const auto of_scalar =
      find<Tensor(const at::Scalar&, const Tensor&)>("fusedgrad::pow", "Scalar");
  static const auto by_tensor =
      find<Tensor(const Tensor&, const Tensor&)>("fusedgrad::pow", "Tensor_Tensor");
  TORCH_CHECK_TYPE(count == 2, "pow() takes 2 arguments, got ", count);
  if (!unobserved()) return not_implemented();
  const Tensor* const x = ordinary(arguments[0]);
  const Tensor* const e = ordinary(arguments[1]);
  if ((x != nullptr && autocasts(*x)) || (e != nullptr && autocasts(*e))) return not_implemented();
  if (x != nullptr && e != nullptr) return call(by_tensor, *x, *e);
  const std::optional<at::Scalar> given = number(arguments[x != nullptr ? 1 : 0]);
  if (!given || (x == nullptr && (e == nullptr || !e->is_contiguous()))) return not_implemented();
  return x != nullptr ? call(by_scalar, *x, *given) : call(of_scalar, *given, *e);
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

// What no kernel takes: sparse, nested and quantized tensors, and those of MKL-DNN
bool is_dense(const Tensor& tensor) {
  return tensor.layout() == at::kStrided && !tensor.is_nested() && !tensor.is_quantized();
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

using Objects = c10::SmallVector<PyObject*, 8>;

// The positional arguments of a call and those by keyword
Objects values_of(PyObject* arguments, PyObject* keywords) {
  Objects values;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(arguments); ++i) {
    values.push_back(PyTuple_GET_ITEM(arguments, i));
  }
  PyObject* value = nullptr;
  for (Py_ssize_t place = 0; PyDict_Next(keywords, &place, nullptr, &value) != 0;) {
    values.push_back(value);
  }
  return values;
}

// What identifies a call of a fused function: numbers, and immutable objects, which are compared as
// Python does. The numbers are one object of bytes: an object each costs as much as the kernel.
struct CallKey {
  c10::SmallVector<int64_t, 16> numbers;
  Objects objects;

  void add(const void* address) { numbers.push_back(reinterpret_cast<intptr_t>(address)); }

  PyObject* made() const {
    PyObject* const bytes =
        PyBytes_FromStringAndSize(reinterpret_cast<const char*>(numbers.data()),
                                  static_cast<Py_ssize_t>(numbers.size() * sizeof numbers[0]));
    if (objects.empty()) return bytes;
    pybind11::tuple key(objects.size() + 1);
    PyTuple_SET_ITEM(key.ptr(), 0, bytes);
    for (size_t i = 0; i < objects.size(); ++i) {
      Py_INCREF(objects[i]);
      PyTuple_SET_ITEM(key.ptr(), static_cast<Py_ssize_t>(i) + 1, objects[i]);
    }
    return key.release().ptr();
  }
};

// The key of a call of a fused function, of the function, the values of the arguments and the
// keywords: what its record depends on besides what it reads from outside. NotImplemented for a
// call that Python sees to: under a mode, a transform, autocast or forward mode, or of other
// arguments than these.
PyObject* call_key(PyObject* function, const Objects& values, PyObject* keywords) {
  if (!unobserved() || at::autocast::is_autocast_enabled(c10::kCPU) ||
      at::autocast::is_autocast_enabled(c10::kCUDA) || torch::jit::tracer::isTracing() ||
      torch::autograd::ForwardADLevel::try_get_by_idx(0) != nullptr) {
    return not_implemented();
  }
  CallKey key;
  if (PyMethod_Check(function)) {
    key.add(PyMethod_GET_FUNCTION(function));
    key.add(PyMethod_GET_SELF(function));
  } else {
    key.add(function);
  }
  int64_t state = static_cast<int64_t>(at::typeMetaToScalarType(at::get_default_dtype()));
  state |= static_cast<int64_t>(at::GradMode::is_enabled()) << 8;
  state |= static_cast<int64_t>(c10::InferenceMode::is_enabled()) << 9;
  state |= static_cast<int64_t>(PyMethod_Check(function)) << 10;
  state |= static_cast<int64_t>(PyDict_GET_SIZE(keywords)) << 16;
  key.numbers.push_back(state);
  PyObject* name = nullptr;
  for (Py_ssize_t place = 0; PyDict_Next(keywords, &place, &name, nullptr) != 0;) {
    key.objects.push_back(name);
  }
  for (PyObject* const value : values) {
    key.add(Py_TYPE(value));
    if (THPVariable_CheckExact(value)) {
      const Tensor& tensor = THPVariable_Unpack(value);
      if (has_attributes(value) || !is_dense(tensor)) return not_implemented();
      const auto first = std::find(values.begin(), values.end(), value) - values.begin();
      key.numbers.push_back(kind_of(tensor) | static_cast<int64_t>(first) << 40);
    } else if (PyFloat_CheckExact(value)) {
      const double number = PyFloat_AS_DOUBLE(value);
      int64_t bits = 0;  // of which NaN equals itself, and 0 does not equal -0
      std::memcpy(&bits, &number, sizeof bits);
      key.numbers.push_back(bits);
    } else if (is_immutable(value)) {
      key.objects.push_back(value);
    } else {
      return not_implemented();
    }
  }
  return key.made();
}

// What `convert` makes of each element of a list or a tuple
template <class Convert>
auto elements(const char* name, PyObject* sequence, const Convert& convert) {
  TORCH_CHECK_TYPE(PyTuple_Check(sequence) || PyList_Check(sequence), "fused(): ", name, " is a ",
                   Py_TYPE(sequence)->tp_name, ", expected a tuple or a list");
  const Py_ssize_t count = PySequence_Fast_GET_SIZE(sequence);
  std::vector<decltype(convert(sequence))> result;
  result.reserve(count);
  for (Py_ssize_t i = 0; i < count; ++i) {
    result.push_back(convert(PySequence_Fast_GET_ITEM(sequence, i)));
  }
  return result;
}

void check_type(bool is, const char* expected, PyObject* value) {
  TORCH_CHECK_TYPE(is, "fused(): expected ", expected, ", got ", Py_TYPE(value)->tp_name);
}

int64_t integer(PyObject* value) {
  check_type(PyLong_Check(value), "an int", value);
  return static_cast<int64_t>(PyLong_AsLongLong(value));
}

const Tensor& tensor(PyObject* value) {
  check_type(THPVariable_Check(value), "a Tensor", value);
  return THPVariable_Unpack(value);
}

std::vector<double> numbers(PyObject* parameters) {
  return elements("parameters", parameters, [](PyObject* value) {
    check_type(PyFloat_Check(value), "a float", value);
    return PyFloat_AS_DOUBLE(value);
  });
}

std::vector<at::ScalarType> scalar_types(PyObject* dtypes) {
  return elements("dtypes", dtypes, [](PyObject* value) {
    check_type(THPDtype_Check(value), "a dtype", value);
    return reinterpret_cast<THPDtype*>(value)->scalar_type;
  });
}

using Tensors = c10::SmallVector<Tensor, 8>;

std::vector<Tensor> called(int64_t kernel, at::TensorList inputs, at::ArrayRef<double> parameters,
                           at::ArrayRef<at::ScalarType> dtypes, at::IntArrayRef summed) {
  const bool is_recorded = std::any_of(inputs.begin(), inputs.end(),
                                       [](const Tensor& input) { return input.requires_grad(); });
  return unlocked(is_recorded,
                  [&] { return call_fused(kernel, inputs, parameters, dtypes, summed); });
}

// torch.ops.fusedgrad.fused, of a kernel, its tensors, its parameters, the dtypes of its outputs
// and, for each output, if any is summed, the number of the dimensions it is summed over
PyObject* fused(PyObject*, PyObject* const* given, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 4 || count == 5, "fused() takes 4 or 5 arguments, got ", count);
  const std::vector<Tensor> outputs =
      called(integer(given[0]),
             elements("inputs", given[1], [](PyObject* value) { return tensor(value); }),
             numbers(given[2]), scalar_types(given[3]),
             count == 5 ? elements("summed", given[4], integer) : std::vector<int64_t>());
  pybind11::list result(outputs.size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    PyList_SET_ITEM(result.ptr(), static_cast<Py_ssize_t>(i), THPVariable_Wrap(outputs[i]));
  }
  return result.release().ptr();
  END_HANDLE_TH_ERRORS
}

// A kernel, its parameters, the dtype of its one output, and whether its inputs must have one shape
struct Served {
  static constexpr const char* kName = "fusedgrad.served";

  int64_t kernel;
  std::vector<double> parameters;
  std::vector<at::ScalarType> dtypes;
  bool alike;
};

PyObject* served(PyObject*, PyObject* const* given, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 4, "served() takes 4 arguments, got ", count);
  auto made = std::make_unique<Served>(
      Served{integer(given[0]), numbers(given[1]), scalar_types(given[2]), given[3] == Py_True});
  PyObject* const capsule = PyCapsule_New(made.get(), Served::kName, [](PyObject* self) {
    delete static_cast<Served*>(PyCapsule_GetPointer(self, Served::kName));
  });
  if (capsule != nullptr) made.release();
  return capsule;
  END_HANDLE_TH_ERRORS
}

// Whether `is(holder, key, value)` of each of some tuples of these
template <class Is>
bool all_of(PyObject* reads, const Is& is) {
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(reads); ++i) {
    PyObject* const* const read = &PyTuple_GET_ITEM(PyList_GET_ITEM(reads, i), 0);
    if (!is(read[0], read[1], read[2])) return false;
  }
  return true;
}

// Whether the values that a proof has read, items of dictionaries and attributes, are the same
// objects now, or `missing` where there was none. If not, they may be equal all the same. An object
// that has attributes may be given by a weak reference.
bool unchanged(PyObject* items, PyObject* attributes, PyObject* missing) {
  const auto is = [&](PyObject* found, PyObject* value) {
    if (found == nullptr) PyErr_Clear();
    return (found == nullptr ? missing : found) == value;
  };
  return all_of(items,
                [&](PyObject* held, PyObject* key, PyObject* value) {
                  return PyDict_CheckExact(held) && is(PyDict_GetItemWithError(held, key), value);
                }) &&
         all_of(attributes, [&](PyObject* held, PyObject* name, PyObject* value) {
           pybind11::object owner = pybind11::reinterpret_borrow<pybind11::object>(held);
           if (PyWeakref_CheckRefExact(held)) owner = owner();
           PyObject* const found = PyObject_GetAttr(owner.ptr(), name);
           const bool holds = is(found, value);
           Py_XDECREF(found);
           return holds;
         });
}

PyObject* unchanged(PyObject*, PyObject* const* given, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 3, "unchanged() takes 3 arguments, got ", count);
  return PyBool_FromLong(unchanged(given[0], given[1], given[2]));
  END_HANDLE_TH_ERRORS
}

// A call of a fused function, of the function, the arguments and the keywords: its result, if its
// key is among `served`, whose values are the items and the attributes to compare, what is missing
// among them, the kernel's inputs (the places of arguments, or tensors) and the kernel; else the
// key.
pybind11::object served_or_key(PyObject* served, PyObject* function, PyObject* arguments,
                               PyObject* keywords) {
  const Objects values = values_of(arguments, keywords);
  auto key = pybind11::reinterpret_steal<pybind11::object>(call_key(function, values, keywords));
  if (!key) throw pybind11::error_already_set();
  if (key.ptr() == Py_NotImplemented) return key;
  const auto found =
      pybind11::reinterpret_borrow<pybind11::object>(PyDict_GetItemWithError(served, key.ptr()));
  if (!found && PyErr_Occurred() != nullptr) throw pybind11::error_already_set();
  PyObject* const* const ready = found ? &PyTuple_GET_ITEM(found.ptr(), 0) : nullptr;
  if (ready == nullptr || !unchanged(ready[0], ready[1], ready[2])) return key;
  Tensors inputs;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(ready[3]); ++i) {
    PyObject* const source = PyTuple_GET_ITEM(ready[3], i);
    inputs.push_back(tensor(PyLong_Check(source) ? values[integer(source)] : source));
  }
  const auto* const kernel = static_cast<Served*>(PyCapsule_GetPointer(ready[4], Served::kName));
  if (kernel == nullptr) throw pybind11::error_already_set();
  if (kernel->alike && std::any_of(inputs.begin(), inputs.end(), [&](const Tensor& input) {
        return input.sizes() != inputs[0].sizes();
      })) {
    return key;
  }
  return pybind11::reinterpret_steal<pybind11::object>(THPVariable_Wrap(
      called(kernel->kernel, inputs, kernel->parameters, kernel->dtypes, /*summed=*/{})[0]));
}

PyObject* serve(PyObject*, PyObject* const* given, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 4, "serve() takes 4 arguments, got ", count);
  return served_or_key(given[0], given[1], given[2], given[3]).release().ptr();
  END_HANDLE_TH_ERRORS
}

// What `Fused.__call__` does, without two frames of the interpreter: a result that is ready, else
// what `_called` makes of the key.
PyObject* call_fused_function(PyObject* self, PyObject* arguments, PyObject* keywords) {
  HANDLE_TH_ERRORS
  const pybind11::handle fused(self);
  const auto given = keywords != nullptr
                         ? pybind11::reinterpret_borrow<pybind11::object>(keywords)
                         : pybind11::reinterpret_steal<pybind11::object>(PyDict_New());
  static PyObject* const kReady = PyUnicode_InternFromString("_ready");
  static PyObject* const kFunction = PyUnicode_InternFromString("_function");
  static PyObject* const kCalled = PyUnicode_InternFromString("_called");
  const pybind11::object ready = fused.attr(kReady);
  const pybind11::object function = fused.attr(kFunction);
  auto key = served_or_key(ready.ptr(), function.ptr(), arguments, given.ptr());
  if (THPVariable_Check(key.ptr())) return key.release().ptr();
  return PyObject_CallMethodObjArgs(self, kCalled, function.ptr(), arguments, given.ptr(),
                                    key.ptr(), nullptr);
  END_HANDLE_TH_ERRORS
}

// Makes calls of a class's instances those of `call_fused_function`. Its `__call__`, which is for
// torch.compile to trace, must do the same.
PyObject* serve_calls_of(PyObject*, PyObject* type) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(PyType_Check(type), "serve_calls_of(): expected a class, got ",
                   Py_TYPE(type)->tp_name);
  auto* const made = reinterpret_cast<PyTypeObject*>(type);
  made->tp_call = call_fused_function;
  PyType_Modified(made);
  Py_INCREF(type);
  return type;
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
      {"serve", fast(serve), METH_FASTCALL, nullptr},
      {"served", fast(served), METH_FASTCALL, nullptr},
      {"fused", fast(fused), METH_FASTCALL, nullptr},
      {"serve_calls_of", serve_calls_of, METH_O, nullptr},
      {"unchanged", fast(unchanged), METH_FASTCALL, nullptr},
      {nullptr, nullptr, 0, nullptr}};
  if (PyModule_AddFunctions(module, methods) != 0) throw pybind11::error_already_set();
}

}  // namespace fusedgrad::operators

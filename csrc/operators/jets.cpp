#include "operators/jets.h"

#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <pybind11/pybind11.h>
#include <torch/csrc/Device.h>
#include <torch/csrc/DynamicTypes.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <array>
#include <vector>

#include "operators/recording.h"
#include "operators/rows.h"

namespace fusedgrad::operators {
namespace {

namespace py = pybind11;
using at::Tensor;

// A name of an attribute in Python
struct Name {
  explicit Name(const char* text) : object(PyUnicode_InternFromString(text)) {}
  PyObject* object;  // outlives the interpreter
};

struct Python {
  py::handle jet, coefficients, make;
  Name form{"_form"}, frame{"frame"}, settled{"_settled"}, expression{"_expression"};
  Name leaves{"_leaves"}, keys{"keys"}, stack{"_stack"}, spread{"_spread"}, rows{"_rows"};
  Name order{"order"}, signs{"signs"}, records{"records"};
  py::handle keywords;  // the names of those of `make`
  py::handle forms;     // of settled jets, by what they have in common
};

// Its classes and their attributes, which outlive the interpreter
Python& python() {
  static auto* known = new Python;
  return *known;
}

py::object get(py::handle object, const Name& name) {
  PyObject* const value = PyObject_GetAttr(object.ptr(), name.object);
  if (value == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(value);
}

void set(py::handle object, const Name& name, py::handle value) {
  if (PyObject_SetAttr(object.ptr(), name.object, value.ptr()) != 0) throw py::error_already_set();
}

// What a form knows under a key; null if it does not know it yet.
py::handle known(py::handle form, py::handle key) {
  PyObject* const found = PyDict_GetItemWithError(form.ptr(), key.ptr());
  if (found == nullptr && PyErr_Occurred() != nullptr) throw py::error_already_set();
  return found;
}

py::handle item(py::handle tuple, Py_ssize_t place) { return PyTuple_GET_ITEM(tuple.ptr(), place); }

int64_t integer(py::handle value) { return PyLong_AsLongLong(value.ptr()); }

Py_ssize_t size(py::handle tuple) { return PyTuple_GET_SIZE(tuple.ptr()); }

py::object wrapped(const Tensor& tensor) {
  return py::reinterpret_steal<py::object>(THPVariable_Wrap(tensor));
}

// The tensor of a Python object that is one and no subclass, and without a tangent; null for others
const Tensor* plain(py::handle value) {
  if (!THPVariable_CheckExact(value.ptr())) return nullptr;
  const Tensor& tensor = THPVariable_Unpack(value.ptr());
  return tensor._fw_grad(/*level=*/0).defined() ? nullptr : &tensor;
}

// The tensors that coefficients are rows of, one or two; none where they are rows themselves.
std::vector<const Tensor*> parts_of(py::handle coefficients) {
  const Python& names = python();
  const py::object stack = get(coefficients, names.stack);
  if (!stack.is_none()) return {plain(stack)};
  const py::object spread = get(coefficients, names.spread);
  if (spread.is_none()) return {};
  return {plain(item(spread, 0)), plain(item(spread, 1))};
}

py::object coefficients_of(py::handle keys, py::handle stack, py::handle rows, py::handle spread) {
  const Python& names = python();
  auto* const type = reinterpret_cast<PyTypeObject*>(names.coefficients.ptr());
  auto made = py::reinterpret_steal<py::object>(type->tp_alloc(type, 0));
  if (!made) throw py::error_already_set();
  set(made, names.keys, keys);
  set(made, names.stack, stack);
  set(made, names.spread, spread);
  set(made, names.rows, rows);
  return made;
}

py::object new_jet(py::handle frame, py::handle settled, py::handle expression, py::handle leaves,
                   py::handle form, c10::IntArrayRef sizes, at::ScalarType type,
                   c10::Device device) {
  const Python& names = python();
  py::tuple shape(sizes.size());
  for (size_t i = 0; i < sizes.size(); ++i) shape[i] = sizes[i];
  const auto place = py::reinterpret_steal<py::object>(THPDevice_New(device));
  if (!place) throw py::error_already_set();
  auto* const dtype = reinterpret_cast<PyObject*>(torch::getTHPDtype(type));
  const std::array<PyObject*, 4> given{names.jet.ptr(), shape.ptr(), dtype, place.ptr()};
  auto jet = py::reinterpret_steal<py::object>(
      PyObject_Vectorcall(names.make.ptr(), given.data(), 2, names.keywords.ptr()));
  if (!jet) throw py::error_already_set();
  set(jet, names.frame, frame);
  set(jet, names.settled, settled);
  set(jet, names.expression, expression);
  set(jet, names.leaves, leaves);
  set(jet, names.form, form);
  return jet;
}

// Of one coefficient
c10::IntArrayRef shape_of(const Tensor& part, bool has_rows) {
  return part.sizes().slice(has_rows ? 1 : 0);
}

// Computes the coefficients of a pending jet; false where Python has to.
bool settle(py::handle jet) {
  const Python& names = python();
  const py::object form = get(jet, names.form);
  if (form.is_none()) return false;
  const py::handle plan = known(form, Py_None);
  if (!plan) return false;
  const py::handle takes = item(plan, 1), sources = item(plan, 4);
  const py::object leaves = get(jet, names.leaves);
  const Tensor& shaped = THPVariable_Unpack(jet.ptr());
  std::vector<std::vector<const Tensor*>> parts;
  std::vector<double> numbers;
  for (Py_ssize_t i = 0; i < size(leaves); ++i) {
    PyObject* const leaf = item(leaves, i).ptr();
    parts.emplace_back();
    if (PyFloat_CheckExact(leaf)) {
      numbers.push_back(PyFloat_AS_DOUBLE(leaf));
    } else if (THPVariable_Check(leaf)) {
      parts.back() = {plain(leaf)};
    } else {
      parts.back() = parts_of(leaf);
    }
    const auto is_plain = [](const Tensor* part) { return part != nullptr; };
    if (!std::all_of(parts.back().begin(), parts.back().end(), is_plain)) return false;
  }
  std::vector<Tensor> tensors;
  for (Py_ssize_t i = 0; i < size(takes); ++i) {
    const int64_t leaf = integer(item(item(takes, i), 0));
    const size_t part = integer(item(item(takes, i), 1));
    const int64_t rows = integer(item(item(takes, i), 2));
    const std::vector<const Tensor*>& own = parts.at(leaf);
    const bool has_rows = !THPVariable_Check(item(leaves, leaf).ptr());
    // Coefficients that have been joined since lie in another way.
    if (part >= own.size() || has_rows != (rows >= 0) || (has_rows && own[part]->size(0) != rows)) {
      return false;
    }
    tensors.push_back(*own[part]);
  }
  // An output that is an input is so for operands of its shape and dtype.
  for (Py_ssize_t i = 0; i < size(sources); ++i) {
    const int64_t leaf = integer(item(item(sources, i), 0));
    if (leaf < 0) continue;
    const bool has_rows = !THPVariable_Check(item(leaves, leaf).ptr());
    if (parts.at(leaf).size() != 1 || parts[leaf][0]->scalar_type() != shaped.scalar_type() ||
        shape_of(*parts[leaf][0], has_rows) != shaped.sizes()) {
      return false;
    }
  }
  const int64_t number = integer(item(plan, 0));
  const Tensor stack = [&] {
    const py::gil_scoped_release release;
    return call_rows(number, tensors, numbers)[0];
  }();
  if (stack.sizes().slice(1) != shaped.sizes()) return false;
  py::object made = coefficients_of(item(plan, 2), wrapped(stack), py::none(), py::none());
  if (size(sources) > 0) {
    py::list rows;
    for (py::handle source : sources) {
      const int64_t leaf = integer(item(source, 0));
      const py::handle owner = leaf < 0 ? py::handle(made) : item(leaves, leaf);
      if (THPVariable_Check(owner.ptr())) {
        rows.append(owner);
      } else {
        rows.append(py::make_tuple(owner, item(source, 1)));
      }
    }
    made = coefficients_of(item(plan, 3), py::none(), rows, py::none());
  }
  set(jet, names.settled, made);
  set(jet, names.expression, py::none());
  set(jet, names.leaves, py::tuple());
  set(jet, names.form, item(plan, 5));
  return true;
}

// torch.nn.functional.linear, whose bias is pending; null where Python has to.
py::object linear(py::handle jet, py::handle function, py::handle weight, py::handle bias) {
  const Python& names = python();
  const Tensor *const matrix = plain(weight), *const added = plain(bias);
  if (matrix == nullptr || added == nullptr || matrix->scalar_type() != added->scalar_type()) {
    return {};
  }
  if (get(jet, names.settled).is_none() && !settle(jet)) return {};
  const py::object form = get(jet, names.form), settled = get(jet, names.settled);
  if (form.is_none()) return {};
  const py::handle step = known(form, function);
  if (!step) return {};
  std::vector<const Tensor*> parts = parts_of(settled);
  if (parts.empty()) {
    settled.attr("stack")();
    parts = parts_of(settled);
  }
  std::vector<Tensor> products;
  for (const Tensor* const part : parts) {
    if (part == nullptr || part->scalar_type() != matrix->scalar_type()) return {};
    const py::gil_scoped_release release;
    products.push_back(linear_of_rows(*part, *matrix));
  }
  const py::object first = wrapped(products[0]), keys = get(settled, names.keys);
  const py::object made = products.size() == 1
                              ? coefficients_of(keys, first, py::none(), py::none())
                              : coefficients_of(keys, py::none(), py::none(),
                                                py::make_tuple(first, wrapped(products[1])));
  return new_jet(get(jet, names.frame), py::none(), item(step, 0), py::make_tuple(made, bias),
                 item(step, 1), products[0].sizes().slice(1), products[0].scalar_type(),
                 products[0].device());
}

// A function of one tensor; null where Python has to.
py::object unary(py::handle jet, py::handle function) {
  const Python& names = python();
  const py::handle step = known(get(jet, names.form), function);
  if (!step) return {};
  py::object leaves = get(jet, names.leaves);
  const py::object settled = get(jet, names.settled);
  if (!settled.is_none()) leaves = py::make_tuple(settled);
  const Tensor& tensor = THPVariable_Unpack(jet.ptr());
  const at::ScalarType type = reinterpret_cast<THPDtype*>(item(step, 2).ptr())->scalar_type;
  return new_jet(get(jet, names.frame), py::none(), item(step, 0), leaves, item(step, 1),
                 tensor.sizes(), type, tensor.device());
}

// Whether no mode and no transform sees to what is done with the jet, in the state of the call that
// it is of.
bool is_ordinary(py::handle jet) {
  const Python& names = python();
  return !at::impl::torch_function_mode_enabled() &&
         !c10::impl::TorchDispatchModeTLS::any_modes_set() && !is_transformed() &&
         !at::autocast::is_autocast_enabled(THPVariable_Unpack(jet.ptr()).device().type()) &&
         c10::AutogradState::get_tls_state().get_fw_grad_mode() &&  // not so in a Function
         (at::GradMode::is_enabled() ||
          get(get(jet, names.frame), names.records).is(py::bool_(false)));
}

PyObject* next_jet(PyObject*, PyObject* const* given, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 2, "next_jet() takes 2 arguments, got ", count);
  const py::handle function = given[0], arguments = given[1];
  const Py_ssize_t taken = size(arguments);
  py::object result;
  if (taken == 1 || taken == 3) {
    const py::handle jet = item(arguments, 0);
    if (reinterpret_cast<PyObject*>(Py_TYPE(jet.ptr())) == python().jet.ptr() &&
        !get(jet, python().form).is_none() && is_ordinary(jet)) {
      result = taken == 1 ? unary(jet, function)
                          : linear(jet, function, item(arguments, 1), item(arguments, 2));
    }
  }
  return result ? result.release().ptr() : py::none().release().ptr();
  END_HANDLE_TH_ERRORS
}

PyObject* settle_jet(PyObject*, PyObject* jet) {
  HANDLE_TH_ERRORS
  return PyBool_FromLong(is_ordinary(jet) && settle(jet));
  END_HANDLE_TH_ERRORS
}

// A tensor of the dtype and the device of coefficients
Tensor model_of(py::handle coefficients) {
  const std::vector<const Tensor*> parts = parts_of(coefficients);
  if (!parts.empty() && parts[0] != nullptr) return *parts[0];
  const py::object all = coefficients.attr("parts")();
  return THPVariable_Unpack(py::object(all[py::int_(0)]).ptr());
}

// The form of settled jets of a frame
py::object form_of(py::handle frame, py::handle coefficients) {
  const Python& names = python();
  const Tensor model = model_of(coefficients);
  const py::object keys = get(coefficients, names.keys);
  const int lies = !get(coefficients, names.stack).is_none()    ? 0
                   : !get(coefficients, names.spread).is_none() ? 1
                                                                : 2;
  const py::object key = py::make_tuple(
      get(frame, names.order), get(frame, names.signs), get(coefficients, names.keys), lies,
      static_cast<int>(model.scalar_type()), static_cast<int>(model.device().type()));
  PyObject* const found = PyDict_SetDefault(names.forms.ptr(), key.ptr(), py::dict().ptr());
  if (found == nullptr) throw py::error_already_set();
  return py::reinterpret_borrow<py::object>(found);
}

PyObject* form_of(PyObject*, PyObject* const* given, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 2, "form_of() takes 2 arguments, got ", count);
  return form_of(given[0], given[1]).release().ptr();
  END_HANDLE_TH_ERRORS
}

PyObject* settled_jet(PyObject*, PyObject* const* given, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 2, "settled_jet() takes 2 arguments, got ", count);
  const Python& names = python();
  const py::handle frame = given[0], coefficients = given[1];
  const Tensor model = model_of(coefficients);
  const bool has_rows =
      !get(coefficients, names.stack).is_none() || !get(coefficients, names.spread).is_none();
  return new_jet(frame, coefficients, py::none(), py::tuple(), form_of(frame, coefficients),
                 shape_of(model, has_rows), model.scalar_type(), model.device())
      .release()
      .ptr();
  END_HANDLE_TH_ERRORS
}

PyObject* set_jet_classes(PyObject*, PyObject* const* given, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 2, "set_jet_classes() takes 2 arguments, got ", count);
  Python& names = python();
  names.jet = py::handle(given[0]).inc_ref();
  names.coefficients = py::handle(given[1]).inc_ref();
  names.make = py::object(names.jet.attr("_make_wrapper_subclass")).release();
  names.keywords = py::make_tuple("dtype", "device").release();
  names.forms = py::dict().release();
  Py_RETURN_NONE;
  END_HANDLE_TH_ERRORS
}

PyCFunction fast(PyObject* (*function)(PyObject*, PyObject* const*, Py_ssize_t)) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

}  // namespace

void bind_jets(PyObject* module) {
  static PyMethodDef methods[] = {
      {"next_jet", fast(next_jet), METH_FASTCALL, nullptr},
      {"form_of", fast(form_of), METH_FASTCALL, nullptr},
      {"settled_jet", fast(settled_jet), METH_FASTCALL, nullptr},
      {"settle_jet", settle_jet, METH_O, nullptr},
      {"set_jet_classes", fast(set_jet_classes), METH_FASTCALL, nullptr},
      {nullptr, nullptr, 0, nullptr}};
  if (PyModule_AddFunctions(module, methods) != 0) throw py::error_already_set();
}

}  // namespace fusedgrad::operators

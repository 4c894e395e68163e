// The scans as functions of fusedgrad._C, described in python/fusedgrad/_C.pyi.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>

#include "accuracy/scan.h"

namespace fusedgrad {
namespace {

namespace py = pybind11;
using accuracy::Errors;
using Parameters = py::array_t<double, py::array::c_style | py::array::forcecast>;

DType dtype_named(const std::string& name) {
  if (name == "float64") return DType::Float64;
  if (name == "float32") return DType::Float32;
  if (name == "float16") return DType::Float16;
  if (name == "bfloat16") return DType::BFloat16;
  throw py::value_error("dtype must be float64, float32, float16 or bfloat16, not " + name);
}

// Elements side by side, of the size that the dtype has.
py::array contiguous(const py::array& array, DType dtype, const char* what) {
  if (array.itemsize() != size_of(dtype)) {
    throw py::value_error(std::string(what) + " must have elements of " +
                          std::to_string(size_of(dtype)) + " bytes");
  }
  return py::array::ensure(array, py::array::c_style);
}

void check_size(const py::array& array, py::ssize_t n, const char* what) {
  if (array.size() != n) {
    throw py::value_error(std::string(what) + " must have " + std::to_string(n) + " elements");
  }
}

Errors scan_samples(const std::string& name, const std::string& dtype_name, const py::array& inputs,
                    const Parameters& parameters) {
  const DType dtype = dtype_named(dtype_name);
  const py::array x = contiguous(inputs, dtype, "inputs");
  check_size(parameters, x.size(), "parameters");
  const py::gil_scoped_release release;
  return accuracy::scan_samples(name, dtype, x.data(), parameters.data(), x.size());
}

Errors ulp_errors(const std::string& name, const std::string& dtype_name, const py::array& inputs,
                  const py::array& results, const std::optional<Parameters>& parameters) {
  const DType dtype = dtype_named(dtype_name);
  const py::array x = contiguous(inputs, dtype, "inputs");
  const py::array y = contiguous(results, dtype, "results");
  check_size(y, x.size(), "results");
  if (parameters) check_size(*parameters, x.size(), "parameters");
  const py::gil_scoped_release release;
  return accuracy::ulp_errors(name, dtype, x.data(), parameters ? parameters->data() : nullptr,
                              y.data(), x.size());
}

}  // namespace

void bind_accuracy(py::module_& m) {
  py::class_<Errors>(m, "Errors")
      .def_readonly("count", &Errors::count)
      .def_readonly("max_ulp", &Errors::max_ulp)
      .def_readonly("misrounded", &Errors::misrounded)
      .def_readonly("wrong", &Errors::wrong)
      .def_readonly("input", &Errors::input)
      .def_readonly("parameter", &Errors::parameter)
      .def_readonly("got", &Errors::got)
      .def_readonly("want", &Errors::want);
  m.def("scan_names", &accuracy::names);
  m.def(
      "scan",
      [](const std::string& name, const std::string& dtype, uint64_t begin, uint64_t end,
         uint64_t stride, double parameter, int threads) {
        return accuracy::scan(name, dtype_named(dtype), begin, end, stride, parameter, threads);
      },
      py::arg("name"), py::arg("dtype"), py::arg("begin"), py::arg("end"), py::arg("stride") = 1,
      py::arg("parameter") = 0.0, py::arg("threads") = 0, py::call_guard<py::gil_scoped_release>());
  m.def("scan_samples", &scan_samples, py::arg("name"), py::arg("dtype"), py::arg("inputs"),
        py::arg("parameters"));
  m.def("ulp_errors", &ulp_errors, py::arg("name"), py::arg("dtype"), py::arg("inputs"),
        py::arg("results"), py::arg("parameters") = py::none());
}

}  // namespace fusedgrad

// fusedgrad._C: what is no operator. Importing it registers the operators.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cpu/capability.h"

namespace fusedgrad {
void bind_accuracy(pybind11::module_& m);  // csrc/accuracy/bindings.cpp
}

PYBIND11_MODULE(_C, m) {
  using namespace fusedgrad;
  m.def("cpu_capability", [] { return cpu::name(cpu::capability()); });
  m.def("cpu_capabilities", [] {
    std::vector<std::string> names;
    for (cpu::Capability capability : cpu::built_capabilities()) {
      names.push_back(cpu::name(capability));
    }
    return names;
  });
  m.attr("torch_version") = FUSEDGRAD_TORCH_VERSION;
  bind_accuracy(m);
}

// fusedgrad._C: what is no operator. Importing it registers the operators.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "cpu/block.h"
#include "cpu/capability.h"
#include "cpu/kernel.h"
#include "operators/fused.h"

#ifdef FUSEDGRAD_CUDA
#include <cuda_runtime_api.h>
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
  m.attr("max_operands") = static_cast<int>(cpu::kMaxOperands);
  m.attr("max_parameters") = static_cast<int>(cpu::kMaxParameters);
  bind_accuracy(m);
}

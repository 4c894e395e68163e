#include "cpu/tanh.h"

#include "operators/unary.h"

namespace fusedgrad::operators {
namespace {

struct Tanh {
  static constexpr const char* name = "tanh";
  static cpu::Kernel value() { return cpu::tanh(); }
  static cpu::Kernel backward() { return cpu::tanh_backward(); }
  static cpu::Kernel double_backward() { return cpu::tanh_double_backward(); }
};

}  // namespace

TORCH_LIBRARY_IMPL(fusedgrad, CPU, m) { Unary<Tanh>::implement(m); }

}  // namespace fusedgrad::operators

#include "cpu/sigmoid.h"

#include "operators/unary.h"

namespace fusedgrad::operators {
namespace {

struct Sigmoid {
  static constexpr const char* name = "sigmoid";
  static cpu::Kernel value() { return cpu::sigmoid(); }
  static cpu::Kernel backward() { return cpu::sigmoid_backward(); }
  static cpu::Kernel double_backward() { return cpu::sigmoid_double_backward(); }
};

}  // namespace

TORCH_LIBRARY_IMPL(fusedgrad, CPU, m) { Unary<Sigmoid>::implement(m); }

}  // namespace fusedgrad::operators

#include "cpu/tanh.h"

#include "operators/unary.h"

namespace fusedgrad::operators {
namespace {

struct Tanh {
  static Operation value() { return FUSEDGRAD_OPERATION(tanh); }
  static Operation backward() { return FUSEDGRAD_OPERATION(tanh_backward); }
  static Operation double_backward() { return FUSEDGRAD_OPERATION(tanh_double_backward); }
};

}  // namespace

FUSEDGRAD_IMPLEMENT(m) { Unary<Tanh>::implement(m); }

}  // namespace fusedgrad::operators

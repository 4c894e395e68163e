#include "cpu/sigmoid.h"

#include "operators/unary.h"

namespace fusedgrad::operators {
namespace {

struct Sigmoid {
  static Operation value() { return FUSEDGRAD_OPERATION(sigmoid); }
  static Operation backward() { return FUSEDGRAD_OPERATION(sigmoid_backward); }
  static Operation double_backward() { return FUSEDGRAD_OPERATION(sigmoid_double_backward); }
};

}  // namespace

FUSEDGRAD_IMPLEMENT(m) { Unary<Sigmoid>::implement(m); }

}  // namespace fusedgrad::operators

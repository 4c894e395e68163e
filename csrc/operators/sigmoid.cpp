#include "cpu/sigmoid.h"

#include "math/logistic_derivatives.h"
#include "operators/unary.h"

namespace fusedgrad::operators {
namespace {

struct Sigmoid {
  static constexpr const char* kName = "sigmoid";
  static constexpr const char* kOverload = "";
  static constexpr const char* kNode = "Sigmoid";
  static constexpr int64_t kMostOrder = math::kMostLogisticOrder;

  static Operation value() { return FUSEDGRAD_OPERATION(sigmoid); }
  static Operation backward(double order) { return FUSEDGRAD_OPERATION(sigmoid_backward, order); }
  static Operation double_backward(double order) {
    return FUSEDGRAD_OPERATION(sigmoid_double_backward, order);
  }
  static Operation triple_backward(double order) {
    return FUSEDGRAD_OPERATION(sigmoid_triple_backward, order);
  }
};

}  // namespace

FUSEDGRAD_OPERATORS(Unary<Sigmoid>)

}  // namespace fusedgrad::operators

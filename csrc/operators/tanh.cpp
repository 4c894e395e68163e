#include "cpu/tanh.h"

#include "math/logistic_derivatives.h"
#include "operators/unary.h"

namespace fusedgrad::operators {
namespace {

struct Tanh {
  static constexpr const char* kName = "tanh";
  static constexpr const char* kOverload = "";
  static constexpr const char* kNode = "Tanh";
  static constexpr int64_t kMostOrder = math::kMostLogisticOrder;

  static Operation value() { return FUSEDGRAD_OPERATION(tanh); }
  static Operation backward(double order) { return FUSEDGRAD_OPERATION(tanh_backward, order); }
  static Operation double_backward(double order) {
    return FUSEDGRAD_OPERATION(tanh_double_backward, order);
  }
  static Operation triple_backward(double order) {
    return FUSEDGRAD_OPERATION(tanh_triple_backward, order);
  }
};

}  // namespace

FUSEDGRAD_OPERATORS(Unary<Tanh>)

}  // namespace fusedgrad::operators

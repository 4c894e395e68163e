#include "cpu/sigmoid.h"

#include "math/logistic_derivatives.h"

namespace fusedgrad::cpu {

Kernel sigmoid() { return make_kernel<math::Sigmoid>(); }
Kernel sigmoid_backward(double order) {
  return order == 1 ? make_kernel<math::SigmoidBackward>()
                    : make_kernel<math::SigmoidBackwardOfOrder>(order);
}
Kernel sigmoid_double_backward(double order) {
  return order == 1 ? make_kernel<math::SigmoidDoubleBackward>()
                    : make_kernel<math::SigmoidDoubleBackwardOfOrder>(order);
}
Kernel sigmoid_triple_backward(double order) {
  return make_kernel<math::SigmoidTripleBackwardOfOrder>(order);
}

}  // namespace fusedgrad::cpu

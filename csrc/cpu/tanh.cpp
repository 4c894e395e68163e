#include "cpu/tanh.h"

#include "math/logistic_derivatives.h"
#include "math/tanh.h"

namespace fusedgrad::cpu {

Kernel tanh() { return make_kernel<math::Tanh>(); }
Kernel tanh_backward(double order) {
  return order == 1 ? make_kernel<math::TanhBackward>()
                    : make_kernel<math::TanhBackwardOfOrder>(order);
}
Kernel tanh_double_backward(double order) {
  return order == 1 ? make_kernel<math::TanhDoubleBackward>()
                    : make_kernel<math::TanhDoubleBackwardOfOrder>(order);
}
Kernel tanh_triple_backward(double order) {
  return make_kernel<math::TanhTripleBackwardOfOrder>(order);
}

}  // namespace fusedgrad::cpu

#include "cpu/logistic_loss.h"

#include "math/logistic_loss.h"

namespace fusedgrad::cpu {

Kernel binary_cross_entropy_with_logits() {
  return make_kernel<math::BinaryCrossEntropyWithLogits>();
}
Kernel binary_cross_entropy_with_logits_weighted() {
  return make_kernel<math::WeightedBinaryCrossEntropyWithLogits>();
}
Kernel binary_cross_entropy_with_logits_backward(double scale) {
  return make_kernel<math::BinaryCrossEntropyWithLogitsBackward>(scale);
}
Kernel binary_cross_entropy_with_logits_backward_weighted(double scale) {
  return make_kernel<math::WeightedBinaryCrossEntropyWithLogitsBackward>(scale);
}
Kernel binary_cross_entropy_with_logits_backward_target(double scale) {
  return make_kernel<math::BinaryCrossEntropyWithLogitsBackwardTarget>(scale);
}
Kernel binary_cross_entropy_with_logits_backward_weight(double scale) {
  return make_kernel<math::BinaryCrossEntropyWithLogitsBackwardWeight>(scale);
}
Kernel binary_cross_entropy_with_logits_backward_pos_weight(double scale) {
  return make_kernel<math::BinaryCrossEntropyWithLogitsBackwardPosWeight>(scale);
}
Kernel binary_cross_entropy_with_logits_double_backward(double scale) {
  return make_kernel<math::BinaryCrossEntropyWithLogitsDoubleBackward>(scale);
}

Kernel binary_cross_entropy() { return make_kernel<math::BinaryCrossEntropy>(); }
Kernel binary_cross_entropy_weighted() { return make_kernel<math::WeightedBinaryCrossEntropy>(); }
Kernel binary_cross_entropy_backward(double scale) {
  return make_kernel<math::BinaryCrossEntropyBackward>(scale);
}
Kernel binary_cross_entropy_backward_weighted(double scale) {
  return make_kernel<math::WeightedBinaryCrossEntropyBackward>(scale);
}
Kernel binary_cross_entropy_backward_target(double scale) {
  return make_kernel<math::BinaryCrossEntropyBackwardTarget>(scale);
}
Kernel binary_cross_entropy_backward_weight(double scale) {
  return make_kernel<math::BinaryCrossEntropyBackwardWeight>(scale);
}
Kernel binary_cross_entropy_double_backward(double scale) {
  return make_kernel<math::BinaryCrossEntropyDoubleBackward>(scale);
}
Kernel binary_cross_entropy_derivative(double by_input, double by_target) {
  return make_kernel<math::BinaryCrossEntropyDerivative>(by_input, by_target);
}
Kernel binary_cross_entropy_derivative_backward(double by_input, double by_target) {
  return make_kernel<math::BinaryCrossEntropyDerivativeBackward>(by_input, by_target);
}

}  // namespace fusedgrad::cpu

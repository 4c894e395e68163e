#pragma once

#include "cpu/kernel.h"

namespace fusedgrad::cpu {

// The operands: (x, target[, weight, pos_weight]) on logits, (p, target[, weight]) on
// probabilities, `grad` before them in a backward kernel and `grad_grad` before that. A backward
// kernel multiplies by `scale`: 1/N where the loss was a mean of N elements.

Kernel binary_cross_entropy_with_logits();
Kernel binary_cross_entropy_with_logits_weighted();
Kernel binary_cross_entropy_with_logits_backward(double scale);
Kernel binary_cross_entropy_with_logits_backward_weighted(double scale);
Kernel binary_cross_entropy_with_logits_backward_target(double scale);
Kernel binary_cross_entropy_with_logits_backward_weight(double scale);
Kernel binary_cross_entropy_with_logits_backward_pos_weight(double scale);
Kernel binary_cross_entropy_with_logits_double_backward(double scale);  // -> for grad, for x

Kernel binary_cross_entropy();
Kernel binary_cross_entropy_weighted();
Kernel binary_cross_entropy_backward(double scale);
Kernel binary_cross_entropy_backward_weighted(double scale);
Kernel binary_cross_entropy_backward_target(double scale);
Kernel binary_cross_entropy_backward_weight(double scale);
Kernel binary_cross_entropy_double_backward(double scale);  // -> for grad, for p
// (grad, p, target): grad times a derivative of orders up to BinaryCrossEntropyDerivative::kMost
Kernel binary_cross_entropy_derivative(double by_input, double by_target);
// (grad_grad, grad, p, target) -> for grad, for p, for target; of less than kMost
Kernel binary_cross_entropy_derivative_backward(double by_input, double by_target);

}  // namespace fusedgrad::cpu

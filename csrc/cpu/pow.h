#pragma once

#include "cpu/kernel.h"

namespace fusedgrad::cpu {

Kernel pow_scalar(double exponent);                  // (x)
Kernel pow_scalar_backward(double exponent);         // (grad, x)
Kernel pow_scalar_double_backward(double exponent);  // (grad_grad, grad, x) -> for grad, for x

Kernel pow();                    // (x, exponent)
Kernel pow_backward();           // (grad, x, exponent) -> for x, for exponent
Kernel pow_backward_input();     // (grad, x, exponent)
Kernel pow_backward_exponent();  // (grad, x, exponent)
Kernel pow_double_backward();    // (grad_grad_x, grad_grad_exponent, grad, x, exponent)
                                 //   -> for grad, for x, for exponent

}  // namespace fusedgrad::cpu

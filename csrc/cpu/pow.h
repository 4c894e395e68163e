#pragma once

#include "cpu/kernel.h"

namespace fusedgrad::cpu {

Kernel pow_scalar(double exponent);  // (x)
// Products with the derivative of an order from 1, and their backwards: math/products.h
Kernel pow_scalar_backward(double exponent, double order);         // (grad, x)
Kernel pow_scalar_double_backward(double exponent, double order);  // (grad_grad, grad, x)
                                                                   //   -> for grad, for x
Kernel pow_scalar_triple_backward(double exponent, double order);  // (grad, first, second, x)
                                                                   //   -> for each but grad
Kernel pow_scalar_derivatives(double exponent, double order);      // (x) -> and of the next

Kernel pow();                    // (x, exponent)
Kernel pow_backward();           // (grad, x, exponent) -> for x, for exponent
Kernel pow_backward_input();     // (grad, x, exponent)
Kernel pow_backward_exponent();  // (grad, x, exponent)
Kernel pow_double_backward();    // (grad_grad_x, grad_grad_exponent, grad, x, exponent)
                                 //   -> for grad, for x, for exponent
// (grad, x, exponent): grad times a derivative of orders up to math::PowDerivative::kMost
Kernel pow_derivative(double by_base, double by_exponent);
// (grad_grad, grad, x, exponent) -> for grad, for x, for exponent; of less than kMost
Kernel pow_derivative_backward(double by_base, double by_exponent);

}  // namespace fusedgrad::cpu

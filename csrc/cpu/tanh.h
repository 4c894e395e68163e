#pragma once

#include "cpu/kernel.h"

namespace fusedgrad::cpu {

Kernel tanh();  // (x)
// Products with the derivative of an order from 1 to math::kMostLogisticOrder - 1, and their
// backwards: math/products.h
Kernel tanh_backward(double order);         // (grad, x)
Kernel tanh_double_backward(double order);  // (grad_grad, grad, x) -> for grad, for x
Kernel tanh_triple_backward(double order);  // (grad, first, second, x) -> for each but grad

}  // namespace fusedgrad::cpu

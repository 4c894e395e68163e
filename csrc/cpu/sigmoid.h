#pragma once

#include "cpu/kernel.h"

namespace fusedgrad::cpu {

Kernel sigmoid();  // (x)
// Products with the derivative of an order from 1 to math::kMostLogisticOrder - 1, and their
// backwards: math/products.h
Kernel sigmoid_backward(double order);         // (grad, x)
Kernel sigmoid_double_backward(double order);  // (grad_grad, grad, x) -> for grad, for x
Kernel sigmoid_triple_backward(double order);  // (grad, first, second, x) -> for each but grad

}  // namespace fusedgrad::cpu

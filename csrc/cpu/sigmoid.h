#pragma once

#include "cpu/kernel.h"

namespace fusedgrad::cpu {

Kernel sigmoid();                  // (x)
Kernel sigmoid_backward();         // (grad, x)
Kernel sigmoid_double_backward();  // (grad_grad, grad, x) -> for grad, for x

}  // namespace fusedgrad::cpu

#pragma once

#include "cpu/kernel.h"

namespace fusedgrad::cpu {

Kernel tanh();                  // (x)
Kernel tanh_backward();         // (grad, x)
Kernel tanh_double_backward();  // (grad_grad, grad, x) -> for grad, for x

}  // namespace fusedgrad::cpu

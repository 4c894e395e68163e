// The jets of activations that need no compiler at run time (csrc/math/jets.h): of order 1 to 4,
// each followed by its gradients.
#pragma once

#include <vector>

#include "cpu/kernel.h"

namespace fusedgrad::cpu {

std::vector<Kernel> pow_jets();
std::vector<Kernel> sigmoid_jets();
std::vector<Kernel> tanh_jets();

}  // namespace fusedgrad::cpu

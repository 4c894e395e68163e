// The jets of activations that need no compiler at run time (csrc/math/jets.h): of order 1 to 4,
// each followed by its gradients.
//
//   FUSEDGRAD_JETS(sigmoid, Sigmoid)  // sigmoid_jets(), of math::SigmoidJet1 and so on
#pragma once

#include <vector>

#include "cpu/kernel.h"
#include "math/jets.h"

namespace fusedgrad::cpu {

std::vector<Kernel> pow_jets();
std::vector<Kernel> sigmoid_jets();
std::vector<Kernel> tanh_jets();

}  // namespace fusedgrad::cpu

// What follows the names, a number for functors that carry one, goes to make_kernel.
#define FUSEDGRAD_JET(Function, order, ...)             \
  make_kernel<math::Function##Jet##order>(__VA_ARGS__), \
      make_kernel<math::Function##JetBackward##order>(__VA_ARGS__)
#define FUSEDGRAD_JETS(name, Function, ...)                         \
  namespace fusedgrad::cpu {                                        \
  std::vector<Kernel> name##_jets() {                               \
    return {FUSEDGRAD_JET(Function, 1 __VA_OPT__(, ) __VA_ARGS__),  \
            FUSEDGRAD_JET(Function, 2 __VA_OPT__(, ) __VA_ARGS__),  \
            FUSEDGRAD_JET(Function, 3 __VA_OPT__(, ) __VA_ARGS__),  \
            FUSEDGRAD_JET(Function, 4 __VA_OPT__(, ) __VA_ARGS__)}; \
  }                                                                 \
  }

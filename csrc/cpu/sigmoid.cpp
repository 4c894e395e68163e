#include "cpu/sigmoid.h"

#include "math/sigmoid.h"

namespace fusedgrad::cpu {

Kernel sigmoid() { return make_kernel<math::Sigmoid>(); }
Kernel sigmoid_backward() { return make_kernel<math::SigmoidBackward>(); }
Kernel sigmoid_double_backward() { return make_kernel<math::SigmoidDoubleBackward>(); }

}  // namespace fusedgrad::cpu

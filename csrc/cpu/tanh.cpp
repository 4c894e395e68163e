#include "cpu/tanh.h"

#include "math/tanh.h"

namespace fusedgrad::cpu {

Kernel tanh() { return make_kernel<math::Tanh>(); }
Kernel tanh_backward() { return make_kernel<math::TanhBackward>(); }
Kernel tanh_double_backward() { return make_kernel<math::TanhDoubleBackward>(); }

}  // namespace fusedgrad::cpu

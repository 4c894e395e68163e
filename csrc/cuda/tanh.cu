#include "math/tanh.h"

#include "cuda/elementwise.cuh"

namespace fusedgrad::cuda {

FUSEDGRAD_ELEMENTWISE(tanh, math::Tanh)
FUSEDGRAD_ELEMENTWISE(tanh_backward, math::TanhBackward)
FUSEDGRAD_ELEMENTWISE(tanh_double_backward, math::TanhDoubleBackward)

}  // namespace fusedgrad::cuda

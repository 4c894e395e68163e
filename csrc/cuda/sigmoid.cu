#include "math/sigmoid.h"

#include "cuda/elementwise.cuh"

namespace fusedgrad::cuda {

FUSEDGRAD_ELEMENTWISE(sigmoid, math::Sigmoid)
FUSEDGRAD_ELEMENTWISE(sigmoid_backward, math::SigmoidBackward)
FUSEDGRAD_ELEMENTWISE(sigmoid_double_backward, math::SigmoidDoubleBackward)

}  // namespace fusedgrad::cuda

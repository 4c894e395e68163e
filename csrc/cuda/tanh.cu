#include "math/logistic_derivatives.h"
#include "math/tanh.h"

#include "cuda/elementwise.cuh"

namespace fusedgrad::cuda {

FUSEDGRAD_ELEMENTWISE(tanh, math::Tanh)
FUSEDGRAD_ELEMENTWISE_OF_ORDER(tanh_backward, math::TanhBackward, math::TanhBackwardOfOrder)
FUSEDGRAD_ELEMENTWISE_OF_ORDER(tanh_double_backward, math::TanhDoubleBackward,
                               math::TanhDoubleBackwardOfOrder)
FUSEDGRAD_ELEMENTWISE_WITH_PARAMETER(tanh_triple_backward, math::TanhTripleBackwardOfOrder)

}  // namespace fusedgrad::cuda

#include "math/logistic_derivatives.h"

#include "cuda/elementwise.cuh"

namespace fusedgrad::cuda {

FUSEDGRAD_ELEMENTWISE(sigmoid, math::Sigmoid)
FUSEDGRAD_ELEMENTWISE_OF_ORDER(sigmoid_backward, math::SigmoidBackward,
                               math::SigmoidBackwardOfOrder)
FUSEDGRAD_ELEMENTWISE_OF_ORDER(sigmoid_double_backward, math::SigmoidDoubleBackward,
                               math::SigmoidDoubleBackwardOfOrder)
FUSEDGRAD_ELEMENTWISE_WITH_PARAMETER(sigmoid_triple_backward, math::SigmoidTripleBackwardOfOrder)

}  // namespace fusedgrad::cuda

#include "math/logistic_loss.h"

#include "cuda/elementwise.cuh"
#include "cuda/reduction.cuh"

namespace fusedgrad::cuda {

int64_t reduction_workspace_bytes(int64_t numel) {
  return reduction_blocks(numel, kThreads) * static_cast<int64_t>(sizeof(Sum<double>));
}

FUSEDGRAD_ELEMENTWISE(binary_cross_entropy_with_logits, math::BinaryCrossEntropyWithLogits)
FUSEDGRAD_ELEMENTWISE(binary_cross_entropy_with_logits_weighted,
                      math::WeightedBinaryCrossEntropyWithLogits)
FUSEDGRAD_SUM(binary_cross_entropy_with_logits_sum, math::BinaryCrossEntropyWithLogits)
FUSEDGRAD_SUM(binary_cross_entropy_with_logits_weighted_sum,
              math::WeightedBinaryCrossEntropyWithLogits)
FUSEDGRAD_ELEMENTWISE_WITH_PARAMETER(binary_cross_entropy_with_logits_backward,
                                     math::BinaryCrossEntropyWithLogitsBackward)
FUSEDGRAD_ELEMENTWISE_WITH_PARAMETER(binary_cross_entropy_with_logits_backward_weighted,
                                     math::WeightedBinaryCrossEntropyWithLogitsBackward)
FUSEDGRAD_ELEMENTWISE_WITH_PARAMETER(binary_cross_entropy_with_logits_backward_target,
                                     math::BinaryCrossEntropyWithLogitsBackwardTarget)
FUSEDGRAD_ELEMENTWISE_WITH_PARAMETER(binary_cross_entropy_with_logits_backward_weight,
                                     math::BinaryCrossEntropyWithLogitsBackwardWeight)
FUSEDGRAD_ELEMENTWISE_WITH_PARAMETER(binary_cross_entropy_with_logits_backward_pos_weight,
                                     math::BinaryCrossEntropyWithLogitsBackwardPosWeight)
FUSEDGRAD_ELEMENTWISE_WITH_PARAMETER(binary_cross_entropy_with_logits_double_backward,
                                     math::BinaryCrossEntropyWithLogitsDoubleBackward)

FUSEDGRAD_ELEMENTWISE(binary_cross_entropy, math::BinaryCrossEntropy)
FUSEDGRAD_ELEMENTWISE(binary_cross_entropy_weighted, math::WeightedBinaryCrossEntropy)
FUSEDGRAD_SUM(binary_cross_entropy_sum, math::BinaryCrossEntropy)
FUSEDGRAD_SUM(binary_cross_entropy_weighted_sum, math::WeightedBinaryCrossEntropy)
FUSEDGRAD_ELEMENTWISE_WITH_PARAMETER(binary_cross_entropy_backward,
                                     math::BinaryCrossEntropyBackward)
FUSEDGRAD_ELEMENTWISE_WITH_PARAMETER(binary_cross_entropy_backward_weighted,
                                     math::WeightedBinaryCrossEntropyBackward)
FUSEDGRAD_ELEMENTWISE_WITH_PARAMETER(binary_cross_entropy_backward_target,
                                     math::BinaryCrossEntropyBackwardTarget)
FUSEDGRAD_ELEMENTWISE_WITH_PARAMETER(binary_cross_entropy_backward_weight,
                                     math::BinaryCrossEntropyBackwardWeight)
FUSEDGRAD_ELEMENTWISE_WITH_PARAMETER(binary_cross_entropy_double_backward,
                                     math::BinaryCrossEntropyDoubleBackward)
FUSEDGRAD_ELEMENTWISE_WITH_TWO_PARAMETERS(binary_cross_entropy_derivative,
                                          math::BinaryCrossEntropyDerivative)
FUSEDGRAD_ELEMENTWISE_WITH_TWO_PARAMETERS(binary_cross_entropy_derivative_backward,
                                          math::BinaryCrossEntropyDerivativeBackward)

}  // namespace fusedgrad::cuda

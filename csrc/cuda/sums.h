// The gradients of the operators by operands that are broadcast, summed as they are computed.
#pragma once

#include "cuda/fused.h"
#include "dtype.h"

namespace fusedgrad::cuda {

// The kernel of an operation of cuda/launch.h that sums its only output over dimensions, or
// pow_backward's second: launched as what is compiled at run time is.
using OverDimensions = FusedKernel(DType);
OverDimensions pow_backward_over_dimensions;
OverDimensions pow_backward_input_over_dimensions;
OverDimensions pow_backward_exponent_over_dimensions;
OverDimensions binary_cross_entropy_with_logits_backward_weight_over_dimensions;
OverDimensions binary_cross_entropy_with_logits_backward_pos_weight_over_dimensions;
OverDimensions binary_cross_entropy_backward_weight_over_dimensions;

}  // namespace fusedgrad::cuda

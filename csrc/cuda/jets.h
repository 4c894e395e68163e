// The jets of activations that need no compiler at run time (csrc/math/jets.h).
#pragma once

#include "cuda/fused.h"
#include "dtype.h"

namespace fusedgrad::cuda {

inline constexpr int kJets = 8;  // of a function: of order 1 to 4, each followed by its gradients

// One of them, for operands that are all of one dtype: launched as what is compiled at run time is.
FusedKernel pow_jet(int number, DType dtype);
FusedKernel sigmoid_jet(int number, DType dtype);
FusedKernel tanh_jet(int number, DType dtype);

}  // namespace fusedgrad::cuda

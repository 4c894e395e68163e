// softplus(x) = log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|)), whose terms do not cancel. Its
// derivative is sigmoid(x).
//
// Largest error found by tests/test_fuse_math.py, which bounds it, in float and double: 1.0 ULP.
#pragma once

#include "math/logistic_loss.h"

namespace fusedgrad::math {

template <class T>
FUSEDGRAD_HOST_DEVICE T softplus(T x) {
  return (x > 0 ? x : T(0)) + detail::softplus_tail(x);
}

}  // namespace fusedgrad::math

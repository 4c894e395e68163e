// softplus(x) = log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|)), whose terms do not cancel. Its
// derivative is sigmoid(x).
//
// Largest error in float, by the scan of tools/error_budget.py, whose bound holds in double too:
// 1.29 ULP, at 0x1.3728a2p-2.
#pragma once

#include "math/logistic_loss.h"

namespace fusedgrad::math {

template <class T>
FUSEDGRAD_HOST_DEVICE T softplus(T x) {
  return (x > 0 ? x : T(0)) + detail::softplus_tail(x);
}

}  // namespace fusedgrad::math

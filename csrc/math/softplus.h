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
  return at_least<0>(x) + detail::softplus_tail(x);
}

template <class T>
FUSEDGRAD_HOST_DEVICE T gap(T a, T b) {
  return a == b ? T(0) : a - b;
}

// log(exp(a) + exp(b)) = max(a, b) + log(1 + exp(-|a - b|))
template <class T>
FUSEDGRAD_HOST_DEVICE T logaddexp(T a, T b) {
  return (a > b ? a : b) + detail::softplus_tail(gap(a, b));
}

// The same of base 2
template <class T>
FUSEDGRAD_HOST_DEVICE T logaddexp2(T a, T b) {
  constexpr T kLn2 = T(0x1.62e42fefa39efp-1);
  constexpr T kLog2E = T(0x1.71547652b82fep+0);
  return (a > b ? a : b) + detail::softplus_tail(kLn2 * gap(a, b)) * kLog2E;
}

}  // namespace fusedgrad::math

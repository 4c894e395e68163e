// silu(x) = x sigmoid(x) and its derivative, as max(x, 0) - h(|x|) with h(t) = t a / (1 + a) and
// a = exp(-t): one exponential, lifted until the tail is rounded, and no difference that cancels.
//
// Largest error of silu in float, by the scan of tools/error_budget.py, whose bound holds in double
// too: 3.25 ULP, at -0x1.7c038cp+2.
#pragma once

#include "math/elementary.h"

namespace fusedgrad::math {

namespace detail {

// |x|, or from where t exp(-t) rounds to 0
template <class T>
FUSEDGRAD_HOST_DEVICE T silu_magnitude(T x) {
  return at_most<static_cast<int>(-Ranges<T>::kLeastExponent)>(abs(x));
}

}  // namespace detail

template <class T>
FUSEDGRAD_HOST_DEVICE T silu(T x) {
  constexpr T kUnlift = 1 / Ranges<T>::kLift;
  const T t = detail::silu_magnitude(x);
  const T lifted = scaled_exp_of_minus(t, Ranges<T>::kLiftBits).value().hi;
  const T tail = t * lifted / fma(lifted, kUnlift, T(1)) * kUnlift;
  return at_least<0>(x) - tail;
}

// h'(|x|) below 0, else 1 - h'(|x|): h'(t) = a (1 - t + a) / (1 + a)^2
template <class T>
FUSEDGRAD_HOST_DEVICE T silu_derivative(T x) {
  constexpr T kUnlift = 1 / Ranges<T>::kLift;
  const T t = detail::silu_magnitude(x);
  const T lifted = scaled_exp_of_minus(t, Ranges<T>::kLiftBits).value().hi;
  const T a = lifted * kUnlift;
  const T slope = lifted * ((1 - t) + a) / fma(a, a + 2, T(1)) * kUnlift;
  return x < 0 ? slope : 1 - slope;
}

}  // namespace fusedgrad::math

// mish(x) = x tanh(softplus(x)) and its derivative, in n = exp(-|x|): tanh(log(1 + exp(x))) is
// (1 + 2n) / (1 + 2n + 2n^2) right of 0 and n (n + 2) / (n (n + 2) + 2) left of it, sums of terms
// of one sign.
#pragma once

#include "math/elementary.h"

namespace fusedgrad::math {

namespace detail {

// exp(-|x|), lifted, of an x that is at most so large that x exp(-|x|) rounds to 0
template <class T>
struct MishTail {
  T x;
  T lifted;
  T n;
};

template <class T>
FUSEDGRAD_HOST_DEVICE MishTail<T> mish_tail(T x) {
  constexpr T kMost = -Ranges<T>::kLeastExponent;
  const T near = x < -kMost ? -kMost : x;
  const T lifted = lifted_exp(-abs(near)).value().hi;
  return {near, lifted, lifted * (1 / Ranges<T>::kLift)};
}

}  // namespace detail

template <class T>
FUSEDGRAD_HOST_DEVICE T mish(T x) {
  constexpr T kUnlift = 1 / Ranges<T>::kLift;
  const detail::MishTail<T> t = detail::mish_tail(x);
  const T n = t.n;
  const T above = t.x * (fma(T(2), n, T(1)) / fma(2 * n, n + 1, T(1)));
  const T below = t.x * t.lifted * (n + 2) / fma(n, n + 2, T(2)) * kUnlift;
  return x == kInfinity<T> ? x : x < 0 ? below : above;
}

// t + x t', t' = 4 n (n + 1) / (n^2 + 2 n + 2)^2 left of 0 and 4 n^2 (1 + n) / (1 + 2n + 2n^2)^2
// right of it
template <class T>
FUSEDGRAD_HOST_DEVICE T mish_derivative(T x) {
  constexpr T kUnlift = 1 / Ranges<T>::kLift;
  const detail::MishTail<T> t = detail::mish_tail(x);
  const T n = t.n;
  const T right = fma(2 * n, n + 1, T(1));
  const T far = t.x > -Ranges<T>::kLeastExponent ? -Ranges<T>::kLeastExponent : t.x;
  const T above = (fma(T(2), n, T(1)) + 4 * far * n * n * (1 + n) / right) / right;
  const T left = fma(n, n + 2, T(2));
  const T below = t.lifted * ((n + 2) * left + 4 * t.x * (n + 1)) / (left * left) * kUnlift;
  return x < 0 ? below : above;
}

}  // namespace fusedgrad::math

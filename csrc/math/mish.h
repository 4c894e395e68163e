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
  const T near = at_least<static_cast<int>(Ranges<T>::kLeastExponent)>(x);
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

// t + x t', t' = 4 n (n + 1) / (n^2 + 2 n + 2)^2 left of 0, where the sum is
// n (4 (1 + x) + n (6 + 4x) + 4n^2 + n^3) / (n^2 + 2n + 2)^2, and 4 n^2 (1 + n) / (1 + 2n + 2n^2)^2
// right of it
template <class T>
FUSEDGRAD_HOST_DEVICE T mish_derivative(T x) {
  constexpr T kUnlift = 1 / Ranges<T>::kLift;
  const detail::MishTail<T> t = detail::mish_tail(x);
  const T n = t.n;
  const T right = fma(2 * n, n + 1, T(1));
  const T far = at_most<static_cast<int>(-Ranges<T>::kLeastExponent)>(t.x);
  const T above = (fma(T(2), n, T(1)) + 4 * far * n * n * (1 + n) / right) / right;
  const T left = fma(n, n + 2, T(2));
  const T sum = fma(n, fma(n, n + 4, fma(T(4), t.x, T(6))), 4 * (1 + t.x));
  const T below = t.lifted * sum / (left * left) * kUnlift;
  return x < 0 ? below : above;
}

// With d = n^2 + 2n + 2, 4 n (2 (2 + x) + 2 n (4 + x) + 3 n^2 (2 - x) + 2 n^3 (1 - x)) / d^3 left
// of 0, and right of it the same of exp(x), over its power of 6. What rounding d loses counts three
// times.
template <class T>
FUSEDGRAD_HOST_DEVICE T mish_second_derivative(T x) {
  constexpr T kUnlift = 1 / Ranges<T>::kLift;
  const detail::MishTail<T> t = detail::mish_tail(x);
  const T n = t.n;
  const T z = at_most<static_cast<int>(-Ranges<T>::kLeastExponent)>(t.x);
  const bool below = x < 0;
  const T constant = below ? T(2) : T(1);
  const T slope = below ? n + 2 : fma(T(2), n, T(2));
  const T slope_lo = below ? n - (slope - 2) : fma(T(2), n, 2 - slope);
  const T d = fma(n, slope, constant);
  const T d_lo = fma(n, slope, constant - d) + n * slope_lo;
  const T a = 2 * (2 + z), b = 2 * (4 + z), c = 3 * (2 - z), e = 2 * (1 - z);
  const T left = fma(n, fma(n, fma(n, e, c), b), a);
  const T right = fma(n, fma(n, fma(n, a, b), c), e);
  const T value = t.lifted * (4 * (below ? left : n * right) / (d * d * d));
  return fma(-3 * value, d_lo / d, value) * kUnlift;
}

}  // namespace fusedgrad::math

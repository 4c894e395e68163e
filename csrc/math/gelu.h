// gelu(x) = x Φ(x), Φ the normal distribution, and its derivative, as max(x, 0) - g(|x|) with
// g(t) = t Φ(-t) = t exp(-t^2/2) w(t) / 2: normal.h says how the tail keeps its digits.
//
// Largest error of gelu in float, by the scan of tools/error_budget.py, whose bound holds in double
// too: 5.03 ULP, at -0x1.d4f024p+0.
#pragma once

#include "math/normal.h"

namespace fusedgrad::math {

namespace detail {

// exp(-t^2/2) kLift and w(t) / 2, t at most so large that the tail rounds to 0
template <class T>
struct NormalTail {
  T t;
  T lifted;
  T half_complement;
};

template <class T>
FUSEDGRAD_HOST_DEVICE NormalTail<T> normal_tail(T x) {
  constexpr int kMost = sizeof(T) == 4 ? 15 : 39;  // (-2 kLeastExponent)^(1/2)
  constexpr T kSqrtHalf = T(0x1.6a09e667f3bcdp-1);
  const T t = at_most<kMost>(abs(x));
  const T square = t * t;
  const T exp = scaled_exp_of_minus(T(0.5) * square, Ranges<T>::kLiftBits).value().hi;
  const T lifted = fma(exp, T(-0.5) * fma(t, t, -square), exp);
  return {t, lifted, T(0.5) * scaled_complement(t * kSqrtHalf)};
}

}  // namespace detail

template <class T>
FUSEDGRAD_HOST_DEVICE T gelu(T x) {
  constexpr T kUnlift = 1 / Ranges<T>::kLift;
  const detail::NormalTail<T> tail = detail::normal_tail(x);
  return at_least<0>(x) - tail.t * tail.half_complement * tail.lifted * kUnlift;
}

// g'(|x|) below 0, else 1 - g'(|x|): g'(t) = exp(-t^2/2) (w(t) / 2 - t / sqrt(2 pi))
template <class T>
FUSEDGRAD_HOST_DEVICE T gelu_derivative(T x) {
  constexpr T kUnlift = 1 / Ranges<T>::kLift;
  constexpr T kOneOverSqrtTwoPi = T(0x1.9884533d43651p-2);
  const detail::NormalTail<T> tail = detail::normal_tail(x);
  const T slope = fma(-kOneOverSqrtTwoPi, tail.t, tail.half_complement) * tail.lifted * kUnlift;
  return x < 0 ? slope : 1 - slope;
}

}  // namespace fusedgrad::math

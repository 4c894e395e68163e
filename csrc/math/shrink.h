// tanhshrink(x) = x - tanh(x), next to 0 as (x cosh(x) - sinh(x)) / cosh(x), whose numerator's
// series has terms of one sign; and softsign(x) = x / (1 + |x|) with its derivative.
#pragma once

#include "math/hyperbolic.h"
#include "math/tanh.h"

namespace fusedgrad::math {

template <class T>
FUSEDGRAD_HOST_DEVICE T tanhshrink(T x) {
  constexpr int kTerms = sizeof(T) == 4 ? 6 : 10;
  const T z = x * x;
  // x cosh(x) - sinh(x) is the sum of x^(2k+1) 2k / (2k+1)!.
  double factor[kTerms + 1];
  double factorial = 1;
  for (int k = 1; k <= kTerms; ++k) {
    factorial *= 2 * k * (2 * k + 1);
    factor[k] = 2 * k / factorial;
  }
  T sum = static_cast<T>(factor[kTerms]);
  for (int k = kTerms - 1; k >= 1; --k) sum = fma(sum, z, static_cast<T>(factor[k]));
  return abs(x) < 1 ? x * z * sum / cosh(x) : x - tanh(x);
}

template <class T>
FUSEDGRAD_HOST_DEVICE T softsign(T x) {
  return abs(x) == kInfinity<T> ? copysign(T(1), x) : x / (1 + abs(x));
}

// 1 / (1 + |x|)^2, with what rounding the sum left
template <class T>
FUSEDGRAD_HOST_DEVICE T softsign_derivative(T x) {
  const T a = abs(x);
  const T sum = 1 + a;
  const T back = sum - a;
  const T lost = a < kInfinity<T> ? (1 - back) + (a - (sum - back)) : T(0);
  const T quotient = 1 / sum;
  const T square = quotient * quotient;
  return fma(-2 * square, lost * quotient, square);
}

}  // namespace fusedgrad::math

// The error function, the normal distribution and their density.
//
// exp(-x^2) takes the square as a pair, and the lower tail comes from the scaled complement
// exp(a^2) erfc(a), so that every digit is kept down to the last subnormal number.
//
// Largest errors in float, by the scan of tools/error_budget.py, whose bounds hold in double too:
// erf 3.10: at 0x1.048254p-1
// erf_derivative 2.54: at 0x1.d3ad9p+1 got 0x1.e29264p-20 want 0x1.e2925eeaa3ef2p-20
// normal_cdf 7.42: at -0x1.897ff6p+0 got 0x1.fcff1cp-5 want 0x1.fcff0d2b7d1p-5
// normal_pdf 2.61: at 0x1.ee4d9cp+0
#pragma once

#include "math/elementary.h"
#include "math/exponential.h"
#include "math/logarithm.h"
#include "math/normal_approximations.h"

namespace fusedgrad::math {

namespace detail {

// kLift * exp(-scale * x^2), scale a power of two
template <class T>
FUSEDGRAD_HOST_DEVICE T lifted_gaussian(T x, T scale) {
  const T square = x * x;
  constexpr T kZeroFrom = -4 * Ranges<T>::kLeastExponent;
  const T rest = square < kZeroFrom ? fma(x, x, -square) : T(0);
  const Pair<T> exp = lifted_exp(-scale * square).value();
  return fma(exp.hi, -scale * rest, exp.hi + exp.lo);
}

// exp(a^2) erfc(a), a >= 0
template <class T>
FUSEDGRAD_HOST_DEVICE T scaled_complement(T a) {
  const T s = 3 / (a + 3);
  return s * NormalApproximations<T>::scaled_complement(fma(T(-2), s, T(1)));
}

}  // namespace detail

template <class T>
FUSEDGRAD_HOST_DEVICE T erf(T x) {
  constexpr T kUnlift = 1 / Ranges<T>::kLift;
  const T a = abs(x);
  const T small = x * NormalApproximations<T>::erf_slope(x * x);
  const T complement = detail::lifted_gaussian(x, T(1)) * detail::scaled_complement(a) * kUnlift;
  return a <= T(0.5) ? small : copysign(1 - complement, x);
}

// 2/sqrt(pi) exp(-x^2)
template <class T>
FUSEDGRAD_HOST_DEVICE T erf_derivative(T x) {
  constexpr T kTwoOverSqrtPi = T(0x1.20dd750429b6dp+0);
  return kTwoOverSqrtPi * detail::lifted_gaussian(x, T(1)) * (1 / Ranges<T>::kLift);
}

// erfc(-x/sqrt(2)) / 2
template <class T>
FUSEDGRAD_HOST_DEVICE T normal_cdf(T x) {
  constexpr T kUnlift = 1 / Ranges<T>::kLift;
  constexpr T kSqrtHalf = T(0x1.6a09e667f3bcdp-1);
  const T a = abs(x) * kSqrtHalf;
  const T half_erf = T(0.5) * a * NormalApproximations<T>::erf_slope(a * a);
  const T tail =
      detail::lifted_gaussian(x, T(0.5)) * detail::scaled_complement(a) * (T(0.5) * kUnlift);
  const T lower = a <= T(0.5) ? T(0.5) - half_erf : tail;
  return x > 0 ? 1 - lower : lower;
}

// exp(-x^2/2) / sqrt(2 pi)
template <class T>
FUSEDGRAD_HOST_DEVICE T normal_pdf(T x) {
  constexpr T kOneOverSqrtTwoPi = T(0x1.9884533d43651p-2);
  return kOneOverSqrtTwoPi * detail::lifted_gaussian(x, T(0.5)) * (1 / Ranges<T>::kLift);
}

template <class T>
FUSEDGRAD_HOST_DEVICE T erfc(T x) {
  constexpr T kUnlift = 1 / Ranges<T>::kLift;
  const T a = abs(x);
  const T small = 1 - x * NormalApproximations<T>::erf_slope(x * x);
  const T tail = detail::lifted_gaussian(x, T(1)) * detail::scaled_complement(a) * kUnlift;
  return a <= T(0.5) ? small : x < 0 ? 2 - tail : tail;
}

namespace detail {

// exp(x^2), x^2 as a pair
template <class T>
FUSEDGRAD_HOST_DEVICE T exp_of_square(T x) {
  const T square = x * x;
  const T rest = square < kInfinity<T> ? fma(x, x, -square) : T(0);
  const T value = exp(square);
  return value < kInfinity<T> ? fma(value, rest, value) : value;
}

// exp(a^2) times integral number 1 and 2 of erfc, from a >= 0
FUSEDGRAD_HOST_DEVICE double scaled_complement_1(double a) {
  const double s = 3 / (a + 3);
  return s * s * NormalApproximations<double>::scaled_complement_1(fma(-2.0, s, 1.0));
}

FUSEDGRAD_HOST_DEVICE double scaled_complement_2(double a) {
  const double s = 3 / (a + 3);
  return s * s * s * NormalApproximations<double>::scaled_complement_2(fma(-2.0, s, 1.0));
}

constexpr double kSqrtHalf = 0x1.6a09e667f3bcdp-1;

}  // namespace detail

// exp(x^2) erfc(x), and exp(x^2) times the integrals of erfc, in double for both types: left of 0,
// what they are right of it from sums of terms of one sign
template <class T>
FUSEDGRAD_HOST_DEVICE T erfcx(T y) {
  const double x = static_cast<double>(y);
  const double tail = detail::scaled_complement(abs(x));
  return static_cast<T>(x < 0 ? 2 * detail::exp_of_square(x) - tail : tail);
}

template <class T>
FUSEDGRAD_HOST_DEVICE T erfcx_1(T y) {
  const double x = static_cast<double>(y);
  const double tail = detail::scaled_complement_1(abs(x));
  return static_cast<T>(x < 0 ? tail - 2 * x * detail::exp_of_square(x) : tail);
}

template <class T>
FUSEDGRAD_HOST_DEVICE T erfcx_2(T y) {
  const double x = static_cast<double>(y);
  const double tail = detail::scaled_complement_2(abs(x));
  return static_cast<T>(x < 0 ? fma(x, x, 0.5) * detail::exp_of_square(x) - tail : tail);
}

// log Φ(x): left of 0 the logarithm of erfcx(-x/sqrt(2)) / 2, minus x^2/2
template <class T>
FUSEDGRAD_HOST_DEVICE T log_ndtr(T y) {
  const double x = static_cast<double>(y);
  const double scaled = detail::scaled_complement(abs(x) * detail::kSqrtHalf);
  const double value = x < 0 ? log(0.5 * scaled) - 0.5 * x * x : log1p(-normal_cdf(-x));
  return static_cast<T>(value);
}

// φ(x) / Φ(x): left of 0, sqrt(2/pi) / erfcx(-x/sqrt(2))
template <class T>
FUSEDGRAD_HOST_DEVICE T inverse_mills(T y) {
  constexpr double kSqrtTwoOverPi = 0x1.9884533d43651p-1;
  const double x = static_cast<double>(y);
  const double below = kSqrtTwoOverPi / detail::scaled_complement(abs(x) * detail::kSqrtHalf);
  return static_cast<T>(x < 0 ? below : normal_pdf(x) / normal_cdf(x));
}

// x + φ(x) / Φ(x): left of 0, sqrt(2) times the ratio of the integrals of erfc
template <class T>
FUSEDGRAD_HOST_DEVICE T mills_excess(T y) {
  constexpr double kSqrtTwo = 0x1.6a09e667f3bcdp+0;
  const double x = static_cast<double>(y);
  const double a = abs(x) * detail::kSqrtHalf;
  const double ratio = detail::scaled_complement_1(a) / detail::scaled_complement(a);
  const double below = a == kInfinity<double> ? 0 : kSqrtTwo * ratio;
  return static_cast<T>(x < 0 ? below : x + inverse_mills(x));
}

}  // namespace fusedgrad::math

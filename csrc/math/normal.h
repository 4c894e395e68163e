// The error function, the normal distribution and their density.
//
// exp(-x^2) takes the square as a pair, and the lower tail comes from the scaled complement
// exp(a^2) erfc(a), so that every digit is kept down to the last subnormal number.
//
// Largest errors in float, by the scan of tools/error_budget.py, whose bounds hold in double too:
// erf 2.71: at 0x1.0439fcp-1
// erf_derivative 2.54: at 0x1.d3ad9p+1 got 0x1.e29264p-20 want 0x1.e2925eeaa3ef2p-20
// normal_cdf 4.99: at -0x1.e5061cp+0
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

// |x|, or a number where all is said about the tail
template <class T>
FUSEDGRAD_HOST_DEVICE T finite_magnitude(T x) {
  constexpr T kMost = sizeof(T) == 4 ? T(0x1p7f) : T(0x1p10);
  return abs(x) > kMost ? kMost : abs(x);
}

// s = 3 / (a + 3), a >= 0 finite, and 3 - s (a + 3), which is left of the quotient
struct ScaledArgument {
  double s;
  double rest;
};

FUSEDGRAD_HOST_DEVICE ScaledArgument scaled_argument(double a) {
  const double d = a + 3;
  const double s = 3 / d;
  return {s, fma(-s, a - (d - 3), fma(-s, d, 3.0))};
}

// exp(a^2) erfc(a), a >= 0 finite. In double what rounding s loses would count up to three times:
// the condition by s is 1 + 0.9 s + 1.5 s^2, as nearly as a correction needs, here over 3.
FUSEDGRAD_HOST_DEVICE float scaled_complement(float a) {
  const float s = 1.5f / (a + 1.5f);
  return s * NormalApproximations<float>::scaled_complement(fma(-2.0f, s, 1.0f));
}

FUSEDGRAD_HOST_DEVICE double scaled_complement(double a) {
  const ScaledArgument argument = scaled_argument(a);
  const double s = argument.s;
  const double value = s * NormalApproximations<double>::scaled_complement(fma(-2.0, s, 1.0));
  const double condition = fma(s, fma(s, 1.48 / 3, 0.3), 1.0 / 3);
  return fma(value * argument.rest, condition, value);
}

}  // namespace detail

template <class T>
FUSEDGRAD_HOST_DEVICE T erf(T x) {
  constexpr T kUnlift = 1 / Ranges<T>::kLift;
  const T a = detail::finite_magnitude(x);
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
  const T a = detail::finite_magnitude(x) * kSqrtHalf;
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
  const T a = detail::finite_magnitude(x);
  const T small = 1 - x * NormalApproximations<T>::erf_slope(x * x);
  const T tail = detail::lifted_gaussian(x, T(1)) * detail::scaled_complement(a) * kUnlift;
  return a <= T(0.5) ? small : x < 0 ? 2 - tail : tail;
}

namespace detail {

// exp(x^2), x^2 as a pair
FUSEDGRAD_HOST_DEVICE Pair<double> exp_of_square(double x) {
  const double limited = abs(x) < 27 ? x : x != x ? x : 27.0;
  const double square = limited * limited;
  const Pair<double> exp = scaled_exp_of_minus(-square, -64).value();
  const Pair<double> value = {exp.hi, fma(exp.hi, fma(limited, limited, -square), exp.lo)};
  return {value.hi * 0x1p64, value.lo * 0x1p64};
}

// |x|, finite
FUSEDGRAD_HOST_DEVICE double limited(double x) {
  constexpr double kMost = 0x1.fffffffffffffp+1023;
  const double a = abs(x);
  return a > kMost ? kMost : a;
}

// exp(a^2) times integral number 1 and 2 of erfc, from a >= 0
FUSEDGRAD_HOST_DEVICE double scaled_complement_1(double a) {
  const ScaledArgument argument = scaled_argument(a);
  const double s = argument.s;
  const double value = s * s * NormalApproximations<double>::scaled_complement_1(fma(-2.0, s, 1.0));
  return fma(value * fma(s, fma(s, 0.61 / 3, 0.9), 2.0 / 3), argument.rest, value);
}

FUSEDGRAD_HOST_DEVICE double scaled_complement_2(double a) {
  const ScaledArgument argument = scaled_argument(a);
  const double s = argument.s;
  const double value =
      s * s * s * NormalApproximations<double>::scaled_complement_2(fma(-2.0, s, 1.0));
  return fma(value * fma(s, fma(s, -0.8 / 3, 4.57 / 3), 1.0), argument.rest, value);
}

constexpr double kSqrtHalf = 0x1.6a09e667f3bcdp-1;

}  // namespace detail

// exp(x^2) erfc(x), and exp(x^2) times the integrals of erfc, in double for both types: left of 0,
// what they are right of it from sums of terms of one sign
template <class T>
FUSEDGRAD_HOST_DEVICE T erfcx(T y) {
  const double x = static_cast<double>(y);
  const double tail = detail::scaled_complement(detail::limited(x));
  const Pair<double> exp = detail::exp_of_square(x);
  const double value = x < 0 ? (2 * exp.hi - tail) + 2 * exp.lo : tail;
  return x == kInfinity<double> ? T(0) : static_cast<T>(value);
}

template <class T>
FUSEDGRAD_HOST_DEVICE T erfcx_1(T y) {
  const double x = static_cast<double>(y);
  const double tail = detail::scaled_complement_1(detail::limited(x));
  const Pair<double> exp = detail::exp_of_square(x);
  const double limited = x < -0x1p100 ? -0x1p100 : x;
  const double other = -2 * limited * exp.hi;
  const double lost = fma(-2 * limited, exp.hi, -other) - 2 * limited * exp.lo;
  const double below = other < kInfinity<double> ? (other + tail) + lost : other;
  return static_cast<T>(x < 0 ? below : tail);
}

template <class T>
FUSEDGRAD_HOST_DEVICE T erfcx_2(T y) {
  const double x = static_cast<double>(y);
  const double tail = detail::scaled_complement_2(detail::limited(x));
  const Pair<double> exp = detail::exp_of_square(x);
  const double limited = x < -0x1p100 ? -0x1p100 : x;
  const double factor = fma(limited, limited, 0.5);
  const double other = factor * exp.hi;
  const double rest = fma(limited, limited, 0.5 - factor);
  const double lost = fma(factor, exp.hi, -other) + fma(factor, exp.lo, rest * exp.hi);
  const double below = other < kInfinity<double> ? (other - tail) + lost : other;
  return static_cast<T>(x < 0 ? below : tail);
}

// log Φ(x): left of 0 the logarithm of erfcx(-x/sqrt(2)) / 2, minus x^2/2
template <class T>
FUSEDGRAD_HOST_DEVICE T log_ndtr(T y) {
  const double x = static_cast<double>(y);
  const double scaled = detail::scaled_complement(detail::limited(x) * detail::kSqrtHalf);
  const double value = x < 0 ? fma(-0.5 * x, x, log(0.5 * scaled)) : log1p(-normal_cdf(-x));
  return static_cast<T>(value);
}

// φ(x) / Φ(x): left of 0, sqrt(2/pi) / erfcx(-x/sqrt(2))
template <class T>
FUSEDGRAD_HOST_DEVICE T inverse_mills(T y) {
  constexpr double kSqrtTwoOverPi = 0x1.9884533d43651p-1;
  const double x = static_cast<double>(y);
  const double a = detail::limited(x) * detail::kSqrtHalf;
  const double below = kSqrtTwoOverPi / detail::scaled_complement(a);
  const double value = x < 0 ? below : normal_pdf(x) / normal_cdf(x);
  return static_cast<T>(x == -kInfinity<double> ? -x : value);
}

// x + φ(x) / Φ(x): left of 0, sqrt(2) times the ratio of the integrals of erfc
template <class T>
FUSEDGRAD_HOST_DEVICE T mills_excess(T y) {
  constexpr double kSqrtTwo = 0x1.6a09e667f3bcdp+0;
  const double x = static_cast<double>(y);
  const double a = detail::limited(x) * detail::kSqrtHalf;
  const double ratio = detail::scaled_complement_1(a) / detail::scaled_complement(a);
  const double below = x == -kInfinity<double> ? 0 : kSqrtTwo * ratio;
  return static_cast<T>(x < 0 ? below : x + inverse_mills(x));
}

// The derivative of φ(x) / Φ(x), minus the product of the two above. Left of 0, of the integrals of
// erfc I0, I1 and I2: 2/sqrt(pi) I1 / I0^2, in which their scale cancels, and in the tail
// 1 - (4 I2 / I0 - 2 (I1 / I0)^2).
template <class T>
FUSEDGRAD_HOST_DEVICE T inverse_mills_derivative(T y) {
  constexpr double kTwoOverSqrtPi = 0x1.20dd750429b6dp+0;
  const double x = static_cast<double>(y);
  const double s = detail::scaled_argument(detail::limited(x) * detail::kSqrtHalf).s;
  const double t = fma(-2.0, s, 1.0);
  const double zeroth = NormalApproximations<double>::scaled_complement(t);
  const double first = NormalApproximations<double>::scaled_complement_1(t) / zeroth;
  const double second = NormalApproximations<double>::scaled_complement_2(t) / zeroth;
  const double near = kTwoOverSqrtPi * first / zeroth;
  const double tail = fma(-(s * s), 4 * second - 2 * (first * first), 1.0);
  const double mills = inverse_mills(x);
  const double above = x == kInfinity<double> ? 0 : mills * (x + mills);
  return static_cast<T>(x < -2 ? -tail : x < 0 ? -near : -above);
}

}  // namespace fusedgrad::math

// The inverses of erf and of the normal distribution, in double for both types: from a rough start,
// Newton's steps on the logarithm of the tail, whose derivative is smooth, or on erf itself.
#pragma once

#include "math/normal.h"

namespace fusedgrad::math {

namespace detail {

// -x for log Φ(x) = log_p, log_p <= log(1/2)
FUSEDGRAD_HOST_DEVICE double normal_tail_quantile(double log_p) {
  // Φ(-x) is about exp(-x^2/2) / 2 next to 0, and that over x in the tail.
  const double squared = -2 * log_p;
  const double start = sqrt(squared - math::log(squared + 2)) - 0.5;
  double x = start > 0 ? start : 0.0;
  for (int i = 0; i < 6; ++i) {
    const double slope = inverse_mills(-x);
    const double step = (log_ndtr(-x) - log_p) / slope;
    // Halley's: the second derivative of the logarithm is -slope (slope - x).
    x += step / (1 + 0.5 * step * mills_excess(-x));
  }
  return x;
}

}  // namespace detail

template <class T>
FUSEDGRAD_HOST_DEVICE T erfinv(T y) {
  const double a = abs(static_cast<double>(y));
  // erf(x) = a, for a <= 1/2
  double near = a * 0x1.c5bf891b4ef6bp-1;
  for (int i = 0; i < 4; ++i) {
    const double error = near * NormalApproximations<double>::erf_slope(near * near) - a;
    const double step = error / erf_derivative(near);
    near -= step / (1 + step * near);
  }
  const double far = 0x1.6a09e667f3bcdp-1 * detail::normal_tail_quantile(math::log(0.5 * (1 - a)));
  const double value = a < 0.5 ? near : a < 1 ? far : kInfinity<double>;
  return a <= 1 ? static_cast<T>(copysign(value, static_cast<double>(y)))
                : static_cast<T>(__builtin_nan(""));
}

template <class T>
FUSEDGRAD_HOST_DEVICE T ndtri(T p) {
  const double wide = static_cast<double>(p);
  const double less = wide > 0.5 ? 1 - wide : wide;
  const double tail = -detail::normal_tail_quantile(math::log(less));
  const double near = 0x1.6a09e667f3bcdp+0 * erfinv(2 * wide - 1);  // 2 p - 1 is exact
  const double value = less > 0.3 ? near : wide > 0.5 ? -tail : tail;
  const double edge = wide == 0 ? -kInfinity<double> : kInfinity<double>;
  return (wide >= 0) & (wide <= 1) ? static_cast<T>(less == 0 ? edge : value)
                                   : static_cast<T>(__builtin_nan(""));
}

// sqrt(pi)/2 exp(x^2), x = erfinv(|y|), above 1/2 as sqrt(pi)/2 erfcx(x) / (1 - |y|): what rounding
// x loses is not magnified
template <class T>
FUSEDGRAD_HOST_DEVICE T erfinv_derivative(T y) {
  const double a = abs(static_cast<double>(y));
  const double x = erfinv(a);
  const Pair<double> exp = detail::exp_of_square(x);
  const double most = x > 30 ? 30 : x;  // infinite is the quotient at 1, and no 0 / 0
  const double scaled = a < 0.5 ? exp.hi + exp.lo : erfcx(most) / (1 - a);
  return static_cast<T>(0x1.c5bf891b4ef6bp-1 * scaled);
}

// 2 x erfinv'(y)^2, whose exponential is squared before it is rounded
template <class T>
FUSEDGRAD_HOST_DEVICE T erfinv_second_derivative(T y) {
  constexpr double kHalfPi = 0x1.921fb54442d18p+0;
  const double wide = static_cast<double>(y);
  const double x = erfinv(wide);
  const Pair<double> exp = detail::exp_of_square(x);
  const double square = fma(exp.hi, exp.hi, 2 * exp.hi * exp.lo);
  const double slope = erfinv_derivative(wide);
  return static_cast<T>(abs(wide) < 0.5 ? kHalfPi * (x * square) : 2 * (x * slope) * slope);
}

// 1 / (q mills), the inverse Mills ratio at x = ndtri(q), q = min(p, 1 - p), which is
// sqrt(pi/2) erfcx(-x/sqrt(2)) / q
template <class T>
FUSEDGRAD_HOST_DEVICE T ndtri_derivative(T p) {
  constexpr double kSqrtHalfPi = 0x1.40d931ff62706p+0;
  const double wide = static_cast<double>(p);
  const double q = wide > 0.5 ? 1 - wide : wide;
  const double x = -detail::kSqrtHalf * ndtri(q);
  const double scaled = erfcx(x > 30 ? 30 : x);  // infinite is the quotient at 0, and no 0 / 0
  return static_cast<T>(kSqrtHalfPi * scaled / q);
}

}  // namespace fusedgrad::math

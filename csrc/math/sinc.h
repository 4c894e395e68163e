// sinc(x) = sin(pi x) / (pi x) and its derivative (cos(pi x) - sinc(x)) / x, by its series next to
// 0. pi x is reduced before it is multiplied: x minus its nearest half is exact.
#pragma once

#include "math/piecewise.h"
#include "math/trigonometric.h"

namespace fusedgrad::math {

namespace detail {

// sin(pi x) or, with `quarter`, cos(pi x): of r = x - n/2, |r| <= 1/4
template <class T>
FUSEDGRAD_HOST_DEVICE T sin_of_pi(T x, int quarter) {
  constexpr double kPi = 0x1.921fb54442d18p+1;
  constexpr double kPiLo = 0x1.1a62633145c07p-53;
  // A whole number of turns more changes nothing.
  const double wide = static_cast<double>(x);
  const double turns = 2 * round(wide * 0.5);
  const double y = wide - turns;  // |y| <= 1
  const double n = round(2 * y);
  const double r = y - 0.5 * n;
  const double angle = fma(kPi, r, kPiLo * r);
  const int octant = (static_cast<int>(n) + quarter) & 3;
  const double value = (octant & 1) != 0 ? math::cos(angle) : math::sin(angle);
  return static_cast<T>((octant & 2) != 0 ? -value : value);
}

}  // namespace detail

template <class T>
FUSEDGRAD_HOST_DEVICE T sinc(T x) {
  constexpr T kPi = T(0x1.921fb54442d18p+1);
  const T value = detail::sin_of_pi(x, 0) / (kPi * x);
  return x == 0 ? T(1) : abs(x) == kInfinity<T> ? T(0) : value;
}

namespace detail {

// The sum of (-z)^k f (2k + 2) / (2k + 3)!, f = 1 or, for the second derivative, 2k + 1
FUSEDGRAD_HOST_DEVICE double sinc_series(double z, bool second) {
  double sum = 0;
  for (int k = 9; k >= 0; --k) {
    double factor = (2 * k + 2) * (second ? 2 * k + 1 : 1);
    for (int i = 2; i <= 2 * k + 3; ++i) factor /= i;
    sum = fma(-z, sum, factor);
  }
  return sum;
}

}  // namespace detail

template <class T>
FUSEDGRAD_HOST_DEVICE T sinc_derivative(T x) {
  constexpr double kPi = 0x1.921fb54442d18p+1;
  const double wide = static_cast<double>(x);
  const double near = -kPi * kPi * wide * detail::sinc_series(kPi * kPi * wide * wide, false);
  const double far = (detail::sin_of_pi(wide, 1) - sinc(wide)) / wide;
  const double value = abs(wide) < 0.45 ? near : far;
  return abs(x) == kInfinity<T> ? T(0) : static_cast<T>(value);
}

template <class T>
FUSEDGRAD_HOST_DEVICE T sinc_second_derivative(T x) {
  constexpr double kPi = 0x1.921fb54442d18p+1;
  const double wide = static_cast<double>(x);
  const double near = -kPi * kPi * detail::sinc_series(kPi * kPi * wide * wide, true);
  const double far = -kPi * kPi * sinc(wide) - 2 * sinc_derivative(wide) / wide;
  const double value = abs(wide) < 0.45 ? near : far;
  return abs(x) == kInfinity<T> ? T(0) : static_cast<T>(value);
}

}  // namespace fusedgrad::math

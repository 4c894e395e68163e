// atan, and asin, acos and atan2 by it. An argument is reduced to |r| <= tan(pi/8) by
// atan(x) = pi/4 + atan((x - 1) / (x + 1)) or pi/2 - atan(1/x), as a quotient whose two operands
// are at hand: that of atan2 needs no other.
#pragma once

#include "math/elementary.h"
#include "math/inverse_trigonometric_approximations.h"

namespace fusedgrad::math {

namespace detail {

// atan(y / x) for y, x >= 0, not both 0 nor both infinite
template <class T>
FUSEDGRAD_HOST_DEVICE T atan_of_quotient(T y, T x) {
  constexpr T kQuarter = T(0x1.921fb54442d18p-1);  // pi/4
  constexpr T kQuarterLo = static_cast<T>(0x1.921fb54442d18p-1 - static_cast<double>(kQuarter)) +
                           T(0x1.1a62633145c07p-55);
  constexpr T kTangent = T(0x1.a827999fcef32p-2);  // tan(pi/8)
  // y x 2^n must neither overflow nor lose digits; an infinity is too large to matter.
  constexpr T kHuge = sizeof(T) == 4 ? T(0x1p120f) : T(0x1p1000);
  constexpr T kDown = sizeof(T) == 4 ? T(0x1p-8f) : T(0x1p-8);
  const bool huge = (y > kHuge) | (x > kHuge);
  y = huge ? y * kDown : y;
  x = huge ? x * kDown : x;
  const bool high = x < kTangent * y;  // pi/2 - atan(x / y)
  const bool low = y <= kTangent * x;  // atan(y / x)
  const T numerator = high ? -x : low ? y : y - x;
  const T denominator = high ? y : low ? x : x + y;
  // What y - x and x + y lost
  const T lost_above =
      (high | low) ? T(0) : ((y - (numerator + x)) - (x - ((numerator + x) - numerator)));
  const T part = denominator - x;
  const T lost_below = (high | low) ? T(0) : (x - (denominator - part)) + (y - part);
  const T r = numerator / denominator;
  const T remainder = fma(-r, denominator, numerator) + (lost_above - r * lost_below);
  const T correction = abs(r) > Format<T>::kMinNormal ? remainder / denominator : T(0);
  const T z = r * r;
  const T tail = fma(r * z, InverseTrigonometricApproximations<T>::atan(z), correction);
  const T base = high ? 2 * kQuarter : low ? T(0) : kQuarter;
  const T base_lo = high ? 2 * kQuarterLo : low ? T(0) : kQuarterLo;
  const T sum = base + r;
  const T rest = low ? T(0) : r - (sum - base);
  return low ? r + tail : sum + (rest + (tail + base_lo));
}

}  // namespace detail

template <class T>
FUSEDGRAD_HOST_DEVICE T atan(T x) {
  const T a = abs(x);
  const T value =
      detail::atan_of_quotient(a == kInfinity<T> ? T(1) : a, a == kInfinity<T> ? T(0) : T(1));
  return copysign(x != x ? x : value, x);
}

// 1 / (1 + x^2), of 1/x where that is the less
template <class T>
FUSEDGRAD_HOST_DEVICE T atan_derivative(T x) {
  const T a = abs(x);
  const T r = a > 1 ? 1 / a : a;
  const T square = r * r;
  return (a > 1 ? square : T(1)) / (1 + square);
}

template <class T>
FUSEDGRAD_HOST_DEVICE T asin(T x) {
  const T a = abs(x);
  const T value = detail::atan_of_quotient(a, sqrt((1 - a) * (1 + a)));
  return a > 1 ? static_cast<T>(__builtin_nan("")) : copysign(value, x);
}

// 2 atan(sqrt((1 - x) / (1 + x)))
template <class T>
FUSEDGRAD_HOST_DEVICE T acos(T x) {
  const T value = 2 * detail::atan_of_quotient(sqrt(1 - x), sqrt(1 + x));
  return abs(x) > 1 ? static_cast<T>(__builtin_nan("")) : x == 1 ? T(0) : value;
}

// With the values of IEEE 754 at zeros and infinities
template <class T>
FUSEDGRAD_HOST_DEVICE T atan2(T y, T x) {
  constexpr T kPi = T(0x1.921fb54442d18p+1);
  constexpr T kPiLo =
      static_cast<T>(0x1.921fb54442d18p+1 - static_cast<double>(kPi)) + T(0x1.1a62633145c07p-53);
  T a = abs(y), b = abs(x);
  const bool both = (a == kInfinity<T>)&(b == kInfinity<T>);
  const bool zeros = (a == 0) & (b == 0);
  b = both | zeros ? T(1) : b == kInfinity<T> ? T(1) : a == kInfinity<T> ? T(0) : b;
  a = both ? T(1) : zeros ? T(0) : abs(x) == kInfinity<T> ? T(0) : a == kInfinity<T> ? T(1) : a;
  const T acute = detail::atan_of_quotient(a, b);
  const T obtuse = kPi - acute;
  const T value = copysign(T(1), x) < 0 ? obtuse + (((kPi - obtuse) - acute) + kPiLo) : acute;
  return (x != x) | (y != y) ? x + y : copysign(value, y);
}

}  // namespace fusedgrad::math

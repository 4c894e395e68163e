// Distances: sqrt(x^2 + b) and its derivative by x, an expression of its own because from
// x / sqrt(x^2 + b) the next derivative, b / sqrt(x^2 + b)^3, would come as a difference; and the
// same of two numbers, scaled so that no square overflows or vanishes.
#pragma once

#include "math/platform.h"

namespace fusedgrad::math {

template <class T>
FUSEDGRAD_HOST_DEVICE T hypotenuse(T x, T b) {
  return sqrt(x * x + b);
}

template <class T>
FUSEDGRAD_HOST_DEVICE T hypotenuse_slope(T x, T b) {
  return x / hypotenuse(x, b);
}

namespace detail {

// A power of two next to 1/max(|x|, |y|), by which both are multiplied exactly but for what is too
// small to matter
template <class T>
FUSEDGRAD_HOST_DEVICE T distance_scale(T x, T y) {
  const T a = abs(x), b = abs(y);
  const T most = a > b ? a : b;
  constexpr T kHuge = sizeof(T) == 4 ? T(0x1p60f) : T(0x1p500);
  return most > kHuge ? 1 / (kHuge * 16) : most < 1 / kHuge ? kHuge * 16 : T(1);
}

}  // namespace detail

// sqrt(x^2 + y^2); infinite where either is, as in IEEE 754
template <class T>
FUSEDGRAD_HOST_DEVICE T hypot(T x, T y) {
  const T scale = detail::distance_scale(x, y);
  const T a = x * scale, b = y * scale;
  const T square = a * a;
  const T lost = fma(a, a, -square);
  const T sum = fma(b, b, square);
  const bool infinite = (abs(x) == kInfinity<T>) | (abs(y) == kInfinity<T>);
  return infinite ? kInfinity<T> : sqrt(sum + lost) / scale;
}

// x / sqrt(x^2 + y^2)
template <class T>
FUSEDGRAD_HOST_DEVICE T hypot_slope(T x, T y) {
  const T scale = detail::distance_scale(x, y);
  const T a = x * scale, b = y * scale;
  const T slope = a / sqrt(fma(b, b, a * a));
  const bool infinite = abs(x) == kInfinity<T>;
  const T limit = abs(y) == kInfinity<T> ? static_cast<T>(__builtin_nan("")) : copysign(T(1), x);
  return infinite ? limit : slope;
}

// sqrt(1 - x^2)
template <class T>
FUSEDGRAD_HOST_DEVICE T cathetus(T x) {
  return sqrt((1 - x) * (1 + x));
}

// sqrt(x^2 - 1), x >= 1
template <class T>
FUSEDGRAD_HOST_DEVICE T outer_cathetus(T x) {
  return sqrt(x - 1) * sqrt(x + 1);
}

template <class T>
FUSEDGRAD_HOST_DEVICE T one_minus_square(T x) {
  return (1 - x) * (1 + x);
}

}  // namespace fusedgrad::math

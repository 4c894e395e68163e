// Distances: sqrt(x^2 + b) and its derivative by x, an expression of its own because from
// x / sqrt(x^2 + b) the next derivative, b / sqrt(x^2 + b)^3, would come as a difference; and the
// same of two numbers, scaled so that no square overflows or vanishes.
#pragma once

#include "math/elementary.h"

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

// A power of two with which neither squares nor what their roundings leave overflow or vanish; what
// is too small beside the other does not matter.
template <class T>
FUSEDGRAD_HOST_DEVICE T distance_scale(T x, T y) {
  constexpr bool kIsFloat = sizeof(T) == 4;
  constexpr T kLarge = kIsFloat ? T(0x1p55f) : T(0x1p500);
  constexpr T kDown = kIsFloat ? T(0x1p-70f) : T(0x1p-600);
  constexpr T kUp = kIsFloat ? T(0x1p100f) : T(0x1p600);
  const T a = abs(x), b = abs(y);
  const T most = a > b ? a : b;
  return most > kLarge ? kDown : most < 1 / kLarge ? kUp : T(1);
}

// sqrt(a^2 + b^2)
template <class T>
FUSEDGRAD_HOST_DEVICE Pair<T> distance(T a, T b) {
  const T x = a * a, y = b * b;
  const T sum = x + y;
  const T back = sum - x;
  const T lost = (x - (sum - back)) + (y - back);
  const T rest = lost + (fma(a, a, -x) + fma(b, b, -y));
  const T root = sqrt(sum);
  return {root, root == 0 ? T(0) : (fma(-root, root, sum) + rest) * (T(0.5) / root)};
}

}  // namespace detail

// sqrt(x^2 + y^2); infinite where either is, as in IEEE 754
template <class T>
FUSEDGRAD_HOST_DEVICE T hypot(T x, T y) {
  const T scale = detail::distance_scale(x, y);
  const Pair<T> root = detail::distance(x * scale, y * scale);
  const bool infinite = (abs(x) == kInfinity<T>) | (abs(y) == kInfinity<T>);
  return infinite ? kInfinity<T> : (root.hi + root.lo) / scale;
}

// x / sqrt(x^2 + y^2)
template <class T>
FUSEDGRAD_HOST_DEVICE T hypot_slope(T x, T y) {
  const T scale = detail::distance_scale(x, y);
  const T a = x * scale, b = y * scale;
  const Pair<T> root = detail::distance(a, b);
  const T quotient = a / root.hi;
  const T slope = quotient + (fma(-quotient, root.hi, a) - quotient * root.lo) / root.hi;
  const bool infinite = abs(x) == kInfinity<T>;
  const T limit = abs(y) == kInfinity<T> ? static_cast<T>(__builtin_nan("")) : copysign(T(1), x);
  return infinite ? limit : abs(y) == kInfinity<T> ? copysign(T(0), x) : slope;
}

// x / (x^2 + y^2), which is 0 at 0 as in PyTorch
template <class T>
FUSEDGRAD_HOST_DEVICE T atan2_slope(T x, T y) {
  const T scale = detail::distance_scale(x, y);
  const T a = x * scale, b = y * scale;
  const T quotient = a / fma(b, b, a * a) * scale;
  const T slope = abs(x) + abs(y) == 0 ? x : quotient;
  const bool infinite = abs(x) == kInfinity<T>;
  const T limit = abs(y) == kInfinity<T> ? static_cast<T>(__builtin_nan("")) : copysign(T(0), x);
  return infinite ? limit : slope;
}

// sqrt(1 - x^2)
template <class T>
FUSEDGRAD_HOST_DEVICE T cathetus(T x) {
  return sqrt(fma(-x, x, T(1)));
}

template <class T>
FUSEDGRAD_HOST_DEVICE T cathetus_reciprocal(T x) {
  return 1 / cathetus(x);
}

// sqrt(x^2 - 1), x >= 1
template <class T>
FUSEDGRAD_HOST_DEVICE T outer_cathetus(T x) {
  return sqrt(x - 1) * sqrt(x + 1);
}

template <class T>
FUSEDGRAD_HOST_DEVICE T one_minus_square(T x) {
  return fma(-x, x, T(1));
}

}  // namespace fusedgrad::math

// Functions made of pieces, with PyTorch's values at NaN: NaN, except for sign, which is 0 there.
#pragma once

#include "math/platform.h"

namespace fusedgrad::math {

template <class T>
FUSEDGRAD_HOST_DEVICE T relu(T x) {
  return x < 0 ? T(0) : x;
}

template <class T>
FUSEDGRAD_HOST_DEVICE T sign(T x) {
  return static_cast<T>(x > 0) - static_cast<T>(x < 0);
}

template <class T>
FUSEDGRAD_HOST_DEVICE T minimum(T x, T y) {
  return x != x ? x : x < y ? x : y;
}

template <class T>
FUSEDGRAD_HOST_DEVICE T maximum(T x, T y) {
  return x != x ? x : x > y ? x : y;
}

template <class T>
FUSEDGRAD_HOST_DEVICE T bounded(T x) {
  x = x < -10000 ? T(-10000) : x;
  return x > 10000 ? T(10000) : x;
}

template <class T>
FUSEDGRAD_HOST_DEVICE bool signbit(T x) {
  return (to_bits(x) >> (8 * sizeof(T) - 1)) != 0;
}

#if defined(__CUDACC__)
FUSEDGRAD_HOST_DEVICE float floor(float x) { return ::floorf(x); }
FUSEDGRAD_HOST_DEVICE double floor(double x) { return ::floor(x); }
FUSEDGRAD_HOST_DEVICE float ceil(float x) { return ::ceilf(x); }
FUSEDGRAD_HOST_DEVICE double ceil(double x) { return ::ceil(x); }
FUSEDGRAD_HOST_DEVICE float trunc(float x) { return ::truncf(x); }
FUSEDGRAD_HOST_DEVICE double trunc(double x) { return ::trunc(x); }
// The nearest whole number, the even one of two
FUSEDGRAD_HOST_DEVICE float round(float x) { return ::rintf(x); }
FUSEDGRAD_HOST_DEVICE double round(double x) { return ::rint(x); }
// x - y trunc(x / y), exact
FUSEDGRAD_HOST_DEVICE float fmod(float x, float y) { return ::fmodf(x, y); }
FUSEDGRAD_HOST_DEVICE double fmod(double x, double y) { return ::fmod(x, y); }
#else
FUSEDGRAD_HOST_DEVICE float floor(float x) { return __builtin_floorf(x); }
FUSEDGRAD_HOST_DEVICE double floor(double x) { return __builtin_floor(x); }
FUSEDGRAD_HOST_DEVICE float ceil(float x) { return __builtin_ceilf(x); }
FUSEDGRAD_HOST_DEVICE double ceil(double x) { return __builtin_ceil(x); }
FUSEDGRAD_HOST_DEVICE float trunc(float x) { return __builtin_truncf(x); }
FUSEDGRAD_HOST_DEVICE double trunc(double x) { return __builtin_trunc(x); }
FUSEDGRAD_HOST_DEVICE float round(float x) { return __builtin_rintf(x); }
FUSEDGRAD_HOST_DEVICE double round(double x) { return __builtin_rint(x); }
FUSEDGRAD_HOST_DEVICE float fmod(float x, float y) { return __builtin_fmodf(x, y); }
FUSEDGRAD_HOST_DEVICE double fmod(double x, double y) { return __builtin_fmod(x, y); }
#endif

// As Python's: with the sign of y
template <class T>
FUSEDGRAD_HOST_DEVICE T remainder(T x, T y) {
  const T rest = fmod(x, y);
  return (rest != 0) & ((y < 0) != (rest < 0)) ? rest + y : rest;
}

template <class T>
FUSEDGRAD_HOST_DEVICE T truncated_quotient(T x, T y) {
  return trunc(x / y);
}

// As Python's and PyTorch's: by the exact remainder, since x / y may round up to a whole number
template <class T>
FUSEDGRAD_HOST_DEVICE T floored_quotient(T x, T y) {
  const T rest = fmod(x, y);
  T quotient = (x - rest) / y;
  quotient = (rest != 0) & ((y < 0) != (rest < 0)) ? quotient - 1 : quotient;
  const T whole = floor(quotient);
  const T value = quotient - whole > T(0.5) ? whole + 1 : whole;
  return y == 0 ? x / y : quotient == 0 ? copysign(T(0), x / y) : value;
}

// weight * x, where a weight of 0 outweighs an infinite x
template <class T>
FUSEDGRAD_HOST_DEVICE T weighted(T weight, T x) {
  return weight == 0 ? T(0) : weight * x;
}

}  // namespace fusedgrad::math

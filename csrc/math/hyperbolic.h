// The hyperbolic functions and their inverses, by exp, expm1, log and log1p in forms in which
// nothing cancels and nothing overflows before the result does.
#pragma once

#include "math/exponential.h"
#include "math/logarithm.h"

namespace fusedgrad::math {

namespace detail {

// Beyond, exp(-x) is too little beside exp(x) to matter, and exp(x) / 2 is exp(x / 2)^2 / 2.
template <class T>
constexpr T kHyperbolicTail = sizeof(T) == 4 ? T(20) : T(40);

// From here x^2 + 1 is x^2.
template <class T>
constexpr T kInverseTail = sizeof(T) == 4 ? T(0x1p14f) : T(0x1p30);

}  // namespace detail

// (e + e / (e + 1)) / 2, e = expm1(|x|)
template <class T>
FUSEDGRAD_HOST_DEVICE T sinh(T x) {
  constexpr T kTail = detail::kHyperbolicTail<T>;
  const T a = abs(x);
  const T e = expm1(a > kTail ? kTail : a);
  const T root = exp(T(0.5) * a);
  const T value = a > kTail ? T(0.5) * root * root : T(0.5) * (e + e / (e + 1));
  return x != x ? x : copysign(value, x);
}

template <class T>
FUSEDGRAD_HOST_DEVICE T cosh(T x) {
  constexpr T kTail = detail::kHyperbolicTail<T>;
  const T a = abs(x);
  const T e = exp(a > kTail ? kTail : a);
  const T root = exp(T(0.5) * a);
  return a > kTail ? T(0.5) * root * root : T(0.5) * e + T(0.5) / e;
}

// log(a + sqrt(a^2 + 1)) = log1p(a + a^2 / (1 + sqrt(1 + a^2)))
template <class T>
FUSEDGRAD_HOST_DEVICE T asinh(T x) {
  constexpr T kTail = detail::kInverseTail<T>;
  constexpr T kLn2 = T(0x1.62e42fefa39efp-1);
  const T a = abs(x);
  const T near = a > kTail ? kTail : a;
  const T square = near * near;
  const T value = log1p(near + square / (1 + sqrt(1 + square)));
  return copysign(a > kTail ? log(a) + kLn2 : value, x);
}

// log1p(t + sqrt(t (t + 2))), t = x - 1
template <class T>
FUSEDGRAD_HOST_DEVICE T acosh(T x) {
  constexpr T kTail = detail::kInverseTail<T>;
  constexpr T kLn2 = T(0x1.62e42fefa39efp-1);
  const T t = (x > kTail ? kTail : x) - 1;
  const T value = log1p(t + sqrt(t * (t + 2)));
  return x > kTail ? log(x) + kLn2 : x < 1 ? static_cast<T>(__builtin_nan("")) : value;
}

template <class T>
FUSEDGRAD_HOST_DEVICE T atanh(T x) {
  const T a = abs(x);
  return copysign(T(0.5) * log1p(2 * a / (1 - a)), x);
}

}  // namespace fusedgrad::math

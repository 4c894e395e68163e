// exp(-z) M(a, b, z) of Kummer's function for z >= 0, a half a whole number, and the modified
// Bessel functions of the first kind by it: I0(x) = exp(x) K(1/2, 1, 2x), and so on, K the scaled
// function. In double for both types, by series whose terms are of one sign: the one in z below 40,
// the asymptotic one above, where its least term is below 2^-56.
#pragma once

#include "math/exponential.h"

namespace fusedgrad::math {

namespace detail {

constexpr double gamma_of_half(int twice) {
  return twice == 1   ? 0x1.c5bf891b4ef6bp+0
         : twice == 2 ? 1
                      : (twice - 2) * 0.5 * gamma_of_half(twice - 2);
}

}  // namespace detail

template <int TwiceA, int B, class T>
FUSEDGRAD_HOST_DEVICE T kummer(T x) {
  constexpr double a = TwiceA * 0.5;
  const double z = static_cast<double>(x);
  if (z < 40) {
    double term = 1;
    double sum = 1;
    for (int k = 0; k < 150 && term > sum * 0x1p-56; ++k) {
      term *= z * (a + k) / ((B + k) * (k + 1.0));
      sum += term;
    }
    return static_cast<T>(math::exp(-z) * sum);
  }
  const double r = 1 / z;
  double term = 1;
  double sum = 1;
  for (int k = 0; k < 40 && abs(term) > 0x1p-56; ++k) {
    term *= (B - a + k) * (1 - a + k) / (k + 1) * r;
    sum += term;
  }
  double power = detail::gamma_of_half(2 * B) / detail::gamma_of_half(TwiceA);
  for (int k = 0; k < (2 * B - TwiceA) / 2; ++k) power *= r;
  if ((2 * B - TwiceA) % 2 == 1) power *= sqrt(r);
  return static_cast<T>(z != z ? z : power * sum);
}

template <class T>
FUSEDGRAD_HOST_DEVICE T i0e(T x) {
  return kummer<1, 1>(2 * abs(x));
}

template <class T>
FUSEDGRAD_HOST_DEVICE T i1e(T x) {
  const double wide = static_cast<double>(x);
  const double value = 0.5 * wide * kummer<3, 3>(2 * abs(wide));
  return abs(x) == kInfinity<T> ? copysign(T(0), x) : static_cast<T>(value);
}

// I_n(x) = (x/2)^n / n! exp(-|x|) M(n + 1/2, 2n + 1, 2|x|), exp(|x|) as a square, which overflows
// no sooner than the result
template <int N, class T>
FUSEDGRAD_HOST_DEVICE T bessel_i(T x) {
  const double wide = static_cast<double>(x);
  const double root = math::exp(0.5 * abs(wide));
  double scaled = kummer<2 * N + 1, 2 * N + 1>(2 * abs(wide));
  for (int k = 1; k <= N; ++k) scaled *= wide / (2 * k);
  const T limit = N % 2 == 0 ? kInfinity<T> : x;
  return abs(x) == kInfinity<T> ? limit : static_cast<T>(root * scaled * root);
}

template <class T>
FUSEDGRAD_HOST_DEVICE T i0(T x) {
  return bessel_i<0>(x);
}

template <class T>
FUSEDGRAD_HOST_DEVICE T i1(T x) {
  return bessel_i<1>(x);
}

}  // namespace fusedgrad::math

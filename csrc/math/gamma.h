// The logarithm of the gamma function, and its derivatives from the digamma function on.
//
// In double for both types, by Stirling's series after as many steps of the recurrence as that
// needs, and left of 0 by the terms next to the poles and the function on the other side.
#pragma once

#include "math/logarithm.h"
#include "math/piecewise.h"
#include "math/sinc.h"

#if !defined(__CUDACC__)
extern "C" double lgamma_r(double x, int* sign) noexcept;  // which clang has no built-in of
#endif

namespace fusedgrad::math {

namespace detail {

// B(2k) / (2k)!, k = 1 to 12
FUSEDGRAD_HOST_DEVICE double bernoulli_over_factorial(int k) {
  constexpr double kNumbers[] = {
      1.0 / 6, -1.0 / 30,     1.0 / 42,      -1.0 / 30,       5.0 / 66,       -691.0 / 2730,
      7.0 / 6, -3617.0 / 510, 43867.0 / 798, -174611.0 / 330, 854513.0 / 138, -236364091.0 / 2730};
  double value = kNumbers[k - 1];
  for (int i = 2; i <= 2 * k; ++i) value /= i;
  return value;
}

FUSEDGRAD_HOST_DEVICE double inverse_power(double x, int n) {
  double result = 1;
  const double r = 1 / x;
  for (int i = 0; i < n; ++i) result *= r;
  return result;
}

// The sum of (x + k)^-s over k >= 0, x > 0, by Euler and Maclaurin
template <int S>
FUSEDGRAD_HOST_DEVICE double hurwitz_zeta(double x) {
  double sum = 0;
  double lost = 0;
  while (x < 12) {
    const double term = inverse_power(x, S);
    const double next = sum + term;
    lost += sum > term ? (sum - next) + term : (term - next) + sum;
    sum = next;
    x += 1;
  }
  const double power = inverse_power(x, S);
  const double square = 1 / (x * x);
  double series = 0;
  for (int k = 12; k >= 1; --k) {
    double factor = bernoulli_over_factorial(k);
    for (int i = 0; i < 2 * k - 1; ++i) factor *= S + i;
    series = fma(series, square, factor);
  }
  const double tail = power * (x / (S - 1) + 0.5 + series / x);
  return sum + (tail + lost);
}

constexpr double factorial(int n) { return n == 0 ? 1 : n * factorial(n - 1); }

// Right of 0
FUSEDGRAD_HOST_DEVICE double digamma_of_positive(double x) {
  double sum = 0;
  double lost = 0;
  while (x < 12) {
    const double r = 1 / x;
    const double next = sum + r;
    lost += (sum > r ? (sum - next) + r : (r - next) + sum) + fma(-r, x, 1.0) * r;
    sum = next;
    x += 1;
  }
  const double square = 1 / (x * x);
  double series = 0;
  for (int k = 12; k >= 1; --k) {
    double factor = bernoulli_over_factorial(k);
    for (int i = 1; i < 2 * k; ++i) factor *= i;
    series = fma(series, square, factor);
  }
  const double log = math::log(x);
  const double small = -(0.5 / x + series * square) - lost;
  const double difference = log - sum;
  const double back = difference - log;
  const double rest = (log - (difference - back)) - (sum + back);
  return difference + (small + rest);
}

// pi / tan(pi x), x no whole number
FUSEDGRAD_HOST_DEVICE double pi_cotangent(double x) {
  constexpr double kPi = 0x1.921fb54442d18p+1;
  return kPi * sin_of_pi(x, 1) / sin_of_pi(x, 0);
}

template <int N>
FUSEDGRAD_HOST_DEVICE double polygamma(double x) {
  if constexpr (N == 0) {
    const double value =
        x > 0 ? digamma_of_positive(x) : digamma_of_positive(1 - x) - pi_cotangent(x);
    const double edge =
        x == 0 ? -copysign(kInfinity<double>, x) : static_cast<double>(__builtin_nan(""));
    return (x <= 0) & (x == math::floor(x)) ? edge : x == kInfinity<double> ? x : value;
  } else {
    constexpr int S = N + 1;
    constexpr double kFactor = N % 2 == 0 ? -factorial(N) : factorial(N);
    if (x == kInfinity<double>) return 0 * kFactor;
    if (!(x <= 0)) return x != x ? x : kFactor * hurwitz_zeta<S>(x);
    if (x == math::floor(x))
      return N % 2 == 1 ? kInfinity<double> : static_cast<double>(__builtin_nan(""));
    // The sum over all whole k of (r + k)^-s, without the part right of -x
    const double r = x - math::round(x);
    const double sign = S % 2 == 0 ? 1 : -1;
    const double nearest = inverse_power(r, S);
    const double both =
        hurwitz_zeta<S>(1 + r) + sign * (hurwitz_zeta<S>(1 - r) - hurwitz_zeta<S>(1 - x));
    return kFactor * (nearest + both);
  }
}

}  // namespace detail

template <int N, class T>
FUSEDGRAD_HOST_DEVICE T polygamma(T x) {
  return static_cast<T>(detail::polygamma<N>(static_cast<double>(x)));
}

#if defined(__CUDACC__)
template <class T>
FUSEDGRAD_HOST_DEVICE T lgamma(T x) {
  return static_cast<T>(::lgamma(static_cast<double>(x)));
}
#else
template <class T>
FUSEDGRAD_HOST_DEVICE T lgamma(T x) {
  int sign;  // not in a global variable, as lgamma's
  return static_cast<T>(::lgamma_r(static_cast<double>(x), &sign));
}
#endif

}  // namespace fusedgrad::math

// What pow.h leaves out: exponents that are constants, and derivatives of pow of any order.
#pragma once

#include "math/pow.h"

namespace fusedgrad::math {

// x^e for an exponent known when the code is written, which keeps the digits that a float has not.
template <class T>
FUSEDGRAD_HOST_DEVICE T pow_constant(T x, double e) {
  const T hi = static_cast<T>(e);
  const T magnitude =
      detail::power<T>(log2(abs(x)), {hi, static_cast<T>(e - static_cast<double>(hi))}).value();
  const T parity = !detail::is_integer(e) ? T(0.5) : detail::is_odd(e) ? T(1) : T(2);
  return x == 1 ? T(1) : detail::with_sign(magnitude, x, parity, detail::is_odd(parity));
}

namespace detail {

constexpr double binomial(int n, int k) { return k == 0 ? 1 : binomial(n - 1, k - 1) * n / k; }

// The derivative of order J of e (e-1) ... (e-A+1), by its coefficients
template <int A, int J, class T>
FUSEDGRAD_HOST_DEVICE T falling_factorial_derivative(T e) {
  double c[A + 2] = {1};  // c[i] is that of e^i
  for (int k = 0; k < A; ++k) {
    for (int i = k + 1; i > 0; --i) c[i] = c[i - 1] - k * c[i];
    c[0] *= -k;
  }
  T value = 0;
  for (int i = A; i >= J; --i) {
    double factor = c[i];
    for (int j = 0; j < J; ++j) factor *= i - j;
    value = fma(value, e, static_cast<T>(factor));
  }
  return value;
}

// The coefficient of x^(e-A) in the derivative of x^e, A times by x and B times by e: a sum of
// binomial(B, j) log(x)^(B-j) times the factorial's derivative of order j. A term of coefficient 0
// is skipped.
template <int A, int B, int J = 0, class T>
FUSEDGRAD_HOST_DEVICE T power_coefficient(T e, T log) {
  if constexpr (J > (A < B ? A : B)) {
    return T(0);
  } else {
    const T factor = static_cast<T>(binomial(B, J)) * falling_factorial_derivative<A, J>(e);
    const T rest = power_coefficient<A, B, J + 1>(e, log);
    return factor == 0 ? rest : fma(factor, integer_power<B - J>(log), rest);
  }
}

}  // namespace detail

// The derivative of x^e, A times by x and B times by e
template <int A, int B, class T>
FUSEDGRAD_HOST_DEVICE T pow_derivative(T x, T e) {
  if constexpr (A == 0 && B == 0) {
    return pow(x, e);
  } else if constexpr (A == 1 && B == 0) {
    return pow_base_derivative(x, e);
  } else if constexpr (A == 0 && B == 1) {
    return pow_exponent_derivative(x, e);
  } else if constexpr (A == 2 && B == 0) {
    return pow_base_second_derivative(x, e);
  } else if constexpr (A == 1 && B == 1) {
    return pow_mixed_derivative(x, e);
  } else if constexpr (A == 0 && B == 2) {
    return pow_exponent_second_derivative(x, e);
  } else {
    const Pair<T> log = log2(abs(x));
    const T coefficient = detail::power_coefficient<A, B>(e, detail::ln(log));
    const T magnitude = detail::power(log, detail::subtract(e, T(A))).times(coefficient);
    const bool odd = A % 2 == 0 ? detail::is_odd(e) : detail::is_even(e);
    const T value =
        B == 0 ? detail::with_sign(magnitude, x, e, odd) : detail::nan_below_zero(x, magnitude);
    const bool vanishes = (coefficient == 0) | ((B > 0) & (x == 0) & (e > A));
    return vanishes ? T(0) : value;
  }
}

}  // namespace fusedgrad::math

// What pow.h leaves out: exponents that are constants, and derivatives of pow of any order.
#pragma once

#include "math/pow.h"
#include "math/products.h"

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

// e (e-1) ... (e-A+1), differentiated J times: the coefficient of e^(i-J) stands at i. Computed by
// the compiler, or a loop over several of them would not vectorise.
template <int A, int J>
constexpr Values<double, A + 2> falling_factorial_derivative() {
  Values<double, A + 2> c = {{1}};
  for (int k = 0; k < A; ++k) {
    for (int i = k + 1; i > 0; --i) c.value[i] = c.value[i - 1] - k * c.value[i];
    c.value[0] *= -k;
  }
  for (int i = J; i <= A; ++i) {
    for (int j = 0; j < J; ++j) c.value[i] *= i - j;
  }
  return c;
}

// The factorial itself is a product: a sum of powers would cancel beside its zeros, the integers.
template <int A, int J, class T>
FUSEDGRAD_HOST_DEVICE T falling_factorial_derivative(T e) {
  T value = J != 0 ? T(0) : A == 0 ? T(1) : A == 1 ? e : fma(e, e, -e);
#pragma GCC unroll 8
  for (int k = 2; k < A && J == 0; ++k) value *= e - static_cast<T>(k);
  constexpr Values<double, A + 2> c = falling_factorial_derivative<A, J>();
#pragma GCC unroll 8
  for (int i = A; i >= J && J != 0; --i) value = fma(value, e, static_cast<T>(c.value[i]));
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
    const T magnitude =
        detail::power(log, detail::subtract(e, T(A))).times(detail::coefficient_at(x, coefficient));
    const bool odd = A % 2 == 0 ? detail::is_odd(e) : detail::is_even(e);
    const T value =
        B == 0 ? detail::with_sign(magnitude, x, e, odd) : detail::nan_below_zero(x, magnitude);
    const bool vanishes = (coefficient == 0) | ((B > 0) & (x == 0) & (e > A));
    return vanishes ? T(0) : value;
  }
}

// e (e-1) ... (e-n+1)
FUSEDGRAD_HOST_DEVICE double falling_factorial(double e, double n) {
  double factorial = 1;
  for (int k = 0; k < n; ++k) factorial *= e - k;
  return factorial;
}

// grad times a derivative of x^e by x, coefficient * x^(k/2)
template <int TwiceExponent>
struct PowHalfIntegerDerivative {
  template <class S>
  struct Times {
    S coefficient;
    FUSEDGRAD_HOST_DEVICE S operator()(S grad, S x) const {
      return grad * detail::half_integer_term<TwiceExponent>(coefficient, x);
    }
  };
};

// The derivatives of x^e by x of orders n and n + 1, e (e-1) ... (e-n+1) x^(e-n); math/products.h
template <class S>
struct PowScalarDerivatives {
  S exponent;
  S order;

  FUSEDGRAD_HOST_DEVICE PowScalarDerivatives(S exponent, S order)
      : exponent(exponent), order(order) {
    const double e = static_cast<double>(exponent), n = static_cast<double>(order);
    const double factorial = falling_factorial(e, n);
    factorial_[0] = static_cast<S>(factorial);
    factorial_[1] = static_cast<S>(factorial * (e - n));
  }

  FUSEDGRAD_HOST_DEVICE Values<S, 2> at(S x) const {
    const Pair<S> log = log2(abs(x));
    return {{of_order(order, factorial_[0], log, x), of_order(order + 1, factorial_[1], log, x)}};
  }

 private:
  FUSEDGRAD_HOST_DEVICE S of_order(S n, S factorial, Pair<S> log, S x) const {
    const S magnitude = detail::power(log, detail::subtract(exponent, n)).times(factorial);
    const bool even = detail::is_even(n);
    const bool odd = even ? detail::is_odd(exponent) : detail::is_even(exponent);
    const S value = detail::with_sign(magnitude, x, exponent, odd);
    return factorial == 0 ? S(0) : value;
  }

  S factorial_[2];
};

template <class S>
using PowScalarDerivativesOfOrder = DerivativesAt<PowScalarDerivatives<S>>;
template <class S>
using PowScalarBackwardOfOrder = DerivativeTimes<PowScalarDerivatives<S>>;
template <class S>
using PowScalarDoubleBackwardOfOrder = DerivativeTimesBackward<PowScalarDerivatives<S>>;
template <class S>
using PowScalarTripleBackwardOfOrder = DerivativeTimesTwoBackward<PowScalarDerivatives<S>>;

// grad times the derivative of x^e, by x and by e as often as is known when it runs. A grad of 0
// outweighs an infinite derivative.
template <class S>
class PowDerivative {
 public:
  static constexpr int kMost = 5;  // of either order

  FUSEDGRAD_HOST_DEVICE PowDerivative(S by_base, S by_exponent)
      : by_base_(by_base),
        vanishing_above_(by_exponent == 0 ? kInfinity<S>
                         : by_base == 0   ? -from_bits(Bits<S>(1))
                                          : by_base),
        of_infinite_log_(by_exponent == 0 ? S(1) : kInfinity<S>),
        below_zero_(by_exponent == 0 ? 0 : to_bits(static_cast<S>(__builtin_nan("")))) {
    const int a = static_cast<int>(by_base), b = static_cast<int>(by_exponent);
    double factorial[kMost + 2] = {1};  // e (e-1) ... (e-a+1) in powers of e
    for (int k = 0; k < a; ++k) {
      for (int i = k + 1; i > 0; --i) factorial[i] = factorial[i - 1] - k * factorial[i];
      factorial[0] *= -k;
    }
    for (auto& row : coefficients_) {
      for (S& coefficient : row) coefficient = 0;
    }
    for (int k = 0; k < kMost; ++k) {
      factor_[k] = k < a;
      instead_[k] = k >= a;
    }
    if (a > 1) instead_[1] = -1;
    for (int k = 0; k <= kMost; ++k) of_factorial_[k] = k == b ? ~Bits<S>(0) : 0;
    for (int j = 1; j <= b; ++j) {  // the factorial's derivative of order j
      for (int i = j; i <= a; ++i) {
        double coefficient = detail::binomial(b, j) * factorial[i];
        for (int l = 0; l < j; ++l) coefficient *= i - l;
        coefficients_[b - j][i - j] = static_cast<S>(coefficient);
      }
    }
  }

  FUSEDGRAD_HOST_DEVICE S operator()(S grad, S x, S e) const {
    const Pair<S> log = log2(abs(x));
    constexpr S kMostLog = Format<S>::kBias + 200;  // beyond any logarithm of a number
    const S unlimited = detail::ln(log);
    const S limited = unlimited < -kMostLog ? -kMostLog : unlimited;
    const S ln = limited > kMostLog ? kMostLog : limited;
    // A product: a sum of powers of e would cancel beside the factorial's zeros, the integers.
    S factorial = fma(e, factor_[0], instead_[0]);
    factorial = fma(factorial, e * factor_[1], factorial * instead_[1]);  // rounded once
#pragma GCC unroll 5
    for (int k = 2; k < kMost; ++k) {
      factorial *= fma(e - static_cast<S>(k), factor_[k], instead_[k]);
    }
    S polynomial = 0;
#pragma GCC unroll 6
    for (int k = kMost; k >= 0; --k) {
      S row = from_bits(to_bits(factorial) & of_factorial_[k]);
      if (k < kMost) {
        S derivative = 0;
#pragma GCC unroll 6
        for (int i = kMost; i >= 0; --i) derivative = fma(derivative, e, coefficients_[k][i]);
        row = row + derivative;
      }
      polynomial = fma(polynomial, ln, row);
    }
    const S factor = polynomial * (abs(log.hi) == kInfinity<S> ? of_infinite_log_ : S(1));
    const S magnitude = detail::power(log, detail::subtract(e, by_base_)).times(factor);
    const S value = detail::with_sign(magnitude, x, e, detail::is_odd(e - by_base_));
    const S defined = from_bits(to_bits(value) | (x < 0 ? below_zero_ : 0));
    const bool vanishes = (grad == 0) | (polynomial == 0) | ((x == 0) & (e > vanishing_above_));
    return vanishes ? S(0) : grad * defined;
  }

 private:
  // What depends on the orders alone is a number and no condition: a loop vectorises no other way.
  S by_base_;
  S vanishing_above_;  // at x = 0, for an exponent that is greater
  S of_infinite_log_;
  Bits<S> below_zero_;
  S factor_[kMost], instead_[kMost];  // the factorial's e - k is multiplied by 1, or 1 is taken
  Bits<S> of_factorial_[kMost + 1];   // all where the factorial is the coefficient of ln(x)^k
  S coefficients_[kMost][kMost + 1];  // of ln(x)^k e^i in the terms of its derivatives
};

template <class S>
using PowDerivativeBackward = DerivativeBackward<PowDerivative, S>;

}  // namespace fusedgrad::math

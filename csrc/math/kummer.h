// exp(-z) M(a, b, z) of Kummer's function for z >= 0, a half a whole number, and the modified
// Bessel functions of the first kind by it: I0(x) = exp(x) K(1/2, 1, 2x), and so on, K the scaled
// function. In pairs of doubles for both types, since the error of a term is that of all after it,
// by series whose terms are of one sign: the one in z below 60, the asymptotic one above, whose
// terms with their weights fall below 2^-60.
#pragma once

#include "math/elementary.h"

namespace fusedgrad::math {

namespace detail {

FUSEDGRAD_HOST_DEVICE Pair<double> product(Pair<double> x, double y) {
  const double hi = x.hi * y;
  return {hi, fma(x.lo, y, fma(x.hi, y, -hi))};
}

FUSEDGRAD_HOST_DEVICE Pair<double> product(Pair<double> x, Pair<double> y) {
  const Pair<double> first = product(x, y.hi);
  return {first.hi, fma(x.hi, y.lo, first.lo)};
}

FUSEDGRAD_HOST_DEVICE Pair<double> quotient(Pair<double> x, Pair<double> y) {
  const double reciprocal = 1 / y.hi;
  const double hi = x.hi * reciprocal;
  return {hi, (fma(-hi, y.lo, x.lo) + fma(-hi, y.hi, x.hi)) * reciprocal};
}

FUSEDGRAD_HOST_DEVICE Pair<double> add(Pair<double> x, Pair<double> y) {
  const double hi = x.hi + y.hi;
  const double back = hi - x.hi;
  return {hi, (x.hi - (hi - back)) + (y.hi - back) + (x.lo + y.lo)};
}

// The weights of the terms, as quotients of whole numbers: those of K itself,
struct Plain {
  FUSEDGRAD_HOST_DEVICE static Pair<double> near(double) { return {1, 1}; }
  FUSEDGRAD_HOST_DEVICE static double far(double) { return 1; }
};

// and of the derivatives of z K(3/2, 3, z) by z/2, whose terms change their sign once: from
// exp(-z) sum u_k z^k follows exp(-z) sum ((k + 1) u_(k+1) - u_k) z^k.
struct FirstOfI1e {
  FUSEDGRAD_HOST_DEVICE static Pair<double> near(double k) { return {1 - k, 2 * k + 1}; }
  FUSEDGRAD_HOST_DEVICE static double far(double k) { return -(2 * k + 1); }
};
struct SecondOfI1e {
  FUSEDGRAD_HOST_DEVICE static Pair<double> near(double k) {
    return {3 * (k - 2), (k + 3) * (2 * k + 1)};
  }
  FUSEDGRAD_HOST_DEVICE static double far(double k) { return (2 * k + 1) * (2 * k + 3); }
};

// exp(-z) M(a, b, z) with weighted terms, the asymptotic ones over z^FarPower
template <int TwiceA, int B, class Weight = Plain, int FarPower = 0>
FUSEDGRAD_HOST_DEVICE Pair<double> kummer_pair(double z) {
  constexpr double a = TwiceA * 0.5;
  if (z < 60) {
    Pair<double> term = {1, 0};
    Pair<double> sum = {Weight::near(0).hi / Weight::near(0).lo, 0};
    double size = 1;
    for (int k = 0; k < 200 && term.hi > size * 0x1p-66; ++k) {
      const Pair<double> grown = product(product(term, z), a + k);
      term = quotient(grown, {(B + k) * (k + 1.0), 0});
      const Pair<double> weight = Weight::near(k + 1);
      sum = add(sum,
                weight.hi == weight.lo ? term : quotient(product(term, weight.hi), {weight.lo, 0}));
      size += term.hi;
    }
    const Pair<double> exp = scaled_exp_of_minus(z, 0).value();
    return product(sum, exp);
  }
  const double r = 1 / z;
  double term = 1;
  double rest = 0;  // of the sum, but for its first term
  for (int k = 0; k < 40 && abs(term) > 0x1p-60; ++k) {
    term *= (B - a + k) * (1 - a + k) / (k + 1) * r;
    rest += term * Weight::far(k + 1);
  }
  // Gamma(b) / Gamma(a) z^(a - b)
  constexpr Pair<double> kOneOverSqrtPi = {0x1.20dd750429b6dp-1, 0x1.1ae3a914fed80p-57};
  const double root = sqrt(z);
  Pair<double> below = {root, fma(-root, root, z) * (0.5 / root)};
  for (int k = 0; k < (2 * B - TwiceA) / 2 + FarPower; ++k) below = product(below, z);
  double above = 1;
  for (int k = 2; k < B; ++k) above *= k;
  for (int k = 1; k < TwiceA; k += 2) below = product(below, 0.5 * k);
  const Pair<double> power = quotient(product(kOneOverSqrtPi, above), below);
  const Pair<double> value = product(power, sum(Weight::far(0), rest));
  return {z == kInfinity<double> ? 0.0 : value.hi, z == kInfinity<double> ? 0.0 : value.lo};
}

}  // namespace detail

template <int TwiceA, int B, class T>
FUSEDGRAD_HOST_DEVICE T kummer(T x) {
  const Pair<double> value = detail::kummer_pair<TwiceA, B>(static_cast<double>(x));
  return static_cast<T>(value.hi + value.lo);
}

template <class T>
FUSEDGRAD_HOST_DEVICE T i0e(T x) {
  return static_cast<T>(kummer<1, 1>(2 * abs(static_cast<double>(x))));
}

template <class T>
FUSEDGRAD_HOST_DEVICE T i1e(T x) {
  const double wide = static_cast<double>(x);
  const double value = 0.5 * wide * kummer<3, 3>(2 * abs(wide));
  return abs(x) == kInfinity<T> ? copysign(T(0), x) : static_cast<T>(value);
}

template <class T>
FUSEDGRAD_HOST_DEVICE T i1e_derivative(T x) {
  const double z = 2 * abs(static_cast<double>(x));
  const Pair<double> value = detail::kummer_pair<3, 3, detail::FirstOfI1e>(z);
  return static_cast<T>((z < 60 ? 0.5 : 0.25) * (value.hi + value.lo));
}

template <class T>
FUSEDGRAD_HOST_DEVICE T i1e_second_derivative(T x) {
  const double z = 2 * abs(static_cast<double>(x));
  const Pair<double> value = detail::kummer_pair<3, 3, detail::SecondOfI1e, 1>(z);
  const double size = (z < 60 ? 0.5 : 0.25) * (value.hi + value.lo);
  return static_cast<T>(x == 0 ? 0.0 : copysign(1.0, static_cast<double>(x)) * size);
}

// I_n(x) = (x/2)^n / n! exp(-|x|) M(n + 1/2, 2n + 1, 2|x|), a large exp(|x|) over 2^128, so that it
// overflows no sooner than the result
template <int N, class T>
FUSEDGRAD_HOST_DEVICE T bessel_i(T x) {
  const double wide = static_cast<double>(x);
  const double size = abs(wide) > 745 ? 745 : abs(wide);
  const Pair<double> exp = scaled_exp_of_minus(-size, size > 600 ? -128 : 0).value();
  Pair<double> value = detail::product(detail::kummer_pair<2 * N + 1, 2 * N + 1>(2 * size), exp);
  for (int k = 1; k <= N; ++k) {
    value = detail::quotient(detail::product(value, copysign(size, wide)), {2.0 * k, 0});
  }
  const double sum = value.hi + value.lo;
  return x != x ? x : static_cast<T>(size > 600 ? sum * 0x1p128 : sum);
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

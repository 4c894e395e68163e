// The derivatives of sigmoid and tanh of any order, the factors they are multiplied with, and the
// derivatives of those products: D_n(g, x) = g f^(n)(x) is a family closed under differentiation.
//
// With a = exp(-|x|), z = a / (1 + a)^2 = sigmoid'(x) and t = tanh(x/2), of which no digit is lost
// in either tail nor at 0,
//
//   sigmoid^(n) = z Q_n(z) for odd n, z t Q_n(z) for even n,
//
// Q_1 = 1, and from z' = -z t, t' = 2 z, t^2 = 1 - 4 z
//
//   Q_{n+1} = -(Q_n + z Q_n') for odd n, -(1 - 6 z) Q_n - z (1 - 4 z) Q_n' for even n.
//
// Q_n(0) is 1 or -1: in the tails nothing cancels. Near 0, where terms in z would, the same
// polynomial is taken in t^2. tanh(x) = 2 sigmoid(2 x) - 1.
#pragma once

#include <utility>

#include "math/products.h"
#include "math/sigmoid.h"

namespace fusedgrad::math {

namespace detail {

// Q_n, whose degree is (n - 1) / 2, in powers of z, and of t^2
struct LogisticPolynomial {
  double far[kLogisticTerms];
  double near[kLogisticTerms];

  FUSEDGRAD_HOST_DEVICE static constexpr LogisticPolynomial of_order(int n) {
    LogisticPolynomial q = {{1}, {}};
    for (int k = 1; k < n; ++k) q.differentiate(/*odd=*/k % 2 == 1);
    // z = (1 - t^2) / 4, by Horner's rule on polynomials
    for (int i = kLogisticTerms - 1; i >= 0; --i) {
      for (int j = kLogisticTerms - 1; j >= 0; --j) {
        q.near[j] = (q.near[j] - (j > 0 ? q.near[j - 1] : 0)) / 4;
      }
      q.near[0] += q.far[i];
    }
    return q;
  }

 private:
  FUSEDGRAD_HOST_DEVICE constexpr void differentiate(bool odd) {
    for (int i = kLogisticTerms - 1; i >= 0; --i) {
      const double below = i > 0 ? far[i - 1] : 0;
      far[i] = -(1 + i) * far[i] + (odd ? 0 : (2 + 4 * i) * below);
    }
  }
};

template <int... kOrder>
constexpr auto logistic_polynomials(std::integer_sequence<int, kOrder...>) {
  return Values<LogisticPolynomial, sizeof...(kOrder)>{
      {LogisticPolynomial::of_order(kOrder + 1)...}};
}

// Those of the orders from 1 to kMost, made by the compiler
template <int kMost>
inline constexpr auto kLogisticPolynomials =
    logistic_polynomials(std::make_integer_sequence<int, kMost>());

}  // namespace detail

// f^(n)(x), f^(n+1)(x) and so on: f is sigmoid for kScale 1, tanh for 2. Of kTerms, the orders are
// at most 2 kTerms.
template <class S, int kScale, int kCount, int kTerms>
class LogisticDerivatives {
 public:
  static constexpr int kMost = 2 * detail::kLogisticTerms - 1;

  FUSEDGRAD_HOST_DEVICE explicit LogisticDerivatives(S order) {
    for (int k = 0; k < kCount; ++k) {
      const int n = static_cast<int>(order) + k;
      const auto q = polynomial(n);
      const double factor = kScale == 1 ? 1 : 2.0 * (1 << n);
      for (int i = 0; i < kTerms; ++i) {
        far_[k][i] = static_cast<S>(factor * q.far[i]);
        near_[k][i] = static_cast<S>(factor * q.near[i]);
      }
      odd_[k] = n % 2;
    }
  }

  FUSEDGRAD_HOST_DEVICE Values<S, kCount> at(S x) const {
    constexpr S kUnlift = 1 / Ranges<S>::kLift;
    const LiftedExp<S> exp = lifted_exp(-kScale * abs(x));
    const Pair<S> a = exp.value();
    const Reciprocal<S> r = reciprocal_of_one_plus<S>({a.hi * kUnlift, a.lo * kUnlift});
    const Pair<S> tanh = r.times(exp.complement());
    const S t = copysign((tanh.hi + tanh.lo) * kUnlift, x);
    const S lifted = detail::lifted_density(a, r);
    const S z = lifted * kUnlift;
    const bool near = z > S(0.125);
    const S power = near ? t * t : z;
    const auto value = [&](const S* of_z, const S* of_square, S odd) {
      S q = 0;
#pragma GCC unroll 6
      for (int i = kTerms - 1; i >= 0; --i) {
        const S in_z = of_z[i], in_square = of_square[i];
        q = fma(q, power, near ? in_square : in_z);
      }
      return lifted * (q * (odd != 0 ? S(1) : t)) * kUnlift;
    };
    Values<S, kCount> values;
#pragma GCC unroll 8
    for (int k = 0; k < kCount; ++k) values.value[k] = value(far_[k], near_[k], odd_[k]);
    return values;
  }

 private:
  FUSEDGRAD_HOST_DEVICE static detail::LogisticPolynomial polynomial(int n) {
    if constexpr (kTerms == detail::kLogisticTerms) {
      return detail::LogisticPolynomial::of_order(n);
    } else {
      return detail::kLogisticPolynomials<2 * kTerms>.value[n - 1];
    }
  }

  S far_[kCount][kTerms];
  S near_[kCount][kTerms];
  S odd_[kCount];  // 1 or 0
};

}  // namespace fusedgrad::math

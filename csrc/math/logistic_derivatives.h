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

#include "math/products.h"
#include "math/sigmoid.h"

namespace fusedgrad::math {

namespace detail {

// Of Q_n, whose degree is (n - 1) / 2
inline constexpr int kLogisticTerms = 6;

// Q_n in powers of z, and of t^2
struct LogisticPolynomial {
  double far[kLogisticTerms];
  double near[kLogisticTerms];

  FUSEDGRAD_HOST_DEVICE static LogisticPolynomial of_order(int n) {
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
  FUSEDGRAD_HOST_DEVICE void differentiate(bool odd) {
    for (int i = kLogisticTerms - 1; i >= 0; --i) {
      const double below = i > 0 ? far[i - 1] : 0;
      far[i] = -(1 + i) * far[i] + (odd ? 0 : (2 + 4 * i) * below);
    }
  }
};

}  // namespace detail

// f^(n)(x) and f^(n+1)(x): f is sigmoid for kScale 1, tanh for 2.
template <class S, int kScale>
class LogisticDerivatives {
 public:
  static constexpr int kMost = 2 * detail::kLogisticTerms - 1;

  FUSEDGRAD_HOST_DEVICE explicit LogisticDerivatives(S order) {
    for (int k = 0; k < 2; ++k) {
      const int n = static_cast<int>(order) + k;
      const auto q = detail::LogisticPolynomial::of_order(n);
      const double factor = kScale == 1 ? 1 : 2.0 * (1 << n);
      for (int i = 0; i < detail::kLogisticTerms; ++i) {
        far_[k][i] = static_cast<S>(factor * q.far[i]);
        near_[k][i] = static_cast<S>(factor * q.near[i]);
      }
      odd_[k] = n % 2;
    }
  }

  FUSEDGRAD_HOST_DEVICE Values<S, 2> at(S x) const {
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
      for (int i = detail::kLogisticTerms - 1; i >= 0; --i) {
        const S in_z = of_z[i], in_square = of_square[i];
        q = fma(q, power, near ? in_square : in_z);
      }
      return lifted * (q * (odd != 0 ? S(1) : t)) * kUnlift;
    };
    return {{value(far_[0], near_[0], odd_[0]), value(far_[1], near_[1], odd_[1])}};
  }

 private:
  S far_[2][detail::kLogisticTerms];
  S near_[2][detail::kLogisticTerms];
  S odd_[2];  // 1 or 0
};

}  // namespace fusedgrad::math

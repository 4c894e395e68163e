// Binary cross-entropy, on logits and on probabilities, with its derivatives.
//
// On logits, with softplus(x) = max(x, 0) + log(1 + exp(-|x|)):
//   loss(x, t) = pos_weight * t * softplus(-x) + (1 - t) * softplus(x)
// sorted into terms that are all non-negative for t in [0, 1], so that none cancels. A term whose
// weight is 0 is skipped, so that x = inf gives 0 or inf and never NaN.
//
// Largest errors on a host, in ULP, for targets 0, 1 and 0.3: float over all logits, double over 4
// million (csrc/accuracy; the bounds are tests/test_accuracy.py's).
#pragma once

#include "math/elementary.h"
#include "math/products.h"
#include "math/sigmoid.h"

namespace fusedgrad::math {

namespace detail {

template <class T>
FUSEDGRAD_HOST_DEVICE T skip_zero(T weight, T x) {
  return weight == 0 ? T(0) : weight * x;
}

// log(1 + exp(-|x|))
template <class T>
FUSEDGRAD_HOST_DEVICE T softplus_tail(T x) {
  const LiftedExp<T> exp = lifted_exp(-abs(x));
  return log1p_of_lifted(sum(exp.power, exp.power * exp.expm1.hi));
}

// The weight of log(1 + exp(-|x|)), which is 1 for pos_weight 1
template <class T>
FUSEDGRAD_HOST_DEVICE T tail_weight(T t, T pos_weight) {
  return fma(pos_weight, t, 1 - t);
}

}  // namespace detail

// float 1.41: at (0x1.a535dap-2, 0.3) got 0x1.97c404p-1 want 0x1.97c4012fc957dp-1; double 1.75
template <class T>
FUSEDGRAD_HOST_DEVICE T binary_cross_entropy_with_logits(T x, T t, T pos_weight) {
  const T linear = detail::skip_zero(x >= 0 ? 1 - t : pos_weight * t, abs(x));
  return fma(detail::tail_weight(t, pos_weight), detail::softplus_tail(x), linear);
}

template <class T>
FUSEDGRAD_HOST_DEVICE T binary_cross_entropy_with_logits(T x, T t) {
  return detail::skip_zero(x >= 0 ? 1 - t : t, abs(x)) + detail::softplus_tail(x);
}

// With a = exp(-|x|): ((1 - t) - pos_weight t a) / (1 + a) for x >= 0,
// ((1 - t) a - pos_weight t) / (1 + a) below
// double 1.95 where sigmoid(x) is not close to t, and half an ULP of t there
// A great pos_weight needs digits of `a` that it loses where it is subnormal, and tails up to 1400.
FUSEDGRAD_HOST_DEVICE double binary_cross_entropy_with_logits_input_derivative(double x, double t,
                                                                               double pos_weight) {
  constexpr int kLiftBits = 1000;
  constexpr double kUnlift = 0x1p-1000;
  const double y = magnitude_up_to<1400>(x);
  const double lifted = scaled_exp_of_minus(y, kLiftBits).value().hi;
  const double a = lifted * kUnlift;
  const double positive = pos_weight * t;
  const double negative = 1 - t;
  const double product = abs(positive) > 1 ? positive * kUnlift * lifted : positive * a;
  const double subtrahend = x >= 0 ? product : positive;
  const double minuend = x >= 0 ? 1 : a;
  // -0 and not 0 - 0 where only the subtrahend is left
  const double numerator = negative == 0 ? -subtrahend : fma(minuend, negative, -subtrahend);
  return numerator * reciprocal_of_one_plus<double>({a, 0}).value();
}

namespace detail {

// exp(-|x|) = lower / upper in double, both so small that their sum is less than 1
struct LogitParts {
  double lower;
  double upper;
};

// From -|x| = n ln2 + r and b = r coth(r / 2): exp(r) = (b + r) / (b - r)
FUSEDGRAD_HOST_DEVICE LogitParts logit_parts(float x) {
  using C = Approximations<double>;
  constexpr double kPart = 15.0 / 64;
  // exp(-220) rounds to 0 even times the greatest pos_weight.
  const double y = magnitude_up_to<220>(x);
  const double shifted = fma(y, -C::kLog2E, kRound<double>);
  const double minus_r = fma(shifted - kRound<double>, C::kLn2, y);
  const double b = C::part_of_r_coth_half_r(minus_r * minus_r);
  const Bits<double> n = to_bits(shifted) << Format<double>::kMantissaBits;
  return {from_bits(to_bits(fma(-kPart, minus_r, b)) + n), fma(kPart, minus_r, b)};
}

}  // namespace detail

// The difference vanishes where sigmoid(x) = t: to keep its digits there it takes sigmoid(x) to
// twice float's precision. Only floats are divided: a device pays too much for double. A numerator
// that is subnormal has lost half its last place, which the denominator, at least 0.38, magnifies.
// float 2.47: at (-0x1.36bf6ap-2, 0.3) got 0x1.fed0aep-4 want 0x1.fed0b2ef18c7ep-4
FUSEDGRAD_HOST_DEVICE float binary_cross_entropy_with_logits_input_derivative(float x, float t,
                                                                              float pos_weight) {
  const detail::LogitParts a = detail::logit_parts(x);
  const double positive = -static_cast<double>(pos_weight) * t;
  const double negative = 1 - static_cast<double>(t);
  const double of_lower = x < 0 ? negative : positive, of_upper = x < 0 ? positive : negative;
  const double numerator = fma(of_lower, a.lower, of_upper * a.upper);
  return static_cast<float>(numerator) / static_cast<float>(a.lower + a.upper);
}

template <class T>
FUSEDGRAD_HOST_DEVICE T binary_cross_entropy_with_logits_input_derivative(T x, T t) {
  return binary_cross_entropy_with_logits_input_derivative(x, t, T(1));
}

// sigmoid(x) - t below 0, else -(sigmoid(-x) - (1 - t)): that sigmoid is lower / (lower + upper)
FUSEDGRAD_HOST_DEVICE float binary_cross_entropy_with_logits_input_derivative(float x, float t) {
  constexpr uint32_t kSign = 0x80000000;
  const detail::LogitParts a = detail::logit_parts(x);
  const double sum = a.lower + a.upper;
  const bool below = (to_bits(x) & kSign) != 0;
  const double turned = static_cast<double>(from_bits(to_bits(t) ^ (to_bits(x) & kSign)));
  const double numerator = fma(below ? turned : turned - 1, sum, a.lower);
  const float quotient = static_cast<float>(numerator) / static_cast<float>(sum);
  return from_bits(to_bits(quotient) ^ (~to_bits(x) & kSign));
}

// pos_weight softplus(-x) - softplus(x)
template <class T>
FUSEDGRAD_HOST_DEVICE T binary_cross_entropy_with_logits_target_derivative(T x, T pos_weight) {
  const T linear = detail::skip_zero(x >= 0 ? T(1) : pos_weight, x);
  return fma(pos_weight - 1, detail::softplus_tail(x), -linear);
}

// t softplus(-x)
template <class T>
FUSEDGRAD_HOST_DEVICE T binary_cross_entropy_with_logits_pos_weight_derivative(T x, T t) {
  return detail::skip_zero(t, detail::softplus_tail(x) + (x < 0 ? -x : T(0)));
}

template <class T>
FUSEDGRAD_HOST_DEVICE T binary_cross_entropy_with_logits_input_second_derivative(T x, T t,
                                                                                 T pos_weight) {
  return detail::tail_weight(t, pos_weight) * sigmoid_derivative(x);
}

namespace detail {

// -log(p) and -log(1 - p), at most 100 as in PyTorch
template <class T>
FUSEDGRAD_HOST_DEVICE T minus_log(T p) {
  const T value = -log_of_fraction(p, T(0));
  return at_most<100>(value);
}

template <class T>
FUSEDGRAD_HOST_DEVICE T minus_log_complement(T p) {
  const T complement = 1 - p;
  const T value = -log_of_fraction(complement, (1 - complement) - p);
  return at_most<100>(value);
}

// p (1 - p), which PyTorch keeps from 0
constexpr double kLeastVariance = 1e-12;

}  // namespace detail

template <class T>
FUSEDGRAD_HOST_DEVICE T binary_cross_entropy(T p, T t) {
  const T loss = fma(t, detail::minus_log(p), (1 - t) * detail::minus_log_complement(p));
  return t >= 0 && t <= 1 ? loss : T(__builtin_nanf(""));
}

template <class T>
FUSEDGRAD_HOST_DEVICE T binary_cross_entropy_input_derivative(T p, T t) {
  constexpr T kLeast = T(detail::kLeastVariance);
  const T variance = p * (1 - p);
  return (p - t) / (variance < kLeast ? kLeast : variance);
}

template <class T>
FUSEDGRAD_HOST_DEVICE T binary_cross_entropy_target_derivative(T p) {
  return detail::minus_log(p) - detail::minus_log_complement(p);
}

// t / p^2 + (1 - t) / (1 - p)^2
template <class T>
FUSEDGRAD_HOST_DEVICE T binary_cross_entropy_input_second_derivative(T p, T t) {
  const T a = 1 / p;
  const T b = 1 / (1 - p);
  const T value = fma(t * a, a, (1 - t) * b * b);
  constexpr T kLeast = T(detail::kLeastVariance);
  return p * (1 - p) < kLeast ? 1 / kLeast : value;
}

struct BinaryCrossEntropyWithLogits {
  using ForHalves = BinaryCrossEntropyWithLogits;
  template <class T>
  FUSEDGRAD_HOST_DEVICE T operator()(T x, T t) const {
    return binary_cross_entropy_with_logits(x, t);
  }
};

struct WeightedBinaryCrossEntropyWithLogits {
  template <class T>
  FUSEDGRAD_HOST_DEVICE T operator()(T x, T t, T w, T pos_weight) const {
    return detail::skip_zero(w, binary_cross_entropy_with_logits(x, t, pos_weight));
  }
};

// `scale` is what a mean divides by, inverted.
template <class S>
struct BinaryCrossEntropyWithLogitsBackward {
  using ForHalves = BinaryCrossEntropyWithLogitsBackward;
  S scale;
  FUSEDGRAD_HOST_DEVICE S operator()(S grad, S x, S t) const {
    return grad * scale * binary_cross_entropy_with_logits_input_derivative(x, t);
  }
};

template <class S>
struct WeightedBinaryCrossEntropyWithLogitsBackward {
  S scale;
  FUSEDGRAD_HOST_DEVICE S operator()(S grad, S x, S t, S w, S pos_weight) const {
    return grad * scale * w * binary_cross_entropy_with_logits_input_derivative(x, t, pos_weight);
  }
};

template <class S>
struct BinaryCrossEntropyWithLogitsBackwardTarget {
  S scale;
  FUSEDGRAD_HOST_DEVICE S operator()(S grad, S x, S, S w, S pos_weight) const {
    return detail::skip_zero(
        w, grad * scale * binary_cross_entropy_with_logits_target_derivative(x, pos_weight));
  }
};

template <class S>
struct BinaryCrossEntropyWithLogitsBackwardWeight {
  S scale;
  FUSEDGRAD_HOST_DEVICE S operator()(S grad, S x, S t, S, S pos_weight) const {
    return grad * scale * binary_cross_entropy_with_logits(x, t, pos_weight);
  }
};

template <class S>
struct BinaryCrossEntropyWithLogitsBackwardPosWeight {
  S scale;
  FUSEDGRAD_HOST_DEVICE S operator()(S grad, S x, S t, S w, S) const {
    return detail::skip_zero(
        w, grad * scale * binary_cross_entropy_with_logits_pos_weight_derivative(x, t));
  }
};

template <class S>
struct BinaryCrossEntropyWithLogitsDoubleBackward {
  S scale;
  FUSEDGRAD_HOST_DEVICE Values<S, 2> operator()(S grad_grad, S grad, S x, S t, S w,
                                                S pos_weight) const {
    const S v = grad_grad * scale * w;
    return {
        {v * binary_cross_entropy_with_logits_input_derivative(x, t, pos_weight),
         v * grad * binary_cross_entropy_with_logits_input_second_derivative(x, t, pos_weight)}};
  }
};

struct BinaryCrossEntropy {
  template <class T>
  FUSEDGRAD_HOST_DEVICE T operator()(T p, T t) const {
    return binary_cross_entropy(p, t);
  }
};

struct WeightedBinaryCrossEntropy {
  template <class T>
  FUSEDGRAD_HOST_DEVICE T operator()(T p, T t, T w) const {
    return w * binary_cross_entropy(p, t);
  }
};

template <class S>
struct BinaryCrossEntropyBackward {
  using ForHalves = BinaryCrossEntropyBackward;
  S scale;
  FUSEDGRAD_HOST_DEVICE S operator()(S grad, S p, S t) const {
    return grad * scale * binary_cross_entropy_input_derivative(p, t);
  }
};

template <class S>
struct WeightedBinaryCrossEntropyBackward {
  S scale;
  FUSEDGRAD_HOST_DEVICE S operator()(S grad, S p, S t, S w) const {
    return grad * scale * w * binary_cross_entropy_input_derivative(p, t);
  }
};

template <class S>
struct BinaryCrossEntropyBackwardTarget {
  S scale;
  FUSEDGRAD_HOST_DEVICE S operator()(S grad, S p, S, S w) const {
    return grad * scale * w * binary_cross_entropy_target_derivative(p);
  }
};

template <class S>
struct BinaryCrossEntropyBackwardWeight {
  S scale;
  FUSEDGRAD_HOST_DEVICE S operator()(S grad, S p, S t, S) const {
    return grad * scale * binary_cross_entropy(p, t);
  }
};

template <class S>
struct BinaryCrossEntropyDoubleBackward {
  S scale;
  FUSEDGRAD_HOST_DEVICE Values<S, 2> operator()(S grad_grad, S grad, S p, S t, S w) const {
    const S v = grad_grad * scale * w;
    return {{v * binary_cross_entropy_input_derivative(p, t),
             v * grad * binary_cross_entropy_input_second_derivative(p, t)}};
  }
};

// grad times the derivative of the loss of probabilities by p, n times, and by t, n + m > 1: from
// (n-1)! ((-1)^n t / p^n + (1 - t) / (1 - p)^n), which is linear in t. Where the variance is kept
// from 0 the first derivative is (p - t) / kLeastVariance.
template <class S>
class BinaryCrossEntropyDerivative {
 public:
  static constexpr int kMost = 8;  // by p

  FUSEDGRAD_HOST_DEVICE BinaryCrossEntropyDerivative(S by_input, S by_target) : order_(by_input) {
    S factorial = 1;
    for (int k = 2; k < static_cast<int>(by_input); ++k) factorial *= k;
    const S sign = static_cast<int>(by_input) % 2 == 0 ? factorial : -factorial;
    // The coefficients of p^-n and (1 - p)^-n are linear_ t + constant_.
    const bool of_target = by_target == 0;
    linear_[0] = of_target ? sign : S(0);
    linear_[1] = of_target ? -factorial : S(0);
    constant_[0] = by_target == 1 ? sign : S(0);
    constant_[1] = of_target ? factorial : by_target == 1 ? -factorial : S(0);
    const S inverse = 1 / static_cast<S>(detail::kLeastVariance);
    clamped_ = by_input == 2 && by_target == 0   ? inverse
               : by_input == 1 && by_target == 1 ? -inverse
                                                 : S(0);
  }

  FUSEDGRAD_HOST_DEVICE S operator()(S grad, S p, S t) const {
    const S complement = 1 - p;
    const S lost = (1 - complement) - p;
    const S a = 1 / p, b = 1 / complement;
    // What the quotients lack, so that only the products below round
    const S rest_of_a = fma(-a, p, S(1));
    const S rest_of_b = fma(-b, lost, fma(-b, complement, S(1)));
    S left = fma(linear_[0], t, constant_[0]) * fma(order_, rest_of_a, S(1));
    S right = fma(linear_[1], t, constant_[1]) * fma(order_, rest_of_b, S(1));
    // By one factor after another: a power alone might overflow where t makes up for it.
#pragma GCC unroll 8
    for (int k = 0; k < kMost; ++k) {
      left *= order_ > static_cast<S>(k) ? a : S(1);
      right *= order_ > static_cast<S>(k) ? b : S(1);
    }
    const bool clamped = p * complement < static_cast<S>(detail::kLeastVariance);
    return grad * (clamped ? clamped_ : left + right);
  }

 private:
  S order_;
  S linear_[2];
  S constant_[2];
  S clamped_;
};

template <class S>
using BinaryCrossEntropyDerivativeBackward = DerivativeBackward<BinaryCrossEntropyDerivative, S>;

}  // namespace fusedgrad::math

// sigmoid(x) = 1 / (1 + exp(-x)) and its derivatives.
//
// Written in a = exp(-|x|), so that nothing overflows, and from x, because no formula in the
// rounded sigmoid recovers a derivative's tail: sigmoid' = a / (1 + a)^2 has every digit that 1 - y
// lost.
//
// Largest errors on a host, in ULP: float over all inputs, double over 4 million (csrc/accuracy;
// the bounds are tests/test_accuracy.py's).
#pragma once

#include "math/elementary.h"

namespace fusedgrad::math {

// 1 / (1 + exp(-x)) = c / (c + p + p s), p and c powers of two and c so small that p is finite: p s
// is exact, and what the sum and the quotient lose is put back.
// float 0.99: sigmoid(-0x1.4cbbe8p+2) got 0x1.67eb4p-8 want 0x1.67eb41f908de1p-8; double 0.92
template <class T>
FUSEDGRAD_HOST_DEVICE T sigmoid(T x) {
  constexpr T kC = 1 / Ranges<T>::kLift;
  constexpr int kLeast = static_cast<int>(Ranges<T>::kLeastExponent);
  const T y = between<kLeast, /*saturated=*/40>(x);
  const LiftedExp<T> exp = scaled_exp_of_minus(y, -Ranges<T>::kLiftBits);
  const Pair<T> denominator = sum(exp.power, kC, exp.power * exp.expm1.hi);
  return divide(kC, denominator).value();
}

namespace detail {

// a / (1 + a)^2 * kLift from a * kLift and 1 / (1 + a)
template <class T>
FUSEDGRAD_HOST_DEVICE T lifted_density(Pair<T> a, Reciprocal<T> r) {
  const Pair<T> q = r.times(a);
  return fma(q.hi, r.estimate, fma(q.hi, r.estimate * r.residual, q.lo * r.estimate));
}

}  // namespace detail

// a / (1 + a)^2 in half the instructions of the second derivative's: a backward that takes x must
// make up for the exponential that one from the rounded sigmoid does not need.
// float 2.38: at -0x1.6275dcp+2 got 0x1.ff6dcap-9 want 0x1.ff6dcec21f98p-9; double 2.33
template <class T>
FUSEDGRAD_HOST_DEVICE T sigmoid_derivative(T x) {
  constexpr T kLift = Ranges<T>::kLift;
  const T lifted = lifted_exp(-abs(x)).value().hi;
  return lifted / fma(lifted, fma(lifted, 1 / kLift, T(2)), kLift);
}

// -sigmoid'(x) tanh(x/2), tanh(|x|/2) = (1 - a) / (1 + a)
// float 2.20: at 0x1.056f66p-2 got -0x1.ffaa56p-6 want -0x1.ffaa5199e2cdap-6; double 1.99
template <class T>
FUSEDGRAD_HOST_DEVICE T sigmoid_second_derivative(T x) {
  constexpr T kUnlift = 1 / Ranges<T>::kLift;
  const LiftedExp<T> exp = lifted_exp(-abs(x));
  const Pair<T> a = exp.value();
  const Reciprocal<T> r = reciprocal_of_one_plus<T>({a.hi * kUnlift, a.lo * kUnlift});
  const Pair<T> tanh = r.times(exp.complement());
  const T signed_tanh = copysign(tanh.hi + tanh.lo, x);
  return detail::lifted_density(a, r) * -signed_tanh * kUnlift * kUnlift;
}

// For half types on a host, in float: of results that are rounded to 11 digits, 2^-17 is enough,
// and no digit that a rounding took is put back. (device.h has what a GPU's instructions make of
// it.) Largest errors in Float16, over every input: sigmoid 0.50006 at 0x1.6p-7, its derivative
// 0.50006 at 0x1.62p-1, tanh 0.50018 at 0x1.b1p+0, its derivative 0.50006 at 0x1.62p-2; in BFloat16
// every result is the nearest (test_half_types_are_correctly_rounded).
namespace brief {

// exp(-y) 2^scale = 2^(shifted + f), a normal number
struct Exp {
  float shifted;
  float f;

  // An integer added to an exponent costs no multiplication; a half's NaN, whose last bits are 0,
  // adds none.
  FUSEDGRAD_HOST_DEVICE float value() const {
    const float power = fma(f, BriefApproximations::exp2(f), 1.0f);
    return from_bits(to_bits(power) + (to_bits(shifted) << Format<float>::kMantissaBits));
  }
};

FUSEDGRAD_HOST_DEVICE Exp exp_of_minus(float y, int scale) {
  using C = Approximations<float>;
  const float shift = kRound<float> + static_cast<float>(scale);
  const float shifted = fma(y, -C::kLog2E, shift);
  return {shifted, fma(y, -C::kLog2E, shift - shifted)};
}

// c / (c + c exp(-x)), as above
FUSEDGRAD_HOST_DEVICE float sigmoid(float x) {
  constexpr float kC = 0x1p-40f;
  return kC / (exp_of_minus(between<-110, 40>(x), -40).value() + kC);
}

// factor a / (1 + a)^2, a = exp(-|y|)
FUSEDGRAD_HOST_DEVICE float logistic_density(float y, float factor) {
  constexpr float kLift = Ranges<float>::kLift;
  const float a = exp_of_minus(magnitude_up_to<110>(y), Ranges<float>::kLiftBits).value();
  return a / fma(a, fma(a, 1 / (factor * kLift), 2 / factor), kLift / factor);
}

}  // namespace brief

namespace detail {
inline constexpr int kLogisticTerms = 6;
}
template <class S, int kScale, int kCount = 2, int kTerms = detail::kLogisticTerms>
class LogisticDerivatives;  // logistic_derivatives.h

struct SigmoidBackward {
  struct ForHalves {
    FUSEDGRAD_HOST_DEVICE float operator()(float grad, float x) const {
      return grad * brief::logistic_density(x, 1);
    }
  };

  template <class T>
  FUSEDGRAD_HOST_DEVICE T operator()(T grad, T x) const {
    return grad * sigmoid_derivative(x);
  }
};

struct SigmoidDoubleBackward {
  template <class T>
  FUSEDGRAD_HOST_DEVICE Values<T, 2> operator()(T grad_grad, T grad, T x) const {
    return {{grad_grad * sigmoid_derivative(x), grad_grad * grad * sigmoid_second_derivative(x)}};
  }
};

struct Sigmoid {
  using Backward = SigmoidBackward;
  using DoubleBackward = SigmoidDoubleBackward;
  struct ForHalves {
    FUSEDGRAD_HOST_DEVICE float operator()(float x) const { return brief::sigmoid(x); }
  };
  template <class S>
  using Derivatives = LogisticDerivatives<S, 1>;
  // Several at once, and the greatest order of them
  template <class S, int kCount>
  using Several = LogisticDerivatives<S, 1, kCount, 3>;
  static constexpr int kMostOfSeveral = 6;

  template <class T>
  FUSEDGRAD_HOST_DEVICE T operator()(T x) const {
    return sigmoid(x);
  }
};

}  // namespace fusedgrad::math

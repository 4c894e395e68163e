// tanh(x) and its derivatives, in a = exp(-2|x|): sigmoid.h says why, and how errors are measured.
#pragma once

#include "math/elementary.h"
#include "math/sigmoid.h"

namespace fusedgrad::math {

// (1 - a) / (1 + a) with the sign of x, both times a power of two
// float 0.91: tanh(0x1.45382ap-3) got 0x1.428356p-3 want 0x1.42835431b13ffp-3; double 1.03
template <class T>
FUSEDGRAD_HOST_DEVICE T tanh(T x) {
  constexpr T kLift = Ranges<T>::kLift;
  const LiftedExp<T> exp = lifted_exp(-2 * abs(x));
  const T rest = exp.power * exp.expm1.hi;
  const Pair<T> complement = sum(kLift, -exp.power, -rest);
  const T complement_lo = fma(-exp.power, exp.expm1.lo, complement.lo);
  return copysign(divide<T>({complement.hi, complement_lo}, sum(kLift, exp.power, rest)).value(),
                  x);
}

// 4a / (1 + a)^2
// float 2.38: at -0x1.6275dcp+1 got 0x1.ff6dcap-7 want 0x1.ff6dcec21f98p-7; double 2.40
template <class T>
FUSEDGRAD_HOST_DEVICE T tanh_derivative(T x) {
  constexpr T kLift = Ranges<T>::kLift;
  const T lifted = lifted_exp(-2 * abs(x)).value().hi;
  return lifted / fma(lifted, fma(lifted, 1 / (4 * kLift), T(0.5)), kLift / 4);
}

// -2 tanh(x) tanh'(x)
// float 2.20: at 0x1.056f66p-3 got -0x1.ffaa56p-3 want -0x1.ffaa5199e2cdap-3; double 2.09
template <class T>
FUSEDGRAD_HOST_DEVICE T tanh_second_derivative(T x) {
  constexpr T kUnlift = 1 / Ranges<T>::kLift;
  const LiftedExp<T> exp = lifted_exp(-2 * abs(x));
  const Pair<T> a = exp.value();
  const Reciprocal<T> r = reciprocal_of_one_plus<T>({a.hi * kUnlift, a.lo * kUnlift});
  const Pair<T> tanh = r.times(exp.complement());
  const T signed_tanh = copysign(tanh.hi + tanh.lo, x);
  return detail::lifted_density(a, r) * -signed_tanh * (8 * kUnlift) * kUnlift;
}

namespace brief {

// (1 - a) / (1 + a): tanh(20) rounds to 1
FUSEDGRAD_HOST_DEVICE float tanh(float x) {
  const Exp exp = exp_of_minus(magnitude_up_to<40>(2 * x), Format<float>::kBias);
  const float power = power_of_two(exp.shifted);
  const float complement = fma(-power, exp.f * BriefApproximations::exp2(exp.f), 1 - power);
  return copysign(complement / (2 - complement), x);
}

}  // namespace brief

struct TanhBackward {
  struct ForHalves {
    FUSEDGRAD_HOST_DEVICE float operator()(float grad, float x) const {
      return grad * brief::logistic_density(2 * x, 4);
    }
  };

  template <class T>
  FUSEDGRAD_HOST_DEVICE T operator()(T grad, T x) const {
    return grad * tanh_derivative(x);
  }
};

struct TanhDoubleBackward {
  template <class T>
  FUSEDGRAD_HOST_DEVICE Values<T, 2> operator()(T grad_grad, T grad, T x) const {
    return {{grad_grad * tanh_derivative(x), grad_grad * grad * tanh_second_derivative(x)}};
  }
};

struct Tanh {
  using Backward = TanhBackward;
  using DoubleBackward = TanhDoubleBackward;
  struct ForHalves {
    FUSEDGRAD_HOST_DEVICE float operator()(float x) const { return brief::tanh(x); }
  };
  template <class S>
  using Derivatives = LogisticDerivatives<S, 2>;
  // Several at once, and the greatest order of them
  template <class S, int kCount>
  using Several = LogisticDerivatives<S, 2, kCount, 3>;
  static constexpr int kMostOfSeveral = 6;

  template <class T>
  FUSEDGRAD_HOST_DEVICE T operator()(T x) const {
    return tanh(x);
  }
};

}  // namespace fusedgrad::math

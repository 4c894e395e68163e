// tanh(x) and its derivatives, in a = exp(-2|x|): see sigmoid.h.
#pragma once

#include "math/elementary.h"
#include "math/sigmoid.h"

namespace fusedgrad::math {

// (1 - a) / (1 + a) with the sign of x
template <class T>
FUSEDGRAD_HOST_DEVICE T tanh(T x) {
  constexpr T kUnlift = 1 / Ranges<T>::kLift;
  const LiftedExp<T> exp = lifted_exp(-2 * abs(x));
  const Pair<T> a = exp.value();
  const Reciprocal<T> r = reciprocal_of_one_plus<T>({a.hi * kUnlift, a.lo * kUnlift});
  const Pair<T> y = r.times(exp.complement());
  return copysign((y.hi + y.lo) * kUnlift, x);
}

// 4a / (1 + a)^2
template <class T>
FUSEDGRAD_HOST_DEVICE T tanh_derivative(T x) {
  constexpr T kUnlift = 1 / Ranges<T>::kLift;
  const Pair<T> a = lifted_exp(-2 * abs(x)).value();
  const Reciprocal<T> r = reciprocal_of_one_plus<T>({a.hi * kUnlift, a.lo * kUnlift});
  return detail::lifted_density(a, r) * (4 * kUnlift);
}

// -2 tanh(x) tanh'(x)
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

struct Tanh {
  template <class T>
  FUSEDGRAD_HOST_DEVICE T operator()(T x) const {
    return tanh(x);
  }
};

struct TanhBackward {
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

}  // namespace fusedgrad::math

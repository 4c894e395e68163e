// Products with a derivative of any order, and what their backwards return. `Derivatives` is made
// from an order n, and its at(x) are the derivatives of orders n and n + 1.
//
//   DerivativesAt               f^(n)(x), f^(n+1)(x), and more where it has more
//   DerivativeTimes             g f^(n)(x)
//   DerivativeTimesBackward     of that, by a gradient h: h f^(n), h g f^(n+1)
//   DerivativeTimesTwoBackward  of h g f^(n), by a gradient c: c g f^(n), c h f^(n), c h g f^(n+1)
//
// The family of f is closed under differentiation with them: each result is again such a product.
// So is that of a function of two numbers, f^(i,j)(x, y) being i times by x and j times by y. There
// `Derivative` is made from i and j, and is itself a product:
//
//   Derivative                  g f^(i,j)(x, y)
//   DerivativeBackward          of that, by a gradient h: h f^(i,j), h g f^(i+1,j), h g f^(i,j+1)
#pragma once

#include "math/platform.h"

namespace fusedgrad::math {

template <class Derivatives>
struct DerivativesAt : Derivatives {
  using Derivatives::Derivatives;
  template <class T>
  FUSEDGRAD_HOST_DEVICE auto operator()(T x) const {
    return this->at(x);
  }
};

template <class Derivatives>
struct DerivativeTimes : Derivatives {
  using Derivatives::Derivatives;
  template <class T>
  FUSEDGRAD_HOST_DEVICE T operator()(T grad, T x) const {
    return grad * this->at(x).value[0];
  }
};

template <class Derivatives>
struct DerivativeTimesBackward : Derivatives {
  using Derivatives::Derivatives;
  template <class T>
  FUSEDGRAD_HOST_DEVICE Values<T, 2> operator()(T grad_grad, T grad, T x) const {
    const Values<T, 2> f = this->at(x);
    return {{grad_grad * f.value[0], grad_grad * grad * f.value[1]}};
  }
};

template <class Derivatives>
struct DerivativeTimesTwoBackward : Derivatives {
  using Derivatives::Derivatives;
  template <class T>
  FUSEDGRAD_HOST_DEVICE Values<T, 3> operator()(T grad, T first, T second, T x) const {
    const Values<T, 2> f = this->at(x);
    return {{grad * second * f.value[0], grad * first * f.value[0],
             grad * first * second * f.value[1]}};
  }
};

template <template <class> class Derivative, class S>
struct DerivativeBackward {
  Derivative<S> own, by_first, by_second;

  FUSEDGRAD_HOST_DEVICE DerivativeBackward(S i, S j)
      : own(i, j), by_first(i + 1, j), by_second(i, j + 1) {}

  FUSEDGRAD_HOST_DEVICE Values<S, 3> operator()(S grad_grad, S grad, S x, S y) const {
    const S product = grad_grad * grad;
    return {{own(grad_grad, x, y), by_first(product, x, y), by_second(product, x, y)}};
  }
};

// The products with the derivatives of a function of one element, `Function` being the functor of
// its value, and Function::Derivatives<S> its derivatives up to the order kMost.
template <class Function>
struct Products {
  template <class S>
  using Pair = DerivativesAt<typename Function::template Derivatives<S>>;
  template <class S>
  using Backward = DerivativeTimes<typename Function::template Derivatives<S>>;
  template <class S>
  using DoubleBackward = DerivativeTimesBackward<typename Function::template Derivatives<S>>;
  template <class S>
  using TripleBackward = DerivativeTimesTwoBackward<typename Function::template Derivatives<S>>;
};

template <class Function, int kCount>
struct SeveralDerivatives {
  template <class S>
  using At = DerivativesAt<typename Function::template Several<S, kCount>>;
};

// Whether it computes more than two derivatives at once, up to an order Function::kMostOfSeveral.
template <class Function>
inline constexpr bool kHasSeveral = requires { Function::kMostOfSeveral; };

// Whether it has shorter functors for the first order, Function::Backward and DoubleBackward.
template <class Function>
inline constexpr bool kHasFirstOrder = requires { typename Function::DoubleBackward; };

}  // namespace fusedgrad::math

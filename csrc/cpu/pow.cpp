#include "cpu/pow.h"

#include "cpu/jets.h"
#include "math/half_integers.h"
#include "math/power_derivatives.h"

namespace fusedgrad::cpu {
namespace {

template <template <int> class HalfInteger>
Kernel half_integer_or(double exponent, Kernel (*general)(double)) {
  return math::with_half_integer(
      exponent, [](auto twice) { return make_kernel<HalfInteger<decltype(twice)::value>>(); },
      [&] { return general(exponent); });
}

}  // namespace

Kernel pow_scalar(double exponent) {
  return half_integer_or<math::PowHalfInteger>(exponent, make_kernel<math::PowScalar>);
}
Kernel pow_scalar_backward(double exponent, double order) {
  if (order == 1) {
    return half_integer_or<math::PowHalfIntegerBackward>(exponent,
                                                         make_kernel<math::PowScalarBackward>);
  }
  return math::with_half_integer(
      exponent, order,
      [&](auto twice) {
        using Derivative = math::PowHalfIntegerDerivative<decltype(twice)::value>;
        return make_kernel<Derivative::template Times>(math::falling_factorial(exponent, order));
      },
      [&] { return make_kernel<math::PowScalarBackwardOfOrder>(exponent, order); });
}
Kernel pow_scalar_double_backward(double exponent, double order) {
  if (order != 1) return make_kernel<math::PowScalarDoubleBackwardOfOrder>(exponent, order);
  return half_integer_or<math::PowHalfIntegerDoubleBackward>(
      exponent, make_kernel<math::PowScalarDoubleBackward>);
}
Kernel pow_scalar_triple_backward(double exponent, double order) {
  return make_kernel<math::PowScalarTripleBackwardOfOrder>(exponent, order);
}
Kernel pow_scalar_derivatives(double exponent, double order) {
  return make_kernel<math::PowScalarDerivativesOfOrder>(exponent, order);
}

Kernel pow() { return make_kernel<math::Pow>(); }
Kernel pow_backward() { return make_kernel<math::PowBackward>(); }
Kernel pow_backward_input() { return make_kernel<math::PowBackwardInput>(); }
Kernel pow_backward_exponent() { return make_kernel<math::PowBackwardExponent>(); }
Kernel pow_double_backward() { return make_kernel<math::PowDoubleBackward>(); }
Kernel pow_derivative(double by_base, double by_exponent) {
  return make_kernel<math::PowDerivative>(by_base, by_exponent);
}
Kernel pow_derivative_backward(double by_base, double by_exponent) {
  return make_kernel<math::PowDerivativeBackward>(by_base, by_exponent);
}

}  // namespace fusedgrad::cpu

FUSEDGRAD_JETS(pow, Pow, /*exponent=*/0)

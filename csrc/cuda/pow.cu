#include "math/half_integers.h"
#include "math/power_derivatives.h"

#include "cuda/elementwise.cuh"

namespace fusedgrad::cuda {

namespace {

template <template <int> class HalfInteger, template <class> class General>
cudaError_t pow_of_number(DType dtype, const Elements& elements, double exponent,
                          cudaStream_t stream) {
  return math::with_half_integer(
      exponent,
      [&](auto twice) {
        return elementwise(dtype, elements, stream,
                           [](auto) { return HalfInteger<decltype(twice)::value>{}; });
      },
      [&] {
        return elementwise(dtype, elements, stream, [exponent](auto zero) {
          return General<decltype(zero)>{static_cast<decltype(zero)>(exponent)};
        });
      });
}

}  // namespace

cudaError_t pow_scalar(DType dtype, const Elements& elements, double exponent,
                       cudaStream_t stream) {
  return pow_of_number<math::PowHalfInteger, math::PowScalar>(dtype, elements, exponent, stream);
}

cudaError_t pow_scalar_backward(DType dtype, const Elements& elements, double exponent,
                                double order, cudaStream_t stream) {
  if (order == 1) {
    return pow_of_number<math::PowHalfIntegerBackward, math::PowScalarBackward>(dtype, elements,
                                                                                exponent, stream);
  }
  return math::with_half_integer(
      exponent, order,
      [&](auto twice) {
        return elementwise(dtype, elements, stream, [exponent, order](auto zero) {
          using T = decltype(zero);
          using Derivative = math::PowHalfIntegerDerivative<decltype(twice)::value>;
          return typename Derivative::template Times<T>{
              static_cast<T>(math::falling_factorial(exponent, order))};
        });
      },
      [&] {
        return with_two_parameters<math::PowScalarBackwardOfOrder>(dtype, elements, exponent, order,
                                                                   stream);
      });
}

cudaError_t pow_scalar_double_backward(DType dtype, const Elements& elements, double exponent,
                                       double order, cudaStream_t stream) {
  if (order != 1) {
    return with_two_parameters<math::PowScalarDoubleBackwardOfOrder>(dtype, elements, exponent,
                                                                     order, stream);
  }
  return pow_of_number<math::PowHalfIntegerDoubleBackward, math::PowScalarDoubleBackward>(
      dtype, elements, exponent, stream);
}

FUSEDGRAD_ELEMENTWISE_WITH_TWO_PARAMETERS(pow_scalar_triple_backward,
                                          math::PowScalarTripleBackwardOfOrder)

FUSEDGRAD_ELEMENTWISE(pow, math::Pow)
FUSEDGRAD_ELEMENTWISE(pow_backward, math::PowBackward)
FUSEDGRAD_ELEMENTWISE(pow_backward_input, math::PowBackwardInput)
FUSEDGRAD_ELEMENTWISE(pow_backward_exponent, math::PowBackwardExponent)
FUSEDGRAD_ELEMENTWISE(pow_double_backward, math::PowDoubleBackward)

FUSEDGRAD_ELEMENTWISE_WITH_TWO_PARAMETERS(pow_derivative, math::PowDerivative)
FUSEDGRAD_ELEMENTWISE_WITH_TWO_PARAMETERS(pow_derivative_backward, math::PowDerivativeBackward)

}  // namespace fusedgrad::cuda

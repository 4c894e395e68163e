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

template <template <class> class Functor>
cudaError_t with_two_parameters(DType dtype, const Elements& elements, double first, double second,
                                cudaStream_t stream) {
  return elementwise(dtype, elements, stream, [first, second](auto zero) {
    using T = decltype(zero);
    return Functor<T>{static_cast<T>(first), static_cast<T>(second)};
  });
}

}  // namespace

cudaError_t pow_scalar(DType dtype, const Elements& elements, double exponent,
                       cudaStream_t stream) {
  return pow_of_number<math::PowHalfInteger, math::PowScalar>(dtype, elements, exponent, stream);
}

cudaError_t pow_scalar_backward(DType dtype, const Elements& elements, double exponent,
                                double order, cudaStream_t stream) {
  if (order != 1) {
    return with_two_parameters<math::PowScalarBackwardOfOrder>(dtype, elements, exponent, order,
                                                               stream);
  }
  return pow_of_number<math::PowHalfIntegerBackward, math::PowScalarBackward>(dtype, elements,
                                                                              exponent, stream);
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

cudaError_t pow_scalar_triple_backward(DType dtype, const Elements& elements, double exponent,
                                       double order, cudaStream_t stream) {
  return with_two_parameters<math::PowScalarTripleBackwardOfOrder>(dtype, elements, exponent, order,
                                                                   stream);
}

FUSEDGRAD_ELEMENTWISE(pow, math::Pow)
FUSEDGRAD_ELEMENTWISE(pow_backward, math::PowBackward)
FUSEDGRAD_ELEMENTWISE(pow_backward_input, math::PowBackwardInput)
FUSEDGRAD_ELEMENTWISE(pow_backward_exponent, math::PowBackwardExponent)
FUSEDGRAD_ELEMENTWISE(pow_double_backward, math::PowDoubleBackward)

cudaError_t pow_derivative(DType dtype, const Elements& elements, double by_base,
                           double by_exponent, cudaStream_t stream) {
  return with_two_parameters<math::PowDerivative>(dtype, elements, by_base, by_exponent, stream);
}

}  // namespace fusedgrad::cuda

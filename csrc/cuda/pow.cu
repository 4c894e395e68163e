#include "math/pow.h"

#include "cuda/elementwise.cuh"

namespace fusedgrad::cuda {

namespace {

// Calls run(std::integral_constant<int, K>()) for an exponent K/2 that has a kernel of its own:
// products, a square root or a reciprocal instead of a logarithm and an exponential. Returns false
// for all other exponents.
template <class Run>
bool with_half_integer(double exponent, cudaError_t* error, const Run& run) {
  const auto choose = [&](auto... twice) {
    return ((exponent * 2 == twice() && (*error = run(twice), true)) || ...);
  };
  return choose(std::integral_constant<int, -4>(), std::integral_constant<int, -2>(),
                std::integral_constant<int, -1>(), std::integral_constant<int, 1>(),
                std::integral_constant<int, 4>(), std::integral_constant<int, 6>());
}

}  // namespace

#define FUSEDGRAD_POW_SCALAR(name, HalfInteger, General)                                          \
  cudaError_t name(DType dtype, const Elements& elements, double exponent, cudaStream_t stream) { \
    cudaError_t error;                                                                            \
    const bool half_integer = with_half_integer(exponent, &error, [&](auto twice) {               \
      return elementwise(dtype, elements, stream,                                                 \
                         [](auto) { return HalfInteger<decltype(twice)::value>{}; });             \
    });                                                                                           \
    if (half_integer) return error;                                                               \
    return elementwise(dtype, elements, stream, [exponent](auto zero) {                           \
      return General<decltype(zero)>{static_cast<decltype(zero)>(exponent)};                      \
    });                                                                                           \
  }

FUSEDGRAD_POW_SCALAR(pow_scalar, math::PowHalfInteger, math::PowScalar)
FUSEDGRAD_POW_SCALAR(pow_scalar_backward, math::PowHalfIntegerBackward, math::PowScalarBackward)
FUSEDGRAD_POW_SCALAR(pow_scalar_double_backward, math::PowHalfIntegerDoubleBackward,
                     math::PowScalarDoubleBackward)

#undef FUSEDGRAD_POW_SCALAR

FUSEDGRAD_ELEMENTWISE(pow, math::Pow)
FUSEDGRAD_ELEMENTWISE(pow_backward, math::PowBackward)
FUSEDGRAD_ELEMENTWISE(pow_backward_input, math::PowBackwardInput)
FUSEDGRAD_ELEMENTWISE(pow_backward_exponent, math::PowBackwardExponent)
FUSEDGRAD_ELEMENTWISE(pow_double_backward, math::PowDoubleBackward)

}  // namespace fusedgrad::cuda

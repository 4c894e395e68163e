// The launchers of a function of one tensor and of the products with its derivatives, which are
// made from its functor (math/products.h):
//
//   FUSEDGRAD_UNARY_LAUNCHERS(sigmoid, Sigmoid)  // math::Sigmoid
//
// is all that such an operation says on this floor.
#pragma once

#include "cuda/elementwise.cuh"
#include "math/products.h"

#define FUSEDGRAD_UNARY_LAUNCHERS(name, Function)                                         \
  namespace fusedgrad::cuda {                                                             \
  FUSEDGRAD_ELEMENTWISE(name, math::Function)                                             \
  cudaError_t name##_backward(DType dtype, const Elements& elements, double order,        \
                              cudaStream_t stream) {                                      \
    return detail::backward<math::Function>(dtype, elements, order, stream);              \
  }                                                                                       \
  cudaError_t name##_double_backward(DType dtype, const Elements& elements, double order, \
                                     cudaStream_t stream) {                               \
    return detail::double_backward<math::Function>(dtype, elements, order, stream);       \
  }                                                                                       \
  FUSEDGRAD_ELEMENTWISE_WITH_PARAMETER(name##_triple_backward,                            \
                                       math::Products<math::Function>::TripleBackward)    \
  }

namespace fusedgrad::cuda::detail {

template <template <class> class Functor>
cudaError_t of_order(DType dtype, const Elements& elements, double order, cudaStream_t stream) {
  return elementwise(dtype, elements, stream, [order](auto zero) {
    return Functor<decltype(zero)>{static_cast<decltype(zero)>(order)};
  });
}

template <class Function>
cudaError_t backward(DType dtype, const Elements& elements, double order, cudaStream_t stream) {
  if constexpr (math::kHasFirstOrder<Function>) {
    using First = typename Function::Backward;
    if (order == 1) return elementwise(dtype, elements, stream, [](auto) { return First{}; });
  }
  return of_order<math::Products<Function>::template Backward>(dtype, elements, order, stream);
}

template <class Function>
cudaError_t double_backward(DType dtype, const Elements& elements, double order,
                            cudaStream_t stream) {
  if constexpr (math::kHasFirstOrder<Function>) {
    using First = typename Function::DoubleBackward;
    if (order == 1) return elementwise(dtype, elements, stream, [](auto) { return First{}; });
  }
  return of_order<math::Products<Function>::template DoubleBackward>(dtype, elements, order,
                                                                     stream);
}

}  // namespace fusedgrad::cuda::detail

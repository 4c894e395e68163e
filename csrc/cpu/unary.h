// The kernels of a function of one tensor and of the products with its derivatives, which are made
// from its functor (math/products.h):
//
//   FUSEDGRAD_UNARY_KERNELS(sigmoid, Sigmoid)  // math::Sigmoid
//
// is all that such an operation says on this floor. FUSEDGRAD_DECLARE_UNARY_KERNELS(sigmoid)
// declares them where they are used.
#pragma once

#include "cpu/kernel.h"
#include "math/products.h"

#define FUSEDGRAD_DECLARE_UNARY_KERNELS(name)                                                 \
  namespace fusedgrad::cpu {                                                                  \
  Kernel name();                               /* (x) */                                      \
  Kernel name##_backward(double order);        /* (grad, x) */                                \
  Kernel name##_double_backward(double order); /* (grad_grad, grad, x) -> for grad, x */      \
  Kernel name##_triple_backward(double order); /* (grad, first, second, x) -> all but grad */ \
  /* (x) -> of this order and the next, or of as many orders as there are to be */            \
  Kernel name##_derivatives(double order, int count);                                         \
  }

#define FUSEDGRAD_UNARY_KERNELS(name, Function)                                            \
  FUSEDGRAD_DECLARE_UNARY_KERNELS(name)                                                    \
  namespace fusedgrad::cpu {                                                               \
  Kernel name() { return make_kernel<math::Function>(); }                                  \
  Kernel name##_backward(double order) { return detail::backward<math::Function>(order); } \
  Kernel name##_double_backward(double order) {                                            \
    return detail::double_backward<math::Function>(order);                                 \
  }                                                                                        \
  Kernel name##_triple_backward(double order) {                                            \
    return make_kernel<math::Products<math::Function>::TripleBackward>(order);             \
  }                                                                                        \
  Kernel name##_derivatives(double order, int count) {                                     \
    return detail::derivatives<math::Function>(order, count);                              \
  }                                                                                        \
  }

namespace fusedgrad::cpu::detail {

template <class Function>
Kernel backward(double order) {
  if constexpr (math::kHasFirstOrder<Function>) {
    if (order == 1) return make_kernel<typename Function::Backward>();
  }
  return make_kernel<math::Products<Function>::template Backward>(order);
}

template <class Function>
Kernel double_backward(double order) {
  if constexpr (math::kHasFirstOrder<Function>) {
    if (order == 1) return make_kernel<typename Function::DoubleBackward>();
  }
  return make_kernel<math::Products<Function>::template DoubleBackward>(order);
}

template <class Function>
Kernel derivatives(double order, [[maybe_unused]] int count) {
  if constexpr (math::kHasSeveral<Function>) {
    if (order + count - 1 <= Function::kMostOfSeveral) {
      if (count == 3) return make_kernel<math::SeveralDerivatives<Function, 3>::template At>(order);
      if (count == 4) return make_kernel<math::SeveralDerivatives<Function, 4>::template At>(order);
      if (count == 5) return make_kernel<math::SeveralDerivatives<Function, 5>::template At>(order);
    }
  }
  return make_kernel<math::Products<Function>::template Pair>(order);
}

}  // namespace fusedgrad::cpu::detail

// Launching the elementwise kernel.
//
//   FUSEDGRAD_ELEMENTWISE(sigmoid, math::Sigmoid)
//
// is all an operation says on this floor.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/elementwise_kernel.cuh"
#include "cuda/launch.h"
#include "cuda/packing.h"

namespace fusedgrad::cuda {

// Calls body with a null pointer of the element type, the way to hand a type to a generic lambda.
template <class Body>
cudaError_t with_element(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::Float64:
      return body(static_cast<double*>(nullptr));
    case DType::Float32:
      return body(static_cast<float*>(nullptr));
    case DType::Float16:
      return body(static_cast<__half*>(nullptr));
    case DType::BFloat16:
      return body(static_cast<__nv_bfloat16*>(nullptr));
  }
  return cudaErrorInvalidValue;
}

template <class Operands, class Functor>
cudaError_t launch_elementwise(const Functor& functor, const Operands& operands, int64_t numel,
                               cudaStream_t stream) {
  const Tiles tiles(numel, Operands::kTile, Operands::kTile / Operands::kChunks);
  elementwise_kernel<Functor, Operands><<<tiles.blocks(), kThreads, 0, stream>>>(
      functor, operands, tiles.full, tiles.rest, tiles.size);
  return cudaGetLastError();
}

// make(T()) is the functor for the type T it computes in.
template <class MakeFunctor>
cudaError_t elementwise(DType dtype, const Elements& elements, cudaStream_t stream,
                        const MakeFunctor& make) {
  if (elements.numel == 0) return cudaSuccess;
  return with_element(dtype, [&](auto* type) {
    using Element = std::remove_pointer_t<decltype(type)>;
    using T = Argument<Element>;
    const auto functor = make(T());
    using Call = Signature<std::remove_const_t<decltype(functor)>, T>;
    if (elements.operands != Call::kOutputs + Call::kInputs) return cudaErrorInvalidValue;
    constexpr int kOperands = Call::kOutputs + Call::kInputs;
    if (is_contiguous(elements, Call::kOutputs, sizeof(Element))) {
      using Aligned = Contiguous<Element, Call::kOutputs, Call::kInputs>;
      const Aligned operands{contiguous_addresses<kOperands>(elements)};
      return launch_elementwise(functor, operands, elements.numel, stream);
    }
    return in_parts(elements, [&](const Elements& part) {
      using Any = Strided<Element, Call::kOutputs, Call::kInputs>;
      const Any operands{strided_addresses<kOperands>(part)};
      return launch_elementwise(functor, operands, part.numel, stream);
    });
  });
}

// For a functor that carries two numbers of the type it computes in.
template <template <class> class Functor>
cudaError_t with_two_parameters(DType dtype, const Elements& elements, double first, double second,
                                cudaStream_t stream) {
  return elementwise(dtype, elements, stream, [first, second](auto zero) {
    using T = decltype(zero);
    return Functor<T>{static_cast<T>(first), static_cast<T>(second)};
  });
}

}  // namespace fusedgrad::cuda

#define FUSEDGRAD_ELEMENTWISE(name, Functor)                                     \
  cudaError_t name(DType dtype, const Elements& elements, cudaStream_t stream) { \
    return elementwise(dtype, elements, stream, [](auto) { return Functor{}; }); \
  }

// For a functor that carries a number of the type it computes in.
#define FUSEDGRAD_ELEMENTWISE_WITH_PARAMETER(name, Functor)                                        \
  cudaError_t name(DType dtype, const Elements& elements, double parameter, cudaStream_t stream) { \
    return elementwise(dtype, elements, stream, [parameter](auto zero) {                           \
      return Functor<decltype(zero)>{static_cast<decltype(zero)>(parameter)};                      \
    });                                                                                            \
  }

#define FUSEDGRAD_ELEMENTWISE_WITH_TWO_PARAMETERS(name, Functor)                       \
  cudaError_t name(DType dtype, const Elements& elements, double first, double second, \
                   cudaStream_t stream) {                                              \
    return with_two_parameters<Functor>(dtype, elements, first, second, stream);       \
  }

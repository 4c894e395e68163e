// The elementwise kernel: any functor of csrc/math over any operands. Device code alone, which
// NVRTC compiles too.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "cuda/element.cuh"
#include "cuda/operands.cuh"
#include "cuda/tuning.h"
#include "math/platform.h"

namespace fusedgrad::cuda {

// How many numbers a functor returns, and each of them.
template <class T>
struct Results {
  static constexpr int kCount = 1;
  __device__ static T get(T result, int) { return result; }
};
template <class T, int N>
struct Results<math::Values<T, N>> {
  static constexpr int kCount = N;
  __device__ static T get(const math::Values<T, N>& result, int i) { return result.value[i]; }
};

// What a functor takes and gives, read from its operator().
template <class Functor, class T>
struct Signature {
  template <size_t... I>
  static constexpr bool takes(std::index_sequence<I...>) {
    return requires(const Functor& f) { f((static_cast<void>(I), T())...); };
  }
  template <size_t N = 1>
  static constexpr size_t arity() {
    static_assert(N <= kMaxOperands, "a functor takes at least one element");
    if constexpr (takes(std::make_index_sequence<N>())) {
      return N;
    } else {
      return arity<N + 1>();
    }
  }
  template <size_t... I>
  static auto call(std::index_sequence<I...>)
      -> decltype(std::declval<const Functor&>()((static_cast<void>(I), T())...));

  static constexpr int kInputs = arity();
  using Result = decltype(call(std::make_index_sequence<kInputs>()));
  static constexpr int kOutputs = Results<Result>::kCount;
};

// functor(x[0][e], x[1][e], ...). Fused functions are called with floats for half types too: their
// steps are not rounded to a half. A functor in two steps (math/pow_in_double.h) takes both.
template <class Element, class Functor, class T, int kInputs, int kElements, size_t... I>
__device__ auto call(const Functor& functor, const T (&x)[kInputs][kElements], int e,
                     std::index_sequence<I...>) {
  using A = Argument<Element>;
  if constexpr (!requires { functor(A(x[I][e])...); }) {
    return functor(x[I][e]...);
  } else if constexpr (std::is_same_v<A, float> && requires { functor.ordinary(x[I][e]...); }) {
    return functor.template second<false>(functor.template first<false>(x[I][e]...), x[I][e]...);
  } else {
    return functor(A(x[I][e])...);
  }
}

// The functor's results for elements as they lie in memory.
template <class Functor, class Raw, int kInputs, int kOutputs>
__device__ void evaluate(const Functor& functor, const Raw (&inputs)[kInputs],
                         Raw (&outputs)[kOutputs]) {
  using T = Compute<typename Raw::Element>;
  T x[kInputs][Raw::kElements];
  T y[kOutputs][Raw::kElements];
#pragma unroll
  for (int i = 0; i < kInputs; ++i) inputs[i].unpack(x[i]);
#pragma unroll
  for (int e = 0; e < Raw::kElements; ++e) {
    auto result = call<typename Raw::Element>(functor, x, e, std::make_index_sequence<kInputs>());
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) {
      y[i][e] = static_cast<T>(Results<decltype(result)>::get(result, i));
    }
  }
#pragma unroll
  for (int i = 0; i < kOutputs; ++i) outputs[i] = Raw::pack(y[i]);
}

// What a block does: a tile, or in the last block what rest there is. Of few elements a tile has
// the size of a chunk.
template <class Functor, class Operands>
__device__ __forceinline__ void evaluate_tile(const Functor& functor, const Operands& operands,
                                              uint32_t full_tiles, uint32_t rest, uint32_t size) {
  using Raw = typename Operands::Raw;
  const Bound<Operands> bound(blockIdx.x < full_tiles ? size : rest);
  const auto place = operands.place(blockIdx.x, size);
  Raw inputs[Operands::kChunks][Operands::kInputs];
  Raw outputs[Operands::kChunks][Operands::kOutputs];
  load(operands, place, bound, inputs);
#pragma unroll
  for (int c = 0; c < Operands::kChunks; ++c) {
    if (c == 1 && bound.is_short()) break;
    evaluate(functor, inputs[c], outputs[c]);
  }
  store(operands, place, bound, outputs);
}

template <class Functor, class Operands>
__global__ void __launch_bounds__(kThreads)
    elementwise_kernel(const __grid_constant__ Functor functor,
                       const __grid_constant__ Operands operands, uint32_t full_tiles,
                       uint32_t rest, uint32_t size) {
  evaluate_tile(functor, operands, full_tiles, rest, size);
}

}  // namespace fusedgrad::cuda

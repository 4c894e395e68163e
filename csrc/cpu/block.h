// A functor of csrc/math applied to elements that lie side by side. Includes next to nothing, so
// that a file made at run time compiles in a second.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "math/platform.h"

namespace fusedgrad::cpu {

inline constexpr int kMaxOperands = 32;

// outputs[i][k] = f(inputs[0][k], inputs[1][k], ...)[i] for k < n. An output may be an input.
template <class T>
using Block = void(const double* parameters, T* const* outputs, const T* const* inputs, int64_t n);

namespace detail {

template <class Functor, class T, size_t... I>
constexpr bool takes(std::index_sequence<I...>) {
  return requires(const Functor& f) { f((static_cast<void>(I), T())...); };
}

// The number of elements that a functor's operator() takes.
template <class Functor, class T, size_t N = 1>
constexpr int arity() {
  static_assert(N < kMaxOperands, "a functor takes at least one element, and gives one");
  if constexpr (takes<Functor, T>(std::make_index_sequence<N>())) {
    return N;
  } else {
    return arity<Functor, T, N + 1>();
  }
}

template <class T, class U>
struct Results;
template <class T>
struct Results<T, T> {
  static constexpr int count = 1;
  FUSEDGRAD_HOST_DEVICE static T get(T value, int) { return value; }
};
template <class T, int N>
struct Results<T, math::Values<T, N>> {
  static constexpr int count = N;
  FUSEDGRAD_HOST_DEVICE static T get(const math::Values<T, N>& values, int i) {
    return values.value[i];
  }
};

template <class Functor, class T, size_t... I>
auto call(std::index_sequence<I...>)
    -> decltype(std::declval<const Functor&>()((static_cast<void>(I), T())...));

template <class Functor, class T>
using ResultsOf =
    Results<T, decltype(call<Functor, T>(std::make_index_sequence<arity<Functor, T>()>()))>;

template <class Functor, class T, size_t... Out, size_t... In>
FUSEDGRAD_HOST_DEVICE void block_body(const Functor functor, T* const* outputs,
                                      const T* const* inputs, int64_t n,
                                      std::index_sequence<Out...>, std::index_sequence<In...>) {
  T* const out[] = {outputs[Out]...};
  const T* const in[] = {inputs[In]...};
// An output that is an input is the same element: nothing is carried from one k to the next.
#pragma GCC ivdep
  for (int64_t k = 0; k < n; ++k) {
    const auto result = functor(in[In][k]...);
    ((out[Out][k] = ResultsOf<Functor, T>::get(result, Out)), ...);
  }
}

}  // namespace detail

// The block of a functor, compiled for the instruction set of the function that calls it.
template <class T, class Functor>
FUSEDGRAD_HOST_DEVICE void apply(const Functor& functor, T* const* outputs, const T* const* inputs,
                                 int64_t n) {
  detail::block_body(functor, outputs, inputs, n,
                     std::make_index_sequence<detail::ResultsOf<Functor, T>::count>(),
                     std::make_index_sequence<detail::arity<Functor, T>()>());
}

}  // namespace fusedgrad::cpu

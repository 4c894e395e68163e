// A kernel: one operation's mathematics over a block of elements that lie side by side.
//
//   Kernel sigmoid() { return make_kernel<math::Sigmoid>(); }
//
// That is all an operation says on this floor. A functor of csrc/math becomes three vector loops
// (one for each instruction set) in float and in double; how elements come to lie side by side in
// that type, from any strides and any dtype, is walk.h's business.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "cpu/capability.h"
#include "math/platform.h"

namespace fusedgrad::cpu {

inline constexpr int kMaxParameters = 2;

// outputs[i][k] = f(inputs[0][k], inputs[1][k], ...)[i] for k < n. An output may be an input.
template <class T>
using Block = void(const double* parameters, T* const* outputs, const T* const* inputs, int64_t n);

struct Kernel {
  int outputs;
  int inputs;
  Block<float>* float32;  // Float16 and BFloat16 too: converted to float and rounded once
  Block<double>* float64;
  std::array<double, kMaxParameters> parameters;
};

namespace detail {

template <class Functor, class T, size_t... I>
constexpr bool takes(std::index_sequence<I...>) {
  return requires(const Functor& f) { f((static_cast<void>(I), T())...); };
}

// The number of elements that a functor's operator() takes.
template <class Functor, class T, size_t N = 1>
constexpr int arity() {
  static_assert(N <= 8, "a functor takes one to eight elements");
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

template <class Make, class T>
struct Loops {
  using Functor = decltype(Make::template make<T>(nullptr));
  using Out = std::make_index_sequence<ResultsOf<Functor, T>::count>;
  using In = std::make_index_sequence<arity<Functor, T>()>;

  FUSEDGRAD_TARGET_AVX512 static void avx512(const double* parameters, T* const* outputs,
                                             const T* const* inputs, int64_t n) {
    block_body(Make::template make<T>(parameters), outputs, inputs, n, Out(), In());
  }
  FUSEDGRAD_TARGET_AVX2 static void avx2(const double* parameters, T* const* outputs,
                                         const T* const* inputs, int64_t n) {
    block_body(Make::template make<T>(parameters), outputs, inputs, n, Out(), In());
  }
  FUSEDGRAD_TARGET_BASELINE static void baseline(const double* parameters, T* const* outputs,
                                                 const T* const* inputs, int64_t n) {
    block_body(Make::template make<T>(parameters), outputs, inputs, n, Out(), In());
  }
  static Block<T>* chosen() { return choose<Block<T>>(baseline, avx2, avx512); }
};

template <class Make>
Kernel kernel_of(std::array<double, kMaxParameters> parameters) {
  using Float = Loops<Make, float>;
  return {static_cast<int>(Float::Out::size()), static_cast<int>(Float::In::size()),
          Float::chosen(), Loops<Make, double>::chosen(), parameters};
}

template <class Functor>
struct MakePlain {
  template <class T>
  FUSEDGRAD_HOST_DEVICE static Functor make(const double*) {
    return {};
  }
};
template <template <class> class Functor>
struct MakeWithParameter {
  template <class T>
  FUSEDGRAD_HOST_DEVICE static Functor<T> make(const double* parameters) {
    return {static_cast<T>(parameters[0])};
  }
};

}  // namespace detail

template <class Functor>
Kernel make_kernel() {
  return detail::kernel_of<detail::MakePlain<Functor>>({});
}

// For a functor that carries a number of the type it computes in: an exponent, a scale.
template <template <class> class Functor>
Kernel make_kernel(double parameter) {
  return detail::kernel_of<detail::MakeWithParameter<Functor>>({parameter});
}

}  // namespace fusedgrad::cpu

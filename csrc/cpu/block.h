// A functor of csrc/math applied to elements that lie side by side. Includes next to nothing, so
// that a file made at run time compiles in a second.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "math/platform.h"

// Before a loop that carries nothing from one pass to the next, as far as memory goes.
#if defined(__clang__)
#define FUSEDGRAD_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#pragma clang diagnostic ignored "-Wpass-failed"  // said of each that stays scalar
#else
#define FUSEDGRAD_INDEPENDENT _Pragma("GCC ivdep")
#endif

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

template <int64_t tile, class Functor, class T, size_t... Out, size_t... In>
FUSEDGRAD_HOST_DEVICE void block_body(const Functor functor, T* const* outputs,
                                      const T* const* inputs, int64_t n,
                                      std::index_sequence<Out...>, std::index_sequence<In...>) {
  T* const out[] = {outputs[Out]...};
  const T* const in[] = {inputs[In]...};
  int64_t begin = 0;
  if constexpr (tile > 1) {
    for (; begin + tile <= n; begin += tile) {
      // Stored together at the end, since no load may pass a store that it cannot be told from.
      T results[sizeof...(Out)][tile];
      FUSEDGRAD_INDEPENDENT
      for (int64_t k = 0; k < tile; ++k) {
        const auto result = functor(in[In][begin + k]...);
        ((results[Out][k] = ResultsOf<Functor, T>::get(result, Out)), ...);
      }
      (__builtin_memcpy(out[Out] + begin, results[Out], sizeof(results[Out])), ...);
    }
  }
  // An output that is an input is the same element: nothing is carried from one k to the next.
  FUSEDGRAD_INDEPENDENT
  for (int64_t k = begin; k < n; ++k) {
    const auto result = functor(in[In][k]...);
    ((out[Out][k] = ResultsOf<Functor, T>::get(result, Out)), ...);
  }
}

// How many values a functor in two loops leaves between them: they stay in the first-level cache.
inline constexpr int64_t kBetween = 512;

template <bool kOrdinary, class Functor, class T, size_t... Out, size_t... In>
FUSEDGRAD_HOST_DEVICE void two_loops(const Functor functor, T* const* out, const T* const* in,
                                     int64_t begin, int64_t n, bool is_one,
                                     std::index_sequence<Out...>, std::index_sequence<In...>) {
  using Between = decltype(functor.template first<kOrdinary>(in[In][begin]...));
  const Between value = functor.template first<kOrdinary>(in[In][begin]...);
  if constexpr (kOrdinary) {  // of others g++ would vectorise no loop
    if (is_one) {
      // What of the second step is made of these two alone is computed once.
      const T one = in[Functor::kFirstReads][begin];
      FUSEDGRAD_INDEPENDENT
      for (int64_t k = 0; k < n; ++k) {
        const auto result = functor.template second<kOrdinary>(
            value, (In == Functor::kFirstReads ? one : in[In][begin + k])...);
        ((out[Out][begin + k] = ResultsOf<Functor, T>::get(result, Out)), ...);
      }
      return;
    }
  }
  Between between[kBetween];
  if (is_one) {
    for (int64_t k = 0; k < n; ++k) between[k] = value;
  } else {
    for (int64_t k = 0; k < n; ++k) {
      between[k] = functor.template first<kOrdinary>(in[In][begin + k]...);
    }
  }
  FUSEDGRAD_INDEPENDENT
  for (int64_t k = 0; k < n; ++k) {
    const auto result = functor.template second<kOrdinary>(between[k], in[In][begin + k]...);
    ((out[Out][begin + k] = ResultsOf<Functor, T>::get(result, Out)), ...);
  }
}

template <class Functor, class T, class Outs, size_t... In>
FUSEDGRAD_HOST_DEVICE void block_in_two_loops(const Functor functor, T* const* outputs,
                                              const T* const* inputs, int64_t n, Outs outs,
                                              std::index_sequence<In...> ins) {
  const T* const in[] = {inputs[In]...};
  for (int64_t begin = 0; begin < n; begin += kBetween) {
    const int64_t count = n - begin < kBetween ? n - begin : kBetween;
    int extraordinary = 0, different = 0;
    for (int64_t k = begin; k < begin + count; ++k) {
      extraordinary |= !functor.ordinary(in[In][k]...);
      different |= in[Functor::kFirstReads][k] != in[Functor::kFirstReads][begin];
    }
    if (extraordinary == 0) {
      two_loops<true>(functor, outputs, inputs, begin, count, different == 0, outs, ins);
    } else {
      two_loops<false>(functor, outputs, inputs, begin, count, different == 0, outs, ins);
    }
  }
}

// A functor may have, for float, its operator() in two steps and a cheaper form of both for
// operands that it calls ordinary: see math/pow_in_double.h. The first step reads one operand, and
// is taken once where that is one number, as the base of 2.5^x is.
template <class Functor, class T, size_t... In>
constexpr bool has_two_loops(std::index_sequence<In...>) {
  if constexpr (sizeof(T) == sizeof(float)) {
    return requires(const Functor& f) { f.ordinary((static_cast<void>(In), T())...); };
  } else {
    return false;
  }
}

// Of doubles the first step, `once`, is worth no loop of its own.
template <class Functor, class T, size_t... In>
constexpr bool takes_one_step_once(std::index_sequence<In...>) {
  if constexpr (sizeof(T) == sizeof(double)) {
    return requires(const Functor& f) { f.once((static_cast<void>(In), T())...); };
  } else {
    return false;
  }
}

template <class Functor, class T, size_t... Out, size_t... In>
FUSEDGRAD_HOST_DEVICE void block_with_one_step_once(const Functor functor, T* const* outputs,
                                                    const T* const* inputs, int64_t n,
                                                    std::index_sequence<Out...>,
                                                    std::index_sequence<In...>) {
  T* const out[] = {outputs[Out]...};
  const T* const in[] = {inputs[In]...};
  const auto value = functor.once(in[In][0]...);
  FUSEDGRAD_INDEPENDENT
  for (int64_t k = 0; k < n; ++k) {
    const auto result = functor.rest(value, in[In][k]...);
    ((out[Out][k] = ResultsOf<Functor, T>::get(result, Out)), ...);
  }
}

template <class Predicate, class T, size_t... In>
FUSEDGRAD_HOST_DEVICE bool holds_for_all(const Predicate predicate, const T* const* inputs,
                                         int64_t n, std::index_sequence<In...>) {
  const T* const in[] = {inputs[In]...};
  int failures = 0;
  for (int64_t k = 0; k < n; ++k) failures |= !predicate(in[In][k]...);
  return failures == 0;
}

}  // namespace detail

// Whether a predicate, a functor whose result is a bool, holds for all elements.
template <class T, class Predicate>
FUSEDGRAD_HOST_DEVICE bool holds_for_all(const Predicate& predicate, const T* const* inputs,
                                         int64_t n) {
  return detail::holds_for_all(predicate, inputs, n,
                               std::make_index_sequence<detail::arity<Predicate, T>()>());
}

// The tile of a file that is compiled for one instruction set, as those made at run time are: three
// vectors of 512 bits. A fourth gains a tenth where there is one output, and where there are three
// there are no registers left for it, and half the speed is lost.
#if defined(__AVX512F__)
template <class T>
inline constexpr int64_t kTile = 192 / sizeof(T);
#else
template <class T>
inline constexpr int64_t kTile = 1;
#endif

// The tile of a function of several chains one after the other, in a block that is scheduled. A
// processor with vectors of 256 bits sees too few of them ahead: four vectors in turn take two
// thirds of the time, for all that 16 registers can't hold. A short function would lose a tenth.
#if defined(__AVX2__) && !defined(__AVX512F__) && !defined(__clang__)
#define FUSEDGRAD_SCHEDULED __attribute__((optimize("schedule-insns", "sched-pressure")))
template <class T>
inline constexpr int64_t kLongTile = 128 / sizeof(T);
#else
#define FUSEDGRAD_SCHEDULED
template <class T>
inline constexpr int64_t kLongTile = kTile<T>;
#endif

// The block of a functor, compiled for the instruction set of the function that calls it. Where the
// compiler schedules and has registers for it, the vectors of a tile are computed side by side:
// each is a chain of a hundred cycles and more, and a processor that looks 450 instructions ahead
// finds too little to do in one after another.
template <class T, int64_t tile = kTile<T>, class Functor>
FUSEDGRAD_HOST_DEVICE void apply(const Functor& functor, T* const* outputs, const T* const* inputs,
                                 int64_t n) {
  constexpr auto outs = std::make_index_sequence<detail::ResultsOf<Functor, T>::count>();
  constexpr auto ins = std::make_index_sequence<detail::arity<Functor, T>()>();
  if constexpr (detail::has_two_loops<Functor, T>(ins)) {
    detail::block_in_two_loops(functor, outputs, inputs, n, outs, ins);
  } else {
    detail::block_body<tile>(functor, outputs, inputs, n, outs, ins);
  }
}

// Whether a functor has a step that can be taken once for a block, and the block in which what it
// reads, the operand kFirstReads, is one number.
template <class Functor, class T>
constexpr bool has_one_step_once() {
  constexpr auto ins = std::make_index_sequence<detail::arity<Functor, T>()>();
  return detail::takes_one_step_once<Functor, T>(ins);
}

template <class T, class Functor>
FUSEDGRAD_HOST_DEVICE void apply_once(const Functor& functor, T* const* outputs,
                                      const T* const* inputs, int64_t n) {
  constexpr auto outs = std::make_index_sequence<detail::ResultsOf<Functor, T>::count>();
  constexpr auto ins = std::make_index_sequence<detail::arity<Functor, T>()>();
  detail::block_with_one_step_once(functor, outputs, inputs, n, outs, ins);
}

}  // namespace fusedgrad::cpu

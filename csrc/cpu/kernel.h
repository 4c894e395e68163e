// A kernel: one operation's mathematics over a block of elements that lie side by side.
//
//   Kernel sigmoid() { return make_kernel<math::Sigmoid>(); }
//
// That is all an operation says on this floor. A functor of csrc/math becomes three vector loops
// (one for each instruction set) in float and in double; how elements come to lie side by side in
// that type, from any strides and any dtype, is walk.h's business.
#pragma once

#include <array>
#include <cstdint>
#include <type_traits>

#include "cpu/block.h"
#include "cpu/capability.h"
#include "cpu/halves.h"

namespace fusedgrad::cpu {

inline constexpr int kMaxParameters = 8;

// Four vectors of 512 bits: 32 registers hold what they need.
inline constexpr int64_t kTileBytes = 256;

struct Kernel {
  int outputs;
  int inputs;
  Block<float>* float32;
  Block<double>* float64;
  std::array<double, kMaxParameters> parameters;
  // If there are such: of no more digits than a half type keeps
  Block<float>* short_float32 = nullptr;
  Block<math::Float16>* float16 = nullptr;
  Block<math::BFloat16>* bfloat16 = nullptr;

  // For Float16 and BFloat16, which are converted to float and rounded once
  Block<float>* halves() const { return short_float32 != nullptr ? short_float32 : float32; }
};

namespace detail {

// Whether n > 0 elements have the same bits, in steps that end at the first other ones
template <class T>
bool is_one_number(const T* elements, int64_t n) {
  constexpr int64_t kStep = 64;
  const math::Bits<T> one = math::to_bits(elements[0]);
  for (int64_t begin = 0; begin < n; begin += kStep) {
    const int64_t end = begin + kStep < n ? begin + kStep : n;
    math::Bits<T> different = 0;
    for (int64_t k = begin; k < end; ++k) different |= math::to_bits(elements[k]) ^ one;
    if (different != 0) return false;
  }
  return true;
}

template <class Make, class T>
struct Loops {
  using Functor = decltype(Make::template make<T>(nullptr));
  static constexpr int kOutputs = ResultsOf<Functor, T>::count;
  static constexpr int kInputs = arity<Functor, T>();

  FUSEDGRAD_TARGET_AVX512 static void avx512(const double* parameters, T* const* outputs,
                                             const T* const* inputs, int64_t n) {
    apply<T, kTileBytes / sizeof(T)>(Make::template make<T>(parameters), outputs, inputs, n);
  }
  FUSEDGRAD_TARGET_AVX2 static void avx2(const double* parameters, T* const* outputs,
                                         const T* const* inputs, int64_t n) {
    apply<T, 1>(Make::template make<T>(parameters), outputs, inputs, n);
  }
  FUSEDGRAD_TARGET_BASELINE static void baseline(const double* parameters, T* const* outputs,
                                                 const T* const* inputs, int64_t n) {
    apply<T, 1>(Make::template make<T>(parameters), outputs, inputs, n);
  }
  static Block<T>* chosen() {
    if constexpr (cpu::has_one_step_once<Functor, T>()) {
      return choose<Block<T>>(WithOnce<baseline, once_baseline>::block,
                              WithOnce<avx2, once_avx2>::block,
                              WithOnce<avx512, once_avx512>::block);
    } else {
      return choose<Block<T>>(baseline, avx2, avx512);
    }
  }

 private:
  FUSEDGRAD_TARGET_AVX512 static void once_avx512(const double* parameters, T* const* outputs,
                                                  const T* const* inputs, int64_t n) {
    apply_once<T>(Make::template make<T>(parameters), outputs, inputs, n);
  }
  FUSEDGRAD_TARGET_AVX2 static void once_avx2(const double* parameters, T* const* outputs,
                                              const T* const* inputs, int64_t n) {
    apply_once<T>(Make::template make<T>(parameters), outputs, inputs, n);
  }
  FUSEDGRAD_TARGET_BASELINE static void once_baseline(const double* parameters, T* const* outputs,
                                                      const T* const* inputs, int64_t n) {
    apply_once<T>(Make::template make<T>(parameters), outputs, inputs, n);
  }

  // A function for each of both loops: in one, GCC vectorises neither.
  template <Block<T>* whole, Block<T>* once>
  struct WithOnce {
    static void block(const double* parameters, T* const* outputs, const T* const* inputs,
                      int64_t n) {
      const bool is_one = n > 0 && is_one_number(inputs[Functor::kFirstReads], n);
      (is_one ? once : whole)(parameters, outputs, inputs, n);
    }
  };
};

// The functor that a functor names for half types, which has the same numbers
template <class Make>
struct MakeForHalves {
  template <class T>
  FUSEDGRAD_HOST_DEVICE static auto make(const double* parameters) {
    using ForHalves = typename decltype(Make::template make<float>(nullptr))::ForHalves;
    if constexpr (std::is_empty_v<ForHalves>) {
      return ForHalves{};
    } else {
      return ForHalves{Make::template make<float>(parameters)};
    }
  }
};

template <class Make>
Kernel kernel_of(std::array<double, kMaxParameters> parameters) {
  using Float = Loops<Make, float>;
  Kernel kernel = {Float::kOutputs, Float::kInputs, Float::chosen(), Loops<Make, double>::chosen(),
                   parameters};
  if constexpr (requires { typename Float::Functor::ForHalves; }) {
    using Halves = MakeForHalves<Make>;
    if constexpr (!std::is_same_v<typename Float::Functor, typename Float::Functor::ForHalves>) {
      kernel.short_float32 = Loops<Halves, float>::chosen();
    }
    using Functor = typename Loops<Halves, float>::Functor;
    if constexpr (!has_two_loops<Functor, float>(std::make_index_sequence<Float::kInputs>())) {
      kernel.float16 = HalfLoops<Halves, math::Float16>::chosen();
      kernel.bfloat16 = HalfLoops<Halves, math::BFloat16>::chosen();
    }
  }
  return kernel;
}

template <class Functor>
struct MakePlain {
  template <class T>
  FUSEDGRAD_HOST_DEVICE static Functor make(const double*) {
    return {};
  }
};
template <template <class> class Functor>
struct MakeOfType {
  template <class T>
  FUSEDGRAD_HOST_DEVICE static Functor<T> make(const double*) {
    return {};
  }
};
template <template <class> class Functor>
struct MakeWithParameter {
  template <class T>
  FUSEDGRAD_HOST_DEVICE static Functor<T> make(const double* parameters) {
    return Functor<T>{static_cast<T>(parameters[0])};
  }
};
template <template <class> class Functor>
struct MakeWithTwoParameters {
  template <class T>
  FUSEDGRAD_HOST_DEVICE static Functor<T> make(const double* parameters) {
    return Functor<T>{static_cast<T>(parameters[0]), static_cast<T>(parameters[1])};
  }
};

}  // namespace detail

template <class Functor>
Kernel make_kernel() {
  return detail::kernel_of<detail::MakePlain<Functor>>({});
}

// For a functor of the type it computes in, which may carry numbers: an exponent, a scale.
template <template <class> class Functor>
Kernel make_kernel() {
  return detail::kernel_of<detail::MakeOfType<Functor>>({});
}
template <template <class> class Functor>
Kernel make_kernel(double parameter) {
  return detail::kernel_of<detail::MakeWithParameter<Functor>>({parameter});
}
template <template <class> class Functor>
Kernel make_kernel(double first, double second) {
  return detail::kernel_of<detail::MakeWithTwoParameters<Functor>>({first, second});
}

}  // namespace fusedgrad::cpu

// A functor of csrc/math applied to half types where they lie: conversion, arithmetic and rounding
// in registers, for functions so short that passes over a buffer of floats would cost as much as
// they do. Longer functions, those in two loops, and processors with fewer registers are left to
// walk.cpp, which makes such passes.
#pragma once

#include "cpu/block.h"
#include "cpu/capability.h"
#include "math/half.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fusedgrad::cpu::detail {

// Elements that are floats at a time: four vectors of 512 bits, as those of kernel.h
inline constexpr int64_t kHalfTile = 64;

#if defined(__x86_64__)
// GCC warns of the instructions without a mask, that their result is not initialised.
inline constexpr __mmask16 kAll = 0xffff;

#define FUSEDGRAD_IN_AVX512 __attribute__((target("arch=x86-64-v4"), always_inline)) inline

// A functor doesn't see its elements' order: of each 32 those at even places come first, then the
// others, and a shift and a mask are all it takes.
FUSEDGRAD_IN_AVX512 void widen(const math::BFloat16* source, float* tile) {
  for (int64_t k = 0; k < kHalfTile; k += 32) {
    const __m512i pairs = _mm512_loadu_si512(source + k);
    const __m512i odd = _mm512_set1_epi32(static_cast<int>(0xffff0000));
    _mm512_storeu_si512(tile + k, _mm512_maskz_slli_epi32(kAll, pairs, 16));
    _mm512_storeu_si512(tile + k + 16, _mm512_and_si512(pairs, odd));
  }
}

// In the upper half of a word. A NaN stays one if it comes of an operand or of arithmetic: then its
// lower half is 0.
FUSEDGRAD_IN_AVX512 __m512i rounded_to_bfloat16(const float* sixteen) {
  const __m512i bits = _mm512_loadu_si512(sixteen);
  const __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
  return _mm512_mask_sub_epi32(rounded, odd, rounded, _mm512_set1_epi32(-1));
}

FUSEDGRAD_IN_AVX512 void narrow(const float* tile, math::BFloat16* target) {
  constexpr __mmask32 kEven = 0x55555555;
  for (int64_t k = 0; k < kHalfTile; k += 32) {
    const __m512i even = _mm512_maskz_srli_epi32(kAll, rounded_to_bfloat16(tile + k), 16);
    const __m512i odd = rounded_to_bfloat16(tile + k + 16);
    _mm512_storeu_si512(target + k, _mm512_mask_mov_epi16(odd, kEven, even));
  }
}

FUSEDGRAD_IN_AVX512 void widen(const math::Float16* source, float* tile) {
  for (int64_t k = 0; k < kHalfTile; k += 16) {
    const void* const sixteen = source + k;
    const __m256i halves = _mm256_loadu_si256(static_cast<const __m256i*>(sixteen));
    _mm512_storeu_ps(tile + k, _mm512_maskz_cvtph_ps(kAll, halves));
  }
}

FUSEDGRAD_IN_AVX512 void narrow(const float* tile, math::Float16* target) {
  for (int64_t k = 0; k < kHalfTile; k += 16) {
    void* const sixteen = target + k;
    const __m512 floats = _mm512_loadu_ps(tile + k);
    _mm256_storeu_si256(static_cast<__m256i*>(sixteen),
                        _mm512_maskz_cvtps_ph(kAll, floats, _MM_FROUND_TO_NEAREST_INT));
  }
}

#undef FUSEDGRAD_IN_AVX512
#endif

template <class Functor, size_t... Out, size_t... In>
FUSEDGRAD_HOST_DEVICE void tile_body(const Functor& functor, float (*out)[kHalfTile],
                                     const float (*in)[kHalfTile], std::index_sequence<Out...>,
                                     std::index_sequence<In...>) {
  FUSEDGRAD_INDEPENDENT
  for (int64_t k = 0; k < kHalfTile; ++k) {
    const auto result = functor(in[In][k]...);
    ((out[Out][k] = ResultsOf<Functor, float>::get(result, Out)), ...);
  }
}

template <class Make, class Half>
struct HalfLoops {
  using Functor = decltype(Make::template make<float>(nullptr));
  static constexpr int kOutputs = ResultsOf<Functor, float>::count;
  static constexpr int kInputs = arity<Functor, float>();

#if defined(__x86_64__)
  FUSEDGRAD_TARGET_AVX512 static void avx512(const double* parameters, Half* const* outputs,
                                             const Half* const* inputs, int64_t n) {
    const Functor functor = Make::template make<float>(parameters);
    // What is left at the end, made a whole tile
    Half last[kOutputs + kInputs][kHalfTile] = {};
    for (int64_t begin = 0; begin < n; begin += kHalfTile) {
      const bool whole = n - begin >= kHalfTile;
      const int64_t bytes = (n - begin) * static_cast<int64_t>(sizeof(Half));
      float in[kInputs][kHalfTile];
      for (int i = 0; i < kInputs; ++i) {
        if (!whole) __builtin_memcpy(last[kOutputs + i], inputs[i] + begin, bytes);
        widen(whole ? inputs[i] + begin : last[kOutputs + i], in[i]);
      }
      float out[kOutputs][kHalfTile];
      tile_body(functor, out, in, std::make_index_sequence<kOutputs>(),
                std::make_index_sequence<kInputs>());
      for (int i = 0; i < kOutputs; ++i) {
        narrow(out[i], whole ? outputs[i] + begin : last[i]);
        if (!whole) __builtin_memcpy(outputs[i] + begin, last[i], bytes);
      }
    }
  }
#endif

  // Null where there is none
  static Block<Half>* chosen() {
#if defined(__x86_64__)
    if (capability() == Capability::Avx512) return avx512;
#endif
    return nullptr;
  }
};

}  // namespace fusedgrad::cpu::detail

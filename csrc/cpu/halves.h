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

#if defined(__x86_64__)
// A functor doesn't see its elements' order: of two vectors of bfloat16 as they lie, those at even
// places come first, then the others, and a shift and a mask are all that widening takes.

// GCC warns of the instructions without a mask, that their result is not initialised.
inline constexpr __mmask16 kAll = 0xffff;

#define FUSEDGRAD_AVX512 __attribute__((target("arch=x86-64-v4"))) static
#define FUSEDGRAD_AVX2 __attribute__((target("arch=x86-64-v3"))) static

struct HalvesInAvx512 {
  // Elements that are floats at a time: four vectors of 512 bits, as those of kernel.h
  static constexpr int64_t kTile = 64;

  FUSEDGRAD_AVX512 void widen(const math::BFloat16* source, float* tile) {
    for (int64_t k = 0; k < kTile; k += 32) {
      const __m512i pairs = _mm512_loadu_si512(source + k);
      const __m512i odd = _mm512_set1_epi32(static_cast<int>(0xffff0000));
      _mm512_storeu_si512(tile + k, _mm512_maskz_slli_epi32(kAll, pairs, 16));
      _mm512_storeu_si512(tile + k + 16, _mm512_and_si512(pairs, odd));
    }
  }

  FUSEDGRAD_AVX512 void narrow(const float* tile, math::BFloat16* target) {
    constexpr __mmask32 kEven = 0x55555555;
    for (int64_t k = 0; k < kTile; k += 32) {
      const __m512i even = _mm512_maskz_srli_epi32(kAll, rounded(tile + k), 16);
      const __m512i odd = rounded(tile + k + 16);
      _mm512_storeu_si512(target + k, _mm512_mask_mov_epi16(odd, kEven, even));
    }
  }

  FUSEDGRAD_AVX512 void widen(const math::Float16* source, float* tile) {
    for (int64_t k = 0; k < kTile; k += 16) {
      const void* const sixteen = source + k;
      const __m256i halves = _mm256_loadu_si256(static_cast<const __m256i*>(sixteen));
      _mm512_storeu_ps(tile + k, _mm512_maskz_cvtph_ps(kAll, halves));
    }
  }

  FUSEDGRAD_AVX512 void narrow(const float* tile, math::Float16* target) {
    for (int64_t k = 0; k < kTile; k += 16) {
      void* const sixteen = target + k;
      const __m512 floats = _mm512_loadu_ps(tile + k);
      _mm256_storeu_si256(static_cast<__m256i*>(sixteen),
                          _mm512_maskz_cvtps_ph(kAll, floats, _MM_FROUND_TO_NEAREST_INT));
    }
  }

 private:
  // To a bfloat16 in the upper half of a word. A NaN stays one if it comes of an operand or of
  // arithmetic: then its lower half is 0.
  FUSEDGRAD_AVX512 __m512i rounded(const float* sixteen) {
    const __m512i bits = _mm512_loadu_si512(sixteen);
    const __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
    return _mm512_mask_sub_epi32(rounded, odd, rounded, _mm512_set1_epi32(-1));
  }
};

struct HalvesInAvx2 {
  static constexpr int64_t kTile = 32;  // four vectors

  FUSEDGRAD_AVX2 void widen(const math::BFloat16* source, float* tile) {
    for (int64_t k = 0; k < kTile; k += 16) {
      const __m256i pairs = load(source + k);
      const __m256i odd = _mm256_set1_epi32(static_cast<int>(0xffff0000));
      store(tile + k, _mm256_slli_epi32(pairs, 16));
      store(tile + k + 8, _mm256_and_si256(pairs, odd));
    }
  }

  FUSEDGRAD_AVX2 void narrow(const float* tile, math::BFloat16* target) {
    for (int64_t k = 0; k < kTile; k += 16) {
      const __m256i even = _mm256_srli_epi32(rounded(tile + k), 16);
      store(target + k, _mm256_blend_epi16(rounded(tile + k + 8), even, 0x55));
    }
  }

  FUSEDGRAD_AVX2 void widen(const math::Float16* source, float* tile) {
    for (int64_t k = 0; k < kTile; k += 8) {
      const void* const eight = source + k;
      const __m128i halves = _mm_loadu_si128(static_cast<const __m128i*>(eight));
      _mm256_storeu_ps(tile + k, _mm256_cvtph_ps(halves));
    }
  }

  FUSEDGRAD_AVX2 void narrow(const float* tile, math::Float16* target) {
    for (int64_t k = 0; k < kTile; k += 8) {
      void* const eight = target + k;
      const __m256 floats = _mm256_loadu_ps(tile + k);
      _mm_storeu_si128(static_cast<__m128i*>(eight),
                       _mm256_cvtps_ph(floats, _MM_FROUND_TO_NEAREST_INT));
    }
  }

 private:
  FUSEDGRAD_AVX2 __m256i load(const void* source) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(source));
  }
  FUSEDGRAD_AVX2 void store(void* target, __m256i vector) {
    _mm256_storeu_si256(static_cast<__m256i*>(target), vector);
  }

  // As above
  FUSEDGRAD_AVX2 __m256i rounded(const float* eight) {
    const __m256i bits = load(eight);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    return _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  }
};

#undef FUSEDGRAD_AVX512
#undef FUSEDGRAD_AVX2
#endif

template <int64_t tile, class Functor, size_t... Out, size_t... In>
FUSEDGRAD_HOST_DEVICE void tile_body(const Functor& functor, float (*out)[tile],
                                     const float (*in)[tile], std::index_sequence<Out...>,
                                     std::index_sequence<In...>) {
  FUSEDGRAD_INDEPENDENT
  for (int64_t k = 0; k < tile; ++k) {
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
    body<HalvesInAvx512>(Make::template make<float>(parameters), outputs, inputs, n);
  }
  FUSEDGRAD_TARGET_AVX2 static void avx2(const double* parameters, Half* const* outputs,
                                         const Half* const* inputs, int64_t n) {
    body<HalvesInAvx2>(Make::template make<float>(parameters), outputs, inputs, n);
  }
#endif

  // Null where there is none
  static Block<Half>* chosen() {
#if defined(__x86_64__)
    return choose<Block<Half>>(nullptr, avx2, avx512);
#else
    return nullptr;
#endif
  }

 private:
  template <class Halves>
  FUSEDGRAD_HOST_DEVICE static void body(const Functor functor, Half* const* outputs,
                                         const Half* const* inputs, int64_t n) {
    constexpr int64_t kTile = Halves::kTile;
    // What is left at the end, made a whole tile
    Half last[kOutputs + kInputs][kTile] = {};
    for (int64_t begin = 0; begin < n; begin += kTile) {
      const bool whole = n - begin >= kTile;
      const int64_t bytes = (n - begin) * static_cast<int64_t>(sizeof(Half));
      float in[kInputs][kTile];
      for (int i = 0; i < kInputs; ++i) {
        if (!whole) __builtin_memcpy(last[kOutputs + i], inputs[i] + begin, bytes);
        Halves::widen(whole ? inputs[i] + begin : last[kOutputs + i], in[i]);
      }
      float out[kOutputs][kTile];
      tile_body(functor, out, in, std::make_index_sequence<kOutputs>(),
                std::make_index_sequence<kInputs>());
      for (int i = 0; i < kOutputs; ++i) {
        Halves::narrow(out[i], whole ? outputs[i] + begin : last[i]);
        if (!whole) __builtin_memcpy(outputs[i] + begin, last[i], bytes);
      }
    }
  }
};

}  // namespace fusedgrad::cpu::detail

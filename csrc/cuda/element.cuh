// One element in memory and in the type it is computed in, and sixteen bytes of elements at once.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "cuda/tuning.h"
#include "math/elementary.h"

namespace fusedgrad::cuda {

// Half types are computed in float and rounded once.
template <class Element>
using Compute = std::conditional_t<std::is_same_v<Element, double>, double, float>;
// What the functors of csrc/math are called with: for half types a float that need not be exact.
template <class Element>
struct ArgumentOf {
  using Type = Compute<Element>;
};
template <>
struct ArgumentOf<__half> {
  using Type = math::Brief<11>;
};
template <>
struct ArgumentOf<__nv_bfloat16> {
  using Type = math::Brief<8>;
};
template <class Element>
using Argument = typename ArgumentOf<Element>::Type;

// One element as it lies in memory.
template <class ElementType>
struct Single {
  using Element = ElementType;
  static constexpr int kElements = 1;

  Element element;

  __device__ static Single load(const void* address) {
    return {*static_cast<const Element*>(address)};
  }
  __device__ void store(void* address) const { *static_cast<Element*>(address) = element; }

  __device__ void unpack(Compute<Element> (&values)[1]) const {
    if constexpr (std::is_same_v<Element, __half>) {
      values[0] = __half2float(element);
    } else if constexpr (std::is_same_v<Element, __nv_bfloat16>) {
      values[0] = __bfloat162float(element);
    } else {
      values[0] = element;
    }
  }
  __device__ static Single pack(const Compute<Element> (&values)[1]) {
    if constexpr (std::is_same_v<Element, __half>) {
      return {__float2half_rn(values[0])};
    } else if constexpr (std::is_same_v<Element, __nv_bfloat16>) {
      return {__float2bfloat16_rn(values[0])};
    } else {
      return {values[0]};
    }
  }
};

// Elements side by side, one access of 128 bits or less.
template <class ElementType, int kCount = kPackBytes / sizeof(ElementType)>
struct Pack {
  using Element = ElementType;
  static constexpr int kElements = kCount;
  static constexpr int kWords = kCount * sizeof(Element) / 4;
  static_assert(kWords == 1 || kWords == 2 || kWords == 4);
  using Bits = std::conditional_t<sizeof(Element) == 8, uint2,
                                  std::conditional_t<sizeof(Element) == 4, uint32_t, uint16_t>>;

  uint32_t word[kWords];

  // uint4, because a structure of half types would be moved in smaller accesses.
  __device__ static Pack load(const void* address) {
    if constexpr (kWords == 4) {
      const uint4 bits = *static_cast<const uint4*>(address);
      return {{bits.x, bits.y, bits.z, bits.w}};
    } else if constexpr (kWords == 2) {
      const uint2 bits = *static_cast<const uint2*>(address);
      return {{bits.x, bits.y}};
    } else {
      return {{*static_cast<const uint32_t*>(address)}};
    }
  }
  __device__ void store(void* address) const {
    if constexpr (kWords == 4) {
      *static_cast<uint4*>(address) = make_uint4(word[0], word[1], word[2], word[3]);
    } else if constexpr (kWords == 2) {
      *static_cast<uint2*>(address) = make_uint2(word[0], word[1]);
    } else {
      *static_cast<uint32_t*>(address) = word[0];
    }
  }
  // The first `count` elements, fewer than all, and zeros after them
  __device__ static Pack load_first(int count, const void* address) {
    Pack result = {};
#pragma unroll
    for (int e = 0; e < kElements - 1; ++e) {
      if (e >= count) continue;
      const Bits bits = static_cast<const Bits*>(address)[e];
      if constexpr (sizeof(Element) == 8) {
        result.word[0] = bits.x;
        result.word[1] = bits.y;
      } else if constexpr (sizeof(Element) == 4) {
        result.word[e] = bits;
      } else {
        result.word[e / 2] |= static_cast<uint32_t>(bits) << (e % 2 * 16);
      }
    }
    return result;
  }
  __device__ void store_first(int count, void* address) const {
#pragma unroll
    for (int e = 0; e < kElements - 1; ++e) {
      if (e >= count) continue;
      Bits& bits = static_cast<Bits*>(address)[e];
      if constexpr (sizeof(Element) == 8) {
        bits = make_uint2(word[0], word[1]);
      } else if constexpr (sizeof(Element) == 4) {
        bits = word[e];
      } else {
        bits = static_cast<Bits>(word[e / 2] >> (e % 2 * 16));
      }
    }
  }
  __device__ static Pack broadcast(const void* address) {
    return broadcast(*static_cast<const Bits*>(address));
  }
  __device__ static Pack broadcast(Bits bits) {
    Pack result;
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      if constexpr (sizeof(Element) == 8) {
        result.word[i] = i % 2 == 0 ? bits.x : bits.y;
      } else if constexpr (sizeof(Element) == 4) {
        result.word[i] = bits;
      } else {
        result.word[i] = bits * 0x10001u;
      }
    }
    return result;
  }

  __device__ void unpack(Compute<Element> (&values)[kElements]) const {
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      if constexpr (std::is_same_v<Element, double>) {
        if (i % 2 == 0) values[i / 2] = __hiloint2double(word[i + 1], word[i]);
      } else if constexpr (std::is_same_v<Element, float>) {
        values[i] = __uint_as_float(word[i]);
      } else if constexpr (std::is_same_v<Element, __half>) {
        const float2 pair = __half22float2(reinterpret_cast<const __half2&>(word[i]));
        values[2 * i] = pair.x;
        values[2 * i + 1] = pair.y;
      } else {
        // One instruction each; the header's conversion takes two for the upper one.
        values[2 * i] = __uint_as_float(word[i] << 16);
        values[2 * i + 1] = __uint_as_float(word[i] & 0xffff0000u);
      }
    }
  }

  // Two halves are rounded by one instruction.
  __device__ static Pack pack(const Compute<Element> (&values)[kElements]) {
    Pack result;
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      if constexpr (std::is_same_v<Element, double>) {
        result.word[i] = i % 2 == 0 ? __double2loint(values[i / 2]) : __double2hiint(values[i / 2]);
      } else if constexpr (std::is_same_v<Element, float>) {
        result.word[i] = __float_as_uint(values[i]);
      } else if constexpr (std::is_same_v<Element, __half>) {
        const __half2 pair = __floats2half2_rn(values[2 * i], values[2 * i + 1]);
        result.word[i] = reinterpret_cast<const uint32_t&>(pair);
      } else {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(values[2 * i], values[2 * i + 1]);
        result.word[i] = reinterpret_cast<const uint32_t&>(pair);
      }
    }
    return result;
  }
};

}  // namespace fusedgrad::cuda

// What a host and a device compiler spell differently, and views of a number's bits.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define FUSEDGRAD_HOST_DEVICE __host__ __device__ __forceinline__
#else
// The loops of csrc/cpu are compiled for several instruction sets: what they call must be inlined.
#define FUSEDGRAD_HOST_DEVICE inline __attribute__((always_inline))
#endif

namespace fusedgrad::math {

// What an element function with several results returns.
template <class T, int N>
struct Values {
  T value[N];
};

template <class T>
struct Format;

template <>
struct Format<float> {
  using Bits = uint32_t;
  static constexpr int kMantissaBits = 23;
  static constexpr int kBias = 127;
  static constexpr float kMinNormal = 0x1p-126f;
};

template <>
struct Format<double> {
  using Bits = uint64_t;
  static constexpr int kMantissaBits = 52;
  static constexpr int kBias = 1023;
  static constexpr double kMinNormal = 0x1p-1022;
};

template <class T>
using Bits = typename Format<T>::Bits;

template <class T>
constexpr T kInfinity = static_cast<T>(__builtin_huge_val());

#if defined(__CUDA_ARCH__)
FUSEDGRAD_HOST_DEVICE uint32_t to_bits(float x) { return __float_as_uint(x); }
FUSEDGRAD_HOST_DEVICE uint64_t to_bits(double x) { return __double_as_longlong(x); }
FUSEDGRAD_HOST_DEVICE float from_bits(uint32_t bits) { return __uint_as_float(bits); }
FUSEDGRAD_HOST_DEVICE double from_bits(uint64_t bits) { return __longlong_as_double(bits); }
#else
FUSEDGRAD_HOST_DEVICE uint32_t to_bits(float x) { return __builtin_bit_cast(uint32_t, x); }
FUSEDGRAD_HOST_DEVICE uint64_t to_bits(double x) { return __builtin_bit_cast(uint64_t, x); }
FUSEDGRAD_HOST_DEVICE float from_bits(uint32_t bits) { return __builtin_bit_cast(float, bits); }
FUSEDGRAD_HOST_DEVICE double from_bits(uint64_t bits) { return __builtin_bit_cast(double, bits); }
#endif

FUSEDGRAD_HOST_DEVICE float fma(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
FUSEDGRAD_HOST_DEVICE double fma(double x, double y, double z) { return __builtin_fma(x, y, z); }

FUSEDGRAD_HOST_DEVICE float abs(float x) { return __builtin_fabsf(x); }
FUSEDGRAD_HOST_DEVICE double abs(double x) { return __builtin_fabs(x); }

FUSEDGRAD_HOST_DEVICE float copysign(float x, float y) { return __builtin_copysignf(x, y); }
FUSEDGRAD_HOST_DEVICE double copysign(double x, double y) { return __builtin_copysign(x, y); }

FUSEDGRAD_HOST_DEVICE float sqrt(float x) { return __builtin_sqrtf(x); }
FUSEDGRAD_HOST_DEVICE double sqrt(double x) { return __builtin_sqrt(x); }

// 1/d to the nearest number, where both are normal
FUSEDGRAD_HOST_DEVICE double inverse(double d) { return 1 / d; }
#if defined(__CUDACC__)
__device__ __forceinline__ float approximate_reciprocal(float d) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(d));
  return result;
}

// The larger and the smaller of x and a number, NaN if x is.
#if __CUDA_ARCH__ >= 800
__device__ __forceinline__ float maximum(float x, float y) {
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(x), "f"(y));
  return result;
}
__device__ __forceinline__ float minimum(float x, float y) {
  float result;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(x), "f"(y));
  return result;
}
#else
__device__ __forceinline__ float maximum(float x, float y) { return x < y ? y : x; }
__device__ __forceinline__ float minimum(float x, float y) { return x > y ? y : x; }
#endif
#endif

#if defined(__CUDA_ARCH__)
// As it is documented, the approximation is within an ulp. From any such number this gives the
// nearest, for each of the 2^23 significands (tests/test_cuda_bits.py): e is exact but for a last
// bit, and rounding e + e^2 up keeps on its side of the middle what e alone would put on it.
__device__ __forceinline__ float inverse(float d) {
  const float r = approximate_reciprocal(d);
  const float e = fma(-d, r, 1.0f);
  return fma(r, __fmaf_ru(e, e, e), r);
}
#else
FUSEDGRAD_HOST_DEVICE float inverse(float d) { return 1 / d; }
#endif

}  // namespace fusedgrad::math

// What a CUDA device spells differently in float, because it has an instruction for it: a
// reciprocal within an ulp, and a maximum that keeps NaN. Everything else, and double, is the
// shared templates.
//
// A quotient is right to half an ulp after one correction by its residual, which a fused
// multiply-add leaves exact; so a numerator and a denominator that are rounded once each leave two
// roundings and a half, and nothing needs the pairs that a host carries.
#pragma once

#include "math/approximations.h"
#include "math/platform.h"

#if defined(__CUDA_ARCH__)

namespace fusedgrad::math {

namespace device {

__device__ __forceinline__ float approximate_reciprocal(float d) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(d));
  return result;
}

// The larger and the smaller of x and a number, NaN if x is.
__device__ __forceinline__ float maximum(float x, float y) {
#if __CUDA_ARCH__ >= 800
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(x), "f"(y));
  return result;
#else
  return x < y ? y : x;
#endif
}
__device__ __forceinline__ float minimum(float x, float y) { return -maximum(-x, -y); }

// numerator / d, whose reciprocal is neither subnormal nor infinite
__device__ __forceinline__ float quotient(float numerator, float d) {
  const float r = approximate_reciprocal(d);
  const float q = numerator * r;
  return fma(fma(-q, d, numerator), r, q);
}

// y = n ln2 + r; shifted holds n + bias in its low bits.
struct Reduced {
  float shifted;
  float r;
};

__device__ __forceinline__ Reduced reduce(float y, int bias) {
  using C = Approximations<float>;
  const float shift = 0x1.8p23f + bias;
  const float shifted = fma(y, C::kLog2E, shift);
  const float n = shifted - shift;
  return {shifted, fma(n, -C::kLn2Lo, fma(n, -C::kLn2, y))};
}

// exp(y) * 2^bias, which must be neither subnormal nor infinite
__device__ __forceinline__ float scaled_exp(float y, int bias) {
  const Reduced reduced = reduce(y, bias);
  const float p = Approximations<float>::expm1(reduced.r);
  const float mantissa = fma(fma(p, reduced.r, 1.0f), reduced.r, 1.0f);
  return __uint_as_float(__float_as_uint(mantissa) + (__float_as_uint(reduced.shifted) << 23));
}

// exp(y), y <= 0. It may be subnormal, so it is scaled last.
__device__ __forceinline__ float exp(float y) {
  return scaled_exp(maximum(y, -110.0f), 64) * 0x1p-64f;
}

// exp(y) - 1, y <= 0, of full relative accuracy near 0
__device__ __forceinline__ float expm1(float y) {
  const Reduced reduced = reduce(maximum(y, -40.0f), 127);
  const float power = __uint_as_float(__float_as_uint(reduced.shifted) << 23);
  const float p = Approximations<float>::expm1(reduced.r);
  return fma(power, fma(reduced.r * reduced.r, p, reduced.r), power - 1.0f);
}

// log(1 + a) = 2 atanh(a / (2 + a)), 0 <= a <= 1
__device__ __forceinline__ float log1p(float a) {
  const float r = approximate_reciprocal(2 + a);
  const float q = a * r;
  const float s = fma(fma(-q, a, fma(-2.0f, q, a)), r, q);
  const float z = s * s;
  const float twice_s = s + s;
  return fma(z * Approximations<float>::atanh(z), twice_s, twice_s);
}

// a / (1 + a)^2
__device__ __forceinline__ float logistic_density(float a) { return quotient(a, fma(a, a + 2, 1)); }

}  // namespace device

// c / (c + c exp(-x)): with a small c the denominator is finite where the quotient is subnormal.
__device__ __forceinline__ float sigmoid(float x) {
  const float c = 0x1p-40f;
  const float a = device::scaled_exp(device::minimum(device::maximum(-x, -40.0f), 110.0f), -40);
  const float r = device::approximate_reciprocal(c + a);
  return c * fma(fma(-r, a, fma(-r, c, 1.0f)), r, r);
}

__device__ __forceinline__ float sigmoid_derivative(float x) {
  return device::logistic_density(device::exp(-abs(x)));
}

__device__ __forceinline__ float tanh(float x) {
  const float m = -device::expm1(-2 * abs(x));
  const float r = device::approximate_reciprocal(2 - m);
  const float q = m * r;
  return copysign(fma(fma(q, m, fma(-2.0f, q, m)), r, q), x);
}

__device__ __forceinline__ float tanh_derivative(float x) {
  return 4 * device::logistic_density(device::exp(-2 * abs(x)));
}

namespace detail {

__device__ __forceinline__ float softplus_tail(float x) {
  return device::log1p(device::exp(-abs(x)));
}

}  // namespace detail

// The numerator is one fused multiply-add, so that it cancels no more than its terms' roundings.
__device__ __forceinline__ float binary_cross_entropy_with_logits_input_derivative(
    float x, float t, float pos_weight) {
  const float a = device::exp(-abs(x));
  const float negative = 1 - t;
  const float positive = -pos_weight * t;
  const bool right = x >= 0;
  const float numerator = fma(right ? positive : negative, a, right ? negative : positive);
  return device::quotient(numerator, 1 + a);
}

}  // namespace fusedgrad::math

#endif  // __CUDA_ARCH__

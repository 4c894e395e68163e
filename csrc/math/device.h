// Half types on a CUDA device: computed as Brief, a float of which a half keeps 11 digits or 8, so
// that an approximate instruction and a rounding more do not show. Floats and doubles have the
// shared templates there, and every bit of a host's.
//
// A quotient is right to half an ulp after one correction by its residual, which a fused
// multiply-add leaves exact; so a numerator and a denominator that are rounded once each leave two
// roundings and a half, and nothing needs the pairs that floats carry.
#pragma once

#include "math/elementary.h"

#if defined(__CUDACC__)

namespace fusedgrad::math {

struct Brief {
  float value;

  Brief() = default;
  template <class Number>
  FUSEDGRAD_HOST_DEVICE constexpr Brief(Number number) : value(static_cast<float>(number)) {}
  template <class Number>
  FUSEDGRAD_HOST_DEVICE explicit constexpr operator Number() const {
    return static_cast<Number>(value);
  }

#define FUSEDGRAD_BRIEF(Result, op)                                             \
  FUSEDGRAD_HOST_DEVICE friend constexpr Result operator op(Brief a, Brief b) { \
    return a.value op b.value;                                                  \
  }
  FUSEDGRAD_BRIEF(Brief, +)
  FUSEDGRAD_BRIEF(Brief, -)
  FUSEDGRAD_BRIEF(Brief, *)
  FUSEDGRAD_BRIEF(Brief, /)
  FUSEDGRAD_BRIEF(bool, ==)
  FUSEDGRAD_BRIEF(bool, !=)
  FUSEDGRAD_BRIEF(bool, <)
  FUSEDGRAD_BRIEF(bool, >)
  FUSEDGRAD_BRIEF(bool, <=)
  FUSEDGRAD_BRIEF(bool, >=)
#undef FUSEDGRAD_BRIEF
  FUSEDGRAD_HOST_DEVICE friend constexpr Brief operator-(Brief a) { return -a.value; }
  FUSEDGRAD_HOST_DEVICE friend constexpr Brief& operator*=(Brief& a, Brief b) { return a = a * b; }
};

template <>
struct Format<Brief> : Format<float> {};
template <>
constexpr float kInfinity<Brief> = kInfinity<float>;
template <>
constexpr float kRound<Brief> = kRound<float>;
template <>
struct Ranges<Brief> : Ranges<float> {};

template <>
struct Approximations<Brief> : Approximations<float> {
  using Float = Approximations<float>;
  FUSEDGRAD_HOST_DEVICE static Brief expm1(Brief r) { return Float::expm1(r.value); }
  FUSEDGRAD_HOST_DEVICE static Brief exp2(Brief f) { return Float::exp2(f.value); }
  FUSEDGRAD_HOST_DEVICE static Brief atanh(Brief z) { return Float::atanh(z.value); }
  FUSEDGRAD_HOST_DEVICE static Brief log2(Brief z) { return Float::log2(z.value); }
  FUSEDGRAD_HOST_DEVICE static Brief reciprocal(Brief d) { return d; }  // takes no estimate
  FUSEDGRAD_HOST_DEVICE static Brief reciprocal_near_two(Brief d) { return d; }
};

FUSEDGRAD_HOST_DEVICE uint32_t to_bits(Brief x) { return to_bits(x.value); }
FUSEDGRAD_HOST_DEVICE Brief fma(Brief x, Brief y, Brief z) {
  return fma(x.value, y.value, z.value);
}
FUSEDGRAD_HOST_DEVICE Brief abs(Brief x) { return abs(x.value); }
FUSEDGRAD_HOST_DEVICE Brief copysign(Brief x, Brief y) { return copysign(x.value, y.value); }
FUSEDGRAD_HOST_DEVICE Brief sqrt(Brief x) { return sqrt(x.value); }

namespace device {

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

// exp(y) * 2^bias = mantissa * power, a product that must be neither subnormal nor infinite. It is
// left to a multiplication, which keeps NaN; adding to the exponent's bits does not.
struct ScaledExp {
  float mantissa;
  float power;
};

__device__ __forceinline__ ScaledExp scaled_exp(float y, int bias) {
  const Reduced reduced = reduce(y, bias + 127);
  const float p = Approximations<float>::expm1(reduced.r);
  return {fma(fma(p, reduced.r, 1.0f), reduced.r, 1.0f),
          __uint_as_float(__float_as_uint(reduced.shifted) << 23)};
}

// factor * exp(y), y <= 0. It may be subnormal, so it is scaled last.
__device__ __forceinline__ float exp(float y, float factor = 1) {
  const ScaledExp exp = scaled_exp(maximum(y, -110.0f), 64);
  return exp.mantissa * exp.power * (factor * 0x1p-64f);
}

// (1 - exp(y)) / (1 + exp(y)) from m = 1 - exp(y), whose denominator is 2 - m. m - 2q is exact, so
// the residual is that of the exact denominator.
__device__ __forceinline__ float half_tanh(float m) {
  const float r = approximate_reciprocal(2 - m);
  const float q = m * r;
  return fma(fma(q, m, fma(-2.0f, q, m)), r, q);
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

// factor * a / (1 + a)^2, a = exp(y), y <= 0
__device__ __forceinline__ float logistic_density(float y, float factor) {
  const float a = exp(y, factor);
  return quotient(a, fma(a, fma(a, 1 / (factor * factor), 2 / factor), 1.0f));
}

// factor * a (1 - a) / (1 + a)^3, of full relative accuracy where 1 - a is near 0
__device__ __forceinline__ float logistic_density_slope(float y, float factor) {
  const Reduced reduced = reduce(maximum(y, -110.0f), 64 + 127);
  const float power = __uint_as_float((__float_as_uint(reduced.shifted) << 23)) * 0x1p-64f;
  const float p = Approximations<float>::expm1(reduced.r);
  const float m = fma(-power, fma(reduced.r * reduced.r, p, reduced.r), 1.0f - power);
  return logistic_density(y, factor) * half_tanh(m);
}

}  // namespace device

// c / (c + c exp(-x)): with a small c the denominator is finite where the quotient is subnormal.
__device__ __forceinline__ Brief sigmoid(Brief argument) {
  const float x = argument.value;
  const float c = 0x1p-40f;
  const float y = minimum(maximum(-x, -40.0f), 110.0f);
  const device::ScaledExp exp = device::scaled_exp(y, -40);
  const float d = fma(exp.mantissa, exp.power, c);
  const float r = approximate_reciprocal(d);
  return c * fma(fma(-r, d, 1.0f), r, r);
}

__device__ __forceinline__ Brief sigmoid_derivative(Brief x) {
  return device::logistic_density(-abs(x.value), 1);
}

__device__ __forceinline__ Brief sigmoid_second_derivative(Brief x) {
  return -copysign(device::logistic_density_slope(-abs(x.value), 1), x.value);
}

__device__ __forceinline__ Brief tanh(Brief x) {
  return copysign(device::half_tanh(-device::expm1(-2 * abs(x.value))), x.value);
}

__device__ __forceinline__ Brief tanh_derivative(Brief x) {
  return device::logistic_density(-2 * abs(x.value), 4);
}

__device__ __forceinline__ Brief tanh_second_derivative(Brief x) {
  return -2 * copysign(device::logistic_density_slope(-2 * abs(x.value), 4), x.value);
}

namespace detail {

__device__ __forceinline__ Brief softplus_tail(Brief x) {
  return device::log1p(device::exp(-abs(x.value)));
}

}  // namespace detail

template <std::same_as<Brief> T>
__device__ __forceinline__ Reciprocal<T> reciprocal(Pair<T> d, T) {
  const float hi = d.hi.value;
  const float estimate = approximate_reciprocal(hi);
  return {estimate, fma(-d.lo.value, estimate, fma(-hi, estimate, 1.0f))};
}

namespace device {

// log2(x), x > 0, to 2^-30 of itself: only the first term of the series is carried in a pair.
__device__ __forceinline__ Pair<float> log2_of_positive(float x) {
  using C = Approximations<float>;
  const Decomposed<float> d = decompose(x);
  const float f = d.fraction;
  const float r = approximate_reciprocal(2 + f);
  const float q = f * r;
  const float q_lo = fma(-q, f, fma(-2.0f, q, f)) * r;
  const float z = q * q;
  const float series = z * fma(z, C::log2(z), C::kTwoThirdsOverLn2);
  const float product = q * C::kTwoOverLn2;
  const float product_lo = fma(q_lo, C::kTwoOverLn2, fma(q, C::kTwoOverLn2, -product));
  const float hi = d.exponent + product;
  const float lo =
      ((d.exponent - hi) + product) + fma(q, series, fma(q, C::kTwoOverLn2Lo, product_lo));
  return {hi, lo};
}

}  // namespace device

template <std::same_as<Brief> T>
__device__ __forceinline__ Pair<T> log2(T argument) {
  const float x = argument.value;
  const Pair<float> log = normalized(device::log2_of_positive(x));
  const bool finite = x < kInfinity<float>;
  return {x == 0 ? -kInfinity<float> : finite ? log.hi : x, (x != 0) & finite ? log.lo : 0.0f};
}

namespace detail {

template <class T>
FUSEDGRAD_HOST_DEVICE bool is_odd(T x);
template <class T>
FUSEDGRAD_HOST_DEVICE T with_sign(T magnitude, T x, T e, bool odd);

}  // namespace detail

// A template, so that only who includes pow.h needs what it calls.
template <std::same_as<Brief> T>
__device__ __forceinline__ T pow(T base, T of) {
  const float x = base.value, e = of.value;
  const float size = abs(x);
  const Pair<float> log = device::log2_of_positive(size);
  const bool finite = size < kInfinity<float>;
  const float log_hi = size == 0 ? -kInfinity<float> : finite ? log.hi : size;
  // An infinite exponent would make NaN of the logarithm of 1.
  const float exponent = minimum(maximum(e, -0x1p126f), 0x1p126f);
  const float product = exponent * log_hi;
  const float product_lo = fma(exponent, log.lo, fma(exponent, log_hi, -product));
  const float hi = minimum(maximum(product, -250.0f), 250.0f);
  const float lo = hi == product ? product_lo : 0.0f;
  const float shifted = (hi + lo) + kRound<float>;
  const float f = (hi - (shifted - kRound<float>)) + lo;
  const float mantissa = fma(f, Approximations<float>::exp2(f), 1.0f);
  // 2^n in two factors: either may be needed where the power is subnormal or infinite.
  const uint32_t n = __float_as_uint(shifted);
  const uint32_t half = n >> 1;
  const float low = __uint_as_float((half << 23) + 0x3f800000u);
  const float high = __uint_as_float(((n - half) << 23) + 0x3f800000u);
  const float value = detail::with_sign(mantissa * low * high, x, e, detail::is_odd(e));
  return (x == 1) | (e == 0) ? 1.0f : value;
}

// The numerator is one fused multiply-add, so that it cancels no more than its terms' roundings.
__device__ __forceinline__ Brief binary_cross_entropy_with_logits_input_derivative(Brief logit,
                                                                                   Brief target) {
  const float x = logit.value, t = target.value;
  const float a = device::exp(-abs(x));
  const float negative = 1 - t;
  const float positive = -t;
  const bool right = x >= 0;
  const float numerator = fma(right ? positive : negative, a, right ? negative : positive);
  return device::quotient(numerator, 1 + a);
}

// A factor that is great needs digits of exp(-|x|) that are lost where it is subnormal, and a
// quotient by a correction has no infinity.
__device__ __forceinline__ Brief binary_cross_entropy_with_logits_input_derivative(Brief logit,
                                                                                   Brief target,
                                                                                   Brief weight) {
  const float x = logit.value, t = target.value, pos_weight = weight.value;
  const float negative = 1 - t;
  const float positive = -pos_weight * t;
  const bool right = x >= 0;
  const float factor = right ? positive : negative;
  const float rest = right ? negative : positive;
  const device::ScaledExp exp = device::scaled_exp(maximum(-abs(x), -110.0f), 64);
  const float lifted = exp.mantissa * exp.power;
  const float a = lifted * 0x1p-64f;
  const bool great = abs(factor) > 1;
  float numerator = fma(great ? factor * 0x1p-64f : factor, great ? lifted : a, rest);
  if (abs(factor) > 0x1p20f) {  // a tail beyond 110 counts
    const device::ScaledExp tail = device::scaled_exp(maximum(-abs(x), -174.0f), 126);
    numerator = fma(tail.mantissa * tail.power, factor * 0x1p-126f, rest);
  }
  return abs(numerator) < kInfinity<float> ? device::quotient(numerator, 1 + a) : numerator;
}

}  // namespace fusedgrad::math

#endif  // __CUDACC__

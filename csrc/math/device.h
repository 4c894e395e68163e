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

// Of which a half type keeps so many digits: 11, and nothing below 2^-24, or 8 and a float's range
template <int kDigits>
struct Brief {
  static constexpr bool kHasFloatsRange = kDigits == 8;

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
  FUSEDGRAD_BRIEF(bool, ==)
  FUSEDGRAD_BRIEF(bool, !=)
  FUSEDGRAD_BRIEF(bool, <)
  FUSEDGRAD_BRIEF(bool, >)
  FUSEDGRAD_BRIEF(bool, <=)
  FUSEDGRAD_BRIEF(bool, >=)
#undef FUSEDGRAD_BRIEF
  FUSEDGRAD_HOST_DEVICE friend constexpr Brief operator/(Brief a, Brief b) {
#if defined(__CUDA_ARCH__)
    if (!__builtin_is_constant_evaluated()) {
      float result;  // within two ulps, of any numbers
      asm("div.full.f32 %0, %1, %2;" : "=f"(result) : "f"(a.value), "f"(b.value));
      return result;
    }
#endif
    return a.value / b.value;
  }
  FUSEDGRAD_HOST_DEVICE friend constexpr Brief operator-(Brief a) { return -a.value; }
  FUSEDGRAD_HOST_DEVICE friend constexpr Brief& operator*=(Brief& a, Brief b) { return a = a * b; }
  FUSEDGRAD_HOST_DEVICE friend uint32_t to_bits(Brief x) { return math::to_bits(x.value); }
  FUSEDGRAD_HOST_DEVICE friend Brief fma(Brief x, Brief y, Brief z) {
    return math::fma(x.value, y.value, z.value);
  }
  FUSEDGRAD_HOST_DEVICE friend Brief abs(Brief x) { return math::abs(x.value); }
  FUSEDGRAD_HOST_DEVICE friend Brief copysign(Brief x, Brief y) {
    return math::copysign(x.value, y.value);
  }
};

template <class T>
constexpr bool kIsBrief = false;
template <int kDigits>
constexpr bool kIsBrief<Brief<kDigits>> = true;
// Functions that are constrained to it are better matches than those they stand for.
template <class T>
concept OfHalf = kIsBrief<T>;

template <int kDigits>
struct Format<Brief<kDigits>> : Format<float> {};
template <int kDigits>
constexpr float kInfinity<Brief<kDigits>> = kInfinity<float>;
template <int kDigits>
constexpr float kRound<Brief<kDigits>> = kRound<float>;
template <int kDigits>
struct Ranges<Brief<kDigits>> : Ranges<float> {};

template <int kDigits>
struct Approximations<Brief<kDigits>> : Approximations<float> {
  using Float = Approximations<float>;
  using B = Brief<kDigits>;
  FUSEDGRAD_HOST_DEVICE static B expm1(B r) { return Float::expm1(r.value); }
  FUSEDGRAD_HOST_DEVICE static B exp2(B f) { return Float::exp2(f.value); }
  FUSEDGRAD_HOST_DEVICE static B atanh(B z) { return Float::atanh(z.value); }
  FUSEDGRAD_HOST_DEVICE static B log2(B z) { return Float::log2(z.value); }
  FUSEDGRAD_HOST_DEVICE static B reciprocal(B d) { return d; }  // takes no estimate
  FUSEDGRAD_HOST_DEVICE static B reciprocal_near_two(B d) { return d; }
};

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
template <OfHalf T>
__device__ __forceinline__ T sigmoid(T argument) {
  const float x = argument.value;
  const float c = 0x1p-40f;
  const float y = minimum(maximum(-x, -40.0f), 110.0f);
  const device::ScaledExp exp = device::scaled_exp(y, -40);
  const float d = fma(exp.mantissa, exp.power, c);
  const float r = approximate_reciprocal(d);
  return c * fma(fma(-r, d, 1.0f), r, r);
}

template <OfHalf T>
__device__ __forceinline__ T sigmoid_derivative(T x) {
  return device::logistic_density(-abs(x.value), 1);
}

template <OfHalf T>
__device__ __forceinline__ T sigmoid_second_derivative(T x) {
  return -copysign(device::logistic_density_slope(-abs(x.value), 1), x.value);
}

template <OfHalf T>
__device__ __forceinline__ T tanh(T x) {
  return copysign(device::half_tanh(-device::expm1(-2 * abs(x.value))), x.value);
}

template <OfHalf T>
__device__ __forceinline__ T tanh_derivative(T x) {
  return device::logistic_density(-2 * abs(x.value), 4);
}

template <OfHalf T>
__device__ __forceinline__ T tanh_second_derivative(T x) {
  return -2 * copysign(device::logistic_density_slope(-2 * abs(x.value), 4), x.value);
}

template <OfHalf T>
__device__ __forceinline__ Reciprocal<T> reciprocal(Pair<T> d, T) {
  const float hi = d.hi.value;
  const float estimate = approximate_reciprocal(hi);
  return {estimate, fma(-d.lo.value, estimate, fma(-hi, estimate, 1.0f))};
}

namespace device {

// 0 and infinity of what would be subnormal
__device__ __forceinline__ float approximate_exp2(float y) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(y));
  return result;
}

__device__ __forceinline__ float approximate_log2(float x) {
  float result;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// Also of subnormal numbers
__device__ __forceinline__ float approximate_log2_of_any(float x) {
  float result;
  asm("lg2.approx.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

}  // namespace device

// 2^y. Where it may be subnormal in two factors, its roots: neither they nor their products with a
// coefficient are where the result is not.
template <int kDigits>
struct ScaledPower<Brief<kDigits>> {
  using B = Brief<kDigits>;
  static constexpr float kShare = B::kHasFloatsRange ? 0.5f : 1.0f;  // of y

  float factor;

  __device__ __forceinline__ B value() const { return scaled(factor); }
  // 2^y * c, where a 2^y that is 0 makes 0 of an infinite c
  __device__ __forceinline__ B times(B c) const {
    return scaled(factor * (factor == 0 ? copysign(1.0f, c.value) : c.value));
  }

 private:
  __device__ __forceinline__ float scaled(float x) const {
    return B::kHasFloatsRange ? x * factor : x;
  }
};

template <OfHalf T>
__device__ __forceinline__ T sqrt(T x) {
  float result;
  asm("sqrt.approx.f32 %0, %1;" : "=f"(result) : "f"(x.value));
  return result;
}

// log2(x), x >= 0, to 2^-22 of itself, as lg2.approx is but between 1/2 and 2. There it is 2 atanh
// of a quotient of two numbers that a half makes exact.
template <OfHalf T>
__device__ __forceinline__ Pair<T> log2(T argument) {
  const float x = argument.value;
  const float f = x - 1;
  const float d = x + 1;
  const float r = approximate_reciprocal(d);
  float s = f * r;
  if constexpr (!T::kHasFloatsRange) s = fma(fma(-s, d, f), r, s);
  const float near_one = s * Approximations<float>::log2_of_quotient(s * s);
  const float log =
      T::kHasFloatsRange ? device::approximate_log2_of_any(x) : device::approximate_log2(x);
  return {abs(log) < 1 ? near_one : log, 0.0f};
}

namespace detail {

template <OfHalf T>
__device__ __forceinline__ T softplus_tail(T x) {
  using Power = ScaledPower<T>;
  constexpr float kShare = -Approximations<float>::kLog2E * Power::kShare;
  const float a = Power{device::approximate_exp2(abs(x.value) * kShare)}.value().value;
  return a * Approximations<float>::log1p(a);
}

// -log(p) and -log(1 - p), of which the lesser of p and 1 - p is exact, and lg2.approx right to
// 2^-22 of its logarithm.
template <OfHalf T>
struct MinusLogs {
  T of_lesser;
  T of_greater;
  bool lesser_is_p;

  __device__ __forceinline__ explicit MinusLogs(T argument) {
    constexpr float kLn2 = Approximations<float>::kLn2;
    const float p = argument.value;
    const float complement = 1 - p;
    const float lesser = minimum(p, complement);
    const float log = T::kHasFloatsRange
                          ? fma(device::approximate_log2(lesser * 0x1p24f), -kLn2, 24 * kLn2)
                          : device::approximate_log2(lesser) * -kLn2;
    of_lesser = minimum(log, 100);
    of_greater = lesser * Approximations<float>::minus_log1m(lesser);
    lesser_is_p = p <= 0.5f;
  }
};

template <OfHalf T>
__device__ __forceinline__ T minus_log(T p) {
  const MinusLogs<T> logs(p);
  return logs.lesser_is_p ? logs.of_lesser : logs.of_greater;
}

template <OfHalf T>
__device__ __forceinline__ T minus_log_complement(T p) {
  const MinusLogs<T> logs(p);
  return logs.lesser_is_p ? logs.of_greater : logs.of_lesser;
}

// The logarithm 0 is not made NaN by an infinite exponent, nor an infinite one by the exponent 0.
template <OfHalf T>
__device__ __forceinline__ ScaledPower<T> power(Pair<T> log, Pair<T> e) {
  const float y = ScaledPower<T>::kShare * e.hi.value * log.hi.value;
  return {device::approximate_exp2((e.hi == 0) | (log.hi == 0) ? 0.0f : y)};
}

template <OfHalf T>
__device__ __forceinline__ T ln(Pair<T> log) {
  return log.hi * Approximations<float>::kLn2;
}

// Infinity times what is small is infinite here.
template <OfHalf T>
__device__ __forceinline__ T coefficient_at(T, T c) {
  return c;
}

// How far |e|/2 is from an integer: 0 of even numbers, 1/2 of odd ones
__device__ __forceinline__ float parity(float e) {
  constexpr float kIntegers = 0x1p23f;
  const float half = minimum(0.5f * abs(e), kIntegers);
  return abs(half - ((half + kIntegers) - kIntegers));
}

template <OfHalf T>
__device__ __forceinline__ bool is_even(T e) {
  return parity(e.value) == 0;
}

template <OfHalf T>
__device__ __forceinline__ bool is_odd(T e) {
  return parity(e.value) == 0.5f;
}

template <OfHalf T>
__device__ __forceinline__ bool is_integer(T e) {
  return is_even(e) | is_odd(e);
}

// As that of pow.h. The compiler shall not know the masks, which are one for all elements where e
// is: it would compute them for each, in a branch.
template <OfHalf T>
__device__ __forceinline__ T with_sign(T magnitude, T x, T e, bool odd) {
  uint32_t sign = odd ? 0x80000000 : 0;
  uint32_t undefined = is_integer(e) ? 0 : 0x7fc00000;
  asm("" : "+r"(sign), "+r"(undefined));
  const uint32_t value = to_bits(magnitude) ^ (to_bits(x) & sign);
  return from_bits((x < 0) & (x > -kInfinity<float>) ? value | undefined : value);
}

}  // namespace detail

template <OfHalf T>
__device__ __forceinline__ T pow(T x, T e) {
  const T magnitude = detail::power<T>(log2(abs(x)), {e, T(0)}).value();
  return detail::with_sign(magnitude, x, e, detail::is_odd(e));
}

// A coefficient 0 makes +0 of everything.
template <OfHalf T>
__device__ __forceinline__ T pow_base_derivative(T x, T e) {
  const T product = detail::power<T>(log2(abs(x)), {e - 1, T(0)}).times(e);
  return detail::with_sign(e == 0 ? T(0) : product, x, e, detail::is_even(e) & (e != 0));
}

template <OfHalf T>
__device__ __forceinline__ T pow_base_second_derivative(T x, T e) {
  const T coefficient = e * (e - 1);
  const T product = detail::power<T>(log2(abs(x)), {e - 2, T(0)}).times(coefficient);
  const bool odd = detail::is_odd(e) & (coefficient != 0);
  return detail::with_sign(coefficient == 0 ? T(0) : product, x, e, odd);
}

// The numerator is one fused multiply-add, so that it cancels no more than its terms' roundings.
template <OfHalf T>
__device__ __forceinline__ T binary_cross_entropy_with_logits_input_derivative(T logit, T target) {
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
template <OfHalf T>
__device__ __forceinline__ T binary_cross_entropy_with_logits_input_derivative(T logit, T target,
                                                                               T weight) {
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

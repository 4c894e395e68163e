// Powers of floats, in double: |x|^e is 2^(e log2|x|), with the logarithm
// to 2^-32.9 of itself, which an exponent of hundreds magnifies to no more than a fifth of a
// float's last place. Nothing overflows or is subnormal in double, so that the only rounding is the
// last. It takes a third fewer vector instructions than pairs of floats do. All else keeps the
// pairs of pow.h: second derivatives and fused functions, whose loops g++ 12 does not vectorise in
// this form, and half types on a device. A device takes this form of floats, so that it has the
// CPU's bits.
//
// Each function has a form for ordinary operands, whose base is positive and not extreme and whose
// exponent is not great, which leaves out what the others need: a third of the time. The loops of
// csrc/cpu ask `ordinary` of a block first. As the logarithm and the power are each a long chain of
// operations, and a processor sees only a few hundred ahead, one loop over the logarithms and one
// over the powers take less time than one over both. Both forms give ordinary operands the same
// bits: a result doesn't depend on its neighbours.
//
// Largest errors, in ULP, over one base in 1009 for each of the exponents of pow.h, and over 2
// million random bases with exponents such that the powers are of all sizes:
// x^e              0.54 and 0.62: (0x1.539ddep+0, 0x1.a90b22p+7) got 0x1.941bf6p+86
// its d/dx         0.54 and 0.65: (0x1.9dc6a4p-1, -0x1.80556ap+8) got -0x1.feeb88p+126
// its d/de         0.54 and 0.67: (0x1.5f1c8p+0, -0x1.0eea4ap+8) got 0x1.d0315ap-126
#pragma once

#include "math/elementary.h"

namespace fusedgrad::math::in_double {

// A device has the numbers of an array that is a constant, not the array.
template <const auto& kArray, int kIndex>
constexpr auto kOf = kArray[kIndex];

// Then x^e and x^(e-1) are between 2^-960 and 2^960.
FUSEDGRAD_HOST_DEVICE bool ordinary(float x, float e) {
  return (x >= 0x1p-60f) & (x <= 0x1p60f) & (abs(e) <= 15);
}

// log2|x|; infinite for 0 and infinity
template <bool kOrdinary>
FUSEDGRAD_HOST_DEVICE double log2(float x) {
  using C = PowerApproximations;
  constexpr uint32_t kRootHalf = 0x3f3504f3;
  constexpr uint32_t kMantissa = 0x7fffff;
  constexpr uint32_t kSubnormalShift = 24;
  uint32_t bits = to_bits(x);
  if constexpr (!kOrdinary) {
    x = abs(x);
    const uint32_t lifted = to_bits(x * 0x1p24f) - (kSubnormalShift << 23);
    bits = x < Format<float>::kMinNormal ? lifted : to_bits(x);
  }
  // x = 2^exponent * (1 + f), 1/sqrt(2) <= 1 + f < sqrt(2)
  const uint32_t offset = bits - kRootHalf;
  float exponent = static_cast<float>(static_cast<int32_t>(offset) >> 23);
  if constexpr (!kOrdinary) {
    exponent = x == 0 ? -kInfinity<float> : exponent;
    exponent = x < kInfinity<float> ? exponent : x;
  }
  const float f = from_bits((offset & kMantissa) + kRootHalf) - 1;
  const float f2 = f * f;
  float tail = fma(kOf<C::kLog2Tail, 6>, f2, fma(kOf<C::kLog2Tail, 5>, f, kOf<C::kLog2Tail, 4>));
  tail = fma(tail, f2, fma(kOf<C::kLog2Tail, 3>, f, kOf<C::kLog2Tail, 2>));
  tail = fma(tail, f2, fma(kOf<C::kLog2Tail, 1>, f, kOf<C::kLog2Tail, 0>));
  const double d = f;
  const double d2 = d * d;
  double p = fma(static_cast<double>(tail), d, kOf<C::kLog2, 4>);
  p = fma(p, d2, fma(kOf<C::kLog2, 3>, d, kOf<C::kLog2, 2>));
  p = fma(p, d2, fma(kOf<C::kLog2, 1>, d, kOf<C::kLog2, 0>));
  return fma(p, d, static_cast<double>(exponent));
}

// 2^y; beyond |y| = 600, where operands are not ordinary, 2^-600 and 2^600: times any coefficient
// they round to 0 and to infinity.
template <bool kOrdinary>
FUSEDGRAD_HOST_DEVICE double exp2(double y) {
  using C = PowerApproximations;
  constexpr double kLimit = 600;
  const double rounded = y + kRound<double>;
  const double f = y - (rounded - kRound<double>);
  const double f2 = f * f;
  double p = fma(kOf<C::kExp2, 5>, f2, fma(kOf<C::kExp2, 4>, f, kOf<C::kExp2, 3>));
  p = fma(p, f2, fma(kOf<C::kExp2, 2>, f, kOf<C::kExp2, 1>));
  p = fma(p, f2, fma(kOf<C::kExp2, 0>, f, 1.0));
  const double power = from_bits(to_bits(p) + (to_bits(rounded) << Format<double>::kMantissaBits));
  if constexpr (kOrdinary) return power;
  return y > kLimit ? 0x1p600 : y < -kLimit ? 0x1p-600 : power;
}

// An infinite exponent's powers are those of the greatest finite one, whose products are no NaN.
FUSEDGRAD_HOST_DEVICE double finite_exponent(float e) {
  constexpr float kMax = 0x1.fffffep127f;
  e = kMax < e ? kMax : e;
  return -kMax > e ? -kMax : e;
}

FUSEDGRAD_HOST_DEVICE bool is_integer(float e) { return __builtin_truncf(e) == e; }
FUSEDGRAD_HOST_DEVICE bool is_odd(float e) { return is_integer(e) & !is_integer(e * 0.5f); }
FUSEDGRAD_HOST_DEVICE bool is_even(float e) { return is_integer(e) & is_integer(e * 0.5f); }

// As detail::with_sign of pow.h
FUSEDGRAD_HOST_DEVICE float with_sign(float magnitude, float x, float e, bool odd) {
  const uint32_t sign = odd ? 0x80000000 : 0;
  const uint32_t undefined = is_integer(e) ? 0 : 0x7fc00000;
  const uint32_t value = to_bits(magnitude) ^ (to_bits(x) & sign);
  return from_bits((x < 0) & (x > -kInfinity<float>) ? value | undefined : value);
}

FUSEDGRAD_HOST_DEVICE float nan_below_zero(float x, float value) {
  return x < 0 ? __builtin_nanf("") : value;
}

constexpr double kLn2 = Approximations<double>::kLn2;

// x^e from log2|x|
template <bool kOrdinary>
FUSEDGRAD_HOST_DEVICE float pow(double log, float x, float e) {
  if constexpr (kOrdinary) return static_cast<float>(exp2<true>(e * log));
  const float magnitude = static_cast<float>(exp2<false>(finite_exponent(e) * log));
  return (x == 1) | (e == 0) ? 1.0f : with_sign(magnitude, x, e, is_odd(e));
}

// x^(e-1), in double
template <bool kOrdinary>
FUSEDGRAD_HOST_DEVICE double lower_power(double log, float e) {
  if constexpr (kOrdinary) return exp2<true>((static_cast<double>(e) - 1) * log);
  return exp2<false>((finite_exponent(e) - 1) * log);
}

// e x^(e-1) from x^(e-1)
template <bool kOrdinary>
FUSEDGRAD_HOST_DEVICE float pow_base_derivative(double lower, float x, float e) {
  // The zero makes +0 of a coefficient -0.
  if constexpr (kOrdinary) return static_cast<float>(fma(lower, static_cast<double>(e), 0.0));
  float value = static_cast<float>(lower * finite_exponent(e));
  value = (abs(x) == 1) | (e == 1) ? e : value;
  return e == 0 ? 0.0f : with_sign(value, x, e, is_even(e));
}

// x^e ln x from x^(e-1): both derivatives take one power.
template <bool kOrdinary>
FUSEDGRAD_HOST_DEVICE float pow_exponent_derivative(double lower, double log, float x, float e) {
  const float value = static_cast<float>(lower * x * (log * kLn2));
  if constexpr (kOrdinary) return value;
  const float end = e != e ? e : (x == 0) == (e >= 0) ? 0.0f : static_cast<float>(log);
  const float inside = x == 1 ? 0.0f : value;
  return nan_below_zero(x, (x == 0) | (x == kInfinity<float>) ? end : inside);
}

}  // namespace fusedgrad::math::in_double

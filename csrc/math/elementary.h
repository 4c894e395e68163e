// The few elementary functions that the mathematics of every operation is built on.
//
// They hand back parts (a number and what its rounding left, a power of two and its factor), so
// that a caller rounds once, at its end. No table, no branch, no call: a loop over them vectorises.
// Where a device spells one differently it does so here and nowhere else.
#pragma once

#include <type_traits>

#include "math/approximations.h"
#include "math/platform.h"

namespace fusedgrad::math {

// hi + lo, where lo is what rounding to hi left.
template <class T>
struct Pair {
  T hi;
  T lo;
};

// The same number, with |lo| at most half a unit of hi's last place
template <class T>
FUSEDGRAD_HOST_DEVICE Pair<T> normalized(Pair<T> x) {
  const T hi = x.hi + x.lo;
  return {hi, (x.hi - hi) + x.lo};
}

template <class T>
struct Ranges;

template <>
struct Ranges<float> {
  static constexpr float kLeastExponent = -110;  // exp(-110) rounds to 0
  static constexpr float kLift = 0x1p64f;        // exp(-110) * 2^64 is normal
  static constexpr int kLiftBits = 64;
  static constexpr float kGreatestPower = 250;  // 2^250 rounds to infinity, 2^125 does not
  static constexpr float kLeastFactor = 0x1p-125f;
};

template <>
struct Ranges<double> {
  static constexpr double kLeastExponent = -760;  // 760 exp(-760) rounds to 0
  static constexpr double kLift = 0x1p512;
  static constexpr int kLiftBits = 512;
  static constexpr double kGreatestPower = 2040;
  static constexpr double kLeastFactor = 0x1p-1020;
};

// 1.5 * 2^mantissa_bits + j holds j in its low bits: adding it rounds to an integer, and shifting
// the sum left by the mantissa's length makes the number 2^(j - bias).
template <class T>
constexpr T kRound = T(3) * static_cast<T>(Bits<T>(1) << (Format<T>::kMantissaBits - 1));

template <class T>
FUSEDGRAD_HOST_DEVICE T power_of_two(T rounded_biased) {
  return from_bits(static_cast<Bits<T>>(to_bits(rounded_biased) << Format<T>::kMantissaBits));
}

#if defined(__CUDACC__)
// Added to the bits of a number, it leaves infinity's the greatest integer with a sign and makes a
// NaN's wrap around to less than any other. Limits are then minima of integers.
template <class T>
constexpr Bits<T> kBelowNan = (Bits<T>(1) << Format<T>::kMantissaBits) - 1;
#else
namespace detail {
template <class T>
T not_folded(T value) {
  const volatile T stored = value;
  return stored;
}

// A minimum that keeps NaN is one vector instruction, which GCC finds for numbers that it doesn't
// know. Of constants it makes a comparison and a blend.
template <class T, int kValue>
static const T kNotFolded = not_folded(T(kValue));
}  // namespace detail
#endif

// x, or the limit where that is less, or greater
template <int kLimit, class T>
FUSEDGRAD_HOST_DEVICE T at_most(T x) {
#if defined(__CUDACC__)
  return x > T(kLimit) ? T(kLimit) : x;
#else
  const T limit = detail::kNotFolded<T, kLimit>;
  return limit < x ? limit : x;
#endif
}
template <int kLimit, class T>
FUSEDGRAD_HOST_DEVICE T at_least(T x) {
#if defined(__CUDACC__)
  return x < T(kLimit) ? T(kLimit) : x;
#else
  const T limit = detail::kNotFolded<T, kLimit>;
  return limit > x ? limit : x;
#endif
}

// |x|, or the limit where that is less
template <int kLimit, class T>
FUSEDGRAD_HOST_DEVICE T magnitude_up_to(T x) {
#if defined(__CUDACC__)
#if defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<T, float>) return minimum(abs(x), T(kLimit));
#endif
  using Signed = std::make_signed_t<Bits<T>>;
  const Signed bits = static_cast<Signed>(to_bits(abs(x)) + kBelowNan<T>);
  const Signed most = static_cast<Signed>(to_bits(T(kLimit)) + kBelowNan<T>);
  const Signed least = bits < most ? bits : most;
  return from_bits(static_cast<Bits<T>>(least) - kBelowNan<T>);
#else
  return at_most<kLimit>(abs(x));
#endif
}

// x, or the limit that it lies beyond, kLow < 0 < kHigh
template <int kLow, int kHigh, class T>
FUSEDGRAD_HOST_DEVICE T between(T x) {
#if defined(__CUDACC__)
#if defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<T, float>) return minimum(maximum(x, T(kLow)), T(kHigh));
#endif
  using Signed = std::make_signed_t<Bits<T>>;
  const Signed bits = static_cast<Signed>(to_bits(x) + kBelowNan<T>);
  const Signed most = static_cast<Signed>(to_bits(T(kHigh)) + kBelowNan<T>);
  // As integers with a sign, negative numbers are less than any limit; without, greater than
  // positive ones.
  const Bits<T> below = static_cast<Bits<T>>(bits < most ? bits : most);
  const Bits<T> least = to_bits(T(kLow)) + kBelowNan<T>;
  const Bits<T> inside = below < least ? below : least;
  return from_bits(inside - kBelowNan<T>);
#else
  return at_most<kHigh>(at_least<kLow>(x));
#endif
}

// exp(y) = power * (1 + expm1.hi + expm1.lo), |expm1| <= sqrt(2) - 1, with power times kLift: the
// result may be subnormal, and is rounded when the caller takes the lift away.
template <class T>
struct LiftedExp {
  T power;
  Pair<T> expm1;

  // exp(y) * kLift
  FUSEDGRAD_HOST_DEVICE Pair<T> value() const {
    const T hi = fma(power, expm1.hi, power);
    return {hi, fma(power, expm1.lo, fma(power, expm1.hi, power - hi))};
  }
  // (1 - exp(y)) * kLift, of full relative accuracy where it is near 0
  FUSEDGRAD_HOST_DEVICE Pair<T> complement() const {
    const T rest = Ranges<T>::kLift - power;
    const T rest_lo = (Ranges<T>::kLift - rest) - power;
    const T hi = fma(-power, expm1.hi, rest);
    return {hi, fma(-power, expm1.hi, rest - hi) + fma(-power, expm1.lo, rest_lo)};
  }
};

// exp(-y) * 2^scale, which must be a normal number
template <class T>
FUSEDGRAD_HOST_DEVICE LiftedExp<T> scaled_exp_of_minus(T y, int scale) {
  using C = Approximations<T>;
  const T shift = kRound<T> + (Format<T>::kBias + scale);
  const T shifted = fma(y, -C::kLog2E, shift);
  const T n = shifted - shift;
  const T r = -fma(n, C::kLn2Lo, fma(n, C::kLn2, y));
  const T square = r * r;
  const T p = Approximations<T>::expm1(r);
  const T hi = fma(square, p, r);
  return {power_of_two(shifted), {hi, fma(square, p, r - hi)}};
}

// y <= 0
template <class T>
FUSEDGRAD_HOST_DEVICE LiftedExp<T> lifted_exp(T y) {
  constexpr int kMost = static_cast<int>(-Ranges<T>::kLeastExponent);
  return scaled_exp_of_minus(magnitude_up_to<kMost>(y), Ranges<T>::kLiftBits);
}

// 1/d = estimate * (1 + residual)
template <class T>
struct Reciprocal {
  T estimate;
  T residual;

  FUSEDGRAD_HOST_DEVICE T value() const { return fma(estimate, residual, estimate); }
  // numerator/d
  FUSEDGRAD_HOST_DEVICE Pair<T> times(Pair<T> numerator) const {
    const T hi = numerator.hi * estimate;
    const T lo = fma(numerator.lo, estimate, fma(numerator.hi, estimate, -hi));
    return {hi, fma(hi, residual, lo)};
  }
};

// From an estimate with a relative error of at most 2^-11, by a step of third order. In float a
// division costs a vector unit no more than that, and needs no estimate.
template <class T>
FUSEDGRAD_HOST_DEVICE Reciprocal<T> reciprocal(Pair<T> d, [[maybe_unused]] T estimate) {
  if constexpr (sizeof(T) == sizeof(float)) {
    estimate = inverse(d.hi);
  } else {
    const T error = fma(-d.hi, estimate, T(1));
    estimate = fma(estimate, fma(error, error, error), estimate);
  }
  return {estimate, fma(-d.lo, estimate, fma(-d.hi, estimate, T(1)))};
}

// 1/(1 + a), 0 <= a <= 1
template <class T>
FUSEDGRAD_HOST_DEVICE Reciprocal<T> reciprocal_of_one_plus(Pair<T> a) {
  const T d = 1 + a.hi;
  return reciprocal<T>({d, (a.hi - (d - 1)) + a.lo}, Approximations<T>::reciprocal(d));
}

// large + small, |large| >= |small|
template <class T>
FUSEDGRAD_HOST_DEVICE Pair<T> sum(T large, T small) {
  const T hi = large + small;
  return {hi, (large - hi) + small};
}

// large + small + rest, |large| >= |small|, |large + small| >= |rest| or else exact
template <class T>
FUSEDGRAD_HOST_DEVICE Pair<T> sum(T large, T small, T rest) {
  const T first = large + small;
  const Pair<T> result = sum(first, rest);
  return {result.hi, result.lo + (small - (first - large))};
}

// A quotient, with what the division and its operands lost.
template <class T>
struct Quotient {
  T hi;
  T remainder;  // of numerator - hi * denominator
  T reciprocal;

  FUSEDGRAD_HOST_DEVICE T value() const { return fma(remainder, reciprocal, hi); }
};

template <class T>
FUSEDGRAD_HOST_DEVICE Quotient<T> divide(T numerator, Pair<T> denominator) {
  const T reciprocal = inverse(denominator.hi);
  const T hi = numerator * reciprocal;
  return {hi, fma(hi, -denominator.lo, fma(hi, -denominator.hi, numerator)), reciprocal};
}

template <class T>
FUSEDGRAD_HOST_DEVICE Quotient<T> divide(Pair<T> numerator, Pair<T> denominator) {
  const Quotient<T> q = divide(numerator.hi, denominator);
  return {q.hi, q.remainder + numerator.lo, q.reciprocal};
}

// 2 atanh(twice_s / 2), |twice_s| <= 2/3
template <class T>
FUSEDGRAD_HOST_DEVICE Pair<T> twice_atanh(Pair<T> twice_s) {
  twice_s = normalized(twice_s);
  const T z = T(0.25) * twice_s.hi * twice_s.hi;
  const T tail = z * Approximations<T>::atanh(z);
  return {twice_s.hi, fma(twice_s.hi, tail, twice_s.lo)};
}

// log(1 + a) = 2 atanh(a / (2 + a)), 0 <= a <= 1, a times kLift: it cancels nowhere.
template <class T>
FUSEDGRAD_HOST_DEVICE T log1p_of_lifted(Pair<T> a) {
  constexpr T kTwo = 2 * Ranges<T>::kLift;
  const T d = kTwo + a.hi;
  const Quotient<T> twice_s = divide<T>({2 * a.hi, 2 * a.lo}, {d, (a.hi - (d - kTwo)) + a.lo});
  const T half = T(0.5) * twice_s.hi;
  const T z = half * half;
  const T rest = twice_s.remainder * twice_s.reciprocal;
  return twice_s.hi + fma(twice_s.hi * z, Approximations<T>::atanh(z), rest);
}

// x = 2^exponent * (1 + fraction), 1/sqrt(2) <= 1 + fraction < sqrt(2), x >= 0
template <class T>
struct Decomposed {
  T exponent;
  T fraction;
};

template <class T>
FUSEDGRAD_HOST_DEVICE Decomposed<T> decompose(T x) {
  using F = Format<T>;
  constexpr int kSubnormalShift = F::kMantissaBits + 1;
  constexpr T kIntegers = static_cast<T>(Bits<T>(1) << F::kMantissaBits);
  constexpr Bits<T> kRootHalf = sizeof(T) == 4 ? Bits<T>(0x3f3504f3) : Bits<T>(0x3fe6a09e667f3bcd);
  constexpr Bits<T> kOne = Bits<T>(F::kBias) << F::kMantissaBits;
  const bool subnormal = x < F::kMinNormal;
  const Bits<T> bits = to_bits(subnormal ? x * static_cast<T>(Bits<T>(1) << kSubnormalShift) : x) +
                       (kOne - kRootHalf);
  const T exponent = from_bits((bits >> F::kMantissaBits) | to_bits(kIntegers)) -
                     (subnormal ? kIntegers + (F::kBias + kSubnormalShift) : kIntegers + F::kBias);
  const Bits<T> mantissa = bits & ((Bits<T>(1) << F::kMantissaBits) - 1);
  return {exponent, from_bits(mantissa + kRootHalf) - 1};
}

// log(u + lo), 0 <= u <= 1, |lo| at most half a unit of u's last place
template <class T>
FUSEDGRAD_HOST_DEVICE T log_of_fraction(T u, T lo) {
  using C = Approximations<T>;
  const Decomposed<T> d = decompose(u);
  // lo in units of the fraction: where u is far from 1, too little to matter, and 0 from the
  // callers.
  const T fraction = d.exponent == 0 ? d.fraction + lo : d.fraction + lo * 2;
  const T denominator = 2 + fraction;
  const Reciprocal<T> r = reciprocal<T>({denominator, fraction - (denominator - 2)},
                                        C::reciprocal_near_two(denominator));
  const Pair<T> log = twice_atanh(r.times({2 * fraction, T(0)}));
  const T hi = fma(d.exponent, C::kLn2, log.hi);
  const T lo_sum = fma(d.exponent, C::kLn2, -hi) + log.hi;
  const T result = hi + (lo_sum + fma(d.exponent, C::kLn2Lo, log.lo));
  return u == 0 ? -kInfinity<T> : result;
}

// log2(x), x >= 0, to 2^-34 (float) and 2^-64 (double) of itself: times an exponent it keeps the
// digits of a power. lo is 0 where hi is not finite.
template <class T>
FUSEDGRAD_HOST_DEVICE Pair<T> log2(T x) {
  using C = Approximations<T>;
  const Decomposed<T> d = decompose(x);
  const T denominator = 2 + d.fraction;
  const Reciprocal<T> r = reciprocal<T>({denominator, d.fraction - (denominator - 2)},
                                        C::reciprocal_near_two(denominator));
  const Pair<T> q = normalized(r.times({d.fraction, T(0)}));
  // series = 2/ln2 * (1 + z/3) + z^2 * polynomial, z = q^2
  const T z = q.hi * q.hi;
  const T z_lo = fma(q.hi, q.hi, -z) + 2 * q.hi * q.lo;
  const T linear = C::kTwoThirdsOverLn2 * z;
  const T linear_lo = fma(C::kTwoThirdsOverLn2, z, -linear) +
                      fma(C::kTwoThirdsOverLn2, z_lo, C::kTwoThirdsOverLn2Lo * z);
  const T rest = fma(z * z, C::log2(z), C::kTwoOverLn2Lo + linear_lo);
  const T series = C::kTwoOverLn2 + linear;
  const T series_lo = ((C::kTwoOverLn2 - series) + linear) + rest;
  const T product = q.hi * series;
  const T product_lo = fma(q.hi, series, -product) + fma(q.hi, series_lo, q.lo * series);
  const T sum = d.exponent + product;
  const Pair<T> log = normalized<T>({sum, ((d.exponent - sum) + product) + product_lo});
  const bool finite = x < kInfinity<T>;
  return {x == 0 ? -kInfinity<T> : finite ? log.hi : x, (x != 0) & finite ? log.lo : T(0)};
}

// 2^y = mantissa * low * high, low and high powers of two of like exponents, so that a product that
// overflows or becomes subnormal on the way does so at the end.
template <class T>
struct ScaledPower {
  T mantissa;
  T low;
  T high;

  // 2^y * c, where a 2^y that is 0 makes 0 of an infinite c
  FUSEDGRAD_HOST_DEVICE T times(T c) const {
    return mantissa * low * (low <= Ranges<T>::kLeastFactor ? copysign(T(1), c) : c) * high;
  }
  FUSEDGRAD_HOST_DEVICE T value() const { return mantissa * low * high; }
};

template <class T>
FUSEDGRAD_HOST_DEVICE ScaledPower<T> exp2(Pair<T> y) {
  constexpr int kLimit = static_cast<int>(Ranges<T>::kGreatestPower);
  constexpr T kShift = kRound<T> + Format<T>::kBias;
  const T lo = abs(y.hi) < T(kLimit) ? y.lo : T(0);
  const T hi = at_least<-kLimit>(at_most<kLimit>(y.hi));
  const T n = (hi + kRound<T>)-kRound<T>;
  const T f = (hi - n) + lo;
  const T mantissa = fma(f, Approximations<T>::exp2(f), T(1));
  const T half = fma(n, T(0.5), kShift);
  const T other_half = (n - (half - kShift)) + kShift;
  return {mantissa, power_of_two(half), power_of_two(other_half)};
}

}  // namespace fusedgrad::math

#include "math/device.h"

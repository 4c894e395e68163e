// exp(x) and expm1(x) for every x.
//
// Largest errors in float, by the scan of tools/error_budget.py, whose bounds hold in double too:
// exp 1.04: exp(-0x1.3352f2p+5) got 0x1.7e30bcp-56 want 0x1.7e30be15b94aap-56
// expm1 1.43: expm1(0x1.0fb868p+4) got 0x1.6a3064p+24 want 0x1.6a30612428408p+24
#pragma once

#include "math/elementary.h"

namespace fusedgrad::math {

namespace detail {

// x = n ln2 + r, |r| <= ln2 / 2
template <class T>
struct ReducedByLn2 {
  T n;
  T r;
};

template <class T>
FUSEDGRAD_HOST_DEVICE ReducedByLn2<T> reduce_by_ln2(T x) {
  using C = Approximations<T>;
  const T n = fma(x, C::kLog2E, kRound<T>) - kRound<T>;
  return {n, fma(n, -C::kLn2Lo, fma(n, -C::kLn2, x))};
}

template <class T>
FUSEDGRAD_HOST_DEVICE T clamp(T x, T low, T high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}

}  // namespace detail

template <class T>
FUSEDGRAD_HOST_DEVICE T exp(T x) {
  constexpr T kShift = kRound<T> + Format<T>::kBias;
  // Beyond, the result is 0 or infinite, and its power of two would no longer fit in two factors.
  constexpr T kLimit = T(0.69) * Ranges<T>::kGreatestPower;
  const detail::ReducedByLn2<T> reduced = detail::reduce_by_ln2(detail::clamp(x, -kLimit, kLimit));
  const T r = reduced.r;
  const T half = fma(reduced.n, T(0.5), kShift);
  const T other_half = (reduced.n - (half - kShift)) + kShift;
  const T mantissa = 1 + fma(r * r, Approximations<T>::expm1(r), r);
  return mantissa * power_of_two(half) * power_of_two(other_half);
}

template <class T>
FUSEDGRAD_HOST_DEVICE T exp2(T x) {
  return x != x ? x : exp2<T>({x, T(0)}).value();
}

// 2^x c, which overflows no sooner than it must
template <class T>
FUSEDGRAD_HOST_DEVICE T exp2_times(T x, T c) {
  return x != x ? x : exp2<T>({x, T(0)}).times(c);
}

namespace detail {

// expm1(x) / 2 = power (1 + expm1) - 1/2
template <class T>
struct HalfExpm1 {
  T power;
  Pair<T> expm1;
};

template <class T>
FUSEDGRAD_HOST_DEVICE HalfExpm1<T> half_expm1(T x) {
  constexpr T kShift = kRound<T> + (Format<T>::kBias - 1);
  constexpr T kMost = T(0.6933) * (Format<T>::kBias + 1);
  const ReducedByLn2<T> reduced = reduce_by_ln2(clamp(x, T(-60), kMost));
  const T r = reduced.r;
  const T square = r * r;
  const T p = Approximations<T>::expm1(r);
  const T hi = fma(square, p, r);
  return {power_of_two(reduced.n + kShift), {hi, fma(square, p, r - hi)}};
}

}  // namespace detail

// 2^n - 1 and 2^n expm1(r) are added last, each half as large, so that none overflows before the
// sum does.
template <class T>
FUSEDGRAD_HOST_DEVICE T expm1(T x) {
  constexpr T kIdentity = sizeof(T) == 4 ? T(0x1p-30f) : T(0x1p-60);  // expm1(x) rounds to x
  const detail::HalfExpm1<T> half = detail::half_expm1(x);
  const T rest = half.power - T(0.5);
  const T result = 2 * (fma(half.power, half.expm1.hi, rest) + half.power * half.expm1.lo);
  return abs(x) < kIdentity ? x : result;
}

// expm1(x) - x, which does not cancel what rounding left
template <class T>
FUSEDGRAD_HOST_DEVICE T expm1_rest(T x) {
  constexpr T kNear = T(0.34);
  const T near = abs(x) < kNear ? x : T(0);
  const detail::HalfExpm1<T> half = detail::half_expm1(x);
  const T rest = half.power - T(0.5);
  const T sum = fma(half.power, half.expm1.hi, rest);
  const T lost = fma(half.power, half.expm1.hi, rest - sum) + half.power * half.expm1.lo;
  const T far = x > 2 * Format<T>::kBias ? kInfinity<T> : 2 * ((sum - T(0.5) * x) + lost);
  return abs(x) < kNear ? near * near * Approximations<T>::expm1(near) : far;
}

}  // namespace fusedgrad::math

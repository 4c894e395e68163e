// log(x) and log1p(x) for every x, NaN below the domain, -infinity at its end.
//
// Largest errors in float, by the scan of tools/error_budget.py, whose bounds hold in double too:
// log 0.53: log(0x1.69b46ap-1) got -0x1.63d618p-2 want -0x1.63d616f299df7p-2
// log1p 0.53: log1p(-0x1.2933f2p-2) got -0x1.5f0d6p-2 want -0x1.5f0d610eb22a2p-2
#pragma once

#include "math/elementary.h"

namespace fusedgrad::math {

namespace detail {

// log(u + lo), u > 0 and finite, lo what rounding to u left
template <class T>
FUSEDGRAD_HOST_DEVICE T log_of_sum(T u, T lo) {
  using C = Approximations<T>;
  constexpr int kLargeExponent = 60;  // lo is then 0, or too little to matter
  constexpr T kShift = kRound<T> + Format<T>::kBias;
  const Decomposed<T> d = decompose(u);
  const T exponent = at_most<kLargeExponent>(at_least<-kLargeExponent>(d.exponent));
  const T rest = lo * power_of_two(kShift - exponent);
  const Pair<T> fraction = normalized<T>({d.fraction, rest});
  const T denominator = 2 + fraction.hi;
  const Reciprocal<T> r =
      reciprocal<T>({denominator, (fraction.hi - (denominator - 2)) + fraction.lo},
                    C::reciprocal_near_two(denominator));
  const Pair<T> log = twice_atanh(r.times({2 * fraction.hi, 2 * fraction.lo}));
  const T hi = fma(d.exponent, C::kLn2, log.hi);
  const T hi_rest = fma(d.exponent, C::kLn2, -hi) + log.hi;
  return hi + (hi_rest + fma(d.exponent, C::kLn2Lo, log.lo));
}

}  // namespace detail

template <class T>
FUSEDGRAD_HOST_DEVICE T log(T x) {
  const T result = detail::log_of_sum(x, T(0));
  const T edge = x == 0 ? -kInfinity<T> : x < 0 ? static_cast<T>(__builtin_nan("")) : x;
  return (x > 0) & (x < kInfinity<T>) ? result : edge;
}

template <class T>
FUSEDGRAD_HOST_DEVICE T log1p(T x) {
  constexpr T kIdentity = sizeof(T) == 4 ? T(0x1p-30f) : T(0x1p-60);  // log1p(x) rounds to x
  const T u = 1 + x;
  const T rounded = u - 1;
  const T result = detail::log_of_sum(u, (1 - (u - rounded)) + (x - rounded));
  const T edge = x == -1 ? -kInfinity<T> : x < -1 ? static_cast<T>(__builtin_nan("")) : x;
  return (x > -1) & (x < kInfinity<T>)&(abs(x) >= kIdentity) ? result : edge;
}

// log(x), or log1p(y)
template <class T>
FUSEDGRAD_HOST_DEVICE T log_chosen(bool is_log, T x, T y) {
  constexpr T kIdentity = sizeof(T) == 4 ? T(0x1p-30f) : T(0x1p-60);
  const T sum = 1 + y;
  const T rounded = sum - 1;
  const T lost = (1 - (sum - rounded)) + (y - rounded);
  const T u = is_log ? x : sum;
  const T result = detail::log_of_sum(u, is_log ? T(0) : lost);
  const T same = is_log ? x : y;
  const T edge = u == 0 ? -kInfinity<T> : u < 0 ? static_cast<T>(__builtin_nan("")) : same;
  return (u > 0) & (u < kInfinity<T>)&(is_log | (abs(y) >= kIdentity)) ? result : edge;
}

namespace detail {

template <class T>
FUSEDGRAD_HOST_DEVICE T log_edge(T x, T result) {
  const T edge = x == 0 ? -kInfinity<T> : x < 0 ? static_cast<T>(__builtin_nan("")) : x;
  return (x > 0) & (x < kInfinity<T>) ? result : edge;
}

}  // namespace detail

template <class T>
FUSEDGRAD_HOST_DEVICE T log_of_base_2(T x) {
  const Pair<T> log = log2(abs(x));
  return detail::log_edge(x, log.hi + log.lo);
}

template <class T>
FUSEDGRAD_HOST_DEVICE T log_of_base_10(T x) {
  constexpr T kLog10Of2 = T(0x1.34413509f79ffp-2);
  constexpr T kLo = static_cast<T>(0x1.34413509f79ffp-2 - static_cast<double>(kLog10Of2)) -
                    T(0x1.9dc1da994fd21p-59);
  const Pair<T> log = log2(abs(x));
  const T hi = log.hi * kLog10Of2;
  const T lo = fma(log.hi, kLog10Of2, -hi) + fma(log.hi, kLo, log.lo * kLog10Of2);
  return detail::log_edge(x, hi + lo);
}

template <class T>
FUSEDGRAD_HOST_DEVICE T logit(T x) {
  return log(x / (1 - x));
}

// -x log(x), 0 at 0, -infinity below
template <class T>
FUSEDGRAD_HOST_DEVICE T entr(T x) {
  return x == 0 ? T(0) : x < 0 ? -kInfinity<T> : -(x * log(x));
}

// x log(y), 0 where x is, unless y is NaN
template <class T>
FUSEDGRAD_HOST_DEVICE T xlogy(T x, T y) {
  return y != y ? y : x == 0 ? T(0) : x * log(y);
}

template <class T>
FUSEDGRAD_HOST_DEVICE T xlog1py(T x, T y) {
  return y != y ? y : x == 0 ? T(0) : x * log1p(y);
}

template <class T>
FUSEDGRAD_HOST_DEVICE T log_of_probability(T x) {
  const T value = log(x);
  return value < -100 ? T(-100) : value;
}

}  // namespace fusedgrad::math

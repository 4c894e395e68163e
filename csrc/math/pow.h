// pow(x, e) = x^e and its partial derivatives, with every special case of C's pow.
//
// |x|^e is 2^(e log2|x|), the logarithm and the product in pairs, so that an exponent of hundreds
// does not magnify a rounding; the functors that have a form in two steps take floats through
// pow_in_double.h instead. Derivatives take x^(e-1) from the logarithm times e - 1, itself
// a pair: e - 1 rounded to one number would be wrong by 2^-25, and x^(e-1) by 64 units of its last
// place.
//
// Conventions, PyTorch's: a coefficient 0 makes a derivative 0; at base 0 and exponents from 0 up
// the derivative in the exponent is 0. A second derivative is a limit, never 0 * inf.
//
// Largest errors on a host, in ULP, over one base in 101 (float) and 2 million (double) for each of
// the exponents 2, 3, 1/2, -1/2, -1, -2, 5/2, 1/3, 10 and -7.3 (csrc/accuracy; the bounds, and
// random exponents, are in tests/test_accuracy.py).
#pragma once

#include "math/elementary.h"
#include "math/pow_in_double.h"

namespace fusedgrad::math {

namespace detail {

template <class T>
FUSEDGRAD_HOST_DEVICE bool is_integer(T x) {
  constexpr T kIntegers = static_cast<T>(Bits<T>(1) << Format<T>::kMantissaBits);
  const T size = abs(x);
  return (size < kIntegers ? (size + kIntegers) - kIntegers : size) == size;
}

template <class T>
FUSEDGRAD_HOST_DEVICE bool is_even(T x) {
  return is_integer(x * T(0.5));
}

template <class T>
FUSEDGRAD_HOST_DEVICE bool is_odd(T x) {
  return is_integer(x) & !is_even(x);
}

// e - 1 or e - 2 and what its rounding left (Knuth's two-sum)
template <class T>
FUSEDGRAD_HOST_DEVICE Pair<T> subtract(T e, T n) {
  const T hi = e - n;
  const T subtracted = hi - e;
  return {hi, (e - (hi - subtracted)) - (n + subtracted)};
}

// |x|^e from log2|x|, where 0 as an exponent and 1 as a base make 1 of everything
template <class T>
FUSEDGRAD_HOST_DEVICE ScaledPower<T> power(Pair<T> log, Pair<T> e) {
  log.hi = e.hi == 0 ? T(0) : log.hi;
  const T hi = e.hi * log.hi;
  const T lo = fma(e.hi, log.hi, -hi) + fma(e.hi, log.lo, e.lo * log.hi);
  return exp2<T>({log.hi == 0 ? T(0) : hi, log.hi == 0 ? T(0) : lo});
}

// A negative base hands its sign to an odd power and has no power of a broken exponent; infinity
// has. The conditions on e are masks, because a loop over x with one e vectorises no other way.
template <class T>
FUSEDGRAD_HOST_DEVICE T with_sign(T magnitude, T x, T e, bool odd) {
  constexpr Bits<T> kSign = Bits<T>(1) << (sizeof(T) * 8 - 1);
  const Bits<T> sign = odd ? kSign : 0;
  const Bits<T> undefined = is_integer(e) ? 0 : to_bits(static_cast<T>(__builtin_nan("")));
  const Bits<T> value = to_bits(magnitude) ^ (to_bits(x) & sign);
  return from_bits((x < 0) & (x > -kInfinity<T>) ? value | undefined : value);
}

// ln|x| to a little more than its last place
template <class T>
FUSEDGRAD_HOST_DEVICE T ln(Pair<T> log) {
  using C = Approximations<T>;
  const T lo = fma(log.lo, C::kLn2, log.hi * C::kLn2Lo);
  return abs(log.hi) < kInfinity<T> ? fma(log.hi, C::kLn2, lo) : log.hi;
}

// At base 0 a power is 0, 1 or infinite, and a small coefficient must not make infinity finite: it
// is represented by a large power.
template <class T>
FUSEDGRAD_HOST_DEVICE T coefficient_at(T x, T c) {
  // No conjunction: in a loop with one c it would not vectorise.
  const T large = abs(c) < 1 ? copysign(T(1), c) : c;
  return x == 0 ? large : c;
}

template <class T>
FUSEDGRAD_HOST_DEVICE T nan_below_zero(T x, T value) {
  return x < 0 ? static_cast<T>(__builtin_nan("")) : value;
}

}  // namespace detail

// float 1.06: pow(0x1.ae3192p-31, -2) got 0x1.6a9ec4p+60 want 0x1.6a9ec1e29a3bbp+60; double 1.04
template <class T>
FUSEDGRAD_HOST_DEVICE T pow(Pair<T> log, T x, T e) {
  const T magnitude = detail::power<T>(log, {e, T(0)}).value();
  return x == 1 ? T(1) : detail::with_sign(magnitude, x, e, detail::is_odd(e));
}

template <class T>
FUSEDGRAD_HOST_DEVICE T pow(T x, T e) {
  return pow(log2(abs(x)), x, e);
}

// e x^(e-1)
// float 1.84: at (-0x1.1f5aeap+12, 10) got -0x1.c49dfcp+112 want -0x1.c49df854786aep+112;
// double 1.83
template <class T>
FUSEDGRAD_HOST_DEVICE T pow_base_derivative(Pair<T> log, T x, T e) {
  const ScaledPower<T> power = detail::power(log, detail::subtract(e, T(1)));
  const T magnitude = power.times(detail::coefficient_at(x, e));
  return e == 0 ? T(0) : detail::with_sign(magnitude, x, e, detail::is_even(e));
}

template <class T>
FUSEDGRAD_HOST_DEVICE T pow_base_derivative(T x, T e) {
  return pow_base_derivative(log2(abs(x)), x, e);
}

// x^e ln x
// float 2.50: at (0x1.7558c4p-65, 1/3) got -0x1.feac82p-17 want -0x1.feac7d01dc382p-17; double 2.36
template <class T>
FUSEDGRAD_HOST_DEVICE T pow_exponent_derivative(Pair<T> log, T x, T e) {
  const T value = detail::power<T>(log, {e, T(0)}).times(detail::ln(log));
  return (x == 0) & (e >= 0) ? T(0) : detail::nan_below_zero(x, value);
}

template <class T>
FUSEDGRAD_HOST_DEVICE T pow_exponent_derivative(T x, T e) {
  return pow_exponent_derivative(log2(abs(x)), x, e);
}

// e (e-1) x^(e-2)
// float 2.82: at (-0x1.9237fep+13, -2) got 0x1.f81e28p-53 want 0x1.f81e225efe893p-53;
// double 2.34
template <class T>
FUSEDGRAD_HOST_DEVICE T pow_base_second_derivative(T x, T e) {
  const T coefficient = e * (e - 1);
  const ScaledPower<T> power = detail::power(log2(abs(x)), detail::subtract(e, T(2)));
  const T magnitude = power.times(detail::coefficient_at(x, coefficient));
  return coefficient == 0 ? T(0) : detail::with_sign(magnitude, x, e, detail::is_odd(e));
}

// x^(e-1) (1 + e ln x), whose second factor has a zero at x = exp(-1/e): next to it only the
// digits of the two terms are kept
template <class T>
FUSEDGRAD_HOST_DEVICE T pow_mixed_derivative(T x, T e) {
  const Pair<T> log = log2(abs(x));
  const T sum = fma(e, detail::ln(log), T(1));
  const T factor = e == 0 ? T(1) : sum;  // of a sum, so that a device does not branch
  const T value = detail::power(log, detail::subtract(e, T(1))).times(factor);
  return detail::nan_below_zero(x, value);
}

// x^e (ln x)^2
// float 3.93: at (0x1.649214p-54, -1) got 0x1.ee0f46p+63 want 0x1.ee0f3e2583d68p+63; double 3.76
template <class T>
FUSEDGRAD_HOST_DEVICE T pow_exponent_second_derivative(T x, T e) {
  const Pair<T> log = log2(abs(x));
  const T ln = detail::ln(log);
  const T value = detail::power<T>(log, {e, T(0)}).times(ln * ln);
  return (x == 0) & (e >= 0) ? T(0) : detail::nan_below_zero(x, value);
}

namespace detail {

template <int N, class T>
FUSEDGRAD_HOST_DEVICE T integer_power(T x) {
  if constexpr (N == 0) {
    return T(1);
  } else if constexpr (N == 1) {
    return x;
  } else if constexpr (N % 2 == 0) {
    const T root = integer_power<N / 2>(x);
    return root * root;
  } else {
    return integer_power<N - 1>(x) * x;
  }
}

}  // namespace detail

// coefficient * x^(k/2) for a small k, in two factors: neither leaves the range of numbers where
// the result doesn't. As in C's pow, the root of -0 is +0 and that of -inf is inf.
// float 1.91: x^4 at -0x1.acb0e8p-13 got 0x1.f7442p-50 want 0x1.f74423cd9fdbap-50; double 1.91
template <int TwiceExponent, class T>
FUSEDGRAD_HOST_DEVICE T pow_half_integer(T x, T coefficient = 1) {
  constexpr int kSize = TwiceExponent < 0 ? -TwiceExponent : TwiceExponent;
  constexpr bool kRoot = kSize % 2 != 0;
  T base = x;
  if constexpr (kRoot) base = x == -kInfinity<T> ? kInfinity<T> : x + T(0);
  const T first = detail::integer_power<(kSize / 2 + 1) / 2>(base);
  const T rest = detail::integer_power<kSize / 4>(base);
  const T root = kRoot ? sqrt(base) : T(1);
  const T second = rest * root;
  if constexpr (TwiceExponent < 0) {
    return coefficient / first / second;
  } else if constexpr (!kRoot || kSize < 5) {
    return coefficient * first * second;
  } else {
    // Rounding `second` too would leave more than 2 ULP.
    const T scaled = coefficient * first;
    const T product = scaled * second;
    const T exact = fma(scaled, second, scaled * fma(rest, root, -second));
    return abs(product) < kInfinity<T> ? exact : product;
  }
}

template <int TwiceExponent>
struct PowHalfInteger {
  using ForHalves = PowHalfInteger;
  template <class T>
  FUSEDGRAD_HOST_DEVICE T operator()(T x) const {
    return pow_half_integer<TwiceExponent>(x);
  }
};

namespace detail {

// coefficient * x^(k/2), which a coefficient 0 makes 0 even of infinity
template <int TwiceExponent, class T>
FUSEDGRAD_HOST_DEVICE T half_integer_term(T coefficient, T x) {
  return coefficient == 0 ? T(0) : pow_half_integer<TwiceExponent>(x, coefficient);
}

}  // namespace detail

template <int TwiceExponent>
struct PowHalfIntegerBackward {
  using ForHalves = PowHalfIntegerBackward;
  template <class T>
  FUSEDGRAD_HOST_DEVICE T operator()(T grad, T x) const {
    constexpr T e = T(TwiceExponent) / 2;
    return grad * detail::half_integer_term<TwiceExponent - 2>(e, x);
  }
};

template <int TwiceExponent>
struct PowHalfIntegerDoubleBackward {
  template <class T>
  FUSEDGRAD_HOST_DEVICE Values<T, 2> operator()(T grad_grad, T grad, T x) const {
    constexpr T e = T(TwiceExponent) / 2;
    return {{grad_grad * detail::half_integer_term<TwiceExponent - 2>(e, x),
             grad_grad * grad * detail::half_integer_term<TwiceExponent - 4>(e * (e - 1), x)}};
  }
};

// For half types on a host, in float. In units of 2^-24: log2 is off by 3.2 of itself (polynomial
// 0.8, its roundings 1.4, the last sum 1), times e by 4.2; of a power between 2^-134 and 2^128, in
// float16 2^-25 and 2^16, that is at most 4.2 * 134 or 4.2 * 25, times ln2, and exp2 adds 5: 395
// and 78, which is 0.006 ULP of a bfloat16 and 0.0096 of a float16 beyond the half of rounding. In
// two forms and two steps, as those of pow_in_double.h.
namespace brief {

// Whether x > 0 and x^e and x^(e-1) are normal numbers: the bits of x, less those of 1, are at
// least 0.69 of its logarithm times 2^23.
FUSEDGRAD_HOST_DEVICE bool ordinary(float x, float e) {
  constexpr float kMost = 85 * 0x1p23f;
  const float log = static_cast<float>(static_cast<int32_t>(to_bits(x) - to_bits(1.0f)));
  return abs(log) * (abs(e) + 1) <= kMost;
}

// log2|x|; infinite for 0 and infinity
template <bool kOrdinary>
FUSEDGRAD_HOST_DEVICE float log2(float x) {
  if constexpr (kOrdinary) {
    constexpr uint32_t kRootHalf = 0x3f3504f3;
    const uint32_t offset = to_bits(x) - kRootHalf;
    const float exponent = static_cast<float>(static_cast<int32_t>(offset) >> 23);
    const float f = from_bits((offset & 0x7fffff) + kRootHalf) - 1;
    return fma(f, BriefApproximations::log2(f), exponent);
  }
  x = abs(x);
  const Decomposed<float> d = decompose(x);
  const float log = fma(d.fraction, BriefApproximations::log2(d.fraction), d.exponent);
  const float finite = x == 0 ? -kInfinity<float> : log;
  return x < kInfinity<float> ? finite : x;
}

// |x|^e c from log2|x|, where 0 as an exponent and 1 as a base make 1 of everything but c
template <bool kOrdinary>
FUSEDGRAD_HOST_DEVICE float power_times(float log, float e, float c) {
  constexpr int kLimit = static_cast<int>(Ranges<float>::kGreatestPower);
  constexpr float kShift = kRound<float> + Format<float>::kBias;
  float y = e * log;
  if constexpr (!kOrdinary) {
    y = (e == 0) | (log == 0) ? 0.0f : y;
    y = at_least<-kLimit>(at_most<kLimit>(y));
  }
  const float shifted = y + kRound<float>;
  const float n = shifted - kRound<float>;
  const float f = y - n;
  const float mantissa = fma(f, BriefApproximations::exp2(f), 1.0f);
  if constexpr (kOrdinary) {
    return c * from_bits(to_bits(mantissa) + (to_bits(shifted) << Format<float>::kMantissaBits));
  }
  const float half = fma(n, 0.5f, kShift);
  const float other_half = (n - (half - kShift)) + kShift;
  return ScaledPower<float>{mantissa, power_of_two(half), power_of_two(other_half)}.times(c);
}

template <bool kOrdinary>
FUSEDGRAD_HOST_DEVICE float pow(float log, float x, float e) {
  const float magnitude = power_times<kOrdinary>(log, e, 1);
  if constexpr (kOrdinary) return magnitude;
  return x == 1 ? 1.0f : detail::with_sign(magnitude, x, e, detail::is_odd(e));
}

// The zero makes +0 of a coefficient -0.
template <bool kOrdinary>
FUSEDGRAD_HOST_DEVICE float pow_base_derivative(float log, float x, float e) {
  if constexpr (kOrdinary) return power_times<true>(log, e - 1, e + 0.0f);
  const float magnitude = power_times<false>(log, e - 1, detail::coefficient_at(x, e));
  return e == 0 ? 0.0f : detail::with_sign(magnitude, x, e, detail::is_even(e));
}

template <bool kOrdinary>
FUSEDGRAD_HOST_DEVICE float pow_exponent_derivative(float log, float x, float e) {
  const float value = power_times<kOrdinary>(log, e, log * Approximations<float>::kLn2);
  if constexpr (kOrdinary) return value;
  return (x == 0) & (e >= 0) ? 0.0f : detail::nan_below_zero(x, value);
}

// Each takes all operands of its functor.
struct PowForHalves {
  static constexpr int kFirstReads = 0;
  FUSEDGRAD_HOST_DEVICE float operator()(float x, float e) const {
    return pow<false>(log2<false>(x), x, e);
  }
  FUSEDGRAD_HOST_DEVICE bool ordinary(float x, float e) const { return brief::ordinary(x, e); }
  template <bool kOrdinary>
  FUSEDGRAD_HOST_DEVICE float first(float x, float) const {
    return log2<kOrdinary>(x);
  }
  template <bool kOrdinary>
  FUSEDGRAD_HOST_DEVICE float second(float log, float x, float e) const {
    return pow<kOrdinary>(log, x, e);
  }
};

struct PowBackwardExponentForHalves {
  static constexpr int kFirstReads = 1;
  FUSEDGRAD_HOST_DEVICE float operator()(float grad, float x, float e) const {
    return grad * pow_exponent_derivative<false>(log2<false>(x), x, e);
  }
  FUSEDGRAD_HOST_DEVICE bool ordinary(float, float x, float e) const {
    return brief::ordinary(x, e);
  }
  template <bool kOrdinary>
  FUSEDGRAD_HOST_DEVICE float first(float, float x, float) const {
    return log2<kOrdinary>(x);
  }
  template <bool kOrdinary>
  FUSEDGRAD_HOST_DEVICE float second(float log, float grad, float x, float e) const {
    return grad * pow_exponent_derivative<kOrdinary>(log, x, e);
  }
};

}  // namespace brief

template <class S>
struct PowScalar {
  S exponent;
  struct ForHalves {
    float exponent;
    FUSEDGRAD_HOST_DEVICE explicit ForHalves(const PowScalar& of)
        : exponent(static_cast<float>(of.exponent)) {}
    static constexpr int kFirstReads = 0;
    FUSEDGRAD_HOST_DEVICE float operator()(float x) const {
      return brief::pow<false>(brief::log2<false>(x), x, exponent);
    }
    FUSEDGRAD_HOST_DEVICE bool ordinary(float x) const { return brief::ordinary(x, exponent); }
    template <bool kOrdinary>
    FUSEDGRAD_HOST_DEVICE float first(float x) const {
      return brief::log2<kOrdinary>(x);
    }
    template <bool kOrdinary>
    FUSEDGRAD_HOST_DEVICE float second(float log, float x) const {
      return brief::pow<kOrdinary>(log, x, exponent);
    }
  };
  static constexpr int kFirstReads = 0;
  FUSEDGRAD_HOST_DEVICE S operator()(S x) const { return pow(x, exponent); }
  FUSEDGRAD_HOST_DEVICE bool ordinary(float x) const { return in_double::ordinary(x, exponent); }
  template <bool kOrdinary>
  FUSEDGRAD_HOST_DEVICE double first(float x) const {
    return in_double::log2<kOrdinary>(x);
  }
  template <bool kOrdinary>
  FUSEDGRAD_HOST_DEVICE float second(double log, float x) const {
    return in_double::pow<kOrdinary>(log, x, exponent);
  }
};

template <class S>
struct PowScalarBackward {
  S exponent;
  struct ForHalves {
    float exponent;
    FUSEDGRAD_HOST_DEVICE explicit ForHalves(const PowScalarBackward& of)
        : exponent(static_cast<float>(of.exponent)) {}
    static constexpr int kFirstReads = 1;
    FUSEDGRAD_HOST_DEVICE float operator()(float grad, float x) const {
      return grad * brief::pow_base_derivative<false>(brief::log2<false>(x), x, exponent);
    }
    FUSEDGRAD_HOST_DEVICE bool ordinary(float, float x) const {
      return brief::ordinary(x, exponent);
    }
    template <bool kOrdinary>
    FUSEDGRAD_HOST_DEVICE float first(float, float x) const {
      return brief::log2<kOrdinary>(x);
    }
    template <bool kOrdinary>
    FUSEDGRAD_HOST_DEVICE float second(float log, float grad, float x) const {
      return grad * brief::pow_base_derivative<kOrdinary>(log, x, exponent);
    }
  };
  static constexpr int kFirstReads = 1;
  FUSEDGRAD_HOST_DEVICE S operator()(S grad, S x) const {
    return grad * pow_base_derivative(x, exponent);
  }
  FUSEDGRAD_HOST_DEVICE bool ordinary(float, float x) const {
    return in_double::ordinary(x, exponent);
  }
  template <bool kOrdinary>
  FUSEDGRAD_HOST_DEVICE double first(float, float x) const {
    return in_double::log2<kOrdinary>(x);
  }
  template <bool kOrdinary>
  FUSEDGRAD_HOST_DEVICE float second(double log, float grad, float x) const {
    const double lower = in_double::lower_power<kOrdinary>(log, exponent);
    return grad * in_double::pow_base_derivative<kOrdinary>(lower, x, exponent);
  }
};

template <class S>
struct PowScalarDoubleBackward {
  S exponent;
  FUSEDGRAD_HOST_DEVICE Values<S, 2> operator()(S grad_grad, S grad, S x) const {
    return {{grad_grad * pow_base_derivative(x, exponent),
             grad_grad * grad * pow_base_second_derivative(x, exponent)}};
  }
};

struct Pow {
  using ForHalves = brief::PowForHalves;
  static constexpr int kFirstReads = 0;
  template <class T>
  FUSEDGRAD_HOST_DEVICE T operator()(T x, T e) const {
    return pow(x, e);
  }
  // Of doubles, operator() in two steps
  FUSEDGRAD_HOST_DEVICE Pair<double> once(double x, double) const { return log2(abs(x)); }
  FUSEDGRAD_HOST_DEVICE double rest(Pair<double> log, double x, double e) const {
    return pow(log, x, e);
  }
  FUSEDGRAD_HOST_DEVICE bool ordinary(float x, float e) const { return in_double::ordinary(x, e); }
  template <bool kOrdinary>
  FUSEDGRAD_HOST_DEVICE double first(float x, float) const {
    return in_double::log2<kOrdinary>(x);
  }
  template <bool kOrdinary>
  FUSEDGRAD_HOST_DEVICE float second(double log, float x, float e) const {
    return in_double::pow<kOrdinary>(log, x, e);
  }
};

namespace detail {

// What the backwards of two operands have in common: pow_in_double.h
struct BackwardInTwoLoops {
  static constexpr int kFirstReads = 1;
  FUSEDGRAD_HOST_DEVICE Pair<double> once(double, double x, double) const { return log2(abs(x)); }
  FUSEDGRAD_HOST_DEVICE bool ordinary(float, float x, float e) const {
    return in_double::ordinary(x, e);
  }
  template <bool kOrdinary>
  FUSEDGRAD_HOST_DEVICE double first(float, float x, float) const {
    return in_double::log2<kOrdinary>(x);
  }
};

}  // namespace detail

struct PowBackward : detail::BackwardInTwoLoops {
  template <class T>
  FUSEDGRAD_HOST_DEVICE Values<T, 2> operator()(T grad, T x, T e) const {
    return {{grad * pow_base_derivative(x, e), grad * pow_exponent_derivative(x, e)}};
  }
  FUSEDGRAD_HOST_DEVICE Values<double, 2> rest(Pair<double> log, double grad, double x,
                                               double e) const {
    return {{grad * pow_base_derivative(log, x, e), grad * pow_exponent_derivative(log, x, e)}};
  }
  template <bool kOrdinary>
  FUSEDGRAD_HOST_DEVICE Values<float, 2> second(double log, float grad, float x, float e) const {
    const double lower = in_double::lower_power<kOrdinary>(log, e);
    return {{grad * in_double::pow_base_derivative<kOrdinary>(lower, x, e),
             grad * in_double::pow_exponent_derivative<kOrdinary>(lower, log, x, e)}};
  }
};

struct PowBackwardInput : detail::BackwardInTwoLoops {
  template <class T>
  FUSEDGRAD_HOST_DEVICE T operator()(T grad, T x, T e) const {
    return grad * pow_base_derivative(x, e);
  }
  FUSEDGRAD_HOST_DEVICE double rest(Pair<double> log, double grad, double x, double e) const {
    return grad * pow_base_derivative(log, x, e);
  }
  template <bool kOrdinary>
  FUSEDGRAD_HOST_DEVICE float second(double log, float grad, float x, float e) const {
    const double lower = in_double::lower_power<kOrdinary>(log, e);
    return grad * in_double::pow_base_derivative<kOrdinary>(lower, x, e);
  }
};

struct PowBackwardExponent : detail::BackwardInTwoLoops {
  using ForHalves = brief::PowBackwardExponentForHalves;
  template <class T>
  FUSEDGRAD_HOST_DEVICE T operator()(T grad, T x, T e) const {
    return grad * pow_exponent_derivative(x, e);
  }
  FUSEDGRAD_HOST_DEVICE double rest(Pair<double> log, double grad, double x, double e) const {
    return grad * pow_exponent_derivative(log, x, e);
  }
  template <bool kOrdinary>
  FUSEDGRAD_HOST_DEVICE float second(double log, float grad, float x, float e) const {
    const double lower = in_double::lower_power<kOrdinary>(log, e);
    return grad * in_double::pow_exponent_derivative<kOrdinary>(lower, log, x, e);
  }
};

// The gradients of <v, backward(grad, x, e)> in grad, x and e. A term whose v is 0 is left out: an
// absent v must not make a NaN of an infinite derivative.
struct PowDoubleBackward {
  template <class T>
  FUSEDGRAD_HOST_DEVICE Values<T, 3> operator()(T v_x, T v_e, T grad, T x, T e) const {
    const T mixed = pow_mixed_derivative(x, e);
    return {{term(v_x, pow_base_derivative(x, e)) + term(v_e, pow_exponent_derivative(x, e)),
             grad * (term(v_x, pow_base_second_derivative(x, e)) + term(v_e, mixed)),
             grad * (term(v_x, mixed) + term(v_e, pow_exponent_second_derivative(x, e)))}};
  }

 private:
  template <class T>
  FUSEDGRAD_HOST_DEVICE static T term(T v, T derivative) {
    return v == 0 ? v : v * derivative;
  }
};

}  // namespace fusedgrad::math

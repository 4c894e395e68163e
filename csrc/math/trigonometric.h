// sin(x) and cos(x) for every x.
//
// A float is reduced in double: x = m 2^k with a whole m below 2^24, and 2^k modulo 2 pi from a
// table to 106 bits, so that no x, however large, loses a digit. A double takes the host's own
// function, and a device CUDA's, which are right for every x.
//
// A table does not vectorise. A fused function therefore asks first whether all arguments of a
// block are moderate, as they are but in tests, and is compiled for both answers: `AnyArgument` and
// `ModerateArgument`.
//
// Largest error found by tests/test_fuse_math.py, which bounds it: float 0.51, double 0.8 ULP.
#pragma once

#include "math/elementary.h"
#include "math/trigonometric_approximations.h"

namespace fusedgrad::math {

#if defined(__CUDA_ARCH__)

// CUDA's reduction of what is greater than this is a loop over local memory: one copy of it, out of
// line, and not one in each element of a kernel. The compiler leaves it out where x is not.
constexpr float kGreatAngle = 105615.0f;
static __device__ __noinline__ float sin_of_great(float x) { return ::sinf(x); }
static __device__ __noinline__ float cos_of_great(float x) { return ::cosf(x); }

FUSEDGRAD_HOST_DEVICE float sin(float x) {
  return abs(x) >= kGreatAngle ? sin_of_great(x) : ::sinf(x);
}
FUSEDGRAD_HOST_DEVICE float cos(float x) {
  return abs(x) >= kGreatAngle ? cos_of_great(x) : ::cosf(x);
}
FUSEDGRAD_HOST_DEVICE double sin(double x) { return ::sin(x); }
FUSEDGRAD_HOST_DEVICE double cos(double x) { return ::cos(x); }

#else

namespace detail {

// x = n pi/2 + r, |r| <= pi/4; n in the low bits of `shifted`
struct ReducedByHalfPi {
  double shifted;
  double r;
};

// hi + lo, at most 2^24 or so
FUSEDGRAD_HOST_DEVICE ReducedByHalfPi reduce_by_half_pi(double hi, double lo) {
  constexpr double kTwoOverPi = 0x1.45f306dc9c883p-1;
  constexpr double kHalfPi = 0x1.921fb54442d18p+0;
  constexpr double kHalfPiLo = 0x1.1a62633145c07p-54;
  const double shifted = fma(hi, kTwoOverPi, kRound<double>);
  const double n = shifted - kRound<double>;
  return {shifted, fma(-n, kHalfPi, hi) + fma(-n, kHalfPiLo, lo)};
}

// sin(x + quarter * pi/2)
FUSEDGRAD_HOST_DEVICE float shifted_sin(ReducedByHalfPi x, uint64_t quarter) {
  const uint64_t octant = to_bits(x.shifted) + quarter;
  const double z = x.r * x.r;
  const double s = fma(x.r * z, TrigonometricApproximations::sin(z), x.r);
  const double c = fma(z, TrigonometricApproximations::cos(z), 1.0);
  const double value = (octant & 1) != 0 ? c : s;
  return static_cast<float>(from_bits(to_bits(value) ^ (octant & 2) << 62));
}

FUSEDGRAD_HOST_DEVICE ReducedByHalfPi reduce_any(float x) {
  const int exponent = static_cast<int>(to_bits(x) >> 23 & 0xff) - (127 + 24);
  const int k = exponent & ~(exponent >> 31);  // at least 0
  const double m = static_cast<double>(x) * from_bits(static_cast<uint64_t>(1023 - k) << 52);
  const double hi = m * kPowerModulo[k];
  return reduce_by_half_pi(hi, fma(m, kPowerModulo[k], -hi) + m * kPowerModuloLo[k]);
}

}  // namespace detail

// Out of line: no loop over these vectorises, and a hundred copies cost a compiler minutes.
#if defined(__CUDACC__)
#define FUSEDGRAD_ONE_BY_ONE FUSEDGRAD_HOST_DEVICE
#else
#define FUSEDGRAD_ONE_BY_ONE [[gnu::noinline]] inline
#endif

// -0 where x is -0
FUSEDGRAD_ONE_BY_ONE float sin(float x) {
  return x == 0 ? x : detail::shifted_sin(detail::reduce_any(x), 0);
}
FUSEDGRAD_ONE_BY_ONE float cos(float x) { return detail::shifted_sin(detail::reduce_any(x), 1); }
FUSEDGRAD_HOST_DEVICE double sin(double x) { return __builtin_sin(x); }
FUSEDGRAD_HOST_DEVICE double cos(double x) { return __builtin_cos(x); }

#endif

#if !defined(__CUDACC__)

namespace detail {

// sin(x + quarter * pi/2), |x| <= 2^13, so that n times a part of 40 bits is exact. What rounding r
// left is added last.
FUSEDGRAD_HOST_DEVICE double shifted_sin(double x, uint64_t quarter) {
  using C = TrigonometricApproximations;
  constexpr double kTwoOverPi = 0x1.45f306dc9c883p-1;
  const double shifted = fma(x, kTwoOverPi, kRound<double>);
  const double n = shifted - kRound<double>;
  const double rest = fma(-n, C::kHalfPi[0], x);
  const double part = n * C::kHalfPi[1];
  const double difference = rest - part;
  const double back = difference - rest;
  const double error = fma(-n, C::kHalfPi[2], (rest - (difference - back)) - (part + back));
  const double r = difference + error;
  const double lo = (difference - r) + error;
  const double z = r * r;
  const double half = 0.5 * z;
  const double s = r + fma(r * z, C::sin_of_double(z), fma(-half, lo, lo));
  const double near = 1 - half;
  const double c = near + (((1 - near) - half) + fma(z * z, C::cos_of_double(z), -r * lo));
  const uint64_t octant = to_bits(shifted) + quarter;
  const double value = (octant & 1) != 0 ? c : s;
  return from_bits(to_bits(value) ^ (octant & 2) << 62);
}

}  // namespace detail

#endif

struct AnyArgument {
  template <class T>
  FUSEDGRAD_HOST_DEVICE static T sin(T x) {
    return math::sin(x);
  }
  template <class T>
  FUSEDGRAD_HOST_DEVICE static T cos(T x) {
    return math::cos(x);
  }
};

#if !defined(__CUDACC__)

// What `is_moderate` holds for
struct ModerateArgument {
  FUSEDGRAD_HOST_DEVICE static bool is_moderate(float x) { return abs(x) <= 0x1p24f; }
  FUSEDGRAD_HOST_DEVICE static bool is_moderate(double x) { return abs(x) <= 0x1p13; }

  FUSEDGRAD_HOST_DEVICE static float sin(float x) {
    return x == 0 ? x : detail::shifted_sin(detail::reduce_by_half_pi(x, 0), 0);
  }
  FUSEDGRAD_HOST_DEVICE static double sin(double x) {
    return x == 0 ? x : detail::shifted_sin(x, 0);
  }
  FUSEDGRAD_HOST_DEVICE static float cos(float x) {
    return detail::shifted_sin(detail::reduce_by_half_pi(x, 0), 1);
  }
  FUSEDGRAD_HOST_DEVICE static double cos(double x) { return detail::shifted_sin(x, 1); }
};

#endif

template <class Reduction, class T>
FUSEDGRAD_HOST_DEVICE T tan(T x) {
  return Reduction::sin(x) / Reduction::cos(x);
}

}  // namespace fusedgrad::math

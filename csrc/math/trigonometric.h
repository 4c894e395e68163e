// sin(x) and cos(x) for every x.
//
// A float is reduced in double: x = m 2^k with a whole m below 2^24, and 2^k modulo 2 pi from a
// table to 106 bits, so that no x, however large, loses a digit. A double takes the host's own
// function, and a device CUDA's, which are right for every x.
//
// Largest error found by tests/test_fuse_math.py, which bounds it, in float and double: 0.51 ULP.
#pragma once

#include "math/elementary.h"
#include "math/trigonometric_approximations.h"

namespace fusedgrad::math {

#if defined(__CUDA_ARCH__)

FUSEDGRAD_HOST_DEVICE float sin(float x) { return ::sinf(x); }
FUSEDGRAD_HOST_DEVICE float cos(float x) { return ::cosf(x); }
FUSEDGRAD_HOST_DEVICE double sin(double x) { return ::sin(x); }
FUSEDGRAD_HOST_DEVICE double cos(double x) { return ::cos(x); }

#else

namespace detail {

// sin(x + quarter * pi/2)
FUSEDGRAD_HOST_DEVICE float shifted_sin(float x, int quarter) {
  constexpr double kTwoOverPi = 0x1.45f306dc9c883p-1;
  constexpr double kHalfPi = 0x1.921fb54442d18p+0;
  constexpr double kHalfPiLo = 0x1.1a62633145c07p-54;
  const int exponent = static_cast<int>(to_bits(x) >> 23 & 0xff) - (127 + 24);
  const int k = exponent & ~(exponent >> 31);  // at least 0
  const double m = static_cast<double>(x) * from_bits(static_cast<uint64_t>(1023 - k) << 52);
  const double hi = m * kPowerModulo[k];
  const double lo = fma(m, kPowerModulo[k], -hi) + m * kPowerModuloLo[k];
  const double shifted = fma(hi, kTwoOverPi, kRound<double>);
  const double n = shifted - kRound<double>;
  const double r = fma(-n, kHalfPi, hi) + fma(-n, kHalfPiLo, lo);
  const int octant = static_cast<int>(static_cast<uint32_t>(to_bits(shifted))) + quarter;
  const double z = r * r;
  double s = TrigonometricApproximations::sin(z);
  double c = TrigonometricApproximations::cos(z);
  s = fma(r * z, s, r);
  c = fma(z, c, 1.0);
  const float value = static_cast<float>((octant & 1) != 0 ? c : s);
  return (octant & 2) != 0 ? -value : value;
}

}  // namespace detail

// -0 where x is -0
FUSEDGRAD_HOST_DEVICE float sin(float x) { return x == 0 ? x : detail::shifted_sin(x, 0); }
FUSEDGRAD_HOST_DEVICE float cos(float x) { return detail::shifted_sin(x, 1); }
FUSEDGRAD_HOST_DEVICE double sin(double x) { return __builtin_sin(x); }
FUSEDGRAD_HOST_DEVICE double cos(double x) { return __builtin_cos(x); }

#endif

}  // namespace fusedgrad::math

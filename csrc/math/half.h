// The two 16-bit formats as bits, converted without branches, so that a loop over them vectorises.
#pragma once

#include "math/platform.h"

namespace fusedgrad::math {

struct Float16 {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

FUSEDGRAD_HOST_DEVICE float to_float(BFloat16 h) { return from_bits(uint32_t(h.bits) << 16); }

// The product with 2^112 moves the exponent's bias, and makes subnormal numbers normal.
FUSEDGRAD_HOST_DEVICE float to_float(Float16 h) {
  const uint32_t magnitude = uint32_t(h.bits & 0x7fff) << 13;
  const uint32_t sign = uint32_t(h.bits & 0x8000) << 16;
  const uint32_t finite = to_bits(from_bits(magnitude) * 0x1p112f);
  const uint32_t not_finite = magnitude | 0x7f800000;
  return from_bits(sign | (magnitude < 0x0f800000 ? finite : not_finite));
}

// To nearest, ties to even; a NaN stays one.
template <class H>
FUSEDGRAD_HOST_DEVICE H from_float(float x);

template <>
FUSEDGRAD_HOST_DEVICE BFloat16 from_float<BFloat16>(float x) {
  const uint32_t bits = to_bits(x);
  const uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);
  const uint32_t quiet = bits | 0x400000;
  return {static_cast<uint16_t>((x != x ? quiet : rounded) >> 16)};
}

template <>
FUSEDGRAD_HOST_DEVICE Float16 from_float<Float16>(float x) {
  const uint32_t bits = to_bits(x);
  const uint32_t magnitude = bits & 0x7fffffff;
  const uint32_t sign = (bits >> 16) & 0x8000;
  // 2^16 and above, which would not fit the moved exponent, is infinite
  const uint32_t limited = magnitude < 0x47800000 ? magnitude : 0x47800000;
  const uint32_t normal = (limited - (uint32_t(112) << 23) + 0xfff + ((limited >> 13) & 1)) >> 13;
  // 0.5 + x has its last place where a subnormal Float16 has it
  const uint32_t subnormal = to_bits(from_bits(magnitude) + 0.5f) - 0x3f000000;
  const uint32_t finite = magnitude < 0x38800000 ? subnormal : normal;
  const uint32_t nan = 0x7e00 | ((magnitude >> 13) & 0x3ff);
  return {static_cast<uint16_t>(sign | (magnitude > 0x7f800000 ? nan : finite))};
}

}  // namespace fusedgrad::math

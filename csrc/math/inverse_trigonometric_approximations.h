// Written by tools/full_range.py, which finds every number here again.
#pragma once

#include "math/platform.h"

namespace fusedgrad::math {

template <class T>
struct InverseTrigonometricApproximations;

template <>
struct InverseTrigonometricApproximations<float> {
  // atan(r) = r + r z * polynomial, z = r^2 <= tan(pi/8)^2
  // error relative to atan(r)/r: 2^-25.43
  FUSEDGRAD_HOST_DEVICE static float atan(float z) {
    float p = 0x1.4a0de4p-4f;
    p = fma(p, z, -0x1.1c3ee4p-3f);
    p = fma(p, z, 0x1.992594p-3f);
    p = fma(p, z, -0x1.555456p-2f);
    return p;
  }
};

template <>
struct InverseTrigonometricApproximations<double> {
  // atan(r) = r + r z * polynomial, z = r^2 <= tan(pi/8)^2
  // error relative to atan(r)/r: 2^-58.95
  FUSEDGRAD_HOST_DEVICE static double atan(double z) {
    double p = -0x1.2564ce9d687f5p-6;
    p = fma(p, z, 0x1.37d3f99703d4bp-5);
    p = fma(p, z, -0x1.9cd26ac23aed5p-5);
    p = fma(p, z, 0x1.df0f4b638223fp-5);
    p = fma(p, z, -0x1.10ebb976a39cep-4);
    p = fma(p, z, 0x1.3b11194db972p-4);
    p = fma(p, z, -0x1.745cf8e017838p-4);
    p = fma(p, z, 0x1.c71c70e631ac2p-4);
    p = fma(p, z, -0x1.24924922ad9a6p-3);
    p = fma(p, z, 0x1.9999999995864p-3);
    p = fma(p, z, -0x1.555555555553dp-2);
    return p;
  }
};

}  // namespace fusedgrad::math

// Written by tools/full_range.py, which finds every number here again.
#pragma once

#include "math/platform.h"

namespace fusedgrad::math {

template <class T>
struct NormalApproximations;

template <>
struct NormalApproximations<float> {
  // exp(a^2) erfc(a) = s * polynomial, s = 3/(a + 3), t = 1 - 2s, a >= 0
  // relative error: 2^-24.68
  FUSEDGRAD_HOST_DEVICE static float scaled_complement(float t) {
    float p = -0x1.e6aef2p-19f;
    p = fma(p, t, 0x1.bbb0d2p-18f);
    p = fma(p, t, 0x1.18d7cap-15f);
    p = fma(p, t, -0x1.73271ap-14f);
    p = fma(p, t, -0x1.7ca19ep-13f);
    p = fma(p, t, 0x1.08950ep-10f);
    p = fma(p, t, -0x1.a81c82p-12f);
    p = fma(p, t, -0x1.2501cp-7f);
    p = fma(p, t, 0x1.466408p-5f);
    p = fma(p, t, -0x1.a7e43ep-4f);
    p = fma(p, t, 0x1.92ede2p-3f);
    p = fma(p, t, -0x1.2d883p-2f);
    p = fma(p, t, 0x1.6e9828p-2f);
    return p;
  }

  // erf(x) = x * polynomial, z = x^2 <= 1/4
  // relative error: 2^-24.07
  FUSEDGRAD_HOST_DEVICE static float erf_slope(float z) {
    float p = 0x1.3532bep-8f;
    p = fma(p, z, -0x1.b663c4p-6f);
    p = fma(p, z, 0x1.ce24f8p-4f);
    p = fma(p, z, -0x1.812732p-2f);
    p = fma(p, z, 0x1.20dd74p+0f);
    return p;
  }
};

template <>
struct NormalApproximations<double> {
  // exp(a^2) erfc(a) = s * polynomial, s = 3/(a + 3), t = 1 - 2s, a >= 0
  // relative error: 2^-53.81
  FUSEDGRAD_HOST_DEVICE static double scaled_complement(double t) {
    double p = 0x1.e8a68bd038251p-38;
    p = fma(p, t, -0x1.98bfbce54f451p-36);
    p = fma(p, t, -0x1.9313c31c995ap-34);
    p = fma(p, t, 0x1.c46810691b1f2p-33);
    p = fma(p, t, 0x1.7bc9cfc874545p-31);
    p = fma(p, t, -0x1.a1e031a3988c2p-31);
    p = fma(p, t, -0x1.0d02671985ccfp-28);
    p = fma(p, t, 0x1.b6bd4e3aa20d7p-32);
    p = fma(p, t, 0x1.3efb60f9a7522p-26);
    p = fma(p, t, 0x1.f4942c77395d1p-27);
    p = fma(p, t, -0x1.551796386516p-24);
    p = fma(p, t, -0x1.22ccd46096646p-23);
    p = fma(p, t, 0x1.66870d14fe444p-22);
    p = fma(p, t, 0x1.eebbb4f4d675cp-21);
    p = fma(p, t, -0x1.a90d730b01233p-20);
    p = fma(p, t, -0x1.86cdbfc3eb33dp-18);
    p = fma(p, t, 0x1.54003a27021b4p-17);
    p = fma(p, t, 0x1.2cc378406d723p-15);
    p = fma(p, t, -0x1.82f6aaa60d274p-14);
    p = fma(p, t, -0x1.7f4bd712a911ap-13);
    p = fma(p, t, 0x1.091ed173be31dp-10);
    p = fma(p, t, -0x1.a7c53414a945bp-12);
    p = fma(p, t, -0x1.2506628f292acp-7);
    p = fma(p, t, 0x1.4663f6120f3b2p-5);
    p = fma(p, t, -0x1.a7e42c5727b38p-4);
    p = fma(p, t, 0x1.92ede1b27d8f6p-3);
    p = fma(p, t, -0x1.2d882f67c6cfap-2);
    p = fma(p, t, 0x1.6e9827d229d2dp-2);
    return p;
  }

  // erf(x) = x * polynomial, z = x^2 <= 1/4
  // relative error: 2^-56.03
  FUSEDGRAD_HOST_DEVICE static double erf_slope(double z) {
    double p = 0x1.8b392d8b5f083p-20;
    p = fma(p, z, -0x1.f222983a8f891p-17);
    p = fma(p, z, 0x1.f98d959ac4437p-14);
    p = fma(p, z, -0x1.c02d4ea4aba09p-11);
    p = fma(p, z, 0x1.565bcbf5e9a81p-8);
    p = fma(p, z, -0x1.b82ce30f1f0b1p-6);
    p = fma(p, z, 0x1.ce2f21a03d68fp-4);
    p = fma(p, z, -0x1.812746b0379b3p-2);
    p = fma(p, z, 0x1.20dd750429b6dp+0);
    return p;
  }
};

}  // namespace fusedgrad::math

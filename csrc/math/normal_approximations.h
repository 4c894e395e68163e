// Written by tools/full_range.py, which finds every number here again.
#pragma once

#include "math/platform.h"

namespace fusedgrad::math {

template <class T>
struct NormalApproximations;

template <>
struct NormalApproximations<float> {
  // exp(a^2) erfc(a) = s * polynomial, s = 1.5/(a + 1.5), t = 1 - 2s, a >= 0
  // relative error: 2^-26.86
  FUSEDGRAD_HOST_DEVICE static float scaled_complement(float t) {
    float p = 0x1.020d98p-15f;
    p = fma(p, t, -0x1.5f4faap-17f);
    p = fma(p, t, -0x1.acbf9cp-13f);
    p = fma(p, t, -0x1.dc4c94p-14f);
    p = fma(p, t, 0x1.4114cep-11f);
    p = fma(p, t, 0x1.41a03p-10f);
    p = fma(p, t, -0x1.2010dep-11f);
    p = fma(p, t, -0x1.9e2feep-8f);
    p = fma(p, t, -0x1.62a2dcp-8f);
    p = fma(p, t, 0x1.04e41p-5f);
    p = fma(p, t, 0x1.9cfea4p-5f);
    p = fma(p, t, -0x1.5ab13cp-2f);
    p = fma(p, t, 0x1.494dbp-1f);
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

  // exp(a^2) times integral 1 of erfc = s^2 * polynomial, s and t as above
  // relative error: 2^-51.48
  FUSEDGRAD_HOST_DEVICE static double scaled_complement_1(double t) {
    double p = 0x1.00a09ec88fac3p-36;
    p = fma(p, t, -0x1.00185ae8ea694p-33);
    p = fma(p, t, -0x1.a1f394d9efd21p-33);
    p = fma(p, t, 0x1.3447e137a909dp-30);
    p = fma(p, t, 0x1.c8d204080c864p-30);
    p = fma(p, t, -0x1.689730e829e53p-28);
    p = fma(p, t, -0x1.7f010044cd492p-27);
    p = fma(p, t, 0x1.f5fc0a8b257ebp-27);
    p = fma(p, t, 0x1.02617d9422844p-24);
    p = fma(p, t, -0x1.a25e57a2065bap-27);
    p = fma(p, t, -0x1.2e79c2d19d8e4p-22);
    p = fma(p, t, -0x1.556a6ec152387p-23);
    p = fma(p, t, 0x1.4fec4c36d8f42p-20);
    p = fma(p, t, 0x1.8a605b34c0a87p-20);
    p = fma(p, t, -0x1.883e17284bc37p-18);
    p = fma(p, t, -0x1.3440f9fdfd4e6p-17);
    p = fma(p, t, 0x1.0bb38a55e3ecbp-15);
    p = fma(p, t, 0x1.8b90f199ad85dp-15);
    p = fma(p, t, -0x1.bfc9aaec28ec2p-13);
    p = fma(p, t, -0x1.1cb8c2ca1a92cp-13);
    p = fma(p, t, 0x1.a16065c817371p-10);
    p = fma(p, t, -0x1.b0e8238ca70d8p-10);
    p = fma(p, t, -0x1.17c838ee842bdp-7);
    p = fma(p, t, 0x1.4d09f6ecdfcefp-5);
    p = fma(p, t, -0x1.87641a401f8aep-4);
    p = fma(p, t, 0x1.336ffbef08b4bp-3);
    p = fma(p, t, -0x1.4f54c02b590f8p-3);
    p = fma(p, t, 0x1.bd6ae4d14b16fp-4);
    return p;
  }

  // exp(a^2) times integral 2 of erfc = s^3 * polynomial, s and t as above
  // relative error: 2^-52.22
  FUSEDGRAD_HOST_DEVICE static double scaled_complement_2(double t) {
    double p = -0x1.045c1a8f9501ep-33;
    p = fma(p, t, -0x1.066f7df7b3a4cp-33);
    p = fma(p, t, 0x1.96e6181b05ebp-31);
    p = fma(p, t, 0x1.ce2516cfeab97p-30);
    p = fma(p, t, -0x1.3e047daaea977p-30);
    p = fma(p, t, -0x1.6af4e467f01fdp-27);
    p = fma(p, t, -0x1.1abfa537318fp-27);
    p = fma(p, t, 0x1.6366789ac9559p-25);
    p = fma(p, t, 0x1.4d9f8f4d7813cp-24);
    p = fma(p, t, -0x1.dae32de7d8ea5p-24);
    p = fma(p, t, -0x1.c93ce67c7c316p-22);
    p = fma(p, t, 0x1.51a322daf9d0dp-23);
    p = fma(p, t, 0x1.0a4d019a1e8e3p-19);
    p = fma(p, t, 0x1.a966d11c6e6f8p-22);
    p = fma(p, t, -0x1.2ea8f13775c09p-17);
    p = fma(p, t, -0x1.265cbf34d4a5ap-18);
    p = fma(p, t, 0x1.6f12bbd251387p-15);
    p = fma(p, t, 0x1.2c592a6457c57p-16);
    p = fma(p, t, -0x1.ece1ba45bc4b9p-13);
    p = fma(p, t, 0x1.8a4a70299e813p-15);
    p = fma(p, t, 0x1.50c25c9603dfbp-10);
    p = fma(p, t, -0x1.0a097edc576b6p-9);
    p = fma(p, t, -0x1.104c934f748f9p-8);
    p = fma(p, t, 0x1.8753ad73e33dbp-6);
    p = fma(p, t, -0x1.b52c12d9ba1a2p-5);
    p = fma(p, t, 0x1.2ece592f63087p-4);
    p = fma(p, t, -0x1.0e2509655a198p-4);
    p = fma(p, t, 0x1.043fe1a98c0cdp-5);
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

// Written by tools/minimax.py, which finds every number here again: change it there.
#pragma once

#include "math/platform.h"

namespace fusedgrad::math {

// Constants, each with what its rounding left, and minimax polynomials.
template <class T>
struct Approximations;

template <>
struct Approximations<float> {
  static constexpr float kLog2E = 0x1.715476p+0f;
  static constexpr float kLn2 = 0x1.62e43p-1f;
  static constexpr float kLn2Lo = -0x1.05c61p-29f;
  static constexpr float kTwoOverLn2 = 0x1.715476p+1f;
  static constexpr float kTwoOverLn2Lo = 0x1.4ae0cp-25f;
  static constexpr float kTwoThirdsOverLn2 = 0x1.ec709ep-1f;
  static constexpr float kTwoThirdsOverLn2Lo = -0x1.e2fe02p-28f;

  // expm1(r) - r = r^2 * polynomial, |r| <= log(2)/2
  // error relative to expm1(r): 2^-25.8
  FUSEDGRAD_HOST_DEVICE static float expm1(float r) {
    float p = 0x1.6bec1ap-10f;
    p = fma(p, r, 0x1.1227acp-7f);
    p = fma(p, r, 0x1.555674p-5f);
    p = fma(p, r, 0x1.5554bp-3f);
    p = fma(p, r, 0x1.fffffep-2f);
    return p;
  }

  // exp2(f) - 1 = f * polynomial, |f| <= 1/2
  // error relative to exp2(f): 2^-25.91
  FUSEDGRAD_HOST_DEVICE static float exp2(float f) {
    float p = 0x1.41fb96p-13f;
    p = fma(p, f, 0x1.5f3eaep-10f);
    p = fma(p, f, 0x1.3b2d4ep-7f);
    p = fma(p, f, 0x1.c6aee8p-5f);
    p = fma(p, f, 0x1.ebfbdcp-3f);
    p = fma(p, f, 0x1.62e43p-1f);
    return p;
  }

  // atanh(s)/s - 1 = z * polynomial, z = s^2 <= 1/9
  // error relative to atanh(s)/s: 2^-30.78
  FUSEDGRAD_HOST_DEVICE static float atanh(float z) {
    float p = 0x1.f172a8p-4f;
    p = fma(p, z, 0x1.b6e6f6p-4f);
    p = fma(p, z, 0x1.2508bp-3f);
    p = fma(p, z, 0x1.9996bp-3f);
    p = fma(p, z, 0x1.555558p-2f);
    return p;
  }

  // 2/log(2) * (atanh(q)/q - 1 - z/3) = z^2 * polynomial, z = q^2 <= (3 - sqrt(8))^2
  // absolute error: 2^-34.44
  FUSEDGRAD_HOST_DEVICE static float log2(float z) {
    float p = 0x1.59f78cp-2f;
    p = fma(p, z, 0x1.a5bb82p-2f);
    p = fma(p, z, 0x1.27770ep-1f);
    return p;
  }

  // 1/d = polynomial, 1 <= d <= 2
  // error relative to 1/d: 2^-6.629
  FUSEDGRAD_HOST_DEVICE static float reciprocal(float d) {
    float p = 0x1.4afccp-2f;
    p = fma(p, d, -0x1.745c58p+0f);
    p = fma(p, d, 0x1.0f8382p+1f);
    return p;
  }

  // 1/d = polynomial, 1 + 1/sqrt(2) <= d <= 1 + sqrt(2)
  // error relative to 1/d: 2^-9.597
  FUSEDGRAD_HOST_DEVICE static float reciprocal_near_two(float d) {
    float p = 0x1.deab56p-4f;
    p = fma(p, d, -0x1.71e3fep-1f);
    p = fma(p, d, 0x1.7a4e14p+0f);
    return p;
  }

  // 2/log(2) * atanh(s)/s = polynomial, z = s^2 <= 1/9
  // relative error: 2^-25.5
  FUSEDGRAD_HOST_DEVICE static float log2_of_quotient(float z) {
    float p = 0x1.a048b6p-2f;
    p = fma(p, z, 0x1.9d1144p-2f);
    p = fma(p, z, 0x1.27a5ep-1f);
    p = fma(p, z, 0x1.ec6ff4p-1f);
    p = fma(p, z, 0x1.715476p+1f);
    return p;
  }

  // log(1 + a) = a * polynomial, 0 <= a <= 1
  // relative error: 2^-19.56
  FUSEDGRAD_HOST_DEVICE static float log1p(float a) {
    float p = 0x1.cf5db6p-7f;
    p = fma(p, a, -0x1.0ffa9ap-4f);
    p = fma(p, a, 0x1.319bd6p-3f);
    p = fma(p, a, -0x1.e15ba8p-3f);
    p = fma(p, a, 0x1.530a66p-2f);
    p = fma(p, a, -0x1.ffddd4p-2f);
    p = fma(p, a, 0x1.ffffd6p-1f);
    return p;
  }

  // -log(1 - v) = v * polynomial, 0 <= v <= 1/2
  // relative error: 2^-19.95
  FUSEDGRAD_HOST_DEVICE static float minus_log1m(float v) {
    float p = 0x1.fb2ee4p-1f;
    p = fma(p, v, -0x1.469f5p-1f);
    p = fma(p, v, 0x1.0ba5eap-1f);
    p = fma(p, v, 0x1.8010b6p-3f);
    p = fma(p, v, 0x1.5b0b7ap-2f);
    p = fma(p, v, 0x1.ffcff6p-2f);
    p = fma(p, v, 0x1.00001p+0f);
    return p;
  }
};

template <>
struct Approximations<double> {
  static constexpr double kLog2E = 0x1.71547652b82fep+0;
  static constexpr double kLn2 = 0x1.62e42fefa39efp-1;
  static constexpr double kLn2Lo = 0x1.abc9e3b39803fp-56;
  static constexpr double kTwoOverLn2 = 0x1.71547652b82fep+1;
  static constexpr double kTwoOverLn2Lo = 0x1.777d0ffda0d24p-55;
  static constexpr double kTwoThirdsOverLn2 = 0x1.ec709dc3a03fdp-1;
  static constexpr double kTwoThirdsOverLn2Lo = 0x1.d27f05548af0cp-55;

  // expm1(r) - r = r^2 * polynomial, |r| <= log(2)/2
  // error relative to expm1(r): 2^-59.6
  FUSEDGRAD_HOST_DEVICE static double expm1(double r) {
    double p = 0x1.1ee891b2a0813p-29;
    p = fma(p, r, 0x1.af5ea7d1d95cdp-26);
    p = fma(p, r, 0x1.27e5363e63066p-22);
    p = fma(p, r, 0x1.71ddf86401c58p-19);
    p = fma(p, r, 0x1.a01a017bb1a81p-16);
    p = fma(p, r, 0x1.a01a01afdd704p-13);
    p = fma(p, r, 0x1.6c16c16c1f0e8p-10);
    p = fma(p, r, 0x1.111111110f6c5p-7);
    p = fma(p, r, 0x1.555555555553ep-5);
    p = fma(p, r, 0x1.5555555555559p-3);
    p = fma(p, r, 0x1p-1);
    return p;
  }

  // 15/64 r coth(r/2) = polynomial, z = r^2 <= (log(2)/2)^2
  // error of exp(r), the quotient of the sums with 15/64 r: less than a third of: 2^-50.83
  FUSEDGRAD_HOST_DEVICE static double part_of_r_coth_half_r(double z) {
    double p = -0x1.9cf58ead98a27p-22;
    p = fma(p, z, 0x1.040eef16eb94p-16);
    p = fma(p, z, -0x1.555554e15c172p-11);
    p = fma(p, z, 0x1.3ffffffff9086p-5);
    p = fma(p, z, 0x1.e000000000009p-2);
    return p;
  }

  // exp2(f) - 1 = f * polynomial, |f| <= 1/2
  // error relative to exp2(f): 2^-55.05
  FUSEDGRAD_HOST_DEVICE static double exp2(double f) {
    double p = 0x1.e79b65cb1d9c1p-32;
    p = fma(p, f, 0x1.e61b93cab20e2p-28);
    p = fma(p, f, 0x1.b5267d7277925p-24);
    p = fma(p, f, 0x1.62bfc777fdaf5p-20);
    p = fma(p, f, 0x1.ffcbfba90beacp-17);
    p = fma(p, f, 0x1.4309130ee6b28p-13);
    p = fma(p, f, 0x1.5d87fe78cd8f7p-10);
    p = fma(p, f, 0x1.3b2ab6fba00d9p-7);
    p = fma(p, f, 0x1.c6b08d7049fe7p-5);
    p = fma(p, f, 0x1.ebfbdff82c5a4p-3);
    p = fma(p, f, 0x1.62e42fefa39efp-1);
    return p;
  }

  // atanh(s)/s - 1 = z * polynomial, z = s^2 <= 1/9
  // error relative to atanh(s)/s: 2^-58.52
  FUSEDGRAD_HOST_DEVICE static double atanh(double z) {
    double p = 0x1.5c5b56f4b5b6ep-4;
    p = fma(p, z, 0x1.55d035e18ab57p-5);
    p = fma(p, z, 0x1.efd15a6ded2dep-5);
    p = fma(p, z, 0x1.1068320d75517p-4);
    p = fma(p, z, 0x1.3b1dd36ebc1f2p-4);
    p = fma(p, z, 0x1.745cb45c909bdp-4);
    p = fma(p, z, 0x1.c71c7419f2278p-4);
    p = fma(p, z, 0x1.24924920913b3p-3);
    p = fma(p, z, 0x1.99999999a06bcp-3);
    p = fma(p, z, 0x1.5555555555535p-2);
    return p;
  }

  // 2/log(2) * (atanh(q)/q - 1 - z/3) = z^2 * polynomial, z = q^2 <= (3 - sqrt(8))^2
  // absolute error: 2^-64.36
  FUSEDGRAD_HOST_DEVICE static double log2(double z) {
    double p = 0x1.623a2ba028fedp-3;
    p = fma(p, z, 0x1.58f30acb9e3e1p-3);
    p = fma(p, z, 0x1.8a0a41ba90326p-3);
    p = fma(p, z, 0x1.c68ee54c8f515p-3);
    p = fma(p, z, 0x1.0c9a8543ccfbep-2);
    p = fma(p, z, 0x1.484b13d6970e2p-2);
    p = fma(p, z, 0x1.a61762a7aefap-2);
    p = fma(p, z, 0x1.2776c50ef9bfcp-1);
    return p;
  }

  // 1/d = polynomial, 1 <= d <= 2
  // error relative to 1/d: 2^-11.72
  FUSEDGRAD_HOST_DEVICE static double reciprocal(double d) {
    double p = 0x1.37cc3c97f0c68p-3;
    p = fma(p, d, -0x1.244f78ce71ba2p+0);
    p = fma(p, d, 0x1.b0603806b2e35p+1);
    p = fma(p, d, -0x1.3b25ae3e929cbp+2);
    p = fma(p, d, 0x1.c48c5eb247672p+1);
    return p;
  }

  // 1/d = polynomial, 1 + 1/sqrt(2) <= d <= 1 + sqrt(2)
  // error relative to 1/d: 2^-13.13
  FUSEDGRAD_HOST_DEVICE static double reciprocal_near_two(double d) {
    double p = -0x1.d40cc4cc5e449p-5;
    p = fma(p, d, 0x1.e23ef69111cb2p-2);
    p = fma(p, d, -0x1.72d37c326360bp+0);
    p = fma(p, d, 0x1.f86860e13e5fdp+0);
    return p;
  }
};

// For half types, in float
struct BriefApproximations {
  // exp2(f) - 1 = f * polynomial, |f| <= 1/2
  // error relative to exp2(f): 2^-23.08
  FUSEDGRAD_HOST_DEVICE static float exp2(float f) {
    float p = 0x1.5bb9b2p-10f;
    p = fma(p, f, 0x1.3ceadep-7f);
    p = fma(p, f, 0x1.c6b756p-5f);
    p = fma(p, f, 0x1.ebf9bap-3f);
    p = fma(p, f, 0x1.62e42ap-1f);
    return p;
  }

  // log2(1 + f) = f * polynomial, 1/sqrt(2) <= 1 + f <= sqrt(2)
  // relative error: 2^-24.45
  FUSEDGRAD_HOST_DEVICE static float log2(float f) {
    float p = 0x1.01b90ap-3f;
    p = fma(p, f, -0x1.a87de4p-3f);
    p = fma(p, f, 0x1.b9c8a6p-3f);
    p = fma(p, f, -0x1.e95bcp-3f);
    p = fma(p, f, 0x1.26d388p-2f);
    p = fma(p, f, -0x1.715c5p-2f);
    p = fma(p, f, 0x1.ec73d6p-2f);
    p = fma(p, f, -0x1.71547p-1f);
    p = fma(p, f, 0x1.715476p+0f);
    return p;
  }
};

// For powers of floats in double
// clang-format off
struct PowerApproximations {
  // log2(1 + f) = f * polynomial, 1/sqrt(2) <= 1 + f <= sqrt(2)
  // relative error: 2^-32.97
  static constexpr double kLog2[] = {
      0x1.71547652ef85dp+0,
      -0x1.7154767bb0af3p-1,
      0x1.ec709c011a605p-2,
      -0x1.715435ea714e2p-2,
      0x1.277732c41ae5cp-2,
  };
  static constexpr float kLog2Tail[] = {
      -0x1.ec8d74p-3f,
      0x1.a615cep-3f,
      -0x1.6eb02ap-3f,
      0x1.45a27ep-3f,
      -0x1.417fep-3f,
      0x1.3d264p-3f,
      -0x1.61ad12p-4f,
  };

  // exp2(f) - 1 = f * polynomial, |f| <= 1/2
  // error relative to exp2(f): 2^-28.91
  static constexpr double kExp2[] = {
      0x1.62e430afa6abcp-1,
      0x1.ebfbdc3a17d93p-3,
      0x1.c6aee7dd0e342p-5,
      0x1.3b2d4de14953p-7,
      0x1.5f3eada0b267p-10,
      0x1.41fb9697daf3dp-13,
  };
};
// clang-format on

}  // namespace fusedgrad::math

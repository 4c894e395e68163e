// Written by tools/full_range.py, which finds every number here again.
#pragma once

#include "math/platform.h"

namespace fusedgrad::math {

struct TrigonometricApproximations {
  // sin(r) = r + r z * polynomial, z = r^2 <= (pi/4)^2
  // error relative to sin(r)/r: 2^-37.57
  FUSEDGRAD_HOST_DEVICE static double sin(double z) {
    double p = 0x1.6cd735ba85bb7p-19;
    p = fma(p, z, -0x1.a00f98f1725e1p-13);
    p = fma(p, z, 0x1.1111089087cc9p-7);
    p = fma(p, z, -0x1.5555554cb21d8p-3);
    return p;
  }

  // cos(r) = 1 + z * polynomial, z = r^2 <= (pi/4)^2
  // error relative to 1: 2^-34.11
  FUSEDGRAD_HOST_DEVICE static double cos(double z) {
    double p = 0x1.99327304090bep-16;
    p = fma(p, z, -0x1.6c0877542d5edp-10);
    p = fma(p, z, 0x1.55553dfec121p-5);
    p = fma(p, z, -0x1.ffffffd0965efp-2);
    return p;
  }

  // sin(r) = r + r z * polynomial, z = r^2 <= (pi/4)^2
  // error relative to sin(r)/r: 2^-57.32
  FUSEDGRAD_HOST_DEVICE static double sin_of_double(double z) {
    double p = -0x1.aaa47ea9a1ae1p-41;
    p = fma(p, z, 0x1.6120912a7f39ap-33);
    p = fma(p, z, -0x1.ae645295e8451p-26);
    p = fma(p, z, 0x1.71de3a5337ab6p-19);
    p = fma(p, z, -0x1.a01a01a018acep-13);
    p = fma(p, z, 0x1.111111111110bp-7);
    p = fma(p, z, -0x1.5555555555555p-3);
    return p;
  }

  // cos(r) = 1 - z/2 + z^2 * polynomial, z = r^2 <= (pi/4)^2
  // error relative to 1: 2^-60.0
  FUSEDGRAD_HOST_DEVICE static double cos_of_double(double z) {
    double p = 0x1.aac4e7ef1b191p-45;
    p = fma(p, z, -0x1.9393369184d53p-37);
    p = fma(p, z, 0x1.1eed8ca23152bp-29);
    p = fma(p, z, -0x1.27e4fb75fc2b9p-22);
    p = fma(p, z, 0x1.a01a01a018dd7p-16);
    p = fma(p, z, -0x1.6c16c16c16c1p-10);
    p = fma(p, z, 0x1.5555555555555p-5);
    return p;
  }

  // pi/2 in parts, the first two of 40 bits
  static constexpr double kHalfPi[] = {
      0x1.921fb54442p+0,
      0x1.a308d3131ap-41,
      -0x1.d747f23e32ed7p-83,
  };
};

// 2^k modulo 2 pi, and what its rounding left
constexpr double kPowerModulo[] = {
    0x1p+0,
    0x1p+1,
    -0x1.243f6a8885a31p+1,
    0x1.b7812aeef4b9fp+0,
    -0x1.6cbe3f9990e92p+1,
    0x1.2b0bad558f435p-1,
    0x1.2b0bad558f435p+0,
    0x1.2b0bad558f435p+1,
    -0x1.9c501fbace38dp+0,
    0x1.87ef4acdb76a3p+1,
    -0x1.460d4ed16ce9ep-3,
    -0x1.460d4ed16ce9ep-2,
    -0x1.460d4ed16ce9ep-1,
    -0x1.460d4ed16ce9ep+0,
    -0x1.460d4ed16ce9ep+1,
    0x1.304999cb579e8p+0,
    0x1.304999cb579e8p+1,
    -0x1.87586de3accc3p+0,
    -0x1.87586de3accc3p+1,
    0x1.58e8ec12c0aa8p-3,
    0x1.58e8ec12c0aa8p-2,
    0x1.58e8ec12c0aa8p-1,
    0x1.58e8ec12c0aa8p+0,
    0x1.58e8ec12c0aa8p+1,
    -0x1.c9b6498c1137fp-1,
    -0x1.c9b6498c1137fp+0,
    0x1.5a8920fc746b2p+1,
    -0x1.bcb4a23e73336p-1,
    -0x1.bcb4a23e73336p+0,
    0x1.678ac84a126fap+1,
    -0x1.54a767d1830eep-1,
    -0x1.54a767d1830eep+0,
    -0x1.54a767d1830eep+1,
    0x1.ebc26b95fe14fp-1,
    0x1.ebc26b95fe14fp+0,
    -0x1.387cfef2878e2p+1,
    0x1.668ad946ed0dap+0,
    0x1.668ad946ed0dap+1,
    -0x1.5ca6dfeaae1f6p-1,
    -0x1.5ca6dfeaae1f6p+0,
    -0x1.5ca6dfeaae1f6p+1,
    0x1.abc6aacca5912p-1,
    0x1.abc6aacca5912p+0,
    -0x1.7878bfbbe011fp+1,
    0x1.9a6f58862bf99p-2,
    0x1.9a6f58862bf99p-1,
    0x1.9a6f58862bf99p+0,
    -0x1.89d0120259a97p+1,
    0x1.09f4683d25023p-3,
    0x1.09f4683d25023p-2,
    0x1.09f4683d25023p-1,
    0x1.09f4683d25023p+0,
    0x1.09f4683d25023p+1,
    -0x1.10569a0e3b9eap+1,
    0x1.0392366c0e65cp+1,
    -0x1.1d1afdb068d79p+1,
    0x1.d412de4f67e7ep+0,
    -0x1.502c8c391dbb2p+1,
    0x1.07cca42c94599p+0,
    0x1.07cca42c94599p+1,
    -0x1.14a6222f5ceffp+1,
    0x1.f5e64c5397865p+0,
    -0x1.2e591e34ee1cbp+1,
    0x1.8f1a5c3d52d34p+0,
    0x1.8f1a5c3d52d34p+1,
    -0x1.82ac8377ff216p-5,
    -0x1.82ac8377ff216p-4,
    -0x1.82ac8377ff216p-3,
    -0x1.82ac8377ff216p-2,
    -0x1.82ac8377ff216p-1,
    -0x1.82ac8377ff216p+0,
    -0x1.82ac8377ff216p+1,
    0x1.ee6639887604dp-3,
    0x1.ee6639887604dp-2,
    0x1.ee6639887604dp-1,
    0x1.ee6639887604dp+0,
    -0x1.35d931000f9e3p+1,
    0x1.711a1110cccd4p+0,
    0x1.711a1110cccd4p+1,
    -0x1.082d219bb0225p-1,
    -0x1.082d219bb0225p+0,
    -0x1.082d219bb0225p+1,
    0x1.13e52751255e7p+1,
    -0x1.f8ea37cc75cc6p+0,
    0x1.2b5532bc0fd6bp+1,
    -0x1.9b2a0a20cbeb6p+0,
    0x1.89156067b9b7bp+1,
    -0x1.214a9b91233b2p-3,
    -0x1.214a9b91233b2p-2,
    -0x1.214a9b91233b2p-1,
    -0x1.214a9b91233b2p+0,
    -0x1.214a9b91233b2p+1,
    0x1.c35466cc7e59ap+0,
    -0x1.60eb03bc07497p+1,
    0x1.89a58c41dc40cp-1,
    0x1.89a58c41dc40cp+0,
    0x1.89a58c41dc40cp+1,
    -0x1.0f45204cd2192p-3,
    -0x1.0f45204cd2192p-2,
    -0x1.0f45204cd2192p-1,
    -0x1.0f45204cd2192p+0,
    -0x1.0f45204cd2192p+1,
    0x1.05b529eee170cp+1,
    -0x1.18d516aac2c18p+1,
    0x1.e52a7a6600402p+0,
};
constexpr double kPowerModuloLo[] = {
    0x0p+0,
    0x0p+0,
    0x1.cb3b399d747f2p-53,
    -0x1.a62633145c06ep-56,
    0x1.61b1acd85d7d7p-53,
    -0x1.f5f7fb2e61132p-59,
    -0x1.f5f7fb2e61132p-58,
    -0x1.f5f7fb2e61132p-57,
    -0x1.ce0f17215e8dp-55,
    0x1.4dbd3ad1dc3a6p-53,
    -0x1.94a50bed30c26p-57,
    -0x1.94a50bed30c26p-56,
    -0x1.94a50bed30c26p-55,
    -0x1.94a50bed30c26p-54,
    -0x1.94a50bed30c26p-53,
    -0x1.e90aa2efac07ep-54,
    -0x1.e90aa2efac07ep-53,
    -0x1.b6831078e4261p-59,
    -0x1.b6831078e4261p-58,
    0x1.95c955afd3e7bp-57,
    0x1.95c955afd3e7bp-56,
    0x1.95c955afd3e7bp-55,
    0x1.95c955afd3e7bp-54,
    0x1.95c955afd3e7bp-53,
    -0x1.2643605c762f1p-58,
    -0x1.2643605c762f1p-57,
    -0x1.f003a5a90345p-53,
    -0x1.4cc11b4920ae8p-57,
    -0x1.4cc11b4920ae8p-56,
    0x1.e1947f9043554p-53,
    -0x1.c66f1d081359ap-55,
    -0x1.c66f1d081359ap-54,
    -0x1.c66f1d081359ap-53,
    -0x1.6065ceb66cc97p-55,
    -0x1.6065ceb66cc97p-54,
    0x1.ab55ab9c1ed6dp-55,
    -0x1.eb20c79eca277p-54,
    -0x1.eb20c79eca277p-53,
    -0x1.60cab403f9f91p-58,
    -0x1.60cab403f9f91p-57,
    -0x1.60cab403f9f91p-56,
    -0x1.1b6f34f397eb5p-56,
    -0x1.1b6f34f397eb5p-55,
    0x1.3d839f23a8898p-53,
    0x1.7e60254ee49ebp-56,
    0x1.7e60254ee49ebp-55,
    0x1.7e60254ee49ebp-54,
    -0x1.6cc942274dc45p-54,
    0x1.fee10ecf6f246p-59,
    0x1.fee10ecf6f246p-58,
    0x1.fee10ecf6f246p-57,
    0x1.fee10ecf6f246p-56,
    0x1.fee10ecf6f246p-55,
    -0x1.35543efad3eebp-53,
    -0x1.af1dbc98e2e42p-56,
    0x1.5f73ca773bc62p-53,
    0x1.e758b6a2061a3p-54,
    -0x1.35b03f02159adp-55,
    -0x1.984d6479fd323p-55,
    -0x1.984d6479fd323p-54,
    0x1.976ea91bba67bp-56,
    0x1.3540e152f4359p-54,
    -0x1.ff07ca1f2e969p-54,
    0x1.ade7e21ae7526p-56,
    0x1.ade7e21ae7526p-55,
    0x1.17955574142a1p-60,
    0x1.17955574142a1p-59,
    0x1.17955574142a1p-58,
    0x1.17955574142a1p-57,
    0x1.17955574142a1p-56,
    0x1.17955574142a1p-55,
    0x1.17955574142a1p-54,
    0x1.8b437ad3f55ep-58,
    0x1.8b437ad3f55ep-57,
    0x1.8b437ad3f55ep-56,
    0x1.8b437ad3f55ep-55,
    -0x1.6f2308f890d1ep-53,
    -0x1.5302971d2c45bp-54,
    -0x1.5302971d2c45bp-53,
    0x1.29b05b18df9e2p-56,
    0x1.29b05b18df9e2p-55,
    0x1.29b05b18df9e2p-54,
    -0x1.4315bd0929c2p-54,
    0x1.104af928957a5p-54,
    -0x1.75e080e9be09ap-54,
    0x1.556ae2ced9d62p-55,
    -0x1.2085c83607941p-53,
    0x1.45f5262caae07p-58,
    0x1.45f5262caae07p-57,
    0x1.45f5262caae07p-56,
    0x1.45f5262caae07p-55,
    0x1.45f5262caae07p-54,
    -0x1.0a8c26e1933d7p-54,
    0x1.815e2577c2837p-54,
    -0x1.27745096c7eeep-55,
    -0x1.27745096c7eeep-54,
    -0x1.27745096c7eeep-53,
    -0x1.d6b3c80daf49ap-60,
    -0x1.d6b3c80daf49ap-59,
    -0x1.d6b3c80daf49ap-58,
    -0x1.d6b3c80daf49ap-57,
    -0x1.d6b3c80daf49ap-56,
    0x1.bf17d45f1fae7p-53,
    0x1.496ae25bb3dc1p-53,
    0x1.8f351633e671fp-54,
};

}  // namespace fusedgrad::math

// Which instruction set the loops of csrc/cpu use, chosen once when the process first asks.
#pragma once

#include <string>
#include <vector>

#include "math/platform.h"

// A loop is written once, as an always-inlined body, and compiled once for each of these targets:
// GCC inlines the default-target mathematics into a function of a richer target and vectorises it
// there. 512-bit vectors must be asked for, or GCC prefers 256; of clang setup.py asks them by a
// flag. `flatten` inlines the whole call tree, so that nothing of a richer target is emitted where
// a baseline machine could call it. GCC schedules only where 32 registers leave it room: block.h
// says what for.
#if defined(__x86_64__)
#if defined(__clang__)
#define FUSEDGRAD_TARGET_AVX512 __attribute__((target("arch=x86-64-v4"), flatten))
#else
#define FUSEDGRAD_TARGET_AVX512                                                                \
  __attribute__((optimize("schedule-insns"), target("arch=x86-64-v4,prefer-vector-width=512"), \
                 flatten))
#endif
#define FUSEDGRAD_TARGET_AVX2 __attribute__((target("arch=x86-64-v3"), flatten))
#else
#define FUSEDGRAD_TARGET_AVX512 __attribute__((flatten))
#define FUSEDGRAD_TARGET_AVX2 __attribute__((flatten))
#endif
#define FUSEDGRAD_TARGET_BASELINE __attribute__((flatten))

namespace fusedgrad::cpu {

enum class Capability { Baseline, Avx2, Avx512 };

// The best that this machine has, or what the environment variable FUSEDGRAD_CPU_CAPABILITY
// (baseline, avx2, avx512) asks for; throws std::runtime_error when that is unknown or not here.
Capability capability();

std::string name(Capability capability);

// Those built into this library, the poorest first.
std::vector<Capability> built_capabilities();

template <class Function>
Function* choose(Function* baseline, [[maybe_unused]] Function* avx2,
                 [[maybe_unused]] Function* avx512) {
  switch (capability()) {
#if defined(__x86_64__)
    case Capability::Avx512:
      return avx512;
    case Capability::Avx2:
      return avx2;
#endif
    default:
      return baseline;
  }
}

}  // namespace fusedgrad::cpu

#include "cpu/capability.h"

#include <cstdlib>
#include <stdexcept>

namespace fusedgrad::cpu {
namespace {

Capability detect() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) return Capability::Avx512;
  if (__builtin_cpu_supports("x86-64-v3")) return Capability::Avx2;
#endif
  return Capability::Baseline;
}

Capability detect_or_obey() {
  const Capability best = detect();
  const char* wanted = std::getenv("FUSEDGRAD_CPU_CAPABILITY");
  if (wanted == nullptr) return best;
  for (Capability candidate : built_capabilities()) {
    if (name(candidate) == wanted && candidate <= best) return candidate;
  }
  throw std::runtime_error(
      std::string("FUSEDGRAD_CPU_CAPABILITY is '") + wanted +
      "', expected one of baseline, avx2, avx512 that this machine has (it has " + name(best) +
      ")");
}

}  // namespace

Capability capability() {
  static const Capability chosen = detect_or_obey();
  return chosen;
}

std::string name(Capability capability) {
  switch (capability) {
    case Capability::Avx512:
      return "avx512";
    case Capability::Avx2:
      return "avx2";
    default:
      return "baseline";
  }
}

std::vector<Capability> built_capabilities() {
#if defined(__x86_64__)
  return {Capability::Baseline, Capability::Avx2, Capability::Avx512};
#else
  return {Capability::Baseline};
#endif
}

}  // namespace fusedgrad::cpu

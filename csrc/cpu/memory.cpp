#include "cpu/memory.h"

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fusedgrad::cpu {
namespace {

constexpr uintptr_t kHugePage = 2 << 20;  // x86-64's, and aarch64's with 4 KiB pages
constexpr size_t kWorthwhile = 2 * kHugePage;

}  // namespace

void advise_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] size_t bytes) {
#if defined(__linux__)
  if (bytes < kWorthwhile) return;
  // Whole huge pages inside the allocation: the advice must not reach its neighbours.
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) & ~(kHugePage - 1);
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) & ~(kHugePage - 1);
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace fusedgrad::cpu

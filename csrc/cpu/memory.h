#pragma once

#include <cstddef>

namespace fusedgrad::cpu {

// Asks for huge pages under a large allocation that nothing has touched yet: the page faults of a
// fresh result cost several times the arithmetic that fills it (sigmoid of 2^24 floats on one
// thread took 51 ms with small pages, 29 ms with huge ones). Advice only: may do nothing.
void advise_huge_pages(void* data, size_t bytes);

}  // namespace fusedgrad::cpu

// Kernels compiled at run time, known by a number.
#pragma once

#include <cstdint>

namespace fusedgrad::operators {

// A kernel whose loaded code has its Block<double> (if `wide`) or Block<float> at `address`.
int64_t add_fused_kernel(uintptr_t address, bool wide, int outputs, int inputs, int parameters);

}  // namespace fusedgrad::operators

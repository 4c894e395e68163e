// Where operands lie, as the host packs it and a kernel is given it: the bytes of a parameter. What
// a functor computes and what the elements are is no part of it, so that one host function packs
// for every kernel, those compiled at run time too.
#pragma once

#include <cstdint>

namespace fusedgrad::cuda {

inline constexpr int kMaxDims = 16;
// Their strides fit in the 4 KB that all devices have for a kernel's parameters.
inline constexpr int kMaxOperands = 32;

// All operands side by side and aligned, or scalars.
template <int kOperands>
struct ContiguousAddresses {
  char* data[kOperands];
  uint32_t scalars;  // bit i: operand i is one element, broadcast
};

// Division by a number known on the host, of a dividend below 2^31: multiply and shift (Granlund
// and Montgomery, "Division by invariant integers using multiplication", 1994).
struct Divisor {
  uint32_t divisor;
  uint32_t multiplier;
  uint32_t shift;
};

// Any strides, in bytes.
template <int kOperands>
struct StridedAddresses {
  char* data[kOperands];
  int32_t outermost;  // dimension
  Divisor sizes[kMaxDims];
  int32_t strides[kMaxDims][kOperands];
};

}  // namespace fusedgrad::cuda

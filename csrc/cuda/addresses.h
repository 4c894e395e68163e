// Where operands lie, as the host packs it and a kernel is given it: the bytes of a parameter. What
// a functor computes and what the elements are is no part of it, so that one host function packs
// for every kernel, those compiled at run time too.
#pragma once

#include <cstdint>

namespace fusedgrad::cuda {

inline constexpr int kMaxDims = 16;
// Their strides fit in the 4 KB that all devices have for a kernel's parameters.
inline constexpr int kMaxOperands = 32;

// Whether a kernel of aligned operands takes immediates: one of more operands fills the registers.
constexpr bool takes_immediates(int outputs, int operands) { return outputs > 0 && operands <= 8; }

// All operands side by side and aligned, or scalars.
template <int kOperands>
struct ContiguousAddresses {
  char* data[kOperands];
  uint32_t scalars;     // bit i: operand i is one element, broadcast
  uint32_t immediates;  // bit i: its bits are data[i] itself, which is no address
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

// How sums over dimensions are shared among the blocks and threads of cuda/summed_kernel.cuh, for
// operands whose dimensions before `first_kept` are summed over. What is counted are packs of
// elements in dimension 0 or, if it stays, in dimension `first_kept`.
struct SumPlan {
  uint32_t kept;       // sums
  uint32_t reduced;    // what each is over
  uint32_t step;       // how many of them a block takes
  int32_t first_kept;  // dimension
  int32_t outermost;   // dimension
  int32_t kept_lanes;  // of a block's threads, as a power of two
  uint32_t scalars;    // bit i: operand i is one element for all of a pack
  bool along_kept;     // whether neighbouring threads take neighbouring sums
  bool first_part;     // of what is launched in parts
  bool complete;       // whether a block has whole sums
};

}  // namespace fusedgrad::cuda

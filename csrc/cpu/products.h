// Sums of products of factors and of derivatives of one function at one point: what a backward of
// any order returns (math/products.h has those of one term), all results in one pass over memory.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/kernel.h"

namespace fusedgrad::cpu {

// The elements of a block stand in registers, rows of numbers: first the factors, then the
// derivatives of `orders` consecutive orders, the results, and what is needed on the way.
struct Program {
  static constexpr uint8_t kNone = 255;
  static constexpr int kMostOrders = 16;
  static constexpr int kMostTemporaries = 64;

  struct Step {  // target = first * second + addend, of which the second or the addend may be none
    uint8_t target;
    uint8_t first;
    uint8_t second;
    uint8_t addend;
  };

  int factors = 0;
  int orders = 0;
  int results = 0;
  int temporaries = 0;
  std::vector<Step> steps;

  // Whether the kernel takes it
  bool fits() const {
    return factors + 1 + results <= kMaxOperands && orders <= kMostOrders &&
           temporaries <= kMostTemporaries;
  }
};

struct Products {
  const Program* program;
  // (x) -> the derivatives of some orders from the least on, and those of the orders that follow
  std::vector<Kernel> derivatives;
};

// (factors, x) -> the results. Refers to `products`.
Kernel products_kernel(const Products& products);

}  // namespace fusedgrad::cpu

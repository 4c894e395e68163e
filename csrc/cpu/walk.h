// Walks memory: brings the elements of strided operands side by side in the type a kernel computes
// in, runs the kernel, and brings the results back. Knows no formula.
#pragma once

#include <cstdint>

#include "cpu/kernel.h"
#include "dtype.h"

namespace fusedgrad::cpu {

// A rectangle of elements, size1 rows of size0, as at::TensorIterator's two-dimensional loop hands
// it out: for each operand (outputs first) its first element; then the strides in bytes, those
// along a row for all operands and after them those from row to row.
struct Rectangle {
  char* const* data;
  const int64_t* strides;
  int64_t size0;
  int64_t size1;
};

// Every operand has the element type `dtype`.
void elementwise(const Kernel& kernel, DType dtype, const Rectangle& rectangle);

// Operand i has the element type dtypes[i]; computed in double if `wide`, else in float, which no
// Float64 operand may then have. Output i, where `sums` has bit i, is doubles to which its elements
// are added: in the order of the rectangle, and blocks of 512 that go to one double by themselves.
void elementwise(const Kernel& kernel, bool wide, const DType* dtypes, const Rectangle& rectangle,
                 uint32_t sums = 0);

// n doubles, each rounded once, side by side.
void store(const double* values, DType dtype, void* target, int64_t n);

// The sum of each column of rows that lie one after the other, in double, rounded once.
void sum_rows(DType dtype, const void* values, int64_t rows, int64_t columns, void* sums);

// The sum of a one-output kernel over the rectangle; `data` and `strides` hold its inputs alone.
// Accumulated in float64 in an order that depends on the sizes only.
double sum(const Kernel& kernel, DType dtype, const Rectangle& rectangle);

// Input i has the element type dtypes[i]; computed in double if `wide`.
double sum(const Kernel& kernel, bool wide, const DType* dtypes, const Rectangle& rectangle);

// Whether n elements all lie in [0, 1]; a NaN does not.
bool all_in_unit_interval(DType dtype, const char* data, int64_t stride, int64_t n);

}  // namespace fusedgrad::cpu

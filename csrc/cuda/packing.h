// From the operands of a call to what its kernel is given, on the host.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "cuda/addresses.h"
#include "cuda/launch.h"
#include "cuda/tuning.h"

namespace fusedgrad::cuda {

// The blocks that take the elements: a tile each and one the rest. Of few elements a tile is a
// chunk.
struct Tiles {
  uint32_t full;
  uint32_t rest;
  uint32_t size;

  Tiles(int64_t numel, int64_t tile, int64_t chunk)
      : size(static_cast<uint32_t>(numel <= kResidentBlocks * chunk ? chunk : tile)) {
    full = static_cast<uint32_t>(numel / size);
    rest = static_cast<uint32_t>(numel % size);
  }
  uint32_t blocks() const { return full + (rest != 0); }
};

// Whether ContiguousAddresses serve elements of so many bytes each: bytes_of(operand).
template <class Bytes>
bool is_contiguous(const Elements& elements, int outputs, int pack, const Bytes& bytes_of) {
  if (elements.ndim != 1) return false;
  if (elements.immediates != 0 && !takes_immediates(outputs, elements.operands)) return false;
  const int inputs = elements.operands - outputs;
  for (int i = 0; i < elements.operands; ++i) {
    const int64_t stride = elements.strides[i][0];
    // An only input that is a scalar is left to the strided kernel, so that this one need not ask.
    if (i >= outputs && stride == 0 && inputs > 1) continue;
    if (stride != bytes_of(i)) return false;
    if (reinterpret_cast<uintptr_t>(elements.data[i]) % (pack * bytes_of(i)) != 0) return false;
  }
  return true;
}

inline bool is_contiguous(const Elements& elements, int outputs, int bytes) {
  return is_contiguous(elements, outputs, kPackBytes / bytes, [bytes](int) { return bytes; });
}

template <int kOperands>
ContiguousAddresses<kOperands> contiguous_addresses(const Elements& elements) {
  ContiguousAddresses<kOperands> result = {};
  result.immediates = elements.immediates;
  for (int i = 0; i < kOperands; ++i) {
    result.data[i] = static_cast<char*>(elements.data[i]);
    result.scalars |= static_cast<uint32_t>(elements.strides[i][0] == 0) << i;
  }
  return result;
}

inline Divisor divisor(uint32_t d) {
  Divisor result = {d, 0, 0};
  while ((uint64_t{1} << result.shift) < d) ++result.shift;
  const uint64_t rest = (uint64_t{1} << result.shift) - d;
  result.multiplier = static_cast<uint32_t>((uint64_t{1} << 32) * rest / d + 1);
  return result;
}

// Whether offsets in bytes, and the elements' number, fit in 32 bits: of the dimensions of `begin`
// until `end`.
inline bool is_addressable(const Elements& elements, int begin, int end) {
  int64_t numel = 1;
  for (int d = begin; d < end; ++d) {
    if (elements.sizes[d] > kMaxOffset / std::max<int64_t>(numel, 1)) return false;
    numel *= elements.sizes[d];
  }
  for (int i = 0; i < elements.operands; ++i) {
    int64_t extent = 0;
    for (int d = begin; d < end; ++d) {
      extent += (elements.sizes[d] - 1) * std::abs(elements.strides[i][d]);
    }
    if (extent > kMaxOffset) return false;
  }
  return true;
}

// Of the operands and dimensions from these on
template <int kOperands>
StridedAddresses<kOperands> strided_addresses(const Elements& elements, int operand = 0,
                                              int dimension = 0) {
  StridedAddresses<kOperands> result = {};
  result.outermost = std::max(elements.ndim - dimension - 1, 0);
  for (int i = 0; i < kOperands; ++i) {
    result.data[i] = static_cast<char*>(elements.data[operand + i]);
  }
  for (int d = dimension; d < elements.ndim; ++d) {
    result.sizes[d - dimension] = divisor(static_cast<uint32_t>(elements.sizes[d]));
    for (int i = 0; i < kOperands; ++i) {
      result.strides[d - dimension][i] = static_cast<int32_t>(elements.strides[operand + i][d]);
    }
  }
  return result;
}

// Launches once where StridedAddresses of the dimensions of `begin` until `end` serve, else for
// each half of the largest of them. Immediates have no address.
template <class Launch>
cudaError_t in_parts(const Elements& elements, int begin, int end, const Launch& launch) {
  if (elements.immediates != 0) return cudaErrorInvalidValue;
  if (is_addressable(elements, begin, end)) return launch(elements);
  int largest = begin;
  int64_t largest_extent = -1;
  for (int d = begin; d < end; ++d) {
    int64_t stride = 1;
    for (int i = 0; i < elements.operands; ++i) {
      stride = std::max<int64_t>(stride, std::abs(elements.strides[i][d]));
    }
    if ((elements.sizes[d] - 1) * stride > largest_extent) {
      largest = d;
      largest_extent = (elements.sizes[d] - 1) * stride;
    }
  }
  Elements low = elements;
  low.sizes[largest] /= 2;
  low.numel = elements.numel / elements.sizes[largest] * low.sizes[largest];
  Elements high = elements;
  high.sizes[largest] -= low.sizes[largest];
  high.numel -= low.numel;
  for (int i = 0; i < elements.operands; ++i) {
    high.data[i] =
        static_cast<char*>(elements.data[i]) + low.sizes[largest] * elements.strides[i][largest];
  }
  const cudaError_t error = in_parts(low, begin, end, launch);
  return error == cudaSuccess ? in_parts(high, begin, end, launch) : error;
}

template <class Launch>
cudaError_t in_parts(const Elements& elements, const Launch& launch) {
  return in_parts(elements, 0, elements.ndim, launch);
}

}  // namespace fusedgrad::cuda

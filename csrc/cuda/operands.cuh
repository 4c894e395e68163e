// Where the elements of a tile lie. A tile is what one block takes at once, kThreads * kElements
// consecutive elements; a kernel asks its operands to place a tile, to load its inputs and to store
// its results, and never sees an address. Two kinds:
//
//   Contiguous  all operands side by side and aligned, or scalars: 128-bit accesses
//   Strided     everything else: any strides and alignment, consecutive threads take consecutive
//               elements
//
// Only the place of a tile takes 64-bit arithmetic; inside it offsets have 32 bits.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/element.cuh"
#include "cuda/launch.h"
#include "cuda/tuning.h"

namespace fusedgrad::cuda {

template <class ElementType, int kOutputCount, int kInputCount>
struct Contiguous {
  using Element = ElementType;
  static constexpr int kOutputs = kOutputCount;
  static constexpr int kInputs = kInputCount;
  static constexpr int kOperands = kOutputs + kInputs;
  using Raw = Pack<Element>;
  static constexpr int kChunks = accesses(std::max(kOutputs, 1) + kInputs, Raw::kElements);
  static constexpr int64_t kTile = kThreads * kChunks * Raw::kElements;
  using Place = int64_t;  // of one element or of a thread's first: an offset in bytes

  char* data[kOperands];
  uint32_t scalars;  // bit i: input i is one element, broadcast

  static bool serves(const Elements& elements) {
    if (elements.ndim != 1) return false;
    for (int i = 0; i < kOperands; ++i) {
      const int64_t stride = elements.strides[i][0];
      if (i >= kOutputs && stride == 0 && kInputs > 1) continue;
      if (stride != sizeof(Element)) return false;
      if (reinterpret_cast<uintptr_t>(elements.data[i]) % kPackBytes != 0) return false;
    }
    return true;
  }

  explicit Contiguous(const Elements& elements) : scalars(0) {
    for (int i = 0; i < kOperands; ++i) data[i] = static_cast<char*>(elements.data[i]);
    for (int i = 0; i < kInputs; ++i) {
      scalars |= static_cast<uint32_t>(elements.strides[kOutputs + i][0] == 0) << i;
    }
  }

  __device__ Place place(uint32_t tile) const {
    return tile * (kTile * sizeof(Element)) + threadIdx.x * kPackBytes;
  }
  __device__ Place place(uint32_t tile, uint32_t index) const {
    return tile * (kTile * sizeof(Element)) + index * sizeof(Element);
  }

  // What a thread takes of a full tile. Scalars are filled in behind one branch, so that they cost
  // nothing where there are none.
  __device__ void load(Place place, Raw (&inputs)[kChunks][kInputs]) const {
#pragma unroll
    for (int i = 0; i < kInputs; ++i) {
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        if (is_scalar(i)) continue;
        inputs[c][i] = Raw::load(data[kOutputs + i] + place + c * (kThreads * kPackBytes));
      }
    }
    if (kInputs > 1 && scalars != 0) {
#pragma unroll
      for (int i = 0; i < kInputs; ++i) {
        if (!is_scalar(i)) continue;
#pragma unroll
        for (int c = 0; c < kChunks; ++c) inputs[c][i] = Raw::broadcast(data[kOutputs + i]);
      }
    }
  }
  __device__ void store(Place place, int i, int c, const Raw& raw) const {
    raw.store(data[i] + place + c * (kThreads * kPackBytes));
  }

  __device__ Single<Element> load_one(Place place, int i) const {
    return Single<Element>::load(data[kOutputs + i] + (is_scalar(i) ? 0 : place));
  }
  __device__ void store_one(Place place, int i, const Single<Element>& raw) const {
    raw.store(data[i] + place);
  }

 private:
  // An only input that is a scalar is left to Strided, so that this one need not ask.
  __device__ bool is_scalar(int i) const { return kInputs > 1 && (scalars >> i & 1) != 0; }
};

// Division by a number known on the host, of a dividend below 2^31: multiply and shift (Granlund
// and Montgomery, "Division by invariant integers using multiplication", 1994).
struct Divisor {
  uint32_t divisor;
  uint32_t multiplier;
  uint32_t shift;

  Divisor() = default;
  explicit Divisor(uint32_t d) : divisor(d), shift(0) {
    while ((uint64_t{1} << shift) < d) ++shift;
    multiplier = static_cast<uint32_t>((uint64_t{1} << 32) * ((uint64_t{1} << shift) - d) / d + 1);
  }

  __device__ uint32_t quotient(uint32_t n) const { return (__umulhi(n, multiplier) + n) >> shift; }
};

template <class ElementType, int kOutputCount, int kInputCount>
struct Strided {
  using Element = ElementType;
  static constexpr int kOutputs = kOutputCount;
  static constexpr int kInputs = kInputCount;
  static constexpr int kOperands = kOutputs + kInputs;
  using Raw = Single<Element>;
  static constexpr int kChunks = strided_elements(sizeof(Element));
  static constexpr int64_t kTile = kThreads * kChunks;
  struct Offsets {
    int32_t of[kOperands];  // in bytes
  };
  struct Place {
    Offsets chunk[kChunks];
  };

  char* data[kOperands];
  int32_t outermost;  // dimension
  Divisor sizes[kMaxDims];
  int32_t strides[kMaxDims][kOperands];

  // Whether offsets in bytes, and the elements' number, fit in 32 bits.
  static bool serves(const Elements& elements) {
    if (elements.numel > kMaxOffset) return false;
    for (int i = 0; i < kOperands; ++i) {
      int64_t extent = 0;
      for (int d = 0; d < elements.ndim; ++d) {
        extent += (elements.sizes[d] - 1) * std::abs(elements.strides[i][d]);
      }
      if (extent > kMaxOffset) return false;
    }
    return true;
  }

  explicit Strided(const Elements& elements) : outermost(std::max(elements.ndim - 1, 0)) {
    for (int i = 0; i < kOperands; ++i) {
      data[i] = static_cast<char*>(elements.data[i]);
      strides[0][i] = 0;
    }
    for (int d = 0; d < elements.ndim; ++d) {
      sizes[d] = Divisor(static_cast<uint32_t>(elements.sizes[d]));
      for (int i = 0; i < kOperands; ++i) {
        strides[d][i] = static_cast<int32_t>(elements.strides[i][d]);
      }
    }
  }

  __device__ Place place(uint32_t tile) const {
    Place result;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      result.chunk[c] = place(tile, c * kThreads + threadIdx.x);
    }
    return result;
  }
  __device__ Offsets place(uint32_t tile, uint32_t index) const {
    Offsets result = {};
    uint32_t rest = tile * static_cast<uint32_t>(kTile) + index;
    const auto advance = [&](int dimension, uint32_t steps) {
#pragma unroll
      for (int i = 0; i < kOperands; ++i) result.of[i] += steps * strides[dimension][i];
    };
#pragma unroll 1
    for (int d = 0; d < outermost; ++d) {
      const uint32_t quotient = sizes[d].quotient(rest);
      advance(d, rest - quotient * sizes[d].divisor);
      rest = quotient;
    }
    advance(outermost, rest);
    return result;
  }

  __device__ void load(const Place& place, Raw (&inputs)[kChunks][kInputs]) const {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
#pragma unroll
      for (int i = 0; i < kInputs; ++i) inputs[c][i] = load_one(place.chunk[c], i);
    }
  }
  __device__ void store(const Place& place, int i, int c, const Raw& raw) const {
    store_one(place.chunk[c], i, raw);
  }

  __device__ Single<Element> load_one(const Offsets& offsets, int i) const {
    return Single<Element>::load(data[kOutputs + i] + offsets.of[kOutputs + i]);
  }
  __device__ void store_one(const Offsets& offsets, int i, const Single<Element>& raw) const {
    raw.store(data[i] + offsets.of[i]);
  }
};

// Launches once where Strided serves the elements, else for each half of their largest dimension.
template <class Operands, class Launch>
cudaError_t in_parts(const Elements& elements, const Launch& launch) {
  if (Operands::serves(elements)) return launch(elements);
  int largest = 0;
  int64_t largest_extent = -1;
  for (int d = 0; d < elements.ndim; ++d) {
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
  const cudaError_t error = in_parts<Operands>(low, launch);
  return error == cudaSuccess ? in_parts<Operands>(high, launch) : error;
}

}  // namespace fusedgrad::cuda

// Where the elements of a tile lie. A tile is what one block takes at once, kThreads * kElements
// consecutive elements; a kernel asks its operands to place a tile, to load its inputs and to store
// its results, and never sees an address. Three kinds:
//
//   Contiguous  all operands side by side and aligned, or scalars: 128-bit accesses
//   Strided     everything else: any strides and alignment, consecutive threads take consecutive
//               elements
//   Mixed       the same for operands of unlike types
//
// Only the place of a tile takes 64-bit arithmetic; inside it offsets have 32 bits.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/addresses.h"
#include "cuda/element.cuh"
#include "cuda/tuning.h"

namespace fusedgrad::cuda {

template <class ElementType, int kOutputCount, int kInputCount>
struct Contiguous : ContiguousAddresses<kOutputCount + kInputCount> {
  using Element = ElementType;
  static constexpr int kOutputs = kOutputCount;
  static constexpr int kInputs = kInputCount;
  static constexpr int kOperands = kOutputs + kInputs;
  using Raw = Pack<Element>;
  // A sum has no output, and takes what one with an output would.
  static constexpr int64_t kTile = contiguous_tile(kOperands + (kOutputs == 0), sizeof(Element));
  static constexpr int kChunks = kTile / (kThreads * Raw::kElements);
  using Place = int64_t;  // of one element or of a thread's first: an offset in bytes

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
        inputs[c][i] = Raw::load(this->data[kOutputs + i] + place + c * (kThreads * kPackBytes));
      }
    }
    if (kInputs > 1 && this->scalars != 0) {
#pragma unroll
      for (int i = 0; i < kInputs; ++i) {
        if (!is_scalar(i)) continue;
#pragma unroll
        for (int c = 0; c < kChunks; ++c) inputs[c][i] = Raw::broadcast(this->data[kOutputs + i]);
      }
    }
  }
  __device__ void store(Place place, int i, int c, const Raw& raw) const {
    raw.store(this->data[i] + place + c * (kThreads * kPackBytes));
  }

  __device__ Single<Element> load_one(Place place, int i) const {
    return Single<Element>::load(this->data[kOutputs + i] + (is_scalar(i) ? 0 : place));
  }
  __device__ void store_one(Place place, int i, const Single<Element>& raw) const {
    raw.store(this->data[i] + place);
  }

 private:
  __device__ bool is_scalar(int i) const {
    return kInputs > 1 && (this->scalars >> (kOutputs + i) & 1) != 0;
  }
};

__device__ inline uint32_t quotient(uint32_t n, const Divisor& d) {
  return (__umulhi(n, d.multiplier) + n) >> d.shift;
}

template <class ElementType, int kOutputCount, int kInputCount>
struct Strided : StridedAddresses<kOutputCount + kInputCount> {
  using Element = ElementType;
  static constexpr int kOutputs = kOutputCount;
  static constexpr int kInputs = kInputCount;
  static constexpr int kOperands = kOutputs + kInputs;
  using Raw = Single<Element>;
  static constexpr int64_t kTile = strided_tile(kOperands, sizeof(Element));
  static constexpr int kChunks = kTile / kThreads;
  struct Offsets {
    int32_t of[kOperands];  // in bytes
  };
  struct Place {
    Offsets chunk[kChunks];
  };

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
      for (int i = 0; i < kOperands; ++i) result.of[i] += steps * this->strides[dimension][i];
    };
#pragma unroll 1
    for (int d = 0; d < this->outermost; ++d) {
      const uint32_t next = quotient(rest, this->sizes[d]);
      advance(d, rest - next * this->sizes[d].divisor);
      rest = next;
    }
    advance(this->outermost, rest);
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
    return Single<Element>::load(this->data[kOutputs + i] + offsets.of[kOutputs + i]);
  }
  __device__ void store_one(const Offsets& offsets, int i, const Single<Element>& raw) const {
    raw.store(this->data[i] + offsets.of[i]);
  }
};

// Strided operands of several element types, those of the outputs first, computed in T. Each is
// converted where it is loaded or stored.
template <class T, int kOutputCount, class... Elements>
struct Mixed : Strided<T, kOutputCount, sizeof...(Elements) - kOutputCount> {
  using Base = Strided<T, kOutputCount, sizeof...(Elements) - kOutputCount>;
  using typename Base::Offsets;
  using typename Base::Place;
  using typename Base::Raw;

  __device__ void load(const Place& place, Raw (&inputs)[Base::kChunks][Base::kInputs]) const {
#pragma unroll
    for (int c = 0; c < Base::kChunks; ++c) {
#pragma unroll
      for (int i = 0; i < Base::kInputs; ++i) inputs[c][i] = load_one(place.chunk[c], i);
    }
  }
  __device__ void store(const Place& place, int i, int c, const Raw& raw) const {
    store_one(place.chunk[c], i, raw);
  }

  __device__ Raw load_one(const Offsets& offsets, int i) const {
    const int operand = kOutputCount + i;
    Raw result = {};
    const char* address = this->data[operand] + offsets.of[operand];
    int next = 0;
    ((next++ == operand ? static_cast<void>(result.element = loaded<Elements>(address)) : void()),
     ...);
    return result;
  }
  __device__ void store_one(const Offsets& offsets, int i, const Raw& raw) const {
    char* address = this->data[i] + offsets.of[i];
    int next = 0;
    ((next++ == i ? Single<Elements>{rounded<Elements>(raw.element)}.store(address) : void()), ...);
  }

 private:
  template <class Element>
  __device__ static T loaded(const char* address) {
    Compute<Element> value[1];
    Single<Element>::load(address).unpack(value);
    return static_cast<T>(value[0]);
  }
  // Once, from a double too.
  template <class Element>
  __device__ static Element rounded(T value) {
    if constexpr (std::is_same_v<Element, __half> && sizeof(T) == 8) {
      return __double2half(value);
    } else if constexpr (std::is_same_v<Element, __nv_bfloat16> && sizeof(T) == 8) {
      return __double2bfloat16(value);
    } else {
      return Single<Element>::pack({static_cast<Compute<Element>>(value)}).element;
    }
  }
};

}  // namespace fusedgrad::cuda

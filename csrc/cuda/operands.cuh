// Where the elements of a tile lie. A tile is what one block takes at once, kThreads * kElements
// consecutive elements; a kernel asks its operands to place a tile, to load its inputs and to store
// its results, and never sees an address. The kinds:
//
//   Contiguous  all operands side by side and aligned, or scalars: 128-bit accesses
//   Strided     everything else: any strides and alignment, consecutive threads take consecutive
//               elements
//   ContiguousMixed, StridedMixed  the same for operands of unlike types
//
// Only the place of a tile takes 64-bit arithmetic; inside it offsets have 32 bits.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/addresses.h"
#include "cuda/element.cuh"
#include "cuda/tuning.h"

namespace fusedgrad::cuda {

// Which of a tile's elements there are: the first `count`.
template <class Operands>
struct Bound {
  static constexpr int kElements = Operands::Raw::kElements;

  bool full;
  int count;

  __device__ explicit Bound(uint32_t count)
      : full(count == Operands::kTile), count(static_cast<int>(count)) {}
  // How many there are from this thread's first of a chunk on, which takes kElements.
  __device__ int left(int chunk) const {
    return count - (chunk * kThreads + static_cast<int>(threadIdx.x)) * kElements;
  }
  // Whether no thread takes any of another chunk than the first
  __device__ bool is_short() const { return count <= kThreads * kElements; }
};

// What a thread takes of a tile, all at once: a size that is no multiple of a tile waits for memory
// no more often than one that is. Where there is no element it is 0.
template <class Operands>
__device__ __forceinline__ void load(
    const Operands& operands, const typename Operands::Place& place, const Bound<Operands>& bound,
    typename Operands::Raw (&inputs)[Operands::kChunks][Operands::kInputs]) {
  if (bound.full && !operands.has_scalars()) {
#pragma unroll
    for (int i = 0; i < Operands::kInputs; ++i) {
#pragma unroll
      for (int c = 0; c < Operands::kChunks; ++c) inputs[c][i] = operands.load(place, i, c);
    }
  } else {
    operands.fill_in_scalars(inputs);
#pragma unroll
    for (int c = 0; c < Operands::kChunks; ++c) {
      const int left = bound.left(c);
#pragma unroll
      for (int i = 0; i < Operands::kInputs; ++i) {
        if (!operands.is_scalar(i)) inputs[c][i] = {};
      }
      if (left >= Operands::Raw::kElements) {
#pragma unroll
        for (int i = 0; i < Operands::kInputs; ++i) {
          if (!operands.is_scalar(i)) inputs[c][i] = operands.load(place, i, c);
        }
      } else if constexpr (Operands::Raw::kElements > 1) {
        if (left <= 0) continue;
#pragma unroll
        for (int i = 0; i < Operands::kInputs; ++i) {
          if (!operands.is_scalar(i)) inputs[c][i] = operands.load_first(left, place, i, c);
        }
      }
    }
  }
}

template <class Operands>
__device__ __forceinline__ void store(
    const Operands& operands, const typename Operands::Place& place, const Bound<Operands>& bound,
    const typename Operands::Raw (&outputs)[Operands::kChunks][Operands::kOutputs]) {
  if (bound.full) {
#pragma unroll
    for (int c = 0; c < Operands::kChunks; ++c) {
#pragma unroll
      for (int i = 0; i < Operands::kOutputs; ++i) operands.store(place, i, c, outputs[c][i]);
    }
    return;
  }
#pragma unroll
  for (int c = 0; c < Operands::kChunks; ++c) {
    const int left = bound.left(c);
#pragma unroll
    for (int i = 0; i < Operands::kOutputs; ++i) {
      if (left >= Operands::Raw::kElements) {
        operands.store(place, i, c, outputs[c][i]);
      } else if constexpr (Operands::Raw::kElements > 1) {
        if (left > 0) operands.store_first(left, place, i, c, outputs[c][i]);
      }
    }
  }
}

// Calls body with a null pointer of the i-th type.
template <class... Elements, class Body>
__device__ __forceinline__ void with_type(int i, const Body& body) {
  int next = 0;
  ((next++ == i ? static_cast<void>(body(static_cast<Elements*>(nullptr))) : void()), ...);
}

// To the element's type, once from a double too.
template <class Element, class T>
__device__ Element rounded(T value) {
  if constexpr (std::is_same_v<Element, __half> && sizeof(T) == 8) {
    return __double2half(value);
  } else if constexpr (std::is_same_v<Element, __nv_bfloat16> && sizeof(T) == 8) {
    return __double2bfloat16(value);
  } else {
    return Single<Element>::pack({static_cast<Compute<Element>>(value)}).element;
  }
}

// Elements of any type, in the type they are computed in.
template <class T, int kCount>
struct Converted {
  using Element = T;
  static constexpr int kElements = kCount;

  T value[kCount];

  template <class Raw>
  __device__ static Converted from(const Raw& raw) {
    Compute<typename Raw::Element> values[kCount];
    raw.unpack(values);
    Converted result;
#pragma unroll
    for (int e = 0; e < kCount; ++e) result.value[e] = static_cast<T>(values[e]);
    return result;
  }
  // In memory, as a Pack or, of one element, a Single.
  template <class Element>
  __device__ auto as() const {
    if constexpr (kCount == 1) {
      return Single<Element>{rounded<Element>(value[0])};
    } else if constexpr (sizeof(T) == 8 && sizeof(Element) == 2) {
      Pack<Element, kCount> result;
#pragma unroll
      for (int i = 0; i < result.kWords; ++i) {
        const Element pair[] = {rounded<Element>(value[2 * i]), rounded<Element>(value[2 * i + 1])};
        result.word[i] = reinterpret_cast<const uint32_t&>(pair);
      }
      return result;
    } else {
      Compute<Element> values[kCount];
#pragma unroll
      for (int e = 0; e < kCount; ++e) values[e] = static_cast<Compute<Element>>(value[e]);
      return Pack<Element, kCount>::pack(values);
    }
  }

  __device__ void unpack(T (&values)[kCount]) const {
#pragma unroll
    for (int e = 0; e < kCount; ++e) values[e] = value[e];
  }
  __device__ static Converted pack(const T (&values)[kCount]) {
    Converted result;
#pragma unroll
    for (int e = 0; e < kCount; ++e) result.value[e] = values[e];
    return result;
  }
};

// Input i, a scalar: what lies at its address, or in the place of that.
template <class Raw, class Operands>
__device__ __forceinline__ Raw scalar_of(const Operands& operands, int i) {
  const int operand = Operands::kOutputs + i;
  char* const& address = operands.data[operand];
  if constexpr (Operands::kTakesImmediates) {
    if ((operands.immediates >> operand & 1) != 0) {
      return Raw::broadcast(reinterpret_cast<const typename Raw::Bits&>(address));
    }
  }
  return Raw::broadcast(address);
}

template <class ElementType, int kOutputCount, int kInputCount>
struct Contiguous : ContiguousAddresses<kOutputCount + kInputCount> {
  using Element = ElementType;
  static constexpr int kOutputs = kOutputCount;
  static constexpr int kInputs = kInputCount;
  static constexpr int kOperands = kOutputs + kInputs;
  static constexpr bool kTakesImmediates = takes_immediates(kOutputs, kOperands);
  using Raw = Pack<Element>;
  // A sum has no output, and takes what one with an output would.
  static constexpr int64_t kTile = contiguous_tile(kOperands + (kOutputs == 0), sizeof(Element));
  static constexpr int kChunks = kTile / (kThreads * Raw::kElements);
  using Place = int64_t;  // of a thread's first element: an offset in bytes

  __device__ Place place(uint32_t tile, uint32_t size = kTile) const {
    return static_cast<int64_t>(tile) * (size * uint32_t{sizeof(Element)}) +
           threadIdx.x * kPackBytes;
  }

  __device__ bool has_scalars() const { return kInputs > 1 && this->scalars != 0; }
  __device__ bool is_scalar(int i) const {
    return kInputs > 1 && (this->scalars >> (kOutputs + i) & 1) != 0;
  }
  __device__ Raw load(Place place, int i, int c) const {
    return Raw::load(address(place, kOutputs + i, c));
  }
  __device__ Raw load_first(int count, Place place, int i, int c) const {
    return Raw::load_first(count, address(place, kOutputs + i, c));
  }
  __device__ void fill_in_scalars(Raw (&inputs)[kChunks][kInputs]) const {
    if (!has_scalars()) return;
#pragma unroll
    for (int i = 0; i < kInputs; ++i) {
      if (!is_scalar(i)) continue;
      const Raw filled = scalar_of<Raw>(*this, i);
#pragma unroll
      for (int c = 0; c < kChunks; ++c) inputs[c][i] = filled;
    }
  }
  __device__ void store(Place place, int i, int c, const Raw& raw) const {
    raw.store(address(place, i, c));
  }
  __device__ void store_first(int count, Place place, int i, int c, const Raw& raw) const {
    raw.store_first(count, address(place, i, c));
  }

 private:
  __device__ char* address(Place place, int operand, int c) const {
    return this->data[operand] + place + c * (kThreads * kPackBytes);
  }
};

template <class... Elements>
constexpr int widest() {
  int bytes = 0;
  ((bytes = sizeof(Elements) > bytes ? sizeof(Elements) : bytes), ...);
  return bytes;
}

// Contiguous operands of several element types, those of the outputs first, computed in T: as many
// elements of each in one access, 128 bits of the widest. Each is converted where it is loaded or
// stored.
template <class T, int kOutputCount, class... Elements>
struct ContiguousMixed : ContiguousAddresses<sizeof...(Elements)> {
  using Element = T;
  static constexpr int kOutputs = kOutputCount;
  static constexpr int kOperands = sizeof...(Elements);
  static constexpr int kInputs = kOperands - kOutputs;
  static constexpr bool kTakesImmediates = takes_immediates(kOutputs, kOperands);
  static constexpr int kElements = kPackBytes / widest<Elements...>();
  using Raw = Converted<T, kElements>;
  static constexpr int64_t kTile =
      contiguous_tile(kOperands + (kOutputs == 0), widest<Elements...>());
  static constexpr int kChunks = kTile / (kThreads * kElements);
  using Place = int64_t;  // of a thread's first element

  __device__ Place place(uint32_t tile, uint32_t size = kTile) const {
    return static_cast<int64_t>(tile) * size + threadIdx.x * kElements;
  }

  __device__ bool has_scalars() const { return kInputs > 1 && this->scalars != 0; }
  __device__ bool is_scalar(int i) const {
    return kInputs > 1 && (this->scalars >> (kOutputs + i) & 1) != 0;
  }
  __device__ Raw load(Place place, int i, int c) const {
    Raw result;
    with_type<Elements...>(kOutputs + i, [&](auto* type) {
      using Own = Pack<std::remove_pointer_t<decltype(type)>, kElements>;
      result = Raw::from(Own::load(address<Own>(place, kOutputs + i, c)));
    });
    return result;
  }
  __device__ Raw load_first(int count, Place place, int i, int c) const {
    Raw result;
    with_type<Elements...>(kOutputs + i, [&](auto* type) {
      using Own = Pack<std::remove_pointer_t<decltype(type)>, kElements>;
      result = Raw::from(Own::load_first(count, address<Own>(place, kOutputs + i, c)));
    });
    return result;
  }
  // As Contiguous does
  __device__ void fill_in_scalars(Raw (&inputs)[kChunks][kInputs]) const {
    if (!has_scalars()) return;
#pragma unroll
    for (int i = 0; i < kInputs; ++i) {
      if (!is_scalar(i)) continue;
      with_type<Elements...>(kOutputs + i, [&](auto* type) {
        using Own = Pack<std::remove_pointer_t<decltype(type)>, kElements>;
        const Raw filled = Raw::from(scalar_of<Own>(*this, i));
#pragma unroll
        for (int c = 0; c < kChunks; ++c) inputs[c][i] = filled;
      });
    }
  }
  __device__ void store(Place place, int i, int c, const Raw& raw) const {
    with_type<Elements...>(i, [&](auto* type) {
      using Own = Pack<std::remove_pointer_t<decltype(type)>, kElements>;
      raw.template as<typename Own::Element>().store(address<Own>(place, i, c));
    });
  }
  __device__ void store_first(int count, Place place, int i, int c, const Raw& raw) const {
    with_type<Elements...>(i, [&](auto* type) {
      using Own = Pack<std::remove_pointer_t<decltype(type)>, kElements>;
      raw.template as<typename Own::Element>().store_first(count, address<Own>(place, i, c));
    });
  }

 private:
  template <class Own>
  __device__ char* address(Place place, int operand, int c) const {
    constexpr int kBytes = sizeof(typename Own::Element);
    return this->data[operand] + (place + c * (kThreads * kElements)) * kBytes;
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

  __device__ Place place(uint32_t tile, uint32_t size = kTile) const {
    const uint32_t first = tile * size + threadIdx.x;
    Place result;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      result.chunk[c] = offsets(first + c * kThreads);
    }
    return result;
  }
  __device__ Offsets offsets(uint32_t rest) const {
    Offsets result = {};
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

  __device__ bool has_scalars() const { return false; }
  __device__ bool is_scalar(int) const { return false; }
  __device__ void fill_in_scalars(Raw (&)[kChunks][kInputs]) const {}
  __device__ Raw load(const Place& place, int i, int c) const {
    return Raw::load(this->data[kOutputs + i] + place.chunk[c].of[kOutputs + i]);
  }
  __device__ void store(const Place& place, int i, int c, const Raw& raw) const {
    raw.store(this->data[i] + place.chunk[c].of[i]);
  }
};

// Strided operands of several element types, as ContiguousMixed.
template <class T, int kOutputCount, class... Elements>
struct StridedMixed : Strided<T, kOutputCount, sizeof...(Elements) - kOutputCount> {
  using Base = Strided<T, kOutputCount, sizeof...(Elements) - kOutputCount>;
  using typename Base::Place;
  using Raw = Converted<T, 1>;

  __device__ void fill_in_scalars(Raw (&)[Base::kChunks][Base::kInputs]) const {}
  __device__ Raw load(const Place& place, int i, int c) const {
    const int operand = kOutputCount + i;
    Raw result;
    with_type<Elements...>(operand, [&](auto* type) {
      using Own = Single<std::remove_pointer_t<decltype(type)>>;
      result = Raw::from(Own::load(this->data[operand] + place.chunk[c].of[operand]));
    });
    return result;
  }
  __device__ void store(const Place& place, int i, int c, const Raw& raw) const {
    with_type<Elements...>(i, [&](auto* type) {
      using Element = std::remove_pointer_t<decltype(type)>;
      raw.template as<Element>().store(this->data[i] + place.chunk[c].of[i]);
    });
  }
};

}  // namespace fusedgrad::cuda

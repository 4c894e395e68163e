// The sums of a functor's results over all elements, in two levels: kernels in which every block
// sums its tiles, and one block that sums the blocks; what one block sums it finishes. Which
// element is added where depends on the operands only, not on the device or on which block comes
// first, so a sum is the same bit for bit each time. Device code alone, which NVRTC compiles too.
#pragma once

#include <cstdint>
#include <utility>

#include "cuda/elementwise_kernel.cuh"

namespace fusedgrad::cuda {

// A sum and what rounding has taken from it (Knuth's two-sum): twice the digits for six additions,
// in the type of the elements, since double precision is slow on most devices.
template <class T>
struct alignas(2 * sizeof(T)) Sum {
  T high;  // no initial values: shared memory takes none
  T low;

  __device__ void add(T x) {
    const T sum = high + x;
    const T added = sum - high;
    low += (high - (sum - added)) + (x - added);
    high = sum;
  }
  __device__ void add(const Sum& other) {
    add(other.high);
    low += other.low;
  }
  // Where the sum has become infinite, what rounding took is not a number.
  __device__ double value() const {
    return isfinite(high) ? static_cast<double>(high) + static_cast<double>(low) : high;
  }
};

template <class T, int kSums>
struct Sums {
  Sum<T> of[kSums];

  __device__ void add(const Sums& other) {
#pragma unroll
    for (int k = 0; k < kSums; ++k) of[k].add(other.of[k]);
  }
};

// Where sums are written to, each in a type of its own.
template <class... Elements>
struct Totals {
  static constexpr int kSums = sizeof...(Elements);

  void* data[kSums];

  // scale * each sum
  template <class T>
  __device__ void write(const Sums<T, kSums>& sums, double scale) const {
    int k = 0;
    ((Single<Elements>{rounded<Elements>(sums.of[k].value() * scale)}.store(data[k]), ++k), ...);
  }
};

// Thread 0 is given the sums over all threads of a block of kBlock.
template <int kBlock, class T, int kSums>
__device__ Sums<T, kSums> sums_of_block(Sums<T, kSums> sums) {
  constexpr int kWarp = 32;
  __shared__ Sums<T, kSums> warps[kBlock / kWarp];
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
#pragma unroll
    for (int k = 0; k < kSums; ++k) {
      Sum<T>& sum = sums.of[k];
      sum.add(
          {__shfl_down_sync(~0u, sum.high, distance), __shfl_down_sync(~0u, sum.low, distance)});
    }
  }
  if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = sums;
  __syncthreads();
  if (threadIdx.x == 0) {
#pragma unroll
    for (int warp = 1; warp < kBlock / kWarp; ++warp) sums.add(warps[warp]);
  }
  return sums;
}

// Of the first `count` elements. Those of a pack of halves, which have few digits, are added as
// they are, and what rounding takes is kept of the pack's sum.
template <class Functor, class Raw, int kInputs, class T, int kSums>
__device__ void add_results(const Functor& functor, const Raw (&inputs)[kInputs], int count,
                            Sums<T, kSums>& sums) {
  constexpr bool kHalves = sizeof(typename Raw::Element) == 2;
  T x[kInputs][Raw::kElements];
  T sums_of_pack[kSums] = {};
#pragma unroll
  for (int i = 0; i < kInputs; ++i) inputs[i].unpack(x[i]);
#pragma unroll
  for (int e = 0; e < Raw::kElements; ++e) {
    auto result = call<typename Raw::Element>(functor, x, e, std::make_index_sequence<kInputs>());
    if (e < count) {
#pragma unroll
      for (int k = 0; k < kSums; ++k) {
        const T value = static_cast<T>(Results<decltype(result)>::get(result, k));
        if constexpr (kHalves) {
          sums_of_pack[k] += value;
        } else {
          sums.of[k].add(value);
        }
      }
    }
  }
  if constexpr (kHalves) {
#pragma unroll
    for (int k = 0; k < kSums; ++k) sums.of[k].add(sums_of_pack[k]);
  }
}

template <class Operands, class Outputs>
using SumsOf = Sums<Compute<typename Operands::Element>, Outputs::kSums>;

// partials[block] becomes the block's sums, or grows by them where an earlier part wrote there. A
// block that is alone writes the totals too, which are null where there are more.
template <class Functor, class Operands, class Outputs>
__device__ __forceinline__ void sum_tiles(const Functor& functor, const Operands& operands,
                                          uint32_t full_tiles, uint32_t rest,
                                          SumsOf<Operands, Outputs>* partials, bool first_part,
                                          double scale, const Outputs& totals) {
  SumsOf<Operands, Outputs> sums{};
#pragma unroll 1
  for (uint32_t tile = blockIdx.x; tile < full_tiles + (rest != 0); tile += gridDim.x) {
    const Bound<Operands> bound(tile < full_tiles ? Operands::kTile : rest);
    typename Operands::Raw inputs[Operands::kChunks][Operands::kInputs];
    load(operands, operands.place(tile), bound, inputs);
#pragma unroll
    for (int c = 0; c < Operands::kChunks; ++c) {
      if (c == 1 && bound.is_short()) break;
      add_results(functor, inputs[c], bound.left(c), sums);
    }
  }
  sums = sums_of_block<kThreads>(sums);
  if (threadIdx.x == 0) {
    if (!first_part) sums.add(partials[blockIdx.x]);
    partials[blockIdx.x] = sums;
    if (totals.data[0] != nullptr) totals.write(sums, scale);
  }
}

// The totals become scale * (partials[0] + ... + partials[count - 1]).
template <class T, class Outputs>
__device__ __forceinline__ void combine_blocks(const Sums<T, Outputs::kSums>* partials,
                                               uint32_t count, double scale,
                                               const Outputs& totals) {
  Sums<T, Outputs::kSums> sums{};
#pragma unroll 1
  for (uint32_t i = threadIdx.x; i < count; i += kCombineThreads) sums.add(partials[i]);
  sums = sums_of_block<kCombineThreads>(sums);
  if (threadIdx.x == 0) totals.write(sums, scale);
}

template <class Functor, class Operands>
__global__ void __launch_bounds__(kThreads)
    reduction_kernel(const __grid_constant__ Functor functor,
                     const __grid_constant__ Operands operands, uint32_t full_tiles, uint32_t rest,
                     SumsOf<Operands, Totals<typename Operands::Element>>* partials,
                     bool first_part, double scale,
                     const __grid_constant__ Totals<typename Operands::Element> total) {
  sum_tiles(functor, operands, full_tiles, rest, partials, first_part, scale, total);
}

template <class Element>
__global__ void __launch_bounds__(kCombineThreads)
    combine_kernel(const Sums<Compute<Element>, 1>* partials, uint32_t count, double scale,
                   const __grid_constant__ Totals<Element> total) {
  combine_blocks(partials, count, scale, total);
}

}  // namespace fusedgrad::cuda

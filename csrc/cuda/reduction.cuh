// The sum of a functor of csrc/math over its operands, in two levels: kernels in which every block
// sums its tiles, and one block that sums the blocks; what one block sums it finishes. Which
// element is added where depends on the operands only, not on the device or on which block comes
// first, so a sum is the same bit for bit each time.
//
//   FUSEDGRAD_SUM(binary_cross_entropy_sum, math::BinaryCrossEntropy)
//
// is all an operation says on this floor.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "cuda/elementwise.cuh"

namespace fusedgrad::cuda {

// A sum and what rounding has taken from it (Knuth's two-sum): twice the digits for six additions,
// in the type of the elements, since double precision is slow on most devices.
template <class T>
struct alignas(2 * sizeof(T)) Sum {
  T high = 0;
  T low = 0;

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

// Thread 0 is given the sum over all threads of a block of kBlock.
template <int kBlock, class T>
__device__ Sum<T> sum_of_block(Sum<T> sum) {
  constexpr int kWarp = 32;
  __shared__ Sum<T> warps[kBlock / kWarp];
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    sum.add({__shfl_down_sync(~0u, sum.high, distance), __shfl_down_sync(~0u, sum.low, distance)});
  }
  if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
#pragma unroll
    for (int warp = 1; warp < kBlock / kWarp; ++warp) sum.add(warps[warp]);
  }
  return sum;
}

// Of the first `count` elements
template <class Functor, class Raw, int kInputs>
__device__ void add_results(const Functor& functor, const Raw (&inputs)[kInputs], int count,
                            Sum<Compute<typename Raw::Element>>& sum) {
  using T = Compute<typename Raw::Element>;
  T x[kInputs][Raw::kElements];
#pragma unroll
  for (int i = 0; i < kInputs; ++i) inputs[i].unpack(x[i]);
#pragma unroll
  for (int e = 0; e < Raw::kElements; ++e) {
    const auto result =
        call<typename Raw::Element>(functor, x, e, std::make_index_sequence<kInputs>());
    if (e < count) sum.add(static_cast<T>(result));
  }
}

// *out = scale * sum
template <class Element>
__device__ void write_scaled(const Sum<Compute<Element>>& sum, double scale, Element* out) {
  using T = Compute<Element>;
  Single<Element>::pack({static_cast<T>(sum.value() * scale)}).store(out);
}

// partials[block] becomes the block's sum, or grows by it where an earlier part wrote there. A
// block that is alone writes `out` too, which is null where there are more.
template <class Functor, class Operands>
__global__ void __launch_bounds__(kThreads)
    reduction_kernel(const __grid_constant__ Functor functor,
                     const __grid_constant__ Operands operands, uint32_t full_tiles, uint32_t rest,
                     Sum<Compute<typename Operands::Element>>* partials, bool first_part,
                     double scale, typename Operands::Element* out) {
  Sum<Compute<typename Operands::Element>> sum;
#pragma unroll 1
  for (uint32_t tile = blockIdx.x; tile < full_tiles + (rest != 0); tile += gridDim.x) {
    const Bound<Operands> bound(tile < full_tiles, rest);
    typename Operands::Raw inputs[Operands::kChunks][Operands::kInputs];
    load(operands, operands.place(tile), bound, inputs);
#pragma unroll
    for (int c = 0; c < Operands::kChunks; ++c) {
      if (c == 1 && bound.is_short()) break;
      add_results(functor, inputs[c], bound.left(c), sum);
    }
  }
  sum = sum_of_block<kThreads>(sum);
  if (threadIdx.x == 0) {
    if (!first_part) sum.add(partials[blockIdx.x]);
    partials[blockIdx.x] = sum;
    if (out != nullptr) write_scaled(sum, scale, out);
  }
}

// *out = scale * (partials[0] + ... + partials[count - 1])
template <class Element>
__global__ void __launch_bounds__(kCombineThreads)
    combine_kernel(const Sum<Compute<Element>>* partials, uint32_t count, double scale,
                   Element* out) {
  Sum<Compute<Element>> sum;
#pragma unroll 1
  for (uint32_t i = threadIdx.x; i < count; i += kCombineThreads) sum.add(partials[i]);
  sum = sum_of_block<kCombineThreads>(sum);
  if (threadIdx.x == 0) write_scaled(sum, scale, out);
}

// The first level's blocks: a function of the number of elements alone.
template <class Operands>
uint32_t blocks_of(int64_t numel) {
  return std::min((numel + Operands::kTile - 1) / Operands::kTile, kReductionBlocks);
}

template <class Functor, class Operands, class Element>
cudaError_t launch_reduction(const Functor& functor, const Operands& operands, int64_t numel,
                             Sum<Compute<Element>>* partials, uint32_t blocks, bool first_part,
                             double scale, Element* out, cudaStream_t stream) {
  const auto full_tiles = static_cast<uint32_t>(numel / Operands::kTile);
  const auto rest = static_cast<uint32_t>(numel % Operands::kTile);
  reduction_kernel<Functor, Operands>
      <<<blocks, kThreads, 0, stream>>>(functor, operands, full_tiles, rest, partials, first_part,
                                        scale, blocks == 1 ? out : nullptr);
  return cudaGetLastError();
}

// What reduction_workspace_bytes takes a tile for
using SmallestTile = Contiguous<double, 0, kMaxOperands>;

template <class Functor>
cudaError_t scaled_sum(DType dtype, const Elements& elements, double scale, void* out,
                       void* workspace, int64_t workspace_bytes, cudaStream_t stream) {
  if (workspace_bytes < reduction_workspace_bytes(elements.numel)) return cudaErrorInvalidValue;
  return with_element(dtype, [&](auto* type) {
    using Element = std::remove_pointer_t<decltype(type)>;
    constexpr int kInputs = Signature<Functor, Compute<Element>>::kInputs;
    using Aligned = Contiguous<Element, 0, kInputs>;
    using Any = Strided<Element, 0, kInputs>;
    static_assert(Aligned::kTile >= SmallestTile::kTile && Any::kTile >= SmallestTile::kTile);
    if (elements.operands != kInputs || elements.ndim > kMaxDims) return cudaErrorInvalidValue;
    const auto partials = static_cast<Sum<Compute<Element>>*>(workspace);
    const auto result = static_cast<Element*>(out);
    uint32_t blocks = 0;
    cudaError_t error = cudaSuccess;
    if (elements.numel != 0 && is_contiguous(elements, 0, sizeof(Element))) {
      blocks = blocks_of<Aligned>(elements.numel);
      const Aligned operands{contiguous_addresses<kInputs>(elements)};
      error = launch_reduction(Functor(), operands, elements.numel, partials, blocks, true, scale,
                               result, stream);
    } else if (elements.numel != 0) {
      blocks = blocks_of<Any>(elements.numel);
      bool first_part = true;
      error = in_parts(elements, [&](const Elements& part) {
        const bool first = std::exchange(first_part, false);
        const Any operands{strided_addresses<kInputs>(part)};
        return launch_reduction(Functor(), operands, part.numel, partials, blocks, first, scale,
                                result, stream);
      });
    }
    if (error != cudaSuccess || blocks == 1) return error;
    combine_kernel<<<1, kCombineThreads, 0, stream>>>(partials, blocks, scale, result);
    return cudaGetLastError();
  });
}

}  // namespace fusedgrad::cuda

#define FUSEDGRAD_SUM(name, Functor)                                                             \
  cudaError_t name(DType dtype, const Elements& elements, double scale, void* out,               \
                   void* workspace, int64_t workspace_bytes, cudaStream_t stream) {              \
    return scaled_sum<Functor>(dtype, elements, scale, out, workspace, workspace_bytes, stream); \
  }

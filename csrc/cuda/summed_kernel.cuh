// A kernel that writes some results of a functor and sums others over dimensions, as the gradients
// of operands that were broadcast are: no result that is summed is written. A block takes some of
// the sums and of what each is over, a thread one sum (of packs, as many as a pack has elements)
// and every so many elements of it; the block adds its threads' sums up, and a second kernel the
// blocks' if there are several for one sum. What is added where depends on the operands only, as in
// cuda/reduction_kernel.cuh. Device code alone, which NVRTC compiles too.
#pragma once

#include <cstdint>
#include <utility>

#include "cuda/reduction_kernel.cuh"

namespace fusedgrad::cuda {

// Where sums over dimensions are written to, each in a type of its own: StridedAddresses of the
// dimensions that stay.
template <class... Elements>
struct SumTargets : StridedAddresses<sizeof...(Elements)> {
  static constexpr int kSums = sizeof...(Elements);

  // Sum k at an index among packs of `pack` elements, of which `e` is one.
  __device__ void write(int k, uint32_t index, int e, int pack, double value) const {
    uint32_t rest = index;
    int64_t offset = static_cast<int64_t>(e) * this->strides[0][k] / pack;
#pragma unroll 1
    for (int d = 0; d < this->outermost; ++d) {
      const uint32_t next = quotient(rest, this->sizes[d]);
      offset += static_cast<int32_t>(rest - next * this->sizes[d].divisor) * this->strides[d][k];
      rest = next;
    }
    offset += static_cast<int32_t>(rest) * this->strides[this->outermost][k];
    with_type<Elements...>(k, [&](auto* type) {
      using Element = std::remove_pointer_t<decltype(type)>;
      Single<Element>{rounded<Element>(value)}.store(this->data[k] + offset);
    });
  }
};

// The sums of the threads of a block that are alike but for their number among `of`, which stands
// in their index at `step`, for the one whose number is 0.
template <class T, int kCount>
__device__ void add_up(Sum<T> (&sums)[kCount], int count, int number, int of, int step) {
  __shared__ Sum<T> shared[kCount][kThreads];
  const int thread = static_cast<int>(threadIdx.x);
  __syncthreads();
#pragma unroll
  for (int e = 0; e < kCount; ++e) {
    if (e < count) shared[e][thread] = sums[e];
  }
#pragma unroll 1
  for (int distance = of / 2; distance > 0; distance /= 2) {
    __syncthreads();
    if (number >= distance) continue;
#pragma unroll
    for (int e = 0; e < kCount; ++e) {
      if (e >= count) continue;
      sums[e].add(shared[e][thread + distance * step]);
      shared[e][thread] = sums[e];
    }
  }
}

// Operands of which `kOutputCount` are written, computed in T: of `kCount` elements side by side,
// or of one. Dimensions before `first_kept` of SumPlan are summed over.
template <class T, int kCount, int kOutputCount, class... Elements>
struct SummedOver : StridedAddresses<sizeof...(Elements)> {
  static constexpr int kOutputs = kOutputCount;
  static constexpr int kOperands = sizeof...(Elements);
  static constexpr int kInputs = kOperands - kOutputs;
  static constexpr int kElements = kCount;
  using Element = T;
  using Raw = Converted<T, kCount>;
  template <class Own>
  using Lying = std::conditional_t<kCount == 1, Single<Own>, Pack<Own, kCount>>;
  struct Place {
    int32_t of[kOperands];  // in bytes
  };

  // By the dimensions of `begin` until `end`
  __device__ Place place(uint32_t index, int begin, int end) const {
    Place result = {};
    const auto advance = [&](int dimension, uint32_t steps) {
#pragma unroll
      for (int i = 0; i < kOperands; ++i) result.of[i] += steps * this->strides[dimension][i];
    };
#pragma unroll 1
    for (; begin < end - 1; ++begin) {
      const uint32_t next = quotient(index, this->sizes[begin]);
      advance(begin, index - next * this->sizes[begin].divisor);
      index = next;
    }
    if (begin < end) advance(begin, index);
    return result;
  }

  __device__ Raw load(int i, const char* address, bool is_scalar) const {
    Raw result;
    with_type<Elements...>(kOutputs + i, [&](auto* type) {
      using Own = Lying<std::remove_pointer_t<decltype(type)>>;
      if constexpr (kCount > 1) {
        result = Raw::from(is_scalar ? Own::broadcast(address) : Own::load(address));
      } else {
        result = Raw::from(Own::load(address));
      }
    });
    return result;
  }
  __device__ void store(int i, char* address, const Raw& raw) const {
    with_type<Elements...>(i, [&](auto* type) {
      raw.template as<std::remove_pointer_t<decltype(type)>>().store(address);
    });
  }
};

// What a thread takes at once of operands and of so many sums
template <class Operands, int kSums>
constexpr int kPacksAtOnce =
    Operands::kElements > 1
        ? accesses(Operands::kOperands + 1, Operands::kElements)
        : strided_elements(Operands::kOperands + kSums, sizeof(typename Operands::Element));

// Result r of the functor is summed where bit r of kMask is set. The sums of a block become
// partials[sum][blockIdx.y][index], or the targets' elements where the plan says so.
template <uint32_t kMask, class Functor, class Operands, class Targets>
__device__ __forceinline__ void sum_over_dimensions(const Functor& functor,
                                                    const Operands& operands, const SumPlan& plan,
                                                    Sum<typename Operands::Element>* partials,
                                                    const Targets& targets) {
  using T = typename Operands::Element;
  using Raw = typename Operands::Raw;
  constexpr int kInputs = Operands::kInputs;
  constexpr int kElements = Operands::kElements;
  constexpr int kSums = Targets::kSums;
  constexpr int kResults = kSums + Operands::kOutputs;
  constexpr int kAtOnce = kPacksAtOnce<Operands, kSums>;
  const int own_lanes = 1 << plan.kept_lanes;
  const int lanes = kThreads >> plan.kept_lanes;
  const int thread = static_cast<int>(threadIdx.x);
  const int own = plan.along_kept ? thread % own_lanes : thread / lanes;
  const int lane = plan.along_kept ? thread / own_lanes : thread % lanes;
  const uint32_t index = blockIdx.x * own_lanes + own;

  Sum<T> sums[kSums][kElements] = {};
  if (index < plan.kept) {
    const auto place = operands.place(index, plan.first_kept, plan.outermost + 1);
    char* start[Operands::kOperands];
#pragma unroll
    for (int i = 0; i < Operands::kOperands; ++i) start[i] = operands.data[i] + place.of[i];
    const uint32_t first = blockIdx.y * plan.step;
    const uint32_t end = min(first + plan.step, plan.reduced);
#pragma unroll 1
    for (uint32_t at = first + lane; at < end; at += kAtOnce * lanes) {
      typename Operands::Place places[kAtOnce];
      Raw inputs[kAtOnce][kInputs];
#pragma unroll
      for (int c = 0; c < kAtOnce; ++c) {
        const uint32_t element = at + c * lanes;
        if (element >= end) {
#pragma unroll
          for (int i = 0; i < kInputs; ++i) inputs[c][i] = {};
          continue;
        }
        places[c] = operands.place(element, 0, plan.first_kept);
#pragma unroll
        for (int i = 0; i < kInputs; ++i) {
          const int operand = Operands::kOutputs + i;
          inputs[c][i] = operands.load(i, start[operand] + places[c].of[operand],
                                       (plan.scalars >> operand & 1) != 0);
        }
      }
#pragma unroll
      for (int c = 0; c < kAtOnce; ++c) {
        if (at + c * lanes >= end) break;
        T x[kInputs][kElements];
        T y[kResults][kElements];
#pragma unroll
        for (int i = 0; i < kInputs; ++i) inputs[c][i].unpack(x[i]);
#pragma unroll
        for (int e = 0; e < kElements; ++e) {
          auto result = call<T>(functor, x, e, std::make_index_sequence<kInputs>());
#pragma unroll
          for (int r = 0; r < kResults; ++r) y[r][e] = Results<decltype(result)>::get(result, r);
        }
        int written = 0;
        int summed = 0;
#pragma unroll
        for (int r = 0; r < kResults; ++r) {
          if ((kMask >> r & 1) != 0) {
#pragma unroll
            for (int e = 0; e < kElements; ++e) sums[summed][e].add(y[r][e]);
            ++summed;
          } else {
            operands.store(written, start[written] + places[c].of[written], Raw::pack(y[r]));
            ++written;
          }
        }
      }
    }
  }

  const int count = plan.along_kept ? kElements : 1;
#pragma unroll
  for (int k = 0; k < kSums; ++k) {
    if (!plan.along_kept) {
#pragma unroll
      for (int e = 1; e < kElements; ++e) sums[k][0].add(sums[k][e]);
    }
    add_up(sums[k], count, lane, lanes, plan.along_kept ? own_lanes : 1);
    if (lane != 0 || index >= plan.kept) continue;
#pragma unroll
    for (int e = 0; e < kElements; ++e) {
      if (e >= count) continue;
      if (plan.complete) {
        targets.write(k, index, e, count, sums[k][e].value());
        continue;
      }
      const int64_t row = static_cast<int64_t>(k) * gridDim.y + blockIdx.y;
      Sum<T>& partial = partials[(row * plan.kept + index) * count + e];
      if (!plan.first_part) sums[k][e].add(partial);
      partial = sums[k][e];
    }
  }
}

// The targets become the sums over partials[sum][0 .. pieces - 1][index], `count` to an index.
template <class T, class Targets>
__device__ __forceinline__ void combine_pieces(const Sum<T>* partials, uint32_t kept, int count,
                                               uint32_t pieces, int kept_lanes,
                                               const Targets& targets) {
  const int own_lanes = 1 << kept_lanes;
  const int lanes = kThreads >> kept_lanes;
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread / own_lanes;
  const uint64_t index = blockIdx.x * static_cast<uint64_t>(own_lanes) + thread % own_lanes;
  const uint64_t elements = static_cast<uint64_t>(kept) * count;
#pragma unroll
  for (int k = 0; k < Targets::kSums; ++k) {
    Sum<T> sum[1] = {};
    if (index < elements) {
#pragma unroll 1
      for (uint32_t piece = lane; piece < pieces; piece += lanes) {
        sum[0].add(partials[(static_cast<uint64_t>(k) * pieces + piece) * elements + index]);
      }
    }
    add_up(sum, 1, lane, lanes, own_lanes);
    if (lane == 0 && index < elements) {
      targets.write(k, index / count, index % count, count, sum[0].value());
    }
  }
}

}  // namespace fusedgrad::cuda

// Launching the sum of a functor of csrc/math over its operands.
//
//   FUSEDGRAD_SUM(binary_cross_entropy_sum, math::BinaryCrossEntropy)
//
// is all an operation says on this floor.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/elementwise.cuh"
#include "cuda/reduction.h"
#include "cuda/reduction_kernel.cuh"

namespace fusedgrad::cuda {

template <class Functor>
cudaError_t scaled_sum(DType dtype, const Elements& elements, double scale, void* out,
                       void* workspace, int64_t workspace_bytes, cudaStream_t stream) {
  return with_element(dtype, [&](auto* type) {
    using Element = std::remove_pointer_t<decltype(type)>;
    constexpr int kInputs = Signature<Functor, Compute<Element>>::kInputs;
    using Aligned = Contiguous<Element, 0, kInputs>;
    using Any = Strided<Element, 0, kInputs>;
    if (elements.operands != kInputs || elements.ndim > kMaxDims) return cudaErrorInvalidValue;
    const auto partials = static_cast<Sums<Compute<Element>, 1>*>(workspace);
    const auto launch = [&](const auto& operands, int64_t numel, uint32_t blocks, bool first_part) {
      using Operands = std::decay_t<decltype(operands)>;
      const auto full_tiles = static_cast<uint32_t>(numel / Operands::kTile);
      const auto rest = static_cast<uint32_t>(numel % Operands::kTile);
      const Totals<Element> total = {{blocks == 1 ? out : nullptr}};
      reduction_kernel<Functor, Operands><<<blocks, kThreads, 0, stream>>>(
          Functor(), operands, full_tiles, rest, partials, first_part, scale, total);
      return cudaGetLastError();
    };
    const bool aligned = elements.numel != 0 && is_contiguous(elements, 0, sizeof(Element));
    return in_two_levels(
        elements, aligned, aligned ? Aligned::kTile : Any::kTile, sizeof(*partials),
        workspace_bytes,
        [&](const Elements& part, uint32_t blocks, bool first_part) {
          if (aligned) {
            const Aligned operands{contiguous_addresses<kInputs>(part)};
            return launch(operands, part.numel, blocks, first_part);
          }
          const Any operands{strided_addresses<kInputs>(part)};
          return launch(operands, part.numel, blocks, first_part);
        },
        [&](uint32_t blocks) {
          combine_kernel<<<1, kCombineThreads, 0, stream>>>(partials, blocks, scale,
                                                            Totals<Element>{{out}});
          return cudaGetLastError();
        });
  });
}

}  // namespace fusedgrad::cuda

#define FUSEDGRAD_SUM(name, Functor)                                                             \
  cudaError_t name(DType dtype, const Elements& elements, double scale, void* out,               \
                   void* workspace, int64_t workspace_bytes, cudaStream_t stream) {              \
    return scaled_sum<Functor>(dtype, elements, scale, out, workspace, workspace_bytes, stream); \
  }

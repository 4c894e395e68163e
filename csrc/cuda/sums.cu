#include "cuda/sums.h"

#include <algorithm>
#include <cstddef>
#include <type_traits>
#include <utility>

#include "cuda/elementwise.cuh"
#include "cuda/summed_kernel.cuh"
#include "math/logistic_loss.h"
#include "math/power_derivatives.h"

namespace fusedgrad::cuda {

namespace {

template <uint32_t kMask, class Functor, class Operands, class Targets>
__global__ void __launch_bounds__(kThreads)
    over_dimensions_kernel(const __grid_constant__ Functor functor,
                           const __grid_constant__ Operands operands,
                           const __grid_constant__ SumPlan plan,
                           Sum<typename Operands::Element>* partials,
                           const __grid_constant__ Targets targets) {
  sum_over_dimensions<kMask>(functor, operands, plan, partials, targets);
}

template <class T, class Targets>
__global__ void __launch_bounds__(kThreads)
    combine_pieces_kernel(const Sum<T>* partials, uint32_t kept, int count, uint32_t pieces,
                          int kept_lanes, const __grid_constant__ Targets targets) {
  combine_pieces(partials, kept, count, pieces, kept_lanes, targets);
}

template <class Element, size_t>
using Repeated = Element;

template <class Element, int kCount, int kOutputs, size_t... I>
SummedOver<Compute<Element>, kCount, kOutputs, Repeated<Element, I>...> operands_of(
    std::index_sequence<I...>);

// Of a functor whose last output is summed. Half types are computed as float: a Brief's digits
// would be lost to the sum.
template <template <class> class FunctorOf>
FusedKernel over_dimensions(DType dtype) {
  FusedKernel result = {};
  with_element(dtype, [&](auto* type) {
    using Element = std::remove_pointer_t<decltype(type)>;
    using T = Compute<Element>;
    using Functor = FunctorOf<T>;
    using Call = Signature<Functor, T>;
    constexpr int kWritten = Call::kOutputs - 1;
    constexpr uint32_t kMask = uint32_t{1} << kWritten;
    constexpr int kOperands = kWritten + Call::kInputs;
    using Operands = std::make_index_sequence<kOperands>;
    using Packed =
        decltype(operands_of<Element, kPackBytes / int{sizeof(Element)}, kWritten>(Operands()));
    using Single = decltype(operands_of<Element, 1, kWritten>(Operands()));
    using Targets = SumTargets<Element>;
    // cudaLaunchKernel takes an entry's address in the place of a handle.
    const auto handle = [](auto* entry) { return reinterpret_cast<cudaKernel_t>(entry); };
    result = {.contiguous = handle(over_dimensions_kernel<kMask, Functor, Packed, Targets>),
              .strided = handle(over_dimensions_kernel<kMask, Functor, Single, Targets>),
              .combine = handle(combine_pieces_kernel<T, Targets>),
              .outputs = Call::kOutputs,
              .inputs = Call::kInputs,
              .wide = sizeof(T) == sizeof(double),
              .bytes = sizeof(Element),
              .widths = {},
              .widest = sizeof(Element),
              .summed = kMask};
    std::fill_n(result.widths, kOperands, result.widest);
    return cudaSuccess;
  });
  return result;
}

template <class>
using PowBackward = math::PowBackward;
template <class>
using PowBackwardInput = math::PowBackwardInput;
template <class>
using PowBackwardExponent = math::PowBackwardExponent;

}  // namespace

#define FUSEDGRAD_OVER_DIMENSIONS(name, Functor) \
  FusedKernel name##_over_dimensions(DType dtype) { return over_dimensions<Functor>(dtype); }

FUSEDGRAD_OVER_DIMENSIONS(pow_backward, PowBackward)
FUSEDGRAD_OVER_DIMENSIONS(pow_backward_input, PowBackwardInput)
FUSEDGRAD_OVER_DIMENSIONS(pow_backward_exponent, PowBackwardExponent)
FUSEDGRAD_OVER_DIMENSIONS(binary_cross_entropy_with_logits_backward_weight,
                          math::BinaryCrossEntropyWithLogitsBackwardWeight)
FUSEDGRAD_OVER_DIMENSIONS(binary_cross_entropy_with_logits_backward_pos_weight,
                          math::BinaryCrossEntropyWithLogitsBackwardPosWeight)
FUSEDGRAD_OVER_DIMENSIONS(binary_cross_entropy_backward_weight,
                          math::BinaryCrossEntropyBackwardWeight)

}  // namespace fusedgrad::cuda

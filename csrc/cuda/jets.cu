#include "cuda/jets.h"

#include <algorithm>
#include <type_traits>

#include "cuda/elementwise.cuh"
#include "math/jets.h"

namespace fusedgrad::cuda {

namespace {

// Half types are computed as float, as by what is compiled at run time: a Brief's digits would not
// survive what cancels in a jet.
template <template <class> class Functor>
FusedKernel jet(DType dtype) {
  FusedKernel result = {};
  with_element(dtype, [&](auto* type) {
    using Element = std::remove_pointer_t<decltype(type)>;
    using T = Compute<Element>;
    using Call = Signature<Functor<T>, T>;
    using Aligned = Contiguous<Element, Call::kOutputs, Call::kInputs>;
    using Any = Strided<Element, Call::kOutputs, Call::kInputs>;
    // cudaLaunchKernel takes an entry's address in the place of a handle.
    const auto handle = [](auto* entry) { return reinterpret_cast<cudaKernel_t>(entry); };
    result = {.contiguous = handle(elementwise_kernel<Functor<T>, Aligned>),
              .strided = handle(elementwise_kernel<Functor<T>, Any>),
              .combine = nullptr,
              .outputs = Call::kOutputs,
              .inputs = Call::kInputs,
              .wide = sizeof(T) == sizeof(double),
              .bytes = sizeof(Element),
              .widths = {},
              .widest = sizeof(Element),
              .summed = 0};
    std::fill_n(result.widths, Call::kOutputs + Call::kInputs, result.widest);
    return cudaSuccess;
  });
  return result;
}

}  // namespace

#define FUSEDGRAD_JET(Function, order) \
  jet<math::Function##Jet##order>, jet<math::Function##JetBackward##order>
#define FUSEDGRAD_JETS(name, Function)                                                      \
  FusedKernel name##_jet(int number, DType dtype) {                                         \
    static constexpr FusedKernel (*jets[kJets])(DType) = {                                  \
        FUSEDGRAD_JET(Function, 1), FUSEDGRAD_JET(Function, 2), FUSEDGRAD_JET(Function, 3), \
        FUSEDGRAD_JET(Function, 4)};                                                        \
    return jets[number](dtype);                                                             \
  }

FUSEDGRAD_JETS(pow, Pow)
FUSEDGRAD_JETS(sigmoid, Sigmoid)
FUSEDGRAD_JETS(tanh, Tanh)

}  // namespace fusedgrad::cuda

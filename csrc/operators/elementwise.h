// Runs the kernels over PyTorch's tensors: broadcasting, type promotion, strides and, on the CPU,
// threads are at::TensorIterator's.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/FunctionRef.h>

#include <array>
#include <vector>

#include "dtype.h"
#include "operators/operation.h"

namespace at {
struct TensorIterator;
}

namespace fusedgrad::operators {

using at::Tensor;

// The element type that kernels know it by; raises for one without kernels, on behalf of `name`.
DType dtype_of(const char* name, at::ScalarType type);

// The device that the operands share; raises if they share none. An input of no dimensions on the
// CPU takes part on any as a number, as in PyTorch, and stays there until operators/cuda.h
// launches. Outputs may be undefined.
at::Device common_device(at::TensorList inputs, at::TensorList outputs = {});

// The first of inputs of one shape and one dtype that lie side by side on one device, or repeat one
// element (an expanded gradient); null if they do not, or all repeat. The fresh result of such
// inputs needs no TensorIterator, which on a small tensor costs more than the rest of a call.
const Tensor* alike(at::TensorList inputs);

// Fresh results of `dtypes`, written by `loop` over all elements side by side: see csrc/cpu/walk.h.
using Loop = void(char** data, const int64_t* strides, int64_t size0, int64_t size1);
void elementwise_of_alike(Tensor* results, const Tensor& first, at::TensorList inputs,
                          at::ArrayRef<at::ScalarType> dtypes, c10::function_ref<Loop> loop);

// What an operation asks of its first two inputs, checked before the kernel reads them. On a CUDA
// device, where no kernel can raise, an element outside gives NaN.
enum class Domain { Any, UnitInterval };

// Applies the operation to its outputs: undefined ones are freshly allocated with PyTorch's
// strides, defined ones resized and cast as PyTorch does for `out=`.
void elementwise(const Operation& operation, Tensor* outputs, size_t count, at::TensorList inputs,
                 Domain domain = Domain::Any);

template <size_t kCount>
std::array<Tensor, kCount> elementwise(const Operation& operation,
                                       std::array<Tensor, kCount> outputs, at::TensorList inputs) {
  elementwise(operation, outputs.data(), kCount, inputs);
  return outputs;
}

// One output, fresh unless it is given.
inline Tensor elementwise(const Operation& operation, at::TensorList inputs, Tensor output = {},
                          Domain domain = Domain::Any) {
  elementwise(operation, &output, 1, inputs, domain);
  return output;
}

// scale * the sum of the operation over the broadcast inputs, a 0-dim tensor of their common dtype.
// Accumulated in float64, bit for bit the same for any number of threads.
Tensor scaled_sum(const Summable& operation, at::TensorList inputs, double scale,
                  Domain domain = Domain::Any);

// The sum of what `sum` finds for the rectangles of the iterator (csrc/cpu/walk.h), in an order
// that does not depend on the number of threads.
using SumOfRectangle = double(char** data, const int64_t* strides, int64_t size0, int64_t size1);
double summed(at::TensorIterator& iter, c10::function_ref<SumOfRectangle> sum);

// A 0-dim tensor of a sum, infinite where it overflows: at::scalar_tensor alone raises there.
Tensor rounded(double sum, at::TensorOptions options);

}  // namespace fusedgrad::operators

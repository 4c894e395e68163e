// Hands an at::TensorIterator to the launchers of csrc/cuda, on PyTorch's current stream.
#pragma once

#include <ATen/TensorIterator.h>
#include <c10/util/FunctionRef.h>

#include "operators/operation.h"

namespace fusedgrad::operators {

// Calls `launcher`, once for few dimensions, and raises the error it returns on behalf of `name`.
void launch(const char* name, const at::TensorIterator& iter,
            c10::function_ref<cudaError_t(const cuda::Elements&, cudaStream_t)> launcher);

// A fresh 0-dim tensor on the iterator's device: scale * the sum of the operation.
at::Tensor launch_sum(const Summable& operation, DType dtype, const at::TensorIterator& iter,
                      double scale);

}  // namespace fusedgrad::operators

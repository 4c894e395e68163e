// Hands an at::TensorIterator to the launchers of csrc/cuda, on PyTorch's current stream.
#pragma once

#include <ATen/TensorIterator.h>
#include <ATen/core/Tensor.h>
#include <c10/util/FunctionRef.h>

#include "cuda/launch.h"

namespace fusedgrad::operators {

// Calls `launcher`, once for few dimensions, and raises the error it returns on behalf of `name`.
void launch(const char* name, const at::TensorIterator& iter,
            c10::function_ref<cudaError_t(const cuda::Elements&, cudaStream_t)> launcher);

// The same, of operands on a device that `elements` tells.
void launch(const char* name, c10::Device device, const cuda::Elements& elements,
            c10::function_ref<cudaError_t(const cuda::Elements&, cudaStream_t)> launcher);

// The same with a workspace of as many bytes as the operands need.
void launch_sums(
    const char* name, const at::TensorIterator& iter,
    c10::function_ref<int64_t(const cuda::Elements&)> workspace_bytes,
    c10::function_ref<cudaError_t(const cuda::Elements&, void* workspace, int64_t, cudaStream_t)>
        launcher);

// Fresh results of `dtypes`, and where they and inputs lie that are `alike` (elementwise.h): what
// an at::TensorIterator would find at a higher cost.
cuda::Elements elements_of_alike(at::Tensor* results, const at::Tensor& first,
                                 at::TensorList inputs, at::ArrayRef<at::ScalarType> dtypes);

}  // namespace fusedgrad::operators

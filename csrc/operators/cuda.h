// Hands an at::TensorIterator to the launchers of csrc/cuda, on PyTorch's current stream.
#pragma once

#include <ATen/TensorIterator.h>

#include "operators/operation.h"

namespace fusedgrad::operators {

void launch(const Operation& operation, DType dtype, const at::TensorIterator& iter);

// A fresh 0-dim tensor on the iterator's device: scale * the sum of the operation.
at::Tensor launch_sum(const Summable& operation, DType dtype, const at::TensorIterator& iter,
                      double scale);

}  // namespace fusedgrad::operators

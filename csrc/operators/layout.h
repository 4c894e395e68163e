// The strides of PyTorch's results where the operands lie differently in memory: those that its own
// chain of operations leaves, in which the operand that decides is often not the first.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/FunctionRef.h>

#include <vector>

namespace fusedgrad::operators {

// Whether a tensor is one element, expanded
bool repeats(const at::Tensor& tensor);

// A tensor without data that lies as an elementwise operation of PyTorch would let its result lie.
// The operands may be such tensors.
at::Tensor layout(at::TensorList operands);

at::Tensor contiguous_layout(at::IntArrayRef sizes);

// A fresh result of an operation on the inputs that lies as `like` does. Undefined if the result is
// larger than that.
at::Tensor empty_like(const at::Tensor& like, const std::vector<at::Tensor>& inputs);

// The same of a layout that is asked for only if it may be another than that of every operand:
// undefined where the inputs lie alike.
at::Tensor empty_as(c10::function_ref<at::Tensor()> expected,
                    const std::vector<at::Tensor>& inputs);

}  // namespace fusedgrad::operators

// The operators as Python calls them on ordinary tensors, for a fraction of what torch.ops costs.
#pragma once

#include <torch/csrc/python_headers.h>

namespace fusedgrad::operators {

// Adds to a module: sigmoid(input), tanh(input), pow(input, exponent) and
// binary_cross_entropy[_with_logits](input, target, reduction), which return NotImplemented where
// a call is not as ordinary as fusedgrad.functional asks for; and of fused functions fused(kernel,
// inputs, parameters, dtypes[, summed]), serve(ready, function, arguments, keywords) and
// unchanged(items, attributes, missing).
void bind_calls(PyObject* module);

}  // namespace fusedgrad::operators

// Nodes of several results that are sums of products of factors and of derivatives of one function
// at one point: all that one backward of a function of one tensor returns. The gradients of such
// results are such sums again, so that of each order one node keeps the operands and one kernel
// computes all gradients, where a node for each product would compute the function's derivatives
// again, and leave what they share to be added up.
#pragma once

#include <ATen/core/Tensor.h>

#include "cpu/kernel.h"
#include "operators/recording.h"

namespace fusedgrad::operators {

// What the products are made of. The order of `Parameters` is that of the derivative.
struct Derived {
  const char* node;
  const char* kernel;
  int64_t most_order;
  // (x) -> of this order and the next, or of as many orders as there are to be
  cpu::Kernel (*derivatives)(const Parameters& parameters, int count);
  // factor * f^(n)(x), for a real x; to be differentiated
  at::Tensor (*times)(const at::Tensor& factor, const at::Tensor& x, const Parameters& parameters);
};

// Whether operands are of one shape, one dtype and the CPU, and nobody but autograd sees what
// becomes of them.
bool are_ordinary(at::TensorList operands);

// The history of the results of one backward: first = grad_grad f^(n)(x) and second = grad_grad
// grad f^(n+1)(x), of ordinary operands.
void record_gradients(at::Tensor& first, at::Tensor& second, const Derived& derived,
                      const at::Tensor& grad_grad, const at::Tensor& grad, const at::Tensor& x,
                      const Parameters& parameters);

}  // namespace fusedgrad::operators

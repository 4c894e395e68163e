// What csrc/operators may call: one plain function for each operation, which launches its kernel on
// a stream and returns CUDA's error. Nothing here allocates, synchronises or asks for the device,
// so every call is safe while a graph is captured.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/addresses.h"
#include "dtype.h"

namespace fusedgrad::cuda {

// The operands of one call, outputs first, all of one dtype, broadcast to one shape, as
// at::TensorIterator hands them out: dimension 0 is the fastest, strides are in bytes, and
// dimensions that lie side by side in every operand have been merged. A scalar has strides 0.
// Where is_contiguous() of cuda/packing.h says so it may be an immediate, a number of the host: its
// bits stand in the place of its address.
struct Elements {
  int64_t numel;
  int32_t ndim;
  int64_t sizes[kMaxDims];
  int32_t operands;
  uint32_t immediates;  // bit i: operand i is one; else an error
  void* data[kMaxOperands];
  int64_t strides[kMaxOperands][kMaxDims];
};

using Elementwise = cudaError_t(DType, const Elements&, cudaStream_t);
using ElementwiseWithParameter = cudaError_t(DType, const Elements&, double parameter,
                                             cudaStream_t);
using ElementwiseWithTwoParameters = cudaError_t(DType, const Elements&, double first,
                                                 double second, cudaStream_t);
// `elements` holds inputs alone; `out` points to one element of the same dtype, which becomes
// scale * sum: 0 for no elements and scale 1, NaN for no elements and scale 1/0.
using Reduction = cudaError_t(DType, const Elements&, double scale, void* out, void* workspace,
                              int64_t workspace_bytes, cudaStream_t);

// How much device memory, aligned to 16 bytes, a sum of numel elements needs at most: a tile is an
// element a thread or more.
int64_t reduction_workspace_bytes(int64_t numel);

// The launchers of a function of one tensor; the parameter is the order of the derivative:
// math/products.h
#define FUSEDGRAD_DECLARE_UNARY_LAUNCHERS(name)                                                   \
  namespace fusedgrad::cuda {                                                                     \
  Elementwise name;                                /* (x) */                                      \
  ElementwiseWithParameter name##_backward;        /* (grad, x) */                                \
  ElementwiseWithParameter name##_double_backward; /* (grad_grad, grad, x) -> for grad, x */      \
  ElementwiseWithParameter name##_triple_backward; /* (grad, first, second, x) -> all but grad */ \
  }

// The parameters are the exponent and the order of the derivative.
ElementwiseWithParameter pow_scalar;                      // (x)
ElementwiseWithTwoParameters pow_scalar_backward;         // (grad, x)
ElementwiseWithTwoParameters pow_scalar_double_backward;  // (grad_grad, grad, x)
                                                          //   -> for grad, for x
ElementwiseWithTwoParameters pow_scalar_triple_backward;  // (grad, first, second, x)
                                                          //   -> for each but grad
Elementwise pow;                                          // (x, exponent)
Elementwise pow_backward;           // (grad, x, exponent) -> for x, for exponent
Elementwise pow_backward_input;     // (grad, x, exponent)
Elementwise pow_backward_exponent;  // (grad, x, exponent)
Elementwise pow_double_backward;    // (grad_grad_x, grad_grad_exponent, grad, x, exponent)
                                    //   -> for grad, for x, for exponent
// The parameters are the orders by base and by exponent.
ElementwiseWithTwoParameters pow_derivative;           // (grad, x, exponent)
ElementwiseWithTwoParameters pow_derivative_backward;  // (grad_grad, grad, x, exponent)
                                                       //   -> for grad, for x, for exponent

// Losses. (x, target[, weight, pos_weight]) on logits, (p, target[, weight]) on probabilities,
// `grad` before them in a backward kernel and `grad_grad` before that. All backward kernels but the
// first of each group take the weights too. The parameter is a factor of the result: 1/N where the
// loss was a mean of N elements.
Elementwise binary_cross_entropy_with_logits;
Elementwise binary_cross_entropy_with_logits_weighted;
Reduction binary_cross_entropy_with_logits_sum;
Reduction binary_cross_entropy_with_logits_weighted_sum;
ElementwiseWithParameter binary_cross_entropy_with_logits_backward;
ElementwiseWithParameter binary_cross_entropy_with_logits_backward_weighted;
ElementwiseWithParameter binary_cross_entropy_with_logits_backward_target;
ElementwiseWithParameter binary_cross_entropy_with_logits_backward_weight;
ElementwiseWithParameter binary_cross_entropy_with_logits_backward_pos_weight;
ElementwiseWithParameter binary_cross_entropy_with_logits_double_backward;  // -> for grad, for x

Elementwise binary_cross_entropy;
Elementwise binary_cross_entropy_weighted;
Reduction binary_cross_entropy_sum;
Reduction binary_cross_entropy_weighted_sum;
ElementwiseWithParameter binary_cross_entropy_backward;
ElementwiseWithParameter binary_cross_entropy_backward_weighted;
ElementwiseWithParameter binary_cross_entropy_backward_target;
ElementwiseWithParameter binary_cross_entropy_backward_weight;
ElementwiseWithParameter binary_cross_entropy_double_backward;  // -> for grad, for p
// The parameters are the orders by p and by target.
ElementwiseWithTwoParameters binary_cross_entropy_derivative;           // (grad, p, target)
ElementwiseWithTwoParameters binary_cross_entropy_derivative_backward;  // (grad_grad, grad, p,
                                                                        //   target) -> for grad,
                                                                        //   for p, for target

}  // namespace fusedgrad::cuda

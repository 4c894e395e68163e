// The namespace of torch.ops.fusedgrad. The schemas stand beside their operations; here, those of
// kernels compiled at run time (fused.h), each output of the dtype of `dtypes`; and, on the CPU,
// summed over the dimensions that are the bits of its number in `summed`, bit 0 the last, which
// stay with size 1.
#include <torch/library.h>

TORCH_LIBRARY(fusedgrad, m) {
  m.def(
      "fused(int kernel, Tensor[] inputs, float[] parameters, ScalarType[] dtypes,"
      " int[] summed=[]) -> Tensor[]");
  m.def(
      "fused_reduction(int kernel, Tensor[] inputs, float[] parameters, ScalarType dtype,"
      " int reduction) -> Tensor");
}

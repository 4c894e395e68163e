// The schemas of torch.ops.fusedgrad. A backward operator returns its gradients at the broadcast
// shape, and only those that its output_mask asks for; summing one to an operand's shape is the
// caller's. reduction: 0 none, 1 mean, 2 sum (at::Reduction). The operators with out return
// nothing: torch.compile takes no operator that returns an argument it writes to.
#include <torch/library.h>

TORCH_LIBRARY(fusedgrad, m) {
  m.def("sigmoid(Tensor input) -> Tensor");
  m.def("sigmoid.out(Tensor input, *, Tensor(a!) out) -> ()");
  m.def("sigmoid_backward(Tensor grad, Tensor input) -> Tensor");
  m.def("sigmoid_double_backward(Tensor grad_grad, Tensor grad, Tensor input) -> (Tensor, Tensor)");

  m.def("tanh(Tensor input) -> Tensor");
  m.def("tanh.out(Tensor input, *, Tensor(a!) out) -> ()");
  m.def("tanh_backward(Tensor grad, Tensor input) -> Tensor");
  m.def("tanh_double_backward(Tensor grad_grad, Tensor grad, Tensor input) -> (Tensor, Tensor)");

  m.def("pow.Tensor_Scalar(Tensor input, Scalar exponent) -> Tensor");
  m.def("pow.Tensor_Tensor(Tensor input, Tensor exponent) -> Tensor");
  m.def("pow.Scalar(Scalar input, Tensor exponent) -> Tensor");
  m.def("pow.Tensor_Scalar_out(Tensor input, Scalar exponent, *, Tensor(a!) out) -> ()");
  m.def("pow.Tensor_Tensor_out(Tensor input, Tensor exponent, *, Tensor(a!) out) -> ()");
  m.def("pow.Scalar_out(Scalar input, Tensor exponent, *, Tensor(a!) out) -> ()");
  m.def("pow_backward.Tensor_Scalar(Tensor grad, Tensor input, Scalar exponent) -> Tensor");
  m.def(
      "pow_backward.Tensor_Tensor(Tensor grad, Tensor input, Tensor exponent, bool[2] output_mask)"
      " -> Tensor[]");
  m.def(
      "pow_double_backward.Tensor_Scalar(Tensor grad_grad, Tensor grad, Tensor input,"
      " Scalar exponent) -> (Tensor, Tensor)");
  m.def(
      "pow_double_backward.Tensor_Tensor(Tensor grad_grad_input, Tensor grad_grad_exponent,"
      " Tensor grad, Tensor input, Tensor exponent) -> (Tensor, Tensor, Tensor)");

  m.def(
      "binary_cross_entropy_with_logits(Tensor input, Tensor target, Tensor? weight,"
      " Tensor? pos_weight, int reduction) -> Tensor");
  m.def(
      "binary_cross_entropy_with_logits_backward(Tensor grad, Tensor input, Tensor target,"
      " Tensor? weight, Tensor? pos_weight, int reduction, bool[4] output_mask) -> Tensor[]");
  m.def(
      "binary_cross_entropy_with_logits_double_backward(Tensor grad_grad, Tensor grad,"
      " Tensor input, Tensor target, Tensor? weight, Tensor? pos_weight, int reduction)"
      " -> (Tensor, Tensor)");

  // A kernel compiled at run time (fused.h), each output of the dtype of `dtypes`.
  m.def("fused(int kernel, Tensor[] inputs, float[] parameters, ScalarType[] dtypes) -> Tensor[]");
  m.def(
      "fused_reduction(int kernel, Tensor[] inputs, float[] parameters, ScalarType dtype,"
      " int reduction) -> Tensor");

  m.def(
      "binary_cross_entropy(Tensor input, Tensor target, Tensor? weight, int reduction) -> Tensor");
  m.def(
      "binary_cross_entropy_backward(Tensor grad, Tensor input, Tensor target, Tensor? weight,"
      " int reduction, bool[3] output_mask) -> Tensor[]");
  m.def(
      "binary_cross_entropy_double_backward(Tensor grad_grad, Tensor grad, Tensor input,"
      " Tensor target, Tensor? weight, int reduction) -> (Tensor, Tensor)");
}

#include "operators/layout.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ExpandUtils.h>
#include <ATen/TensorIterator.h>
#include <ATen/native/TypeProperties.h>
#include <ATen/ops/empty_strided.h>

#include <algorithm>

#include "cpu/memory.h"

namespace fusedgrad::operators {
namespace {

using at::Tensor;

// Whether every order of operands gives one layout: all are dense in one order of dimensions, or
// all contiguous or one element, repeated.
bool lie_alike(const std::vector<Tensor>& inputs) {
  const auto is_contiguous = [](const Tensor& input) {
    return input.is_contiguous() || repeats(input);
  };
  const auto is_first = [&](const Tensor& input) {
    return input.is_non_overlapping_and_dense() && input.sizes() == inputs[0].sizes() &&
           input.strides() == inputs[0].strides();
  };
  return std::all_of(inputs.begin(), inputs.end(), is_contiguous) ||
         std::all_of(inputs.begin(), inputs.end(), is_first);
}

}  // namespace

bool repeats(const Tensor& tensor) {
  const at::IntArrayRef strides = tensor.strides();
  return std::all_of(strides.begin(), strides.end(), [](int64_t stride) { return stride == 0; });
}

Tensor layout(at::TensorList operands) {
  at::TensorIteratorConfig config;
  config.check_all_same_dtype(false).set_check_mem_overlap(false).add_owned_output(Tensor());
  for (const Tensor& operand : operands) {
    config.add_owned_const_input(
        at::detail::empty_strided_meta(operand.sizes(), operand.strides(), at::kFloat));
  }
  return config.build().output();
}

Tensor contiguous_layout(at::IntArrayRef sizes) {
  return at::detail::empty_meta(sizes, at::kFloat);
}

Tensor empty_as(c10::function_ref<Tensor()> expected, const std::vector<Tensor>& inputs) {
  return lie_alike(inputs) ? Tensor() : empty_like(expected(), inputs);
}

Tensor empty_like(const Tensor& like, const std::vector<Tensor>& inputs) {
  at::DimVector sizes;
  for (const Tensor& input : inputs) sizes = at::infer_size_dimvector(sizes, input.sizes());
  if (like.sizes() != sizes) return Tensor();
  const auto elsewhere = [](const Tensor& input) { return !input.is_cpu(); };
  const auto found = std::find_if(inputs.begin(), inputs.end(), elsewhere);
  const at::TensorOptions options = (found == inputs.end() ? inputs[0] : *found).options();
  const Tensor result =
      at::empty_strided(sizes, like.strides(), options.dtype(at::native::result_type(inputs)));
  if (result.is_cpu()) cpu::advise_huge_pages(result.data_ptr(), result.nbytes());
  return result;
}

}  // namespace fusedgrad::operators

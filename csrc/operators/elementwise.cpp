#include "operators/elementwise.h"

#include <ATen/Parallel.h>
#include <ATen/TensorIterator.h>
#include <ATen/ops/scalar_tensor.h>

#include <algorithm>

#include "cpu/memory.h"
#include "cpu/walk.h"

namespace fusedgrad::operators {
namespace {

// The part of a sum that one task adds up: fixed, so that the order of additions never depends on
// the number of threads.
constexpr int64_t kSumChunk = 1 << 15;

DType dtype_of(const char* name, at::ScalarType type) {
  switch (type) {
    case at::kDouble:
      return DType::Float64;
    case at::kFloat:
      return DType::Float32;
    case at::kHalf:
      return DType::Float16;
    case at::kBFloat16:
      return DType::BFloat16;
    default:
      TORCH_CHECK_NOT_IMPLEMENTED(false, "\"", name, "\" not implemented for '",
                                  c10::toString(type), "'");
  }
}

at::TensorIteratorConfig configuration(const std::vector<Tensor>& outputs,
                                       const std::vector<Tensor>& inputs) {
  at::TensorIteratorConfig config;
  config.promote_inputs_to_common_dtype(true).promote_integer_inputs_to_float(true);
  config.cast_common_dtype_to_outputs(true).enforce_safe_casting_to_output(true);
  for (const Tensor& output : outputs) config.add_output(output);
  for (const Tensor& input : inputs) config.add_const_input(input);
  return config;
}

// `data` points at the rectangle's inputs, `strides` at their strides along a row; those from row
// to row stand `operands` further on.
void check_unit_interval(const char* name, DType dtype, int input, char* const* data,
                         const int64_t* strides, int64_t operands, int64_t size0, int64_t size1) {
  for (int64_t row = 0; row < size1; ++row) {
    TORCH_CHECK(cpu::all_in_unit_interval(dtype, data[input] + row * strides[operands + input],
                                          strides[input], size0),
                name, ": all elements of input should be between 0 and 1");
  }
}

}  // namespace

std::vector<Tensor> elementwise(const char* name, const cpu::Kernel& kernel,
                                std::vector<Tensor> outputs, const std::vector<Tensor>& inputs,
                                std::optional<Range> unit_interval) {
  at::TensorIterator iter = configuration(outputs, inputs).build();
  const DType dtype = dtype_of(name, iter.common_dtype());
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (outputs[i].defined()) continue;
    outputs[i] = iter.output(i);
    cpu::advise_huge_pages(outputs[i].data_ptr(), outputs[i].nbytes());
  }
  iter.for_each([&](char** data, const int64_t* strides, int64_t size0, int64_t size1) {
    if (unit_interval) {
      check_unit_interval(name, dtype, unit_interval->input, data + kernel.outputs,
                          strides + kernel.outputs, iter.ntensors(), size0, size1);
    }
    cpu::elementwise(kernel, dtype, {data, strides, size0, size1});
  });
  iter.cast_outputs();
  return outputs;
}

Tensor elementwise(const char* name, const cpu::Kernel& kernel, const std::vector<Tensor>& inputs,
                   std::optional<Range> unit_interval) {
  return elementwise(name, kernel, {Tensor()}, inputs, unit_interval)[0];
}

Tensor scaled_sum(const char* name, const cpu::Kernel& kernel, const std::vector<Tensor>& inputs,
                  double scale, std::optional<Range> unit_interval) {
  at::TensorIterator iter = configuration({}, inputs).build();
  const DType dtype = dtype_of(name, iter.common_dtype());
  const int64_t chunks = (iter.numel() + kSumChunk - 1) / kSumChunk;
  std::vector<double> sums(chunks);
  at::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t first = chunk * kSumChunk;
      iter.serial_for_each(
          [&](char** data, const int64_t* strides, int64_t size0, int64_t size1) {
            if (unit_interval) {
              check_unit_interval(name, dtype, unit_interval->input, data, strides, iter.ntensors(),
                                  size0, size1);
            }
            sums[chunk] += cpu::sum(kernel, dtype, {data, strides, size0, size1});
          },
          {first, std::min(first + kSumChunk, iter.numel())});
    }
  });
  double total = 0;
  for (double sum : sums) total += sum;
  return at::scalar_tensor(total * scale, at::device(iter.device()).dtype(iter.common_dtype()));
}

}  // namespace fusedgrad::operators

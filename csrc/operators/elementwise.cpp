#include "operators/elementwise.h"

#include <ATen/Parallel.h>
#include <ATen/TensorIterator.h>
#include <ATen/native/TypeProperties.h>
#include <ATen/ops/scalar_tensor.h>

#include <algorithm>

#include "cpu/memory.h"
#include "cpu/walk.h"
#ifdef FUSEDGRAD_CUDA
#include "operators/cuda.h"
#endif

namespace fusedgrad::operators {
namespace {

// The part of a sum that one task adds up: fixed, so that the order of additions never depends on
// the number of threads.
constexpr int64_t kSumChunk = 1 << 15;

at::TensorIterator iterator(const std::vector<Tensor>& outputs, const std::vector<Tensor>& inputs) {
  at::TensorIteratorConfig config;
  config.promote_inputs_to_common_dtype(true).promote_integer_inputs_to_float(true);
  config.cast_common_dtype_to_outputs(true).enforce_safe_casting_to_output(true);
  for (const Tensor& output : outputs) config.add_output(output);
  for (const Tensor& input : on_one_device(inputs)) config.add_owned_const_input(input);
  return config.build();
}

void check_first_input(const Operation& operation, FirstInput required, DType dtype,
                       const char* data, int64_t stride0, int64_t stride1, int64_t size0,
                       int64_t size1) {
  if (required == FirstInput::Any) return;
  for (int64_t row = 0; row < size1; ++row) {
    TORCH_CHECK(cpu::all_in_unit_interval(dtype, data + row * stride1, stride0, size0),
                operation.name, ": all elements of input should be between 0 and 1");
  }
}

}  // namespace

std::vector<Tensor> on_one_device(const std::vector<Tensor>& inputs) {
  const auto elsewhere = [](const Tensor& input) { return !input.is_cpu(); };
  const auto found = std::find_if(inputs.begin(), inputs.end(), elsewhere);
  if (found == inputs.end()) return inputs;
  std::vector<Tensor> moved = inputs;
  for (Tensor& input : moved) {
    if (!input.is_cpu() || input.dim() != 0) continue;
    const bool is_number = input.unsafeGetTensorImpl()->is_wrapped_number();
    // Filled on the device, not copied to it, which could wait for the device.
    input = at::scalar_tensor(input.item(), input.options().device(found->device()));
    input.unsafeGetTensorImpl()->set_wrapped_number(is_number);
  }
  return moved;
}

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

std::vector<Tensor> elementwise(const Operation& operation, std::vector<Tensor> outputs,
                                const std::vector<Tensor>& inputs, FirstInput first_input) {
  at::TensorIterator iter = iterator(outputs, inputs);
  const DType dtype = dtype_of(operation.name, iter.common_dtype());
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (outputs[i].defined()) continue;
    outputs[i] = iter.output(i);
    if (outputs[i].is_cpu()) cpu::advise_huge_pages(outputs[i].data_ptr(), outputs[i].nbytes());
  }
#ifdef FUSEDGRAD_CUDA
  if (iter.device().is_cuda()) {
    launch(operation.name, iter, [&](const cuda::Elements& elements, cudaStream_t stream) {
      return operation.cuda(dtype, elements, stream);
    });
    iter.cast_outputs();
    return outputs;
  }
#endif
  iter.for_each([&](char** data, const int64_t* strides, int64_t size0, int64_t size1) {
    const int first = iter.noutputs();
    check_first_input(operation, first_input, dtype, data[first], strides[first],
                      strides[iter.ntensors() + first], size0, size1);
    cpu::elementwise(operation.cpu, dtype, {data, strides, size0, size1});
  });
  iter.cast_outputs();
  return outputs;
}

Tensor elementwise(const Operation& operation, const std::vector<Tensor>& inputs,
                   FirstInput first_input) {
  return elementwise(operation, {Tensor()}, inputs, first_input)[0];
}

Tensor scaled_sum(const Summable& operation, const std::vector<Tensor>& inputs, double scale,
                  FirstInput first_input) {
  at::TensorIterator iter = iterator({}, inputs);
  const DType dtype = dtype_of(operation.name, iter.common_dtype());
#ifdef FUSEDGRAD_CUDA
  if (iter.device().is_cuda()) return launch_sum(operation, dtype, iter, scale);
#endif
  const double total =
      summed(iter, [&](char** data, const int64_t* strides, int64_t size0, int64_t size1) {
        check_first_input(operation, first_input, dtype, data[0], strides[0],
                          strides[iter.ntensors()], size0, size1);
        return cpu::sum(operation.cpu, dtype, {data, strides, size0, size1});
      });
  return at::scalar_tensor(total * scale, at::device(iter.device()).dtype(iter.common_dtype()));
}

double summed(at::TensorIterator& iter, c10::function_ref<SumOfRectangle> sum) {
  const int64_t chunks = (iter.numel() + kSumChunk - 1) / kSumChunk;
  std::vector<double> sums(chunks);
  at::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t first = chunk * kSumChunk;
      iter.serial_for_each([&](char** data, const int64_t* strides, int64_t size0,
                               int64_t size1) { sums[chunk] += sum(data, strides, size0, size1); },
                           {first, std::min(first + kSumChunk, iter.numel())});
    }
  });
  double total = 0;
  for (double sum_of_chunk : sums) total += sum_of_chunk;
  return total;
}

}  // namespace fusedgrad::operators

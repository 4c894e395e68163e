#include "operators/elementwise.h"

#include <ATen/Dispatch.h>
#include <ATen/EmptyTensor.h>
#include <ATen/Parallel.h>
#include <ATen/TensorIterator.h>
#include <ATen/native/TypeProperties.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/scalar_tensor.h>

#include <algorithm>
#include <array>

#include "cpu/memory.h"
#include "cpu/walk.h"
#ifdef FUSEDGRAD_CUDA
#include "operators/cuda.h"
#endif
#include "operators/layout.h"

namespace fusedgrad::operators {
namespace {

// The part of a sum that one task adds up: fixed, so that the order of additions never depends on
// the number of threads.
constexpr int64_t kSumChunk = 1 << 15;

// Inputs on CUDA in the dtype that they are computed in. (at::TensorIterator converts inputs and
// outputs on the CPU alone.)
std::vector<Tensor> promoted(std::vector<Tensor> inputs, at::Device device) {
  if (device.is_cpu()) return inputs;
  at::ScalarType type = at::native::result_type(inputs);
  if (at::isIntegralType(type, /*includeBool=*/true)) {
    type = at::typeMetaToScalarType(at::get_default_dtype());
  }
  for (Tensor& input : inputs) {
    if (input.scalar_type() != type) input = input.to(type);
  }
  return inputs;
}

at::TensorIterator iterator(at::TensorList outputs, at::TensorList inputs) {
  const at::Device device = common_device(inputs, outputs);
  at::TensorIteratorConfig config;
  config.check_all_same_device(false).declare_static_device(device);
  config.promote_inputs_to_common_dtype(true).promote_integer_inputs_to_float(true);
  config.cast_common_dtype_to_outputs(true).enforce_safe_casting_to_output(true);
  for (const Tensor& output : outputs) config.add_output(output);
  for (const Tensor& input : promoted(inputs.vec(), device)) config.add_owned_const_input(input);
  return config.build();
}

// The first two of the inputs whose data and strides (of elements, then, `operands` on, of rows)
// begin here.
void check_inputs(const Operation& operation, Domain domain, DType dtype, char* const* data,
                  const int64_t* strides, int operands, int64_t size0, int64_t size1) {
  if (domain == Domain::Any) return;
  constexpr const char* kNames[] = {"input", "target"};
  for (int i = 0; i < 2; ++i) {
    for (int64_t row = 0; row < size1; ++row) {
      const char* const begin = data[i] + row * strides[operands + i];
      TORCH_CHECK(cpu::all_in_unit_interval(dtype, begin, strides[i], size0), operation.name,
                  ": all elements of ", kNames[i], " should be between 0 and 1");
    }
  }
}

}  // namespace

const Tensor* alike(at::TensorList inputs) {
  const Tensor* first = nullptr;
  for (const Tensor& input : inputs) {
    const bool contiguous = input.is_contiguous();
    if (input.device() != inputs[0].device() || !(contiguous || repeats(input)) ||
        input.scalar_type() != inputs[0].scalar_type() || input.sizes() != inputs[0].sizes()) {
      return nullptr;
    }
    if (contiguous && first == nullptr) first = &input;
  }
  return first != nullptr && at::isFloatingType(first->scalar_type()) ? first : nullptr;
}

void elementwise_of_alike(Tensor* results, const Tensor& first, at::TensorList inputs,
                          at::ArrayRef<at::ScalarType> dtypes, c10::function_ref<Loop> loop) {
  const size_t outputs = dtypes.size();
  std::array<char*, cpu::kMaxOperands> data;
  std::array<int64_t, 2 * cpu::kMaxOperands> strides{};  // of rows too: there is one
  for (size_t i = 0; i < outputs; ++i) {
    results[i] = at::detail::empty_cpu(first.sizes(), first.options().dtype(dtypes[i]));
    cpu::advise_huge_pages(results[i].data_ptr(), results[i].nbytes());
    data[i] = static_cast<char*>(results[i].data_ptr());
    strides[i] = static_cast<int64_t>(results[i].element_size());
  }
  for (size_t i = 0; i < inputs.size(); ++i) {
    data[outputs + i] = static_cast<char*>(const_cast<void*>(inputs[i].const_data_ptr()));
    strides[outputs + i] = inputs[i].is_contiguous() ? inputs[i].element_size() : 0;
  }
  at::parallel_for(0, first.numel(), at::internal::GRAIN_SIZE, [&](int64_t begin, int64_t end) {
    std::array<char*, cpu::kMaxOperands> part;
    for (size_t i = 0; i < outputs + inputs.size(); ++i) part[i] = data[i] + begin * strides[i];
    loop(part.data(), strides.data(), end - begin, 1);
  });
}

at::Device common_device(at::TensorList inputs, at::TensorList outputs) {
  const auto elsewhere = [](const Tensor& input) { return !input.is_cpu(); };
  const auto found = std::find_if(inputs.begin(), inputs.end(), elsewhere);
  const at::Device device = found == inputs.end() ? at::kCPU : found->device();
  const auto check = [device](const Tensor& tensor) {
    TORCH_CHECK(tensor.device() == device,
                "Expected all tensors to be on the same device, but found at least two devices, ",
                device, " and ", tensor.device(), "!");
  };
  for (const Tensor& input : inputs) {
    if (!input.is_cpu() || input.dim() != 0) check(input);
  }
  for (const Tensor& output : outputs) {
    if (output.defined()) check(output);
  }
  return device;
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

void elementwise(const Operation& operation, Tensor* outputs, size_t count, at::TensorList inputs,
                 Domain domain) {
  const at::ArrayRef<Tensor> results(outputs, count);
  const auto fresh = [](const Tensor& output) { return !output.defined(); };
  const Tensor* const first = alike(inputs);
  if (first != nullptr && std::all_of(results.begin(), results.end(), fresh)) {
    const DType dtype = dtype_of(operation.name, first->scalar_type());
    std::array<at::ScalarType, cpu::kMaxOperands> types;
    std::fill_n(types.begin(), count, first->scalar_type());
    const at::ArrayRef<at::ScalarType> dtypes(types.data(), count);
#ifdef FUSEDGRAD_CUDA
    if (first->is_cuda()) {
      launch(operation.name, first->device(), elements_of_alike(outputs, *first, inputs, dtypes),
             [&](const cuda::Elements& elements, cudaStream_t stream) {
               return operation.cuda(dtype, elements, stream);
             });
      return;
    }
#endif
    elementwise_of_alike(outputs, *first, inputs, dtypes,
                         [&](char** data, const int64_t* strides, int64_t size0, int64_t size1) {
                           check_inputs(operation, domain, dtype, data + count, strides + count,
                                        /*operands=*/0, size0, size1);
                           cpu::elementwise(operation.cpu, dtype, {data, strides, size0, size1});
                         });
    return;
  }
  for (const Tensor& output : results) {
    // A write, for what saved the old value; an inference tensor refuses it.
    if (!fresh(output)) output.unsafeGetTensorImpl()->bump_version();
  }
  at::TensorIterator iter = iterator(results, inputs);
  const DType dtype = dtype_of(operation.name, iter.common_dtype());
  for (size_t i = 0; i < count; ++i) {
    if (!fresh(outputs[i])) continue;
    outputs[i] = iter.output(i);
    if (outputs[i].is_cpu()) cpu::advise_huge_pages(outputs[i].data_ptr(), outputs[i].nbytes());
  }
#ifdef FUSEDGRAD_CUDA
  if (iter.device().is_cuda()) {
    const auto is_other = [&iter](const Tensor& output) {
      return output.scalar_type() != iter.common_dtype();
    };
    if (std::any_of(results.begin(), results.end(), is_other)) {
      std::vector<Tensor> computed(count);
      elementwise(operation, computed.data(), count, inputs, domain);
      for (size_t i = 0; i < count; ++i) outputs[i].copy_(computed[i]);
      return;
    }
    launch(operation.name, iter, [&](const cuda::Elements& elements, cudaStream_t stream) {
      return operation.cuda(dtype, elements, stream);
    });
    return;
  }
#endif
  iter.for_each([&](char** data, const int64_t* strides, int64_t size0, int64_t size1) {
    const int first = iter.noutputs();
    check_inputs(operation, domain, dtype, data + first, strides + first, iter.ntensors(), size0,
                 size1);
    cpu::elementwise(operation.cpu, dtype, {data, strides, size0, size1});
  });
  iter.cast_outputs();
}

Tensor scaled_sum(const Summable& operation, at::TensorList inputs, double scale, Domain domain) {
  at::TensorIterator iter = iterator({}, inputs);
  const DType dtype = dtype_of(operation.name, iter.common_dtype());
#ifdef FUSEDGRAD_CUDA
  if (const at::Device device = common_device(inputs); device.is_cuda()) {
    Tensor total = at::empty({}, at::device(device).dtype(iter.common_dtype()));
    launch_sums(
        operation.name, iter,
        [](const cuda::Elements& elements) {
          return cuda::reduction_workspace_bytes(elements.numel);
        },
        [&](const cuda::Elements& elements, void* workspace, int64_t bytes, cudaStream_t stream) {
          return operation.cuda_sum(dtype, elements, scale, total.data_ptr(), workspace, bytes,
                                    stream);
        });
    return total;
  }
#endif
  const double total =
      summed(iter, [&](char** data, const int64_t* strides, int64_t size0, int64_t size1) {
        check_inputs(operation, domain, dtype, data, strides, iter.ntensors(), size0, size1);
        return cpu::sum(operation.cpu, dtype, {data, strides, size0, size1});
      });
  return rounded(total * scale, at::device(iter.device()).dtype(iter.common_dtype()));
}

Tensor rounded(double sum, at::TensorOptions options) {
  const at::ScalarType dtype = c10::typeMetaToScalarType(options.dtype());
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, dtype, "sum",
                                  [&] { sum = static_cast<double>(static_cast<scalar_t>(sum)); });
  return at::scalar_tensor(sum, options);
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

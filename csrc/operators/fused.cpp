#include "operators/fused.h"

#include <ATen/TensorIterator.h>
#include <ATen/ops/empty_strided.h>
#include <torch/library.h>

#include <algorithm>
#include <deque>
#include <mutex>

#include "cpu/memory.h"
#include "cpu/walk.h"
#include "operators/elementwise.h"

namespace fusedgrad::operators {
namespace {

struct FusedKernel {
  cpu::Kernel kernel;
  bool wide;
  int parameters;
};

struct Registry {
  std::mutex mutex;
  std::deque<FusedKernel> kernels;  // whose elements never move
};

Registry& registry() {
  static Registry instance;
  return instance;
}

const FusedKernel& kernel_of(int64_t number) {
  Registry& all = registry();
  const std::lock_guard<std::mutex> lock(all.mutex);
  TORCH_CHECK(number >= 0 && number < static_cast<int64_t>(all.kernels.size()),
              "fused: there is no kernel ", number);
  return all.kernels[number];
}

at::TensorIterator iterator(const std::vector<Tensor>& outputs, at::TensorList inputs,
                            at::ScalarType dtype) {
  at::TensorIteratorConfig config;
  config.check_all_same_dtype(false).declare_static_dtype_and_device(dtype, inputs[0].device());
  for (const Tensor& output : outputs) config.add_output(output);
  for (const Tensor& input : inputs) config.add_const_input(input);
  return config.build();
}

// Fresh outputs with the strides that TensorIterator gives the first.
std::vector<Tensor> allocate(at::TensorList inputs, at::ArrayRef<at::ScalarType> dtypes) {
  std::vector<Tensor> outputs = {iterator({Tensor()}, inputs, dtypes[0]).output(0)};
  for (size_t i = 1; i < dtypes.size(); ++i) {
    outputs.push_back(at::empty_strided(outputs[0].sizes(), outputs[0].strides(),
                                        outputs[0].options().dtype(dtypes[i])));
  }
  for (const Tensor& output : outputs) {
    cpu::advise_huge_pages(output.data_ptr(), output.nbytes());
  }
  return outputs;
}

std::vector<Tensor> fused(int64_t number, at::TensorList inputs, at::ArrayRef<double> parameters,
                          at::ArrayRef<at::ScalarType> dtypes) {
  const FusedKernel& fused = kernel_of(number);
  const auto check = [](const char* what, size_t given, int expected) {
    TORCH_CHECK(given == static_cast<size_t>(expected), "fused: got ", given, " ", what,
                ", expected ", expected);
  };
  check("inputs", inputs.size(), fused.kernel.inputs);
  check("dtypes", dtypes.size(), fused.kernel.outputs);
  check("parameters", parameters.size(), fused.parameters);
  for (const Tensor& input : inputs) {
    TORCH_CHECK(fused.wide || input.scalar_type() != at::kDouble,
                "fused: a float64 tensor for a kernel that computes in float32");
  }
  const std::vector<Tensor> outputs = allocate(inputs, dtypes);
  at::TensorIterator iter = iterator(outputs, inputs, dtypes[0]);
  std::array<DType, cpu::kMaxOperands> types;
  for (int i = 0; i < iter.ntensors(); ++i) types[i] = dtype_of("fused", iter.dtype(i));
  cpu::Kernel kernel = fused.kernel;
  std::copy(parameters.begin(), parameters.end(), kernel.parameters.begin());
  iter.for_each([&](char** data, const int64_t* strides, int64_t size0, int64_t size1) {
    cpu::elementwise(kernel, fused.wide, types.data(), {data, strides, size0, size1});
  });
  return outputs;
}

}  // namespace

int64_t add_fused_kernel(uintptr_t address, bool wide, int outputs, int inputs, int parameters) {
  TORCH_CHECK(outputs > 0 && inputs > 0 && outputs + inputs <= cpu::kMaxOperands,
              "fused: ", outputs, " outputs and ", inputs, " inputs, expected at most ",
              cpu::kMaxOperands);
  TORCH_CHECK(parameters >= 0 && parameters <= cpu::kMaxParameters, "fused: ", parameters,
              " parameters, expected at most ", cpu::kMaxParameters);
  FusedKernel fused{{outputs, inputs, nullptr, nullptr, {}}, wide, parameters};
  if (wide) {
    fused.kernel.float64 = reinterpret_cast<cpu::Block<double>*>(address);
  } else {
    fused.kernel.float32 = reinterpret_cast<cpu::Block<float>*>(address);
  }
  Registry& all = registry();
  const std::lock_guard<std::mutex> lock(all.mutex);
  all.kernels.push_back(fused);
  return static_cast<int64_t>(all.kernels.size()) - 1;
}

TORCH_LIBRARY_IMPL(fusedgrad, CPU, m) { m.impl("fused", fused); }

}  // namespace fusedgrad::operators

#ifdef FUSEDGRAD_CUDA

#include "operators/cuda.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/scalar_tensor.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "cuda/packing.h"

namespace fusedgrad::operators {
namespace {

using Launcher = c10::function_ref<cudaError_t(const cuda::Elements&, cudaStream_t)>;
using SumLauncher =
    c10::function_ref<cudaError_t(const cuda::Elements&, void*, int64_t, cudaStream_t)>;

void check(const char* name, cudaError_t error) {
  TORCH_CHECK(error == cudaSuccess, name, ": CUDA error: ", cudaGetErrorString(error));
}

// Through c10's registry, so that this library needs no CUDA library of PyTorch's to load.
cudaStream_t current_stream(c10::Device device) {
  const c10::impl::VirtualGuardImpl guard(c10::DeviceType::CUDA);
  return static_cast<cudaStream_t>(guard.getStreamNativeHandle(guard.getStream(device)));
}

// The iterator's operands with the dimensions that the launchers take; the others, if there are
// more, are `outer`, slowest last. Numbers of the CPU are immediates, or `filled` in on the device,
// not copied to it, which could wait for the device.
struct Operands {
  cuda::Elements elements;
  int outer;
  std::vector<at::Tensor> filled;
};

// The first operand's that is no number
c10::Device device_of(const at::TensorIterator& iter) {
  int i = 0;
  while (iter.is_cpu_scalar(i)) ++i;
  return iter.device(i);
}

void take_numbers(Operands& operands, const at::TensorIterator& iter, int outputs) {
  cuda::Elements& elements = operands.elements;
  int widest = 0;
  for (int i = 0; i < elements.operands; ++i) {
    widest = std::max(widest, static_cast<int>(iter.element_size(i)));
    if (iter.is_cpu_scalar(i)) elements.immediates |= uint32_t{1} << i;
  }
  const bool immediate =
      cuda::is_contiguous(elements, outputs, cuda::kPackBytes / widest,
                          [&iter](int i) { return static_cast<int>(iter.element_size(i)); });
  for (int i = 0; i < elements.operands; ++i) {
    if (!iter.is_cpu_scalar(i)) continue;
    if (immediate) {
      std::memcpy(&elements.data[i], iter.data_ptr(i), iter.element_size(i));
      continue;
    }
    const at::TensorOptions options = at::device(device_of(iter)).dtype(iter.dtype(i));
    operands.filled.push_back(at::scalar_tensor(iter.tensor(i).item(), options));
    elements.data[i] = operands.filled.back().data_ptr();
  }
  if (!immediate) elements.immediates = 0;
}

// For a kernel of so many outputs, none of one that sums
Operands operands_of(const at::TensorIterator& iter, int outputs) {
  Operands operands{};
  cuda::Elements& elements = operands.elements;
  elements.ndim = std::min(iter.ndim(), cuda::kMaxDims);
  elements.operands = iter.ntensors();
  operands.outer = iter.ndim() - elements.ndim;
  elements.numel = 1;
  for (int dim = 0; dim < elements.ndim; ++dim) {
    elements.sizes[dim] = iter.shape()[dim];
    elements.numel *= iter.shape()[dim];
  }
  for (int i = 0; i < elements.operands; ++i) {
    elements.data[i] = iter.data_ptr(i);
    std::copy_n(iter.strides(i).begin(), elements.ndim, elements.strides[i]);
  }
  take_numbers(operands, iter, outputs);
  return operands;
}

// Launches once for each index of the outer dimensions: few tensors have any.
void launch_outer(const char* name, const at::TensorIterator& iter, const cuda::Elements& elements,
                  int dim, cudaStream_t stream, Launcher launcher) {
  if (dim < elements.ndim) {
    check(name, launcher(elements, stream));
    return;
  }
  cuda::Elements slice = elements;
  for (int64_t index = 0; index < iter.shape()[dim]; ++index) {
    launch_outer(name, iter, slice, dim - 1, stream, launcher);
    for (int i = 0; i < slice.operands; ++i) {
      slice.data[i] = static_cast<char*>(slice.data[i]) + iter.strides(i)[dim];
    }
  }
}

}  // namespace

void launch(const char* name, const at::TensorIterator& iter, Launcher launcher) {
  if (iter.numel() == 0) return;
  const c10::Device device = device_of(iter);
  const c10::DeviceGuard guard(device);
  const Operands operands = operands_of(iter, iter.noutputs());
  launch_outer(name, iter, operands.elements, iter.ndim() - 1, current_stream(device), launcher);
}

cuda::Elements elements_of_alike(at::Tensor* results, const at::Tensor& first,
                                 at::TensorList inputs, at::ArrayRef<at::ScalarType> dtypes) {
  cuda::Elements elements;
  elements.numel = first.numel();
  elements.ndim = 1;
  elements.sizes[0] = first.numel();
  elements.operands = 0;
  elements.immediates = 0;
  const auto add = [&elements](const at::Tensor& tensor, const void* data) {
    const auto size = static_cast<int64_t>(tensor.element_size());
    elements.data[elements.operands] = const_cast<void*>(data);
    elements.strides[elements.operands++][0] = tensor.is_contiguous() ? size : 0;
  };
  for (size_t i = 0; i < dtypes.size(); ++i) {
    results[i] = at::empty(first.sizes(), first.options().dtype(dtypes[i]));
    add(results[i], results[i].mutable_data_ptr());
  }
  for (const at::Tensor& input : inputs) add(input, input.const_data_ptr());
  return elements;
}

void launch(const char* name, c10::Device device, const cuda::Elements& elements,
            Launcher launcher) {
  if (elements.numel == 0) return;
  const c10::DeviceGuard guard(device);
  check(name, launcher(elements, current_stream(device)));
}

void launch_sums(const char* name, const at::TensorIterator& iter,
                 c10::function_ref<int64_t(const cuda::Elements&)> workspace_bytes,
                 SumLauncher launcher) {
  const c10::Device device = device_of(iter);
  const c10::DeviceGuard guard(device);
  const Operands operands = operands_of(iter, /*outputs=*/0);
  TORCH_CHECK(operands.outer == 0, name, ": the broadcast operands have ", iter.ndim(),
              " dimensions that cannot be merged, expected at most ", cuda::kMaxDims);
  const int64_t bytes = workspace_bytes(operands.elements);
  at::Tensor workspace = at::empty({bytes}, at::device(device).dtype(at::kByte));
  check(name, launcher(operands.elements, workspace.data_ptr(), bytes, current_stream(device)));
}

}  // namespace fusedgrad::operators

#endif  // FUSEDGRAD_CUDA

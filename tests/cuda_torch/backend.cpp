// A CUDA device for a torch that was built without one: memory is what tests/cuda_emulator gives,
// and torch's own operators are computed on the CPU, on copies. Dispatcher, autograd, streams and
// devices are torch's.
#include <ATen/EmptyTensor.h>
#include <ATen/NativeFunctions.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <cuda_runtime_api.h>
#include <torch/library.h>

namespace {

using at::Tensor;

void check(cudaError_t status) { TORCH_CHECK(status == cudaSuccess, cudaGetErrorString(status)); }

struct Allocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* data = nullptr;
    if (bytes != 0) check(cudaMalloc(&data, bytes));
    return {data, data, &release, c10::Device(c10::kCUDA, 0)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    check(cudaMemcpy(to, from, bytes, cudaMemcpyDefault));
  }
  static void release(void* data) { cudaFree(data); }
};

Allocator allocator;

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return c10::kCUDA; }
  c10::Device exchangeDevice(c10::Device) const override { return getDevice(); }
  c10::Device getDevice() const override { return {c10::kCUDA, 0}; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device device) const override {
    return c10::Stream(c10::Stream::DEFAULT, device);
  }
  c10::Stream getDefaultStream(c10::Device device) const override { return getStream(device); }
  void* getStreamNativeHandle(const c10::Stream) const override { return nullptr; }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard)

// What torch's own library of CUDA would tell: autograd asks whether there is a device.
struct CUDAHooks final : at::CUDAHooksInterface {
  explicit CUDAHooks(at::CUDAHooksArgs) {}
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  bool isAvailable() const override { return true; }
  bool isBuilt() const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex current_device() const override { return 0; }
};

using at::CUDAHooksRegistry;
using at::RegistererCUDAHooksRegistry;
REGISTER_CUDA_HOOKS(CUDAHooks)

at::DataPtr* data_of(const Tensor& tensor) {
  return const_cast<at::DataPtr*>(&tensor.storage().data_ptr());
}

// The storage of a tensor on the CPU, and in it the same sizes and strides
Tensor on_cpu(const Tensor& tensor) {
  const auto bytes = static_cast<int64_t>(tensor.storage().nbytes());
  Tensor storage = at::detail::empty_cpu({bytes}, at::TensorOptions(at::kByte));
  // What was not written is not looked at: a kernel may fill a part.
  if (bytes != 0) std::memcpy(storage.data_ptr(), data_of(tensor)->get(), bytes);
  Tensor result = at::detail::empty_cpu({0}, tensor.options().device(at::kCPU));
  return at::native::set_storage_cpu_(result, storage.storage(), tensor.storage_offset(),
                                      tensor.sizes(), tensor.strides());
}

Tensor& copy(Tensor& self, const Tensor& source, bool) {
  if (source.is_cuda() && source.is_contiguous() && source.numel() != 0) {
    // Asks the device whether all of it was written.
    Tensor bytes = at::detail::empty_cpu({static_cast<int64_t>(source.nbytes())},
                                         at::TensorOptions(at::kByte));
    check(cudaMemcpy(bytes.data_ptr(), source.const_data_ptr(), source.nbytes(),
                     cudaMemcpyDeviceToHost));
  }
  const Tensor from = source.is_cuda() ? on_cpu(source) : source;
  if (!self.is_cuda()) {
    self.copy_(from);
    return self;
  }
  if (self.numel() == 0) return self;
  Tensor staged = on_cpu(self).copy_(from);
  char* const begin = static_cast<char*>(data_of(self)->get());
  const int64_t first = self.storage_offset() * self.element_size();
  int64_t count = 1;
  for (int64_t d = 0; d < self.dim(); ++d) count += (self.size(d) - 1) * self.stride(d);
  check(cudaMemcpy(begin + first, staged.data_ptr(), count * self.element_size(),
                   cudaMemcpyHostToDevice));
  return self;
}

Tensor copy_and_resize(const Tensor& self, const Tensor& target) {
  at::native::resize_(target, self.sizes());
  Tensor result = target;
  return copy(result, self, false);
}

Tensor empty(c10::SymIntArrayRef sizes, std::optional<at::ScalarType> dtype,
             std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>,
             std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic_symint(sizes, &allocator,
                                          c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                          c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(c10::SymIntArrayRef sizes, c10::SymIntArrayRef strides,
                     std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                     std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_symint_generic(sizes, strides, &allocator,
                                                  c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                                  c10::dtype_or_default(dtype));
}

void on_copies(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  at::native::cpu_fallback(op, stack, /*error_on_views=*/true);
}

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  c10::SetAllocator(c10::kCUDA, &allocator);
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("copy_", copy);
  m.impl("_copy_from_and_resize", copy_and_resize);
  m.impl("as_strided", at::native::as_strided_tensorimpl);
  m.impl("view", at::native::view);
  m.impl("_reshape_alias", at::native::_reshape_alias);
  m.impl("unfold", at::native::unfold);
}

TORCH_LIBRARY_IMPL(_, CUDA, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<on_copies>());
}

}  // namespace

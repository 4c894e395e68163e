#include "cuda/fused.h"

#include <type_traits>
#include <utility>
#include <vector>

#include "cuda/packing.h"
#include "cuda/tuning.h"

namespace fusedgrad::cuda {

namespace {

// What a functor is made of: its parameters in the type it computes in. Without any it is a byte.
template <class T>
std::vector<T> functor_of(const double* parameters, int count) {
  std::vector<T> functor(parameters, parameters + count);
  functor.push_back(0);
  return functor;
}

// A call's own status: the thread's last error may be another's. If it is this call's, the next who
// asks shall not be blamed.
cudaError_t forgotten(cudaError_t status) {
  if (status != cudaSuccess) cudaGetLastError();
  return status;
}

cudaError_t launch(cudaKernel_t kernel, void* functor, void* operands, int64_t numel, int64_t tile,
                   cudaStream_t stream) {
  auto full_tiles = static_cast<uint32_t>(numel / tile);
  auto rest = static_cast<uint32_t>(numel % tile);
  void* arguments[] = {functor, operands, &full_tiles, &rest};
  return forgotten(cudaLaunchKernel(reinterpret_cast<const void*>(kernel), full_tiles + (rest != 0),
                                    kThreads, arguments, 0, stream));
}

// Calls body with the number of operands as a constant.
template <class Body, int... I>
cudaError_t with_operands(int operands, const Body& body, std::integer_sequence<int, I...>) {
  cudaError_t error = cudaErrorInvalidValue;
  static_cast<void>(
      ((operands == I + 1 && (error = body(std::integral_constant<int, I + 1>()), true)) || ...));
  return error;
}

}  // namespace

cudaError_t load_fused(const void* code, bool mixed, FusedKernel* kernel) {
  // The first call may stand inside a stream capture, where by default nothing may be loaded.
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  cudaThreadExchangeStreamCaptureMode(&mode);
  cudaLibrary_t library;
  cudaError_t error = cudaLibraryLoadData(&library, code, nullptr, nullptr, 0, nullptr, nullptr, 0);
  if (error == cudaSuccess) error = cudaLibraryGetKernel(&kernel->strided, library, "strided");
  if (error == cudaSuccess && !mixed) {
    error = cudaLibraryGetKernel(&kernel->contiguous, library, "contiguous");
  }
  cudaThreadExchangeStreamCaptureMode(&mode);
  return forgotten(error);
}

cudaError_t launch_fused(const FusedKernel& kernel, const Elements& elements,
                         const double* parameters, int parameter_count, cudaStream_t stream) {
  if (elements.numel == 0) return cudaSuccess;
  if (elements.operands != kernel.outputs + kernel.inputs) return cudaErrorInvalidValue;
  std::vector<double> wide = functor_of<double>(parameters, parameter_count);
  std::vector<float> narrow = functor_of<float>(parameters, parameter_count);
  void* functor = kernel.wide ? static_cast<void*>(wide.data()) : narrow.data();
  const auto run = [&](auto count) {
    if (kernel.contiguous != nullptr && is_contiguous(elements, kernel.outputs, kernel.bytes)) {
      auto operands = contiguous_addresses<count>(elements);
      return launch(kernel.contiguous, functor, &operands, elements.numel,
                    contiguous_tile(count, kernel.bytes), stream);
    }
    return in_parts(elements, [&](const Elements& part) {
      auto operands = strided_addresses<count>(part);
      return launch(kernel.strided, functor, &operands, part.numel,
                    strided_tile(count, kernel.bytes), stream);
    });
  };
  return with_operands(elements.operands, run, std::make_integer_sequence<int, kMaxOperands>());
}

}  // namespace fusedgrad::cuda

#include "cuda/fused.h"

#include <algorithm>
#include <type_traits>
#include <utility>
#include <vector>

#include "cuda/packing.h"
#include "cuda/reduction.h"
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

cudaError_t launch(cudaKernel_t kernel, uint32_t blocks, int threads, void** arguments,
                   cudaStream_t stream) {
  return forgotten(cudaLaunchKernel(reinterpret_cast<const void*>(kernel), blocks, threads,
                                    arguments, 0, stream));
}

struct Tiles {
  uint32_t full;
  uint32_t rest;

  Tiles(int64_t numel, int64_t tile)
      : full(static_cast<uint32_t>(numel / tile)), rest(static_cast<uint32_t>(numel % tile)) {}
};

struct Functor {
  std::vector<double> wide;
  std::vector<float> narrow;
  void* data;

  Functor(const FusedKernel& kernel, const double* parameters, int count) {
    if (kernel.wide) {
      wide = functor_of<double>(parameters, count);
      data = wide.data();
    } else {
      narrow = functor_of<float>(parameters, count);
      data = narrow.data();
    }
  }
};

// Calls body with the number of operands as a constant.
template <class Body, int... I>
cudaError_t with_operands(int operands, const Body& body, std::integer_sequence<int, I...>) {
  cudaError_t error = cudaErrorInvalidValue;
  static_cast<void>(
      ((operands == I + 1 && (error = body(std::integral_constant<int, I + 1>()), true)) || ...));
  return error;
}

}  // namespace

cudaError_t load_fused(const void* code, bool mixed, bool sums, FusedKernel* kernel) {
  // The first call may stand inside a stream capture, where by default nothing may be loaded.
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  cudaThreadExchangeStreamCaptureMode(&mode);
  cudaLibrary_t library;
  cudaError_t error = cudaLibraryLoadData(&library, code, nullptr, nullptr, 0, nullptr, nullptr, 0);
  if (error == cudaSuccess) error = cudaLibraryGetKernel(&kernel->strided, library, "strided");
  if (error == cudaSuccess && !mixed) {
    error = cudaLibraryGetKernel(&kernel->contiguous, library, "contiguous");
  }
  if (error == cudaSuccess && sums) {
    error = cudaLibraryGetKernel(&kernel->combine, library, "combine");
  }
  cudaThreadExchangeStreamCaptureMode(&mode);
  return forgotten(error);
}

cudaError_t launch_fused(const FusedKernel& kernel, const Elements& elements,
                         const double* parameters, int parameter_count, cudaStream_t stream) {
  if (elements.numel == 0) return cudaSuccess;
  if (elements.operands != kernel.outputs + kernel.inputs) return cudaErrorInvalidValue;
  const Functor functor(kernel, parameters, parameter_count);
  const auto launch_tiles = [&](cudaKernel_t chosen, void* operands, Tiles tiles) {
    void* arguments[] = {functor.data, operands, &tiles.full, &tiles.rest};
    return launch(chosen, tiles.full + (tiles.rest != 0), kThreads, arguments, stream);
  };
  const auto run = [&](auto count) {
    if (kernel.contiguous != nullptr && is_contiguous(elements, kernel.outputs, kernel.bytes)) {
      auto operands = contiguous_addresses<count>(elements);
      return launch_tiles(kernel.contiguous, &operands,
                          Tiles(elements.numel, contiguous_tile(count, kernel.bytes)));
    }
    return in_parts(elements, [&](const Elements& part) {
      auto operands = strided_addresses<count>(part);
      return launch_tiles(kernel.strided, &operands,
                          Tiles(part.numel, strided_tile(count, kernel.bytes)));
    });
  };
  return with_operands(elements.operands, run, std::make_integer_sequence<int, kMaxOperands>());
}

cudaError_t launch_fused_sum(const FusedKernel& kernel, const Elements& elements,
                             const double* parameters, int parameter_count, double scale,
                             void* const* totals, void* workspace, int64_t workspace_bytes,
                             cudaStream_t stream) {
  if (elements.operands != kernel.inputs || kernel.combine == nullptr) return cudaErrorInvalidValue;
  const Functor functor(kernel, parameters, parameter_count);
  // What Totals of cuda/reduction_kernel.cuh lies as
  void* written[kMaxOperands] = {};
  void* unwritten[kMaxOperands] = {};
  std::copy_n(totals, kernel.outputs, written);
  const bool aligned = elements.numel != 0 && kernel.contiguous != nullptr &&
                       is_contiguous(elements, /*outputs=*/0, kernel.bytes);
  const int64_t tile = aligned ? contiguous_tile(kernel.inputs + 1, kernel.bytes)
                               : strided_tile(kernel.inputs, kernel.bytes);
  const auto run = [&](auto count) {
    return in_two_levels(
        elements, aligned, tile,
        kernel.outputs * 2 * (kernel.wide ? sizeof(double) : sizeof(float)), workspace_bytes,
        [&](const Elements& part, uint32_t blocks, bool first_part) {
          Tiles tiles(part.numel, tile);
          const auto launch_tiles = [&](cudaKernel_t chosen, auto operands) {
            void* arguments[] = {
                functor.data, &operands,   &tiles.full, &tiles.rest,
                &workspace,   &first_part, &scale,      blocks == 1 ? written : unwritten};
            return launch(chosen, blocks, kThreads, arguments, stream);
          };
          return aligned ? launch_tiles(kernel.contiguous, contiguous_addresses<count>(part))
                         : launch_tiles(kernel.strided, strided_addresses<count>(part));
        },
        [&](uint32_t blocks) {
          void* arguments[] = {&workspace, &blocks, &scale, written};
          return launch(kernel.combine, 1, kCombineThreads, arguments, stream);
        });
  };
  return with_operands(elements.operands, run, std::make_integer_sequence<int, kMaxOperands>());
}

}  // namespace fusedgrad::cuda

#include "cuda/fused.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>
#include <numeric>
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

cudaError_t launch(cudaKernel_t kernel, dim3 blocks, int threads, void** arguments,
                   cudaStream_t stream) {
  return forgotten(cudaLaunchKernel(reinterpret_cast<const void*>(kernel), blocks, threads,
                                    arguments, 0, stream));
}

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

bool is_contiguous(const FusedKernel& kernel, const Elements& elements, int outputs) {
  return is_contiguous(elements, outputs, kPackBytes / kernel.widest,
                       [&](int i) { return kernel.widths[i]; });
}

// Calls body with the number of operands as a constant.
template <class Body, int... I>
cudaError_t with_operands(int operands, const Body& body, std::integer_sequence<int, I...>) {
  cudaError_t error = cudaErrorInvalidValue;
  static_cast<void>(
      ((operands == I + 1 && (error = body(std::integral_constant<int, I + 1>()), true)) || ...));
  return error;
}

// StridedAddresses of any number of operands
struct AnyAddresses {
  alignas(StridedAddresses<kMaxOperands>) char bytes[sizeof(StridedAddresses<kMaxOperands>)];

  AnyAddresses(const Elements& elements, int operand, int operands, int dimension) {
    with_operands(
        operands,
        [&](auto count) {
          const auto packed = strided_addresses<count>(elements, operand, dimension);
          std::memcpy(bytes, &packed, sizeof(packed));
          return cudaSuccess;
        },
        std::make_integer_sequence<int, kMaxOperands>());
  }
};

int64_t product(const Elements& elements, int begin, int end) {
  return std::accumulate(elements.sizes + begin, elements.sizes + end, int64_t{1},
                         std::multiplies<>());
}

int log2_ceil(int64_t n, int most) {
  int log = 0;
  while (log < most && (int64_t{1} << log) < n) ++log;
  return log;
}

// How sums over dimensions are launched: a function of the operands.
struct OverDimensions {
  Elements elements;  // the dimensions that are summed over first, in packs
  SumPlan plan = {};
  int operands;  // that are no sums
  int sums;
  int pack = 1;  // elements
  uint32_t pieces = 1;
  bool valid;

  OverDimensions(const FusedKernel& kernel, const Elements& given)
      : elements(given), sums(std::popcount(kernel.summed)) {
    const int written = kernel.outputs - sums;
    operands = written + kernel.inputs;
    valid = sums > 0 && given.operands == operands + sums && given.numel > 0;
    if (!valid) return;
    plan.outermost = given.ndim - 1;
    plan.first_kept = order(given);
    plan.along_kept = given.ndim == 0 || !is_summed(given, 0);
    if (given.ndim > 0) form_packs(kernel, written);
    const int64_t kept = product(elements, plan.first_kept, elements.ndim);
    const int64_t reduced = product(elements, 0, plan.first_kept);
    plan.kept_lanes = kept_lanes(kept, reduced);
    // Eight elements a thread or more, so that the partial sums are few beside the operands.
    const int64_t most = std::max<int64_t>(reduced / (int64_t{8} * lanes()), 1);
    const int64_t enough = std::max<int64_t>(kReductionBlocks / groups(kept), 1);
    pieces = static_cast<uint32_t>(std::min(most, enough));
    plan.complete = pieces == 1 && is_addressable(elements, 0, plan.first_kept);
  }

  int64_t groups(int64_t kept) const {
    return (kept + (int64_t{1} << plan.kept_lanes) - 1) >> plan.kept_lanes;
  }
  int count() const { return plan.along_kept ? pack : 1; }  // of sums to one of plan.kept
  // For so many of each kept dimension, as Sum of cuda/reduction_kernel.cuh
  int64_t workspace_bytes(bool wide) const {
    if (plan.complete) return 0;
    const int64_t kept = product(elements, plan.first_kept, elements.ndim) * count();
    return kept * pieces * sums * 2 * (wide ? sizeof(double) : sizeof(float));
  }

 private:
  bool is_summed(const Elements& given, int d) const {
    return given.sizes[d] > 1 && given.strides[operands][d] == 0;
  }

  // Puts the dimensions that are summed over first, and returns how many they are.
  int order(const Elements& given) {
    int next = 0;
    int first_kept = 0;
    for (const bool summed : {true, false}) {
      for (int d = 0; d < given.ndim; ++d) {
        if (is_summed(given, d) != summed) continue;
        elements.sizes[next] = given.sizes[d];
        for (int i = 0; i < given.operands; ++i) {
          elements.strides[i][next] = given.strides[i][d];
          if (i > operands) valid = valid && (!summed || given.strides[i][d] == 0);
        }
        ++next;
      }
      if (summed) first_kept = next;
    }
    return first_kept;
  }

  void form_packs(const FusedKernel& kernel, int written) {
    const int along = plan.along_kept ? plan.first_kept : 0;
    const int size = kPackBytes / kernel.widest;
    if (elements.sizes[along] % size != 0) return;
    uint32_t scalars = 0;
    for (int i = 0; i < operands; ++i) {
      const int64_t stride = elements.strides[i][along];
      if (i >= written && stride == 0) {
        scalars |= uint32_t{1} << i;
        continue;
      }
      const int64_t bytes = size * kernel.widths[i];
      if (stride != kernel.widths[i]) return;
      if (reinterpret_cast<uintptr_t>(elements.data[i]) % bytes != 0) return;
      for (int d = 0; d < elements.ndim; ++d) {
        if (d != along && elements.strides[i][d] % bytes != 0) return;
      }
    }
    pack = size;
    plan.scalars = scalars;
    elements.sizes[along] /= size;
    elements.numel /= size;
    for (int i = 0; i < elements.operands; ++i) elements.strides[i][along] *= size;
  }

  // Neighbouring threads take what is neighbouring in memory: if those are sums, a warp of them,
  // and more where there are not enough elements of each for the rest of the block.
  int kept_lanes(int64_t kept, int64_t reduced) const {
    constexpr int kLog = std::countr_zero(static_cast<unsigned>(kThreads));
    const int rest = kLog - log2_ceil(reduced, kLog);
    return plan.along_kept ? log2_ceil(kept, std::max(rest, 5)) : rest;
  }
  int lanes() const { return kThreads >> plan.kept_lanes; }
};

}  // namespace

cudaError_t load_fused(const void* code, bool sums, FusedKernel* kernel) {
  // The first call may stand inside a stream capture, where by default nothing may be loaded.
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  cudaThreadExchangeStreamCaptureMode(&mode);
  cudaLibrary_t library;
  cudaError_t error = cudaLibraryLoadData(&library, code, nullptr, nullptr, 0, nullptr, nullptr, 0);
  if (error == cudaSuccess) error = cudaLibraryGetKernel(&kernel->strided, library, "strided");
  if (error == cudaSuccess) {
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
    void* arguments[] = {functor.data, operands, &tiles.full, &tiles.rest, &tiles.size};
    return launch(chosen, tiles.blocks(), kThreads, arguments, stream);
  };
  const auto run = [&](auto count) {
    if (is_contiguous(kernel, elements, kernel.outputs)) {
      auto operands = contiguous_addresses<count>(elements);
      return launch_tiles(kernel.contiguous, &operands,
                          Tiles(elements.numel, contiguous_tile(count, kernel.widest),
                                kThreads * (kPackBytes / kernel.widest)));
    }
    return in_parts(elements, [&](const Elements& part) {
      auto operands = strided_addresses<count>(part);
      return launch_tiles(kernel.strided, &operands,
                          Tiles(part.numel, strided_tile(count, kernel.bytes), kThreads));
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
  const bool aligned = elements.numel != 0 && is_contiguous(kernel, elements, /*outputs=*/0);
  const int64_t tile = aligned ? contiguous_tile(kernel.inputs + 1, kernel.widest)
                               : strided_tile(kernel.inputs, kernel.bytes);
  const auto run = [&](auto count) {
    return in_two_levels(
        elements, aligned, tile,
        kernel.outputs * 2 * (kernel.wide ? sizeof(double) : sizeof(float)), workspace_bytes,
        [&](const Elements& part, uint32_t blocks, bool first_part) {
          Tiles tiles(part.numel, tile, /*chunk=*/tile);
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

int64_t workspace_bytes_over_dimensions(const FusedKernel& kernel, const Elements& elements) {
  const OverDimensions over(kernel, elements);
  return over.valid ? over.workspace_bytes(kernel.wide) : 0;
}

cudaError_t launch_fused_over_dimensions(const FusedKernel& kernel, const Elements& elements,
                                         const double* parameters, int parameter_count,
                                         void* workspace, int64_t workspace_bytes,
                                         cudaStream_t stream) {
  const OverDimensions over(kernel, elements);
  if (!over.valid || workspace_bytes < over.workspace_bytes(kernel.wide)) {
    return cudaErrorInvalidValue;
  }
  const Functor functor(kernel, parameters, parameter_count);
  const int first_kept = over.plan.first_kept;
  const cudaKernel_t chosen = over.pack > 1 ? kernel.contiguous : kernel.strided;
  // What stays is launched in parts that have nothing to do with one another; to the partial sums
  // of one part of what is summed over the next adds its own.
  return in_parts(over.elements, first_kept, elements.ndim, [&](const Elements& some) {
    SumPlan plan = over.plan;
    plan.kept = static_cast<uint32_t>(product(some, first_kept, some.ndim));
    plan.first_part = true;
    const auto groups = static_cast<uint32_t>(over.groups(plan.kept));
    AnyAddresses targets(some, over.operands, over.sums, first_kept);
    const cudaError_t error = in_parts(some, 0, first_kept, [&](const Elements& part) {
      plan.reduced = static_cast<uint32_t>(product(part, 0, first_kept));
      plan.step = (plan.reduced + over.pieces - 1) / over.pieces;
      AnyAddresses operands(part, 0, over.operands, 0);
      void* arguments[] = {functor.data, operands.bytes, &plan, &workspace, targets.bytes};
      const cudaError_t error =
          launch(chosen, dim3(groups, over.pieces), kThreads, arguments, stream);
      plan.first_part = false;
      return error;
    });
    if (error != cudaSuccess || plan.complete) return error;
    int count = over.count();
    uint32_t pieces = over.pieces;
    const int64_t sums = int64_t{plan.kept} * count;
    int lanes = std::countr_zero(static_cast<unsigned>(kThreads)) -
                log2_ceil(pieces, std::countr_zero(static_cast<unsigned>(kThreads)));
    const auto blocks = static_cast<uint32_t>((sums + (int64_t{1} << lanes) - 1) >> lanes);
    void* arguments[] = {&workspace, &plan.kept, &count, &pieces, &lanes, targets.bytes};
    return launch(kernel.combine, blocks, kThreads, arguments, stream);
  });
}

}  // namespace fusedgrad::cuda

#include "operators/sums.h"

#include <ATen/ExpandUtils.h>
#include <ATen/Parallel.h>
#include <ATen/TensorIterator.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>

#include "cpu/walk.h"
#include "operators/elementwise.h"
#include "operators/layout.h"
#ifdef FUSEDGRAD_CUDA
#include "operators/cuda.h"
#endif

namespace fusedgrad::operators {
namespace {

// What a task computes is fixed by the sizes, so that the order of additions never depends on the
// number of threads: elements enough to be worth a task, and tasks enough for any processor.
constexpr int64_t kLeastElements = 1 << 15;
constexpr int64_t kMostPieces = 256;
// Of the innermost dimension a piece has whole blocks, which the walker gathers at a time.
constexpr int64_t kBlock = 512;
// What the pieces' own sums take is at most this part of the elements.
constexpr int64_t kPart = 8;

at::DimVector broadcast_sizes(at::TensorList tensors) {
  at::DimVector sizes;
  for (const Tensor& tensor : tensors) sizes = at::infer_size_dimvector(sizes, tensor.sizes());
  return sizes;
}

// With size 1 in the dimensions that are the bits of `summed`
at::DimVector kept_of(const at::DimVector& sizes, int64_t summed) {
  at::DimVector kept = sizes;
  for (size_t dim = 0; dim < sizes.size(); ++dim) {
    if (summed >> (sizes.size() - 1 - dim) & 1) kept[dim] = 1;
  }
  return kept;
}

// One output's sums: `layout` is what TensorIterator walks in their place.
struct Sums {
  int output;
  Tensor layout;
  int64_t copies = 1;  // one a piece, where pieces add to the same sums
  std::vector<double> values = {};

  int64_t size() const { return layout.numel(); }
};

// The dimension that is split among the tasks, into pieces of `step`.
struct Split {
  int dim = 0;
  int64_t step = 1;
  int64_t pieces = 0;
};

// The dimension that gives the most pieces, the outermost of several, whose rows are longest.
// Pieces of one that a sum is taken over need copies of that sum.
Split split_of(const at::TensorIterator& iter, const std::vector<Sums>& sums) {
  Split best;
  if (iter.numel() == 0) return best;
  const int first = iter.ntensors() - static_cast<int>(sums.size());
  for (int dim = iter.ndim() - 1; dim >= 0; --dim) {
    int64_t copied = 0;
    for (size_t i = 0; i < sums.size(); ++i) {
      if (iter.strides(first + static_cast<int>(i))[dim] == 0) copied += sums[i].size();
    }
    int64_t most = std::min(kMostPieces, iter.numel() / kLeastElements);
    if (copied > 0) most = std::min(most, iter.numel() / (kPart * copied));
    const int64_t size = iter.shape()[dim];
    const int64_t unit = dim == 0 ? kBlock : 1;
    const int64_t step = at::divup(at::divup(size, std::max<int64_t>(most, 1)), unit) * unit;
    const int64_t pieces = at::divup(size, step);
    if (pieces > best.pieces) best = {dim, step, pieces};
  }
  return best;
}

Tensor stored(const char* name, const Sums& sums, at::TensorOptions options) {
  const Tensor result = at::empty(sums.layout.sizes(), options);
  const DType dtype = dtype_of(name, result.scalar_type());
  char* const data = static_cast<char*>(result.data_ptr());
  at::parallel_for(0, sums.size(), kLeastElements, [&](int64_t begin, int64_t end) {
    std::array<double, kBlock> totals;
    for (; begin < end; begin += kBlock) {
      const int64_t n = std::min(kBlock, end - begin);
      std::fill_n(totals.begin(), n, 0.0);
      for (int64_t copy = 0; copy < sums.copies; ++copy) {
        const double* const values = sums.values.data() + copy * sums.size() + begin;
        for (int64_t k = 0; k < n; ++k) totals[k] += values[k];
      }
      cpu::store(totals.data(), dtype, data + begin * size_of(dtype), n);
    }
  });
  return result;
}

}  // namespace

void run_with_sums(const char* name, const cpu::Kernel& kernel, bool wide,
                   std::vector<Tensor>& outputs, at::TensorList inputs,
                   at::ArrayRef<at::ScalarType> dtypes, at::IntArrayRef summed) {
  const at::DimVector sizes = broadcast_sizes(inputs);
  std::vector<Sums> sums;
  std::vector<Tensor> expanded;
  for (int i = 0; i < kernel.outputs; ++i) {
    if (outputs[i].defined()) continue;
    sums.push_back({i, at::empty(kept_of(sizes, summed[i]), at::dtype(at::kDouble))});
    expanded.push_back(sums.back().layout.expand(sizes));
  }
  at::TensorIteratorConfig config;
  config.check_all_same_dtype(false);
  // By each operand of the kernel, outputs first, its place among the iterator's
  std::array<int, cpu::kMaxOperands> place;
  uint32_t mask = 0;
  int outputs_added = 0;
  for (int i = 0; i < kernel.outputs; ++i) {
    if (!outputs[i].defined()) continue;
    config.add_output(outputs[i]);
    place[i] = outputs_added++;
  }
  for (int i = 0; i < kernel.inputs; ++i) {
    config.add_const_input(inputs[i]);
    place[kernel.outputs + i] = outputs_added + i;
  }
  for (size_t i = 0; i < sums.size(); ++i) {
    config.add_const_input(expanded[i]);
    place[sums[i].output] = outputs_added + kernel.inputs + static_cast<int>(i);
    mask |= uint32_t(1) << sums[i].output;
  }
  at::TensorIterator iter = config.build();
  const int count = iter.ntensors();
  std::array<DType, cpu::kMaxOperands> types;
  for (int i = 0; i < count; ++i) types[i] = dtype_of(name, iter.dtype(place[i]));

  const Split split = split_of(iter, sums);
  for (size_t i = 0; i < sums.size(); ++i) {
    const int operand = place[sums[i].output];
    if (split.pieces > 1 && iter.strides(operand)[split.dim] == 0) sums[i].copies = split.pieces;
    sums[i].values.resize(sums[i].copies * sums[i].size());
  }
  const auto run = [&](at::TensorIterator& part, int64_t piece) {
    part.serial_for_each(
        [&](char** data, const int64_t* strides, int64_t size0, int64_t size1) {
          std::array<char*, cpu::kMaxOperands> own;
          std::array<int64_t, 2 * cpu::kMaxOperands> own_strides;
          for (int i = 0; i < count; ++i) {
            own[i] = data[place[i]];
            own_strides[i] = strides[place[i]];
            own_strides[count + i] = strides[count + place[i]];
          }
          for (Sums& each : sums) {
            const int64_t copy = each.copies > 1 ? piece : 0;
            char* const begin = reinterpret_cast<char*>(&each.values[copy * each.size()]);
            own[each.output] =
                begin + (own[each.output] - static_cast<char*>(each.layout.data_ptr()));
          }
          cpu::elementwise(kernel, wide, types.data(),
                           {own.data(), own_strides.data(), size0, size1}, mask);
        },
        {0, part.numel()});
  };
  if (iter.numel() > 0 && split.pieces <= 1) {
    run(iter, 0);
  } else if (iter.numel() > 0) {
    at::parallel_for(0, split.pieces, 1, [&](int64_t begin, int64_t end) {
      for (int64_t piece = begin; piece < end; ++piece) {
        at::TensorIterator part(iter);
        const int64_t first = piece * split.step;
        part.narrow(split.dim, first, std::min(split.step, iter.shape()[split.dim] - first));
        run(part, piece);
      }
    });
  }
  for (const Sums& each : sums) {
    outputs[each.output] = stored(name, each, inputs[0].options().dtype(dtypes[each.output]));
  }
}

#ifdef FUSEDGRAD_CUDA
void run_with_sums(const char* name, const cuda::FusedKernel& kernel,
                   at::ArrayRef<double> parameters, std::vector<Tensor>& outputs,
                   at::TensorList inputs, at::ArrayRef<at::ScalarType> dtypes,
                   at::IntArrayRef summed) {
  const at::DimVector sizes = broadcast_sizes(inputs);
  const at::Device device = common_device(inputs);
  at::TensorIteratorConfig config;
  config.check_all_same_dtype(false).check_all_same_device(false);
  std::vector<Tensor> expanded;
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (outputs[i].defined()) {
      config.add_output(outputs[i]);
      continue;
    }
    outputs[i] = at::empty(kept_of(sizes, summed[i]), at::device(device).dtype(dtypes[i]));
    expanded.push_back(outputs[i].expand(sizes));
  }
  if (c10::multiply_integers(sizes) == 0) {
    for (const Tensor& output : outputs) output.zero_();
    return;
  }
  for (const Tensor& input : inputs) config.add_const_input(input);
  for (const Tensor& sum : expanded) config.add_const_input(sum);
  launch_sums(
      name, config.build(),
      [&](const cuda::Elements& elements) {
        return cuda::workspace_bytes_over_dimensions(kernel, elements);
      },
      [&](const cuda::Elements& elements, void* workspace, int64_t bytes, cudaStream_t stream) {
        return cuda::launch_fused_over_dimensions(kernel, elements, parameters.data(),
                                                  static_cast<int>(parameters.size()), workspace,
                                                  bytes, stream);
      });
}
#endif

std::vector<Tensor> elementwise_with_sum(const SummableOverDimensions& operation,
                                         const std::vector<Tensor>& inputs, const Tensor& like,
                                         Tensor whole) {
  const at::DimVector sizes = broadcast_sizes(inputs);
  const auto outputs = static_cast<size_t>(operation.cpu.outputs);
  const at::ScalarType dtype = inputs[0].scalar_type();
  if (outputs > 1 && !whole.defined()) whole = empty_like(layout(inputs), inputs);
  std::vector<Tensor> results(outputs);
  if (outputs > 1) results[0] = whole;
  // Where it was not broadcast nothing is summed, one element each.
  std::vector<int64_t> summed(outputs);
  const auto own = static_cast<size_t>(like.dim());
  for (size_t dim = 0; dim < sizes.size(); ++dim) {
    const size_t place = sizes.size() - 1 - dim;  // from the last
    const bool is_broadcast = place >= own || like.sizes()[own - 1 - place] != sizes[dim];
    summed.back() |= static_cast<int64_t>(is_broadcast) << place;
  }
  const std::vector<at::ScalarType> dtypes(outputs, dtype);
#ifdef FUSEDGRAD_CUDA
  if (std::any_of(inputs.begin(), inputs.end(), [](const Tensor& t) { return t.is_cuda(); })) {
    run_with_sums(operation.name, operation.cuda_over_dimensions(dtype_of(operation.name, dtype)),
                  operation.cpu.parameters, results, inputs, dtypes, summed);
    results.back() = results.back().view(like.sizes());
    return results;
  }
#endif
  run_with_sums(operation.name, operation.cpu, dtype == at::kDouble, results, inputs, dtypes,
                summed);
  results.back() = results.back().view(like.sizes());
  return results;
}

}  // namespace fusedgrad::operators

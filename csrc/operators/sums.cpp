#include "operators/sums.h"

#include <ATen/ExpandUtils.h>
#include <ATen/Parallel.h>
#include <ATen/TensorIterator.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>

#include "cpu/walk.h"
#include "operators/elementwise.h"

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
  at::DimVector sizes;
  for (const Tensor& input : inputs) sizes = at::infer_size_dimvector(sizes, input.sizes());
  std::vector<Sums> sums;
  std::vector<Tensor> expanded;
  for (int i = 0; i < kernel.outputs; ++i) {
    if (outputs[i].defined()) continue;
    at::DimVector kept = sizes;
    for (size_t dim = 0; dim < sizes.size(); ++dim) {
      if (summed[i] >> (sizes.size() - 1 - dim) & 1) kept[dim] = 1;
    }
    sums.push_back({i, at::empty(kept, at::device(at::kCPU).dtype(at::kDouble))});
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

}  // namespace fusedgrad::operators

#include "cpu/products.h"

#include <algorithm>
#include <bit>
#include <type_traits>

namespace fusedgrad::cpu {
namespace {

// Elements at a time: the registers of a fifth order fit the first-level cache. The operands are
// copied there, since rows of many tensors of one size share few of the cache's sets.
template <class T>
constexpr int64_t kTile = 512 / sizeof(T);

constexpr int kMostRegisters = kMaxOperands + Program::kMostOrders + Program::kMostTemporaries;
template <class T>
using Registers = T[kMostRegisters][kTile<T>];

template <class T>
Block<T>* block_of(const Kernel& kernel) {
  if constexpr (std::is_same_v<T, double>) {
    return kernel.float64;
  } else {
    return kernel.float32;
  }
}

// Asks for the operands of the next tile, a few lines at a time: the steps take longer than a
// processor looks ahead.
template <class T>
class Prefetch {
 public:
  FUSEDGRAD_HOST_DEVICE Prefetch(const T* const* operands, int count, int64_t begin, size_t steps)
      : operands_(operands),
        count_(count),
        begin_(begin),
        at_once_(static_cast<int>((count * kLines + steps - 1) / steps)) {}

  FUSEDGRAD_HOST_DEVICE void some() {
    for (int i = 0; i < at_once_ && line_ < kLines; ++i) {
      __builtin_prefetch(operands_[operand_] + begin_ + line_ * (64 / sizeof(T)));
      if (++operand_ == count_) operand_ = 0, ++line_;
    }
  }

 private:
  static constexpr int kLines = 512 / 64;
  const T* const* operands_;
  int count_;
  int64_t begin_;
  int at_once_;
  int operand_ = 0;
  int line_ = 0;
};

// n is a multiple of sixteen, but the operands have `own` elements.
template <class T>
FUSEDGRAD_HOST_DEVICE void run_tile(const Products& products, Registers<T>& registers,
                                    T* const* outputs, const T* const* inputs, int64_t begin,
                                    int64_t own, int64_t n) {
  const Program& program = *products.program;
  for (int i = 0; i < program.factors; ++i) {
    for (int64_t k = 0; k < own; ++k) registers[i][k] = inputs[i][begin + k];
  }
  const T* const x = inputs[program.factors] + begin;
  int order = program.factors;
  for (const Kernel& kernel : products.derivatives) {
    T* targets[Program::kMostOrders];
    // Those beyond the last are overwritten by results.
    for (int i = 0; i < kernel.outputs; ++i) targets[i] = registers[order++];
    block_of<T>(kernel)(kernel.parameters.data(), targets, &x, own);
  }
  Prefetch<T> next(inputs, program.factors + 1, begin + kTile<T>, program.steps.size());
  for (const Program::Step& step : program.steps) {
    if (own == kTile<T>) next.some();
    T* __restrict__ const target = registers[step.target];
    const T* const first = registers[step.first];
    if (step.addend == Program::kNone) {
      const T* const second = registers[step.second];
      for (int64_t k = 0; k < n; ++k) target[k] = first[k] * second[k];
    } else if (step.second == Program::kNone) {
      const T* const addend = registers[step.addend];
      for (int64_t k = 0; k < n; ++k) target[k] = first[k] + addend[k];
    } else {
      const T *const second = registers[step.second], *const addend = registers[step.addend];
      for (int64_t k = 0; k < n; ++k) target[k] = math::fma(first[k], second[k], addend[k]);
    }
  }
  const int results = program.factors + program.orders;
  for (int i = 0; i < program.results; ++i) {
    T* __restrict__ const output = outputs[i] + begin;
    for (int64_t k = 0; k < own; ++k) output[k] = registers[results + i][k];
  }
}

template <class T>
struct Run {
  FUSEDGRAD_HOST_DEVICE static void body(const double* parameters, T* const* outputs,
                                         const T* const* inputs, int64_t size) {
    const Products& products = *std::bit_cast<const Products*>(parameters[0]);
    alignas(64) Registers<T> registers;
    int64_t begin = 0;
    for (; begin + kTile<T> <= size; begin += kTile<T>) {
      run_tile<T>(products, registers, outputs, inputs, begin, kTile<T>, kTile<T>);
    }
    const int64_t rest = size - begin;
    if (rest == 0) return;
    run_tile<T>(products, registers, outputs, inputs, begin, rest, (rest + 15) / 16 * 16);
  }

  FUSEDGRAD_TARGET_AVX512 static void avx512(const double* parameters, T* const* outputs,
                                             const T* const* inputs, int64_t n) {
    body(parameters, outputs, inputs, n);
  }
  FUSEDGRAD_TARGET_AVX2 static void avx2(const double* parameters, T* const* outputs,
                                         const T* const* inputs, int64_t n) {
    body(parameters, outputs, inputs, n);
  }
  FUSEDGRAD_TARGET_BASELINE static void baseline(const double* parameters, T* const* outputs,
                                                 const T* const* inputs, int64_t n) {
    body(parameters, outputs, inputs, n);
  }
  static Block<T>* chosen() { return choose<Block<T>>(baseline, avx2, avx512); }
};

}  // namespace

Kernel products_kernel(const Products& products) {
  const Program& program = *products.program;
  // The one way of a block to what it is made of
  return {program.results,
          program.factors + 1,
          Run<float>::chosen(),
          Run<double>::chosen(),
          {std::bit_cast<double>(&products)}};
}

}  // namespace fusedgrad::cpu

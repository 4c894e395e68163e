#include "cpu/walk.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <type_traits>
#include <vector>

#include "math/half.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fusedgrad::cpu {
namespace {

using math::BFloat16;
using math::Float16;

// Elements gathered at a time: a float block of each of five operands stays in the first-level
// cache, and the two indirect calls a block costs do not show.
constexpr int64_t kBlock = 512;

template <class T>
FUSEDGRAD_HOST_DEVICE T load(const char* address) {
  T value;
  __builtin_memcpy(&value, address, sizeof(T));
  return value;
}

template <class Stored, class Computed>
FUSEDGRAD_HOST_DEVICE Computed decode(Stored value) {
  if constexpr (std::is_same_v<Stored, Computed> || std::is_arithmetic_v<Stored>) {
    return static_cast<Computed>(value);
  } else {
    return static_cast<Computed>(math::to_float(value));
  }
}

FUSEDGRAD_HOST_DEVICE float rounded_to_odd(float value) { return value; }

// To float, towards the neighbour with an odd last bit if it is no float: rounded once more, to a
// half type, it is what rounding the double itself would give.
FUSEDGRAD_HOST_DEVICE float rounded_to_odd(double value) {
  const float nearest = static_cast<float>(value);
  const double back = static_cast<double>(nearest);
  const uint32_t away = math::abs(back) > math::abs(value);
  const uint32_t truncated = math::to_bits(nearest) - away;
  const bool exact = (back == value) | (value != value);
  return exact ? nearest : math::from_bits(truncated | 1);
}

template <class Stored, class Computed>
FUSEDGRAD_HOST_DEVICE Stored encode(Computed value) {
  if constexpr (std::is_same_v<Stored, Computed> || std::is_arithmetic_v<Stored>) {
    return static_cast<Stored>(value);
  } else {
    return math::from_float<Stored>(rounded_to_odd(value));
  }
}

// Moving n elements between a strided operand and a buffer in the computed type. The contiguous
// and the broadcast case stand apart, so that each becomes a vector loop.
template <class Stored, class Computed>
struct Move {
  FUSEDGRAD_HOST_DEVICE static void gather_body(const char* source, int64_t stride,
                                                Computed* __restrict__ buffer, int64_t n) {
    if (stride == sizeof(Stored)) {
      for (int64_t k = 0; k < n; ++k) {
        buffer[k] = decode<Stored, Computed>(load<Stored>(source + k * sizeof(Stored)));
      }
    } else if (stride == 0) {
      const Computed value = decode<Stored, Computed>(load<Stored>(source));
      for (int64_t k = 0; k < n; ++k) buffer[k] = value;
    } else {
      for (int64_t k = 0; k < n; ++k) {
        buffer[k] = decode<Stored, Computed>(load<Stored>(source + k * stride));
      }
    }
  }

  FUSEDGRAD_HOST_DEVICE static void scatter_body(const Computed* __restrict__ buffer, char* target,
                                                 int64_t stride, int64_t n) {
    if (stride == sizeof(Stored)) {
      for (int64_t k = 0; k < n; ++k) {
        const Stored value = encode<Stored, Computed>(buffer[k]);
        __builtin_memcpy(target + k * sizeof(Stored), &value, sizeof(Stored));
      }
    } else {
      for (int64_t k = 0; k < n; ++k) {
        const Stored value = encode<Stored, Computed>(buffer[k]);
        __builtin_memcpy(target + k * stride, &value, sizeof(Stored));
      }
    }
  }

  FUSEDGRAD_TARGET_AVX512 static void gather_avx512(const char* source, int64_t stride,
                                                    Computed* buffer, int64_t n) {
    gather_body(source, stride, buffer, n);
  }
  FUSEDGRAD_TARGET_AVX2 static void gather_avx2(const char* source, int64_t stride,
                                                Computed* buffer, int64_t n) {
    gather_body(source, stride, buffer, n);
  }
  FUSEDGRAD_TARGET_BASELINE static void gather_baseline(const char* source, int64_t stride,
                                                        Computed* buffer, int64_t n) {
    gather_body(source, stride, buffer, n);
  }
  FUSEDGRAD_TARGET_AVX512 static void scatter_avx512(const Computed* buffer, char* target,
                                                     int64_t stride, int64_t n) {
    scatter_body(buffer, target, stride, n);
  }
  FUSEDGRAD_TARGET_AVX2 static void scatter_avx2(const Computed* buffer, char* target,
                                                 int64_t stride, int64_t n) {
    scatter_body(buffer, target, stride, n);
  }
  FUSEDGRAD_TARGET_BASELINE static void scatter_baseline(const Computed* buffer, char* target,
                                                         int64_t stride, int64_t n) {
    scatter_body(buffer, target, stride, n);
  }
};

template <class Computed>
struct Mover {
  void (*gather)(const char* source, int64_t stride, Computed* buffer, int64_t n);
  void (*scatter)(const Computed* buffer, char* target, int64_t stride, int64_t n);
};

#if defined(__x86_64__)
// By instructions that GCC does not find, with the bits of math/half.h, which every processor with
// AVX2 has.
struct MoveFloat16 : Move<Float16, float> {
  FUSEDGRAD_TARGET_AVX2 static void gather(const char* source, int64_t stride, float* buffer,
                                           int64_t n) {
    int64_t k = 0;
    for (; stride == sizeof(Float16) && k + 8 <= n; k += 8) {
      const void* const eight = source + k * sizeof(Float16);
      const __m128i halves = _mm_loadu_si128(static_cast<const __m128i*>(eight));
      _mm256_storeu_ps(buffer + k, _mm256_cvtph_ps(halves));
    }
    gather_body(source + k * stride, stride, buffer + k, n - k);
  }

  FUSEDGRAD_TARGET_AVX2 static void scatter(const float* buffer, char* target, int64_t stride,
                                            int64_t n) {
    int64_t k = 0;
    for (; stride == sizeof(Float16) && k + 8 <= n; k += 8) {
      void* const eight = target + k * sizeof(Float16);
      const __m256 floats = _mm256_loadu_ps(buffer + k);
      _mm_storeu_si128(static_cast<__m128i*>(eight),
                       _mm256_cvtps_ph(floats, _MM_FROUND_TO_NEAREST_INT));
    }
    scatter_body(buffer + k, target + k * stride, stride, n - k);
  }

  using Wide = detail::HalvesInAvx512;

  FUSEDGRAD_TARGET_AVX512 static void gather_wide(const char* source, int64_t stride, float* buffer,
                                                  int64_t n) {
    int64_t k = 0;
    for (; stride == sizeof(Float16) && k + Wide::kTile <= n; k += Wide::kTile) {
      const void* const halves = source + k * sizeof(Float16);
      Wide::widen(static_cast<const Float16*>(halves), buffer + k);
    }
    gather_body(source + k * stride, stride, buffer + k, n - k);
  }

  FUSEDGRAD_TARGET_AVX512 static void scatter_wide(const float* buffer, char* target,
                                                   int64_t stride, int64_t n) {
    int64_t k = 0;
    for (; stride == sizeof(Float16) && k + Wide::kTile <= n; k += Wide::kTile) {
      void* const halves = target + k * sizeof(Float16);
      Wide::narrow(buffer + k, static_cast<Float16*>(halves));
    }
    scatter_body(buffer + k, target + k * stride, stride, n - k);
  }
};
#endif

template <class Stored, class Computed>
Mover<Computed> mover_of() {
  using M = Move<Stored, Computed>;
#if defined(__x86_64__)
  if constexpr (std::is_same_v<M, Move<Float16, float>>) {
    using F = MoveFloat16;
    return {choose(M::gather_baseline, F::gather, F::gather_wide),
            choose(M::scatter_baseline, F::scatter, F::scatter_wide)};
  }
#endif
  return {choose(M::gather_baseline, M::gather_avx2, M::gather_avx512),
          choose(M::scatter_baseline, M::scatter_avx2, M::scatter_avx512)};
}

// A kernel of a half type takes operands of its own type alone.
template <class T>
inline constexpr bool kIsHalf = !std::is_arithmetic_v<T>;

template <class Computed>
Mover<Computed> mover([[maybe_unused]] DType dtype) {
  if constexpr (kIsHalf<Computed>) {
    return mover_of<Computed, Computed>();
  } else {
    switch (dtype) {
      case DType::Float16:
        return mover_of<Float16, Computed>();
      case DType::BFloat16:
        return mover_of<BFloat16, Computed>();
      case DType::Float32:
        return mover_of<float, Computed>();
      default:
        return mover_of<double, Computed>();
    }
  }
}

// Sixteen running sums, so that the loop vectorises and no order is left to the compiler.
template <class T>
FUSEDGRAD_HOST_DEVICE double sum_body(const T* values, int64_t n) {
  constexpr int kLanes = 16;
  double lanes[kLanes] = {};
  int64_t k = 0;
  for (; k + kLanes <= n; k += kLanes) {
    for (int i = 0; i < kLanes; ++i) lanes[i] += static_cast<double>(values[k + i]);
  }
  for (int i = 0; k + i < n; ++i) lanes[i] += static_cast<double>(values[k + i]);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}
template <class T>
struct Sum {
  FUSEDGRAD_TARGET_AVX512 static double avx512(const T* v, int64_t n) { return sum_body(v, n); }
  FUSEDGRAD_TARGET_AVX2 static double avx2(const T* v, int64_t n) { return sum_body(v, n); }
  FUSEDGRAD_TARGET_BASELINE static double baseline(const T* v, int64_t n) { return sum_body(v, n); }
};

// Adds elements to doubles that are `stride` bytes apart.
template <class T>
FUSEDGRAD_HOST_DEVICE void add_body(const T* values, char* sums, int64_t stride, int64_t n) {
  if (stride == sizeof(double)) {
    double* const side_by_side = reinterpret_cast<double*>(sums);
    FUSEDGRAD_INDEPENDENT
    for (int64_t k = 0; k < n; ++k) side_by_side[k] += static_cast<double>(values[k]);
  } else {
    for (int64_t k = 0; k < n; ++k) {
      *reinterpret_cast<double*>(sums + k * stride) += static_cast<double>(values[k]);
    }
  }
}
template <class T>
struct Add {
  FUSEDGRAD_TARGET_AVX512 static void avx512(const T* v, char* sums, int64_t stride, int64_t n) {
    add_body(v, sums, stride, n);
  }
  FUSEDGRAD_TARGET_AVX2 static void avx2(const T* v, char* sums, int64_t stride, int64_t n) {
    add_body(v, sums, stride, n);
  }
  FUSEDGRAD_TARGET_BASELINE static void baseline(const T* v, char* sums, int64_t stride,
                                                 int64_t n) {
    add_body(v, sums, stride, n);
  }
};

// Adds a block to its sums, of which there is one where the stride is 0.
template <class T>
void accumulate(const T* values, char* sums, int64_t stride, int64_t n) {
  if (stride == 0) {
    const double sum = choose(Sum<T>::baseline, Sum<T>::avx2, Sum<T>::avx512)(values, n);
    *reinterpret_cast<double*>(sums) += sum;
  } else {
    choose(Add<T>::baseline, Add<T>::avx2, Add<T>::avx512)(values, sums, stride, n);
  }
}

template <class T>
FUSEDGRAD_HOST_DEVICE bool unit_body(const T* values, int64_t n) {
  int outside = 0;
  for (int64_t k = 0; k < n; ++k) outside |= !(values[k] >= T(0) && values[k] <= T(1));
  return outside == 0;
}
template <class T>
struct Unit {
  FUSEDGRAD_TARGET_AVX512 static bool avx512(const T* v, int64_t n) { return unit_body(v, n); }
  FUSEDGRAD_TARGET_AVX2 static bool avx2(const T* v, int64_t n) { return unit_body(v, n); }
  FUSEDGRAD_TARGET_BASELINE static bool baseline(const T* v, int64_t n) { return unit_body(v, n); }
};

template <class T>
using Buffers = T[kMaxOperands][kBlock];

// An operand along one row: where its elements stand, and whether the kernel can use them there.
template <class T>
struct Operand {
  Mover<T> mover;
  bool same_type;  // as it is computed in
  char* data;
  int64_t stride;
  bool direct;    // already side by side in the computed type
  bool sums;      // an output whose elements are added to doubles
  bool constant;  // what its buffer holds already: one element for the whole row, or one short row
};

template <class T>
Block<T>* block_of(const Kernel& kernel) {
  if constexpr (std::is_same_v<T, double>) {
    return kernel.float64;
  } else if constexpr (std::is_same_v<T, Float16>) {
    return kernel.float16;
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    return kernel.bfloat16;
  } else {
    return kernel.float32;
  }
}

// Runs the kernel along one row. `operands` holds `outputs` outputs (none: the first output stays
// in buffers[0]) and then the kernel's inputs; `done(results, n)` sees each block's first output.
template <class T, class Done>
void run_row(const Kernel& kernel, int64_t step, int outputs,
             const std::array<Operand<T>, kMaxOperands>& operands, int64_t size,
             Buffers<T>& buffers, const Done& done) {
  T* outs[kMaxOperands];
  const T* ins[kMaxOperands];
  Block<T>* const block = block_of<T>(kernel);
  for (int64_t begin = 0; begin < size; begin += step) {
    const int64_t n = std::min(step, size - begin);
    for (int i = 0; i < kernel.outputs; ++i) {
      const bool direct = i < outputs && operands[i].direct;
      outs[i] = direct ? reinterpret_cast<T*>(operands[i].data) + begin : buffers[i];
    }
    for (int i = 0; i < kernel.inputs; ++i) {
      const Operand<T>& operand = operands[outputs + i];
      T* buffer = buffers[kernel.outputs + i];
      if (operand.direct) {
        ins[i] = reinterpret_cast<const T*>(operand.data) + begin;
        continue;
      }
      ins[i] = buffer;
      if (!operand.constant) {
        operand.mover.gather(operand.data + begin * operand.stride, operand.stride, buffer, n);
      }
    }
    block(kernel.parameters.data(), outs, ins, n);
    for (int i = 0; i < outputs; ++i) {
      const Operand<T>& operand = operands[i];
      if (operand.sums) {
        if constexpr (!kIsHalf<T>) {
          accumulate(buffers[i], operand.data + begin * operand.stride, operand.stride, n);
        }
      } else if (!operand.direct) {
        operand.mover.scatter(buffers[i], operand.data + begin * operand.stride, operand.stride, n);
      }
    }
    done(outs[0], n);
  }
}

// Whether rows that are much shorter than a block follow one another in all operands, except in
// inputs of one row, which all others share.
template <class DTypeOf>
bool are_short_rows(const Rectangle& rectangle, int outputs, int count, const DTypeOf& dtype_of) {
  if (rectangle.size1 == 1 || 2 * rectangle.size0 > kBlock) return false;
  for (int i = 0; i < count; ++i) {
    const int64_t stride = rectangle.strides[i];
    const int64_t to_next_row = rectangle.strides[count + i];
    const bool follow = stride == size_of(dtype_of(i)) && to_next_row == rectangle.size0 * stride;
    if (!follow && (i < outputs || to_next_row != 0)) return false;
  }
  return true;
}

// dtype_of(i) is the element type of operand i.
template <class T, class DTypeOf, class Done>
void run(const Kernel& kernel, const DTypeOf& dtype_of, const Rectangle& rectangle, int outputs,
         const Done& done, uint32_t sums = 0) {
  alignas(64) Buffers<T> buffers;
  std::array<Operand<T>, kMaxOperands> operands;
  const int count = outputs + kernel.inputs;
  for (int i = 0; i < count; ++i) {
    operands[i].mover = mover<T>(dtype_of(i));
    operands[i].same_type = size_of(dtype_of(i)) == static_cast<int64_t>(sizeof(T));
  }
  if (sums == 0 && are_short_rows(rectangle, outputs, count, dtype_of)) {
    // Several rows at a time, for which an operand that has one alone is repeated in its buffer.
    const int64_t rows = kBlock / rectangle.size0;
    for (int i = 0; i < count; ++i) {
      Operand<T>& operand = operands[i];
      operand.data = rectangle.data[i];
      operand.stride = rectangle.strides[i];
      operand.sums = false;
      operand.constant = rectangle.strides[count + i] == 0;
      operand.direct = !operand.constant && operand.same_type;
      if (!operand.constant) continue;
      for (int64_t row = 0; row < std::min(rows, rectangle.size1); ++row) {
        operand.mover.gather(operand.data, operand.stride,
                             buffers[kernel.outputs + i - outputs] + row * rectangle.size0,
                             rectangle.size0);
      }
    }
    run_row<T>(kernel, rows * rectangle.size0, outputs, operands, rectangle.size0 * rectangle.size1,
               buffers, done);
    return;
  }
  for (int64_t row = 0; row < rectangle.size1; ++row) {
    bool whole = outputs == kernel.outputs;  // a whole row in one call, no buffer in use
    for (int i = 0; i < count; ++i) {
      Operand<T>& operand = operands[i];
      const int64_t stride = rectangle.strides[i];
      operand.data = rectangle.data[i] + row * rectangle.strides[count + i];
      operand.stride = stride;
      operand.sums = i < outputs && (sums >> i & 1);
      operand.direct = !operand.sums && operand.same_type &&
                       (stride == static_cast<int64_t>(sizeof(T)) || rectangle.size0 == 1);
      operand.constant = i >= outputs && stride == 0;
      whole &= operand.direct;
      if (operand.constant && !operand.direct && (row == 0 || rectangle.strides[count + i] != 0)) {
        operand.mover.gather(operand.data, 0, buffers[kernel.outputs + i - outputs],
                             std::min(kBlock, rectangle.size0));
      }
    }
    run_row<T>(kernel, whole ? rectangle.size0 : kBlock, outputs, operands, rectangle.size0,
               buffers, done);
  }
}

template <class T>
bool all_in_unit_interval_of(DType dtype, const char* data, int64_t stride, int64_t n) {
  T buffer[kBlock];
  const Mover<T> mover = fusedgrad::cpu::mover<T>(dtype);
  bool (*const inside)(const T*, int64_t) =
      choose(Unit<T>::baseline, Unit<T>::avx2, Unit<T>::avx512);
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t count = std::min(kBlock, n - begin);
    mover.gather(data + begin * stride, stride, buffer, count);
    if (!inside(buffer, count)) return false;
  }
  return true;
}

}  // namespace

void elementwise(const Kernel& kernel, DType dtype, const Rectangle& rectangle) {
  const auto nothing = [](const void*, int64_t) {};
  const auto dtype_of = [dtype](int) { return dtype; };
  if (dtype == DType::Float64) {
    run<double>(kernel, dtype_of, rectangle, kernel.outputs, nothing);
  } else if (dtype == DType::Float16 && kernel.float16 != nullptr) {
    run<Float16>(kernel, dtype_of, rectangle, kernel.outputs, nothing);
  } else if (dtype == DType::BFloat16 && kernel.bfloat16 != nullptr) {
    run<BFloat16>(kernel, dtype_of, rectangle, kernel.outputs, nothing);
  } else {
    Kernel own = kernel;
    if (dtype != DType::Float32) own.float32 = kernel.halves();
    run<float>(own, dtype_of, rectangle, kernel.outputs, nothing);
  }
}

void elementwise(const Kernel& kernel, bool wide, const DType* dtypes, const Rectangle& rectangle,
                 uint32_t sums) {
  static_assert(kMaxOperands <= 32, "each output has a bit of sums");
  const auto nothing = [](const void*, int64_t) {};
  const auto dtype_of = [dtypes](int i) { return dtypes[i]; };
  if (wide) {
    run<double>(kernel, dtype_of, rectangle, kernel.outputs, nothing, sums);
  } else {
    run<float>(kernel, dtype_of, rectangle, kernel.outputs, nothing, sums);
  }
}

void store(const double* values, DType dtype, void* target, int64_t n) {
  mover<double>(dtype).scatter(values, static_cast<char*>(target), size_of(dtype), n);
}

void sum_rows(DType dtype, const void* values, int64_t rows, int64_t columns, void* sums) {
  const auto gather = mover<double>(dtype).gather;
  const auto* row = static_cast<const char*>(values);
  std::vector<double> own(columns), totals(columns);
  for (int64_t i = 0; i < rows; ++i, row += columns * size_of(dtype)) {
    gather(row, size_of(dtype), own.data(), columns);
    accumulate(own.data(), reinterpret_cast<char*>(totals.data()), sizeof(double), columns);
  }
  store(totals.data(), dtype, sums, columns);
}

namespace {

template <class DTypeOf>
double sum_of(const Kernel& kernel, bool wide, const DTypeOf& dtype_of,
              const Rectangle& rectangle) {
  double total = 0;
  const auto add = [&]<class T>(const T* values, int64_t n) {
    total += choose(Sum<T>::baseline, Sum<T>::avx2, Sum<T>::avx512)(values, n);
  };
  if (wide) {
    run<double>(kernel, dtype_of, rectangle, 0, add);
  } else {
    run<float>(kernel, dtype_of, rectangle, 0, add);
  }
  return total;
}

}  // namespace

double sum(const Kernel& kernel, DType dtype, const Rectangle& rectangle) {
  return sum_of(kernel, dtype == DType::Float64, [dtype](int) { return dtype; }, rectangle);
}

double sum(const Kernel& kernel, bool wide, const DType* dtypes, const Rectangle& rectangle) {
  return sum_of(kernel, wide, [dtypes](int i) { return dtypes[i]; }, rectangle);
}

bool all_in_unit_interval(DType dtype, const char* data, int64_t stride, int64_t n) {
  return dtype == DType::Float64 ? all_in_unit_interval_of<double>(dtype, data, stride, n)
                                 : all_in_unit_interval_of<float>(dtype, data, stride, n);
}

}  // namespace fusedgrad::cpu

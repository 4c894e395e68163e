#include "accuracy/scan.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string_view>
#include <thread>

#include "accuracy/oracle.h"
#include "cpu/logistic_loss.h"
#include "cpu/pow.h"
#include "cpu/unary.h"
#include "math/half.h"

FUSEDGRAD_DECLARE_UNARY_KERNELS(sigmoid)
FUSEDGRAD_DECLARE_UNARY_KERNELS(tanh)

namespace fusedgrad::accuracy {
namespace {

struct Function {
  const char* name;
  cpu::Kernel (*kernel)(double parameter);
  // What the kernel's inputs are: x, the parameter p, or a constant 1 or 0 (-0, which added to a
  // zero leaves its sign).
  std::string_view operands;
  int output;
  double (*double_oracle)(double x, double parameter);
  long double (*long_double_oracle)(long double x, long double parameter);
};

#define FUNCTION(name, kernel, operands, output, exact)                   \
  {name,                                                                  \
   [](double parameter) { return static_cast<void>(parameter), kernel; }, \
   operands,                                                              \
   output,                                                                \
   oracle::exact<double>,                                                 \
   oracle::exact<long double>}

const Function kFunctions[] = {
    FUNCTION("sigmoid", cpu::sigmoid(), "x", 0, sigmoid),
    FUNCTION("sigmoid_derivative", cpu::sigmoid_backward(1), "1x", 0, sigmoid_derivative),
    FUNCTION("sigmoid_second_derivative", cpu::sigmoid_double_backward(1), "11x", 1,
             sigmoid_second_derivative),
    FUNCTION("tanh", cpu::tanh(), "x", 0, tanh),
    FUNCTION("tanh_derivative", cpu::tanh_backward(1), "1x", 0, tanh_derivative),
    FUNCTION("tanh_second_derivative", cpu::tanh_double_backward(1), "11x", 1,
             tanh_second_derivative),
    FUNCTION("pow_scalar", cpu::pow_scalar(parameter), "x", 0, pow),
    FUNCTION("pow_scalar_base_derivative", cpu::pow_scalar_backward(parameter, 1), "1x", 0,
             pow_base_derivative),
    FUNCTION("pow_scalar_base_second_derivative", cpu::pow_scalar_double_backward(parameter, 1),
             "11x", 1, pow_base_second_derivative),
    FUNCTION("pow", cpu::pow(), "xp", 0, pow),
    FUNCTION("pow_base_derivative", cpu::pow_backward_input(), "1xp", 0, pow_base_derivative),
    FUNCTION("pow_base_second_derivative", cpu::pow_double_backward(), "101xp", 1,
             pow_base_second_derivative),
    FUNCTION("pow_exponent_derivative", cpu::pow_backward_exponent(), "1xp", 0,
             pow_exponent_derivative),
    FUNCTION("pow_mixed_derivative", cpu::pow_double_backward(), "101xp", 2, pow_mixed_derivative),
    FUNCTION("pow_exponent_second_derivative", cpu::pow_double_backward(), "011xp", 2,
             pow_exponent_second_derivative),
    FUNCTION("binary_cross_entropy_with_logits", cpu::binary_cross_entropy_with_logits(), "xp", 0,
             binary_cross_entropy_with_logits),
    FUNCTION("binary_cross_entropy_with_logits_derivative",
             cpu::binary_cross_entropy_with_logits_backward(1), "1xp", 0,
             binary_cross_entropy_with_logits_derivative),
    FUNCTION("binary_cross_entropy_with_logits_second_derivative",
             cpu::binary_cross_entropy_with_logits_double_backward(1), "11xp11", 1,
             binary_cross_entropy_with_logits_second_derivative),
    FUNCTION("binary_cross_entropy", cpu::binary_cross_entropy(), "xp", 0, binary_cross_entropy),
    FUNCTION("binary_cross_entropy_derivative", cpu::binary_cross_entropy_backward(1), "1xp", 0,
             binary_cross_entropy_derivative),
    FUNCTION("binary_cross_entropy_second_derivative", cpu::binary_cross_entropy_double_backward(1),
             "11xp1", 1, binary_cross_entropy_second_derivative),
};

#undef FUNCTION

const Function& find(const std::string& name) {
  for (const Function& function : kFunctions) {
    if (name == function.name) return function;
  }
  throw std::invalid_argument("no function named '" + name + "' can be scanned");
}

// An element type: the numbers it holds, and the type it is computed in and compared with.
struct Float64 {
  using Bits = uint64_t;
  using Compute = double;
  using Wide = long double;
  static constexpr int kPrecision = 53, kLeastExponent = -1021, kGreatestExponent = 1024;
  static double load(Bits bits) { return __builtin_bit_cast(double, bits); }
  static Bits store(double x) { return __builtin_bit_cast(Bits, x); }
  static long double exact(const Function& f, double x, double parameter) {
    return f.long_double_oracle(x, parameter);
  }
};

template <class Stored, class StoredBits, int precision, int least, int greatest>
struct ComputedInFloat {
  using Bits = StoredBits;
  using Compute = float;
  using Wide = double;
  static constexpr int kPrecision = precision, kLeastExponent = least, kGreatestExponent = greatest;
  static double exact(const Function& f, float x, double parameter) {
    return f.double_oracle(x, static_cast<float>(parameter));
  }
};

struct Float32 : ComputedInFloat<float, uint32_t, 24, -125, 128> {
  static float load(Bits bits) { return __builtin_bit_cast(float, bits); }
  static Bits store(float x) { return __builtin_bit_cast(Bits, x); }
};

template <class H, int precision, int least, int greatest>
struct HalfType : ComputedInFloat<H, uint16_t, precision, least, greatest> {
  using Half = H;
  static cpu::Block<Half>* block(const cpu::Kernel& kernel) {
    if constexpr (std::is_same_v<Half, math::Float16>) {
      return kernel.float16;
    } else {
      return kernel.bfloat16;
    }
  }
  static float load(uint16_t bits) { return math::to_float(Half{bits}); }
  static uint16_t store(float x) { return math::from_float<Half>(x).bits; }
};
using Float16 = HalfType<math::Float16, 11, -13, 16>;
using BFloat16 = HalfType<math::BFloat16, 8, -125, 128>;

template <class Body>
auto with_type(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::Float64:
      return body(Float64());
    case DType::Float32:
      return body(Float32());
    case DType::Float16:
      return body(Float16());
    case DType::BFloat16:
      return body(BFloat16());
  }
  throw std::invalid_argument("no such dtype");
}

void merge(Errors& total, const Errors& part) {
  const bool worse =
      part.wrong > 0 ? total.wrong == 0 : total.wrong == 0 && (part.max_ulp > total.max_ulp);
  const int64_t count = total.count + part.count;
  const int64_t misrounded = total.misrounded + part.misrounded;
  const int64_t wrong = total.wrong + part.wrong;
  const double max_ulp = std::max(total.max_ulp, part.max_ulp);
  if (worse) total = part;
  total.count = count;
  total.misrounded = misrounded;
  total.wrong = wrong;
  total.max_ulp = max_ulp;
}

// size < 2^exponent, the least such for a normal number, without the C library's calls: an
// exhaustive scan spends its time here.
int exponent_of(double size) {
  return static_cast<int>(__builtin_bit_cast(uint64_t, size) >> 52) - 1022;
}
int exponent_of(long double size) { return std::ilogb(size) + 1; }

double scaled(double x, int exponent) {
  return x * __builtin_bit_cast(double, static_cast<uint64_t>(exponent + 1023) << 52);
}
double scaled(long double x, int exponent) { return static_cast<double>(std::ldexp(x, exponent)); }

template <class Type>
void compare(Errors& errors, double x, double parameter, typename Type::Compute got,
             typename Type::Wide want) {
  using Wide = typename Type::Wide;
  static const Wide kOverflow = std::ldexp(Wide(1), Type::kGreatestExponent);
  ++errors.count;
  const auto witness = [&] {
    errors.input = x;
    errors.parameter = parameter;
    errors.got = got;
    errors.want = static_cast<double>(want);
  };
  const bool same_kind = std::isnan(want)   ? std::isnan(got)
                         : std::isinf(want) ? std::isinf(got)
                         : want == 0        ? got == 0
                                            : !std::isnan(got);
  if (!same_kind || (!std::isnan(want) && std::signbit(got) != std::signbit(want))) {
    if (errors.wrong++ == 0) witness();
    return;
  }
  if (want == 0 || std::isnan(want) || std::isinf(want)) return;
  // Beyond the greatest number lies the one that rounds to infinity.
  const Wide size = std::min(std::fabs(want), kOverflow);
  const Wide result = std::min(std::fabs(static_cast<Wide>(got)), kOverflow);
  const int exponent = std::clamp(exponent_of(size), Type::kLeastExponent, Type::kGreatestExponent);
  const double ulp =
      scaled(result > size ? result - size : size - result, Type::kPrecision - exponent);
  if (ulp > 0.5) ++errors.misrounded;
  if (ulp > errors.max_ulp) {
    errors.max_ulp = ulp;
    if (errors.wrong == 0) witness();
  }
}

constexpr int64_t kBlock = 1024;

// As below, by a kernel's own loop over the type
template <class Type>
void evaluate_halves(const Function& function, const cpu::Kernel& kernel,
                     cpu::Block<typename Type::Half>* block,
                     const std::array<const float*, 8>& floats, int64_t n, float* result) {
  using Half = typename Type::Half;
  std::vector<Half> halves(11 * kBlock);
  std::array<Half*, 3> outputs;
  std::array<const Half*, 8> inputs;
  for (size_t i = 0; i < outputs.size(); ++i) outputs[i] = &halves[i * kBlock];
  for (size_t i = 0; i < function.operands.size(); ++i) {
    Half* const input = &halves[(outputs.size() + i) * kBlock];
    for (int64_t k = 0; k < n; ++k) input[k] = math::from_float<Half>(floats[i][k]);
    inputs[i] = input;
  }
  block(kernel.parameters.data(), outputs.data(), inputs.data(), n);
  for (int64_t k = 0; k < n; ++k) result[k] = math::to_float(outputs[function.output][k]);
}

// The kernel's results for a block of at most kBlock elements.
template <class Type, class Compute>
void evaluate(const Function& function, const cpu::Kernel& kernel, const Compute* x,
              const Compute* parameters, int64_t n, Compute* result) {
  static const std::vector<Compute> zeros(kBlock, -Compute(0)), ones(kBlock, Compute(1));
  std::array<const Compute*, 8> inputs;
  for (size_t i = 0; i < function.operands.size(); ++i) {
    const char operand = function.operands[i];
    inputs[i] = operand == 'x'   ? x
                : operand == 'p' ? parameters
                : operand == '1' ? ones.data()
                                 : zeros.data();
  }
  std::vector<Compute> others(3 * kBlock);
  std::array<Compute*, 3> outputs{&others[0], &others[kBlock], &others[2 * kBlock]};
  outputs[function.output] = result;
  if constexpr (std::is_same_v<Compute, double>) {
    kernel.float64(kernel.parameters.data(), outputs.data(), inputs.data(), n);
  } else {
    if constexpr (sizeof(typename Type::Bits) < sizeof(float)) {
      if (auto* const block = Type::block(kernel)) {
        evaluate_halves<Type>(function, kernel, block, inputs, n, result);
      } else {
        kernel.halves()(kernel.parameters.data(), outputs.data(), inputs.data(), n);
      }
    } else {
      kernel.float32(kernel.parameters.data(), outputs.data(), inputs.data(), n);
    }
  }
}

// x(i) and parameter(i), 0 <= i < n
template <class Type, class X, class Parameter>
Errors scan_kernel(const Function& function, const cpu::Kernel& kernel, int64_t n, const X& x_of,
                   const Parameter& parameter_of) {
  using Compute = typename Type::Compute;
  Errors errors;
  Compute x[kBlock], parameters[kBlock], results[kBlock];
  const bool takes_parameter = function.operands.find('p') != std::string_view::npos;
  for (int64_t start = 0; start < n; start += kBlock) {
    const int64_t count = std::min(kBlock, n - start);
    for (int64_t i = 0; i < count; ++i) {
      x[i] = Type::load(x_of(start + i));
      parameters[i] = static_cast<Compute>(parameter_of(start + i));
      if (takes_parameter) parameters[i] = Type::load(Type::store(parameters[i]));
    }
    evaluate<Type>(function, kernel, x, parameters, count, results);
    for (int64_t i = 0; i < count; ++i) {
      compare<Type>(
          errors, x[i], parameters[i], Type::load(Type::store(results[i])),
          Type::exact(function, x[i], takes_parameter ? parameters[i] : parameter_of(start + i)));
    }
  }
  return errors;
}

}  // namespace

std::vector<std::string> names() {
  std::vector<std::string> result;
  for (const Function& function : kFunctions) result.push_back(function.name);
  return result;
}

Errors scan(const std::string& name, DType dtype, uint64_t begin, uint64_t end, uint64_t stride,
            double parameter, int threads) {
  const Function& function = find(name);
  const cpu::Kernel kernel = function.kernel(parameter);
  if (stride == 0) throw std::invalid_argument("stride must be positive");
  if (threads <= 0) threads = static_cast<int>(std::thread::hardware_concurrency());
  const int64_t n = begin < end ? static_cast<int64_t>((end - begin - 1) / stride + 1) : 0;
  return with_type(dtype, [&](auto type) {
    using Type = decltype(type);
    std::vector<Errors> parts(threads);
    std::vector<std::thread> pool;
    for (int t = 0; t < threads; ++t) {
      pool.emplace_back([&, t] {
        const int64_t first = n / threads * t + std::min<int64_t>(t, n % threads);
        const int64_t count = n / threads + (t < n % threads);
        const uint64_t start = begin + first * stride;
        parts[t] = scan_kernel<Type>(
            function, kernel, count,
            [&](int64_t i) { return static_cast<typename Type::Bits>(start + i * stride); },
            [&](int64_t) { return parameter; });
      });
    }
    for (std::thread& thread : pool) thread.join();
    Errors errors;
    for (const Errors& part : parts) merge(errors, part);
    return errors;
  });
}

Errors scan_samples(const std::string& name, DType dtype, const void* inputs,
                    const double* parameters, int64_t n) {
  const Function& function = find(name);
  return with_type(dtype, [&](auto type) {
    using Type = decltype(type);
    const auto* bits = static_cast<const typename Type::Bits*>(inputs);
    return scan_kernel<Type>(
        function, function.kernel(parameters[0]), n, [&](int64_t i) { return bits[i]; },
        [&](int64_t i) { return parameters[i]; });
  });
}

Errors ulp_errors(const std::string& name, DType dtype, const void* inputs,
                  const double* parameters, const void* results, int64_t n) {
  const Function& function = find(name);
  return with_type(dtype, [&](auto type) {
    using Type = decltype(type);
    const auto* x = static_cast<const typename Type::Bits*>(inputs);
    const auto* got = static_cast<const typename Type::Bits*>(results);
    Errors errors;
    for (int64_t i = 0; i < n; ++i) {
      const double parameter = parameters == nullptr ? 0 : parameters[i];
      const auto input = Type::load(x[i]);
      compare<Type>(errors, input, parameter, Type::load(got[i]),
                    Type::exact(function, input, parameter));
    }
    return errors;
  });
}

}  // namespace fusedgrad::accuracy

#include "cpu/pow.h"

#include <ATen/Dispatch.h>
#include <ATen/ScalarOps.h>
#include <ATen/native/TypeProperties.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/result_type.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <cmath>
#include <limits>

#include "math/power_derivatives.h"
#include "operators/binary.h"
#include "operators/layout.h"
#include "operators/sums.h"
#include "operators/unary.h"

namespace fusedgrad::operators {
namespace {

struct OfNumber {
  static constexpr const char* kName = "pow";
  static constexpr const char* kOverload = "Tensor_Scalar";
  static constexpr const char* kNode = "PowScalar";
  static constexpr const char* kProducts = "fusedgrad::pow_products";
  static constexpr int64_t kMostOrder = std::numeric_limits<int64_t>::max();

  static Operation backward(const at::Scalar& exponent, double order) {
    return FUSEDGRAD_OPERATION(pow_scalar_backward, exponent.toDouble(), order);
  }
  static Operation double_backward(const at::Scalar& exponent, double order) {
    return FUSEDGRAD_OPERATION(pow_scalar_double_backward, exponent.toDouble(), order);
  }
  static Operation triple_backward(const at::Scalar& exponent, double order) {
    return FUSEDGRAD_OPERATION(pow_scalar_triple_backward, exponent.toDouble(), order);
  }
  static cpu::Kernel derivatives(const at::Scalar& exponent, double order) {
    return cpu::pow_scalar_derivatives(exponent.toDouble(), order);
  }
};
using PowerOfNumber = Family<OfNumber, at::Scalar>;

const auto& backward_operator() {
  static const auto found =
      find<std::vector<Tensor>(const Tensor&, const Tensor&, const Tensor&, std::array<bool, 2>)>(
          "fusedgrad::pow_backward", "Tensor_Tensor");
  return found;
}

const auto& double_backward_operator() {
  static const auto found = find<std::tuple<Tensor, Tensor, Tensor>(
      const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&)>(
      "fusedgrad::pow_double_backward", "Tensor_Tensor");
  return found;
}

// The gradients of x^e that are wanted, at the broadcast shape, or of their operands' if `summed`
std::vector<Tensor> pow_gradients(const Tensor& grad, const Tensor& input, const Tensor& exponent,
                                  std::array<bool, 2> wanted, bool summed) {
  const std::vector<Tensor> inputs = {grad, input, exponent};
  // where(exponent == 0, 0, grad * (exponent * input**(exponent - 1)))
  const auto for_input = [&] {
    const Tensor power = layout({input, layout({exponent})});
    return layout({layout({exponent}), layout({grad, layout({exponent, power})})});
  };
  // grad * where((input == 0) & (exponent >= 0), 0, result * log(input))
  const auto for_exponent = [&] {
    const Tensor condition = layout({layout({input}), layout({exponent})});
    const Tensor product = layout({layout({input, exponent}), layout({input})});
    return layout({grad, layout({condition, product})});
  };
  const bool sums_input = summed && input.sizes() != grad.sizes();
  const bool sums_exponent = summed && exponent.sizes() != grad.sizes();
  if (wanted[0] && wanted[1] && !sums_input) {
    const auto both = FUSEDGRAD_SUMMABLE_OVER_DIMENSIONS(pow_backward);
    const Tensor first = empty_as(for_input, inputs);
    if (sums_exponent) return elementwise_with_sum(both, inputs, exponent, first);
    auto [by_input, by_exponent] =
        elementwise<2>(both, {first, empty_as(for_exponent, inputs)}, inputs);
    return {std::move(by_input), std::move(by_exponent)};
  }
  const auto by = [&](const SummableOverDimensions& operation, const Tensor& operand, bool sums,
                      c10::function_ref<Tensor()> lies) {
    if (sums) return elementwise_with_sum(operation, inputs, operand)[0];
    return elementwise(operation, inputs, empty_as(lies, inputs));
  };
  std::vector<Tensor> results;
  if (wanted[0]) {
    results.push_back(
        by(FUSEDGRAD_SUMMABLE_OVER_DIMENSIONS(pow_backward_input), input, sums_input, for_input));
  }
  if (wanted[1]) {
    results.push_back(by(FUSEDGRAD_SUMMABLE_OVER_DIMENSIONS(pow_backward_exponent), exponent,
                         sums_exponent, for_exponent));
  }
  return results;
}

struct OfTensor {
  static constexpr const char* kName = "pow";
  static constexpr const char* kSecond = "exponent";
  static constexpr const char* kNode = "Pow";
  static constexpr int64_t kMost = math::PowDerivative<float>::kMost;

  static Operation derivative(double by_input, double by_exponent) {
    return FUSEDGRAD_OPERATION(pow_derivative, by_input, by_exponent);
  }
  static Operation derivative_backward(double by_input, double by_exponent) {
    return FUSEDGRAD_OPERATION(pow_derivative_backward, by_input, by_exponent);
  }

  // Of x^e itself, and of a factor times a first derivative: those of the second order have a
  // kernel of their own, which is kinder to their digits.
  static variable_list own_gradients(const Tensor& grad, const variable_list& operands,
                                     const Parameters& parameters, const std::vector<bool>& mask) {
    const Tensor &x = operands[operands.size() - 2], &e = operands.back();
    if (operands.size() == 2) {
      return spread(backward_operator().call(grad, x, e, {mask[0], mask[1]}), mask);
    }
    const int64_t by_x = parameters.order, by_e = parameters.number.toLong();
    if (by_x + by_e != 1 || is_differentiated({grad, operands[0], x, e})) return {};
    const Tensor none = at::zeros({}, grad.options());
    auto [by_factor, by_input, by_exponent] = double_backward_operator().call(
        by_x == 1 ? grad : none, by_e == 1 ? grad : none, operands[0], x, e);
    return {by_factor, by_input, by_exponent};
  }

  static variable_list summed_gradients(const Tensor& grad, const variable_list& operands,
                                        const Parameters&, const std::vector<bool>& mask) {
    if (operands.size() != 2) return {};
    return spread(
        pow_gradients(grad, operands[0], operands[1], {mask[0], mask[1]}, /*summed=*/true), mask);
  }
};
using PowerOfTensor = BinaryFamily<OfTensor>;

bool has_kernel(at::ScalarType type) { return at::isFloatingType(type); }

// at::result_type, which costs a tenth of a call on one element
at::ScalarType type_of(const Tensor& input, const Tensor& exponent) {
  const at::ScalarType type = input.scalar_type();
  return type == exponent.scalar_type() ? type : at::result_type(input, exponent);
}

at::ScalarType type_of(const Tensor& input, const at::Scalar& exponent) {
  const at::ScalarType type = input.scalar_type();
  return has_kernel(type) && !exponent.isComplex() ? type : at::result_type(input, exponent);
}

Tensor converted(const Tensor& tensor, at::ScalarType type) {
  return tensor.scalar_type() == type ? tensor : tensor.to(type);
}

// A number as PyTorch casts it: infinite where it overflows, for which at::scalar_tensor raises
Tensor as_tensor(const at::Scalar& number, at::TensorOptions options) {
  const at::ScalarType type = c10::typeMetaToScalarType(options.dtype());
  const bool overflows = number.isFloatingPoint() || at::isReducedFloatingType(type);
  if (overflows && has_kernel(type)) return rounded(number.toDouble(), options);
  return at::scalar_tensor(number, options);
}

void pow_tensor_scalar_out(const Tensor& input, const at::Scalar& exponent, Tensor out) {
  const at::ScalarType type = type_of(input, exponent);
  if (has_kernel(type)) {
    elementwise(FUSEDGRAD_OPERATION(pow_scalar, exponent.toDouble()), converted(input, type), out);
  } else {
    at::pow_out(out, input, exponent);
  }
}

void pow_tensor_tensor_out(const Tensor& input, const Tensor& exponent, Tensor out) {
  if (has_kernel(type_of(input, exponent))) {
    elementwise(FUSEDGRAD_OPERATION(pow), {input, exponent}, out);
  } else {
    at::pow_out(out, input, exponent);
  }
}

// PyTorch's own promotion and integer arithmetic where the result is not floating point.
Tensor pow_tensor_scalar(const Tensor& input, const at::Scalar& exponent) {
  const at::ScalarType type = type_of(input, exponent);
  if (!has_kernel(type)) return at::pow(input, exponent);
  return elementwise(FUSEDGRAD_OPERATION(pow_scalar, exponent.toDouble()), converted(input, type));
}

Tensor pow_tensor_tensor(const Tensor& input, const Tensor& exponent) {
  if (!has_kernel(type_of(input, exponent))) return at::pow(input, exponent);
  return elementwise(FUSEDGRAD_OPERATION(pow), {input, exponent});
}

// A Python number takes part in type promotion as a number, not as a tensor.
Tensor pow_scalar(const at::Scalar& input, const Tensor& exponent) {
  const at::ScalarType type = type_of(exponent, input);
  if (type == exponent.scalar_type() && has_kernel(type)) {
    return pow_tensor_tensor(as_tensor(input, exponent.options().device(at::kCPU)), exponent);
  }
  return pow_tensor_tensor(at::native::wrapped_scalar_tensor(input), exponent);
}

void pow_scalar_out(const at::Scalar& input, const Tensor& exponent, Tensor out) {
  pow_tensor_tensor_out(at::native::wrapped_scalar_tensor(input), exponent, out);
}

std::vector<Tensor> pow_backward_tensor_tensor(const Tensor& grad, const Tensor& input,
                                               const Tensor& exponent,
                                               std::array<bool, 2> output_mask) {
  if (input.is_complex()) {
    return by_formula(backward_operator(), grad, input, exponent, output_mask);
  }
  return pow_gradients(grad, input, exponent, output_mask, /*summed=*/false);
}

std::tuple<Tensor, Tensor, Tensor> pow_double_backward_tensor_tensor(
    const Tensor& grad_grad_input, const Tensor& grad_grad_exponent, const Tensor& grad,
    const Tensor& input, const Tensor& exponent) {
  if (input.is_complex()) {
    return by_formula(double_backward_operator(), grad_grad_input, grad_grad_exponent, grad, input,
                      exponent);
  }
  return std::tuple_cat(
      elementwise<3>(FUSEDGRAD_OPERATION(pow_double_backward), {},
                     {grad_grad_input, grad_grad_exponent, grad, input, exponent}));
}

const auto& scalar_operator() {
  static const auto found =
      find<Tensor(const at::Scalar&, const Tensor&)>("fusedgrad::pow", "Scalar");
  return found;
}

bool overflows(double number, at::ScalarType type) {
  return AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, type, "pow", [number] {
    const auto rounded = static_cast<double>(static_cast<scalar_t>(number));
    return std::isinf(rounded) && !std::isinf(number);
  });
}

// Of a number that the dtype has as infinity. As in PyTorch, the logarithm is its own: the
// derivative at an exponent 0 is finite.
constexpr Rule kOfOverflowing{
    "PowOverflowing", 1,
    [](const Tensor& grad, const variable_list& operands, const Parameters& parameters,
       const std::vector<bool>&) -> variable_list {
      const Tensor power = scalar_operator().call(parameters.number, operands[0]);
      return {grad * (power * std::log(parameters.number.toDouble()))};
    }};

// Under autograd: x^e, for operands of the type of the result

bool is_differentiable(at::ScalarType type) {
  return at::isFloatingType(type) || at::isComplexType(type);
}

Tensor recorded_tensor_scalar(const Tensor& input, const at::Scalar& exponent) {
  static const auto op =
      find<Tensor(const Tensor&, const at::Scalar&)>("fusedgrad::pow", "Tensor_Scalar");
  const at::ScalarType type = type_of(input, exponent);
  if (!is_differentiable(type)) return below_autograd([&] { return op.call(input, exponent); });
  const Tensor x = converted(input, type);
  return recorded(below_autograd([&] { return op.call(x, exponent); }), PowerOfNumber::kRule, x,
                  {exponent});
}

Tensor recorded_tensor_tensor(const Tensor& input, const Tensor& exponent) {
  static const auto op =
      find<Tensor(const Tensor&, const Tensor&)>("fusedgrad::pow", "Tensor_Tensor");
  const at::ScalarType type = type_of(input, exponent);
  if (!is_differentiable(type)) return below_autograd([&] { return op.call(input, exponent); });
  const Tensor x = converted(input, type), e = converted(exponent, type);
  return recorded(below_autograd([&] { return op.call(x, e); }), PowerOfTensor::kRule, {x, e});
}

Tensor recorded_scalar(const at::Scalar& input, const Tensor& exponent) {
  const at::ScalarType type = type_of(exponent, input);
  if (!is_differentiable(type)) {
    return below_autograd([&] { return scalar_operator().call(input, exponent); });
  }
  const Tensor e = converted(exponent, type);
  if (at::isFloatingType(type) && overflows(input.toDouble(), type)) {
    return recorded(below_autograd([&] { return scalar_operator().call(input, e); }),
                    kOfOverflowing, e, {input});
  }
  at::TensorOptions options = e.options();
  const bool is_ordinary = !is_transformed() && !e.unsafeGetTensorImpl()->is_python_dispatch();
  if (e.is_cuda() && is_ordinary) options = options.device(at::kCPU);  // kernels are handed it
  return recorded_tensor_tensor(as_tensor(input, options), e);
}

std::vector<Tensor> recorded_backward(const Tensor& grad, const Tensor& input,
                                      const Tensor& exponent, std::array<bool, 2> output_mask) {
  std::vector<Tensor> results =
      below_autograd([&] { return backward_operator().call(grad, input, exponent, output_mask); });
  size_t next = 0;
  for (int64_t by_exponent = 0; by_exponent < 2; ++by_exponent) {
    if (!output_mask[by_exponent]) continue;
    results[next] = recorded(results[next], PowerOfTensor::kRule, {grad, input, exponent},
                             PowerOfTensor::parameters(1 - by_exponent, by_exponent));
    ++next;
  }
  return results;
}

std::tuple<Tensor, Tensor, Tensor> recorded_double_backward(const Tensor& grad_grad_input,
                                                            const Tensor& grad_grad_exponent,
                                                            const Tensor& grad, const Tensor& input,
                                                            const Tensor& exponent) {
  if (!is_differentiated({grad_grad_input, grad_grad_exponent, grad, input, exponent})) {
    return below_autograd([&] {
      return double_backward_operator().call(grad_grad_input, grad_grad_exponent, grad, input,
                                             exponent);
    });
  }
  const Tensor along_input = conjugate(grad_grad_input),
               along_exponent = conjugate(grad_grad_exponent);
  const auto sum = [&](const Tensor& v, const Tensor& w, int64_t by_input, int64_t by_exponent) {
    return PowerOfTensor::derivative(v, input, exponent, by_input + 1, by_exponent) +
           PowerOfTensor::derivative(w, input, exponent, by_input, by_exponent + 1);
  };
  const Tensor v = along_input * grad, w = along_exponent * grad;
  return {conjugate(sum(along_input, along_exponent, 0, 0)), sum(v, w, 1, 0), sum(v, w, 0, 1)};
}

struct Pow {
  static void define(torch::Library& m) {
    m.def("pow.Tensor_Scalar(Tensor input, Scalar exponent) -> Tensor");
    m.def("pow.Tensor_Tensor(Tensor input, Tensor exponent) -> Tensor");
    m.def("pow.Scalar(Scalar input, Tensor exponent) -> Tensor");
    m.def("pow.Tensor_Scalar_out(Tensor input, Scalar exponent, *, Tensor(a!) out) -> ()");
    m.def("pow.Tensor_Tensor_out(Tensor input, Tensor exponent, *, Tensor(a!) out) -> ()");
    m.def("pow.Scalar_out(Scalar input, Tensor exponent, *, Tensor(a!) out) -> ()");
    PowerOfNumber::define(m);
    m.def(
        "pow_backward.Tensor_Tensor(Tensor grad, Tensor input, Tensor exponent,"
        " bool[2] output_mask) -> Tensor[]");
    m.def(
        "pow_double_backward.Tensor_Tensor(Tensor grad_grad_input, Tensor grad_grad_exponent,"
        " Tensor grad, Tensor input, Tensor exponent) -> (Tensor, Tensor, Tensor)");
    PowerOfTensor::define(m);
  }

  static void implement(torch::Library& m) {
    m.impl("pow.Tensor_Scalar", pow_tensor_scalar);
    m.impl("pow.Tensor_Tensor", pow_tensor_tensor);
    m.impl("pow.Scalar", pow_scalar);
    m.impl("pow.Tensor_Scalar_out", pow_tensor_scalar_out);
    m.impl("pow.Tensor_Tensor_out", pow_tensor_tensor_out);
    m.impl("pow.Scalar_out", pow_scalar_out);
    PowerOfNumber::implement(m);
    m.impl("pow_backward.Tensor_Tensor", pow_backward_tensor_tensor);
    m.impl("pow_double_backward.Tensor_Tensor", pow_double_backward_tensor_tensor);
    PowerOfTensor::implement(m);
  }

  static void record(torch::Library& m) {
    m.impl("pow.Tensor_Scalar", recorded_tensor_scalar);
    m.impl("pow.Tensor_Tensor", recorded_tensor_tensor);
    m.impl("pow.Scalar", recorded_scalar);
    PowerOfNumber::record(m);
    m.impl("pow_backward.Tensor_Tensor", recorded_backward);
    m.impl("pow_double_backward.Tensor_Tensor", recorded_double_backward);
    PowerOfTensor::record(m);
  }
};

}  // namespace

FUSEDGRAD_OPERATORS(Pow)

}  // namespace fusedgrad::operators

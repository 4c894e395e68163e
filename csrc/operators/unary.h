// The operators of a function of one tensor and the family of its derivatives,
// D_n(g, x) = g f^(n)(x), which is closed under differentiation: what is recorded is a product of
// at most two factors with a derivative, and one kernel computes all the gradients of one
// (math/products.h), each again such a product. Of three factors two are multiplied.
#pragma once

#include <torch/library.h>

#include <algorithm>
#include <string>
#include <tuple>

#include "cpu/unary.h"
#include "operators/dispatch.h"
#include "operators/elementwise.h"
#include "operators/operation.h"
#include "operators/products.h"
#include "operators/recording.h"

namespace fusedgrad::operators {

// `Number` is at::Scalar for a function that takes one besides its tensor, or nothing. `Operations`
// has the names kName and kOverload of the operators and kNode of the nodes, the greatest order
// kMostOrder that the kernels take, and the kernels, functions backward, double_backward and
// triple_backward of the number and the order. derivatives is a kernel, for the CPU, of those of
// the order and of the next, of x alone, and kProducts the name of what is made with them; of one
// tensor without a number it is told how many orders there are to be, and may compute all.
template <class Operations, class... Number>
class Family {
 public:
  using Two = std::tuple<Tensor, Tensor>;
  using Three = std::tuple<Tensor, Tensor, Tensor>;

  static void define(torch::Library& m) {
    const std::string more =
        std::string(sizeof...(Number) == 0 ? "" : ", Scalar exponent") + ", int order=1)";
    m.def((name("_backward") + "(Tensor grad, Tensor input" + more + " -> Tensor").c_str());
    m.def((name("_double_backward") + "(Tensor grad_grad, Tensor grad, Tensor input" + more +
           " -> (Tensor, Tensor)")
              .c_str());
    m.def((name("_triple_backward") + "(Tensor grad, Tensor first, Tensor second, Tensor input" +
           more + " -> (Tensor, Tensor, Tensor)")
              .c_str());
  }

  static void implement(torch::Library& m) {
    m.impl(name("_backward").c_str(), backward);
    m.impl(name("_double_backward").c_str(), double_backward);
    m.impl(name("_triple_backward").c_str(), triple_backward);
  }

  static void record(torch::Library& m) {
    m.impl(name("_backward").c_str(), recorded_backward);
    m.impl(name("_double_backward").c_str(), recorded_double_backward);
    m.impl(name("_triple_backward").c_str(), recorded_triple_backward);
  }

  // Of f(x), and of its products with one factor or two, which stand before x
  static variable_list derivative(const Tensor& grad, const variable_list& operands,
                                  const Parameters& parameters, const std::vector<bool>& mask) {
    const Tensor& x = operands.back();
    const int64_t order = parameters.order;
    if constexpr (sizeof...(Number) == 0) {
      return gradients(grad, operands, x, mask, order);
    } else {
      return gradients(grad, operands, x, mask, order, parameters.number);
    }
  }
  static constexpr Rule kRule = {Operations::kNode, 1, derivative};

 private:
  static std::string name(const char* suffix) {
    const std::string overload = Operations::kOverload;
    return std::string(Operations::kName) + suffix + (overload.empty() ? "" : "." + overload);
  }

  template <class Signature>
  static auto handle(const char* suffix) {
    return find<Signature>(("fusedgrad::" + std::string(Operations::kName) + suffix).c_str(),
                           Operations::kOverload);
  }
  static const auto& backward_operator() {
    static const auto found =
        handle<Tensor(const Tensor&, const Tensor&, const Number&..., int64_t)>("_backward");
    return found;
  }
  static const auto& double_backward_operator() {
    static const auto found =
        handle<Two(const Tensor&, const Tensor&, const Tensor&, const Number&..., int64_t)>(
            "_double_backward");
    return found;
  }
  static const auto& triple_backward_operator() {
    static const auto found =
        handle<Three(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Number&...,
                     int64_t)>("_triple_backward");
    return found;
  }

  static variable_list gradients(const Tensor& grad, const variable_list& operands, const Tensor& x,
                                 const std::vector<bool>& mask, int64_t order,
                                 const Number&... number) {
    if (operands.size() == 1) return {backward_operator().call(grad, x, number..., order + 1)};
    if (operands.size() == 2 && !mask[1]) {
      return {conjugate(backward_operator().call(conjugate(grad), x, number..., order)), Tensor()};
    }
    // Of x alone: the factors together are one, and one derivative is asked for. Half types would
    // lose digits; of the first order, a function without a number has a kernel that is as short.
    const bool is_of_x = std::none_of(mask.begin(), mask.end() - 1, [](bool own) { return own; });
    if (is_of_x && (sizeof...(Number) > 0 || operands.size() > 2 || order > 1) &&
        !at::isReducedFloatingType(x.scalar_type())) {
      Tensor factor = conjugate(grad) * operands[0];
      if (operands.size() > 2) factor = factor * operands[1];
      variable_list results(operands.size());
      results.back() = backward_operator().call(factor, x, number..., order + 1);
      return results;
    }
    if (operands.size() == 2) {
      auto [first, second] =
          double_backward_operator().call(grad, operands[0], x, number..., order);
      return {std::move(first), std::move(second)};
    }
    auto [first, second, third] =
        triple_backward_operator().call(grad, operands[0], operands[1], x, number..., order);
    return {std::move(first), std::move(second), std::move(third)};
  }

  // Kernels

  static bool has_kernel(const Tensor& x, int64_t order) {
    return !x.is_complex() && order <= Operations::kMostOrder;
  }

  static Tensor backward(const Tensor& grad, const Tensor& x, const Number&... number,
                         int64_t order) {
    if (!has_kernel(x, order)) return by_formula(backward_operator(), grad, x, number..., order);
    return elementwise(Operations::backward(number..., order), {grad, x});
  }

  static Two double_backward(const Tensor& grad_grad, const Tensor& grad, const Tensor& x,
                             const Number&... number, int64_t order) {
    if (!has_kernel(x, order)) {
      return by_formula(double_backward_operator(), grad_grad, grad, x, number..., order);
    }
    return std::tuple_cat(
        elementwise<2>(Operations::double_backward(number..., order), {}, {grad_grad, grad, x}));
  }

  static Three triple_backward(const Tensor& grad, const Tensor& first, const Tensor& second,
                               const Tensor& x, const Number&... number, int64_t order) {
    if (!has_kernel(x, order)) {
      return by_formula(triple_backward_operator(), grad, first, second, x, number..., order);
    }
    return std::tuple_cat(elementwise<3>(Operations::triple_backward(number..., order), {},
                                         {grad, first, second, x}));
  }

  // Under autograd

  static cpu::Kernel derivatives(const Parameters& parameters, int count) {
    const auto order = static_cast<double>(parameters.order);
    if constexpr (sizeof...(Number) == 0)
      return Operations::derivatives(order, count);
    else
      return Operations::derivatives(parameters.number, order);
  }
  static Tensor times(const Tensor& factor, const Tensor& x, const Parameters& parameters) {
    if constexpr (sizeof...(Number) == 0)
      return backward_operator().call(factor, x, parameters.order);
    else
      return backward_operator().call(factor, x, parameters.number, parameters.order);
  }
  static constexpr Derived kDerived = {Operations::kNode, Operations::kProducts,
                                       Operations::kMostOrder, derivatives, times};

  static Parameters parameters(int64_t order, const Number&... number) {
    if constexpr (sizeof...(Number) == 0)
      return {0, order};
    else
      return {number..., order};
  }

  static Tensor recorded_backward(const Tensor& grad, const Tensor& x, const Number&... number,
                                  int64_t order) {
    return recorded(
        below_autograd([&] { return backward_operator().call(grad, x, number..., order); }), kRule,
        {grad, x}, parameters(order, number...));
  }

  static Two recorded_double_backward(const Tensor& grad_grad, const Tensor& grad, const Tensor& x,
                                      const Number&... number, int64_t order) {
    if (x.is_complex()) {
      const Tensor along = grad_grad.conj();
      return {backward_operator().call(along, x, number..., order).conj(),
              backward_operator().call(along * grad, x, number..., order + 1)};
    }
    auto [first, second] = below_autograd(
        [&] { return double_backward_operator().call(grad_grad, grad, x, number..., order); });
    if (are_ordinary({grad_grad, grad, x})) {
      record_gradients(first, second, kDerived, grad_grad, grad, x, parameters(order, number...));
      return {std::move(first), std::move(second)};
    }
    return {recorded(first, kRule, {grad_grad, x}, parameters(order, number...)),
            recorded(second, kRule, {grad_grad, grad, x}, parameters(order + 1, number...))};
  }

  static Three recorded_triple_backward(const Tensor& grad, const Tensor& first,
                                        const Tensor& second, const Tensor& x,
                                        const Number&... number, int64_t order) {
    Three results = below_autograd(
        [&] { return triple_backward_operator().call(grad, first, second, x, number..., order); });
    if (!is_differentiated({grad, first, second, x})) return results;
    auto& [by_first, by_second, by_x] = results;
    by_first = recorded(by_first, kRule, {grad, second, x}, parameters(order, number...));
    by_second = recorded(by_second, kRule, {grad, first, x}, parameters(order, number...));
    by_x = recorded(by_x, kRule, {grad * first, second, x}, parameters(order + 1, number...));
    return results;
  }
};

// A function of one tensor: Operations::value() is its kernel.
template <class Operations>
struct Unary {
  using Derivatives = Family<Operations>;

  // The operators with out return nothing: torch.compile takes no operator that returns an argument
  // it writes to.
  static void define(torch::Library& m) {
    m.def((std::string(Operations::kName) + "(Tensor input) -> Tensor").c_str());
    m.def((std::string(Operations::kName) + ".out(Tensor input, *, Tensor(a!) out) -> ()").c_str());
    Derivatives::define(m);
  }

  static void implement(torch::Library& m) {
    m.impl(Operations::kName, value);
    m.impl((std::string(Operations::kName) + ".out").c_str(), value_out);
    Derivatives::implement(m);
  }

  static void record(torch::Library& m) {
    m.impl(Operations::kName, recorded_value);
    Derivatives::record(m);
  }

 private:
  static const auto& value_operator() {
    static const auto found =
        find<Tensor(const Tensor&)>(("fusedgrad::" + std::string(Operations::kName)).c_str());
    return found;
  }

  static Tensor value(const Tensor& x) {
    if (x.is_complex()) return by_formula(value_operator(), x);
    return elementwise(Operations::value(), x);
  }

  static void value_out(const Tensor& x, const Tensor& out) {
    elementwise(Operations::value(), x, out);
  }

  static Tensor recorded_value(const Tensor& x) {
    return recorded(below_autograd([&] { return value_operator().call(x); }), Derivatives::kRule,
                    x);
  }
};

}  // namespace fusedgrad::operators

#ifndef FUSEDGRAD_CUDA
#define FUSEDGRAD_DECLARE_UNARY_LAUNCHERS(name)
#endif

// The operators of a function of one tensor, over the kernels of its name:
//
//   FUSEDGRAD_UNARY_OPERATORS(sigmoid, Sigmoid)  // math::Sigmoid, and the nodes' name
#define FUSEDGRAD_UNARY_OPERATORS(name, Function)                                     \
  FUSEDGRAD_DECLARE_UNARY_KERNELS(name)                                               \
  FUSEDGRAD_DECLARE_UNARY_LAUNCHERS(name)                                             \
  namespace fusedgrad::operators {                                                    \
  namespace {                                                                         \
  struct Function {                                                                   \
    static constexpr const char* kName = #name;                                       \
    static constexpr const char* kOverload = "";                                      \
    static constexpr const char* kNode = #Function;                                   \
    static constexpr const char* kProducts = "fusedgrad::" #name "_products";         \
    static constexpr int64_t kMostOrder = math::Function::Derivatives<double>::kMost; \
    static Operation value() { return FUSEDGRAD_OPERATION(name); }                    \
    static Operation backward(double order) {                                         \
      return FUSEDGRAD_OPERATION(name##_backward, order);                             \
    }                                                                                 \
    static Operation double_backward(double order) {                                  \
      return FUSEDGRAD_OPERATION(name##_double_backward, order);                      \
    }                                                                                 \
    static Operation triple_backward(double order) {                                  \
      return FUSEDGRAD_OPERATION(name##_triple_backward, order);                      \
    }                                                                                 \
    static cpu::Kernel derivatives(double order, int count) {                         \
      return ::fusedgrad::cpu::name##_derivatives(order, count);                      \
    }                                                                                 \
  };                                                                                  \
  }                                                                                   \
  FUSEDGRAD_OPERATORS(Unary<Function>)                                                \
  }

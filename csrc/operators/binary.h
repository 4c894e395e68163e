// The operators of the derivatives of a function of two tensors, f^(i,j)(x, y) being i times by x
// and j times by y: D_ij(g, x, y) = g f^(i,j)(x, y) is a family closed under differentiation, and
// one kernel computes all the gradients of a member (math/products.h), each again such a product.
#pragma once

#include <torch/library.h>

#include <algorithm>
#include <string>
#include <tuple>

#include "operators/dispatch.h"
#include "operators/elementwise.h"
#include "operators/operation.h"
#include "operators/recording.h"

namespace fusedgrad::operators {

// `Operations` has the names kName of the function and kSecond of y, the greatest order kMost of
// either kind that the kernels take, the kernels, functions derivative and derivative_backward of i
// and j, and, where it knows another way to the gradients, a function own_gradients, which returns
// none where it does not, or summed_gradients (Rule::summed). Operands without a factor are those
// of the function itself.
template <class Operations>
class BinaryFamily {
 public:
  using Three = std::tuple<Tensor, Tensor, Tensor>;

  static void define(torch::Library& m) {
    const std::string second = Operations::kSecond;
    const std::string more = "Tensor grad, Tensor input, Tensor " + second +
                             ", int by_input, int by_" + second + ") -> ";
    m.def((name("_derivative") + "(" + more + "Tensor").c_str());
    m.def((name("_derivative_backward") + "(Tensor grad_grad, " + more + "(Tensor, Tensor, Tensor)")
              .c_str());
  }

  static void implement(torch::Library& m) {
    m.impl(name("_derivative").c_str(), derivative_kernel);
    m.impl(name("_derivative_backward").c_str(), derivative_backward_kernel);
  }

  static void record(torch::Library& m) {
    m.impl(name("_derivative").c_str(), recorded_derivative);
    m.impl(name("_derivative_backward").c_str(), recorded_derivative_backward);
  }

  // Through the dispatcher, as the others of its name
  static Tensor derivative(const Tensor& grad, const Tensor& x, const Tensor& y, int64_t i,
                           int64_t j) {
    return derivative_operator().call(grad, x, y, i, j);
  }

  // The gradients of a factor times f^(i,j): the operands are the factor, x and y.
  static variable_list gradients(const Tensor& grad, const variable_list& operands,
                                 const Parameters& parameters, const std::vector<bool>& mask) {
    if constexpr (requires { Operations::own_gradients; }) {
      variable_list own = Operations::own_gradients(grad, operands, parameters, mask);
      if (!own.empty()) return own;
    }
    const int64_t i = parameters.order, j = parameters.number.toLong();
    const Tensor &factor = operands[0], &x = operands[1], &y = operands[2];
    variable_list results(3);
    if (std::count(mask.begin(), mask.end(), true) > 1) {
      std::tie(results[0], results[1], results[2]) =
          derivative_backward_operator().call(grad, factor, x, y, i, j);
    } else if (mask[0]) {
      results[0] = conjugate(derivative(conjugate(grad), x, y, i, j));
    } else {
      const Tensor product = conjugate(grad) * factor;
      if (mask[1]) results[1] = derivative(product, x, y, i + 1, j);
      if (mask[2]) results[2] = derivative(product, x, y, i, j + 1);
    }
    return results;
  }

  static constexpr Rule kRule = [] {
    Rule rule = {Operations::kNode, 2, gradients};
    if constexpr (requires { Operations::summed_gradients; }) {
      rule.summed = Operations::summed_gradients;
    }
    return rule;
  }();

  static Parameters parameters(int64_t i, int64_t j) { return {j, i}; }

 private:
  static std::string name(const char* suffix) { return std::string(Operations::kName) + suffix; }

  static const auto& derivative_operator() {
    static const auto found =
        find<Tensor(const Tensor&, const Tensor&, const Tensor&, int64_t, int64_t)>(
            ("fusedgrad::" + name("_derivative")).c_str());
    return found;
  }
  static const auto& derivative_backward_operator() {
    static const auto found =
        find<Three(const Tensor&, const Tensor&, const Tensor&, const Tensor&, int64_t, int64_t)>(
            ("fusedgrad::" + name("_derivative_backward")).c_str());
    return found;
  }

  static Tensor derivative_kernel(const Tensor& grad, const Tensor& x, const Tensor& y, int64_t i,
                                  int64_t j) {
    if (x.is_complex() || i > Operations::kMost || j > Operations::kMost) {
      return by_formula(derivative_operator(), grad, x, y, i, j);
    }
    return elementwise(Operations::derivative(static_cast<double>(i), static_cast<double>(j)),
                       {grad, x, y});
  }

  static Three derivative_backward_kernel(const Tensor& grad_grad, const Tensor& grad,
                                          const Tensor& x, const Tensor& y, int64_t i, int64_t j) {
    if (x.is_complex() || i >= Operations::kMost || j >= Operations::kMost) {
      return by_formula(derivative_backward_operator(), grad_grad, grad, x, y, i, j);
    }
    return std::tuple_cat(elementwise<3>(
        Operations::derivative_backward(static_cast<double>(i), static_cast<double>(j)), {},
        {grad_grad, grad, x, y}));
  }

  static Tensor recorded_derivative(const Tensor& grad, const Tensor& x, const Tensor& y, int64_t i,
                                    int64_t j) {
    return recorded(below_autograd([&] { return derivative_operator().call(grad, x, y, i, j); }),
                    kRule, {grad, x, y}, parameters(i, j));
  }

  static Three recorded_derivative_backward(const Tensor& grad_grad, const Tensor& grad,
                                            const Tensor& x, const Tensor& y, int64_t i,
                                            int64_t j) {
    if (x.is_complex()) {
      const Tensor along = grad_grad.conj();
      const Tensor product = along * grad;
      return {derivative(along, x, y, i, j).conj(), derivative(product, x, y, i + 1, j),
              derivative(product, x, y, i, j + 1)};
    }
    Three results = below_autograd(
        [&] { return derivative_backward_operator().call(grad_grad, grad, x, y, i, j); });
    if (!is_differentiated({grad_grad, grad, x, y})) return results;
    auto& [by_grad, by_x, by_y] = results;
    const Tensor product = grad_grad * grad;
    by_grad = recorded(by_grad, kRule, {grad_grad, x, y}, parameters(i, j));
    by_x = recorded(by_x, kRule, {product, x, y}, parameters(i + 1, j));
    by_y = recorded(by_y, kRule, {product, x, y}, parameters(i, j + 1));
    return results;
  }
};

}  // namespace fusedgrad::operators

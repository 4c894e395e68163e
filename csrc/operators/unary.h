// The operators of a function of one tensor; sigmoid.cpp and tanh.cpp name the kernels.
#pragma once

#include <torch/library.h>

#include <string>
#include <tuple>

#include "operators/elementwise.h"

namespace fusedgrad::operators {

// `Operations` has the operations value(), backward() and double_backward().
template <class Operations>
struct Unary {
  static Tensor value(const Tensor& input) { return elementwise(Operations::value(), {input}); }

  static void value_out(const Tensor& input, const Tensor& out) {
    elementwise(Operations::value(), {out}, {input});
  }

  static Tensor backward(const Tensor& grad, const Tensor& input) {
    return elementwise(Operations::backward(), {grad, input});
  }

  static std::tuple<Tensor, Tensor> double_backward(const Tensor& grad_grad, const Tensor& grad,
                                                    const Tensor& input) {
    const std::vector<Tensor> results =
        elementwise(Operations::double_backward(), {Tensor(), Tensor()}, {grad_grad, grad, input});
    return {results[0], results[1]};
  }

  static void implement(torch::Library& m) {
    const std::string name = Operations::value().name;
    m.impl(name.c_str(), value);
    m.impl((name + ".out").c_str(), value_out);
    m.impl((name + "_backward").c_str(), backward);
    m.impl((name + "_double_backward").c_str(), double_backward);
  }
};

}  // namespace fusedgrad::operators

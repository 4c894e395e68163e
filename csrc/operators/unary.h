// The operators of a function of one tensor; sigmoid.cpp and tanh.cpp name the kernels.
#pragma once

#include <torch/library.h>

#include <string>
#include <tuple>

#include "operators/elementwise.h"

namespace fusedgrad::operators {

// `Kernels` has a `name` and the kernels value(), backward() and double_backward().
template <class Kernels>
struct Unary {
  static Tensor value(const Tensor& input) {
    return elementwise(Kernels::name, Kernels::value(), {input});
  }

  static Tensor& value_out(const Tensor& input, Tensor& out) {
    elementwise(Kernels::name, Kernels::value(), {out}, {input});
    return out;
  }

  static Tensor backward(const Tensor& grad, const Tensor& input) {
    return elementwise(Kernels::name, Kernels::backward(), {grad, input});
  }

  static std::tuple<Tensor, Tensor> double_backward(const Tensor& grad_grad, const Tensor& grad,
                                                    const Tensor& input) {
    const std::vector<Tensor> results = elementwise(Kernels::name, Kernels::double_backward(),
                                                    {Tensor(), Tensor()}, {grad_grad, grad, input});
    return {results[0], results[1]};
  }

  static void implement(torch::Library& m) {
    const std::string name = Kernels::name;
    m.impl(name.c_str(), value);
    m.impl((name + ".out").c_str(), value_out);
    m.impl((name + "_backward").c_str(), backward);
    m.impl((name + "_double_backward").c_str(), double_backward);
  }
};

}  // namespace fusedgrad::operators

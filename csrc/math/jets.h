// Jets of activations, and their gradients, by python -m fusedgrad.fuse.prebuilt.
#pragma once

#include "math/platform.h"
#include "math/power_derivatives.h"
#include "math/sigmoid.h"
#include "math/tanh.h"

namespace fusedgrad::math {

// sigmoid_jet_1(x, x_1) = sigmoid(x), x_1 * sigmoid_derivative(x)
template <class T>
struct SigmoidJet1 {
  FUSEDGRAD_HOST_DEVICE math::Values<T, 2> operator()(T x, T x_1) const {
    return {{math::sigmoid(x), x_1 * math::sigmoid_derivative(x)}};
  }
};

// sigmoid_jet_1_backward(grad_0, grad_1, x, x_1) = grad_1 * x_1 * sigmoid_second_derivative(x) +
// grad_0 * sigmoid_derivative(x), grad_1 * sigmoid_derivative(x)
template <class T>
struct SigmoidJetBackward1 {
  FUSEDGRAD_HOST_DEVICE math::Values<T, 2> operator()(T grad_0, T grad_1, T x, T x_1) const {
    const T t1 = math::sigmoid_derivative(x);
    return {{grad_1 * x_1 * math::sigmoid_second_derivative(x) + grad_0 * t1, grad_1 * t1}};
  }
};

// sigmoid_jet_2(x, x_1, x_2) = sigmoid(x), x_1 * sigmoid_derivative(x), x_2 * sigmoid_derivative(x)
// - x_1 * (0.25 * (2 * (tanh(0.5 * x) * (2 * (x_1 * sigmoid_derivative(x))))))
template <class T>
struct SigmoidJet2 {
  FUSEDGRAD_HOST_DEVICE math::Values<T, 3> operator()(T x, T x_1, T x_2) const {
    const T t1 = math::sigmoid_derivative(x);
    const T t2 = x_1 * t1;
    return {{math::sigmoid(x), t2,
             x_2 * t1 - x_1 * (T(0.25) * (T(2) * (math::tanh(T(0.5) * x) * (T(2) * t2))))}};
  }
};

// sigmoid_jet_2_backward(grad_0, grad_1, grad_2, x, x_1, x_2) = (grad_2 * x_2 + (grad_1 - 2 * (2 *
// (0.25 * (grad_2 * x_1)) * tanh(0.5 * x))) * x_1) * sigmoid_second_derivative(x) - 0.5 * (2 *
// (0.25 * (g...
template <class T>
struct SigmoidJetBackward2 {
  FUSEDGRAD_HOST_DEVICE math::Values<T, 3> operator()(T grad_0, T grad_1, T grad_2, T x, T x_1,
                                                      T x_2) const {
    const T t1 = T(2) * (T(0.25) * (grad_2 * x_1));
    const T t2 = T(0.5) * x;
    const T t3 = math::tanh(t2);
    const T t4 = grad_1 - T(2) * (t1 * t3);
    const T t5 = math::sigmoid_derivative(x);
    const T t6 = T(2) * (x_1 * t5);
    const T t7 = (grad_2 * x_2 + t4 * x_1) * math::sigmoid_second_derivative(x) -
                 T(0.5) * (t1 * t6 * math::tanh_derivative(t2));
    return {{t7 + grad_0 * t5, t4 * t5 - grad_2 * (T(0.25) * (T(2) * (t3 * t6))), grad_2 * t5}};
  }
};

// sigmoid_jet_3(x, x_1, x_2, x_3) = sigmoid(x), x_1 * sigmoid_derivative(x), x_2 *
// sigmoid_derivative(x) - x_1 * (0.25 * (2 * (tanh(0.5 * x) * (2 * (x_1 *
// sigmoid_derivative(x)))))), -(x_1 * (0.25 * (2 ...
template <class T>
struct SigmoidJet3 {
  FUSEDGRAD_HOST_DEVICE math::Values<T, 4> operator()(T x, T x_1, T x_2, T x_3) const {
    const T t1 = math::sigmoid_derivative(x);
    const T t2 = x_1 * t1;
    const T t3 = math::tanh(T(0.5) * x);
    const T t4 = T(2) * t2;
    const T t5 = T(0.25) * (T(2) * (t3 * t4));
    const T t6 = x_2 * t1 - x_1 * t5;
    const T t7 =
        -(x_1 * (T(0.25) * (T(2) * (t3 * (T(2) * t6)) + T(2) * (t4 * t4)))) - T(2) * (x_2 * t5);
    return {{math::sigmoid(x), t2, t6, t7 + x_3 * t1}};
  }
};

// sigmoid_jet_3_backward(grad_0, grad_1, grad_2, grad_3, x, x_1, x_2, x_3) = 0.5 * ((2 * (0.25 *
// (-(2 * grad_3 * x_2) - (grad_2 - 2 * (2 * (0.25 * (grad_3 * x_1)) * tanh(0.5 * x))) * x_1)) * (2
// * (x_1 *...
template <class T>
struct SigmoidJetBackward3 {
  FUSEDGRAD_HOST_DEVICE math::Values<T, 4> operator()(T grad_0, T grad_1, T grad_2, T grad_3, T x,
                                                      T x_1, T x_2, T x_3) const {
    const T t1 = T(2) * grad_3;
    const T t2 = T(2) * (T(0.25) * (grad_3 * x_1));
    const T t3 = T(0.5) * x;
    const T t4 = math::tanh(t3);
    const T t5 = grad_2 - T(2) * (t2 * t4);
    const T t6 = T(2) * (T(0.25) * (-(t1 * x_2) - t5 * x_1));
    const T t7 = math::sigmoid_derivative(x);
    const T t8 = T(2) * (x_1 * t7);
    const T t9 = T(0.25) * (T(2) * (t4 * t8));
    const T t10 = T(2) * (x_2 * t7 - x_1 * t9);
    const T t11 = grad_1 + T(2) * (t6 * t4 - T(2) * (t2 * t8));
    const T t12 = T(0.5) * ((t6 * t8 - t2 * t10) * math::tanh_derivative(t3)) +
                  (grad_3 * x_3 + t5 * x_2 + t11 * x_1) * math::sigmoid_second_derivative(x);
    const T t13 =
        -(grad_3 * (T(0.25) * (T(2) * (t4 * t10) + T(2) * (t8 * t8)))) - t5 * t9 + t11 * t7;
    return {{t12 + grad_0 * t7, t13, t5 * t7 - t1 * t9, grad_3 * t7}};
  }
};

// sigmoid_jet_4(x, x_1, x_2, x_3, x_4) = sigmoid(x), x_1 * sigmoid_derivative(x), x_2 *
// sigmoid_derivative(x) - x_1 * (0.25 * (2 * (tanh(0.5 * x) * (2 * (x_1 *
// sigmoid_derivative(x)))))), -(x_1 * (0.25 ...
template <class T>
struct SigmoidJet4 {
  FUSEDGRAD_HOST_DEVICE math::Values<T, 5> operator()(T x, T x_1, T x_2, T x_3, T x_4) const {
    const T t1 = math::sigmoid_derivative(x);
    const T t2 = x_1 * t1;
    const T t3 = math::tanh(T(0.5) * x);
    const T t4 = T(2) * t2;
    const T t5 = T(0.25) * (T(2) * (t3 * t4));
    const T t6 = x_2 * t1 - x_1 * t5;
    const T t7 = T(2) * t6;
    const T t8 = T(0.25) * (T(2) * (t3 * t7) + T(2) * (t4 * t4));
    const T t9 = -(x_1 * t8) - T(2) * (x_2 * t5) + x_3 * t1;
    const T t10 =
        -(x_1 * (T(0.25) * (T(2) * (t3 * (T(2) * t9)) + T(6) * (t4 * t7)))) - T(3) * (x_2 * t8);
    return {{math::sigmoid(x), t2, t6, t9, t10 - T(3) * (x_3 * t5) + x_4 * t1}};
  }
};

// sigmoid_jet_4_backward(grad_0, grad_1, grad_2, grad_3, grad_4, x, x_1, x_2, x_3, x_4) = t20 +
// grad_0 * t8, t21, -(t1 * t12) - t14 * t10 + t16 * t8, t6 * t8 - t1 * t10, grad_4 * t8
template <class T>
struct SigmoidJetBackward4 {
  FUSEDGRAD_HOST_DEVICE math::Values<T, 5> operator()(T grad_0, T grad_1, T grad_2, T grad_3,
                                                      T grad_4, T x, T x_1, T x_2, T x_3,
                                                      T x_4) const {
    const T t1 = T(3) * grad_4;
    const T t2 = T(0.25) * (grad_4 * x_1);
    const T t3 = T(2) * t2;
    const T t4 = T(0.5) * x;
    const T t5 = math::tanh(t4);
    const T t6 = grad_3 - T(2) * (t3 * t5);
    const T t7 = T(2) * (T(0.25) * (-(t1 * x_2) - t6 * x_1));
    const T t8 = math::sigmoid_derivative(x);
    const T t9 = T(2) * (x_1 * t8);
    const T t10 = T(0.25) * (T(2) * (t5 * t9));
    const T t11 = T(2) * (x_2 * t8 - x_1 * t10);
    const T t12 = T(0.25) * (T(2) * (t5 * t11) + T(2) * (t9 * t9));
    const T t13 = T(2) * (-(x_1 * t12) - T(2) * (x_2 * t10) + x_3 * t8);
    const T t14 = T(2) * t6;
    const T t15 = T(6) * t2;
    const T t16 = grad_2 + T(2) * (t7 * t5 - t15 * t9);
    const T t17 = T(2) * (T(0.25) * (-(t1 * x_3) - t14 * x_2 - t16 * x_1));
    const T t18 = t7 * t9;
    const T t19 = grad_1 + T(2) * (t18 - t15 * t11 + t18 + t17 * t5);
    const T t20 =
        (grad_4 * x_4 + t6 * x_3 + t16 * x_2 + t19 * x_1) * math::sigmoid_second_derivative(x);
    const T t21 =
        T(0.5) * ((t7 * t11 - t3 * t13 + t17 * t9) * math::tanh_derivative(t4)) + t20 + grad_0 * t8;
    const T t22 =
        -(grad_4 * (T(0.25) * (T(2) * (t5 * t13) + T(6) * (t9 * t11)))) - t6 * t12 - t16 * t10;
    return {
        {t21, t22 + t19 * t8, -(t1 * t12) - t14 * t10 + t16 * t8, t6 * t8 - t1 * t10, grad_4 * t8}};
  }
};

// tanh_jet_1(x, x_1) = tanh(x), x_1 * tanh_derivative(x)
template <class T>
struct TanhJet1 {
  FUSEDGRAD_HOST_DEVICE math::Values<T, 2> operator()(T x, T x_1) const {
    return {{math::tanh(x), x_1 * math::tanh_derivative(x)}};
  }
};

// tanh_jet_1_backward(grad_0, grad_1, x, x_1) = grad_1 * x_1 * tanh_second_derivative(x) + grad_0 *
// tanh_derivative(x), grad_1 * tanh_derivative(x)
template <class T>
struct TanhJetBackward1 {
  FUSEDGRAD_HOST_DEVICE math::Values<T, 2> operator()(T grad_0, T grad_1, T x, T x_1) const {
    const T t1 = math::tanh_derivative(x);
    return {{grad_1 * x_1 * math::tanh_second_derivative(x) + grad_0 * t1, grad_1 * t1}};
  }
};

// tanh_jet_2(x, x_1, x_2) = tanh(x), x_1 * tanh_derivative(x), x_2 * tanh_derivative(x) - x_1 * (2
// * (tanh(x) * (x_1 * tanh_derivative(x))))
template <class T>
struct TanhJet2 {
  FUSEDGRAD_HOST_DEVICE math::Values<T, 3> operator()(T x, T x_1, T x_2) const {
    const T t1 = math::tanh(x);
    const T t2 = math::tanh_derivative(x);
    const T t3 = x_1 * t2;
    return {{t1, t3, x_2 * t2 - x_1 * (T(2) * (t1 * t3))}};
  }
};

// tanh_jet_2_backward(grad_0, grad_1, grad_2, x, x_1, x_2) = (grad_2 * x_2 + (grad_1 - 2 * (grad_2
// * x_1) * tanh(x)) * x_1) * tanh_second_derivative(x) + (grad_0 - 2 * (grad_2 * x_1) * (x_1 *
// tanh_deriv...
template <class T>
struct TanhJetBackward2 {
  FUSEDGRAD_HOST_DEVICE math::Values<T, 3> operator()(T grad_0, T grad_1, T grad_2, T x, T x_1,
                                                      T x_2) const {
    const T t1 = T(2) * (grad_2 * x_1);
    const T t2 = math::tanh(x);
    const T t3 = grad_1 - t1 * t2;
    const T t4 = math::tanh_derivative(x);
    const T t5 = x_1 * t4;
    const T t6 =
        (grad_2 * x_2 + t3 * x_1) * math::tanh_second_derivative(x) + (grad_0 - t1 * t5) * t4;
    return {{t6, t3 * t4 - grad_2 * (T(2) * (t2 * t5)), grad_2 * t4}};
  }
};

// tanh_jet_3(x, x_1, x_2, x_3) = tanh(x), x_1 * tanh_derivative(x), x_2 * tanh_derivative(x) - x_1
// * (2 * (tanh(x) * (x_1 * tanh_derivative(x)))), -(x_1 * (2 * (tanh(x) * (x_2 * tanh_derivative(x)
// - x_1...
template <class T>
struct TanhJet3 {
  FUSEDGRAD_HOST_DEVICE math::Values<T, 4> operator()(T x, T x_1, T x_2, T x_3) const {
    const T t1 = math::tanh(x);
    const T t2 = math::tanh_derivative(x);
    const T t3 = x_1 * t2;
    const T t4 = T(2) * (t1 * t3);
    const T t5 = x_2 * t2 - x_1 * t4;
    return {{t1, t3, t5,
             -(x_1 * (T(2) * (t1 * t5) + T(2) * (t3 * t3))) - T(2) * (x_2 * t4) + x_3 * t2}};
  }
};

// tanh_jet_3_backward(grad_0, grad_1, grad_2, grad_3, x, x_1, x_2, x_3) = (grad_3 * x_3 + (grad_2 -
// 2 * (grad_3 * x_1) * tanh(x)) * x_2 + (grad_1 - 2 * (grad_3 * x_1) * (x_1 * tanh_derivative(x)) -
// 2 * ...
template <class T>
struct TanhJetBackward3 {
  FUSEDGRAD_HOST_DEVICE math::Values<T, 4> operator()(T grad_0, T grad_1, T grad_2, T grad_3, T x,
                                                      T x_1, T x_2, T x_3) const {
    const T t1 = T(2) * (grad_3 * x_1);
    const T t2 = math::tanh(x);
    const T t3 = grad_2 - t1 * t2;
    const T t4 = math::tanh_derivative(x);
    const T t5 = x_1 * t4;
    const T t6 = t1 * t5;
    const T t7 = T(2) * grad_3;
    const T t8 = T(2) * (-(t7 * x_2) - t3 * x_1);
    const T t9 = grad_1 - t6 - t6 + t8 * t2;
    const T t10 = T(2) * (t2 * t5);
    const T t11 = x_2 * t4 - x_1 * t10;
    const T t12 = (grad_3 * x_3 + t3 * x_2 + t9 * x_1) * math::tanh_second_derivative(x) +
                  (grad_0 - t1 * t11 + t8 * t5) * t4;
    return {{t12, -(grad_3 * (T(2) * (t2 * t11) + T(2) * (t5 * t5))) - t3 * t10 + t9 * t4,
             t3 * t4 - t7 * t10, grad_3 * t4}};
  }
};

// tanh_jet_4(x, x_1, x_2, x_3, x_4) = tanh(x), x_1 * tanh_derivative(x), x_2 * tanh_derivative(x) -
// x_1 * (2 * (tanh(x) * (x_1 * tanh_derivative(x)))), -(x_1 * (2 * (tanh(x) * (x_2 *
// tanh_derivative(x) ...
template <class T>
struct TanhJet4 {
  FUSEDGRAD_HOST_DEVICE math::Values<T, 5> operator()(T x, T x_1, T x_2, T x_3, T x_4) const {
    const T t1 = math::tanh(x);
    const T t2 = math::tanh_derivative(x);
    const T t3 = x_1 * t2;
    const T t4 = T(2) * (t1 * t3);
    const T t5 = x_2 * t2 - x_1 * t4;
    const T t6 = T(2) * (t1 * t5) + T(2) * (t3 * t3);
    const T t7 = -(x_1 * t6) - T(2) * (x_2 * t4) + x_3 * t2;
    const T t8 =
        -(x_1 * (T(2) * (t1 * t7) + T(6) * (t3 * t5))) - T(3) * (x_2 * t6) - T(3) * (x_3 * t4);
    return {{t1, t3, t5, t7, t8 + x_4 * t2}};
  }
};

// tanh_jet_4_backward(grad_0, grad_1, grad_2, grad_3, grad_4, x, x_1, x_2, x_3, x_4) = t19,
// -(grad_4 * (2 * (t3 * t18) + 6 * (t7 * t12))) - t4 * t17 - t10 * t11 + t16 * t6, -(t8 * t17) -
// t14 * t11 + t10...
template <class T>
struct TanhJetBackward4 {
  FUSEDGRAD_HOST_DEVICE math::Values<T, 5> operator()(T grad_0, T grad_1, T grad_2, T grad_3,
                                                      T grad_4, T x, T x_1, T x_2, T x_3,
                                                      T x_4) const {
    const T t1 = grad_4 * x_1;
    const T t2 = T(2) * t1;
    const T t3 = math::tanh(x);
    const T t4 = grad_3 - t2 * t3;
    const T t5 = T(6) * t1;
    const T t6 = math::tanh_derivative(x);
    const T t7 = x_1 * t6;
    const T t8 = T(3) * grad_4;
    const T t9 = T(2) * (-(t8 * x_2) - t4 * x_1);
    const T t10 = grad_2 - t5 * t7 + t9 * t3;
    const T t11 = T(2) * (t3 * t7);
    const T t12 = x_2 * t6 - x_1 * t11;
    const T t13 = t9 * t7;
    const T t14 = T(2) * t4;
    const T t15 = T(2) * (-(t8 * x_3) - t14 * x_2 - t10 * x_1);
    const T t16 = grad_1 - t5 * t12 + t13 + t13 + t15 * t3;
    const T t17 =
        (grad_4 * x_4 + t4 * x_3 + t10 * x_2 + t16 * x_1) * math::tanh_second_derivative(x);
    const T t18 = T(2) * (t3 * t12) + T(2) * (t7 * t7);
    const T t19 = -(x_1 * t18) - T(2) * (x_2 * t11) + x_3 * t6;
    const T t20 =
        -(grad_4 * (T(2) * (t3 * t19) + T(6) * (t7 * t12))) - t4 * t18 - t10 * t11 + t16 * t6;
    return {{t17 + (grad_0 - t2 * t19 + t9 * t12 + t15 * t7) * t6, t20,
             -(t8 * t18) - t14 * t11 + t10 * t6, t4 * t6 - t8 * t11, grad_4 * t6}};
  }
};

// pow_jet_1(x, x_1, exponent) = x ** exponent, x_1 * pow_derivative(x, exponent, 1, 0)
template <class T>
struct PowJet1 {
  T exponent;
  FUSEDGRAD_HOST_DEVICE math::Values<T, 2> operator()(T x, T x_1) const {
    return {
        {math::pow_derivative<0, 0>(x, exponent), x_1 * math::pow_derivative<1, 0>(x, exponent)}};
  }
};

// pow_jet_1_backward(grad_0, grad_1, x, x_1, exponent) = grad_1 * x_1 * pow_derivative(x, exponent,
// 2, 0) + grad_0 * pow_derivative(x, exponent, 1, 0), grad_1 * pow_derivative(x, exponent, 1, 0)
template <class T>
struct PowJetBackward1 {
  T exponent;
  FUSEDGRAD_HOST_DEVICE math::Values<T, 2> operator()(T grad_0, T grad_1, T x, T x_1) const {
    const T t1 = math::pow_derivative<1, 0>(x, exponent);
    return {{grad_1 * x_1 * math::pow_derivative<2, 0>(x, exponent) + grad_0 * t1, grad_1 * t1}};
  }
};

// pow_jet_2(x, x_1, x_2, exponent) = x ** exponent, x_1 * pow_derivative(x, exponent, 1, 0), x_1 *
// (x_1 * pow_derivative(x, exponent, 2, 0)) + x_2 * pow_derivative(x, exponent, 1, 0)
template <class T>
struct PowJet2 {
  T exponent;
  FUSEDGRAD_HOST_DEVICE math::Values<T, 3> operator()(T x, T x_1, T x_2) const {
    const T t1 = math::pow_derivative<1, 0>(x, exponent);
    return {{math::pow_derivative<0, 0>(x, exponent), x_1 * t1,
             x_1 * (x_1 * math::pow_derivative<2, 0>(x, exponent)) + x_2 * t1}};
  }
};

// pow_jet_2_backward(grad_0, grad_1, grad_2, x, x_1, x_2, exponent) = grad_2 * x_1 * x_1 *
// pow_derivative(x, exponent, 3, 0) + (grad_2 * x_2 + grad_1 * x_1) * pow_derivative(x, exponent,
// 2, 0) + grad_0 ...
template <class T>
struct PowJetBackward2 {
  T exponent;
  FUSEDGRAD_HOST_DEVICE math::Values<T, 3> operator()(T grad_0, T grad_1, T grad_2, T x, T x_1,
                                                      T x_2) const {
    const T t1 = grad_2 * x_1;
    const T t2 = math::pow_derivative<2, 0>(x, exponent);
    const T t3 =
        t1 * x_1 * math::pow_derivative<3, 0>(x, exponent) + (grad_2 * x_2 + grad_1 * x_1) * t2;
    const T t4 = math::pow_derivative<1, 0>(x, exponent);
    return {{t3 + grad_0 * t4, grad_2 * (x_1 * t2) + t1 * t2 + grad_1 * t4, grad_2 * t4}};
  }
};

// pow_jet_3(x, x_1, x_2, x_3, exponent) = x ** exponent, x_1 * pow_derivative(x, exponent, 1, 0),
// x_1 * (x_1 * pow_derivative(x, exponent, 2, 0)) + x_2 * pow_derivative(x, exponent, 1, 0), x_1 *
// (x_1 * ...
template <class T>
struct PowJet3 {
  T exponent;
  FUSEDGRAD_HOST_DEVICE math::Values<T, 4> operator()(T x, T x_1, T x_2, T x_3) const {
    const T t1 = math::pow_derivative<1, 0>(x, exponent);
    const T t2 = math::pow_derivative<2, 0>(x, exponent);
    const T t3 = x_1 * t2;
    const T t4 = x_1 * (x_1 * (x_1 * math::pow_derivative<3, 0>(x, exponent)) + x_2 * t2) +
                 T(2) * (x_2 * t3);
    return {
        {math::pow_derivative<0, 0>(x, exponent), x_1 * t1, x_1 * t3 + x_2 * t1, t4 + x_3 * t1}};
  }
};

// pow_jet_3_backward(grad_0, grad_1, grad_2, grad_3, x, x_1, x_2, x_3, exponent) = grad_3 * x_1 *
// x_1 * x_1 * pow_derivative(x, exponent, 4, 0) + (grad_3 * x_1 * x_2 + (2 * grad_3 * x_2 + grad_2
// * x_1) ...
template <class T>
struct PowJetBackward3 {
  T exponent;
  FUSEDGRAD_HOST_DEVICE math::Values<T, 4> operator()(T grad_0, T grad_1, T grad_2, T grad_3, T x,
                                                      T x_1, T x_2, T x_3) const {
    const T t1 = grad_3 * x_1;
    const T t2 = t1 * x_1;
    const T t3 = T(2) * grad_3;
    const T t4 = t3 * x_2 + grad_2 * x_1;
    const T t5 = math::pow_derivative<3, 0>(x, exponent);
    const T t6 = math::pow_derivative<2, 0>(x, exponent);
    const T t7 = t2 * x_1 * math::pow_derivative<4, 0>(x, exponent) + (t1 * x_2 + t4 * x_1) * t5 +
                 (grad_3 * x_3 + grad_2 * x_2 + grad_1 * x_1) * t6;
    const T t8 = math::pow_derivative<1, 0>(x, exponent);
    const T t9 = x_1 * t5;
    const T t10 = x_1 * t6;
    const T t11 =
        grad_3 * (x_1 * t9 + x_2 * t6) + t1 * t9 + t2 * t5 + grad_2 * t10 + t4 * t6 + grad_1 * t8;
    return {{t7 + grad_0 * t8, t11, t3 * t10 + t1 * t6 + grad_2 * t8, grad_3 * t8}};
  }
};

// pow_jet_4(x, x_1, x_2, x_3, x_4, exponent) = x ** exponent, x_1 * pow_derivative(x, exponent, 1,
// 0), x_1 * (x_1 * pow_derivative(x, exponent, 2, 0)) + x_2 * pow_derivative(x, exponent, 1, 0),
// x_1 * (x...
template <class T>
struct PowJet4 {
  T exponent;
  FUSEDGRAD_HOST_DEVICE math::Values<T, 5> operator()(T x, T x_1, T x_2, T x_3, T x_4) const {
    const T t1 = math::pow_derivative<1, 0>(x, exponent);
    const T t2 = math::pow_derivative<2, 0>(x, exponent);
    const T t3 = x_1 * t2;
    const T t4 = math::pow_derivative<3, 0>(x, exponent);
    const T t5 = x_1 * t4;
    const T t6 = x_1 * t5 + x_2 * t2;
    const T t7 = x_1 * (x_1 * (x_1 * math::pow_derivative<4, 0>(x, exponent)) + x_2 * t4) +
                 T(2) * (x_2 * t5);
    return {{math::pow_derivative<0, 0>(x, exponent), x_1 * t1, x_1 * t3 + x_2 * t1,
             x_1 * t6 + T(2) * (x_2 * t3) + x_3 * t1,
             x_1 * (t7 + x_3 * t2) + T(3) * (x_2 * t6) + T(3) * (x_3 * t3) + x_4 * t1}};
  }
};

// pow_jet_4_backward(grad_0, grad_1, grad_2, grad_3, grad_4, x, x_1, x_2, x_3, x_4, exponent) =
// grad_4 * x_1 * x_1 * x_1 * x_1 * pow_derivative(x, exponent, 5, 0) + (grad_4 * x_1 * x_1 * x_2 +
// (2 * (gra...
template <class T>
struct PowJetBackward4 {
  T exponent;
  FUSEDGRAD_HOST_DEVICE math::Values<T, 5> operator()(T grad_0, T grad_1, T grad_2, T grad_3,
                                                      T grad_4, T x, T x_1, T x_2, T x_3,
                                                      T x_4) const {
    const T t1 = grad_4 * x_1;
    const T t2 = t1 * x_1;
    const T t3 = t2 * x_1;
    const T t4 = T(2) * t1;
    const T t5 = T(3) * grad_4;
    const T t6 = t5 * x_2 + grad_3 * x_1;
    const T t7 = t4 * x_2 + t6 * x_1;
    const T t8 = math::pow_derivative<4, 0>(x, exponent);
    const T t9 = T(2) * grad_3;
    const T t10 = t5 * x_3 + t9 * x_2 + grad_2 * x_1;
    const T t11 = math::pow_derivative<3, 0>(x, exponent);
    const T t12 = t3 * x_1 * math::pow_derivative<5, 0>(x, exponent) + (t2 * x_2 + t7 * x_1) * t8 +
                  (t1 * x_3 + t6 * x_2 + t10 * x_1) * t11;
    const T t13 = math::pow_derivative<2, 0>(x, exponent);
    const T t14 = math::pow_derivative<1, 0>(x, exponent);
    const T t15 =
        t12 + (grad_4 * x_4 + grad_3 * x_3 + grad_2 * x_2 + grad_1 * x_1) * t13 + grad_0 * t14;
    const T t16 = x_1 * t8;
    const T t17 = x_1 * t16 + x_2 * t11;
    const T t18 = x_1 * t11;
    const T t19 =
        grad_4 * (x_1 * t17 + T(2) * (x_2 * t18) + x_3 * t13) + t1 * t17 + t2 * t16 + t3 * t8;
    const T t20 = x_1 * t18 + x_2 * t13;
    const T t21 = x_1 * t13;
    const T t22 =
        t19 + grad_3 * t20 + t6 * t18 + t7 * t11 + grad_2 * t21 + t10 * t13 + grad_1 * t14;
    return {{t15, t22, t5 * t20 + t4 * t18 + t2 * t11 + t9 * t21 + t6 * t13 + grad_2 * t14,
             t5 * t21 + t1 * t13 + grad_3 * t14, grad_4 * t14}};
  }
};

}  // namespace fusedgrad::math

// The functions of csrc/math by the C library, in a type wide enough that their own rounding
// doesn't show in the narrow one: Wide is double for a result in float, long double for one in
// double.
#pragma once

#include <cmath>
#include <limits>

namespace fusedgrad::accuracy::oracle {

template <class Wide>
Wide sigmoid(Wide x, Wide) {
  return x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x));
}

template <class Wide>
Wide sigmoid_derivative(Wide x, Wide) {
  const Wide a = std::exp(-std::fabs(x));
  return a / ((1 + a) * (1 + a));
}

template <class Wide>
Wide sigmoid_second_derivative(Wide x, Wide) {
  return -std::tanh(x / 2) * sigmoid_derivative(x, x);
}

template <class Wide>
Wide tanh(Wide x, Wide) {
  return std::tanh(x);
}

template <class Wide>
Wide tanh_derivative(Wide x, Wide) {
  return 4 * sigmoid_derivative(2 * x, x);
}

template <class Wide>
Wide tanh_second_derivative(Wide x, Wide) {
  return -2 * std::tanh(x) * tanh_derivative(x, x);
}

template <class Wide>
Wide pow(Wide x, Wide e) {
  return std::pow(x, e);
}

template <class Wide>
Wide pow_base_derivative(Wide x, Wide e) {
  return e == 0 ? 0 : e * std::pow(x, e - 1);
}

template <class Wide>
Wide pow_base_second_derivative(Wide x, Wide e) {
  return e == 0 || e == 1 ? 0 : e * (e - 1) * std::pow(x, e - 2);
}

// |x|^e * factor, where a power vanishes faster than any logarithm grows; there is no logarithm of
// a negative x
template <class Wide>
Wide power_times(Wide x, Wide e, Wide factor) {
  const Wide power = std::pow(std::fabs(x), e);
  if (x < 0 || std::isnan(factor)) return NAN;
  return power == 0 ? std::copysign(power, factor) : power * factor;
}

template <class Wide>
Wide pow_exponent_derivative(Wide x, Wide e) {
  return x == 0 && e >= 0 ? 0 : power_times(x, e, std::log(std::fabs(x)));
}

template <class Wide>
Wide pow_mixed_derivative(Wide x, Wide e) {
  return power_times(x, e - 1, e == 0 ? 1 : 1 + e * std::log(std::fabs(x)));
}

template <class Wide>
Wide pow_exponent_second_derivative(Wide x, Wide e) {
  const Wide log = std::log(std::fabs(x));
  return x == 0 && e >= 0 ? 0 : power_times(x, e, log * log);
}

template <class Wide>
Wide softplus(Wide x) {
  return std::fmax(x, Wide(0)) + std::log1p(std::exp(-std::fabs(x)));
}

template <class Wide>
Wide binary_cross_entropy_with_logits(Wide x, Wide t) {
  if (std::isnan(x)) return x;
  return (t == 0 ? 0 : t * softplus(-x)) + (t == 1 ? 0 : (1 - t) * softplus(x));
}

template <class Wide>
Wide binary_cross_entropy_with_logits_derivative(Wide x, Wide t) {
  const Wide a = std::exp(-std::fabs(x));
  if (t == 1) return x >= 0 ? -a / (1 + a) : -1 / (1 + a);
  const Wide numerator = x >= 0 ? (1 - t) - t * a : (1 - t) * a - t;
  if constexpr (sizeof(Wide) == sizeof(double)) {
    // Close to sigmoid(x) = t even double loses the digits of a float.
    if (std::fabs(numerator) < 1e-4 && t != 0) {
      return static_cast<Wide>(binary_cross_entropy_with_logits_derivative<long double>(x, t));
    }
  }
  return numerator / (1 + a);
}

template <class Wide>
Wide binary_cross_entropy_with_logits_second_derivative(Wide x, Wide) {
  return sigmoid_derivative(x, x);
}

template <class Wide>
Wide binary_cross_entropy(Wide p, Wide t) {
  const Wide log = std::fmax(std::log(p), Wide(-100));
  const Wide log_complement = std::fmax(std::log1p(-p), Wide(-100));
  return t * -log + (1 - t) * -log_complement;
}

// The bound of PyTorch, which is a number of the narrow type.
template <class Wide>
Wide variance(Wide p) {
  return std::fmax(p * (1 - p), sizeof(Wide) == sizeof(double) ? Wide(1e-12f) : Wide(1e-12));
}

template <class Wide>
Wide binary_cross_entropy_derivative(Wide p, Wide t) {
  return (p - t) / variance(p);
}

template <class Wide>
Wide binary_cross_entropy_second_derivative(Wide p, Wide t) {
  const Wide v = variance(p);
  return v > p * (1 - p) ? 1 / v : t / (p * p) + (1 - t) / ((1 - p) * (1 - p));
}

}  // namespace fusedgrad::accuracy::oracle

// Which exponents have kernels of their own: one list for every device, so that x^1 is x on each.
#pragma once

#include <type_traits>
#include <utility>

namespace fusedgrad::math {

namespace detail {

template <class Run, class Otherwise, int First, int... Rest>
auto choose(double twice, std::integer_sequence<int, First, Rest...>, const Run& run,
            const Otherwise& otherwise) {
  if (twice == First) return run(std::integral_constant<int, First>());
  if constexpr (sizeof...(Rest) == 0) {
    return otherwise();
  } else {
    return choose(twice, std::integer_sequence<int, Rest...>(), run, otherwise);
  }
}

}  // namespace detail

// run(std::integral_constant<int, K>()) for an exponent K/2 that products, a square root and a
// reciprocal (pow_half_integer) serve within the error bounds of the general power, at a fraction
// of its cost; otherwise() for all others.
template <class Run, class Otherwise>
auto with_half_integer(double exponent, const Run& run, const Otherwise& otherwise) {
  using Twice = std::integer_sequence<int, -4, -2, -1, 0, 1, 2, 3, 4, 5, 6, 8>;
  return detail::choose(2 * exponent, Twice(), run, otherwise);
}

// The same for the derivative of an order of a power, coefficient * x^(exponent - order). Of a
// power above 2, the coefficient is a rounding too many.
template <class Run, class Otherwise>
auto with_half_integer(double exponent, double order, const Run& run, const Otherwise& otherwise) {
  using Twice = std::integer_sequence<int, -4, -2, -1, 0, 1, 2, 3, 4>;
  return detail::choose(2 * (exponent - order), Twice(), run, otherwise);
}

}  // namespace fusedgrad::math

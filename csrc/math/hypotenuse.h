// sqrt(x^2 + b) and its derivative by x. An expression of its own, because from x / sqrt(x^2 + b)
// the next derivative, b / sqrt(x^2 + b)^3, would come as a difference.
#pragma once

#include "math/platform.h"

namespace fusedgrad::math {

template <class T>
FUSEDGRAD_HOST_DEVICE T hypotenuse(T x, T b) {
  return sqrt(x * x + b);
}

template <class T>
FUSEDGRAD_HOST_DEVICE T hypotenuse_slope(T x, T b) {
  return x / hypotenuse(x, b);
}

}  // namespace fusedgrad::math

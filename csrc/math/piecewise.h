// Functions made of pieces, with PyTorch's values at NaN: NaN, except for sign, which is 0 there.
#pragma once

#include "math/platform.h"

namespace fusedgrad::math {

template <class T>
FUSEDGRAD_HOST_DEVICE T relu(T x) {
  return x < 0 ? T(0) : x;
}

template <class T>
FUSEDGRAD_HOST_DEVICE T sign(T x) {
  return static_cast<T>(x > 0) - static_cast<T>(x < 0);
}

template <class T>
FUSEDGRAD_HOST_DEVICE T minimum(T x, T y) {
  return x != x ? x : x < y ? x : y;
}

template <class T>
FUSEDGRAD_HOST_DEVICE T maximum(T x, T y) {
  return x != x ? x : x > y ? x : y;
}

// weight * x, where a weight of 0 outweighs an infinite x
template <class T>
FUSEDGRAD_HOST_DEVICE T weighted(T weight, T x) {
  return weight == 0 ? T(0) : weight * x;
}

}  // namespace fusedgrad::math

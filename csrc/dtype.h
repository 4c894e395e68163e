// The element types that have kernels, named as PyTorch names them.
#pragma once

#include <cstdint>

namespace fusedgrad {

enum class DType : int32_t { Float64, Float32, Float16, BFloat16 };

constexpr int64_t size_of(DType dtype) {
  return dtype == DType::Float64 ? 8 : dtype == DType::Float32 ? 4 : 2;
}

}  // namespace fusedgrad

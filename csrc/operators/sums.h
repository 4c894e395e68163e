// Results of kernels on the CPU that are summed where they are computed, and not written to memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "cpu/kernel.h"

namespace fusedgrad::operators {

// Runs a kernel over the broadcast inputs. Output i with a defined tensor in `outputs` is written
// there; in the place of an undefined one comes its sum over the dimensions that are the bits of
// summed[i], bit 0 the last, which stay with size 1: of dtype dtypes[i], accumulated in float64 and
// rounded once, bit for bit the same for any number of threads.
void run_with_sums(const char* name, const cpu::Kernel& kernel, bool wide,
                   std::vector<at::Tensor>& outputs, at::TensorList inputs,
                   at::ArrayRef<at::ScalarType> dtypes, at::IntArrayRef summed);

}  // namespace fusedgrad::operators

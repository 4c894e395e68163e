// The error of a kernel, or of anybody's results, in ULP: exhaustive scans of a function in
// seconds.
//
// An ULP is the spacing of the format at the exact result, and below the least normal number that
// of the subnormal ones. The exact result comes from the C library in a wider type (double for what
// is computed in float, long double for double), by formulas that share nothing with csrc/math.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "dtype.h"

namespace fusedgrad::accuracy {

struct Errors {
  int64_t count = 0;
  // The largest |got - want| in ULP, without the results counted as wrong.
  double max_ulp = 0;
  // Results that aren't the exact one correctly rounded.
  int64_t misrounded = 0;
  // Results of the wrong kind (NaN, an infinity or another number than zero where the exact result
  // is none, or the reverse) or sign, zero's included. A zero where there is none is an error in
  // ULP.
  int64_t wrong = 0;
  // The operands of max_ulp, or of the first wrong result where there is one.
  double input = 0;
  double parameter = 0;
  double got = 0;
  double want = 0;
};

// What can be named below. Each is a function of x and, some of them, of a parameter:
//   sigmoid, tanh, each with _derivative, _second_derivative
//   pow_scalar (the kernels of one exponent), pow (those of a tensor of exponents), each with
//     _base_derivative, _base_second_derivative; and pow_exponent_derivative, pow_mixed_derivative,
//     pow_exponent_second_derivative: the parameter is the exponent
//   binary_cross_entropy_with_logits, binary_cross_entropy, each with _derivative,
//     _second_derivative: in the input, the parameter is the target
std::vector<std::string> names();

// The kernel over all bit patterns begin, begin + stride, ... below end, on `threads` threads (0:
// as many as there are processors).
Errors scan(const std::string& name, DType dtype, uint64_t begin, uint64_t end, uint64_t stride,
            double parameter, int threads);

// The kernel over n elements, each with its parameter. The elements of a half type are bit
// patterns; `parameters` are numbers.
Errors scan_samples(const std::string& name, DType dtype, const void* inputs,
                    const double* parameters, int64_t n);

// Someone's results over n elements. parameters may be null.
Errors ulp_errors(const std::string& name, DType dtype, const void* inputs,
                  const double* parameters, const void* results, int64_t n);

}  // namespace fusedgrad::accuracy

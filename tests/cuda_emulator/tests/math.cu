// CUDA's own mathematics: long programs whose results are known to a few units in the last place.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

template <class T, class F>
__global__ void map(T* out, const T* a, const T* b, int n, F function) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = function(a[i], b[i]);
}

#define FUNCTION(name, T, expression)                                         \
  struct name##_##T {                                                         \
    __device__ T operator()(T a, T b) const { return expression; }            \
  };                                                                          \
  extern "C" int name##_##T##_launch(T* out, const T* a, const T* b, int n) { \
    map<<<(n + 127) / 128, 128>>>(out, a, b, n, name##_##T());                \
    return cudaGetLastError();                                                \
  }

#define BOTH(name, single, twice) \
  FUNCTION(name, float, single)   \
  FUNCTION(name, double, twice)

BOTH(exp, expf(a), exp(a))
BOTH(exp2, exp2f(a), exp2(a))
BOTH(expm1, expm1f(a), expm1(a))
BOTH(log, logf(b), log(b))
BOTH(log2, log2f(b), log2(b))
BOTH(log1p, log1pf(b), log1p(b))
BOTH(pow, powf(b, a), pow(b, a))
BOTH(tanh, tanhf(a), tanh(a))
BOTH(sinh, sinhf(a), sinh(a))
BOTH(atan2, atan2f(a, b), atan2(a, b))
BOTH(sin, sinf(a * 1e6f), sin(a * 1e6))
BOTH(cos, cosf(a), cos(a))
BOTH(erf, erff(a), erf(a))
BOTH(lgamma, lgammaf(b), lgamma(b))
BOTH(sqrt, sqrtf(b), sqrt(b))
BOTH(rsqrt, rsqrtf(b), rsqrt(b))
BOTH(cbrt, cbrtf(a), cbrt(a))
BOTH(hypot, hypotf(a, b), hypot(a, b))
BOTH(fmod, fmodf(a, b), fmod(a, b))
BOTH(divide, a / b, a / b)
BOTH(round, roundf(a * 8), round(a * 8))
BOTH(
    frexp,
    [=] {
      int e;
      return frexpf(b, &e) * 1000 + e;
    }(),
    [=] {
      int e;
      return frexp(b, &e) * 1000 + e;
    }())
BOTH(ldexp, ldexpf(a, -140), ldexp(a, -1060))
BOTH(nextafter, nextafterf(a, b), nextafter(a, b))
FUNCTION(fast, float, __expf(a) + __logf(b) + __sinf(a) + __fdividef(a, b) + __powf(b, 1.5f))

FUNCTION(ulonglong, double,
         static_cast<double>(static_cast<unsigned long long>(b * 1e15) /
                             static_cast<unsigned long long>(b * 1e3 + 1)))

using half = __half;
FUNCTION(polynomial, half, __hfma(a, b, __hadd(a, __hmul(b, b))))
FUNCTION(compare, half, __hgt(a, b) ? __hneg(a) : __habs(b))
FUNCTION(exp, half, hexp(a))
FUNCTION(maximum, half, __hmax(a, b))

// arithmetic on bfloat16 needs compute capability 8.0
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#define BRAIN(name, expression) FUNCTION(name, bfloat16, a)
#else
#define BRAIN(name, expression) FUNCTION(name, bfloat16, expression)
#endif
using bfloat16 = __nv_bfloat16;
BRAIN(polynomial, __hfma(a, b, __hadd(a, __hmul(b, b))))
BRAIN(compare, __hgt(a, b) ? __hneg(a) : __habs(b))
BRAIN(exp, hexp(a))
BRAIN(maximum, __hmax(a, b))

// Kernels whose mistake gives the value of a right kernel in most runs, each beside a right one.
// All are launched as <<<grid, block>>>(out, in, n).
#include <cuda_runtime.h>

namespace {

constexpr int kHalf = 64;

// ---- threads of a block, through global memory

template <class Float = float, class Meet>
__device__ void exchange(Float* out, const float* in, int distance, Meet meet) {
  const int i = threadIdx.x;
  out[i] = 2 * in[i];
  meet();
  out[blockDim.x + i] = out[i ^ distance];
}

__global__ void exchange_in_block(float* out, const float* in, int n) {
  exchange(out, in, kHalf, [] { __syncthreads(); });
}
__global__ void exchange_in_block_without_barrier(float* out, const float* in, int n) {
  exchange(out, in, kHalf, [] {});
}
__global__ void exchange_in_block_with_warp_barrier(float* out, const float* in, int n) {
  exchange(out, in, kHalf, [] { __syncwarp(); });
}
__global__ void exchange_in_warp(float* out, const float* in, int n) {
  exchange(out, in, 1, [] { __syncwarp(); });
}
__global__ void exchange_in_warp_without_barrier(float* out, const float* in, int n) {
  exchange(out, in, 1, [] {});
}

__device__ void half_of_warp() { __syncwarp(threadIdx.x % 32 < 16 ? 0xffff : 0xffff0000); }
__global__ void exchange_in_half_of_warp(float* out, const float* in, int n) {
  exchange(out, in, 1, [] { half_of_warp(); });
}
__global__ void exchange_with_other_half_of_warp(float* out, const float* in, int n) {
  exchange(out, in, 16, [] { half_of_warp(); });
}

// Volatile accesses are no race, and their order is nobody's.
__global__ void volatile_exchange(float* out, const float* in, int n) {
  exchange<volatile float>(out, in, kHalf, [] { __syncthreads(); });
}
__global__ void volatile_exchange_without_barrier(float* out, const float* in, int n) {
  exchange<volatile float>(out, in, kHalf, [] {});
}

template <bool kBarrier>
__device__ void reverse(float* out, const float* in, int n) {
  const int i = threadIdx.x;
  const float mine = out[n - 1 - i];
  if (kBarrier) __syncthreads();
  out[i] = mine + in[i];
}
__global__ void reverse_in_place(float* out, const float* in, int n) { reverse<true>(out, in, n); }
__global__ void reverse_in_place_without_barrier(float* out, const float* in, int n) {
  reverse<false>(out, in, n);
}

// A byte of another thread's float
template <bool kBarrier>
__device__ void byte_of(float* out, const float* in) {
  const int i = threadIdx.x;
  out[i] = in[i];
  if (kBarrier) __syncthreads();
  if (i < 32) reinterpret_cast<unsigned char*>(out)[4 * (i + 64)] = 0;
}
__global__ void bytes_after_a_barrier(float* out, const float* in, int n) {
  byte_of<true>(out, in);
}
__global__ void byte_of_anothers_float(float* out, const float* in, int n) {
  byte_of<false>(out, in);
}

__global__ void one_place_for_a_block(float* out, const float* in, int n) { out[0] = in[0]; }

// ---- blocks, through fences

__device__ unsigned count;

template <bool kBefore, bool kAfter, bool kReader, bool kBlock = false>
__device__ void last_adds(float* out, const float* in) {
  if (threadIdx.x != 0) return;
  if (kBefore) __threadfence();
  out[1 + blockIdx.x] = in[blockIdx.x];
  if (kAfter) __threadfence();
  if (kBlock) __threadfence_block();
  if (atomicInc(&count, gridDim.x - 1) != gridDim.x - 1) return;
  if (kReader) __threadfence();
  float sum = 0;
  for (unsigned b = 0; b < gridDim.x; ++b) sum += out[1 + b];
  out[0] = sum;
}
__global__ void fences(float* out, const float* in, int n) {
  last_adds<false, true, true>(out, in);
}
__global__ void fence_before_the_write(float* out, const float* in, int n) {
  last_adds<true, false, true>(out, in);
}
__global__ void fence_of_a_block(float* out, const float* in, int n) {
  last_adds<false, false, true, true>(out, in);
}
__global__ void reader_without_fence(float* out, const float* in, int n) {
  last_adds<false, true, false>(out, in);
}

// All threads of a block write and one of them publishes it: by a fence of its own or by one of
// each, behind a barrier.
template <bool kBarrier, bool kAll, bool kBarrierBefore = true>
__device__ void one_publishes(float* out, const float* in) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  out[1 + i] = in[i];
  if (kBarrier && kBarrierBefore) __syncthreads();
  if (kAll || threadIdx.x == 0) __threadfence();
  if (kBarrier && !kBarrierBefore) __syncthreads();
  if (threadIdx.x != 0 || atomicInc(&count, gridDim.x - 1) != gridDim.x - 1) return;
  __threadfence();
  float sum = 0;
  for (unsigned k = 0; k < gridDim.x * blockDim.x; ++k) sum += out[1 + k];
  out[0] = sum;
}
__global__ void one_fence_for_a_block(float* out, const float* in, int n) {
  one_publishes<true, false>(out, in);
}
__global__ void one_fence_without_barrier(float* out, const float* in, int n) {
  one_publishes<false, false>(out, in);
}
__global__ void one_fence_before_the_barrier(float* out, const float* in, int n) {
  one_publishes<true, false, false>(out, in);
}
__global__ void fences_of_all(float* out, const float* in, int n) {
  one_publishes<true, true, false>(out, in);
}
__global__ void fences_of_all_without_barrier(float* out, const float* in, int n) {
  one_publishes<false, true>(out, in);
}

// ---- blocks, through loads and stores that are fences themselves

#define ACCESSES(name, load, store)                                                          \
  struct name {                                                                              \
    __device__ static unsigned get(const unsigned* flag) {                                   \
      unsigned value;                                                                        \
      asm volatile("ld." load ".global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory"); \
      return value;                                                                          \
    }                                                                                        \
    __device__ static void set(unsigned* flag) {                                             \
      asm volatile("st." store ".global.u32 [%0], %1;" ::"l"(flag), "r"(1u) : "memory");     \
    }                                                                                        \
  };
ACCESSES(Ordered, "acquire.gpu", "release.gpu")
ACCESSES(OrderedInSystem, "acquire.sys", "release.sys")
ACCESSES(OrderedInBlock, "acquire.cta", "release.cta")
ACCESSES(Relaxed, "relaxed.gpu", "relaxed.gpu")
ACCESSES(Volatile, "volatile", "volatile")
ACCESSES(Weak, "weak", "weak")

// Block 0 writes and sets a flag; block 1 waits for it and sets another, for which block 2 waits.
template <class Writer, class Reader, bool kFences = false, bool kEarly = false>
__device__ void hand_over(float* out, const float* in) {
  unsigned* const flags = reinterpret_cast<unsigned*>(out);
  if (threadIdx.x != 0) return;
  if (blockIdx.x == 0) {
    if (kEarly) Writer::set(flags);
    out[2] = in[0];
    if (kFences) __threadfence();
    if (!kEarly) Writer::set(flags);
    return;
  }
  const bool last = blockIdx.x == 2;
  while (Reader::get(flags + last) == 0) {
  }
  if (kFences) __threadfence();
  if (last) {
    out[3] = out[2];
  } else {
    Writer::set(flags + 1);
  }
}
#define HAND_OVER(name, ...) \
  __global__ void name(float* out, const float* in, int n) { hand_over<__VA_ARGS__>(out, in); }
HAND_OVER(release_and_acquire, Ordered, Ordered)
HAND_OVER(release_and_acquire_in_system, OrderedInSystem, OrderedInSystem)
HAND_OVER(fences_about_relaxed, Relaxed, Relaxed, true)
HAND_OVER(fences_about_volatile, Volatile, Volatile, true)
HAND_OVER(release_and_fence, Ordered, Relaxed, true)
HAND_OVER(release_before_the_write, Ordered, Ordered, false, true)
HAND_OVER(relaxed_store, Relaxed, Ordered)
HAND_OVER(relaxed_load, Ordered, Relaxed)
HAND_OVER(volatile_flag, Volatile, Volatile)
HAND_OVER(weak_store_of_a_flag, Weak, Ordered, true)
HAND_OVER(weak_store_of_a_volatile_flag, Weak, Volatile, true)
HAND_OVER(release_and_acquire_in_block, OrderedInBlock, OrderedInBlock)

// A thread waits for another of its block, or has met it at a barrier.
template <class Writer, bool kBarrier>
__device__ void hand_over_in_block(float* out) {
  unsigned* const flag = reinterpret_cast<unsigned*>(out);
  if (threadIdx.x == 0) Writer::set(flag);
  if (kBarrier) __syncthreads();
  if (threadIdx.x == 32) {
    while (Volatile::get(flag) == 0) {
    }
  }
}
__global__ void volatile_store_in_block(float* out, const float* in, int n) {
  hand_over_in_block<Volatile, false>(out);
}
__global__ void weak_store_before_a_barrier(float* out, const float* in, int n) {
  hand_over_in_block<Weak, true>(out);
}
__global__ void weak_store_in_block(float* out, const float* in, int n) {
  hand_over_in_block<Weak, false>(out);
}

// Block 2 reads the flag of block 1, which overwrote that of block 0 and ordered nothing.
__global__ void flag_of_another(float* out, const float* in, int n) {
  unsigned* const flags = reinterpret_cast<unsigned*>(out);
  if (threadIdx.x != 0) return;
  if (blockIdx.x == 0) {
    out[2] = in[0];
    Ordered::set(flags);
  } else if (blockIdx.x == 1) {
    while (Relaxed::get(flags) == 0) {
    }
    Relaxed::set(flags);
    Relaxed::set(flags + 1);
  } else {
    while (Relaxed::get(flags + 1) == 0) {
    }
    if (Ordered::get(flags) != 0) out[3] = out[2];
  }
}

// atomicAdd_block is atomic among the threads of its block alone.
template <bool kOwn>
__device__ void add_in_block(float* out) {
  atomicAdd_block(reinterpret_cast<unsigned*>(out) + (kOwn ? blockIdx.x : 0), 1u);
}
__global__ void atomics_of_a_block(float* out, const float* in, int n) { add_in_block<true>(out); }
__global__ void atomics_of_another_block(float* out, const float* in, int n) {
  add_in_block<false>(out);
}

// ---- the non-coherent cache

__device__ float cached(const float* address) {
  float value;
  asm volatile("ld.global.nc.f32 %0, [%1];" : "=f"(value) : "l"(address) : "memory");
  return value;
}

__global__ void cached_input(float* out, const float* in, int n) {
  out[threadIdx.x] = cached(in + threadIdx.x);
}
__global__ void cached_output(float* out, const float* in, int n) {
  out[threadIdx.x] = in[threadIdx.x];
  out[n + threadIdx.x] = cached(out + threadIdx.x);
}
__global__ void cached_in_place(float* out, const float* in, int n) {
  out[threadIdx.x] = 2 * cached(out + threadIdx.x);
}

// ---- local memory

template <bool kAll>
__device__ void local(float* out, const float* in, int n) {
  volatile float values[8];
  for (int k = 0; k < (kAll ? 8 : 7); ++k) values[k] = in[threadIdx.x];
  out[threadIdx.x] = values[threadIdx.x % 8];
}
__global__ void local_written(float* out, const float* in, int n) { local<true>(out, in, n); }
__global__ void local_not_written(float* out, const float* in, int n) { local<false>(out, in, n); }

// A register
__global__ void register_not_written(float* out, const float* in, int n) {
  float value;
  asm volatile("{ .reg .f32 other; add.f32 %0, other, %1; }" : "=f"(value) : "f"(in[threadIdx.x]));
  out[threadIdx.x] = value;
}

// ---- the order of blocks and threads

__global__ void sum_of_integers(float* out, const float* in, int n) {
  atomicAdd(reinterpret_cast<int*>(out),
            static_cast<int>(in[blockIdx.x * blockDim.x + threadIdx.x]));
}
__global__ void sum_of_floats(float* out, const float* in, int n) {
  atomicAdd(out, in[blockIdx.x * blockDim.x + threadIdx.x]);
}
__global__ void sum_of_floats_in_shared_memory(float* out, const float* in, int n) {
  __shared__ float sum;
  if (threadIdx.x == 0) sum = 0;
  __syncthreads();
  atomicAdd(&sum, in[threadIdx.x]);
  __syncthreads();
  if (threadIdx.x == 0) out[0] = sum;
}
__global__ void last_to_come(float* out, const float* in, int n) {
  atomicExch(out, in[blockIdx.x]);
}

}  // namespace

#define LAUNCHER(name)                                                                    \
  extern "C" int launch_##name(float* out, const float* in, int n, int grid, int block) { \
    name<<<grid, block>>>(out, in, n);                                                    \
    return cudaGetLastError();                                                            \
  }
LAUNCHER(exchange_in_block)
LAUNCHER(exchange_in_block_without_barrier)
LAUNCHER(exchange_in_block_with_warp_barrier)
LAUNCHER(exchange_in_warp)
LAUNCHER(exchange_in_warp_without_barrier)
LAUNCHER(exchange_in_half_of_warp)
LAUNCHER(exchange_with_other_half_of_warp)
LAUNCHER(volatile_exchange)
LAUNCHER(volatile_exchange_without_barrier)
LAUNCHER(reverse_in_place)
LAUNCHER(reverse_in_place_without_barrier)
LAUNCHER(bytes_after_a_barrier)
LAUNCHER(byte_of_anothers_float)
LAUNCHER(one_place_for_a_block)
LAUNCHER(fences)
LAUNCHER(fence_before_the_write)
LAUNCHER(fence_of_a_block)
LAUNCHER(reader_without_fence)
LAUNCHER(one_fence_for_a_block)
LAUNCHER(one_fence_without_barrier)
LAUNCHER(one_fence_before_the_barrier)
LAUNCHER(fences_of_all)
LAUNCHER(fences_of_all_without_barrier)
LAUNCHER(weak_store_of_a_flag)
LAUNCHER(weak_store_of_a_volatile_flag)
LAUNCHER(volatile_store_in_block)
LAUNCHER(weak_store_before_a_barrier)
LAUNCHER(weak_store_in_block)
LAUNCHER(release_and_acquire)
LAUNCHER(release_and_acquire_in_system)
LAUNCHER(fences_about_relaxed)
LAUNCHER(fences_about_volatile)
LAUNCHER(release_and_fence)
LAUNCHER(release_before_the_write)
LAUNCHER(relaxed_store)
LAUNCHER(relaxed_load)
LAUNCHER(volatile_flag)
LAUNCHER(release_and_acquire_in_block)
LAUNCHER(flag_of_another)
LAUNCHER(atomics_of_a_block)
LAUNCHER(atomics_of_another_block)
LAUNCHER(cached_input)
LAUNCHER(cached_output)
LAUNCHER(cached_in_place)
LAUNCHER(local_written)
LAUNCHER(local_not_written)
LAUNCHER(register_not_written)
LAUNCHER(sum_of_integers)
LAUNCHER(sum_of_floats)
LAUNCHER(sum_of_floats_in_shared_memory)
LAUNCHER(last_to_come)

// Kernels broken on purpose, each beside a right one. The launcher of `kernel` is `launch_kernel`.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

struct Strides {
  int64_t sizes[8], strides[8];
  int dimensions;
};

namespace {

constexpr int kThreads = 128;
constexpr unsigned kAll = 0xffffffffu;

int blocks(int n) { return (n + kThreads - 1) / kThreads; }

__device__ int thread_of_grid() { return blockIdx.x * blockDim.x + threadIdx.x; }

struct alignas(16) Four {
  float value[4];
};

// ---- bounds

__global__ void scale(float* out, const float* in, int n) {
  int i = thread_of_grid();
  if (i < n) out[i] = 2 * in[i];
}

__global__ void scale_without_bound(float* out, const float* in, int n) {
  int i = thread_of_grid();
  out[i] = 2 * in[i];
}

__global__ void scale_off_by_one(float* out, const float* in, int n) {
  int i = thread_of_grid();
  if (i <= n) out[i] = 2 * in[i];
}

__global__ void scale_without_tail(float* out, const float* in, int n) {
  int i = thread_of_grid();
  if (i < n / 4) reinterpret_cast<float4*>(out)[i] = reinterpret_cast<const float4*>(in)[i];
}

__global__ void scale_with_tail(float* out, const float* in, int n) {
  int i = thread_of_grid();
  if (i < n / 4)
    reinterpret_cast<float4*>(out)[i] = reinterpret_cast<const float4*>(in)[i];
  else if (i - n / 4 < n % 4)
    out[i - n / 4 + n / 4 * 4] = in[i - n / 4 + n / 4 * 4];
}

__global__ void vector_past_the_end(float* out, const float* in, int n) {
  int i = thread_of_grid();
  if (4 * i < n) reinterpret_cast<float4*>(out)[i] = reinterpret_cast<const float4*>(in)[i];
}

__global__ void read_before_the_start(float* out, const float* in, int n) {
  int i = thread_of_grid();
  if (i < n) out[i] = in[i] - in[i - 1];
}

__global__ void difference(float* out, const float* in, int n) {
  int i = thread_of_grid();
  if (i < n) out[i] = i > 0 ? in[i] - in[i - 1] : in[i];
}

// [rows, columns] with a stride between rows
__global__ void rows(float* out, const float* in, int n, int columns, int stride) {
  int i = thread_of_grid();
  if (i < n) out[i] = in[i / columns * stride + i % columns];
}

__global__ void rows_with_wrong_stride(float* out, const float* in, int n, int columns,
                                       int stride) {
  int i = thread_of_grid();
  if (i < n) out[i] = in[i / columns * (stride + 1) + i % columns];
}

__global__ void rows_with_swapped_strides(float* out, const float* in, int n, int columns,
                                          int stride) {
  int i = thread_of_grid();
  if (i < n) out[i] = in[i / columns + i % columns * stride];
}

__global__ void index_overflows(float* out, const float* in, int n, int stride) {
  int i = thread_of_grid();
  if (i < n) out[i] = in[i * stride / (1 << 24)];
}

__global__ void index_in_64_bits(float* out, const float* in, int n, int stride) {
  int i = thread_of_grid();
  if (i < n) out[i] = in[static_cast<int64_t>(i) * stride / (1 << 24)];
}

__global__ void shared_out_of_bounds(float* out, const float* in, int n) {
  __shared__ float tile[kThreads];
  int i = threadIdx.x;
  tile[i] = in[i];
  __syncthreads();
  out[i] = tile[i + 1];
}

__global__ void local_out_of_bounds(float* out, const float* in, int n) {
  float values[4];
  int i = thread_of_grid();
  for (int j = 0; j < 4; ++j) values[(i + j) % 4] = in[j];
  if (i < n) out[i] = values[i];
}

__global__ void local_array(float* out, const float* in, int n) {
  float values[4];
  int i = thread_of_grid();
  for (int j = 0; j < 4; ++j) values[(i + j) % 4] = in[j];
  if (i < n) out[i] = values[i % 4];
}

__global__ void write_outside(float* out, const float* in, int n) {
  int i = thread_of_grid();
  if (i < n) out[i] = in[i];
  if (i == n - 1) out[n + 1] = 0;
}

__global__ void write_through_a_wild_pointer(float* out, const float* in, int n) {
  int i = thread_of_grid();
  if (i < n) reinterpret_cast<float*>(static_cast<uintptr_t>(i) * 4)[0] = in[i];
}

// ---- alignment

__global__ void vectors(float* out, const float* in, int n) {
  int i = thread_of_grid();
  if (i < n / 4) reinterpret_cast<Four*>(out)[i] = reinterpret_cast<const Four*>(in)[i];
}

__global__ void vectors_of_halves(__half* out, const __half* in, int n) {
  int i = thread_of_grid();
  if (i < n / 8) reinterpret_cast<uint4*>(out)[i] = reinterpret_cast<const uint4*>(in)[i];
}

// ---- what nothing has written

__global__ void output_with_a_hole(float* out, const float* in, int n) {
  int i = thread_of_grid();
  if (i < n && i != 5) out[i] = in[i];
}

__global__ void reads_its_output(float* out, const float* in, int n) {
  int i = thread_of_grid();
  if (i < n) out[i] += in[i];
}

__global__ void uninitialised_shared(float* out, const float* in, int n) {
  __shared__ float tile[kThreads];
  int i = threadIdx.x;
  if (i < n) tile[i] = in[i];
  __syncthreads();
  out[i] = tile[kThreads - 1 - i];
}

__global__ void initialised_shared(float* out, const float* in, int n) {
  __shared__ float tile[kThreads];
  int i = threadIdx.x;
  tile[i] = i < n ? in[i] : 0;
  __syncthreads();
  out[i] = tile[kThreads - 1 - i];
}

// ---- barriers and shared memory

__device__ float warp_sum(float v) {
  for (int o = 16; o > 0; o /= 2) v += __shfl_xor_sync(kAll, v, o);
  return v;
}

template <bool kFirst, bool kSecond>
__device__ void tree_sum(float* out, const float* in, int n) {
  __shared__ float part[kThreads];
  int i = threadIdx.x;
  float v = 0;
  for (int j = thread_of_grid(); j < n; j += gridDim.x * blockDim.x) v += in[j];
  part[i] = v;
  if (kFirst) __syncthreads();
  for (int o = kThreads / 2; o > 0; o /= 2) {
    if (i < o) part[i] += part[i + o];
    if (kSecond) __syncthreads();
  }
  if (i == 0) out[blockIdx.x] = part[0];
}

__global__ void tree(float* out, const float* in, int n) { tree_sum<true, true>(out, in, n); }
__global__ void tree_without_first_barrier(float* out, const float* in, int n) {
  tree_sum<false, true>(out, in, n);
}
__global__ void tree_without_inner_barrier(float* out, const float* in, int n) {
  tree_sum<true, false>(out, in, n);
}

template <bool kBarrier>
__device__ void two_rounds(float* out, const float* in, int n) {
  __shared__ float part[kThreads / 32];
  int i = threadIdx.x;
  for (int round = 0; round < 2; ++round) {
    float v = warp_sum(in[i] * (round + 1));
    if (i % 32 == 0) part[i / 32] = v;
    __syncthreads();
    float total = 0;
    for (int w = 0; w < kThreads / 32; ++w) total += part[w];
    if (i == 0) out[round] = total;
    if (kBarrier) __syncthreads();
  }
}

__global__ void rounds(float* out, const float* in, int n) { two_rounds<true>(out, in, n); }
// the next round writes what slower warps still read
__global__ void rounds_without_second_barrier(float* out, const float* in, int n) {
  two_rounds<false>(out, in, n);
}

__global__ void same_place_written_twice(float* out, const float* in, int n) {
  __shared__ float one;
  one = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = one;
}

template <bool kSync>
__device__ void exchange_in_warp(float* out, const float* in) {
  __shared__ float tile[kThreads];
  int i = threadIdx.x;
  tile[i] = in[i];
  if (kSync) __syncwarp();
  out[i] = tile[i ^ 1];
}

__global__ void warp_exchange(float* out, const float* in, int n) {
  exchange_in_warp<true>(out, in);
}
__global__ void warp_exchange_without_sync(float* out, const float* in, int n) {
  exchange_in_warp<false>(out, in);
}

// a warp barrier does not order two warps
__global__ void block_exchange_with_warp_sync(float* out, const float* in, int n) {
  __shared__ float tile[kThreads];
  int i = threadIdx.x;
  tile[i] = in[i];
  __syncwarp();
  out[i] = tile[kThreads - 1 - i];
}

__global__ void barrier_in_branch(float* out, const float* in, int n) {
  int i = threadIdx.x;
  if (i < 40) {
    __syncthreads();
    out[i] = in[i];
  } else {
    out[i] = 0;
  }
}

__global__ void barrier_after_exit(float* out, const float* in, int n) {
  __shared__ float tile[kThreads];
  int i = thread_of_grid();
  if (i >= n) return;
  tile[threadIdx.x] = in[i];
  __syncthreads();
  out[i] = tile[threadIdx.x ^ 1];
}

__global__ void two_barriers(float* out, const float* in, int n) {
  int i = threadIdx.x;
  if (i % 2) {
    __syncthreads();
    out[i] = 1;
  } else {
    __syncthreads();
    out[i] = in[i];
  }
}

__global__ void barrier_in_uneven_loop(float* out, const float* in, int n) {
  int i = threadIdx.x;
  float v = 0;
  for (int j = i; j < n; j += kThreads) {
    v += in[j];
    __syncthreads();
  }
  out[i] = v;
}

__global__ void named_barriers(float* out, const float* in, int n) {
  __shared__ float tile[kThreads];
  int i = threadIdx.x, half = i / 64;
  tile[i] = in[i];
  asm volatile("bar.sync %0, 64;" ::"r"(half + 1) : "memory");
  out[i] = tile[half * 64 + 63 - i % 64];
}

__global__ void named_barrier_for_too_few(float* out, const float* in, int n) {
  __shared__ float tile[kThreads];
  int i = threadIdx.x, half = i / 64;
  tile[i] = in[i];
  asm volatile("bar.sync %0, 64;" ::"r"(half + 1) : "memory");
  out[i] = tile[kThreads - 1 - i];
}

__global__ void barrier_counts(float* out, const float* in, int n) {
  int i = threadIdx.x;
  int count = __syncthreads_count(in[i] > 0);
  int some = __syncthreads_or(in[i] > 100), every = __syncthreads_and(in[i] < 100);
  out[i] = count + 1000 * some + 10000 * every;
}

__global__ void shared_atomics(float* out, const float* in, int n) {
  __shared__ int bins[4];
  int i = threadIdx.x;
  if (i < 4) bins[i] = 0;
  __syncthreads();
  atomicAdd(&bins[i % 4], i);
  __syncthreads();
  if (i < 4) out[i] = bins[i];
}

__global__ void shared_atomics_without_barrier(float* out, const float* in, int n) {
  __shared__ int bins[4];
  int i = threadIdx.x;
  if (i < 4) bins[i] = 0;
  __syncthreads();
  atomicAdd(&bins[i % 4], i);
  if (i < 4) out[i] = bins[i];
}

// ---- warps

__global__ void divergent_shuffle(float* out, const float* in, int n) {
  int i = threadIdx.x;
  float v = in[i];
  if (i % 32 < 16) v += __shfl_xor_sync(kAll, v, 1);
  out[i] = v;
}

__global__ void shuffle_in_branch(float* out, const float* in, int n) {
  int i = threadIdx.x;
  float v = in[i];
  if (i % 32 < 16) v += __shfl_xor_sync(0xffffu, v, 1);
  out[i] = v;
}

__global__ void shuffle_after_exit(float* out, const float* in, int n) {
  int i = thread_of_grid();
  if (i >= n) return;
  out[i] = warp_sum(in[i]);
}

__global__ void shuffle_reads_a_missing_lane(float* out, const float* in, int n) {
  int i = threadIdx.x;
  out[i] = in[i] + __shfl_down_sync(kAll, in[i], 16);
}

__global__ void shuffle_not_in_mask(float* out, const float* in, int n) {
  int i = threadIdx.x;
  out[i] = __shfl_sync(0xfffffffeu, in[i], 1);
}

__global__ void shuffle_reads_outside_mask(float* out, const float* in, int n) {
  int i = threadIdx.x;
  float v = in[i];
  if (i % 32 < 16) v += __shfl_xor_sync(0xffffu, v, 16);
  out[i] = v;
}

__global__ void vote_in_branch(float* out, const float* in, int n) {
  int i = threadIdx.x;
  if (in[i] > 0)
    out[i] = __ballot_sync(kAll, i % 2);
  else
    out[i] = 0;
}

__global__ void votes(float* out, const float* in, int n) {
  int i = threadIdx.x;
  unsigned up = __ballot_sync(kAll, in[i] > 0);
  int any = __any_sync(kAll, in[i] > 2), all = __all_sync(kAll, in[i] < 100);
  out[i] = __popc(up) + 100 * any + 1000 * all;
}

__global__ void warp_sums(float* out, const float* in, int n) {
  int i = thread_of_grid();
  float v = warp_sum(i < n ? in[i] : 0);
  if (i < n) out[i] = v;
}

__global__ void matches(float* out, const float* in, int n) {
  int i = threadIdx.x;
  unsigned same = __match_any_sync(kAll, i % 3);
  int all;
  unsigned every = __match_all_sync(kAll, i / 32, &all);
#if __CUDA_ARCH__ >= 800
  unsigned sum = __reduce_add_sync(kAll, i), top = __reduce_max_sync(kAll, i);
#else
  unsigned sum = warp_sum(i), top = i | 31;
#endif
  out[i] = __popc(same) + 100 * __popc(every) * all + sum + top;
}

// ---- between blocks

__global__ void race_between_blocks(float* out, const float* in, int n) {
  int i = thread_of_grid();
  if (i < n) out[i % 100] = in[i];
}

__global__ void accumulate_without_atomics(float* out, const float* in, int n) {
  int i = thread_of_grid();
  if (i < n) out[0] += in[i];
}

__global__ void accumulate(float* out, const float* in, int n) {
  int i = thread_of_grid();
  if (i < n) atomicAdd(out, in[i]);
}

__global__ void shift_in_place(float* out, const float* in, int n) {
  int i = thread_of_grid();
  if (i + 1 < n) out[i] = out[i + 1];
}

__global__ void double_in_place(float* out, const float* in, int n) {
  int i = thread_of_grid();
  if (i < n) out[i] = 2 * out[i];
}

__global__ void neighbouring_bytes(unsigned char* out, const float* in, int n) {
  int i = thread_of_grid();
  if (i < n) out[i] = static_cast<unsigned char>(in[i]);
}

__device__ unsigned counter;

// the last block to finish adds what the others left
template <bool kFence, bool kSync>
__device__ void last_block_sum(float* out, const float* in, int n) {
  __shared__ bool last;
  float v = warp_sum(threadIdx.x < 32 ? in[blockIdx.x * 32 + threadIdx.x % 32] : 0);
  if (threadIdx.x == 0) {
    out[1 + blockIdx.x] = v;
    if (kFence) __threadfence();
    unsigned before = atomicInc(&counter, gridDim.x - 1);
    if (kFence) __threadfence();
    last = before == gridDim.x - 1;
  }
  if (kSync) __syncthreads();
  if (last && threadIdx.x == 0) {
    float total = 0;
    for (int b = 0; b < gridDim.x; ++b) total += out[1 + b];
    out[0] = total;
  }
}

__global__ void last_block(float* out, const float* in, int n) {
  last_block_sum<true, true>(out, in, n);
}
__global__ void last_block_without_fence(float* out, const float* in, int n) {
  last_block_sum<false, true>(out, in, n);
}
__global__ void last_block_without_barrier(float* out, const float* in, int n) {
  last_block_sum<true, false>(out, in, n);
}

// ---- the rest

__global__ void endless(float* out, const float* in, int n) {
  volatile float* o = out;
  while (o[0] == 0) {
  }
}

__global__ void trap(float* out, const float* in, int n) {
  if (in[threadIdx.x] < 0) __trap();
  out[threadIdx.x] = 0;
}

// a loop over an array inside a parameter
__global__ void strided(float* out, const float* in, int n, Strides shape) {
  int i = thread_of_grid();
  if (i >= n) return;
  int64_t rest = i, offset = 0;
  for (int d = shape.dimensions - 1; d >= 0; --d) {
    offset += rest % shape.sizes[d] * shape.strides[d];
    rest /= shape.sizes[d];
  }
  out[i] = in[offset];
}

__constant__ float table[4] = {1, 2, 4, 8};

__global__ void constants(float* out, const float* in, int n) {
  int i = thread_of_grid();
  if (i < n) out[i] = in[i] * table[i % 4];
}

__global__ void dynamic_shared(float* out, const float* in, int n) {
  extern __shared__ float tile[];
  int i = threadIdx.x;
  tile[i] = in[i];
  __syncthreads();
  out[i] = tile[blockDim.x - 1 - i];
}

}  // namespace

// grid and block may be 0: enough blocks of the usual size
#define LAUNCHER(kernel, Out, In)                                                      \
  extern "C" int launch_##kernel(Out* out, const In* in, int n, int grid, int block) { \
    kernel<<<grid ? grid : blocks(n), block ? block : kThreads>>>(out, in, n);         \
    return cudaGetLastError();                                                         \
  }

LAUNCHER(scale, float, float)
LAUNCHER(scale_without_bound, float, float)
LAUNCHER(scale_off_by_one, float, float)
LAUNCHER(scale_without_tail, float, float)
LAUNCHER(scale_with_tail, float, float)
LAUNCHER(vector_past_the_end, float, float)
LAUNCHER(read_before_the_start, float, float)
LAUNCHER(difference, float, float)
LAUNCHER(shared_out_of_bounds, float, float)
LAUNCHER(local_out_of_bounds, float, float)
LAUNCHER(local_array, float, float)
LAUNCHER(write_outside, float, float)
LAUNCHER(write_through_a_wild_pointer, float, float)
LAUNCHER(vectors, float, float)
LAUNCHER(vectors_of_halves, __half, __half)
LAUNCHER(output_with_a_hole, float, float)
LAUNCHER(reads_its_output, float, float)
LAUNCHER(uninitialised_shared, float, float)
LAUNCHER(initialised_shared, float, float)
LAUNCHER(tree, float, float)
LAUNCHER(tree_without_first_barrier, float, float)
LAUNCHER(tree_without_inner_barrier, float, float)
LAUNCHER(rounds, float, float)
LAUNCHER(rounds_without_second_barrier, float, float)
LAUNCHER(same_place_written_twice, float, float)
LAUNCHER(warp_exchange, float, float)
LAUNCHER(warp_exchange_without_sync, float, float)
LAUNCHER(block_exchange_with_warp_sync, float, float)
LAUNCHER(barrier_in_branch, float, float)
LAUNCHER(barrier_after_exit, float, float)
LAUNCHER(two_barriers, float, float)
LAUNCHER(barrier_in_uneven_loop, float, float)
LAUNCHER(named_barriers, float, float)
LAUNCHER(named_barrier_for_too_few, float, float)
LAUNCHER(barrier_counts, float, float)
LAUNCHER(shared_atomics, float, float)
LAUNCHER(shared_atomics_without_barrier, float, float)
LAUNCHER(divergent_shuffle, float, float)
LAUNCHER(shuffle_in_branch, float, float)
LAUNCHER(shuffle_after_exit, float, float)
LAUNCHER(shuffle_reads_a_missing_lane, float, float)
LAUNCHER(shuffle_not_in_mask, float, float)
LAUNCHER(shuffle_reads_outside_mask, float, float)
LAUNCHER(vote_in_branch, float, float)
LAUNCHER(votes, float, float)
LAUNCHER(warp_sums, float, float)
LAUNCHER(matches, float, float)
LAUNCHER(race_between_blocks, float, float)
LAUNCHER(accumulate_without_atomics, float, float)
LAUNCHER(accumulate, float, float)
LAUNCHER(shift_in_place, float, float)
LAUNCHER(double_in_place, float, float)
LAUNCHER(neighbouring_bytes, unsigned char, float)
LAUNCHER(last_block, float, float)
LAUNCHER(last_block_without_fence, float, float)
LAUNCHER(last_block_without_barrier, float, float)
LAUNCHER(endless, float, float)
LAUNCHER(trap, float, float)
LAUNCHER(constants, float, float)

#define ROWS_LAUNCHER(kernel)                                                                   \
  extern "C" int launch_##kernel(float* out, const float* in, int n, int columns, int stride) { \
    kernel<<<blocks(n), kThreads>>>(out, in, n, columns, stride);                               \
    return cudaGetLastError();                                                                  \
  }

ROWS_LAUNCHER(rows)
ROWS_LAUNCHER(rows_with_wrong_stride)
ROWS_LAUNCHER(rows_with_swapped_strides)

extern "C" int launch_index_overflows(float* out, const float* in, int n, int stride) {
  index_overflows<<<blocks(n), kThreads>>>(out, in, n, stride);
  return cudaGetLastError();
}

extern "C" int launch_index_in_64_bits(float* out, const float* in, int n, int stride) {
  index_in_64_bits<<<blocks(n), kThreads>>>(out, in, n, stride);
  return cudaGetLastError();
}

extern "C" int launch_strided(float* out, const float* in, int n, const Strides* shape) {
  strided<<<blocks(n), kThreads>>>(out, in, n, *shape);
  return cudaGetLastError();
}

extern "C" int launch_dynamic_shared(float* out, const float* in, int n, int bytes) {
  dynamic_shared<<<1, n, bytes>>>(out, in, n);
  return cudaGetLastError();
}

// ---- calls of the runtime library

extern "C" int set_table(const float* values) {
  return cudaMemcpyToSymbol(table, values, sizeof table);
}

extern "C" int scale_through_workspace(float* out, const float* in, int n) {
  float* workspace = nullptr;
  if (auto error = cudaMallocAsync(&workspace, n * sizeof(float), nullptr)) return error;
  scale<<<blocks(n), kThreads>>>(workspace, in, n);
  scale<<<blocks(n), kThreads>>>(out, workspace, n);
  cudaFreeAsync(workspace, nullptr);
  return cudaGetLastError();
}

extern "C" int use_after_free(float* out, int n) {
  float* workspace = nullptr;
  cudaMalloc(&workspace, n * sizeof(float));
  cudaMemset(workspace, 0, n * sizeof(float));
  cudaFree(workspace);
  scale<<<blocks(n), kThreads>>>(out, workspace, n);
  return cudaGetLastError();
}

extern "C" int copy_then_scale(float* out, const float* host, int n) {
  float* workspace = nullptr;
  cudaMalloc(&workspace, n * sizeof(float));
  cudaMemcpyAsync(workspace, host, n * sizeof(float), cudaMemcpyHostToDevice, nullptr);
  scale<<<blocks(n), kThreads>>>(out, workspace, n);
  cudaFree(workspace);
  return cudaGetLastError();
}

extern "C" int multiprocessors() {
  int device = -1, count = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  return count;
}

extern "C" int resident_blocks(int threads) {
  int count = 0;
  cudaOccupancyMaxActiveBlocksPerMultiprocessor(&count, tree, threads, 0);
  return count;
}

extern "C" int static_shared_bytes() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, tree) ? -1
                                                  : static_cast<int>(attributes.sharedSizeBytes);
}

extern "C" const char* error_text(int error) {
  return cudaGetErrorString(static_cast<cudaError_t>(error));
}

extern "C" int streams_and_events() {
  cudaStream_t stream;
  cudaEvent_t start, stop;
  float milliseconds = -1;
  cudaStreamCreate(&stream);
  cudaEventCreate(&start);
  cudaEventCreateWithFlags(&stop, cudaEventDisableTiming);
  cudaEventRecord(start, stream);
  cudaEventRecord(stop, stream);
  cudaStreamWaitEvent(stream, stop, 0);
  cudaEventSynchronize(stop);
  cudaEventElapsedTime(&milliseconds, start, stop);
  cudaStreamSynchronize(stream);
  cudaEventDestroy(start);
  cudaEventDestroy(stop);
  cudaStreamDestroy(stream);
  return milliseconds == 0 ? cudaGetLastError() : -1;
}

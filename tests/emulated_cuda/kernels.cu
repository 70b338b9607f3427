// Kernels that are right and kernels that are wrong: what the emulator must make of them (test_emulator.py).
#include <cuda_runtime.h>

#include <cstdio>
#include <exception>
#include <string>

constexpr int kThreads = 64, kBlocks = 3;

// out[block] = the sum of 0 to kThreads - 1, by way of shared memory.
template <bool kBarrier>
__global__ void __launch_bounds__(kThreads) block_sum(int* out) {
  __shared__ int shared[kThreads];
  shared[threadIdx.x] = threadIdx.x;
  if (kBarrier) __syncthreads();
  if (threadIdx.x == kThreads / 2) {
    int sum = 0;
    for (const int each : shared) sum += each;
    out[blockIdx.x] = sum;
  }
  __syncthreads();
  shared[threadIdx.x] = 0;
}

__global__ void warp_sum(int* out) {
  int sum = threadIdx.x;
  for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
  const int warps = __syncthreads_count(threadIdx.x % 32 == 0);
  if (threadIdx.x % 32 == 0) atomicAdd(out + blockIdx.x, sum);
  if (threadIdx.x == 0) atomicAdd(out + blockIdx.x, 1000 * warps);
}

__global__ void different_barriers() {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void missing_lane() {
  if (threadIdx.x == 5) return;
  __shfl_xor_sync(0xffffffffu, 1, 16);
}

__global__ void trap() {
  if (threadIdx.x == 7) __trap();
}

int main(int, char** arguments) {
  const std::string name = arguments[1];
  int out[kBlocks] = {};
  const dim3 grid(kBlocks);
  try {
    if (name == "block_sum") block_sum<true><<<grid, kThreads, 0, nullptr>>>(out);
    if (name == "missing_barrier") block_sum<false><<<grid, kThreads, 0, nullptr>>>(out);
    if (name == "warp_sum") warp_sum<<<grid, kThreads>>>(out);
    if (name == "different_barriers") different_barriers<<<grid, kThreads>>>();
    if (name == "missing_lane") missing_lane<<<grid, kThreads>>>();
    if (name == "trap") trap<<<grid, kThreads>>>();
  } catch (const std::exception& error) {
    std::puts(error.what());
    return 1;
  }
  for (const int each : out) std::printf("%d ", each);
}

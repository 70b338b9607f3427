// What the kernels use of CUDA, for a C++ compiler without a GPU. A kernel is a function; the threads of a block are
// fibers of one thread of the CPU (emulator.cpp), and one block runs after another.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <source_location>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static  // one block runs at a time

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace zsu::emulation {

using Site = std::source_location;

// Runs `kernel` once for every thread. Throws std::runtime_error where threads wait for each other in vain: at
// different barriers, or for a lane that has left.
void launch(dim3 grid, dim3 block, const std::function<void()>& kernel);

// The sum of `value` over the threads of the block, when all have come here.
int meet_block(int value, Site site);

// What the lane `lane ^ distance` of the warp has brought, when all have come here.
uint64_t meet_warp(uint64_t value, int distance, Site site);

[[noreturn]] void trap();

}  // namespace zsu::emulation

inline void __syncthreads(std::source_location site = std::source_location::current()) {
  zsu::emulation::meet_block(0, site);
}

inline int __syncthreads_count(int predicate, std::source_location site = std::source_location::current()) {
  return zsu::emulation::meet_block(predicate != 0, site);
}

template <class T>
T __shfl_xor_sync(unsigned, T value, int distance, std::source_location site = std::source_location::current()) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = zsu::emulation::meet_warp(bits, distance, site);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

inline void __threadfence() {}  // one block runs after another

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
[[noreturn]] inline void __trap() { zsu::emulation::trap(); }

template <class T>
T atomicAdd(T* target, T value) {
  const T old = *target;
  *target += value;
  return old;
}

using std::max;
using std::min;

// The host's side: one device with two multiprocessors, whose streams are done at once.
using cudaStream_t = void*;
using cudaError_t = int;
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor,
};

inline cudaError_t cudaGetLastError() { return 0; }
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return 0;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? 2 : 0;
  return 0;
}
inline cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t) {
  std::memset(memory, value, bytes);
  return 0;
}

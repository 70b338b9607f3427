// CUDA: the current stream, device, launch check and grid of a pass.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <algorithm>

#include "common/check.h"
#include "common/dispatch.h"

#define ZSU_LAUNCH_CHECK() STD_CUDA_KERNEL_LAUNCH_CHECK()
#define ZSU_CUDA_CHECK(expression) STD_CUDA_CHECK(expression)

namespace zsu {

// Makes the device of a tensor current until the end of the scope.
using DeviceGuard = torch::stable::accelerator::DeviceGuard;

inline cudaStream_t current_stream(const Tensor& t) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// Streaming multiprocessors of the current device, asked once per device.
inline int multiprocessor_count() {
  constexpr int kDevices = 64;
  static int counts[kDevices] = {};  // a race writes the same number twice
  int device = 0;
  ZSU_CUDA_CHECK(cudaGetDevice(&device));
  if (device >= kDevices || counts[device] == 0) {
    int count = 0;
    ZSU_CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
    if (device >= kDevices) return count;
    counts[device] = count;
  }
  return counts[device];
}

// Blocks for a grid-stride loop over `items`: enough for every item, at most `waves` blocks per multiprocessor.
inline unsigned grid_for(int64_t items, int block, int waves = 8) {
  const int64_t needed = (items + block - 1) / block;
  return static_cast<unsigned>(std::clamp<int64_t>(needed, 1, int64_t{multiprocessor_count()} * waves));
}

// The device type of a dispatched scalar_t: CUDA's own half and bfloat16, whose conversions compile to instructions.
template <class T>
struct DeviceType {
  using type = T;
};
template <>
struct DeviceType<torch::headeronly::Half> {
  using type = __half;
};
template <>
struct DeviceType<torch::headeronly::BFloat16> {
  using type = __nv_bfloat16;
};
template <class T>
using device_t = typename DeviceType<T>::type;

template <class T>
const device_t<T>* device_data(const Tensor& t) {
  return static_cast<const device_t<T>*>(t.const_data_ptr());
}
template <class T>
device_t<T>* mutable_device_data(const Tensor& t) {
  return static_cast<device_t<T>*>(t.mutable_data_ptr());
}

// N values in one access.
template <class T, int N>
struct alignas(sizeof(T) * N) Vector {
  T values[N];
};

// Writes them in one access. Spelt out for 16 bytes: a plain assignment may be compiled to four stores.
template <class T, int N>
__device__ __forceinline__ void store(T* target, const Vector<T, N>& vector) {
  if constexpr (sizeof(vector) == sizeof(uint4)) {
    const uint4 bits = __builtin_bit_cast(uint4, vector);
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(target)), "r"(bits.x),
                 "r"(bits.y), "r"(bits.z), "r"(bits.w)
                 : "memory");
  } else {
    *reinterpret_cast<Vector<T, N>*>(target) = vector;
  }
}

template <class... Pointers>
bool aligned(int bytes, Pointers... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) % bytes == 0) && ...);
}

}  // namespace zsu

// Strided memory as a kernel argument.
#pragma once

#include "common/cuda.cuh"
#include "selection/strided.h"

namespace zsu {

// Division of numbers below 2^63, by 32-bit instructions where both fit, which are several times faster.
__device__ __forceinline__ int64_t quotient(int64_t a, int64_t b) {
  if (((uint64_t(a) | uint64_t(b)) >> 32) == 0) return int64_t(uint32_t(a) / uint32_t(b));
  return a / b;
}

template <int kMaxRank>
struct DeviceStrided {
  int rank = 0;
  int64_t numel = 1;
  int64_t sizes[kMaxRank] = {}, strides[kMaxRank] = {};

  DeviceStrided() = default;
  explicit DeviceStrided(const Strided& layout) : rank(int(layout.sizes.size())), numel(layout.numel) {
    ZSU_CHECK(layout.sizes.size() <= size_t(kMaxRank), "at most ", kMaxRank, " dimensions that do not merge");
    std::copy(layout.sizes.begin(), layout.sizes.end(), sizes);
    std::copy(layout.strides.begin(), layout.strides.end(), strides);
  }

  __host__ __device__ bool contiguous() const { return rank == 0 || (rank == 1 && strides[0] == 1); }

  __device__ __forceinline__ int64_t offset(int64_t index) const {
    if (contiguous()) return index;
    int64_t result = 0;
#pragma unroll
    for (int d = kMaxRank - 1; d > 0; --d) {
      if (d >= rank) continue;
      const int64_t rest = quotient(index, sizes[d]);
      result += (index - rest * sizes[d]) * strides[d];
      index = rest;
    }
    return result + index * strides[0];
  }
};

}  // namespace zsu

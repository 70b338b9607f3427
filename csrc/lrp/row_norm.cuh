// The CUDA form of the LayerNorm and RMSNorm gates: a warp or a block per row. The second reading of a row, after its
// mean is known, comes from the cache.
#pragma once

#include "common/cuda.cuh"
#include "lrp/norms.h"
#include "lrp/unit_pass.cuh"

namespace zsu::lrp {

template <int N, int kGroup, class Scalar, class T>
__global__ void __launch_bounds__(kThreads) row_norm_kernel(const RowNorm norm) {
  using Packed = Vector<Scalar, N>;
  constexpr int kGroups = kThreads / kGroup;
  const int lane = threadIdx.x % kGroup, group = threadIdx.x / kGroup;
  const T* weight = static_cast<const T*>(norm.weight);
  __shared__ T warp_sums[kThreads / kWarp];

  const auto load = [&](const Scalar* gradient, int64_t i, T(&values)[N]) {
    const Packed packed = *reinterpret_cast<const Packed*>(gradient + i);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      values[j] = static_cast<T>(packed.values[j]) * (weight ? weight[i + j] : T(1));
    }
  };

  // All threads of a block go through the same number of rounds: they meet at barriers.
  for (int64_t first = int64_t{blockIdx.x} * kGroups; first < norm.rows; first += int64_t{gridDim.x} * kGroups) {
    const int64_t row = min(first + group, norm.rows - 1);  // a group without a row of its own repeats the last one
    const Scalar* gradient = static_cast<const Scalar*>(norm.gradient) + row * norm.size;
    Scalar* output = static_cast<Scalar*>(norm.output) + row * norm.size;
    T mean = 0;
    if (norm.centred) {
      T sum = 0;
      for (int64_t i = int64_t{lane} * N; i < norm.size; i += kGroup * N) {
        T values[N];
        load(gradient, i, values);
#pragma unroll
        for (int j = 0; j < N; ++j) sum += values[j];
      }
#pragma unroll
      for (int distance = kWarp / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
      if constexpr (kGroup > kWarp) {
        if (threadIdx.x % kWarp == 0) warp_sums[threadIdx.x / kWarp] = sum;
        __syncthreads();
        sum = 0;
#pragma unroll
        for (int w = 0; w < kThreads / kWarp; ++w) sum += warp_sums[w];
        __syncthreads();  // before the next round overwrites them
      }
      mean = sum / static_cast<T>(norm.size);
    }
    if (first + group >= norm.rows) continue;
    const T rstd = static_cast<const T*>(norm.rstd)[row];
    for (int64_t i = int64_t{lane} * N; i < norm.size; i += kGroup * N) {
      T values[N];
      load(gradient, i, values);
      Packed packed;
#pragma unroll
      for (int j = 0; j < N; ++j) packed.values[j] = static_cast<Scalar>((values[j] - mean) * rstd);
      *reinterpret_cast<Packed*>(output + i) = packed;
    }
  }
}

template <class HostScalar>
struct RowNormCuda {
  using Scalar = device_t<HostScalar>;
  using T = accumulate_t<HostScalar>;
  static constexpr int N = 16 / sizeof(Scalar);

  static void run(const RowNorm& norm, cudaStream_t stream) {
    const bool packed = norm.size % N == 0 && aligned(16, norm.gradient, norm.output);
    if (norm.size <= 16 * kWarp) {
      packed ? launch<N, kWarp>(norm, stream) : launch<1, kWarp>(norm, stream);
    } else {
      packed ? launch<N, kThreads>(norm, stream) : launch<1, kThreads>(norm, stream);
    }
  }

 private:
  template <int kWidth, int kGroup>
  static void launch(const RowNorm& norm, cudaStream_t stream) {
    const unsigned grid = grid_for(norm.rows * kGroup, kThreads, 16);
    row_norm_kernel<kWidth, kGroup, Scalar, T><<<grid, kThreads, 0, stream>>>(norm);
    ZSU_LAUNCH_CHECK();
  }
};

}  // namespace zsu::lrp

// The CUDA form of the LayerNorm and RMSNorm gates: a warp or a block per row. A row is kept in registers between its
// mean and its result; what of a very long one does not fit is read again, from the cache.
#pragma once

#include "common/cuda.cuh"
#include "lrp/norms.h"
#include "lrp/unit_pass_kernels.cuh"

namespace zsu::lrp {

constexpr int kMostHeld = 8;  // packs of a row that a thread keeps at most

// Blocks of a multiprocessor: the fewer packs are kept, the more rows can be under way.
constexpr int blocks_with(int held) { return held <= 2 ? 5 : held <= 4 ? 4 : 2; }

// N values of gradient * weight from `i` on.
template <int N, class Scalar, class T>
__device__ __forceinline__ void weighted(const Vector<Scalar, N>& gradient, const T* weight, int64_t i,
                                         T (&values)[N]) {
#pragma unroll
  for (int j = 0; j < N; ++j) values[j] = static_cast<T>(gradient.values[j]);
  if (weight == nullptr) return;  // uniform over the grid
  constexpr int kWide = N * sizeof(T) < 16 ? N : 16 / sizeof(T);
#pragma unroll
  for (int j = 0; j < N; j += kWide) {
    const auto wide = *reinterpret_cast<const Vector<T, kWide>*>(weight + i + j);
#pragma unroll
    for (int w = 0; w < kWide; ++w) values[j + w] *= wide.values[w];
  }
}

template <int N, int kGroup, int kHeld, class Scalar, class T>
__global__ void __launch_bounds__(kThreads, blocks_with(kHeld)) row_norm_kernel(const RowNorm norm) {
  using Packed = Vector<Scalar, N>;
  constexpr int kGroups = kThreads / kGroup;
  const int lane = threadIdx.x % kGroup, group = threadIdx.x / kGroup;
  const T* weight = static_cast<const T*>(norm.weight);
  __shared__ T warp_sums[kThreads / kWarp];

  // All threads of a block go through the same number of rounds: they meet at barriers.
  for (int64_t first = int64_t{blockIdx.x} * kGroups; first < norm.rows; first += int64_t{gridDim.x} * kGroups) {
    const int64_t row = min(first + group, norm.rows - 1);  // a group without a row of its own repeats the last one
    const Scalar* gradient = static_cast<const Scalar*>(norm.gradient) + row * norm.size;
    Scalar* output = static_cast<Scalar*>(norm.output) + row * norm.size;
    const T rstd = static_cast<const T*>(norm.rstd)[row];
    Packed held[kHeld];
#pragma unroll
    for (int k = 0; k < kHeld; ++k) {
      const int64_t i = int64_t{k * kGroup + lane} * N;
      if (i < norm.size) held[k] = *reinterpret_cast<const Packed*>(gradient + i);
    }

    // Calls use(i, values) for every pack of this thread.
    const auto for_packs_of_row = [&](const auto& use) {
      T values[N];
#pragma unroll
      for (int k = 0; k < kHeld; ++k) {
        const int64_t i = int64_t{k * kGroup + lane} * N;
        if (i < norm.size) {
          weighted(held[k], weight, i, values);
          use(i, values);
        }
      }
      for (int64_t i = int64_t{kHeld * kGroup + lane} * N; i < norm.size; i += kGroup * N) {
        weighted(*reinterpret_cast<const Packed*>(gradient + i), weight, i, values);
        use(i, values);
      }
    };

    T mean = 0;
    if (norm.centred) {
      T sum = 0;
      for_packs_of_row([&](int64_t, const T(&values)[N]) {
#pragma unroll
        for (int j = 0; j < N; ++j) sum += values[j];
      });
      sum = warp_sum(sum);
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
    for_packs_of_row([&](int64_t i, const T(&values)[N]) {
      Packed packed;
#pragma unroll
      for (int j = 0; j < N; ++j) packed.values[j] = static_cast<Scalar>((values[j] - mean) * rstd);
      store(output + i, packed);
    });
  }
}

template <class HostScalar>
struct RowNormCuda {
  using Scalar = device_t<HostScalar>;
  using T = accumulate_t<HostScalar>;
  static constexpr int N = 16 / sizeof(Scalar);

  static void run(const RowNorm& norm, cudaStream_t stream) {
    if (norm.size % N == 0 && aligned(16, norm.gradient, norm.weight, norm.output)) {
      launch<N>(norm, stream);
    } else {
      launch<1>(norm, stream);
    }
  }

 private:
  template <int kWidth>
  static void launch(const RowNorm& norm, cudaStream_t stream) {
    if (norm.size <= kWarp * kWidth * kMostHeld) {
      launch<kWidth, kWarp, 1>(norm, stream);
    } else {
      launch<kWidth, kThreads, 2>(norm, stream);  // more than with a pack for each, or a warp would do
    }
  }

  // With no more packs than the row needs.
  template <int kWidth, int kGroup, int kHeld>
  static void launch(const RowNorm& norm, cudaStream_t stream) {
    if constexpr (kHeld < kMostHeld) {
      if (norm.size > kGroup * kWidth * kHeld) return launch<kWidth, kGroup, 2 * kHeld>(norm, stream);
    }
    const unsigned grid = grid_for(norm.rows * kGroup, kThreads, 16);
    row_norm_kernel<kWidth, kGroup, kHeld, Scalar, T><<<grid, kThreads, 0, stream>>>(norm);
    ZSU_LAUNCH_CHECK();
  }
};

}  // namespace zsu::lrp

// Of CUB, the exclusive sum over a block, in its own words: `storage` may be used again behind a barrier only.
#pragma once

#include <cuda_runtime.h>

namespace cub {

template <class T, int kThreads>
class BlockScan {
 public:
  struct TempStorage {
    T sums[kThreads + 1];
  };

  explicit BlockScan(TempStorage& storage) : storage_(storage) {}

  void ExclusiveSum(T input, T& output, T& total) {
    storage_.sums[threadIdx.x + 1] = input;
    __syncthreads();
    if (threadIdx.x == 0) {
      storage_.sums[0] = 0;
      for (int i = 1; i <= kThreads; ++i) storage_.sums[i] += storage_.sums[i - 1];
    }
    __syncthreads();
    output = storage_.sums[threadIdx.x];
    total = storage_.sums[kThreads];
  }

  void ExclusiveSum(T input, T& output) {
    T total;
    ExclusiveSum(input, output, total);
  }

  template <int kItems>
  void ExclusiveSum(const T (&input)[kItems], T (&output)[kItems]) {
    T sum = 0, before;
    for (const T each : input) sum += each;
    ExclusiveSum(sum, before);
    for (int i = 0; i < kItems; ++i) {
      const T each = input[i];
      output[i] = before;
      before += each;
    }
  }

 private:
  TempStorage& storage_;
};

}  // namespace cub

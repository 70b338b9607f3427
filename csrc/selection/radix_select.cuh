// Radix selection on the device: the key of the k-th largest score, digit by digit from the top.
//
// Each pass counts, among the scores whose higher digits are known to be right, how often each value of the next digit
// occurs; the digit is the one where the counts, summed from the largest down, reach k. Counts are integers, so neither
// the grid nor the order of the atomics shows in the result.
#pragma once

#include <cub/block/block_scan.cuh>

#include "common/cuda.cuh"
#include "selection/order_key.h"

namespace zsu {

constexpr int kDigitBits = 11;
constexpr int kBins = 1 << kDigitBits;
constexpr int kSelectThreads = 512;
constexpr int kLoads = 4;  // scores that a thread of such a block has under way

template <class Format>
constexpr int kPasses = (Format::kBits + kDigitBits - 1) / kDigitBits;

// Lowest bit of the digit of a pass; the last digit is narrower where the digits do not fill the key.
template <class Format>
__host__ __device__ constexpr int digit_shift(int pass) {
  const int shift = Format::kBits - (pass + 1) * kDigitBits;
  return shift > 0 ? shift : 0;
}

template <class Format>
__host__ __device__ constexpr int digit_width(int pass) {
  return Format::kBits - digit_shift<Format>(pass) - pass * kDigitBits;
}

// Counts `key` if its digits above the pass's are `prefix`.
template <class Format>
__device__ __forceinline__ void count_digit(typename Format::Bits key, int pass, uint64_t prefix, unsigned* histogram) {
  const int shift = digit_shift<Format>(pass), width = digit_width<Format>(pass);
  if (pass > 0 && (uint64_t(key) >> (shift + width)) != prefix) return;
  // Scores share exponents and ReLU makes zeros: of lanes that meet in one bin, the hardware adds up the ones.
  atomicAdd(histogram + (unsigned(uint64_t(key) >> shift) & ((1u << width) - 1)), 1u);
}

// True for all threads of the block that comes here last of its grid: what the others wrote before, it sees. `arrived`
// is zero before and after. Synchronises.
__device__ __forceinline__ bool last_block(unsigned* arrived) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(arrived, 1u) == gridDim.x - 1;
    if (last) *arrived = 0;
  }
  __syncthreads();
  if (last) __threadfence();
  return last;
}

struct DigitChoice {
  unsigned digit;
  int64_t above;  // keys with a larger digit
  int64_t count;  // keys with this digit
};

// The digit at which the counts from the largest down reach `rank` (from 1). Called by a block of kBlock threads, which
// all receive the choice; synchronises before it reads `histogram` and before it returns.
template <int kBlock, class Count>
__device__ DigitChoice choose_digit(const Count* histogram, int64_t rank) {
  using Scan = cub::BlockScan<Count, kBlock>;
  constexpr int kBinsPerThread = kBins / kBlock;
  __shared__ typename Scan::TempStorage storage;
  __shared__ DigitChoice choice;
  __syncthreads();
  if (threadIdx.x == 0) choice = {0, 0, 0};  // should the scores change meanwhile, so that no digit reaches the rank
  __syncthreads();
  const int highest = kBins - 1 - int(threadIdx.x) * kBinsPerThread;
  Count before = 0;
  for (int i = 0; i < kBinsPerThread; ++i) before += histogram[highest - i];
  Scan(storage).ExclusiveSum(before, before);
  for (int i = 0; i < kBinsPerThread; ++i) {  // they are read again: kept, they would take the registers of the loops
    const auto above = int64_t(before), count = int64_t(histogram[highest - i]);
    if (above < rank && rank <= above + count) choice = {unsigned(highest - i), above, count};
    before += histogram[highest - i];
  }
  __syncthreads();
  return choice;
}

// Called by every thread of a block with its flag, in the order of the threads: the thread's rank among those that are
// set (from 0), and how many are set. Synchronises.
struct FlagScan {
  int rank, total;
};

template <int kThreads>
__device__ FlagScan scan_flags(int flags) {
  using Scan = cub::BlockScan<int, kThreads>;
  __shared__ typename Scan::TempStorage storage;
  FlagScan result;
  __syncthreads();  // the storage may still be in use by the scan before
  Scan(storage).ExclusiveSum(flags, result.rank, result.total);
  return result;
}

// Selected are the keys above `key`, and of those equal to it the ones of an index below `tie_limit`.
template <class Format>
struct BlockSelection {
  typename Format::Bits key;
  int64_t tie_limit;

  __device__ __forceinline__ bool holds(typename Format::Bits other, int64_t index) const {
    return other > key || (other == key && index < tie_limit);
  }
};

// The k largest of key_at(0) .. key_at(n - 1), 1 <= k <= n, by one block of kSelectThreads. Synchronises.
template <class Format, class KeyAt>
__device__ BlockSelection<Format> select_in_block(int64_t n, int64_t k, KeyAt key_at) {
  __shared__ unsigned histogram[kBins];
  __shared__ int64_t tie_limit;
  uint64_t prefix = 0;
  int64_t rank = k, equal = 0;
  for (int pass = 0; pass < kPasses<Format>; ++pass) {
    for (int bin = threadIdx.x; bin < kBins; bin += kSelectThreads) histogram[bin] = 0;
    __syncthreads();
    for (int64_t first = threadIdx.x; first < n; first += kLoads * kSelectThreads) {
      typename Format::Bits keys[kLoads];  // all asked for before the first is counted
#pragma unroll
      for (int load = 0; load < kLoads; ++load) {
        const int64_t i = first + load * kSelectThreads;
        if (i < n) keys[load] = key_at(i);
      }
#pragma unroll
      for (int load = 0; load < kLoads; ++load) {
        if (first + load * kSelectThreads < n) count_digit<Format>(keys[load], pass, prefix, histogram);
      }
    }
    const DigitChoice choice = choose_digit<kSelectThreads>(histogram, rank);
    prefix = prefix << digit_width<Format>(pass) | choice.digit;
    rank -= choice.above;
    equal = choice.count;
  }
  const auto key = typename Format::Bits(prefix);

  // Of the `equal` keys at the threshold the first `rank` are taken: those below tie_limit.
  if (threadIdx.x == 0) tie_limit = n;
  __syncthreads();
  if (rank < equal) {
    int64_t left = rank;
    for (int64_t first = 0; left > 0 && first < n; first += kSelectThreads) {
      const int64_t i = first + threadIdx.x;
      const bool tie = i < n && key_at(i) == key;
      const FlagScan scan = scan_flags<kSelectThreads>(tie);
      if (tie && scan.rank + 1 == left) tie_limit = i + 1;
      left -= scan.total;
    }
    __syncthreads();
  }
  return {key, tie_limit};  // between this and the next selection's there are barriers
}

}  // namespace zsu

// Radix selection by a whole grid, for more scores than one block should read: the key of the k-th largest and the
// index below which its ties are taken.
//
//   histogram   once per digit of the key; the last block to finish chooses the digit. Once few keys begin with the
//               digits found, these candidates are collected: the rest is counted among them. Once all that begin with
//               the digits found are taken, nothing is left to find
//   count       ties (and, for records, selected scores) per chunk of the row-major order; the last block to finish
//               sums them up: the index below which ties are taken, and where each chunk's records begin
//
// The scores are read twice: for the first digit, and to collect the candidates. float64, whose first digit is less
// than its exponent, may need its second digit too before candidates are few. Where they never are, since many scores
// are equal (zeros, say), the scores are read for every digit. `count` reads them once more; it returns at once where
// every tie is taken and nothing is recorded. All this only the device knows: the host waits for nothing.
#pragma once

#include "selection/radix_select.cuh"
#include "selection/strided.cuh"

namespace zsu {

constexpr int kRank = 8;
constexpr int kThreads = 256;
constexpr int64_t kChunk = int64_t{1} << 14;  // scores, in row-major order, that one block counts and records
using Layout = DeviceStrided<kRank>;

// What the device knows of the selection, at the head of the scratch memory; zero at first.
struct State {
  uint64_t key;   // digits found so far, in the end the key of the k-th largest score, or a lower one above the next
  int64_t taken;  // how many scores with this key are selected ...
  int64_t equal;  // ... of how many
  int64_t tie_limit;  // those of a row-major index below this
  unsigned long long histogram[kBins];
  unsigned arrived;  // blocks that have finished
  unsigned unused;

  __device__ bool all_taken() const { return taken == equal; }
};

template <class Format>
struct DeviceScores {
  using Bits = typename Format::Bits;
  const Bits* data;
  Layout layout;
  bool absolute;

  DeviceScores(const void* data, const Strided& layout, bool absolute)
      : data(static_cast<const Bits*>(data)), layout(layout), absolute(absolute) {}

  bool by_vectors() const { return layout.contiguous() && aligned(16, data); }
  __device__ __forceinline__ Bits key(int64_t index) const { return Format::key(data[layout.offset(index)], absolute); }
};

// f(key, index) for the elements of a grid-stride loop; 16 bytes at a time where `vectorised`, the next already asked
// for while these are worked on.
template <class Format, class F>
__device__ __forceinline__ void for_each_key(const DeviceScores<Format>& scores, bool vectorised, F f) {
  using Bits = typename Format::Bits;
  constexpr int kWidth = 16 / sizeof(Bits);
  const int64_t n = scores.layout.numel, step = int64_t(gridDim.x) * blockDim.x;
  const int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t vectors = vectorised ? n / kWidth : 0;
  const auto* data = reinterpret_cast<const Vector<Bits, kWidth>*>(scores.data);
  Vector<Bits, kWidth> next = {};
  if (thread < vectors) next = data[thread];
  for (int64_t v = thread; v < vectors; v += step) {
    const Vector<Bits, kWidth> loaded = next;
    if (v + step < vectors) next = data[v + step];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) f(Format::key(loaded.values[i], scores.absolute), v * kWidth + i);
  }
  for (int64_t i = vectors * kWidth + thread; i < n; i += step) f(scores.key(i), i);
}

// The keys that begin with the digits found so far, to be read in place of the scores. Each block collects those of its
// share of the scores, which is the same in every pass: no two blocks meet in one counter, and a block of more
// candidates than it has room for goes on reading its scores.
template <class Bits>
struct Candidates {
  Bits* keys;        // `capacity` for each block
  unsigned* counts;  // of each block; above the capacity: not collected
  unsigned capacity;
};

template <class Format>
__global__ void __launch_bounds__(kThreads)
    histogram_kernel(const __grid_constant__ DeviceScores<Format> scores, bool vectorised, int pass, int64_t k,
                     Candidates<typename Format::Bits> candidates, State* state) {
  using Bits = typename Format::Bits;
  if (pass > 0 && state->all_taken()) {  // the digits not found are zeros: no key that begins so is lower
    if (blockIdx.x == 0 && threadIdx.x == 0) state->key <<= digit_width<Format>(pass);
    return;
  }
  __shared__ unsigned histogram[kBins], collected;
  for (int bin = threadIdx.x; bin < kBins; bin += kThreads) histogram[bin] = 0;
  if (threadIdx.x == 0) collected = 0;
  const unsigned capacity = candidates.capacity;
  unsigned count = pass > 0 ? candidates.counts[blockIdx.x] : capacity + 1;
  __syncthreads();

  const Bits prefix = Bits(state->key);
  Bits* const keys = candidates.keys + int64_t(blockIdx.x) * capacity;
  const bool few = state->equal <= int64_t(gridDim.x) * capacity;
  if (pass > 0 && pass + 1 < kPasses<Format> && few && count > capacity) {
    for_each_key(scores, vectorised, [&](Bits key, int64_t) {
      if (Bits(key >> digit_shift<Format>(pass - 1)) != prefix) return;
      const unsigned slot = atomicAdd(&collected, 1u);  // one atomic per warp: nvcc adds up the lanes
      if (slot < capacity) keys[slot] = key;
    });
    __syncthreads();
    count = collected;
  }
  if (threadIdx.x == 0) candidates.counts[blockIdx.x] = count;

  const auto count_key = [&](Bits key, int64_t) { count_digit<Format>(key, pass, prefix, histogram); };
  if (count > capacity) {
    for_each_key(scores, vectorised, count_key);
  } else {
    for (unsigned i = threadIdx.x; i < count; i += kThreads) count_key(keys[i], i);
  }
  __syncthreads();
  for (int bin = threadIdx.x; bin < kBins; bin += kThreads) {
    if (histogram[bin]) atomicAdd(state->histogram + bin, static_cast<unsigned long long>(histogram[bin]));
  }
  if (!last_block(&state->arrived)) return;

  const int64_t rank = pass == 0 ? k : state->taken;
  const DigitChoice choice = choose_digit<kThreads>(state->histogram, rank);
  for (int bin = threadIdx.x; bin < kBins; bin += kThreads) state->histogram[bin] = 0;
  if (threadIdx.x == 0) {
    state->key = state->key << digit_width<Format>(pass) | choice.digit;
    state->taken = rank - choice.above;
    state->equal = choice.count;
    state->tie_limit = scores.layout.numel;
  }
}

// The chunks' scores above the threshold and at it; then above[] becomes the number of selected scores before each
// chunk, and the tie limit is found.
template <class Format>
__global__ void __launch_bounds__(kThreads)
    count_kernel(const __grid_constant__ DeviceScores<Format> scores, bool record, State* state, int64_t chunks,
                 int64_t* above, int64_t* equal) {
  if (!record && state->all_taken()) return;
  using Bits = typename Format::Bits;
  const Bits threshold = Bits(state->key);
  for (int64_t chunk = blockIdx.x; chunk < chunks; chunk += gridDim.x) {
    const int64_t begin = chunk * kChunk, end = min(begin + kChunk, scores.layout.numel);
    int chunk_above = 0, chunk_equal = 0;
    for (int64_t first = begin; first < end; first += kThreads) {
      const int64_t i = first + threadIdx.x;
      const Bits key = i < end ? scores.key(i) : Bits(0);
      chunk_above += __syncthreads_count(i < end && key > threshold);
      chunk_equal += __syncthreads_count(i < end && key == threshold);
    }
    if (threadIdx.x == 0) {
      above[chunk] = chunk_above;
      equal[chunk] = chunk_equal;
    }
  }
  if (!last_block(&state->arrived)) return;

  using Scan = cub::BlockScan<int64_t, kThreads>;
  __shared__ typename Scan::TempStorage above_storage, equal_storage;
  __shared__ int64_t last_chunk, last_ties;  // the chunk where the ties run out, and how many it still takes
  const int64_t taken = state->taken;
  if (threadIdx.x == 0) last_chunk = last_ties = 0;  // should the scores have changed since they were counted
  const int64_t share = (chunks + kThreads - 1) / kThreads;
  const int64_t begin = min(int64_t(threadIdx.x) * share, chunks), end = min(begin + share, chunks);
  int64_t above_before = 0, equal_before = 0;
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    above_before += above[chunk];
    equal_before += equal[chunk];
  }
  Scan(above_storage).ExclusiveSum(above_before, above_before);
  Scan(equal_storage).ExclusiveSum(equal_before, equal_before);
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    const int64_t chunk_above = above[chunk], chunk_equal = equal[chunk];
    if (equal_before < taken && taken <= equal_before + chunk_equal) {
      last_chunk = chunk;
      last_ties = taken - equal_before;
    }
    above[chunk] = above_before + min(equal_before, taken);
    above_before += chunk_above;
    equal_before += chunk_equal;
  }
  if (state->all_taken()) return;
  __syncthreads();
  int64_t left = last_ties;
  for (int64_t first = last_chunk * kChunk; left > 0 && first < scores.layout.numel; first += kThreads) {
    const int64_t i = first + threadIdx.x;
    const bool tie = i < scores.layout.numel && uint64_t(scores.key(i)) == state->key;
    const FlagScan scan = scan_flags<kThreads>(tie);
    if (tie && scan.rank + 1 == left) state->tie_limit = i + 1;
    left -= scan.total;
  }
}

// A selection under way on the stream: what kernels behind it may read. `memory` keeps the scratch memory, which
// torch's allocator gives back in the order of the stream.
struct GridSelection {
  State* state;
  int64_t chunks;
  int64_t* first_slot;  // [chunks] where the records of each chunk begin, if they were asked for
  std::vector<Tensor> memory;
};

// Selects the k largest, 1 <= k <= n, of `scores` in any order of their memory; `row_major` are the same in the order
// that decides ties. like: a tensor on their device. type: that of the scores.
template <class Format>
GridSelection select_on_grid(const Tensor& like, ScalarType type, const DeviceScores<Format>& scores,
                             const DeviceScores<Format>& row_major, int64_t k, bool record) {
  using Bits = typename Format::Bits;
  const cudaStream_t stream = current_stream(like);
  const int64_t n = scores.layout.numel, chunks = (n + kChunk - 1) / kChunk;
  const bool vectorised = scores.by_vectors();
  const unsigned grid = grid_for(vectorised ? n / (16 / sizeof(Bits)) : n, kThreads);
  // Room for a fifth of the scores: where their density falls off on both sides of zero, no more of them have the same
  // first digit of float32: sign, exponent and two more bits.
  const int64_t capacity = kPasses<Format> > 2 ? n / 5 / grid + 1 : 0;

  static_assert(sizeof(State) % sizeof(int64_t) == 0);
  std::vector<Tensor> memory;
  memory.push_back(torch::stable::new_zeros(like, {int64_t{sizeof(State) / sizeof(int64_t)}}, ScalarType::Long));
  memory.push_back(torch::stable::new_empty(like, {2 * chunks}, ScalarType::Long));
  memory.push_back(torch::stable::new_empty(like, {grid * capacity}, type));
  memory.push_back(torch::stable::new_empty(like, {grid}, ScalarType::Int));
  State* state = static_cast<State*>(memory[0].mutable_data_ptr());
  int64_t* above = memory[1].mutable_data_ptr<int64_t>();
  const Candidates<Bits> candidates{static_cast<Bits*>(memory[2].mutable_data_ptr()),
                                    static_cast<unsigned*>(memory[3].mutable_data_ptr()), unsigned(capacity)};

  for (int pass = 0; pass < kPasses<Format>; ++pass) {
    histogram_kernel<Format><<<grid, kThreads, 0, stream>>>(scores, vectorised, pass, k, candidates, state);
    ZSU_LAUNCH_CHECK();
  }
  count_kernel<Format>
      <<<grid_for(chunks, 1), kThreads, 0, stream>>>(row_major, record, state, chunks, above, above + chunks);
  ZSU_LAUNCH_CHECK();
  return {state, chunks, above, std::move(memory)};
}

}  // namespace zsu

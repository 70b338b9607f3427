// Elements of a weight set to a value where the k largest scores are, without a list of them and without the host.
//
//   histogram, choose   once per digit of the key: the threshold and how many of its ties are taken. Once few keys
//                       begin with the digits found, these candidates are collected: the rest is counted among them
//   count, resolve      ties (and, for records, selected scores) per chunk of the row-major order, summed up: the index
//                       below which ties are taken, and where each chunk's records begin
//   mask or record      the one pass that writes
//
// The scores are read three times: for the first digit, to collect the candidates, and to write. float64, whose first
// digit is less than its exponent, may need its second digit too before candidates are few. Where they never are, since
// many scores are equal (zeros, say), the scores are read for every digit. `count` reads them once more; it and
// `resolve` return at once where every tie is taken and nothing is recorded. All this only the device knows.
#include <bit>
#include <optional>

#include "masking/check.h"
#include "selection/dispatch.h"
#include "selection/radix_select.cuh"
#include "selection/strided.cuh"

namespace zsu {
namespace {

constexpr int kRank = 8;
constexpr int kThreads = 256;
constexpr int kItems = 4;                     // consecutive elements of a thread
constexpr int64_t kChunk = int64_t{1} << 14;  // scores, in row-major order, that one block counts and records
using Layout = DeviceStrided<kRank>;

// What the device knows of the selection, at the head of the scratch memory; zero at first.
struct State {
  uint64_t key;       // digits found so far, in the end the key of the k-th largest score
  int64_t taken;      // how many scores with this key are selected ...
  int64_t equal;      // ... of how many
  int64_t tie_limit;  // those of a row-major index below this
  unsigned long long histogram[kBins];

  __device__ bool all_taken() const { return taken == equal; }
};

template <class Format>
struct DeviceScores {
  using Bits = typename Format::Bits;
  const Bits* data;
  Layout layout;
  bool absolute;

  __device__ __forceinline__ Bits key(int64_t index) const { return Format::key(data[layout.offset(index)], absolute); }
};

// f(key, index) for the elements of a grid-stride loop; 16 bytes at a time where `vectorised`.
template <class Format, class F>
__device__ __forceinline__ void for_each_key(const DeviceScores<Format>& scores, bool vectorised, F f) {
  using Bits = typename Format::Bits;
  constexpr int kWidth = 16 / sizeof(Bits);
  const int64_t n = scores.layout.numel, step = int64_t(gridDim.x) * blockDim.x;
  const int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t vectors = vectorised ? n / kWidth : 0;
  for (int64_t v = thread; v < vectors; v += step) {
    const auto loaded = reinterpret_cast<const Vector<Bits, kWidth>*>(scores.data)[v];
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
    histogram_kernel(const __grid_constant__ DeviceScores<Format> scores, bool vectorised, int pass,
                     Candidates<typename Format::Bits> candidates, State* state) {
  using Bits = typename Format::Bits;
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
}

template <class Format>
__global__ void __launch_bounds__(kSelectThreads) choose_kernel(int pass, int64_t k, int64_t n, State* state) {
  const int64_t rank = pass == 0 ? k : state->taken;
  const DigitChoice choice = choose_digit(state->histogram, rank);
  for (int bin = threadIdx.x; bin < kBins; bin += kSelectThreads) state->histogram[bin] = 0;
  if (threadIdx.x == 0) {
    state->key = state->key << digit_width<Format>(pass) | choice.digit;
    state->taken = rank - choice.above;
    state->equal = choice.count;
    state->tie_limit = n;
  }
}

// Per chunk, how many scores lie above the threshold and how many at it.
template <class Format>
__global__ void __launch_bounds__(kThreads)
    count_kernel(const __grid_constant__ DeviceScores<Format> scores, bool record, const State* state, int64_t chunks,
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
}

// One block: turns above[] into the number of selected scores before each chunk and finds the tie limit.
template <class Format>
__global__ void __launch_bounds__(kSelectThreads)
    resolve_kernel(const __grid_constant__ DeviceScores<Format> scores, bool record, State* state, int64_t chunks,
                   int64_t* above, const int64_t* equal) {
  if (!record && state->all_taken()) return;
  using Scan = cub::BlockScan<int64_t, kSelectThreads>;
  __shared__ typename Scan::TempStorage above_storage, equal_storage;
  __shared__ int64_t last_chunk, last_ties;  // the chunk where the ties run out, and how many it still takes
  const int64_t taken = state->taken;
  if (threadIdx.x == 0) last_chunk = last_ties = 0;  // should the scores have changed since they were counted
  const int64_t share = (chunks + kSelectThreads - 1) / kSelectThreads;
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
  for (int64_t first = last_chunk * kChunk; left > 0 && first < scores.layout.numel; first += kSelectThreads) {
    const int64_t i = first + threadIdx.x;
    const bool tie = i < scores.layout.numel && uint64_t(scores.key(i)) == state->key;
    const FlagScan scan = scan_flags<kSelectThreads>(tie);
    if (tie && scan.rank + 1 == left) state->tie_limit = i + 1;
    left -= scan.total;
  }
}

// In the order in which the weight lies in memory; `row_major` gives the index that decides ties.
template <class Format, class Element>
__global__ void __launch_bounds__(kThreads)
    mask_kernel(const __grid_constant__ DeviceScores<Format> scores, bool vectorised, Element* weight,
                const __grid_constant__ Layout layout, const __grid_constant__ Layout row_major, Element value,
                const State* state) {
  using Bits = typename Format::Bits;
  const Bits threshold = Bits(state->key);
  const bool all_taken = state->all_taken();
  const int64_t tie_limit = state->tie_limit;
  for_each_key(scores, vectorised, [&](Bits key, int64_t i) {
    if (key < threshold) return;
    if (key == threshold && !all_taken && row_major.offset(i) >= tie_limit) return;
    weight[layout.offset(i)] = value;
  });
}

// In row-major order, one chunk after another, so that the records come out sorted by index. Where something else
// writes to the scores meanwhile, more or fewer of a chunk pass the threshold than it has slots: nothing is written to
// the weight that is not recorded, and slots left over repeat the record before them, or an element not written to.
template <class Format, class Element>
__global__ void __launch_bounds__(kThreads)
    record_kernel(const __grid_constant__ DeviceScores<Format> scores, Element* weight,
                  const __grid_constant__ Layout layout, Element value, const State* state, int64_t k, int64_t chunks,
                  const int64_t* first_slot, int64_t* indices, Element* values) {
  using Bits = typename Format::Bits;
  const Bits threshold = Bits(state->key);
  const int64_t tie_limit = state->tie_limit;
  for (int64_t chunk = blockIdx.x; chunk < chunks; chunk += gridDim.x) {
    const int64_t end = min((chunk + 1) * kChunk, scores.layout.numel);
    const int64_t begin_slot = min(first_slot[chunk], k);
    const int64_t end_slot = chunk + 1 < chunks ? min(first_slot[chunk + 1], k) : k;
    int64_t slot = begin_slot;
    for (int64_t first = chunk * kChunk; first < end; first += kThreads * kItems) {
      const int64_t mine = first + int64_t(threadIdx.x) * kItems;
      unsigned selected = 0;
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
        if (mine + i >= end) continue;
        const Bits key = scores.key(mine + i);
        if (key > threshold || (key == threshold && mine + i < tie_limit)) selected |= 1u << i;
      }
      const FlagScan scan = scan_flags<kThreads>(__popc(selected));
      int64_t my_slot = slot + scan.rank;
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
        if (!(selected >> i & 1) || my_slot >= end_slot) continue;
        Element& element = weight[layout.offset(mine + i)];
        if (indices) indices[my_slot] = mine + i;
        if (values) values[my_slot] = element;
        ++my_slot;
        element = value;
      }
      slot += scan.total;
    }
    if (slot >= end_slot) continue;  // the same for the whole block
    __syncthreads();                 // the last record may be another thread's
    for (int64_t empty = slot + threadIdx.x; empty < end_slot; empty += kThreads) {
      const bool any = slot > begin_slot;
      if (indices) indices[empty] = any ? indices[slot - 1] : chunk * kChunk;
      if (values) values[empty] = any ? values[slot - 1] : weight[layout.offset(chunk * kChunk)];
    }
  }
}

// The strides that `tensor` would have if it were contiguous.
struct RowMajor {
  const Tensor& tensor;
  int64_t size(int64_t d) const { return tensor.size(d); }
  int64_t stride(int64_t d) const {
    int64_t result = 1;
    while (++d < tensor.dim()) result *= tensor.size(d);
    return result;
  }
};

template <class Format, class Element>
void launch(const Tensor& weight, const Tensor& scores, int64_t k, bool absolute, Element value,
            const std::optional<Tensor>& saved_indices, const std::optional<Tensor>& saved_values) {
  using Bits = typename Format::Bits;
  constexpr int kWidth = 16 / sizeof(Bits);
  const cudaStream_t stream = current_stream(weight);
  const int64_t n = weight.numel(), chunks = (n + kChunk - 1) / kChunk;
  const Bits* data = static_cast<const Bits*>(scores.const_data_ptr());
  Element* elements = static_cast<Element*>(weight.mutable_data_ptr());
  const bool record = saved_indices || saved_values;

  static_assert(sizeof(State) % sizeof(int64_t) == 0);
  constexpr int64_t kStateWords = sizeof(State) / sizeof(int64_t);
  const Tensor state_memory = torch::stable::new_zeros(weight, {kStateWords}, ScalarType::Long);
  const Tensor count_memory = torch::stable::new_empty(weight, {2 * chunks}, ScalarType::Long);
  State* state = static_cast<State*>(state_memory.mutable_data_ptr());
  int64_t* above = count_memory.mutable_data_ptr<int64_t>();
  int64_t* equal = above + chunks;

  const auto scores_in = [&](const Strided& layout) { return DeviceScores<Format>{data, Layout(layout), absolute}; };
  const auto by_vectors = [&](const DeviceScores<Format>& s) { return s.layout.contiguous() && aligned(16, data); };

  const DeviceScores<Format> in_memory = scores_in(strided(scores, memory_order(scores)));
  const bool vectorised = by_vectors(in_memory);
  const unsigned grid = grid_for(vectorised ? n / kWidth : n, kThreads);
  // Room for a fifth of the scores: where their density falls off on both sides of zero, no more of them have the same
  // first digit of float32: sign, exponent and two more bits.
  const int64_t capacity = kPasses<Format> > 2 ? n / 5 / grid + 1 : 0;
  const Tensor candidate_keys = torch::stable::new_empty(weight, {grid * capacity}, scores.scalar_type());
  const Tensor candidate_counts = torch::stable::new_empty(weight, {grid}, ScalarType::Int);
  const Candidates<Bits> candidates{static_cast<Bits*>(candidate_keys.mutable_data_ptr()),
                                    static_cast<unsigned*>(candidate_counts.mutable_data_ptr()), unsigned(capacity)};
  for (int pass = 0; pass < kPasses<Format>; ++pass) {
    histogram_kernel<Format><<<grid, kThreads, 0, stream>>>(in_memory, vectorised, pass, candidates, state);
    ZSU_LAUNCH_CHECK();
    choose_kernel<Format><<<1, kSelectThreads, 0, stream>>>(pass, k, n, state);
    ZSU_LAUNCH_CHECK();
  }

  const DeviceScores<Format> row_major = scores_in(strided(scores));
  const unsigned chunk_grid = grid_for(chunks, 1);
  count_kernel<Format><<<chunk_grid, kThreads, 0, stream>>>(row_major, record, state, chunks, above, equal);
  ZSU_LAUNCH_CHECK();
  resolve_kernel<Format><<<1, kSelectThreads, 0, stream>>>(row_major, record, state, chunks, above, equal);
  ZSU_LAUNCH_CHECK();

  if (record) {
    record_kernel<Format, Element><<<chunk_grid, kThreads, 0, stream>>>(
        row_major, elements, Layout(strided(weight)), value, state, k, chunks, above,
        saved_indices ? saved_indices->mutable_data_ptr<int64_t>() : nullptr,
        saved_values ? static_cast<Element*>(saved_values->mutable_data_ptr()) : nullptr);
  } else {
    const std::vector<int64_t> order = memory_order(weight);
    const DeviceScores<Format> as_weight = scores_in(strided(scores, order));
    const bool vectors = by_vectors(as_weight);
    mask_kernel<Format, Element><<<grid_for(vectors ? n / kWidth : n, kThreads), kThreads, 0, stream>>>(
        as_weight, vectors, elements, Layout(strided(weight, order)), Layout(strided(RowMajor{weight}, order)), value,
        state);
  }
  ZSU_LAUNCH_CHECK();
}

void topk_mask_(const Tensor& weight, const Tensor& scores, int64_t k, bool absolute, double value,
                const std::optional<Tensor>& saved_indices, const std::optional<Tensor>& saved_values) {
  check_topk_mask(weight, scores, k, saved_indices, saved_values);
  check_float("topk_mask_", "weight", weight);
  check_float("topk_mask_", "scores", scores);
  if (k == 0) return;
  const DeviceGuard guard(weight.get_device_index());
  dispatch_float(scores.scalar_type(), [&]<class Score>(Score) {
    using Format = FormatOf<Score>;
    dispatch_float(weight.scalar_type(), [&]<class Weight>(Weight) {
      const auto bits = std::bit_cast<typename FormatOf<Weight>::Bits>(static_cast<Weight>(value));
      launch<Format>(weight, scores, k, absolute, bits, saved_indices, saved_values);
    });
  });
}

}  // namespace
}  // namespace zsu

STABLE_TORCH_LIBRARY_IMPL(zsu_fast, CUDA, m) { m.impl("topk_mask_", TORCH_BOX(&zsu::topk_mask_)); }

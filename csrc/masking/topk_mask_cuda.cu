// Elements of a weight set to a value where the k largest scores are, without a list of them and without the host:
// selection/grid_select.cuh finds the threshold, then one pass over the scores writes.
#include <bit>
#include <optional>

#include "masking/check.h"
#include "selection/dispatch.h"
#include "selection/grid_select.cuh"

namespace zsu {
namespace {

constexpr int kItems = 4;  // consecutive elements of a thread

// In the order in which the weight lies in memory; `row_major` gives the index that decides ties. kDense: that order is
// row-major, and so do the scores lie.
template <class Format, class Element, bool kDense>
__global__ void __launch_bounds__(kThreads)
    mask_kernel(const __grid_constant__ DeviceScores<Format> scores, bool vectorised, Element* weight,
                const __grid_constant__ Layout layout, const __grid_constant__ Layout row_major, Element value,
                const State* state) {
  using Bits = typename Format::Bits;
  const Bits threshold = Bits(state->key);
  const bool all_taken = state->all_taken();
  const int64_t tie_limit = state->tie_limit;
  for_each_key(scores, kDense || vectorised, [&](Bits key, int64_t i) {
    if (key < threshold) return;
    if (key == threshold && !all_taken && (kDense ? i : row_major.offset(i)) >= tie_limit) return;
    weight[kDense ? i : layout.offset(i)] = value;
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
  const cudaStream_t stream = current_stream(weight);
  const int64_t n = weight.numel();
  Element* elements = static_cast<Element*>(weight.mutable_data_ptr());
  const bool record = saved_indices || saved_values;
  const auto scores_in = [&](const Strided& layout) {
    return DeviceScores<Format>(scores.const_data_ptr(), layout, absolute);
  };
  const DeviceScores<Format> row_major = scores_in(strided(scores));
  const GridSelection selection = select_on_grid<Format>(
      weight, scores.scalar_type(), scores_in(strided(scores, memory_order(scores))), row_major, k, record);

  if (record) {
    record_kernel<Format, Element><<<grid_for(selection.chunks, 1), kThreads, 0, stream>>>(
        row_major, elements, Layout(strided(weight)), value, selection.state, k, selection.chunks, selection.first_slot,
        saved_indices ? saved_indices->mutable_data_ptr<int64_t>() : nullptr,
        saved_values ? static_cast<Element*>(saved_values->mutable_data_ptr()) : nullptr);
  } else {
    const std::vector<int64_t> order = memory_order(weight);
    const DeviceScores<Format> as_weight = scores_in(strided(scores, order));
    const Layout layout(strided(weight, order)), ties(strided(RowMajor{weight}, order));
    const bool vectors = as_weight.by_vectors();
    const auto kernel = vectors && layout.contiguous() && ties.contiguous() ? mask_kernel<Format, Element, true>
                                                                            : mask_kernel<Format, Element, false>;
    const unsigned grid = grid_for(vectors ? n / (16 / sizeof(typename Format::Bits)) : n, kThreads);
    kernel<<<grid, kThreads, 0, stream>>>(as_weight, vectors, elements, layout, ties, value, selection.state);
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

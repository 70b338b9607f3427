// How many samples have each unit among their k largest: one block selects and tallies one sample after another or,
// where samples have many units and are too few for all multiprocessors, the whole grid does.
#include "selection/dispatch.h"
#include "selection/grid_select.cuh"

namespace zsu {
namespace {

template <class Format>
__global__ void __launch_bounds__(kSelectThreads, 2)
    tally_kernel(const typename Format::Bits* relevance, int64_t samples, int64_t units, int64_t sample_stride,
                 int64_t unit_stride, int64_t k, bool absolute, unsigned long long* counts) {
  for (int64_t sample = blockIdx.x; sample < samples; sample += gridDim.x) {
    const auto* row = relevance + sample * sample_stride;
    const auto key_at = [&](int64_t unit) { return Format::key(row[unit * unit_stride], absolute); };
    const BlockSelection<Format> selection = select_in_block<Format>(units, k, key_at);
    for (int64_t unit = threadIdx.x; unit < units; unit += kSelectThreads) {
      if (selection.holds(key_at(unit), unit)) atomicAdd(counts + unit, 1ull);
    }
  }
}

template <class Format>
__global__ void __launch_bounds__(kThreads)
    tally_one_kernel(const __grid_constant__ DeviceScores<Format> scores, bool vectorised, const State* state,
                     unsigned long long* counts) {
  using Bits = typename Format::Bits;
  const BlockSelection<Format> selection{Bits(state->key), state->tie_limit};
  for_each_key(scores, vectorised, [&](Bits key, int64_t unit) {
    if (selection.holds(key, unit)) counts[unit] += 1;  // samples follow one another on the stream
  });
}

// A row of a matrix, as the layout of scores.
struct Row {
  const Tensor& matrix;
  int64_t dim() const { return 1; }
  int64_t size(int64_t) const { return matrix.size(1); }
  int64_t stride(int64_t) const { return matrix.stride(1); }
};

// Units that one block may read for a sample: estimated (the time of six launches), not measured.
constexpr int64_t kForOneBlock = 1 << 15;

Tensor topk_count(const Tensor& relevance, int64_t k, bool absolute) {
  ZSU_CHECK(relevance.dim() == 2, "topk_count: relevance must be [samples, units]");
  ZSU_CHECK(0 <= k && k <= relevance.size(1), "topk_count: k is out of range");
  check_float("topk_count", "relevance", relevance);
  const DeviceGuard guard(relevance.get_device_index());
  const int64_t samples = relevance.size(0), units = relevance.size(1);
  Tensor counts = torch::stable::new_zeros(relevance, {units}, ScalarType::Long);
  if (k == 0 || relevance.numel() == 0) return counts;
  const unsigned blocks = unsigned(std::min<int64_t>(samples, int64_t{multiprocessor_count()} * 4));
  const bool by_grid = units > kForOneBlock && samples < multiprocessor_count();
  dispatch_float(relevance.scalar_type(), [&]<class Scalar>(Scalar) {
    using Format = FormatOf<Scalar>;
    for (int64_t sample = 0; by_grid && sample < samples; ++sample) {
      const auto* data = static_cast<const typename Format::Bits*>(relevance.const_data_ptr());
      const DeviceScores<Format> scores(data + sample * relevance.stride(0), strided(Row{relevance}), absolute);
      const bool vectors = scores.by_vectors();
      const GridSelection selection =
          select_on_grid<Format>(relevance, relevance.scalar_type(), scores, scores, k, false);
      const unsigned grid = grid_for(vectors ? units / (16 / sizeof(*data)) : units, kThreads);
      tally_one_kernel<Format><<<grid, kThreads, 0, current_stream(relevance)>>>(
          scores, vectors, selection.state, static_cast<unsigned long long*>(counts.mutable_data_ptr()));
      ZSU_LAUNCH_CHECK();
    }
    if (by_grid) return;
    tally_kernel<Format><<<blocks, kSelectThreads, 0, current_stream(relevance)>>>(
        static_cast<const typename Format::Bits*>(relevance.const_data_ptr()), samples, units, relevance.stride(0),
        relevance.stride(1), k, absolute, static_cast<unsigned long long*>(counts.mutable_data_ptr()));
    ZSU_LAUNCH_CHECK();
  });
  return counts;
}

}  // namespace
}  // namespace zsu

STABLE_TORCH_LIBRARY_IMPL(zsu_fast, CUDA, m) { m.impl("topk_count", TORCH_BOX(&zsu::topk_count)); }

// How many samples have each unit among their k largest: one threshold per sample, then one pass over its units.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <mutex>

#include "dispatch.h"
#include "ties_cpu.h"

namespace zsu {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class Format>
void tally_samples(const Tensor& relevance, int64_t k, bool absolute, int64_t* counts) {
  using Bits = typename Format::Bits;
  using Key = typename Keys<Format>::Key;
  const Bits* data = static_cast<const Bits*>(relevance.const_data_ptr());
  const int64_t samples = relevance.size(0), units = relevance.size(1);
  const int64_t grain = std::max<int64_t>(1, kChunk / units);
  std::mutex mutex;
  torch::stable::parallel_for(0, samples, grain, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> local(units);
    for (int64_t sample = begin; sample < end; ++sample) {
      Strided row;
      row.append(units, relevance.stride(1));
      const Scores<Format> scores(data + sample * relevance.stride(0), row, absolute);
      resolve_ties(scores, find_threshold(scores, k))
          .for_each_part(0, units, [&](int64_t first, int64_t last, Key least) {
            scores.for_each_tile(first, last, [&](const Bits* tile, int64_t n, int64_t at) {
              for (int64_t i = 0; i < n; ++i) local[at + i] += Keys<Format>::of(tile[i], absolute) >= least;
            });
          });
    }
    const std::lock_guard<std::mutex> lock(mutex);  // integer sums: the order of the threads does not show
    for (int64_t unit = 0; unit < units; ++unit) counts[unit] += local[unit];
  });
}

Tensor topk_count(const Tensor& relevance, int64_t k, bool absolute) {
  STD_TORCH_CHECK(relevance.dim() == 2, "topk_count: relevance must be [samples, units]");
  STD_TORCH_CHECK(0 <= k && k <= relevance.size(1), "topk_count: k is out of range");
  Tensor counts = torch::stable::new_zeros(relevance, {relevance.size(1)}, ScalarType::Long);
  if (k == 0 || relevance.numel() == 0) return counts;
  dispatch_float(relevance.scalar_type(), [&]<class Scalar>(Scalar) {
    tally_samples<FormatOf<Scalar>>(relevance, k, absolute, counts.mutable_data_ptr<int64_t>());
  });
  return counts;
}

}  // namespace
}  // namespace zsu

STABLE_TORCH_LIBRARY_IMPL(zsu_fast, CPU, m) { m.impl("topk_count", TORCH_BOX(&zsu::topk_count)); }

// Where the k largest of each of several vectors of scores are.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include "check.h"
#include "dispatch.h"
#include "ties_cpu.h"

namespace zsu {
namespace {

template <class Format>
void write_indices(const Tensor& tensor, int64_t k, bool absolute, int64_t* indices) {
  using Bits = typename Format::Bits;
  using Key = typename Keys<Format>::Key;
  Strided layout;
  layout.append(tensor.size(0), tensor.stride(0));
  const Scores<Format> scores(tensor.const_data_ptr(), layout, absolute);
  const Selection<Key> selection = resolve_ties(scores, find_threshold(scores, k));
  // The j-th of k ascending indices is n - k + j at most. Where another thread writes to the scores meanwhile, more or
  // fewer than k of them pass the threshold: this bound keeps the result k different indices, whichever they are.
  const int64_t least_left = scores.size() - k;
  int64_t slot = 0;
  selection.for_each_part(0, scores.size(), [&](int64_t first, int64_t last, Key least) {
    scores.for_each_tile(first, last, [&](const Bits* tile, int64_t n, int64_t at) {
      Place places[kScoreTile];
      const int64_t found = find_selected<Format>(tile, n, absolute, least, places);
      for (int64_t j = 0; j < found && slot < k; ++j, ++slot) {
        indices[slot] = std::min(at + int64_t(places[j]), least_left + slot);
      }
    });
  });
  for (; slot < k; ++slot) indices[slot] = least_left + slot;
}

Tensor topk_indices(std::vector<Tensor> scores, std::vector<int64_t> k, bool absolute) {
  const std::vector<int64_t> first = check_topk_indices(scores, k);
  const int64_t n = int64_t(scores.size());
  Tensor indices = torch::stable::new_empty(scores[0], {first[n]}, ScalarType::Long);
  int64_t* const out = indices.mutable_data_ptr<int64_t>();
  torch::stable::parallel_for(0, n, 1, [&](int64_t i, int64_t end) {
    for (; i < end; ++i) {
      if (k[i] == 0) continue;
      dispatch_float(scores[i].scalar_type(), [&]<class Scalar>(Scalar) {
        write_indices<FormatOf<Scalar>>(scores[i], k[i], absolute, out + first[i]);
      });
    }
  });
  return indices;
}

}  // namespace
}  // namespace zsu

STABLE_TORCH_LIBRARY_IMPL(zsu_fast, CPU, m) { m.impl("topk_indices", TORCH_BOX(&zsu::topk_indices)); }

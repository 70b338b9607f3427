// Elements of a weight set to a value where the k largest scores are.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/tensor.h>

#include <bit>
#include <optional>

#include "masking/check.h"
#include "selection/dispatch.h"
#include "selection/ties_cpu.h"

namespace zsu {
namespace {

// Contiguous weights, nothing recorded.
template <class Format, class Element>
void mask_tile(const typename Format::Bits* scores, int64_t n, bool absolute, typename Keys<Format>::Key least,
               Element value, Element* weight) {
  using K = Keys<Format>;
  using Key = typename K::Key;
  const Vec<Key> below = filled(Key(least - 1)), sign = filled(Key(absolute ? 0 : -1));
  int64_t i = 0;
  for (; i + kGroup<Key> <= n; i += kGroup<Key>) {
    Vec<Key> selected[kGroupVectors];
    for (int v = 0; v < kGroupVectors; ++v) {
      selected[v] = K::of(load_vector<Key>(scores + i + v * kLanes<Key>), sign) > below;
    }
    // Where nothing is selected nothing is read or written.
    if (!any<Key>(selected[0] | selected[1] | selected[2] | selected[3])) continue;
    if constexpr (sizeof(Element) == sizeof(Key)) {
      for (int v = 0; v < kGroupVectors; ++v) {
        Element* const at = weight + i + v * kLanes<Key>;
        store_vector(selected[v] ? filled(value) : load_vector<Element>(at), at);
      }
    } else {
      Key flags[kGroup<Key>];
      std::memcpy(flags, selected, sizeof(flags));
      for (int64_t j = 0; j < kGroup<Key>; ++j) weight[i + j] = flags[j] ? value : weight[i + j];
    }
  }
  for (; i < n; ++i) weight[i] = K::of(scores[i], absolute) >= least ? value : weight[i];
}

// Fills slots that found no score with the record before them, or with an element that was not written to: taking the
// records back stays right.
template <class Element>
void repeat_last(int64_t element, int64_t first, int64_t slot, int64_t last, int64_t* indices, Element* values,
                 const Element* weight, const Strided& layout) {
  for (; slot < last; ++slot) {
    const bool any = slot > first;
    if (indices) indices[slot] = any ? indices[slot - 1] : element;
    if (values) values[slot] = any ? values[slot - 1] : weight[layout.offset(element)];
  }
}

template <class Format, class Element>
void mask(const Tensor& weight, const Tensor& scores_tensor, int64_t k, bool absolute, Element value,
          const std::optional<Tensor>& saved_indices, const std::optional<Tensor>& saved_values) {
  using Bits = typename Format::Bits;
  using Key = typename Keys<Format>::Key;
  Element* data = static_cast<Element*>(weight.mutable_data_ptr());
  const void* score_data = scores_tensor.const_data_ptr();
  int64_t* indices = saved_indices ? saved_indices->mutable_data_ptr<int64_t>() : nullptr;
  Element* values = saved_values ? static_cast<Element*>(saved_values->mutable_data_ptr()) : nullptr;
  const bool record = indices || values;

  const std::vector<int64_t> scores_order = memory_order(scores_tensor), weight_order = memory_order(weight);
  Ranking<Format> ranking =
      find_threshold(Scores<Format>(score_data, strided(scores_tensor, scores_order), absolute), k);
  // Row-major order where it shows, in ties and in records; otherwise the order in which the weight lies in memory.
  const bool row_major = record || ranking.threshold.taken < ranking.threshold.equal;
  const Strided layout = row_major ? strided(weight) : strided(weight, weight_order);
  const Scores<Format> scores(score_data, row_major ? strided(scores_tensor) : strided(scores_tensor, weight_order),
                              absolute);
  Selection<Key> selection{ranking.threshold.key, scores.size(), {}};
  if (row_major) {
    if (!std::is_sorted(scores_order.begin(), scores_order.end())) ranking.count_again(scores);
    selection = resolve_ties(scores, ranking);
  }

  const int64_t chunks = (scores.size() + kChunk - 1) / kChunk;
  torch::stable::parallel_for(0, chunks, 1, [&](int64_t chunk, int64_t last_chunk) {
    Place places[kScoreTile];
    for (; chunk < last_chunk; ++chunk) {
      // The slots of this chunk. Where another thread writes to the scores meanwhile, more or fewer than these pass the
      // threshold: nothing is written to the weight that is not recorded, and no slot is left as it was.
      const auto slot_at = [&](int64_t c) { return c < chunks ? std::min(selection.first[c], k) : k; };
      const int64_t first_slot = record ? slot_at(chunk) : 0;
      const int64_t last_slot = record ? slot_at(chunk + 1) : scores.size();
      int64_t slot = first_slot;
      const auto mask_part = [&](int64_t first, int64_t last, Key least) {
        scores.for_each_tile(first, last, [&](const Bits* tile, int64_t n, int64_t at) {
          if (layout.contiguous() && !record) return mask_tile<Format>(tile, n, absolute, least, value, data + at);
          const Place* place = places;
          const Place* const end = places + find_selected<Format>(tile, n, absolute, least, places);
          int64_t passed = 0;
          layout.for_each_run(at, at + n, [&](int64_t offset, int64_t stride, int64_t length) {
            for (; place < end && *place < passed + length && slot < last_slot; ++place) {
              Element& element = data[offset + (*place - passed) * stride];
              if (indices) indices[slot] = at + *place;
              if (values) values[slot] = element;
              ++slot;
              element = value;
            }
            passed += length;
          });
        });
      };
      selection.for_each_part(chunk * kChunk, std::min((chunk + 1) * kChunk, scores.size()), mask_part);
      if (record) repeat_last(chunk * kChunk, first_slot, slot, last_slot, indices, values, data, layout);
    }
  });
}

void topk_mask_(const Tensor& weight, const Tensor& scores, int64_t k, bool absolute, double value,
                const std::optional<Tensor>& saved_indices, const std::optional<Tensor>& saved_values) {
  check_topk_mask(weight, scores, k, saved_indices, saved_values);
  if (k == 0) return;
  dispatch_float(weight.scalar_type(), [&]<class Weight>(Weight) {
    const auto bits = std::bit_cast<typename FormatOf<Weight>::Bits>(static_cast<Weight>(value));
    dispatch_float(scores.scalar_type(), [&]<class Score>(Score) {
      mask<FormatOf<Score>>(weight, scores, k, absolute, bits, saved_indices, saved_values);
    });
  });
}

}  // namespace
}  // namespace zsu

STABLE_TORCH_LIBRARY_IMPL(zsu_fast, CPU, m) { m.impl("topk_mask_", TORCH_BOX(&zsu::topk_mask_)); }

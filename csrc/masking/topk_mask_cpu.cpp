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
void mask_tile(const typename Format::Bits* scores, int64_t n, bool absolute, typename Format::Bits least,
               Element value, Element* weight) {
  using Bits = typename Format::Bits;
  constexpr int64_t kGroup = 256;  // where nothing is selected nothing is written; wide, as hits cannot be predicted
  int64_t i = 0;
  for (; i + kGroup <= n; i += kGroup) {
    Bits any = 0;
    for (int64_t j = i; j < i + kGroup; ++j) any |= Bits(Format::key(scores[j], absolute) >= least);
    if (!any) continue;
    for (int64_t j = i; j < i + kGroup; ++j) {
      weight[j] = Format::key(scores[j], absolute) >= least ? value : weight[j];
    }
  }
  for (; i < n; ++i) weight[i] = Format::key(scores[i], absolute) >= least ? value : weight[i];
}

// Writes the places (from 0) of the selected scores to `places` and returns how many there are.
template <class Format>
int64_t find_places(const typename Format::Bits* scores, int64_t n, bool absolute, typename Format::Bits least,
                    int32_t* places) {
  int64_t found = 0;
  uint8_t selected[kFlags] = {};
  for (int64_t begin = 0; begin < n; begin += kFlags) {
    const int64_t length = std::min(kFlags, n - begin);
    if (length < kFlags) std::memset(selected, 0, kFlags);
    for (int64_t i = 0; i < length; ++i) selected[i] = Format::key(scores[begin + i], absolute) >= least;
    for_each_flag(selected, kFlags, [&](int64_t i) { places[found++] = int32_t(begin + i); });
  }
  return found;
}

template <class Format, class Element>
void mask(const Tensor& weight, const Tensor& scores_tensor, int64_t k, bool absolute, Element value,
          const std::optional<Tensor>& saved_indices, const std::optional<Tensor>& saved_values) {
  using Bits = typename Format::Bits;
  Element* data = static_cast<Element*>(weight.mutable_data_ptr());
  const void* score_data = scores_tensor.const_data_ptr();
  int64_t* indices = saved_indices ? saved_indices->mutable_data_ptr<int64_t>() : nullptr;
  Element* values = saved_values ? static_cast<Element*>(saved_values->mutable_data_ptr()) : nullptr;
  const bool record = indices || values;

  const Scores<Format> in_memory(score_data, strided(scores_tensor, memory_order(scores_tensor)), absolute);
  const Threshold<Bits> threshold = find_threshold(in_memory, k);
  // Row-major order where it shows, in ties and in records; otherwise the order in which the weight lies in memory.
  const bool row_major = record || threshold.taken < threshold.equal;
  const std::vector<int64_t> order = memory_order(weight);
  const Strided layout = row_major ? strided(weight) : strided(weight, order);
  const Scores<Format> scores(score_data, row_major ? strided(scores_tensor) : strided(scores_tensor, order), absolute);
  const Selection<Bits> selection = resolve_ties(scores, threshold, record);

  const int64_t chunks = (scores.size() + kChunk - 1) / kChunk;
  torch::stable::parallel_for(0, chunks, 1, [&](int64_t chunk, int64_t last_chunk) {
    int32_t places[kScoreTile];
    for (; chunk < last_chunk; ++chunk) {
      int64_t slot = record ? selection.first[chunk] : 0;
      const auto mask_part = [&](int64_t first, int64_t last, Bits least) {
        scores.for_each_tile(first, last, [&](const Bits* tile, int64_t n, int64_t at) {
          if (layout.contiguous() && !record) return mask_tile<Format>(tile, n, absolute, least, value, data + at);
          const int32_t* place = places;
          const int32_t* const end = places + find_places<Format>(tile, n, absolute, least, places);
          int64_t passed = 0;
          layout.for_each_run(at, at + n, [&](int64_t offset, int64_t stride, int64_t length) {
            for (; place < end && *place < passed + length; ++place) {
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

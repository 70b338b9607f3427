// Ties at the threshold go to the scores of the lowest index.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "threshold_cpu.h"

namespace zsu {

constexpr int64_t kChunk = int64_t(1) << 16;  // scores that one work item covers

// A score is selected if its key exceeds the threshold's, or equals it and its index is below `tie_limit`.
template <class Bits>
struct Selection {
  Bits key;
  int64_t tie_limit;
  std::vector<int64_t> first;  // selected before chunk c; empty unless asked for

  // f(begin, end, least): of the scores begin..end, those are selected whose keys are at least `least`.
  template <class F>
  void for_each_part(int64_t begin, int64_t end, F f) const {
    const int64_t split = std::clamp(tie_limit, begin, end);
    if (begin < split) f(begin, split, key);
    if (split < end) f(split, end, Bits(key + 1));
  }
};

// `scores` in the order that decides ties. With `count`, `first` is filled.
template <class Format>
Selection<typename Format::Bits> resolve_ties(const Scores<Format>& scores, Threshold<typename Format::Bits> threshold,
                                              bool count) {
  using Bits = typename Format::Bits;
  Selection<Bits> selection{threshold.key, scores.size(), {}};
  const bool all_taken = threshold.taken == threshold.equal;
  if (all_taken && !count) return selection;

  const int64_t chunks = (scores.size() + kChunk - 1) / kChunk;
  std::vector<int64_t> above(chunks), equal(chunks);
  torch::stable::parallel_for(0, chunks, 1, [&](int64_t chunk, int64_t last) {
    for (; chunk < last; ++chunk) {
      int64_t counts[3] = {0, 0, 0};
      scores.for_each_tile(chunk * kChunk, std::min((chunk + 1) * kChunk, scores.size()),
                           [&](const Bits* tile, int64_t n, int64_t) {
                             count_tile<Format>(tile, n, scores.absolute(), {threshold.key, threshold.key}, counts);
                           });
      above[chunk] = counts[0];
      equal[chunk] = counts[1];
    }
  });

  int64_t selected = 0, ties = threshold.taken;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    if (count) selection.first.push_back(selected);
    if (ties > 0 && ties <= equal[chunk] && !all_taken) {
      int64_t index = chunk * kChunk;
      for (int64_t left = ties; left > 0; ++index) left -= scores.key(index) == threshold.key;
      selection.tie_limit = index;
    }
    const int64_t taken = std::min(ties, equal[chunk]);
    selected += above[chunk] + taken;
    ties -= taken;
  }
  return selection;
}

}  // namespace zsu

// Ties at the threshold go to the scores of the lowest index.
#pragma once

#include "threshold_cpu.h"

namespace zsu {

// A score is selected if its key exceeds the threshold's, or equals it and its index is below `tie_limit`.
template <class Key>
struct Selection {
  Key key;
  int64_t tie_limit;
  std::vector<int64_t> first;  // selected before chunk c

  // f(begin, end, least): of the scores begin..end, those are selected whose keys are at least `least`.
  template <class F>
  void for_each_part(int64_t begin, int64_t end, F f) const {
    const int64_t split = std::clamp(tie_limit, begin, end);
    if (begin < split) f(begin, split, key);
    if (split < end) f(split, end, Key(key + 1));
  }
};

// `ranking` of the `scores` in the order that decides ties.
template <class Format>
Selection<typename Keys<Format>::Key> resolve_ties(const Scores<Format>& scores, const Ranking<Format>& ranking) {
  const auto [key, taken, all] = ranking.threshold;
  Selection<typename Keys<Format>::Key> selection{key, scores.size(), {}};
  int64_t selected = 0, ties = taken;
  for (const auto& chunk : ranking.chunks) {
    const int64_t begin = int64_t(selection.first.size()) * kChunk;
    selection.first.push_back(selected);
    const auto [above, equal] = ranking.count(chunk);
    if (0 < ties && ties <= equal && taken < all) {
      int64_t index = begin;
      for (int64_t left = ties; left > 0; ++index) left -= scores.key(index) == key;
      selection.tie_limit = index;
    }
    const int64_t here = std::min(ties, equal);
    selected += above + here;
    ties -= here;
  }
  return selection;
}

}  // namespace zsu

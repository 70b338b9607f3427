// Ties at the threshold go to the scores of the lowest index.
#pragma once

#include "places_cpu.h"
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
      // Bounded by the end too: another thread may write to the scores meanwhile.
      for (int64_t left = ties; left > 0 && index < scores.size(); ++index) left -= scores.key(index) == key;
      selection.tie_limit = index;
    }
    const int64_t here = std::min(ties, equal);
    selected += above + here;
    ties -= here;
  }
  return selection;
}

// Writes the places (from 0) of the keys of at least `least` to `places` and returns how many there are.
template <class Format>
int64_t find_selected(const typename Format::Bits* scores, int64_t n, bool absolute, typename Keys<Format>::Key least,
                      Place* places) {
  using K = Keys<Format>;
  using Key = typename K::Key;
  const Vec<Key> below = filled(Key(least - 1)), sign = filled(Key(absolute ? 0 : -1));
  int64_t found = 0, i = 0;
  for (; i + kGroup<Key> <= n; i += kGroup<Key>) {
    Vec<Key> selected[kGroupVectors];
    for (int v = 0; v < kGroupVectors; ++v) {
      selected[v] = K::of(load_vector<Key>(scores + i + v * kLanes<Key>), sign) > below;
    }
    found += find_places(group_bits<Key>(selected), kGroup<Key>, i, places + found);
  }
  for (; i < n; ++i) {
    if (K::of(scores[i], absolute) >= least) places[found++] = Place(i);
  }
  return found;
}

}  // namespace zsu

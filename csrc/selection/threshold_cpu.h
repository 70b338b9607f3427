// The key of the k-th largest score, found in one pass over memory.
//
// A sample brackets the key; one pass counts what lies above the bracket and collects what lies inside (about a
// hundredth), where the k-th is then looked up. A key that many scores share sits at the upper end of the bracket,
// where it is only counted. The sample decides how long it takes, never the result: a bracket that misses is moved.
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>

#include "census_cpu.h"
#include "kth_cpu.h"

namespace zsu {

// Scores up to this many are copied as keys and searched as they are.
constexpr int64_t kFew = int64_t(1) << 13;

template <class Format>
void copy_keys(const Scores<Format>& scores, typename Keys<Format>::Key* keys) {
  scores.for_each_tile(0, scores.size(), [&](const typename Format::Bits* tile, int64_t n, int64_t at) {
    for (int64_t i = 0; i < n; ++i) keys[at + i] = Keys<Format>::of(tile[i], scores.absolute());
  });
}

// Almost surely around the key of rank k (from 1).
template <class Format>
Bracket<typename Keys<Format>::Key> sample_bracket(const Scores<Format>& scores, int64_t k) {
  using Key = typename Keys<Format>::Key;
  const int64_t n = scores.size();
  // About n^(2/3): then sorting out the sample costs as much as sorting out what its bracket encloses.
  const double root = std::cbrt(double(n));
  const int64_t size = std::min(int64_t(root * root / 2), int64_t(1) << 17), stratum = n / size;
  std::vector<Key> sample(size);
  for (int64_t i = 0; i < size; ++i) {
    // One score from each stratum, at a place that no regularity of the data follows (splitmix64).
    uint64_t hash = (uint64_t(i) + 1) * 0x9e3779b97f4a7c15u;
    hash = (hash ^ (hash >> 30)) * 0xbf58476d1ce4e5b9u;
    hash = (hash ^ (hash >> 27)) * 0x94d049bb133111ebu;
    sample[i] = scores.key(i * stratum + int64_t((hash >> 32) * uint64_t(stratum) >> 32));
  }
  const double share = double(k) / double(n), rank = share * double(size);
  const double margin = 4 * std::sqrt(double(size) * share * (1 - share)) + 8;  // four standard deviations
  const int64_t first = int64_t(rank - margin), last = int64_t(rank + margin);
  return {last < size ? threshold_of(sample.data(), size, last + 1).key : Keys<Format>::kNone,
          first > 0 ? threshold_of(sample.data(), size, first + 1).key : Keys<Format>::kLargest};
}

// What is known of the scores' order at `high` and below.
template <class Format>
struct Ranking {
  using Key = typename Keys<Format>::Key;
  Threshold<Key> threshold;
  Bracket<Key> bracket;  // encloses the threshold, or ends at it
  std::vector<Chunk<Key>> chunks;

  // For the chunks of another order of the same scores.
  void count_again(const Scores<Format>& scores) {
    bracket = {threshold.key, threshold.key};
    chunks = take_census(scores, bracket);
  }

  // How many scores of the chunk are above and at the threshold.
  std::pair<int64_t, int64_t> count(const Chunk<Key>& chunk) const {
    if (threshold.key == bracket.high) return {chunk.above, chunk.at_high};
    const int64_t n = int64_t(chunk.inside.size());
    const int64_t at_least = count_above(chunk.inside.data(), n, Key(threshold.key - 1));
    const int64_t above = count_above(chunk.inside.data(), n, threshold.key);
    return {chunk.above + chunk.at_high + above, at_least - above};
  }
};

// Requires 1 <= k <= scores.size().
template <class Format>
Ranking<Format> find_threshold(const Scores<Format>& scores, int64_t k) {
  using K = Keys<Format>;
  using Key = typename K::Key;
  const int64_t n = scores.size();
  if (n <= kFew) {
    Key keys[kFew];
    copy_keys(scores, keys);
    const Threshold<Key> threshold = threshold_of(keys, n, k);
    return {threshold, {threshold.key, threshold.key}, {{k - threshold.taken, threshold.equal, {}}}};
  }
  Bracket<Key> bracket = sample_bracket(scores, k);
  for (;;) {
    std::vector<Chunk<Key>> chunks = take_census(scores, bracket);
    const Chunk<Key> total = sum_of(chunks);
    const int64_t inside = int64_t(total.inside.size());
    int64_t rank = k - total.above;  // within the bracket, from 1
    if (rank <= 0) {
      bracket = {bracket.high, K::kLargest};
    } else if (rank <= total.at_high) {
      return {{bracket.high, rank, total.at_high}, bracket, std::move(chunks)};
    } else if ((rank -= total.at_high) <= inside) {
      return {threshold_of(total.inside.data(), inside, rank, Key(bracket.low + 1), Key(bracket.high - 1)), bracket,
              std::move(chunks)};
    } else {
      // At `low` itself, where many scores may be that are better counted than collected, or below.
      bracket = {bracket.low == bracket.high ? K::kNone : bracket.low, bracket.low};
    }
  }
}

}  // namespace zsu

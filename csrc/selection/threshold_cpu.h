// The key of the k-th largest score, found in one pass over memory.
//
// A sample brackets the key; one pass counts what lies above the bracket and at its ends and collects what lies inside
// (about a hundredth), where the k-th is then looked up. Keys that many scores share sit at an end of the bracket,
// where they are only counted. The sample decides how long it takes, never the result: a bracket that misses is moved.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <mutex>
#include <vector>

#include "flags_cpu.h"
#include "scores_cpu.h"

namespace zsu {

// The k largest: every key above `key`, and `taken` of the `equal` scores that have it.
template <class Bits>
struct Threshold {
  Bits key;
  int64_t taken;
  int64_t equal;
};

template <class Bits>
struct Bracket {
  Bits low, high;
};

template <class Bits>
struct Census {
  int64_t above = 0, at_high = 0, at_low = 0;
  std::vector<Bits> inside;
};

// How many of the `n` scores have keys above `high`, equal to it, equal to `low`.
template <class Format>
void count_tile(const typename Format::Bits* scores, int64_t n, bool absolute, Bracket<typename Format::Bits> bracket,
                int64_t* counts) {
  using Bits = typename Format::Bits;
  Bits above = 0, at_high = 0, at_low = 0;  // at most kScoreTile: fits every type of key, whose width the loop keeps
  for (int64_t i = 0; i < n; ++i) {
    const Bits key = Format::key(scores[i], absolute);
    above += Bits(key > bracket.high);
    at_high += Bits(key == bracket.high);
    at_low += Bits(key == bracket.low);
  }
  counts[0] += above;
  counts[1] += at_high;
  counts[2] += at_low;
}

// Writes the keys inside the bracket to `out` (room for n) and returns how many there are.
template <class Format>
int64_t collect_tile(const typename Format::Bits* scores, int64_t n, bool absolute,
                     Bracket<typename Format::Bits> bracket, typename Format::Bits* out) {
  using Bits = typename Format::Bits;
  int64_t collected = 0;
  Bits keys[kFlags];
  uint8_t inside[kFlags] = {};
  for (int64_t begin = 0; begin < n; begin += kFlags) {
    const int64_t length = std::min(kFlags, n - begin);
    if (length < kFlags) std::memset(inside, 0, kFlags);
    for (int64_t i = 0; i < length; ++i) {
      keys[i] = Format::key(scores[begin + i], absolute);
      inside[i] = uint8_t(keys[i] > bracket.low) & uint8_t(keys[i] < bracket.high);
    }
    for_each_flag(inside, kFlags, [&](int64_t i) { out[collected++] = keys[i]; });
  }
  return collected;
}

template <class Format>
Census<typename Format::Bits> take_census(const Scores<Format>& scores, Bracket<typename Format::Bits> bracket) {
  using Bits = typename Format::Bits;
  Census<Bits> total;
  std::mutex mutex;
  torch::stable::parallel_for(0, scores.size(), int64_t(1) << 16, [&](int64_t begin, int64_t end) {
    int64_t counts[3] = {0, 0, 0};
    std::vector<Bits> inside;
    Bits tile_inside[kScoreTile];
    scores.for_each_tile(begin, end, [&](const Bits* tile, int64_t n, int64_t) {
      count_tile<Format>(tile, n, scores.absolute(), bracket, counts);
      if (bracket.high <= bracket.low + Bits(1)) return;  // the end points are neighbours, or one key
      const int64_t collected = collect_tile<Format>(tile, n, scores.absolute(), bracket, tile_inside);
      inside.insert(inside.end(), tile_inside, tile_inside + collected);
    });
    const std::lock_guard<std::mutex> lock(mutex);  // sums and a set: the order of the threads does not show
    total.above += counts[0];
    total.at_high += counts[1];
    total.at_low += counts[2];
    total.inside.insert(total.inside.end(), inside.begin(), inside.end());
  });
  if (bracket.low == bracket.high) total.at_low = 0;  // counted as at_high
  return total;
}

// Almost surely around the key of rank k (from 1); everything if the scores are too few to be worth a sample.
template <class Format>
Bracket<typename Format::Bits> sample_bracket(const Scores<Format>& scores, int64_t k) {
  using Bits = typename Format::Bits;
  Bracket<Bits> bracket{0, Format::kLargestKey};
  const int64_t n = scores.size();
  if (n < 1024) return bracket;
  // About n^(2/3): then sorting out the sample costs as much as sorting out what its bracket encloses.
  const double root = std::cbrt(double(n));
  const int64_t size = std::min(int64_t(root * root), int64_t(1) << 17), stratum = n / size;
  std::vector<Bits> sample(size);
  for (int64_t i = 0; i < size; ++i) {
    // One score from each stratum, at a place that no regularity of the data follows (splitmix64).
    uint64_t hash = (uint64_t(i) + 1) * 0x9e3779b97f4a7c15u;
    hash = (hash ^ (hash >> 30)) * 0xbf58476d1ce4e5b9u;
    hash = (hash ^ (hash >> 27)) * 0x94d049bb133111ebu;
    sample[i] = scores.key(i * stratum + int64_t((hash ^ (hash >> 31)) % uint64_t(stratum)));
  }
  const double share = double(k) / double(n), rank = share * double(size);
  const double margin = 5 * std::sqrt(double(size) * share * (1 - share)) + 8;  // five standard deviations
  const int64_t first = int64_t(rank - margin), last = int64_t(rank + margin);
  const auto descending = std::greater<Bits>();
  auto from = sample.begin();
  if (first > 0) {
    from = sample.begin() + first;
    std::nth_element(sample.begin(), from, sample.end(), descending);
    bracket.high = *from;
  }
  if (last < size) {
    std::nth_element(from, sample.begin() + last, sample.end(), descending);
    bracket.low = sample[last];
  }
  return bracket;
}

// Requires 1 <= k <= scores.size().
template <class Format>
Threshold<typename Format::Bits> find_threshold(const Scores<Format>& scores, int64_t k) {
  using Bits = typename Format::Bits;
  Bracket<Bits> bracket = sample_bracket(scores, k);
  for (;;) {
    Census<Bits> census = take_census(scores, bracket);
    int64_t rank = k - census.above;  // within the bracket, from 1
    if (rank <= 0) {
      bracket = {bracket.high, Format::kLargestKey};
      continue;
    }
    if (rank <= census.at_high) return {bracket.high, rank, census.at_high};
    rank -= census.at_high;
    if (const int64_t inside = int64_t(census.inside.size()); rank > inside) {
      rank -= inside;
      if (rank <= census.at_low) return {bracket.low, rank, census.at_low};
      bracket = {0, bracket.low};
      continue;
    }
    auto& keys = census.inside;
    std::nth_element(keys.begin(), keys.begin() + (rank - 1), keys.end(), std::greater<Bits>());
    const Bits key = keys[rank - 1];
    const int64_t above = std::count_if(keys.begin(), keys.end(), [key](Bits other) { return other > key; });
    return {key, rank - above, int64_t(std::count(keys.begin(), keys.end(), key))};
  }
}

}  // namespace zsu

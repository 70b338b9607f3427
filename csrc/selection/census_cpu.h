// One pass over the scores: how many lie above a bracket and at its upper end, and which lie inside it.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <vector>

#include "keys_cpu.h"
#include "places_cpu.h"
#include "scores_cpu.h"

namespace zsu {

constexpr int64_t kChunk = int64_t(1) << 16;  // scores that one work item covers

// Of low < key < high the keys are kept, of key == high and key > high only the numbers.
template <class Key>
struct Bracket {
  Key low, high;
};

template <class Key>
struct Chunk {
  int64_t above = 0, at_high = 0;
  std::vector<Key> inside;
};

template <class Key>
Chunk<Key> sum_of(const std::vector<Chunk<Key>>& chunks) {
  Chunk<Key> total;
  size_t inside = 0;
  for (const Chunk<Key>& chunk : chunks) inside += chunk.inside.size();
  total.inside.reserve(inside);
  for (const Chunk<Key>& chunk : chunks) {
    total.above += chunk.above;
    total.at_high += chunk.at_high;
    total.inside.insert(total.inside.end(), chunk.inside.begin(), chunk.inside.end());
  }
  return total;
}

template <class Format>
void count_tile(const typename Format::Bits* scores, int64_t n, bool absolute,
                Bracket<typename Keys<Format>::Key> bracket, Chunk<typename Keys<Format>::Key>& chunk) {
  using Key = typename Keys<Format>::Key;
  const Vec<Key> low = filled(bracket.low), high = filled(bracket.high), sign = filled(Key(absolute ? 0 : -1));
  Vec<Key> above{}, at_high{};  // at most kScoreTile: fits every type of key
  Place places[kScoreTile];     // of the keys inside
  int64_t found = 0, i = 0;
  for (; i + kGroup<Key> <= n; i += kGroup<Key>) {
    Vec<Key> inside[kGroupVectors];
    for (int v = 0; v < kGroupVectors; ++v) {
      const Vec<Key> keys = Keys<Format>::of(load_vector<Key>(scores + i + v * kLanes<Key>), sign);
      const Vec<Key> over = keys > high, at = keys == high;
      above -= over;
      at_high -= at;
      inside[v] = (keys > low) & ~(over | at);
    }
    found += find_places(group_bits<Key>(inside), kGroup<Key>, i, places + found);
  }
  for (int64_t lane = 0; lane < kLanes<Key>; ++lane) {
    chunk.above += above[lane];
    chunk.at_high += at_high[lane];
  }
  for (; i < n; ++i) {
    const Key key = Keys<Format>::of(scores[i], absolute);
    chunk.above += key > bracket.high;
    chunk.at_high += key == bracket.high;
    if (key > bracket.low && key < bracket.high) places[found++] = Place(i);
  }
  const size_t before = chunk.inside.size();
  chunk.inside.resize(before + found);
  for (int64_t j = 0; j < found; ++j) chunk.inside[before + j] = Keys<Format>::of(scores[places[j]], absolute);
}

// Chunk c: scores c * kChunk and following.
template <class Format>
std::vector<Chunk<typename Keys<Format>::Key>> take_census(const Scores<Format>& scores,
                                                           Bracket<typename Keys<Format>::Key> bracket) {
  using Bits = typename Format::Bits;
  std::vector<Chunk<typename Keys<Format>::Key>> chunks((scores.size() + kChunk - 1) / kChunk);
  torch::stable::parallel_for(0, int64_t(chunks.size()), 1, [&](int64_t c, int64_t end) {
    for (; c < end; ++c) {
      scores.for_each_tile(c * kChunk, std::min((c + 1) * kChunk, scores.size()),
                           [&](const Bits* tile, int64_t n, int64_t) {
                             count_tile<Format>(tile, n, scores.absolute(), bracket, chunks[c]);
                           });
    }
  });
  return chunks;
}

}  // namespace zsu

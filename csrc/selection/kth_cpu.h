// The k-th largest of keys that lie together in the caches: by halving the range of values, every step one count that
// runs at the speed of the vector units, whatever the keys.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "vector_cpu.h"

namespace zsu {

// The k largest: every key above `key`, and `taken` of the `equal` ones that are `key`.
template <class Key>
struct Threshold {
  Key key;
  int64_t taken;
  int64_t equal;
};

template <class Key>
int64_t count_above(const Key* keys, int64_t n, Key bound) {
  constexpr int64_t kBlock = 64 * kGroup<Key>;  // counted in lanes of the width of the key
  const Vec<Key> bounds = filled(bound);
  int64_t total = 0, i = 0;
  while (i + kGroup<Key> <= n) {
    Vec<Key> counts[kGroupVectors] = {};
    for (const int64_t end = std::min(i + kBlock, n); i + kGroup<Key> <= end; i += kGroup<Key>) {
      for (int v = 0; v < kGroupVectors; ++v) {
        counts[v] -= load_vector<Key>(keys + i + v * kLanes<Key>) > bounds;
      }
    }
    const Vec<Key> sum = counts[0] + counts[1] + counts[2] + counts[3];
    for (int64_t lane = 0; lane < kLanes<Key>; ++lane) total += sum[lane];
  }
  for (; i < n; ++i) total += keys[i] > bound;
  return total;
}

// The smallest of the keys above `bound`, which must exist.
template <class Key>
Key smallest_above(const Key* keys, int64_t n, Key bound) {
  constexpr Key kMax = std::numeric_limits<Key>::max();
  const Vec<Key> bounds = filled(bound);
  Vec<Key> smallest = filled(kMax);
  int64_t i = 0;
  for (; i + kLanes<Key> <= n; i += kLanes<Key>) {
    const Vec<Key> loaded = load_vector<Key>(keys + i);
    smallest = (loaded > bounds) & (loaded < smallest) ? loaded : smallest;
  }
  Key result = kMax;
  for (int64_t lane = 0; lane < kLanes<Key>; ++lane) result = std::min(result, Key(smallest[lane]));
  for (; i < n; ++i) result = keys[i] > bound ? std::min(result, keys[i]) : result;
  return result;
}

// Requires 1 <= rank <= n and low <= key <= high for every key; `low` must not be the smallest number of its type.
template <class Key>
Threshold<Key> threshold_of(const Key* keys, int64_t n, int64_t rank, Key low = std::numeric_limits<Key>::min() + 1,
                            Key high = std::numeric_limits<Key>::max()) {
  using Unsigned = std::make_unsigned_t<Key>;
  int64_t above = 0;     // keys above `high`: less than rank
  int64_t at_least = n;  // keys of `low` or more: rank or more
  while (low < high && at_least > rank) {
    const Key middle = Key(Unsigned(low) + Unsigned(Unsigned(high) - Unsigned(low)) / 2);  // below high
    const int64_t count = count_above(keys, n, middle);
    if (count < rank) {
      high = middle;
      above = count;
    } else {
      low = Key(middle + 1);
      at_least = count;
    }
  }
  if (low < high) {  // exactly the keys of `low` or more are selected
    high = smallest_above(keys, n, Key(low - 1));
    above = count_above(keys, n, high);
  }
  return {high, rank - above, at_least - above};
}

}  // namespace zsu

// From bits to the places where they are set, without a branch that depends on them.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

namespace zsu {

using Place = uint16_t;  // within a tile

// Row b: the positions of the bits of b, ascending, then zeros.
struct PlacesOfBits {
  static constexpr int kRow = 8;
  alignas(16) Place rows[256][kRow] = {};

  constexpr PlacesOfBits() {
    for (int bits = 0; bits < 256; ++bits) {
      for (int i = 0, n = 0; i < kRow; ++i) {
        if (bits >> i & 1) rows[bits][n++] = Place(i);
      }
    }
  }
};
inline constexpr PlacesOfBits kPlacesOfBits;

// Writes first + i for every set bit i < n, ascending, to `places` and returns how many there are. `places` has room
// for n, a multiple of 8.
inline int64_t find_places(uint64_t bits, int64_t n, int64_t first, Place* places) {
  typedef Place Row __attribute__((vector_size(PlacesOfBits::kRow * sizeof(Place))));
  int64_t found = 0;
  for (int64_t i = 0; i < n; i += PlacesOfBits::kRow, bits >>= PlacesOfBits::kRow) {
    Row row;
    std::memcpy(&row, kPlacesOfBits.rows[bits & 0xff], sizeof(row));
    row += Place(first + i);
    std::memcpy(places + found, &row, sizeof(row));
    found += std::popcount(uint8_t(bits));
  }
  return found;
}

}  // namespace zsu

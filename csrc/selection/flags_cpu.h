// A few bytes of 0 or 1, made by a vector loop, visited where they are 1.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

namespace zsu {

static_assert(std::endian::native == std::endian::little, "the first byte of a word is its lowest");

constexpr int64_t kFlags = 32;

// f(i) for every i with flags[i] == 1, ascending; `n` flags, a multiple of 8.
template <class F>
inline __attribute__((always_inline)) void for_each_flag(const uint8_t* flags, int64_t n, F f) {
  for (int64_t i = 0; i < n; i += 8) {
    uint64_t word;
    std::memcpy(&word, flags + i, 8);
    for (; word; word &= word - 1) f(i + std::countr_zero(word) / 8);
  }
}

}  // namespace zsu

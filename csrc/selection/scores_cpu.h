// Scores in host memory, handed out in contiguous tiles of raw bits.
#pragma once

#include <cstdint>
#include <utility>

#include "keys_cpu.h"
#include "strided.h"

namespace zsu {

constexpr int64_t kScoreTile = 2048;  // elements; a tile of any dtype stays in the first-level cache

template <class Format>
class Scores {
 public:
  using Bits = typename Format::Bits;

  Scores(const void* data, Strided layout, bool absolute)
      : data_(static_cast<const Bits*>(data)), layout_(std::move(layout)), absolute_(absolute) {}

  int64_t size() const { return layout_.numel; }
  bool absolute() const { return absolute_; }
  typename Keys<Format>::Key key(int64_t i) const { return Keys<Format>::of(data_[layout_.offset(i)], absolute_); }

  // f(tile, length, index of its first element) for tiles that together are elements begin..end, in order.
  template <class F>
  void for_each_tile(int64_t begin, int64_t end, F f) const {
    Bits buffer[kScoreTile];
    for (; begin < end; begin += kScoreTile) {
      const int64_t length = std::min(kScoreTile, end - begin);
      f(read(begin, length, buffer), length, begin);
    }
  }

 private:
  const Bits* read(int64_t begin, int64_t length, Bits* buffer) const {
    if (layout_.contiguous()) return data_ + begin;
    Bits* out = buffer;
    layout_.for_each_run(begin, begin + length, [&](int64_t offset, int64_t stride, int64_t n) {
      for (int64_t i = 0; i < n; ++i) *out++ = data_[offset + i * stride];
    });
    return buffer;
  }

  const Bits* data_;
  Strided layout_;
  bool absolute_;
};

}  // namespace zsu

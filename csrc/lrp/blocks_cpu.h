// Loops over contiguous elements and sums of them, in blocks of a size that no instruction set changes: so results are
// the same bit for bit on all of them.
#pragma once

#include <cstdint>

#include "lrp/pack_cpu.h"

namespace zsu::lrp {

template <class T>
constexpr int kBlock = 64 / sizeof(T);  // elements: one to four packs
template <class T>
constexpr int kPacks = kBlock<T> / Pack<T>::kLanes;

constexpr int64_t kSegment = 1024;  // elements summed in the type of the arithmetic, before double takes over

// Which elements of the p-th pack of a block are its `first`-th or later ones.
template <class T>
ZSU_HOST_DEVICE typename Pack<T>::Mask elements_from(int first, int p) {
  Pack<T> numbers;
  for (int lane = 0; lane < Pack<T>::kLanes; ++lane) numbers.v[lane] = static_cast<T>(p * Pack<T>::kLanes + lane);
  return numbers >= Pack<T>(static_cast<T>(first));
}

// Calls f(i, p, keep) for all packs of 0 to n, n >= kBlock<T>: i is the first element of a pack, which is the p-th of
// its block, and keep tells which of its elements have not been in an earlier one: where n is no multiple of a block,
// the last block begins within the one before it.
template <class T, class F>
ZSU_HOST_DEVICE void for_each_pack(int64_t n, const F& f) {
  int repeated = 0;
  for (int64_t i = 0; i < n; i += kBlock<T>) {
    if (i > n - kBlock<T>) {
      repeated = static_cast<int>(i - (n - kBlock<T>));
      i = n - kBlock<T>;
    }
    for (int p = 0; p < kPacks<T>; ++p) f(i + p * Pack<T>::kLanes, p, elements_from<T>(repeated, p));
  }
}

// A sum in a fixed order: one for each place in a block, all taken to double after every segment.
template <class T>
class BlockSum {
 public:
  // The p-th pack of a block.
  ZSU_HOST_DEVICE void add(int p, Pack<T> values) {
    sums_[p] += values;
    if (p < kPacks<T> - 1 || ++blocks_ < kSegment / kBlock<T>) return;
    closed_ += open();
    blocks_ = 0;
    for (Pack<T>& sum : sums_) sum = T(0);
  }

  ZSU_HOST_DEVICE double total() const { return closed_ + open(); }

 private:
  ZSU_HOST_DEVICE double open() const {
    T sums[kBlock<T>];
    for (int p = 0; p < kPacks<T>; ++p) store(sums_[p], sums + p * Pack<T>::kLanes);
#pragma GCC unroll 4
    for (int width = kBlock<T> / 2; width > 0; width /= 2)
      for (int j = 0; j < width; ++j) sums[j] += sums[j + width];
    return sums[0];
  }

  Pack<T> sums_[kPacks<T>] = {};
  int blocks_ = 0;
  double closed_ = 0;
};

}  // namespace zsu::lrp

// Walking strided memory in a chosen order of its dimensions.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace zsu {

// Sizes and strides in elements, outermost first; dimensions of size 1 dropped, dimensions that continue each other
// merged.
struct Strided {
  std::vector<int64_t> sizes, strides;
  int64_t numel = 1;

  void append(int64_t size, int64_t stride) {
    numel *= size;
    if (size == 1) return;
    if (!sizes.empty() && strides.back() == stride * size) {
      sizes.back() *= size;
      strides.back() = stride;
    } else {
      sizes.push_back(size);
      strides.push_back(stride);
    }
  }

  bool contiguous() const { return sizes.empty() || (sizes.size() == 1 && strides[0] == 1); }

  int64_t offset(int64_t index) const {
    if (contiguous()) return index;
    int64_t result = 0;
    for (size_t d = sizes.size(); d-- > 0; index /= sizes[d]) result += index % sizes[d] * strides[d];
    return result;
  }

  // f(offset, stride, length) for runs along the innermost dimension that together are elements begin..end, in order.
  template <class F>
  void for_each_run(int64_t begin, int64_t end, F f) const {
    if (sizes.empty()) {
      if (begin < end) f(int64_t(0), int64_t(1), int64_t(1));
      return;
    }
    const size_t inner = sizes.size() - 1;
    std::vector<int64_t> coordinates(sizes.size());
    int64_t rest = begin, base = 0;  // base: offset of the coordinates without the innermost one
    for (size_t d = sizes.size(); d-- > 0; rest /= sizes[d]) {
      coordinates[d] = rest % sizes[d];
      if (d != inner) base += coordinates[d] * strides[d];
    }
    int64_t& x = coordinates[inner];
    while (begin < end) {
      const int64_t length = std::min(sizes[inner] - x, end - begin);
      f(base + x * strides[inner], strides[inner], length);
      begin += length;
      x = 0;
      for (size_t d = inner; d-- > 0;) {
        base += strides[d];
        if (++coordinates[d] < sizes[d]) break;
        base -= sizes[d] * strides[d];
        coordinates[d] = 0;
      }
    }
  }
};

// The dimensions of a tensor from the largest to the smallest stride: the order in which memory is read best.
template <class Tensor>
std::vector<int64_t> memory_order(const Tensor& tensor) {
  std::vector<int64_t> order(tensor.dim());
  for (size_t d = 0; d < order.size(); ++d) order[d] = int64_t(d);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return tensor.stride(a) > tensor.stride(b); });
  return order;
}

// `tensor` walked in the given order of its dimensions, or in row-major order.
template <class Tensor>
Strided strided(const Tensor& tensor, const std::vector<int64_t>& order) {
  Strided result;
  for (const int64_t d : order) result.append(tensor.size(d), tensor.stride(d));
  return result;
}

template <class Tensor>
Strided strided(const Tensor& tensor) {
  Strided result;
  for (int64_t d = 0; d < tensor.dim(); ++d) result.append(tensor.size(d), tensor.stride(d));
  return result;
}

}  // namespace zsu

// Whether operands share memory: decided exactly, so that interleaved views (two columns of one matrix) pass.
#pragma once

#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

namespace zsu {

// The bytes of a tensor: from `begin`, over `extent` bytes if it is not empty.
struct Footprint {
  const torch::stable::Tensor& tensor;
  uintptr_t begin;
  int64_t extent;

  explicit Footprint(const torch::stable::Tensor& t)
      : tensor(t), begin(reinterpret_cast<uintptr_t>(t.const_data_ptr())), extent(0) {
    if (t.numel() == 0) return;
    int64_t last = 0;
    for (int64_t d = 0; d < t.dim(); ++d) last += (t.size(d) - 1) * t.stride(d);
    extent = (last + 1) * t.element_size();
  }

  bool meets(const Footprint& other) const {
    return extent && other.extent && begin < other.begin + other.extent && other.begin < begin + extent;
  }

  // f(offset of an element from `begin`, in bytes) for every element.
  template <class F>
  void for_each_element(F f) const {
    std::vector<int64_t> at(tensor.dim());
    int64_t offset = 0;
    for (int64_t left = tensor.numel(); left > 0; --left) {
      f(offset * tensor.element_size());
      for (int64_t d = tensor.dim(); d-- > 0;) {
        offset += tensor.stride(d);
        if (++at[d] < tensor.size(d)) break;
        offset -= tensor.size(d) * tensor.stride(d);
        at[d] = 0;
      }
    }
  }
};

// Two elements of `t` lie at one address: expanded dimensions, overlapping windows.
inline bool overlaps_itself(const torch::stable::Tensor& t) {
  if (t.numel() == 0 || t.is_contiguous()) return false;
  std::vector<std::pair<int64_t, int64_t>> steps;  // stride, size
  for (int64_t d = 0; d < t.dim(); ++d) {
    if (t.size(d) > 1) steps.emplace_back(t.stride(d), t.size(d));
  }
  std::sort(steps.begin(), steps.end());
  int64_t reach = 0;  // offset of the last element, over the dimensions met so far
  bool apart = true;
  for (const auto& [stride, size] : steps) {
    if (stride == 0) return true;
    apart = apart && stride > reach;
    reach += stride * (size - 1);
  }
  if (apart) return false;
  std::vector<bool> seen(reach + 1);  // the steps interleave, perhaps without collision: look
  bool twice = false;
  Footprint(t).for_each_element([&](int64_t offset) {
    twice = twice || seen[offset / t.element_size()];
    seen[offset / t.element_size()] = true;
  });
  return twice;
}

inline bool same_elements(const torch::stable::Tensor& a, const torch::stable::Tensor& b) {
  return a.const_data_ptr() == b.const_data_ptr() && a.scalar_type() == b.scalar_type() &&
         a.sizes().equals(b.sizes()) && a.strides().equals(b.strides());
}

inline bool share_memory(const torch::stable::Tensor& a, const torch::stable::Tensor& b) {
  const Footprint first(a), second(b);
  if (!first.meets(second)) return false;
  if (a.is_contiguous() && b.is_contiguous()) return true;
  std::vector<bool> taken(first.extent);
  first.for_each_element([&](int64_t offset) { std::fill_n(taken.begin() + offset, a.element_size(), true); });
  const int64_t bytes = b.element_size();
  bool shared = false;
  second.for_each_element([&](int64_t offset) {
    for (int64_t byte = 0; byte < bytes; ++byte) {
      const int64_t at = int64_t(second.begin - first.begin) + offset + byte;
      shared = shared || (at >= 0 && at < first.extent && taken[at]);
    }
  });
  return shared;
}

}  // namespace zsu

// Dense memory as [N, M, U, L]: N samples (dimension 0), M = what lies before the unit dimension in memory (tokens, or
// H*W for channels_last), U units (neurons), L = what lies after (H*W for contiguous channels-first). Kernels know only
// this view; every memory format that the reference keeps (zsu_fast/reference/layout.py) maps onto it.
#pragma once

#include <optional>

#include "common/check.h"

namespace zsu {

struct Layout {
  int64_t samples, before, units, after;

  int64_t numel() const { return samples * before * units * after; }
};

// True if `t` is dense with the strides of channels_last (4 dimensions) or channels_last_3d (5).
inline bool is_channels_last(const Tensor& t) {
  if (t.dim() != 4 && t.dim() != 5) return false;
  int64_t expected = 1;
  const auto matches = [&](int64_t d) {
    const bool ok = t.size(d) == 1 || t.stride(d) == expected;
    expected *= t.size(d);
    return ok;
  };
  if (!matches(1)) return false;
  for (int64_t d = t.dim() - 1; d >= 2; --d)
    if (!matches(d)) return false;
  return matches(0);
}

enum class MemoryFormat { contiguous, channels_last };

// The format that every operand of a pass is brought to: that of the first operand; contiguous if it has neither.
inline MemoryFormat memory_format(const Tensor& t) {
  return !t.is_contiguous() && is_channels_last(t) ? MemoryFormat::channels_last : MemoryFormat::contiguous;
}

// `t` itself if it is contiguous, otherwise a copy that is. Asking first spares a call of the dispatcher.
inline Tensor made_contiguous(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

// `t` itself if it is dense in `format`, otherwise a copy that is.
inline Tensor in_format(const Tensor& t, MemoryFormat format) {
  if (format == MemoryFormat::contiguous) return made_contiguous(t);
  if (is_channels_last(t)) return t;
  return torch::stable::contiguous(t, t.dim() == 4 ? torch::headeronly::MemoryFormat::ChannelsLast
                                                   : torch::headeronly::MemoryFormat::ChannelsLast3d);
}

inline std::optional<Tensor> in_format(const std::optional<Tensor>& t, MemoryFormat format) {
  return t ? std::optional<Tensor>(in_format(*t, format)) : std::nullopt;
}

// `unit_dim` counted from the front, 1 <= unit_dim < dim; `t` dense in `format`.
inline Layout layout_of(const Tensor& t, int64_t unit_dim, MemoryFormat format) {
  Layout layout{t.size(0), 1, t.size(unit_dim), 1};
  for (int64_t d = 1; d < t.dim(); ++d) {
    if (d == unit_dim) continue;
    // In channels_last memory dimension 1 comes last: a unit dimension of 1 has everything before it, any other has
    // the dimensions below it in index order before it, except that dimension 1 comes after it.
    const bool comes_before =
        format == MemoryFormat::contiguous ? d < unit_dim : d != 1 && (unit_dim == 1 || d < unit_dim);
    (comes_before ? layout.before : layout.after) *= t.size(d);
  }
  return layout;
}

}  // namespace zsu

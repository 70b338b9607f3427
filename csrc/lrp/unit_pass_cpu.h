// The CPU form of a pass: tiles that stay in the first-level cache, each worked on by a few plain loops.
//
// Converting, gating and applying the rule tile by tile keeps every loop simple enough for the compiler to vectorise,
// while memory is read and written once. Sums are taken over a partition that depends on the shape alone, so that they
// are the same bit for bit for any number of threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <memory>

#include "lrp/convert_cpu.h"
#include "lrp/unit_pass.h"

namespace zsu::lrp {

constexpr int64_t kTile = 512;          // elements: at most seven float buffers of this size, 14 KiB, live at once
constexpr int64_t kChunk = 64 * kTile;  // elements that one work item covers, and that make a thread worth waking

template <int kCode, class T>
void stage_tile(bool as_gate, const T* gradient, const T* x, T* staged, int64_t n) {
  if (as_gate) {
    for (int64_t i = 0; i < n; ++i) staged[i] = gradient[i] * gate<kCode>(x[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) staged[i] = gradient[i] * activate<kCode>(x[i]);
  }
}

template <class T>
void stage_tile(int code, bool as_gate, const T* gradient, const T* x, T* staged, int64_t n) {
  switch (code) {
    case kIdentity:
      return stage_tile<kIdentity>(as_gate, gradient, x, staged, n);
    case kRelu:
      return stage_tile<kRelu>(as_gate, gradient, x, staged, n);
    case kGelu:
      return stage_tile<kGelu>(as_gate, gradient, x, staged, n);
    case kGeluTanh:
      return stage_tile<kGeluTanh>(as_gate, gradient, x, staged, n);
    case kSilu:
      return stage_tile<kSilu>(as_gate, gradient, x, staged, n);
    case kRelu6:
      return stage_tile<kRelu6>(as_gate, gradient, x, staged, n);
    case kHardswish:
      return stage_tile<kHardswish>(as_gate, gradient, x, staged, n);
    default:
      return stage_tile<kTanh>(as_gate, gradient, x, staged, n);
  }
}

// With kInnermost `vectors` advance with the elements, otherwise their first value holds for all of them.
template <bool kInnermost, class Op, class T>
void apply_tile(const Op op, const T* staged, const T* const* tensors, const T* const* vectors, T* const* outputs,
                int64_t n) {
  const T *t0 = tensors[0], *t1 = tensors[1], *t2 = tensors[2], *v0 = vectors[0], *v1 = vectors[1];
  T *o0 = outputs[0], *o1 = outputs[1];
  (void)t1, (void)t2, (void)v0, (void)v1, (void)o1;
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const int64_t u = kInnermost ? i : 0;
    T in[kMaxTensors] = {t0[i]}, unit[kMaxVectors] = {}, out[kMaxOutputs];
    if constexpr (Op::kTensors > 1) in[1] = t1[i];
    if constexpr (Op::kTensors > 2) in[2] = t2[i];
    if constexpr (Op::kVectors > 0) unit[0] = v0[u];
    if constexpr (Op::kVectors > 1) unit[1] = v1[u];
    op(staged[i], in, unit, out);
    o0[i] = out[0];
    if constexpr (Op::kOutputs > 1) o1[i] = out[1];
  }
}

// Sum in a fixed order over lanes that the compiler can keep in vector registers.
template <class T>
T sum_tile(const T* values, int64_t n) {
  constexpr int kLanes = 32;
  T lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int j = 0; j < kLanes; ++j) lanes[j] += values[i + j];
  for (int j = 0; i + j < n; ++j) lanes[j] += values[i + j];
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int j = 0; j < width; ++j) lanes[j] += lanes[j + width];
  return lanes[0];
}

template <class Op, class Scalar>
class UnitPassCpu {
 public:
  using T = accumulate_t<Scalar>;

  explicit UnitPassCpu(const UnitPass<Op>& pass) : pass_(pass) {
    if constexpr (Op::kVectors > 0) {
      for (int k = 0; k < Op::kVectors; ++k) std::fill_n(neutral_[k], kTile, Op::neutral(k));
    }
  }

  void run() const {
    const Layout& v = pass_.layout;
    if (v.numel() == 0) {
      if (pass_.neurons) std::fill_n(static_cast<T*>(pass_.neurons), v.samples * v.units, T(0));
      return;
    }
    const bool per_unit =
        pass_.neurons || std::any_of(pass_.vectors, pass_.vectors + kMaxVectors, [](auto p) { return p; });
    if (!per_unit) {
      units_outer({1, 1, 1, v.numel()});
    } else if (v.after == 1) {
      units_innermost(v);
    } else {
      units_outer(v);
    }
  }

 private:
  // Rows of `after` elements belong to one unit each. A work item is a box of rows and columns of one unit.
  void units_outer(const Layout& v) const {
    const int64_t columns = std::min(v.after, kChunk), rows = std::clamp<int64_t>(kChunk / v.after, 1, v.before);
    const int64_t column_blocks = ceil_div(v.after, columns), blocks = ceil_div(v.before, rows) * column_blocks;
    std::unique_ptr<T[]> partial(pass_.neurons && blocks > 1 ? new T[v.samples * v.units * blocks] : nullptr);
    T* sums = partial ? partial.get() : static_cast<T*>(pass_.neurons);

    parallel_for(v.samples * v.units * blocks, rows * columns, [&](int64_t item) {
      const int64_t neuron = item / blocks, block = item % blocks;
      const int64_t sample = neuron / v.units, unit = neuron % v.units;
      const int64_t row = block / column_blocks * rows, column = block % column_blocks * columns;
      const int64_t last = std::min(row + rows, v.before), width = std::min(columns, v.after - column);
      double sum = 0;
      for (int64_t r = row; r < last; ++r) {
        const int64_t offset = ((sample * v.before + r) * v.units + unit) * v.after + column;
        for (int64_t done = 0; done < width; done += kTile) {
          sum += tile<false>(offset + done, unit, std::min(kTile, width - done), nullptr);
        }
      }
      if (sums) sums[item] = static_cast<T>(sum);
    });
    if (partial) reduce(partial.get(), v.samples * v.units, blocks, 1);
  }

  // Rows of `units` elements. A work item is a block of rows of one sample, summed into a row of its own.
  void units_innermost(const Layout& v) const {
    const int64_t rows = std::clamp<int64_t>(kChunk / v.units, 8, 256), blocks = ceil_div(v.before, rows);
    std::unique_ptr<T[]> partial(pass_.neurons && blocks > 1 ? new T[v.samples * blocks * v.units] : nullptr);
    T* sums = partial ? partial.get() : static_cast<T*>(pass_.neurons);

    parallel_for(v.samples * blocks, rows * v.units, [&](int64_t item) {
      const int64_t sample = item / blocks, first = item % blocks * rows, last = std::min(first + rows, v.before);
      for (int64_t done = 0; done < v.units; done += kTile) {
        const int64_t width = std::min(kTile, v.units - done);
        T* sum = sums ? sums + item * v.units + done : nullptr;
        if (sum) std::fill_n(sum, width, T(0));
        for (int64_t r = first; r < last; ++r) {
          tile<true>((sample * v.before + r) * v.units + done, done, width, sum);
        }
      }
    });
    if (partial) reduce(partial.get(), v.samples, blocks, v.units);
  }

  // One tile of contiguous elements, the first of unit `unit`. Sums what was staged: per element into `sums` where the
  // units lie innermost, otherwise into the result.
  template <bool kInnermost>
  T tile(int64_t offset, int64_t unit, int64_t n, T* sums) const {
    T buffers[kMaxTensors][kTile], staging[kTile], results[kMaxOutputs][kTile];
    const T *tensors[kMaxTensors] = {}, *vectors[kMaxVectors] = {};
    T* outputs[kMaxOutputs] = {};
    for (int k = 0; k < Op::kTensors; ++k) {
      tensors[k] = load(static_cast<const Scalar*>(pass_.tensors[k]) + offset, buffers[k], n);
    }
    for (int k = 0; k < Op::kVectors; ++k) {
      vectors[k] = pass_.vectors[k] ? static_cast<const T*>(pass_.vectors[k]) + unit : neutral_[k];
    }
    for (int k = 0; k < Op::kOutputs; ++k) {
      outputs[k] = store_target(static_cast<Scalar*>(pass_.outputs[k]) + offset, results[k]);
    }

    const T* staged = tensors[0];
    if (Op::kStage != Stage::kNone && pass_.activation != kRelevance) {
      stage_tile(pass_.activation, Op::kStage == Stage::kGate, tensors[0], tensors[1], staging, n);
      staged = staging;
    }
    if constexpr (Op::kOutputs > 0) apply_tile<kInnermost>(pass_.op, staged, tensors, vectors, outputs, n);
    for (int k = 0; k < Op::kOutputs; ++k) {
      store(outputs[k], static_cast<Scalar*>(pass_.outputs[k]) + offset, n);
    }
    if constexpr (kInnermost) {
      if (sums) {
#pragma GCC ivdep
        for (int64_t i = 0; i < n; ++i) sums[i] += staged[i];
      }
      return T(0);
    } else {
      return pass_.neurons ? sum_tile(staged, n) : T(0);
    }
  }

  // neurons[o, i] = sum over b of partial[o, b, i], in order.
  void reduce(const T* partial, int64_t outer, int64_t blocks, int64_t inner) const {
    T* neurons = static_cast<T*>(pass_.neurons);
    for (int64_t o = 0; o < outer; ++o) {
      for (int64_t i = 0; i < inner; ++i) {
        double sum = 0;
        for (int64_t b = 0; b < blocks; ++b) sum += partial[(o * blocks + b) * inner + i];
        neurons[o * inner + i] = static_cast<T>(sum);
      }
    }
  }

  static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

  template <class F>
  static void parallel_for(int64_t items, int64_t elements_per_item, const F& f) {
    const int64_t grain = std::max<int64_t>(1, kChunk / std::max<int64_t>(1, elements_per_item));
    torch::stable::parallel_for(0, items, grain, [&](int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end; ++item) f(item);
    });
  }

  const UnitPass<Op>& pass_;
  T neutral_[kMaxVectors][kTile];
};

}  // namespace zsu::lrp

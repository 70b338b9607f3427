// The CPU form of a pass: how a layout is cut into work items for the threads.
//
// Sums are taken over a partition that depends on the shape alone, so that they are the same bit for bit for any number
// of threads and any instruction set.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <memory>

#include "lrp/unit_kernel_cpu.h"
#include "lrp/unit_pass.h"

namespace zsu::lrp {

constexpr int64_t kChunk = 32768;  // elements that one work item covers, and that make a thread worth waking

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Calls f(begin, end) for parts of 0 to `items`.
template <class F>
void parallel_over(int64_t items, int64_t elements_per_item, const F& f) {
  torch::stable::parallel_for(0, items, std::max<int64_t>(1, kChunk / std::max<int64_t>(1, elements_per_item)), f);
}

template <class Op, class Scalar>
class UnitPassCpu {
 public:
  explicit UnitPassCpu(const UnitPass<Op>& pass) : pass_(pass), neurons_(static_cast<T*>(pass.neurons)) {
    for (int k = 0; k < kMaxVectors; ++k) vectors_[k] = static_cast<const T*>(pass.vectors[k]);
  }

  void run() {
    const Layout& v = pass_.layout;
    if (v.numel() == 0) {
      if (neurons_) std::fill_n(neurons_, v.samples * v.units, T(0));
      return;
    }
    if constexpr (Op::kVectors > 0 || Op::kOutputs == 0) {
      if (neurons_ || vectors_[0] || vectors_[1]) {
        if (v.after == 1) return units_innermost(v, neurons_);
        if (v.after < kBlock<T>) return short_runs(v);
        return v.before == 1 && v.after <= kChunk ? runs_of_units(v) : boxes(v);
      }
    }
    boxes({1, 1, 1, v.numel()});  // no element's unit matters
  }

 private:
  using T = accumulate_t<Scalar>;
  using Kernel = UnitKernel<Op, Scalar>;
  using Runs = typename Kernel::Runs;

  // Rows of `units` elements. A work item is a block of rows of one sample, summed into a row of its own.
  void units_innermost(const Layout& v, T* neurons) {
    const int64_t rows = std::clamp<int64_t>(2 * kChunk / v.units, 8, 256), blocks = ceil_div(v.before, rows);
    std::unique_ptr<T[]> partial(neurons && blocks > 1 ? new T[v.samples * blocks * v.units] : nullptr);
    T* sums = partial ? partial.get() : neurons;
    parallel_over(v.samples * blocks, rows * v.units, [&](int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end; ++item) {
        const int64_t sample = item / blocks, first = item % blocks * rows, last = std::min(first + rows, v.before);
        T* sums_of_item = sums ? sums + item * v.units : nullptr;
        if (sums) std::fill_n(sums_of_item, v.units, T(0));
        work<true>((sample * v.before + first) * v.units, 0, last - first, v.units, sums_of_item);
      }
    });
    if (partial) add_partials(partial.get(), neurons, v.samples, blocks, v.units);
  }

  // Runs of less than a block: as if every element were a unit.
  void short_runs(const Layout& v) {
    const int64_t width = v.units * v.after;
    std::unique_ptr<T[]> expanded[kMaxVectors], sums(neurons_ ? new T[v.samples * width] : nullptr);
    for (int k = 0; k < Op::kVectors; ++k) {
      if (!vectors_[k]) continue;
      expanded[k].reset(new T[width]);
      for (int64_t i = 0; i < width; ++i) expanded[k][i] = vectors_[k][i / v.after];
      vectors_[k] = expanded[k].get();
    }
    units_innermost({v.samples, v.before, width, 1}, sums.get());
    if (sums) add_partials(sums.get(), neurons_, v.samples * v.units, v.after, 1);
  }

  // One run per unit and sample: a work item is some of them.
  void runs_of_units(const Layout& v) {
    parallel_over(v.samples * v.units, v.after, [&](int64_t begin, int64_t end) {
      for (int64_t run = begin, next; run < end; run = next) {
        const int64_t unit = run % v.units;
        next = std::min(end, run - unit + v.units);  // the end of the sample
        work<false>(run * v.after, unit, next - run, v.after, neurons_ ? neurons_ + run : nullptr);
      }
    });
  }

  // Runs that are long, or many for each unit. A work item is a box of rows and columns of one unit.
  void boxes(const Layout& v) {
    const int64_t columns = std::min(v.after, kChunk), rows = std::clamp<int64_t>(kChunk / v.after, 1, v.before);
    const int64_t column_blocks = ceil_div(v.after, columns), blocks = ceil_div(v.before, rows) * column_blocks;
    std::unique_ptr<T[]> partial(neurons_ && blocks > 1 ? new T[v.samples * v.units * blocks] : nullptr);
    T* sums = partial ? partial.get() : neurons_;
    parallel_over(v.samples * v.units * blocks, rows * columns, [&](int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end; ++item) {
        const int64_t neuron = item / blocks, block = item % blocks;
        const int64_t sample = neuron / v.units, unit = neuron % v.units;
        const int64_t row = block / column_blocks * rows, column = block % column_blocks * columns;
        const int64_t last = std::min(row + rows, v.before), width = std::min(columns, v.after - column);
        double sum = 0;
        for (int64_t r = row; r < last; ++r) {
          T sum_of_run = 0;
          const int64_t offset = ((sample * v.before + r) * v.units + unit) * v.after + column;
          work<false>(offset, unit, 1, width, sums ? &sum_of_run : nullptr);
          sum += sum_of_run;
        }
        if (sums) sums[item] = static_cast<T>(sum);
      }
    });
    if (partial) add_partials(partial.get(), neurons_, v.samples * v.units, blocks, 1);
  }

  // `count` runs of `n` elements, one after the other in memory; the first belongs to `unit`.
  template <bool kInnermost>
  void work(int64_t offset, int64_t unit, int64_t count, int64_t n, T* sums) const {
    Runs runs = {};
    runs.count = count, runs.n = n, runs.sums = sums;
    for (int k = 0; k < Op::kTensors; ++k) runs.tensors[k] = static_cast<const Scalar*>(pass_.tensors[k]) + offset;
    for (int k = 0; k < Op::kVectors; ++k) runs.vectors[k] = vectors_[k] ? vectors_[k] + unit : nullptr;
    for (int k = 0; k < Op::kOutputs; ++k) runs.outputs[k] = static_cast<Scalar*>(pass_.outputs[k]) + offset;
    Kernel::template run<kInnermost>(pass_.op, pass_.activation, runs);
  }

  // neurons[o, i] = sum over b of partial[o, b, i], in order.
  static void add_partials(const T* partial, T* neurons, int64_t outer, int64_t blocks, int64_t inner) {
    constexpr int64_t kColumns = 512;
    double sums[kColumns];
    for (int64_t o = 0; o < outer; ++o) {
      for (int64_t first = 0; first < inner; first += kColumns) {
        const int64_t columns = std::min(kColumns, inner - first);
        std::fill_n(sums, columns, 0.0);
        for (int64_t b = 0; b < blocks; ++b) {
          const T* row = partial + (o * blocks + b) * inner + first;
          for (int64_t i = 0; i < columns; ++i) sums[i] += row[i];
        }
        for (int64_t i = 0; i < columns; ++i) neurons[o * inner + first + i] = static_cast<T>(sums[i]);
      }
    }
  }

  const UnitPass<Op>& pass_;
  T* neurons_;
  const T* vectors_[kMaxVectors];
};

}  // namespace zsu::lrp

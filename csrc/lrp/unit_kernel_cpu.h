// The inner loops of a pass on the CPU: every operand read and every result written once, a pack at a time, all steps
// in registers.
#pragma once

#include <algorithm>

#include "lrp/blocks_cpu.h"
#include "lrp/elementary_cpu.h"
#include "lrp/rules.h"

namespace zsu::lrp {

constexpr int kStaged = -2;  // besides the activations: what the rule starts from has been computed before

// gradient * act(x) for the activations that take long: one loop for all rules. They are compiled much faster for it.
template <int kCode, class Scalar>
void stage_numerators(const Scalar* gradient, const Scalar* x, accumulate_t<Scalar>* staged, int64_t n) {
  for_each_pack<accumulate_t<Scalar>>(
      n, [&](int64_t i, int, auto) { store(load(gradient + i) * activate<kCode>(load(x + i)), staged + i); });
}

template <class Op, class Scalar>
struct UnitKernel {
  using T = accumulate_t<Scalar>;
  using P = Pack<T>;

  // `count` runs of `n` elements, one after the other in memory; null for what is not there. Where units lie innermost,
  // element i of each run belongs to unit i, and what was staged for it is added to sums[i]; otherwise run r belongs to
  // unit r, and sums[r] becomes the sum of what was staged for it.
  struct Runs {
    int64_t count, n;
    const Scalar* tensors[kMaxTensors];
    const T* vectors[kMaxVectors];
    Scalar* outputs[kMaxOutputs];
    T* sums;
    const T* staged;
  };

  template <bool kInnermost>
  static void run(const Op& op, int activation, const Runs& runs) {
    if (runs.n < kBlock<T>) return padded<kInnermost>(op, activation, runs);
    if constexpr (Op::kStage == Stage::kNone) {
      blocks<kInnermost, kRelevance>(op, runs);
    } else {
      switch (activation) {
        case kRelevance:
          if constexpr (Op::kStage == Stage::kNumerator) blocks<kInnermost, kRelevance>(op, runs);
          return;
        case kIdentity:
          return blocks<kInnermost, kIdentity>(op, runs);
        case kRelu:
          return blocks<kInnermost, kRelu>(op, runs);
#define ZSU_SMOOTH(CODE)                         \
  case CODE:                                     \
    if constexpr (Op::kStage == Stage::kGate)    \
      return blocks<kInnermost, CODE>(op, runs); \
    else                                         \
      return segments<kInnermost>(op, runs, stage_numerators<CODE, Scalar>);
          ZSU_SMOOTH(kGelu)
          ZSU_SMOOTH(kGeluTanh)
          ZSU_SMOOTH(kSilu)
          ZSU_SMOOTH(kRelu6)
          ZSU_SMOOTH(kHardswish)
          ZSU_SMOOTH(kTanh)
#undef ZSU_SMOOTH
      }
    }
  }

 private:
  // Runs of less than a block, through buffers of one, zero where there are no elements.
  template <bool kInnermost>
  static void padded(const Op& op, int activation, const Runs& runs) {
    const int64_t n = runs.n;
    for (int64_t r = 0; r < runs.count; ++r) {
      Scalar tensors[kMaxTensors][kBlock<T>] = {}, outputs[kMaxOutputs][kBlock<T>];
      T vectors[kMaxVectors][kBlock<T>] = {}, sums[kBlock<T>] = {};
      Runs block = {};
      block.count = 1, block.n = kBlock<T>;
      for (int k = 0; k < Op::kTensors; ++k) {
        std::copy_n(runs.tensors[k] + r * n, n, tensors[k]);
        block.tensors[k] = tensors[k];
      }
      for (int k = 0; k < Op::kVectors; ++k) {
        if (!runs.vectors[k]) continue;
        std::copy_n(runs.vectors[k] + (kInnermost ? 0 : r), kInnermost ? n : 1, vectors[k]);
        block.vectors[k] = vectors[k];
      }
      for (int k = 0; k < Op::kOutputs; ++k) block.outputs[k] = outputs[k];
      if (runs.sums) block.sums = sums;
      run<kInnermost>(op, activation, block);
      for (int k = 0; k < Op::kOutputs; ++k) std::copy_n(outputs[k], n, runs.outputs[k] + r * n);
      if (!runs.sums) continue;
      if (!kInnermost) runs.sums[r] = sums[0];
      for (int64_t i = 0; kInnermost && i < n; ++i) runs.sums[i] += sums[i];
    }
  }

  // Stages a segment and applies the rule to it while it lies in the first-level cache.
  template <bool kInnermost, class StageNumerators>
  static void segments(const Op& op, const Runs& runs, const StageNumerators& stage) {
    T staged[kSegment + kBlock<T>];
    for (int64_t r = 0; r < runs.count; ++r) {
      double sum = 0;
      for (int64_t i = 0, n; i < runs.n; i += n) {
        n = runs.n - i < kSegment + kBlock<T> ? runs.n - i : kSegment;  // the last one is not shorter than a block
        T sum_of_segment = 0;
        Runs segment = {};
        segment.count = 1, segment.n = n, segment.staged = staged;
        for (int k = 0; k < Op::kTensors; ++k) segment.tensors[k] = runs.tensors[k] + r * runs.n + i;
        for (int k = 0; k < Op::kVectors; ++k) {
          if (runs.vectors[k]) segment.vectors[k] = runs.vectors[k] + (kInnermost ? i : r);
        }
        for (int k = 0; k < Op::kOutputs; ++k) segment.outputs[k] = runs.outputs[k] + r * runs.n + i;
        if (runs.sums) segment.sums = kInnermost ? runs.sums + i : &sum_of_segment;
        stage(segment.tensors[0], segment.tensors[1], staged, n);
        blocks<kInnermost, kStaged>(op, segment);
        sum += sum_of_segment;
      }
      if (!kInnermost && runs.sums) runs.sums[r] = static_cast<T>(sum);
    }
  }

  // At least a block of elements in each run.
  template <bool kInnermost, int kCode>
  __attribute__((noinline)) static void blocks(const Op op, const Runs runs) {
    const bool collect = runs.sums;
    for (int64_t r = 0; r < runs.count; ++r) {
      BlockSum<T> sum;
      P vectors[kMaxVectors] = {};
      if constexpr (Op::kVectors > 0) {
        for (int k = 0; k < Op::kVectors; ++k)
          vectors[k] = runs.vectors[k] ? runs.vectors[k][kInnermost ? 0 : r] : Op::neutral(k);
      }
      for_each_pack<T>(runs.n, [&](int64_t i, int p, auto keep) ZSU_INLINE_LAMBDA {
        const int64_t at = r * runs.n + i;
        P tensors[kMaxTensors], outputs[kMaxOutputs];
        for (int k = 0; k < Op::kTensors; ++k) tensors[k] = load(runs.tensors[k] + at);
        for (int k = 0; kInnermost && k < Op::kVectors; ++k) {
          if (runs.vectors[k]) vectors[k] = load(runs.vectors[k] + i);
        }
        P staged = tensors[0];
        if constexpr (kCode == kStaged) {
          staged = load(runs.staged + i);
        } else if constexpr (Op::kStage == Stage::kGate) {
          staged = staged * gate<kCode>(tensors[1]);
        } else if constexpr (kCode != kRelevance) {
          staged = staged * activate<kCode>(tensors[1]);
        }
        op(staged, tensors, vectors, outputs);
        for (int k = 0; k < Op::kOutputs; ++k) store(outputs[k], runs.outputs[k] + at);
        if (!collect) return;
        const P counted = select(keep, staged, P(0));
        if constexpr (kInnermost) {
          store(load(runs.sums + i) + counted, runs.sums + i);
        } else {
          sum.add(p, counted);
        }
      });
      if (!kInnermost && collect) runs.sums[r] = static_cast<T>(sum.total());
    }
  }
};

}  // namespace zsu::lrp

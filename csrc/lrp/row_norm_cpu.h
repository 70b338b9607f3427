// The CPU form of the LayerNorm and RMSNorm gates: one or two passes over a row that lies in the cache.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "lrp/norms.h"
#include "lrp/unit_pass_cpu.h"

namespace zsu::lrp {

template <class Scalar>
struct RowNormCpu {
  using T = accumulate_t<Scalar>;
  using P = Pack<T>;

  static void run(const RowNorm& norm) {
    const int64_t grain = std::max<int64_t>(1, kChunk / norm.size);
    torch::stable::parallel_for(0, norm.rows, grain, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) gate_row(norm, row);
    });
  }

 private:
  static void gate_row(const RowNorm& norm, int64_t row) {
    const Scalar* gradient = static_cast<const Scalar*>(norm.gradient) + row * norm.size;
    Scalar* output = static_cast<Scalar*>(norm.output) + row * norm.size;
    const T* weight = static_cast<const T*>(norm.weight);
    const T rstd = static_cast<const T*>(norm.rstd)[row];
    if (norm.size >= kBlock<T>) return gate_blocks(norm, gradient, weight, rstd, output, norm.size);
    // Through buffers of one block, zero where there are no elements.
    Scalar gradients[kBlock<T>] = {}, outputs[kBlock<T>];
    T weights[kBlock<T>] = {};
    std::copy_n(gradient, norm.size, gradients);
    if (weight) std::copy_n(weight, norm.size, weights);
    gate_blocks(norm, gradients, weight ? weights : nullptr, rstd, outputs, kBlock<T>);
    std::copy_n(outputs, norm.size, output);
  }

  static void gate_blocks(const RowNorm& norm, const Scalar* gradient, const T* weight, T rstd, Scalar* output,
                          int64_t n) {
    const auto weighted = [&](int64_t i) {
      const P values = load(gradient + i);
      return weight ? values * load(weight + i) : values;
    };
    P mean = T(0);
    if (norm.centred) {
      BlockSum<T> sum;
      for_each_pack<T>(n, [&](int64_t i, int p, auto keep) { sum.add(p, select(keep, weighted(i), P(0))); });
      mean = static_cast<T>(sum.total() / static_cast<double>(norm.size));
    }
    for_each_pack<T>(n, [&](int64_t i, int, auto) { store((weighted(i) - mean) * P(rstd), output + i); });
  }
};

}  // namespace zsu::lrp

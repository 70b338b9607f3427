// The CPU form of the LayerNorm and RMSNorm gates: one or two passes over a row that lies in the cache.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "lrp/convert_cpu.h"
#include "lrp/norms.h"
#include "lrp/unit_pass_cpu.h"

namespace zsu::lrp {

template <class Scalar>
struct RowNormCpu {
  using T = accumulate_t<Scalar>;

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
    T buffer[kTile], scaled[kTile], result[kTile];

    T mean = 0;
    if (norm.centred) {
      double sum = 0;
      for (int64_t i = 0; i < norm.size; i += kTile) {
        const int64_t n = std::min(kTile, norm.size - i);
        sum += sum_tile(times_weight(load(gradient + i, buffer, n), weight, i, scaled, n), n);
      }
      mean = static_cast<T>(sum / static_cast<double>(norm.size));
    }
    for (int64_t i = 0; i < norm.size; i += kTile) {
      const int64_t n = std::min(kTile, norm.size - i);
      const T* values = times_weight(load(gradient + i, buffer, n), weight, i, scaled, n);
      T* target = store_target(output + i, result);
#pragma GCC ivdep
      for (int64_t j = 0; j < n; ++j) target[j] = (values[j] - mean) * rstd;
      store(target, output + i, n);
    }
  }

  static const T* times_weight(const T* values, const T* weight, int64_t first, T* scaled, int64_t n) {
    if (!weight) return values;
    for (int64_t j = 0; j < n; ++j) scaled[j] = values[j] * weight[first + j];
    return scaled;
  }
};

}  // namespace zsu::lrp

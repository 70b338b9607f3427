// Which kernel takes which memory in which pieces, and how the sums that they leave are put together.
#pragma once

#include <numeric>
#include <vector>

#include "lrp/unit_pass_kernels.cuh"

namespace zsu::lrp {

template <class Op, class HostScalar>
class UnitPassCuda {
 public:
  using Scalar = device_t<HostScalar>;
  using T = accumulate_t<HostScalar>;
  static constexpr int N = 16 / sizeof(Scalar);

  UnitPassCuda(const UnitPass<Op>& pass, const Tensor& like)
      : pass_(pass), like_(like), stream_(current_stream(like)), neurons_(static_cast<T*>(pass.neurons)) {}

  void run() {
    Layout& layout = pass_.layout;
    if (layout.numel() == 0) {
      const int64_t bytes = layout.samples * layout.units * static_cast<int64_t>(sizeof(T));
      if (neurons_ && bytes > 0) ZSU_CUDA_CHECK(cudaMemsetAsync(neurons_, 0, bytes, stream_));
      return;
    }
    if constexpr (kKnowsUnits<Op>) {
      bool per_unit = neurons_ != nullptr;
      for (const void* vector : pass_.vectors) per_unit = per_unit || vector != nullptr;
      if (per_unit) {
        if (!neurons_) layout = {1, layout.samples * layout.before, layout.units, layout.after};
        if (layout.after == 1 && layout.before > 1) return rows();
        // The least number of runs that ends on a 16-byte boundary.
        const int64_t least = N / std::gcd(layout.after, int64_t{N});
        return least * layout.after <= kChunk ? chunks(least) : runs();
      }
    }
    layout = {1, 1, 1, layout.numel()};
    runs();
  }

 private:
  void runs() {
    const Layout& layout = pass_.layout;
    const int64_t count = layout.samples * layout.before * layout.units;
    RunItems items;
    items.segments = ceil_div(layout.after, kChunk);
    if (neurons_) {
      items.segments = std::min(items.segments, std::max<int64_t>(1, kMaxPartials / layout.before));
    } else {
      items.segments = std::min<int64_t>(items.segments, ceil_div(int64_t{multiprocessor_count()} * 16, count));
    }
    items.columns = ceil_div(ceil_div(layout.after, items.segments), N) * N;
    items.segments = ceil_div(layout.after, items.columns);
    items.count = count * items.segments;
    summed({layout.samples, layout.before, layout.units, items.segments}, [&](T* sums) {
      unit_runs_kernel<Scalar, Op, T>
          <<<grid_for(items.count, 1, 16), kThreads, 0, stream_>>>(pass_, items, sums, all_aligned());
    });
  }

  void chunks(int64_t least) {
    const Layout& layout = pass_.layout;
    ChunkItems items;
    items.total_runs = layout.samples * layout.before * layout.units;
    items.runs = kChunk / (least * layout.after) * least;
    items.count = ceil_div(items.total_runs, items.runs);
    items.lanes = 1;
    while (items.lanes < kWarp && items.lanes * 2 <= layout.after) items.lanes *= 2;
    summed({layout.samples, layout.before, layout.units, 1}, [&](T* sums) {
      unit_chunks_kernel<Scalar, Op, T>
          <<<grid_for(items.count, 1, 16), kThreads, 0, stream_>>>(pass_, items, sums, all_aligned());
    });
  }

  void rows() {
    if (pass_.layout.units % N == 0 && all_aligned()) {
      launch_rows<N>();
    } else {
      launch_rows<1>();
    }
  }

  template <int kWidth>
  void launch_rows() {
    const Layout& layout = pass_.layout;
    unsigned x = 1;
    while (x < kWarp && int64_t{x} * kWidth < layout.units) x *= 2;
    const dim3 block(x, kThreads / x);
    RowItems items;
    items.columns = int64_t{x} * kWidth;
    items.column_blocks = ceil_div(layout.units, items.columns);
    // Blocks of as many rows each, but for the last.
    items.row_blocks = std::min(ceil_div(layout.before, block.y * kIterations), kMaxPartials);
    items.rows = ceil_div(layout.before, items.row_blocks);
    items.row_blocks = ceil_div(layout.before, items.rows);
    items.count = layout.samples * items.row_blocks * items.column_blocks;
    summed({layout.samples, items.row_blocks, layout.units, 1}, [&](T* sums) {
      unit_rows_kernel<kWidth, Scalar, Op, T><<<grid_for(items.count, 1, 16), block, 0, stream_>>>(pass_, items, sums);
    });
  }

  // Launches a kernel that leaves partial sums of this shape, and adds them up.
  template <class Launch>
  void summed(Partials shape, const Launch& launch) {
    const bool split = neurons_ && shape.blocks * shape.parts > 1;
    T* partial = split ? scratch(shape.outer * shape.blocks * shape.inner * shape.parts) : neurons_;
    launch(partial);
    ZSU_LAUNCH_CHECK();
    if (!split) return;
    if (shape.blocks > kMaxPartials) {
      const int64_t groups = ceil_div(shape.blocks, kMaxPartials / 8);
      T* grouped = scratch(shape.outer * groups * shape.inner);
      add_partials(partial, grouped, shape, groups);
      partial = grouped;
      shape = {shape.outer, groups, shape.inner, 1};
    }
    add_partials(partial, neurons_, shape, 1);
  }

  void add_partials(const T* partial, T* sums, const Partials& shape, int64_t groups) {
    constexpr int kSlices = 8, kColumns = kThreads / kSlices;
    const auto grid = static_cast<unsigned>(ceil_div(shape.outer * groups * shape.inner, kColumns));
    const int64_t group = groups == 1 ? shape.blocks : kMaxPartials / 8;
    add_partials_kernel<T><<<grid, dim3(kColumns, kSlices), 0, stream_>>>(partial, sums, shape, group, groups);
    ZSU_LAUNCH_CHECK();
  }

  // From torch's caching allocator: ordered with the stream, and safe to give back before the kernels have run.
  T* scratch(int64_t count) {
    const auto type = std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float;
    scratch_.push_back(torch::stable::new_empty(like_, {count}, type));
    return static_cast<T*>(scratch_.back().mutable_data_ptr());
  }

  bool all_aligned() const {
    bool all = true;
    for (int k = 0; k < Op::kTensors; ++k) all = all && aligned(16, pass_.tensors[k]);
    for (int k = 0; k < Op::kOutputs; ++k) all = all && aligned(16, pass_.outputs[k]);
    return all;
  }

  static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

  UnitPass<Op> pass_;
  const Tensor& like_;
  cudaStream_t stream_;
  T* neurons_;
  std::vector<Tensor> scratch_;
};

}  // namespace zsu::lrp

// The CUDA form of a pass: every operand read and every result written once, in 16-byte accesses where memory allows.
//
// Two kernels cover all layouts: runs of memory that belong to one unit (channels-first, and whatever knows no units),
// and rows of units (tokens, channels_last). Sums per unit need no atomics: groups of threads reduce in a fixed order
// over a partition that depends on the shape alone, a second kernel adds what they leave, so results are reproducible
// bit for bit. Nothing synchronises with the host, so passes can be captured in CUDA graphs.
#pragma once

#include "common/cuda.cuh"
#include "lrp/unit_pass.h"

namespace zsu::lrp {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr int64_t kRun = 4096;          // elements of one unit that a block takes in one go
constexpr int64_t kMaxPartials = 1024;  // per sum: bounds the second kernel
constexpr int64_t kIterations = 8;      // rows that a thread takes in one go where units lie innermost

// Registers for all that an element needs, no spills: the rules with two results need more than 64K / (3 * 256).
template <class Op>
constexpr int kBlocksPerSm = Op::kOutputs > 1 ? 2 : 3;

// `N` consecutive elements at `offset`: load, stage, apply, store. Adds what is staged to `sums`.
template <int N, class Scalar, class Op, class T>
__device__ __forceinline__ void pass_elements(const UnitPass<Op>& pass, int64_t offset,
                                              const T (&vectors)[kMaxVectors][N], T (&sums)[N]) {
  using Packed = Vector<Scalar, N>;
  T tensors[kMaxTensors][N] = {}, staged[N], results[kMaxOutputs][N];
#pragma unroll
  for (int k = 0; k < Op::kTensors; ++k) {
    const Packed packed = *reinterpret_cast<const Packed*>(static_cast<const Scalar*>(pass.tensors[k]) + offset);
#pragma unroll
    for (int j = 0; j < N; ++j) tensors[k][j] = static_cast<T>(packed.values[j]);
  }
#pragma unroll
  for (int j = 0; j < N; ++j) staged[j] = tensors[0][j];
  if constexpr (Op::kStage != Stage::kNone) {
    // Uniform over the grid; outside the loop over elements, so that each activation's code stands there once.
    switch (pass.activation) {
#define ZSU_STAGE(CODE)                                                                         \
  case CODE:                                                                                    \
    _Pragma("unroll") for (int j = 0; j < N; ++j) staged[j] *=                                  \
        Op::kStage == Stage::kGate ? gate<CODE>(tensors[1][j]) : activate<CODE>(tensors[1][j]); \
    break;
      ZSU_STAGE(kIdentity)
      ZSU_STAGE(kRelu)
      ZSU_STAGE(kGelu)
      ZSU_STAGE(kGeluTanh)
      ZSU_STAGE(kSilu)
      ZSU_STAGE(kRelu6)
      ZSU_STAGE(kHardswish)
      ZSU_STAGE(kTanh)
#undef ZSU_STAGE
      default:  // kRelevance: nothing to multiply by
        break;
    }
  }
#pragma unroll
  for (int j = 0; j < N; ++j) {
    T in[kMaxTensors], unit[kMaxVectors], out[kMaxOutputs];
#pragma unroll
    for (int k = 0; k < kMaxTensors; ++k) in[k] = tensors[k][j];
#pragma unroll
    for (int k = 0; k < kMaxVectors; ++k) unit[k] = vectors[k][j];
    pass.op(staged[j], in, unit, out);
#pragma unroll
    for (int k = 0; k < Op::kOutputs; ++k) results[k][j] = out[k];
    sums[j] += staged[j];
  }
#pragma unroll
  for (int k = 0; k < Op::kOutputs; ++k) {
    Packed packed;
#pragma unroll
    for (int j = 0; j < N; ++j) packed.values[j] = static_cast<Scalar>(results[k][j]);
    *reinterpret_cast<Packed*>(static_cast<Scalar*>(pass.outputs[k]) + offset) = packed;
  }
}

// The per-unit parameters of N units from `unit` on, or of one unit N times.
template <int N, bool kSameUnit, class Op, class T>
__device__ __forceinline__ void load_vectors(const UnitPass<Op>& pass, int64_t unit, T (&vectors)[kMaxVectors][N]) {
  if constexpr (Op::kVectors > 0) {
#pragma unroll
    for (int k = 0; k < Op::kVectors; ++k) {
      const T* source = static_cast<const T*>(pass.vectors[k]);
#pragma unroll
      for (int j = 0; j < N; ++j) vectors[k][j] = source ? source[unit + (kSameUnit ? 0 : j)] : Op::neutral(k);
    }
  }
}

// How the runs of one unit are cut into work items: boxes of `rows` x `columns` in its [before, after] elements.
struct RunItems {
  int64_t columns, rows, column_blocks, blocks, count;
};

// `kGroup` threads take one item: a warp where runs are short, a block where they are long.
template <int kGroup, class Scalar, class Op, class T>
__global__ void __launch_bounds__(kThreads, kBlocksPerSm<Op>)
    unit_runs_kernel(const UnitPass<Op> pass, const RunItems items, T* sums, const bool packed) {
  constexpr int N = 16 / sizeof(Scalar);
  constexpr int kGroups = kThreads / kGroup;
  const int lane = threadIdx.x % kGroup, group = threadIdx.x / kGroup;
  const Layout& layout = pass.layout;
  __shared__ T warp_sums[kThreads / kWarp];

  // All threads of a block go through the same number of rounds: they meet at barriers.
  for (int64_t first = int64_t{blockIdx.x} * kGroups; first < items.count; first += int64_t{gridDim.x} * kGroups) {
    const int64_t item = first + group;
    T sum = 0;
    if (item < items.count) {
      const int64_t neuron = item / items.blocks, block = item % items.blocks;
      const int64_t sample = neuron / layout.units, unit = neuron % layout.units;
      const int64_t row = block / items.column_blocks * items.rows;
      const int64_t column = block % items.column_blocks * items.columns;
      const int64_t last_row = min(row + items.rows, layout.before);
      const int64_t width = min(items.columns, layout.after - column);
      T one_vector[kMaxVectors][1] = {}, vectors[kMaxVectors][N] = {};
      load_vectors<1, true>(pass, unit, one_vector);
#pragma unroll
      for (int k = 0; k < kMaxVectors; ++k) {
#pragma unroll
        for (int j = 0; j < N; ++j) vectors[k][j] = one_vector[k][0];
      }
      T one_sum[1] = {}, lane_sums[N] = {};
      for (int64_t r = row; r < last_row; ++r) {
        const int64_t offset = ((sample * layout.before + r) * layout.units + unit) * layout.after + column;
        // Single elements up to the first 16-byte boundary, packed ones from there, single ones for what remains.
        const int64_t head = packed ? min(width, (N - offset % N) % N) : width;
        const int64_t packs = (width - head) / N, tail = head + packs * N;
        for (int64_t i = lane; i < head; i += kGroup) pass_elements<1, Scalar>(pass, offset + i, one_vector, one_sum);
        for (int64_t i = lane; i < packs; i += kGroup) {
          pass_elements<N, Scalar>(pass, offset + head + i * N, vectors, lane_sums);
        }
        for (int64_t i = tail + lane; i < width; i += kGroup) {
          pass_elements<1, Scalar>(pass, offset + i, one_vector, one_sum);
        }
      }
      sum = one_sum[0];
#pragma unroll
      for (int j = 0; j < N; ++j) sum += lane_sums[j];
    }
    if (sums == nullptr) continue;  // uniform over the grid
#pragma unroll
    for (int distance = kWarp / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    if constexpr (kGroup > kWarp) {
      if (threadIdx.x % kWarp == 0) warp_sums[threadIdx.x / kWarp] = sum;
      __syncthreads();
      sum = 0;
#pragma unroll
      for (int w = 0; w < kThreads / kWarp; ++w) sum += warp_sums[w];
      __syncthreads();  // before the next round overwrites them
    }
    if (lane == 0 && item < items.count) sums[item] = sum;
  }
}

// How rows of units are cut: `columns` units by `rows` rows of one sample.
struct RowItems {
  int64_t columns, rows, column_blocks, row_blocks, count;
};

template <int N, class Scalar, class Op, class T>
__global__ void __launch_bounds__(kThreads, kBlocksPerSm<Op>)
    unit_rows_kernel(const UnitPass<Op> pass, const RowItems items, T* sums) {
  __shared__ T shared[kThreads * N];
  const Layout& layout = pass.layout;
  for (int64_t item = blockIdx.x; item < items.count; item += gridDim.x) {
    const int64_t column_block = item % items.column_blocks, rest = item / items.column_blocks;
    const int64_t row_block = rest % items.row_blocks, sample = rest / items.row_blocks;
    const int64_t unit = column_block * items.columns + int64_t{threadIdx.x} * N;
    const bool inside = unit < layout.units;  // units % N == 0, so all N of them or none
    T lane_sums[N] = {};
    if (inside) {
      T vectors[kMaxVectors][N] = {};
      load_vectors<N, false>(pass, unit, vectors);
      const int64_t last = min((row_block + 1) * items.rows, layout.before);
      for (int64_t row = row_block * items.rows + threadIdx.y; row < last; row += blockDim.y) {
        pass_elements<N, Scalar>(pass, (sample * layout.before + row) * layout.units + unit, vectors, lane_sums);
      }
    }
    if (sums == nullptr) continue;  // uniform over the grid
    const int width = blockDim.x * N;
#pragma unroll
    for (int j = 0; j < N; ++j) shared[threadIdx.y * width + threadIdx.x * N + j] = lane_sums[j];
    __syncthreads();
    const int thread = threadIdx.y * blockDim.x + threadIdx.x;
    for (int column = thread; column < width; column += blockDim.x * blockDim.y) {
      const int64_t target = column_block * items.columns + column;
      if (target < layout.units) {
        T sum = 0;
        for (int y = 0; y < static_cast<int>(blockDim.y); ++y) sum += shared[y * width + column];
        sums[(sample * items.row_blocks + row_block) * layout.units + target] = sum;
      }
    }
    __syncthreads();  // before the next item overwrites them
  }
}

// sums[o, i] = sum over b of partial[o, b, i].
template <class T>
__global__ void __launch_bounds__(kThreads)
    add_partials_kernel(const T* partial, T* sums, const int64_t outer, const int64_t blocks, const int64_t inner) {
  constexpr int kSlices = 8, kColumns = kThreads / kSlices;
  __shared__ T shared[kSlices][kColumns];
  const int64_t index = int64_t{blockIdx.x} * kColumns + threadIdx.x;
  T sum = 0;
  if (index < outer * inner) {
    const T* first = partial + index / inner * blocks * inner + index % inner;
    for (int64_t b = threadIdx.y; b < blocks; b += kSlices) sum += first[b * inner];
  }
  shared[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y == 0 && index < outer * inner) {
    for (int slice = 1; slice < kSlices; ++slice) sum += shared[slice][threadIdx.x];
    sums[index] = sum;
  }
}

template <class Op, class HostScalar>
class UnitPassCuda {
 public:
  using Scalar = device_t<HostScalar>;
  using T = accumulate_t<HostScalar>;
  static constexpr int N = 16 / sizeof(Scalar);

  UnitPassCuda(const UnitPass<Op>& pass, const Tensor& like)
      : pass_(pass), like_(like), stream_(current_stream(like)), neurons_(static_cast<T*>(pass.neurons)) {}

  void run() {
    const Layout& layout = pass_.layout;
    if (layout.numel() == 0) {
      const int64_t bytes = layout.samples * layout.units * static_cast<int64_t>(sizeof(T));
      if (neurons_ && bytes > 0) ZSU_CUDA_CHECK(cudaMemsetAsync(neurons_, 0, bytes, stream_));
      return;
    }
    bool per_unit = neurons_ != nullptr;
    for (const void* vector : pass_.vectors) per_unit = per_unit || vector != nullptr;
    if (!per_unit) pass_.layout = {1, 1, 1, layout.numel()};
    if (pass_.layout.after == 1 && per_unit) {
      rows();
    } else {
      runs();
    }
  }

 private:
  void runs() {
    const Layout& layout = pass_.layout;
    RunItems items;
    // Sums are cut into a bounded number of parts, whatever the shape.
    const int64_t least = neurons_ ? ceil_div(layout.before * layout.after, kMaxPartials) : 1;
    items.columns = std::min(layout.after, std::max(kRun, least));
    items.rows = std::clamp<int64_t>(std::max(kRun, least) / layout.after, 1, layout.before);
    items.column_blocks = ceil_div(layout.after, items.columns);
    items.blocks = ceil_div(layout.before, items.rows) * items.column_blocks;
    items.count = layout.samples * layout.units * items.blocks;

    const bool split = neurons_ && items.blocks > 1;
    T* sums = split ? scratch(items.count) : neurons_;
    const bool packed = all_aligned();
    if (items.columns * items.rows <= 16 * kWarp) {
      launch_runs<kWarp>(items, sums, packed);
    } else {
      launch_runs<kThreads>(items, sums, packed);
    }
    if (split) add_partials(sums, layout.samples * layout.units, items.blocks, 1);
  }

  template <int kGroup>
  void launch_runs(const RunItems& items, T* sums, bool packed) {
    const unsigned grid = grid_for(items.count * kGroup, kThreads, 16);
    unit_runs_kernel<kGroup, Scalar, Op, T><<<grid, kThreads, 0, stream_>>>(pass_, items, sums, packed);
    ZSU_LAUNCH_CHECK();
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
    items.rows = std::max<int64_t>(block.y * kIterations, ceil_div(layout.before, kMaxPartials));
    items.row_blocks = ceil_div(layout.before, items.rows);
    items.count = layout.samples * items.row_blocks * items.column_blocks;

    const bool split = neurons_ && items.row_blocks > 1;
    T* sums = split ? scratch(layout.samples * items.row_blocks * layout.units) : neurons_;
    const unsigned grid = grid_for(items.count * kThreads, kThreads, 16);
    unit_rows_kernel<kWidth, Scalar, Op, T><<<grid, block, 0, stream_>>>(pass_, items, sums);
    ZSU_LAUNCH_CHECK();
    if (split) add_partials(sums, layout.samples, items.row_blocks, layout.units);
  }

  void add_partials(const T* partial, int64_t outer, int64_t blocks, int64_t inner) {
    constexpr int kSlices = 8, kColumns = kThreads / kSlices;
    const unsigned grid = static_cast<unsigned>(ceil_div(outer * inner, kColumns));
    add_partials_kernel<T><<<grid, dim3(kColumns, kSlices), 0, stream_>>>(partial, neurons_, outer, blocks, inner);
    ZSU_LAUNCH_CHECK();
  }

  // From torch's caching allocator: ordered with the stream, and safe to give back before the kernels have run.
  T* scratch(int64_t count) {
    const auto type = std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float;
    scratch_ = torch::stable::new_empty(like_, {count}, type);
    return static_cast<T*>(scratch_.mutable_data_ptr());
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
  Tensor scratch_;
};

}  // namespace zsu::lrp

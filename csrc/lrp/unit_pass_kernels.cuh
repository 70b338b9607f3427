// The CUDA form of a pass: every operand read and every result written once, in 16-byte accesses where memory allows.
//
// Memory is [samples, before, units, after]. Three kernels cover it:
//   rows:     after = 1 (tokens, channels_last): a thread keeps to its units and goes down the rows;
//   runs:     long runs of memory that belong to one unit (channels-first, and whatever knows no units);
//   chunks:   short ones: several runs at a time, as if they were one, summed from shared memory.
// Sums per unit need no atomics: they are added in a fixed order over a partition that depends on the shape alone, so
// results are reproducible bit for bit. Nothing synchronises with the host: passes can be captured in CUDA graphs.
//
// What is read next is asked for before what has arrived is worked on: at three blocks per multiprocessor that keeps
// the 20 to 30 KiB under way that the memory of a Hopper GPU needs to be busy.
#pragma once

#include "common/cuda.cuh"
#include "lrp/unit_pass.h"

namespace zsu::lrp {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr int kChunk = 4096;            // elements that a block takes in one go
constexpr int64_t kMaxPartials = 1024;  // per sum: bounds what is left to add up
constexpr int64_t kIterations = 8;      // rows that a thread takes in one go

// Registers for all that an element needs, no spills; more blocks where each has little under way.
template <class Op, class T>
constexpr int kBlocksPerSm = Op::kOutputs > 1 || sizeof(T) > 4 ? 2 : (Op::kTensors == 1 ? 4 : 3);

// Without parameters or sums per unit, a pass is one long run.
template <class Op>
constexpr bool kKnowsUnits = Op::kVectors > 0 || Op::kStage == Stage::kNumerator;

// N consecutive elements of every operand, as they lie in memory.
template <int N, class Scalar, class Op>
struct Loaded {
  Vector<Scalar, N> tensors[Op::kTensors];

  __device__ __forceinline__ Loaded() {}
  __device__ __forceinline__ Loaded(const UnitPass<Op>& pass, int64_t offset) {
#pragma unroll
    for (int k = 0; k < Op::kTensors; ++k) {
      tensors[k] = *reinterpret_cast<const Vector<Scalar, N>*>(static_cast<const Scalar*>(pass.tensors[k]) + offset);
    }
  }
};

// Stages, applies and stores N elements at `offset`. `staged` is what the sums are made of.
template <int N, class Scalar, class Op, class T>
__device__ __forceinline__ void apply(const UnitPass<Op>& pass, const Loaded<N, Scalar, Op>& loaded, int64_t offset,
                                      const T (&vectors)[kMaxVectors][N], T (&staged)[N]) {
  T tensors[kMaxTensors][N] = {}, results[kMaxOutputs][N];
#pragma unroll
  for (int k = 0; k < Op::kTensors; ++k) {
#pragma unroll
    for (int j = 0; j < N; ++j) tensors[k][j] = static_cast<T>(loaded.tensors[k].values[j]);
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
  }
#pragma unroll
  for (int k = 0; k < Op::kOutputs; ++k) {
    Vector<Scalar, N> packed;
#pragma unroll
    for (int j = 0; j < N; ++j) packed.values[j] = static_cast<Scalar>(results[k][j]);
    store(static_cast<Scalar*>(pass.outputs[k]) + offset, packed);
  }
}

// Goes over the packs i = first, first + step, ... below `count`, at `offset + i * stride`: `visit(i, staged)` after
// each. `vectors_of(i)` are the parameters of its elements.
template <int N, class Scalar, class T, class Op, class Vectors, class Visit>
__device__ __forceinline__ void for_packs(const UnitPass<Op>& pass, int64_t offset, int64_t stride, int64_t first,
                                          int64_t step, int64_t count, const Vectors& vectors_of, const Visit& visit) {
  using Pack = Loaded<N, Scalar, Op>;
  Pack next;
  if (first < count) next = Pack(pass, offset + first * stride);
#pragma unroll 1
  for (int64_t i = first; i < count; i += step) {
    const Pack current = next;
    if (i + step < count) next = Pack(pass, offset + (i + step) * stride);
    T vectors[kMaxVectors][N] = {}, staged[N];
    vectors_of(i, vectors);
    apply<N, Scalar>(pass, current, offset + i * stride, vectors, staged);
    visit(i, staged);
  }
}

// The parameter k of one unit.
template <class T, class Op>
__device__ __forceinline__ T vector_value(const UnitPass<Op>& pass, int k, int64_t unit) {
  const T* source = static_cast<const T*>(pass.vectors[k]);
  return source ? source[unit] : Op::neutral(k);
}

// The sum over a warp, in every lane.
template <class T>
__device__ __forceinline__ T warp_sum(T sum) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
  return sum;
}

// Runs of one unit, cut into segments of at most `columns`: one segment is an item.
struct RunItems {
  int64_t columns, segments, count;
};

template <class Scalar, class Op, class T>
__global__ void __launch_bounds__(kThreads, kBlocksPerSm<Op, T>)
    unit_runs_kernel(const UnitPass<Op> pass, const RunItems items, T* sums, const bool packed) {
  constexpr int N = 16 / sizeof(Scalar);
  const Layout& layout = pass.layout;
  __shared__ T warp_sums[kThreads / kWarp];

  for (int64_t item = blockIdx.x; item < items.count; item += gridDim.x) {
    const int64_t run = item / items.segments, column = item % items.segments * items.columns;
    const int64_t offset = run * layout.after + column, width = min(items.columns, layout.after - column);
    T parameters[kMaxVectors] = {};
    if constexpr (Op::kVectors > 0) {
#pragma unroll
      for (int k = 0; k < Op::kVectors; ++k) parameters[k] = vector_value<T>(pass, k, run % layout.units);
    }
    const auto vectors_of = [&](int64_t, auto& vectors) {
#pragma unroll
      for (int k = 0; k < Op::kVectors; ++k) {
        for (auto& value : vectors[k]) value = parameters[k];
      }
    };
    T sum = 0;
    const auto add = [&](int64_t, const auto& staged) {
      for (const T value : staged) sum += value;
    };
    // Single elements up to the first 16-byte boundary, packed ones from there, single ones for what remains.
    const int64_t head = packed ? min(width, (N - offset % N) % N) : width, packs = (width - head) / N;
    for_packs<N, Scalar, T>(pass, offset + head, N, threadIdx.x, kThreads, packs, vectors_of, add);
    const int64_t gap = packs * N;  // the single elements, without the packed ones between them
    for (int64_t i = threadIdx.x; i < width - gap; i += kThreads) {
      const int64_t single = offset + (i < head ? i : i + gap);
      T vectors[kMaxVectors][1] = {}, staged[1];
      vectors_of(0, vectors);
      apply<1, Scalar>(pass, Loaded<1, Scalar, Op>(pass, single), single, vectors, staged);
      sum += staged[0];
    }
    if (sums == nullptr) continue;  // uniform over the grid
    sum = warp_sum(sum);
    if (threadIdx.x % kWarp == 0) warp_sums[threadIdx.x / kWarp] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int w = 1; w < kThreads / kWarp; ++w) sum += warp_sums[w];
      sums[item] = sum;
    }
    __syncthreads();  // before the next item overwrites them
  }
}

// Short runs: `runs` of them, at most kChunk elements, are an item; `lanes` threads add up one run.
struct ChunkItems {
  int64_t runs, total_runs, count;
  int lanes;
};

template <class Scalar, class Op, class T>
__global__ void __launch_bounds__(kThreads, kBlocksPerSm<Op, T>)
    unit_chunks_kernel(const UnitPass<Op> pass, const ChunkItems items, T* sums, const bool packed) {
  constexpr int N = 16 / sizeof(Scalar);
  const int length = static_cast<int>(pass.layout.after);
  alignas(16) __shared__ T shared[kChunk];

  for (int64_t item = blockIdx.x; item < items.count; item += gridDim.x) {
    const int64_t first_run = item * items.runs, offset = first_run * length;
    const int runs = static_cast<int>(min(items.runs, items.total_runs - first_run)), width = runs * length;
    const int64_t first_unit = first_run % pass.layout.units;
    // The parameters of the elements from `start` on, which may lie in several runs.
    const auto vectors_from = [&](int start, auto& vectors) {
      if constexpr (Op::kVectors > 0) {
        int run = start / length, left = (run + 1) * length - start;
        int64_t unit = (first_unit + run) % pass.layout.units;
        constexpr int kCount = sizeof(vectors[0]) / sizeof(T);
#pragma unroll
        for (int j = 0; j < kCount; ++j) {
#pragma unroll
          for (int k = 0; k < Op::kVectors; ++k) vectors[k][j] = vector_value<T>(pass, k, unit);
          if (--left == 0) {
            left = length;
            unit = unit + 1 == pass.layout.units ? 0 : unit + 1;
          }
        }
      }
    };
    const int packs = packed ? width / N : 0;
    for_packs<N, Scalar, T>(
        pass, offset, N, threadIdx.x, kThreads, packs,
        [&](int64_t i, auto& vectors) { vectors_from(static_cast<int>(i) * N, vectors); },
        [&](int64_t i, const T(&staged)[N]) {
          if (sums == nullptr) return;
          constexpr int kWide = std::min<int>(N, 16 / sizeof(T));
#pragma unroll
          for (int j = 0; j < N; j += kWide) {
            Vector<T, kWide> wide;
#pragma unroll
            for (int w = 0; w < kWide; ++w) wide.values[w] = staged[j + w];
            *reinterpret_cast<Vector<T, kWide>*>(shared + i * N + j) = wide;
          }
        });
    for (int i = packs * N + static_cast<int>(threadIdx.x); i < width; i += kThreads) {
      T vectors[kMaxVectors][1] = {}, staged[1];
      vectors_from(i, vectors);
      apply<1, Scalar>(pass, Loaded<1, Scalar, Op>(pass, offset + i), offset + i, vectors, staged);
      if (sums != nullptr) shared[i] = staged[0];
    }
    if (sums == nullptr) continue;  // uniform over the grid
    __syncthreads();
    const int lane = threadIdx.x % items.lanes, groups = kThreads / items.lanes;
    // All lanes of a warp go through the same number of rounds: they meet at the shuffles.
    for (int base = 0; base < runs; base += groups) {
      const int run = base + threadIdx.x / items.lanes;
      T sum = 0;
      if (run < runs) {
        for (int i = lane; i < length; i += items.lanes) sum += shared[run * length + i];
      }
      for (int distance = items.lanes / 2; distance > 0; distance /= 2) {
        sum += __shfl_xor_sync(0xffffffffu, sum, distance);
      }
      if (lane == 0 && run < runs) sums[first_run + run] = sum;
    }
    __syncthreads();  // before the next item overwrites them
  }
}

// How rows of units are cut: `columns` units by `rows` rows of one sample are an item.
struct RowItems {
  int64_t columns, rows, column_blocks, row_blocks, count;
};

template <int N, class Scalar, class Op, class T>
__global__ void __launch_bounds__(kThreads, kBlocksPerSm<Op, T>)
    unit_rows_kernel(const UnitPass<Op> pass, const RowItems items, T* sums) {
  __shared__ T shared[kThreads * N];
  const Layout& layout = pass.layout;
  for (int64_t item = blockIdx.x; item < items.count; item += gridDim.x) {
    const int64_t column_block = item % items.column_blocks, rest = item / items.column_blocks;
    const int64_t row_block = rest % items.row_blocks, sample = rest / items.row_blocks;
    const int64_t unit = column_block * items.columns + int64_t{threadIdx.x} * N;
    T lane_sums[N] = {};
    if (unit < layout.units) {  // units % N == 0, so all N of them are there or none
      T parameters[kMaxVectors][N] = {};
      if constexpr (Op::kVectors > 0) {
#pragma unroll
        for (int k = 0; k < Op::kVectors; ++k) {
#pragma unroll
          for (int j = 0; j < N; ++j) parameters[k][j] = vector_value<T>(pass, k, unit + j);
        }
      }
      const int64_t last = min((row_block + 1) * items.rows, layout.before);
      for_packs<N, Scalar, T>(
          pass, sample * layout.before * layout.units + unit, layout.units, row_block * items.rows + threadIdx.y,
          blockDim.y, last,
          [&](int64_t, T(&vectors)[kMaxVectors][N]) {
#pragma unroll
            for (int k = 0; k < Op::kVectors; ++k) {
#pragma unroll
              for (int j = 0; j < N; ++j) vectors[k][j] = parameters[k][j];
            }
          },
          [&](int64_t, const T(&staged)[N]) {
#pragma unroll
            for (int j = 0; j < N; ++j) lane_sums[j] += staged[j];
          });
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

// What is left to add up: partial[outer, blocks, inner, parts] over blocks and parts.
struct Partials {
  int64_t outer, blocks, inner, parts;
};

// sums[o, g, i] = sum of the g-th `group` of blocks and of all parts.
template <class T>
__global__ void __launch_bounds__(kThreads)
    add_partials_kernel(const T* partial, T* sums, const Partials shape, const int64_t group, const int64_t groups) {
  constexpr int kSlices = 8, kColumns = kThreads / kSlices;
  __shared__ T shared[kSlices][kColumns];
  const int64_t index = int64_t{blockIdx.x} * kColumns + threadIdx.x;
  const bool inside = index < shape.outer * groups * shape.inner;
  T sum = 0;
  if (inside) {
    const int64_t i = index % shape.inner, rest = index / shape.inner, first = rest % groups * group;
    const int64_t last = min(first + group, shape.blocks);
    const T* row = partial + (rest / groups * shape.blocks * shape.inner + i) * shape.parts;
    for (int64_t b = first + threadIdx.y; b < last; b += kSlices) {
      for (int64_t p = 0; p < shape.parts; ++p) sum += row[b * shape.inner * shape.parts + p];
    }
  }
  shared[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y == 0 && inside) {
    for (int slice = 1; slice < kSlices; ++slice) sum += shared[slice][threadIdx.x];
    sums[index] = sum;
  }
}

}  // namespace zsu::lrp

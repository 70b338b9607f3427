// Slices of many tensors overwritten, scaled or disturbed in place by one launch (of up to kEntries tensors), their old
// values recorded in the same pass. The descriptions of the tensors travel as the kernel's argument: nothing is copied
// to the device and nothing waited for.
#include "masking/check.h"
#include "selection/dispatch.h"
#include "selection/strided.cuh"

namespace zsu {
namespace {

constexpr int kThreads = 256;
constexpr int kItems = 4;  // accesses of a thread
constexpr int kRank = 4;   // dimensions on either side of the indexed one that do not merge
constexpr int kEntries = 96;

enum class DType : int { kFloat, kDouble, kHalf, kBFloat16 };

// One tensor, seen as [before, indexed, after]; `saved` and `noise` are contiguous in this order.
struct Entry {
  void* data;
  void* saved;
  const void* noise;
  const int64_t* index;
  int64_t count, size, index_stride;  // indices; slices of the tensor; distance between slices
  DeviceStrided<kRank> before, after;
  DType dtype;
  int width;  // elements of one access: 16 bytes where layout and addresses allow it, or 1
  unsigned first_block;
};

struct Launch {
  int entries;
  Entry entry[kEntries];
};
static_assert(sizeof(Launch) + 16 <= 32764, "the limit of kernel arguments since CUDA 12.1");

template <int kOperation, class Scalar>
__device__ __forceinline__ Scalar updated(Scalar old, const Scalar* noise, int64_t at, double value) {
  using Accumulate = accumulate_t<Scalar>;
  if constexpr (kOperation == kSet) {
    return static_cast<Scalar>(static_cast<Accumulate>(value));
  } else if constexpr (kOperation == kScale) {
    return static_cast<Scalar>(static_cast<Accumulate>(old) * static_cast<Accumulate>(value));
  } else {
    return static_cast<Scalar>(static_cast<Accumulate>(old) + static_cast<Accumulate>(noise[at]));
  }
}

template <int kOperation, int kWidth, class Scalar>
__device__ __forceinline__ void update_slices(const Entry& entry, int64_t block, double value) {
  Scalar* data = static_cast<Scalar*>(entry.data);
  Scalar* saved = static_cast<Scalar*>(entry.saved);
  const Scalar* noise = static_cast<const Scalar*>(entry.noise);
  using Access = Vector<Scalar, kWidth>;
  const int64_t elements = entry.before.numel * entry.count * entry.after.numel;
#pragma unroll
  for (int item = 0; item < kItems; ++item) {
    const int64_t at = ((block * kItems + item) * kThreads + threadIdx.x) * kWidth;  // in saved and noise
    if (at >= elements) return;
    const int64_t run = quotient(at, entry.after.numel);
    const int64_t outer = quotient(run, entry.count);
    const int64_t slice = entry.index[run - outer * entry.count];
    if (slice < 0 || slice >= entry.size) __trap();  // as torch's own indexing: never write outside
    const int64_t offset =
        entry.before.offset(outer) + slice * entry.index_stride + entry.after.offset(at - run * entry.after.numel);
    Access& place = *reinterpret_cast<Access*>(data + offset);
    Access result;
    if (kOperation != kSet || saved) {
      const Access old = place;
      if (saved) *reinterpret_cast<Access*>(saved + at) = old;
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        result.values[i] = updated<kOperation>(old.values[i], noise, at + i, value);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kWidth; ++i) result.values[i] = updated<kOperation>(Scalar{}, noise, at + i, value);
    }
    place = result;
  }
}

template <int kOperation, class Scalar>
__device__ __forceinline__ void update_slices(const Entry& entry, int64_t block, double value) {
  constexpr int kWidth = 16 / sizeof(Scalar);
  if (entry.width == kWidth) {
    update_slices<kOperation, kWidth, Scalar>(entry, block, value);
  } else {
    update_slices<kOperation, 1, Scalar>(entry, block, value);
  }
}

template <int kOperation>
__global__ void __launch_bounds__(kThreads) mask_neurons_kernel(const __grid_constant__ Launch launch, double value) {
  int low = 0, high = launch.entries;  // the last entry that begins at or before this block
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (launch.entry[middle].first_block <= blockIdx.x ? low : high) = middle;
  }
  const Entry& entry = launch.entry[low];
  const int64_t block = blockIdx.x - entry.first_block;
  switch (entry.dtype) {
    case DType::kFloat:
      return update_slices<kOperation, float>(entry, block, value);
    case DType::kDouble:
      return update_slices<kOperation, double>(entry, block, value);
    case DType::kHalf:
      return update_slices<kOperation, __half>(entry, block, value);
    case DType::kBFloat16:
      return update_slices<kOperation, __nv_bfloat16>(entry, block, value);
  }
}

DType dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return DType::kFloat;
    case ScalarType::Double:
      return DType::kDouble;
    case ScalarType::Half:
      return DType::kHalf;
    default:
      return DType::kBFloat16;
  }
}

bool multiples_of(int64_t width, const Strided& layout) {
  return std::all_of(layout.strides.begin(), layout.strides.end(), [=](int64_t s) { return s % width == 0; });
}

Entry describe(const Tensor& tensor, const Tensor& index, int64_t dim, const Tensor* saved, const Tensor* noise) {
  // In row-major order where something lies beside the slices in that order, otherwise in the order of memory.
  std::vector<int64_t> order = memory_order(tensor);
  if (saved || noise) std::sort(order.begin(), order.end());
  Strided before, after;
  bool passed = false;
  for (const int64_t d : order) {
    if (d == dim) {
      passed = true;
    } else {
      (passed ? after : before).append(tensor.size(d), tensor.stride(d));
    }
  }
  Entry entry{};
  entry.data = tensor.mutable_data_ptr();
  entry.saved = saved ? saved->mutable_data_ptr() : nullptr;
  entry.noise = noise ? noise->const_data_ptr() : nullptr;
  entry.index = index.const_data_ptr<int64_t>();
  entry.count = index.numel();
  entry.size = tensor.size(dim);
  entry.index_stride = tensor.stride(dim);
  entry.before = DeviceStrided<kRank>(before);
  entry.after = DeviceStrided<kRank>(after);
  entry.dtype = dtype_of(tensor);
  const int64_t width = 16 / tensor.element_size();
  const bool vectors = after.contiguous() && after.numel % width == 0 && entry.index_stride % width == 0 &&
                       multiples_of(width, before) && aligned(16, entry.data, entry.saved, entry.noise);
  entry.width = vectors ? int(width) : 1;
  return entry;
}

void mask_neurons_(std::vector<Tensor> tensors, std::vector<Tensor> indices, std::vector<int64_t> dims,
                   std::vector<Tensor> saved, std::vector<Tensor> noise, int64_t operation, double value) {
  check_mask_neurons(tensors, indices, dims, saved, noise, operation);
  std::vector<Entry> entries;
  for (size_t i = 0; i < tensors.size(); ++i) {
    check_float("mask_neurons_", "tensors", tensors[i]);
    if (tensors[i].numel() == 0 || indices[i].numel() == 0) continue;
    entries.push_back(describe(tensors[i], indices[i], dims[i], saved.empty() ? nullptr : &saved[i],
                               noise.empty() ? nullptr : &noise[i]));
  }
  if (entries.empty()) return;
  const DeviceGuard guard(tensors[0].get_device_index());
  const cudaStream_t stream = current_stream(tensors[0]);
  for (size_t first = 0; first < entries.size(); first += kEntries) {
    Launch launch{};
    launch.entries = int(std::min<size_t>(kEntries, entries.size() - first));
    int64_t blocks = 0;
    for (int i = 0; i < launch.entries; ++i) {
      Entry& entry = launch.entry[i] = entries[first + i];
      entry.first_block = unsigned(blocks);
      const int64_t per_block = int64_t{kThreads} * kItems * entry.width;
      blocks += (entry.before.numel * entry.count * entry.after.numel + per_block - 1) / per_block;
      ZSU_CHECK(blocks <= INT32_MAX, "mask_neurons_: too many elements for one launch");
    }
    const auto kernel = operation == kSet     ? mask_neurons_kernel<kSet>
                        : operation == kScale ? mask_neurons_kernel<kScale>
                                              : mask_neurons_kernel<kAdd>;
    kernel<<<unsigned(blocks), kThreads, 0, stream>>>(launch, value);
    ZSU_LAUNCH_CHECK();
  }
}

}  // namespace
}  // namespace zsu

STABLE_TORCH_LIBRARY_IMPL(zsu_fast, CUDA, m) { m.impl("mask_neurons_", TORCH_BOX(&zsu::mask_neurons_)); }

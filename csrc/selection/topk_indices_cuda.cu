// Where the k largest of each of several vectors of scores are: one block selects one vector. What the vectors are
// travels as the kernel's argument: nothing is copied to the device and nothing waited for.
#include "selection/check.h"
#include "selection/dispatch.h"
#include "selection/radix_select.cuh"

namespace zsu {
namespace {

constexpr int kVectors = 512;  // of one launch

struct ScoreVector {
  const void* data;
  int64_t size, stride, k;
  int64_t* indices;
};

struct Launch {
  ScoreVector vector[kVectors];
};
static_assert(sizeof(Launch) + 16 <= 32764, "the limit of kernel arguments since CUDA 12.1");

template <class Format>
__global__ void __launch_bounds__(kSelectThreads, 2)
    indices_kernel(const __grid_constant__ Launch launch, bool absolute) {
  const ScoreVector& vector = launch.vector[blockIdx.x];
  const auto* data = static_cast<const typename Format::Bits*>(vector.data);
  const auto key_at = [&](int64_t i) { return Format::key(data[i * vector.stride], absolute); };
  const BlockSelection<Format> selection = select_in_block<Format>(vector.size, vector.k, key_at);
  // As on the CPU: the j-th of k ascending indices is n - k + j at most, which keeps the result k different indices
  // even where something else writes to the scores meanwhile.
  const int64_t least_left = vector.size - vector.k;
  int64_t slot = 0;
  for (int64_t first = 0; first < vector.size; first += kSelectThreads) {
    const int64_t i = first + threadIdx.x;
    const bool selected = i < vector.size && selection.holds(key_at(i), i);
    const FlagScan scan = scan_flags<kSelectThreads>(selected);
    const int64_t mine = slot + scan.rank;
    if (selected && mine < vector.k) vector.indices[mine] = min(i, least_left + mine);
    slot += scan.total;
  }
  for (slot += threadIdx.x; slot < vector.k; slot += kSelectThreads) vector.indices[slot] = least_left + slot;
}

Tensor topk_indices(std::vector<Tensor> scores, std::vector<int64_t> k, bool absolute) {
  const std::vector<int64_t> first = check_topk_indices(scores, k);
  const DeviceGuard guard(scores[0].get_device_index());
  Tensor indices = torch::stable::new_empty(scores[0], {first.back()}, ScalarType::Long);
  int64_t* const out = indices.mutable_data_ptr<int64_t>();
  std::vector<ScoreVector> vectors;
  for (size_t i = 0; i < scores.size(); ++i) {
    if (k[i] == 0) continue;
    vectors.push_back({scores[i].const_data_ptr(), scores[i].size(0), scores[i].stride(0), k[i], out + first[i]});
  }
  dispatch_float(scores[0].scalar_type(), [&]<class Scalar>(Scalar) {
    for (size_t at = 0; at < vectors.size(); at += kVectors) {
      const size_t blocks = std::min<size_t>(kVectors, vectors.size() - at);
      Launch launch{};
      std::copy_n(vectors.begin() + at, blocks, launch.vector);
      indices_kernel<FormatOf<Scalar>>
          <<<unsigned(blocks), kSelectThreads, 0, current_stream(scores[0])>>>(launch, absolute);
      ZSU_LAUNCH_CHECK();
    }
  });
  return indices;
}

}  // namespace
}  // namespace zsu

STABLE_TORCH_LIBRARY_IMPL(zsu_fast, CUDA, m) { m.impl("topk_indices", TORCH_BOX(&zsu::topk_indices)); }

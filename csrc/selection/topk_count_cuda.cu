// How many samples have each unit among their k largest: one block selects and tallies one sample after another.
#include "selection/dispatch.h"
#include "selection/radix_select.cuh"

namespace zsu {
namespace {

template <class Format>
__global__ void __launch_bounds__(kSelectThreads, 2)
    tally_kernel(const typename Format::Bits* relevance, int64_t samples, int64_t units, int64_t sample_stride,
                 int64_t unit_stride, int64_t k, bool absolute, unsigned long long* counts) {
  for (int64_t sample = blockIdx.x; sample < samples; sample += gridDim.x) {
    const auto* row = relevance + sample * sample_stride;
    const auto key_at = [&](int64_t unit) { return Format::key(row[unit * unit_stride], absolute); };
    const BlockSelection<Format> selection = select_in_block<Format>(units, k, key_at);
    for (int64_t unit = threadIdx.x; unit < units; unit += kSelectThreads) {
      if (selection.holds(key_at(unit), unit)) atomicAdd(counts + unit, 1ull);
    }
  }
}

Tensor topk_count(const Tensor& relevance, int64_t k, bool absolute) {
  ZSU_CHECK(relevance.dim() == 2, "topk_count: relevance must be [samples, units]");
  ZSU_CHECK(0 <= k && k <= relevance.size(1), "topk_count: k is out of range");
  check_float("topk_count", "relevance", relevance);
  const DeviceGuard guard(relevance.get_device_index());
  const int64_t samples = relevance.size(0), units = relevance.size(1);
  Tensor counts = torch::stable::new_zeros(relevance, {units}, ScalarType::Long);
  if (k == 0 || relevance.numel() == 0) return counts;
  const unsigned blocks = unsigned(std::min<int64_t>(samples, int64_t{multiprocessor_count()} * 4));
  dispatch_float(relevance.scalar_type(), [&]<class Scalar>(Scalar) {
    using Format = FormatOf<Scalar>;
    tally_kernel<Format><<<blocks, kSelectThreads, 0, current_stream(relevance)>>>(
        static_cast<const typename Format::Bits*>(relevance.const_data_ptr()), samples, units, relevance.stride(0),
        relevance.stride(1), k, absolute, static_cast<unsigned long long*>(counts.mutable_data_ptr()));
    ZSU_LAUNCH_CHECK();
  });
  return counts;
}

}  // namespace
}  // namespace zsu

STABLE_TORCH_LIBRARY_IMPL(zsu_fast, CUDA, m) { m.impl("topk_count", TORCH_BOX(&zsu::topk_count)); }

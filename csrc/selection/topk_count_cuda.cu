// How many samples have each unit among their k largest: one block selects and tallies one sample after another.
#include "selection/dispatch.h"
#include "selection/radix_select.cuh"

namespace zsu {
namespace {

template <class Format>
__global__ void __launch_bounds__(kSelectThreads, 2)
    tally_kernel(const typename Format::Bits* relevance, int64_t samples, int64_t units, int64_t sample_stride,
                 int64_t unit_stride, int64_t k, bool absolute, unsigned long long* counts) {
  using Bits = typename Format::Bits;
  __shared__ unsigned histogram[kBins];
  __shared__ int64_t tie_limit;
  for (int64_t sample = blockIdx.x; sample < samples; sample += gridDim.x) {
    const Bits* row = relevance + sample * sample_stride;
    const auto key_at = [&](int64_t unit) { return Format::key(row[unit * unit_stride], absolute); };

    uint64_t prefix = 0;
    int64_t rank = k, equal = 0;
    for (int pass = 0; pass < kPasses<Format>; ++pass) {
      for (int bin = threadIdx.x; bin < kBins; bin += kSelectThreads) histogram[bin] = 0;
      __syncthreads();
      for (int64_t unit = threadIdx.x; unit < units; unit += kSelectThreads) {
        count_digit<Format>(key_at(unit), pass, prefix, histogram);
      }
      const DigitChoice choice = choose_digit(histogram, rank);
      prefix = prefix << digit_width<Format>(pass) | choice.digit;
      rank -= choice.above;
      equal = choice.count;
      __syncthreads();  // the choice has been read by all before the next pass makes another
    }
    const Bits threshold = Bits(prefix);

    // Of the `equal` units at the threshold the first `rank` are taken: those below tie_limit.
    if (threadIdx.x == 0) tie_limit = units;
    __syncthreads();
    if (rank < equal) {
      int64_t left = rank;
      for (int64_t first = 0; left > 0; first += kSelectThreads) {
        const int64_t unit = first + threadIdx.x;
        const bool tie = unit < units && key_at(unit) == threshold;
        const FlagScan scan = scan_flags<kSelectThreads>(tie);
        if (tie && scan.rank + 1 == left) tie_limit = unit + 1;
        left -= scan.total;
      }
      __syncthreads();
    }
    for (int64_t unit = threadIdx.x; unit < units; unit += kSelectThreads) {
      const Bits key = key_at(unit);
      if (key > threshold || (key == threshold && unit < tie_limit)) atomicAdd(counts + unit, 1ull);
    }
    __syncthreads();  // tie_limit has been read by all
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

// Slices of many tensors overwritten, scaled or disturbed in place, their old values recorded in the same pass.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>

#include "check.h"
#include "selection/dispatch.h"
#include "selection/order_key.h"
#include "selection/strided.h"

namespace zsu {
namespace {

constexpr int64_t kGrain = int64_t(1) << 15;  // elements that make a thread worth waking

// One tensor, seen as [before, indexed, after]; `saved` and `noise` are contiguous in this order. Scalar is the dtype,
// or an unsigned integer of its size where elements are only moved.
template <class Scalar>
struct Slices {
  Scalar* data;
  Scalar* saved;
  const Scalar* noise;
  const int64_t* index;
  int64_t count, index_stride;
  Strided before, after;

  template <int64_t kOperation>
  void update(Scalar& element, int64_t at, Scalar fill, double factor) const {
    using Accumulate = std::conditional_t<std::is_same_v<Scalar, double>, double, float>;
    const Scalar old = element;
    if (saved) saved[at] = old;
    if constexpr (kOperation == kSet) {
      element = fill;
    } else if constexpr (kOperation == kScale) {
      element = static_cast<Scalar>(static_cast<Accumulate>(old) * static_cast<Accumulate>(factor));
    } else {
      element = static_cast<Scalar>(static_cast<Accumulate>(old) + static_cast<Accumulate>(noise[at]));
    }
  }

  template <int64_t kOperation>
  void apply(Scalar fill, double factor) const {
    // Entries of the innermost dimension, as columns of a matrix: the indexed dimension is the run.
    if (after.numel == 1) {
      torch::stable::parallel_for(
          0, before.numel, std::max<int64_t>(1, kGrain / count), [&](int64_t begin, int64_t end) {
            int64_t at = begin * count;
            before.for_each_run(begin, end, [&](int64_t offset, int64_t stride, int64_t length) {
              for (int64_t b = 0; b < length; ++b) {
                Scalar* const row = data + offset + b * stride;
                for (int64_t j = 0; j < count; ++j, ++at)
                  update<kOperation>(row[index[j] * index_stride], at, fill, factor);
              }
            });
          });
      return;
    }
    const int64_t runs = before.numel * count;
    torch::stable::parallel_for(0, runs, std::max<int64_t>(1, kGrain / after.numel), [&](int64_t begin, int64_t end) {
      for (int64_t run = begin; run < end; ++run) {
        Scalar* const slice = data + before.offset(run / count) + index[run % count] * index_stride;
        int64_t at = run * after.numel;
        after.for_each_run(0, after.numel, [&](int64_t offset, int64_t stride, int64_t length) {
          Scalar* const first = slice + offset;
          if (kOperation == kSet && stride == 1) {
            if (saved) std::memcpy(saved + at, first, length * sizeof(Scalar));
            std::fill_n(first, length, fill);
          } else {
            for (int64_t i = 0; i < length; ++i) update<kOperation>(first[i * stride], at + i, fill, factor);
          }
          at += length;
        });
      }
    });
  }
};

// In row-major order where something lies beside the slices in that order, otherwise in the order of memory.
template <class Scalar>
Slices<Scalar> slices_of(const Tensor& tensor, const std::vector<int64_t>& index, int64_t dim, const Tensor* saved,
                         const Tensor* noise) {
  Slices<Scalar> slices{static_cast<Scalar*>(tensor.mutable_data_ptr()),
                        saved ? static_cast<Scalar*>(saved->mutable_data_ptr()) : nullptr,
                        noise ? static_cast<const Scalar*>(noise->const_data_ptr()) : nullptr,
                        index.data(),
                        int64_t(index.size()),
                        tensor.stride(dim),
                        {},
                        {}};
  if (saved || noise) {
    for (int64_t d = 0; d < tensor.dim(); ++d) {
      if (d != dim) (d < dim ? slices.before : slices.after).append(tensor.size(d), tensor.stride(d));
    }
  } else {
    for (const int64_t d : memory_order(tensor)) {
      if (d != dim)
        (tensor.stride(d) > tensor.stride(dim) ? slices.before : slices.after).append(tensor.size(d), tensor.stride(d));
    }
  }
  return slices;
}

void check_index(const std::vector<int64_t>& values, int64_t size) {
  std::vector<bool> seen(size);
  for (const int64_t value : values) {
    STD_TORCH_CHECK(0 <= value && value < size, "mask_neurons_: an index is out of range");
    STD_TORCH_CHECK(!seen[value], "mask_neurons_: indices must be unique");
    seen[value] = true;
  }
}

void mask_neurons_(std::vector<Tensor> tensors, std::vector<Tensor> indices, std::vector<int64_t> dims,
                   std::vector<Tensor> saved, std::vector<Tensor> noise, int64_t operation, double value) {
  check_mask_neurons(tensors, indices, dims, saved, noise, operation);
  // Copied before they are checked: another thread may write to the indices meanwhile.
  std::vector<std::vector<int64_t>> orders;
  for (size_t i = 0; i < tensors.size(); ++i) {
    dispatch_float(tensors[i].scalar_type(), [](auto) {});
    const int64_t* index = indices[i].const_data_ptr<int64_t>();
    orders.emplace_back(index, index + indices[i].numel());
    check_index(orders[i], tensors[i].size(dims[i]));
  }
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (indices[i].numel() == 0 || tensors[i].numel() == 0) continue;
    const Tensor* saved_slice = saved.empty() ? nullptr : &saved[i];
    const Tensor* noise_slice = noise.empty() ? nullptr : &noise[i];
    std::vector<int64_t>& order = orders[i];
    if (!saved_slice && !noise_slice) {  // the order does not show: that of memory is read best
      std::sort(order.begin(), order.end());
    }
    dispatch_float(tensors[i].scalar_type(), [&]<class Scalar>(Scalar) {
      using Bits = typename FormatOf<Scalar>::Bits;
      if (operation == kSet) {
        const Bits fill = std::bit_cast<Bits>(static_cast<Scalar>(value));
        slices_of<Bits>(tensors[i], order, dims[i], saved_slice, nullptr).template apply<kSet>(fill, 0);
      } else if (operation == kScale) {
        const auto slices = slices_of<Scalar>(tensors[i], order, dims[i], saved_slice, nullptr);
        slices.template apply<kScale>(Scalar{}, value);
      } else {
        const auto slices = slices_of<Scalar>(tensors[i], order, dims[i], saved_slice, noise_slice);
        slices.template apply<kAdd>(Scalar{}, 0);
      }
    });
  }
}

}  // namespace
}  // namespace zsu

STABLE_TORCH_LIBRARY_IMPL(zsu_fast, CPU, m) { m.impl("mask_neurons_", TORCH_BOX(&zsu::mask_neurons_)); }

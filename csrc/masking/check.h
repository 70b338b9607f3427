// The second line of defence: the Python wrappers have refused bad arguments with better words.
#pragma once

#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <vector>

#include "masking/overlap.h"

namespace zsu {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Operations of mask_neurons_: the slice becomes value, slice * value, or slice + noise.
enum Operation : int64_t { kSet = 0, kScale = 1, kAdd = 2 };

inline void check_topk_mask(const Tensor& weight, const Tensor& scores, int64_t k,
                            const std::optional<Tensor>& saved_indices, const std::optional<Tensor>& saved_values) {
  STD_TORCH_CHECK(scores.sizes().equals(weight.sizes()), "topk_mask_: scores must have the shape of weight");
  STD_TORCH_CHECK(scores.device() == weight.device(), "topk_mask_: scores must be on the device of weight");
  STD_TORCH_CHECK(0 <= k && k <= weight.numel(), "topk_mask_: k is out of range");
  if (saved_indices) {
    STD_TORCH_CHECK(saved_indices->scalar_type() == ScalarType::Long && saved_indices->numel() == k &&
                        saved_indices->is_contiguous() && saved_indices->device() == weight.device(),
                    "topk_mask_: saved_indices must be a contiguous int64 tensor of k elements beside weight");
  }
  if (saved_values) {
    STD_TORCH_CHECK(saved_values->scalar_type() == weight.scalar_type() && saved_values->numel() == k &&
                        saved_values->is_contiguous() && saved_values->device() == weight.device(),
                    "topk_mask_: saved_values must be a contiguous tensor of k elements like weight");
  }
  // Written while the scores are read in several passes: what aliases changes what is selected in between.
  STD_TORCH_CHECK(!overlaps_itself(weight), "topk_mask_: elements of weight share memory (expanded or overlapping)");
  STD_TORCH_CHECK(same_elements(weight, scores) || !share_memory(weight, scores),
                  "topk_mask_: scores must be weight itself or share no memory with it");
  for (const auto& saved : {saved_indices, saved_values}) {
    STD_TORCH_CHECK(!saved || !(share_memory(*saved, weight) || share_memory(*saved, scores)),
                    "topk_mask_: saved_indices and saved_values must not share memory with weight or scores");
  }
  STD_TORCH_CHECK(!saved_indices || !saved_values || !share_memory(*saved_indices, *saved_values),
                  "topk_mask_: saved_indices and saved_values must not share memory");
}

// Everything but the values of the indices.
inline void check_mask_neurons(const std::vector<Tensor>& tensors, const std::vector<Tensor>& indices,
                               const std::vector<int64_t>& dims, const std::vector<Tensor>& saved,
                               const std::vector<Tensor>& noise, int64_t operation) {
  const size_t n = tensors.size();
  STD_TORCH_CHECK(kSet <= operation && operation <= kAdd, "mask_neurons_: unknown operation");
  STD_TORCH_CHECK(indices.size() == n && dims.size() == n && (saved.empty() || saved.size() == n) &&
                      noise.size() == (operation == kAdd ? n : 0),
                  "mask_neurons_: the lists differ in length");
  for (size_t i = 0; i < n; ++i) {
    const Tensor &tensor = tensors[i], &index = indices[i];
    STD_TORCH_CHECK(tensor.device() == tensors[0].device(), "mask_neurons_: tensors must be on one device");
    STD_TORCH_CHECK(0 <= dims[i] && dims[i] < tensor.dim(), "mask_neurons_: dim is out of range");
    STD_TORCH_CHECK(index.scalar_type() == ScalarType::Long && index.dim() == 1 && index.is_contiguous() &&
                        index.device() == tensor.device(),
                    "mask_neurons_: indices must be contiguous int64 vectors beside their tensors");
    const auto check_slice = [&](const Tensor& slice) {
      bool fits = slice.dim() == tensor.dim() && slice.scalar_type() == tensor.scalar_type() && slice.is_contiguous() &&
                  slice.device() == tensor.device();
      for (int64_t d = 0; fits && d < tensor.dim(); ++d) {
        fits = slice.size(d) == (d == dims[i] ? index.numel() : tensor.size(d));
      }
      STD_TORCH_CHECK(fits,
                      "mask_neurons_: saved and noise must be contiguous and have the shape and dtype of the slices");
    };
    STD_TORCH_CHECK(!overlaps_itself(tensor), "mask_neurons_: elements of a tensor share memory");
    if (!saved.empty()) check_slice(saved[i]);
    if (operation == kAdd) check_slice(noise[i]);
  }
}

}  // namespace zsu

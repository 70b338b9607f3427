// layer_norm_gate, rms_norm_gate and batch_norm_gate: everything but the kernels, for any backend.
#pragma once

#include "lrp/operands.h"

namespace zsu::lrp {

// (g - mean(g)) * rstd with g = gradient * weight over each of `rows` rows of `size` elements; without the mean if not
// `centred`. `weight` (or null) and `rstd` are in the dtype of the arithmetic.
struct RowNorm {
  int64_t rows, size;
  bool centred;
  const void *gradient, *weight, *rstd;
  void* output;
};

template <class Backend>
Tensor row_norm_gate(const char* op, const Tensor& gradient, const std::optional<Tensor>& weight, const Tensor& rstd,
                     int64_t normalized_dims, bool centred) {
  STD_TORCH_CHECK(normalized_dims >= 1 && normalized_dims <= gradient.dim(), op, ": normalized_dims is out of range");
  const Operands operands(op, made_contiguous(gradient));
  RowNorm norm{1, 1, centred, operands.first().const_data_ptr(), nullptr, nullptr, nullptr};
  const int64_t kept = gradient.dim() - normalized_dims;
  for (int64_t d = 0; d < gradient.dim(); ++d) (d < kept ? norm.rows : norm.size) *= gradient.size(d);

  STD_TORCH_CHECK(rstd.numel() == norm.rows, op, ": rstd must hold one value per normalised slice");
  const Tensor inverse = operands.parameter("rstd", rstd);
  norm.rstd = inverse.const_data_ptr();
  std::optional<Tensor> factor;
  if (weight) {
    STD_TORCH_CHECK(weight->numel() == norm.size, op, ": weight must have the shape of the normalised dimensions");
    factor = operands.parameter("weight", *weight);
    norm.weight = factor->const_data_ptr();
  }
  const Tensor output = operands.empty_like_first();
  norm.output = output.mutable_data_ptr();
  if (output.numel() == 0) return output;
  ZSU_DISPATCH_FLOATS(operands.dtype(), "row_norm_gate",
                      [&] { Backend::template run<scalar_t>(norm, operands.first()); });
  return output;
}

template <class Backend>
Tensor layer_norm_gate(const Tensor& gradient, std::optional<Tensor> weight, const Tensor& rstd,
                       int64_t normalized_dims) {
  return row_norm_gate<Backend>("layer_norm_gate", gradient, weight, rstd, normalized_dims, true);
}

template <class Backend>
Tensor rms_norm_gate(const Tensor& gradient, std::optional<Tensor> weight, const Tensor& rstd,
                     int64_t normalized_dims) {
  return row_norm_gate<Backend>("rms_norm_gate", gradient, weight, rstd, normalized_dims, false);
}

template <class Backend>
Tensor batch_norm_gate(const Tensor& gradient, const Tensor& scale, int64_t unit_dim) {
  constexpr const char* op = "batch_norm_gate";
  const Operands operands(op, gradient);
  const Layout layout = operands.layout(unit_dim);
  const auto factor = operands.vector("scale", scale, layout.units);
  const Tensor scaled = operands.empty_like_first();
  ZSU_DISPATCH_FLOATS(operands.dtype(), op, [&] {
    run_pass<Backend, scalar_t>(BatchNormGate<accumulate_t<scalar_t>>{}, layout, kIdentity, {operands.first()},
                                {factor}, {scaled}, nullptr);
  });
  return scaled;
}

}  // namespace zsu::lrp

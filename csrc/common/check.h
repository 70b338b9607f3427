// The second line of defence. Python validates arguments and gives the good messages; these checks keep a direct caller
// of torch.ops.zsu_fast from reading or writing memory that is not its own. Never throw inside parallel_for.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>  // ops.h of torch 2.11 does not include it
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>

#define ZSU_CHECK(condition, ...) STD_TORCH_CHECK(condition, __VA_ARGS__)

namespace zsu {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline bool is_float(const Tensor& t) {
  const ScalarType type = t.scalar_type();
  return type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::Half ||
         type == ScalarType::BFloat16;
}

inline bool same_shape(const Tensor& a, const Tensor& b) { return a.sizes().equals(b.sizes()); }

inline void check_float(const char* op, const char* name, const Tensor& t) {
  ZSU_CHECK(is_float(t), op, ": ", name, " must be float32, float64, float16 or bfloat16");
}

// `t` has the shape, dtype and device of `like`.
inline void check_alike(const char* op, const char* name, const Tensor& t, const Tensor& like) {
  ZSU_CHECK(same_shape(t, like), op, ": ", name, " has another shape than the first operand");
  ZSU_CHECK(t.scalar_type() == like.scalar_type(), op, ": ", name, " has another dtype than the first operand");
  ZSU_CHECK(t.device() == like.device(), op, ": ", name, " is on another device than the first operand");
}

// `t` is a vector with one entry per unit, on the device of `like`.
inline void check_per_unit(const char* op, const char* name, const Tensor& t, const Tensor& like, int64_t units) {
  ZSU_CHECK(t.dim() == 1 && t.size(0) == units, op, ": ", name, " must have one entry per unit");
  ZSU_CHECK(t.device() == like.device(), op, ": ", name, " is on another device than the first operand");
}

inline int64_t check_unit_dim(const char* op, const Tensor& t, int64_t unit_dim) {
  const int64_t dim = unit_dim < 0 ? unit_dim + t.dim() : unit_dim;
  ZSU_CHECK(dim >= 1 && dim < t.dim(), op, ": unit_dim out of range");
  return dim;
}

}  // namespace zsu

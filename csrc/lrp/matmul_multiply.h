// matmul_multiply: everything but the kernel, for any backend. ATen's matrix product, multiplied in place, where the
// backend has no kernel that does both.
#pragma once

#include <array>

#include "lrp/operands.h"

namespace zsu::lrp {

// Without it, autograd would record the matrix product of a result that is a constant to it.
inline Tensor detached(const Tensor& t) {
  std::array<StableIValue, 1> stack{torch::stable::detail::from(t)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::detach", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// `Backend::matmul_multiply` returns nothing where it has no kernel for these operands.
template <class Backend>
Tensor matmul_multiply(const Tensor& input, const Tensor& weight, const Tensor& factor) {
  constexpr const char* op = "matmul_multiply";
  check_float(op, "input", input);
  ZSU_CHECK(weight.dim() == 2 && input.dim() >= 1 && input.size(-1) == weight.size(0), op,
            ": input must be [*, K] and weight [K, N]");
  ZSU_CHECK(factor.dim() == input.dim() && factor.size(-1) == weight.size(1), op, ": factor must be [*, N]");
  for (int64_t d = 0; d + 1 < input.dim(); ++d)
    ZSU_CHECK(factor.size(d) == input.size(d), op, ": factor has another shape than the product");
  for (const Tensor* t : {&weight, &factor}) {
    ZSU_CHECK(t->scalar_type() == input.scalar_type(), op, ": the operands have different dtypes");
    ZSU_CHECK(t->device() == input.device(), op, ": the operands are on different devices");
  }

  const Tensor multiplier = torch::stable::contiguous(factor);
  if (const auto result = Backend::matmul_multiply(input, weight, multiplier)) return *result;
  const Tensor product = torch::stable::contiguous(torch::stable::matmul(detached(input), detached(weight)));
  std::array<StableIValue, 2> stack{torch::stable::detail::from(product),
                                    torch::stable::detail::from(detached(multiplier))};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mul_", "Tensor", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

}  // namespace zsu::lrp

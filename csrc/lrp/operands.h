// The host half of every pass, shared by the backends: checks, memory formats, dtypes of parameters.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "common/check.h"
#include "common/dispatch.h"
#include "common/layout.h"
#include "lrp/unit_pass.h"

namespace zsu::lrp {

inline ScalarType accumulate_type(ScalarType type) { return type == ScalarType::Double ? type : ScalarType::Float; }

// The operands of one pass, brought to the memory format of the first.
class Operands {
 public:
  Operands(const char* op, const Tensor& first)
      : op_(op), format_(memory_format(first)), first_(in_format(first, format_)) {
    check_float(op, "the first operand", first);
  }

  const Tensor& first() const { return first_; }

  ScalarType dtype() const { return first_.scalar_type(); }

  Tensor match(const char* name, const Tensor& tensor) const {
    check_alike(op_, name, tensor, first_);
    return in_format(tensor, format_);
  }

  // Per-unit parameters in the dtype of the arithmetic; nothing stays nothing.
  std::optional<Tensor> vector(const char* name, const std::optional<Tensor>& vector, int64_t units) const {
    if (!vector) return std::nullopt;
    check_per_unit(op_, name, *vector, first_, units);
    return parameter(name, *vector);
  }

  Tensor parameter(const char* name, const Tensor& tensor) const {
    const ScalarType wide = accumulate_type(dtype());
    ZSU_CHECK(tensor.scalar_type() == dtype() || tensor.scalar_type() == wide, op_, ": ", name, " has the wrong dtype");
    ZSU_CHECK(tensor.device() == first_.device(), op_, ": ", name, " is on another device than the first operand");
    return made_contiguous(tensor.scalar_type() == wide ? tensor : torch::stable::to(tensor, wide));
  }

  Layout layout(int64_t unit_dim) const { return layout_of(first_, check_unit_dim(op_, first_, unit_dim), format_); }

  // The whole tensor as the elements of one unit, for operations that know no units.
  Layout flat() const { return {1, 1, 1, first_.numel()}; }

  Tensor empty_like_first() const { return empty(first_.sizes(), first_.strides(), dtype()); }

  Tensor empty_wide(const std::vector<int64_t>& sizes) const {
    std::vector<int64_t> strides(sizes.size(), 1);
    for (size_t d = sizes.size() - 1; d > 0; --d) strides[d - 1] = strides[d] * std::max<int64_t>(1, sizes[d]);
    return empty(sizes, strides, accumulate_type(dtype()));
  }

  Tensor empty_neurons(const Layout& layout, bool collect) const {
    return empty_wide(collect ? std::vector<int64_t>{layout.samples, layout.units} : std::vector<int64_t>{0});
  }

 private:
  using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;

  // Of a dense tensor beside the first operand. Not by empty_like or new_empty: those go through the dispatcher.
  Tensor empty(Sizes sizes, Sizes strides, ScalarType type) const {
    AtenTensorHandle tensor;
    int32_t device = 0;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(first_.get(), &device));
    const int32_t dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
    TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(sizes.size(), sizes.data(), strides.data(), dtype, device,
                                                    first_.get_device_index(), &tensor));
    return Tensor(tensor);
  }

  const char* op_;
  MemoryFormat format_;
  Tensor first_;
};

inline void check_activation(const char* op, int64_t activation, int64_t least) {
  ZSU_CHECK(activation >= least && activation < kActivations, op, ": activation is no known code");
}

// Hands a pass to the backend's kernel.
template <class Backend, class Scalar, class Op>
void run_pass(const Op& op, const Layout& layout, int64_t activation, const std::vector<Tensor>& tensors,
              const std::vector<std::optional<Tensor>>& vectors, const std::vector<Tensor>& outputs,
              const Tensor* neurons) {
  UnitPass<Op> pass{op, layout, static_cast<int>(activation), {}, {}, {}, nullptr};
  for (size_t k = 0; k < tensors.size(); ++k) pass.tensors[k] = tensors[k].const_data_ptr();
  for (size_t k = 0; k < vectors.size(); ++k) pass.vectors[k] = vectors[k] ? vectors[k]->const_data_ptr() : nullptr;
  for (size_t k = 0; k < outputs.size(); ++k) pass.outputs[k] = outputs[k].mutable_data_ptr();
  if (neurons) pass.neurons = neurons->mutable_data_ptr();
  Backend::template run<Scalar>(pass, tensors[0]);
}

}  // namespace zsu::lrp

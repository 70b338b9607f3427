// activation_gate and neuron_relevance: everything but the kernels, for any backend.
#pragma once

#include "lrp/operands.h"

namespace zsu::lrp {

template <class Backend>
Tensor activation_gate(const Tensor& gradient, const Tensor& input, int64_t activation) {
  constexpr const char* op = "activation_gate";
  check_activation(op, activation, kIdentity);
  const Operands operands(op, gradient);
  const Tensor x = operands.match("input", input);
  const Tensor gated = operands.empty_like_first();
  ZSU_DISPATCH_FLOATS(operands.dtype(), op, [&] {
    run_pass<Backend, scalar_t>(ActivationGate<accumulate_t<scalar_t>>{}, operands.flat(), activation,
                                {operands.first(), x}, {}, {gated}, nullptr);
  });
  return gated;
}

template <class Backend>
Tensor neuron_relevance(const Tensor& gradient, const Tensor& activation, int64_t unit_dim, bool per_sample) {
  constexpr const char* op = "neuron_relevance";
  const Operands operands(op, gradient);
  const Tensor a = operands.match("activation", activation);
  Layout layout = operands.layout(unit_dim);
  const Tensor neurons = operands.empty_wide(per_sample ? std::vector<int64_t>{layout.samples, layout.units}
                                                        : std::vector<int64_t>{layout.units});
  if (!per_sample) layout = {1, layout.samples * layout.before, layout.units, layout.after};
  ZSU_DISPATCH_FLOATS(operands.dtype(), op, [&] {
    run_pass<Backend, scalar_t>(NeuronSum<accumulate_t<scalar_t>>{}, layout, kIdentity, {operands.first(), a}, {}, {},
                                &neurons);
  });
  return neurons;
}

}  // namespace zsu::lrp

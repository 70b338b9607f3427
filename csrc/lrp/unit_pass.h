// What one element-wise pass over the units of a layer is, for every backend.
#pragma once

#include "common/layout.h"
#include "lrp/rules.h"

namespace zsu::lrp {

// Operands share one memory format. Vectors are [units] in the dtype of the arithmetic, or null: then the operation's
// neutral value holds. `neurons` is [samples, units] in the dtype of the arithmetic, or null: then nothing is summed.
template <class Op>
struct UnitPass {
  Op op;
  Layout layout;
  int activation;
  const void* tensors[kMaxTensors];
  const void* vectors[kMaxVectors];
  void* outputs[kMaxOutputs];
  void* neurons;
};

}  // namespace zsu::lrp

// The CPU kernels as the host halves of the ops call them.
#pragma once

#include "lrp/norms.h"
#include "lrp/row_norm_cpu.h"
#include "lrp/unit_pass_cpu.h"

namespace zsu::lrp {

struct CpuBackend {
  template <class Scalar, class Op>
  static void run(const UnitPass<Op>& pass, const Tensor&) {
    UnitPassCpu<Op, Scalar>(pass).run();
  }

  template <class Scalar>
  static void run(const RowNorm& norm, const Tensor&) {
    RowNormCpu<Scalar>::run(norm);
  }
};

}  // namespace zsu::lrp

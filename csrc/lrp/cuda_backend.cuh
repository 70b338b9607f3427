// The CUDA kernels as the host halves of the ops call them.
#pragma once

#include "lrp/norms.h"
#include "lrp/row_norm.cuh"
#include "lrp/unit_pass.cuh"

namespace zsu::lrp {

struct CudaBackend {
  template <class Scalar, class Op>
  static void run(const UnitPass<Op>& pass, const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    UnitPassCuda<Op, Scalar>(pass, like).run();
  }

  template <class Scalar>
  static void run(const RowNorm& norm, const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    RowNormCuda<Scalar>::run(norm, current_stream(like));
  }
};

}  // namespace zsu::lrp

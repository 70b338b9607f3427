#include "lrp/cuda_backend.cuh"
#include "lrp/linear_passes.h"

using Passes = zsu::lrp::LinearPasses<zsu::lrp::CudaBackend>;

STABLE_TORCH_LIBRARY_IMPL(zsu_fast, CUDA, m) {
  m.impl("lrp_epsilon_pass", TORCH_BOX(&Passes::epsilon));
  m.impl("lrp_gamma_pass", TORCH_BOX(&Passes::gamma));
  m.impl("lrp_alpha_beta_pass", TORCH_BOX(&Passes::alpha_beta));
  m.impl("lrp_combine", TORCH_BOX(&Passes::combine));
}

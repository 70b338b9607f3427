#include "lrp/cuda_backend.cuh"
#include "lrp/gates.h"
#include "lrp/norms.h"

using Backend = zsu::lrp::CudaBackend;

STABLE_TORCH_LIBRARY_IMPL(zsu_fast, CUDA, m) {
  m.impl("activation_gate", TORCH_BOX(&zsu::lrp::activation_gate<Backend>));
  m.impl("neuron_relevance", TORCH_BOX(&zsu::lrp::neuron_relevance<Backend>));
  m.impl("layer_norm_gate", TORCH_BOX(&zsu::lrp::layer_norm_gate<Backend>));
  m.impl("rms_norm_gate", TORCH_BOX(&zsu::lrp::rms_norm_gate<Backend>));
  m.impl("batch_norm_gate", TORCH_BOX(&zsu::lrp::batch_norm_gate<Backend>));
}

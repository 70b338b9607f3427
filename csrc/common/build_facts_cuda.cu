// What this CUDA library was built from; an op without tensors, so that it can be asked without a GPU.
#include <string>

#include "common/cuda.cuh"

#define ZSU_TEXT_OF(x) #x
#define ZSU_TEXT(x) ZSU_TEXT_OF(x)

namespace zsu {
namespace {

std::string cuda_build_facts() {
  return "version=" ZSU_VERSION ";torch=" ZSU_TORCH_VERSION ";architectures=" ZSU_CUDA_ARCHS ";compiler=nvcc " ZSU_TEXT(
      __CUDACC_VER_MAJOR__) "." ZSU_TEXT(__CUDACC_VER_MINOR__) "." ZSU_TEXT(__CUDACC_VER_BUILD__);
}

}  // namespace
}  // namespace zsu

STABLE_TORCH_LIBRARY_IMPL(zsu_fast, CompositeExplicitAutograd, m) {
  m.impl("cuda_build_facts", TORCH_BOX(&zsu::cuda_build_facts));
}

#include <limits>

#include "lrp/cuda_backend.cuh"
#include "lrp/matmul_multiply.h"
#include "lrp/matmul_multiply_sm90.h"

namespace zsu::lrp {
namespace {

struct Backend : CudaBackend {
  // In one kernel on Hopper, for half precision, where memory lies as the tensor memory accelerator wants it.
  static std::optional<Tensor> matmul_multiply(const Tensor& input, const Tensor& weight, const Tensor& factor) {
#if defined(ZSU_SM90_GEMM)
    const ScalarType type = input.scalar_type();
    if (type != ScalarType::BFloat16 && type != ScalarType::Half) return std::nullopt;
    const int64_t k = weight.size(0), n = weight.size(1);
    if (input.numel() == 0 || weight.numel() == 0 || n % 8 != 0 || k % 8 != 0) return std::nullopt;
    const int64_t m = input.numel() / k;
    if (std::max({m, n, k}) > std::numeric_limits<int>::max()) return std::nullopt;
    if (!input.is_contiguous() || !weight.is_contiguous()) return std::nullopt;
    if (!aligned(16, input.const_data_ptr(), weight.const_data_ptr(), factor.const_data_ptr())) return std::nullopt;
    const DeviceGuard guard(input.get_device_index());
    if (!is_hopper()) return std::nullopt;

    const Tensor output = torch::stable::empty_like(factor);
    const sm90::MatmulMultiply product{
        input.const_data_ptr(),   weight.const_data_ptr(), factor.const_data_ptr(), output.mutable_data_ptr(),
        static_cast<int>(m),      static_cast<int>(n),     static_cast<int>(k),     type == ScalarType::BFloat16,
        input.get_device_index(), multiprocessor_count()};
    const auto bytes = static_cast<int64_t>(sm90::workspace_bytes(product));
    const Tensor workspace = torch::stable::new_empty(input, {bytes}, ScalarType::Byte);
    const char* failure = sm90::run(product, workspace.mutable_data_ptr(), current_stream(input));
    ZSU_CHECK(failure == nullptr, "matmul_multiply: ", failure ? failure : "");
    return output;
#else
    return std::nullopt;
#endif
  }

 private:
  static bool is_hopper() {
    int device = 0, major = 0, minor = 0;
    ZSU_CUDA_CHECK(cudaGetDevice(&device));
    ZSU_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
    ZSU_CUDA_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
    return major == 9 && minor == 0;  // sm_90a code runs on no later GPU
  }
};

}  // namespace
}  // namespace zsu::lrp

STABLE_TORCH_LIBRARY_IMPL(zsu_fast, CUDA, m) {
  m.impl("matmul_multiply", TORCH_BOX(&zsu::lrp::matmul_multiply<zsu::lrp::Backend>));
}

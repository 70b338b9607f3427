// The fused product for Hopper (matmul_multiply_sm90.cu), free of torch and of CUTLASS: each side includes only its
// own.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

namespace zsu::lrp::sm90 {

// output = (input @ weight) * factor; [m, k] @ [k, n], all row-major and dense, bfloat16 or float16, pointers aligned
// to 16 bytes, n and k multiples of 8, none of the sizes 0.
struct MatmulMultiply {
  const void *input, *weight, *factor;
  void* output;
  int m, n, k;
  bool bfloat16;
  int device, multiprocessors;
};

size_t workspace_bytes(const MatmulMultiply& product);

// Enqueues the kernel; null, or a text of what went wrong.
const char* run(const MatmulMultiply& product, void* workspace, cudaStream_t stream);

}  // namespace zsu::lrp::sm90

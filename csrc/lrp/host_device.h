// Functions compiled for host and device alike, and for one number (T) or a pack of them (lrp/pack_cpu.h) alike.
#pragma once

#if defined(__CUDACC__)
#define ZSU_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define ZSU_HOST_DEVICE inline __attribute__((always_inline))
#define ZSU_INLINE_LAMBDA __attribute__((always_inline))
#endif

namespace zsu::lrp {

// condition ? a : b, which a pack cannot overload.
template <class T>
ZSU_HOST_DEVICE T select(bool condition, T a, T b) {
  return condition ? a : b;
}

}  // namespace zsu::lrp

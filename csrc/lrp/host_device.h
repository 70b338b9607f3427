// Functions compiled for host and device alike.
#pragma once

#if defined(__CUDACC__)
#define ZSU_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define ZSU_HOST_DEVICE inline
#endif

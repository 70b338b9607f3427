// From the dtype of a tensor to a C++ type. Inside the branch `scalar_t` is the storage type; accumulate_t<scalar_t> is
// the type of all arithmetic: double for double, float for float, half and bfloat16.
#pragma once

#include <torch/headeronly/core/Dispatch.h>
#include <torch/headeronly/core/ScalarType.h>

#include <type_traits>

namespace zsu {

template <class T>
using accumulate_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

}  // namespace zsu

#define ZSU_DISPATCH_FLOATS(TYPE, NAME, ...)                                                      \
  THO_DISPATCH_SWITCH(TYPE, NAME,                                                                 \
                      THO_DISPATCH_CASE(torch::headeronly::ScalarType::Double, __VA_ARGS__)       \
                          THO_DISPATCH_CASE(torch::headeronly::ScalarType::Float, __VA_ARGS__)    \
                              THO_DISPATCH_CASE(torch::headeronly::ScalarType::Half, __VA_ARGS__) \
                                  THO_DISPATCH_CASE(torch::headeronly::ScalarType::BFloat16, __VA_ARGS__))

// A run-time flag as a compile-time constant: ZSU_DISPATCH_BOOL(collect, kCollect, [&] { f<kCollect>(); });
#define ZSU_DISPATCH_BOOL(FLAG, CONSTANT, ...) \
  [&] {                                        \
    if (FLAG) {                                \
      constexpr bool CONSTANT = true;          \
      __VA_ARGS__();                           \
    } else {                                   \
      constexpr bool CONSTANT = false;         \
      __VA_ARGS__();                           \
    }                                          \
  }()

// The order of scores as an order of unsigned integers.
//
// key(a) > key(b) exactly if score a is larger; equal for equal scores, so -0.0 ties with +0.0; 0 for every NaN, which
// no number has. Ranking |score| differs in the sign alone.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>

#if defined(__CUDACC__)
#define ZSU_KEY_FUNCTION __host__ __device__ __forceinline__
#else
#define ZSU_KEY_FUNCTION inline __attribute__((always_inline))
#endif

namespace zsu {

template <class Unsigned, Unsigned kInf>
struct FloatFormat {
  using Bits = Unsigned;
  static constexpr int kBits = 8 * sizeof(Bits);
  static constexpr Bits kSign = Bits(Bits(1) << (kBits - 1));
  static constexpr Bits kInfinity = kInf;
  static constexpr Bits kLargestKey = Bits(kSign + kInfinity);

  // Without a branch: the signs of scores cannot be predicted.
  static ZSU_KEY_FUNCTION Bits key(Bits bits, bool absolute) {
    const Bits magnitude = Bits(bits & Bits(~kSign));
    const Bits negative = Bits(Bits(0) - Bits(Bits(bits >> (kBits - 1)) & Bits(!absolute)));  // all ones or zero
    const Bits number = Bits(Bits(0) - Bits(magnitude <= kInfinity));
    return Bits(number & Bits(kSign + Bits(Bits(magnitude ^ negative) - negative)));  // kSign + or - magnitude
  }
};

template <class Scalar>
struct FormatOf;
template <>
struct FormatOf<float> : FloatFormat<uint32_t, 0x7f800000u> {};
template <>
struct FormatOf<double> : FloatFormat<uint64_t, 0x7ff0000000000000u> {};
template <>
struct FormatOf<c10::Half> : FloatFormat<uint16_t, 0x7c00u> {};
template <>
struct FormatOf<c10::BFloat16> : FloatFormat<uint16_t, 0x7f80u> {};

}  // namespace zsu

// Tiles of float16 and bfloat16 to float32 and back, in loops that vectorise.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <bit>
#include <cstdint>
#include <type_traits>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "common/dispatch.h"

namespace zsu::lrp {

// [n] elements as the arithmetic wants them: the memory itself where it has that type, otherwise `buffer`, filled.
template <class Scalar>
const accumulate_t<Scalar>* load(const Scalar* memory, accumulate_t<Scalar>* buffer, int64_t n) {
  if constexpr (std::is_same_v<Scalar, accumulate_t<Scalar>>) {
    return memory;
  } else if constexpr (std::is_same_v<Scalar, c10::BFloat16>) {
    for (int64_t i = 0; i < n; ++i) buffer[i] = std::bit_cast<float>(uint32_t(memory[i].x) << 16);
  } else {
    int64_t i = 0;
#if defined(__F16C__)
    for (; i + 8 <= n; i += 8) {
      const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(memory + i));
      _mm256_storeu_ps(buffer + i, _mm256_cvtph_ps(halves));
    }
#endif
    for (; i < n; ++i) buffer[i] = static_cast<float>(memory[i]);
  }
  return buffer;
}

// Where to put results that are to become `memory`: there, or in `buffer` until `store` rounds them.
template <class Scalar>
accumulate_t<Scalar>* store_target(Scalar* memory, accumulate_t<Scalar>* buffer) {
  if constexpr (std::is_same_v<Scalar, accumulate_t<Scalar>>) {
    return memory;
  } else {
    return buffer;
  }
}

template <class Scalar>
void store(const accumulate_t<Scalar>* buffer, Scalar* memory, int64_t n) {
  if constexpr (std::is_same_v<Scalar, accumulate_t<Scalar>>) {
    return;  // the results are there already
  } else if constexpr (std::is_same_v<Scalar, c10::BFloat16>) {
    for (int64_t i = 0; i < n; ++i) {
      const uint32_t bits = std::bit_cast<uint32_t>(buffer[i]);
      const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to nearest, ties to even
      const uint32_t quiet_nan = (bits >> 16) | 0x40;  // rounding could carry a NaN's payload into infinity
      memory[i].x = static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? quiet_nan : rounded);
    }
  } else {
    int64_t i = 0;
#if defined(__F16C__)
    for (; i + 8 <= n; i += 8) {
      const __m128i halves = _mm256_cvtps_ph(_mm256_loadu_ps(buffer + i), _MM_FROUND_TO_NEAREST_INT);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(memory + i), halves);
    }
#endif
    for (; i < n; ++i) memory[i] = static_cast<c10::Half>(buffer[i]);
  }
}

}  // namespace zsu::lrp

// Vectors as wide as the instruction set level has them; operators are elementwise, comparisons give all ones or zero.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace zsu {

#if defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T>
struct VectorOf {
  typedef T Type __attribute__((vector_size(kVectorBytes)));
};
template <class T>
using Vec = typename VectorOf<T>::Type;
template <class T>
constexpr int64_t kLanes = kVectorBytes / sizeof(T);

template <class T>
inline Vec<T> load_vector(const void* memory) {
  Vec<T> result;
  std::memcpy(&result, memory, kVectorBytes);
  return result;
}

template <class V>
inline void store_vector(V vector, void* memory) {
  std::memcpy(memory, &vector, kVectorBytes);
}

template <class T>
inline Vec<T> filled(T value) {
  return Vec<T>{} + value;
}

// One bit for each lane of a comparison's result, the first the lowest.
template <class T>
inline uint32_t lane_bits(Vec<T> mask) {
#if defined(__AVX2__)
  const __m256i m = (__m256i)mask;
  if constexpr (sizeof(T) == 8) return uint32_t(_mm256_movemask_pd(_mm256_castsi256_pd(m)));
  if constexpr (sizeof(T) == 4) return uint32_t(_mm256_movemask_ps(_mm256_castsi256_ps(m)));
  return uint32_t(_mm_movemask_epi8(_mm_packs_epi16(_mm256_castsi256_si128(m), _mm256_extracti128_si256(m, 1))));
#elif defined(__SSE2__)
  const __m128i m = (__m128i)mask;
  if constexpr (sizeof(T) == 8) return uint32_t(_mm_movemask_pd(_mm_castsi128_pd(m)));
  if constexpr (sizeof(T) == 4) return uint32_t(_mm_movemask_ps(_mm_castsi128_ps(m)));
  return uint32_t(_mm_movemask_epi8(_mm_packs_epi16(m, _mm_setzero_si128())));
#else
  uint32_t bits = 0;
  for (int64_t lane = 0; lane < kLanes<T>; ++lane) bits |= uint32_t(mask[lane] & 1) << lane;
  return bits;
#endif
}

// True if the comparison held in a lane.
template <class T>
inline bool any(Vec<T> mask) {
#if defined(__AVX2__)
  return !_mm256_testz_si256((__m256i)mask, (__m256i)mask);
#else
  return lane_bits<T>(mask) != 0;
#endif
}

// Four vectors: what a loop takes at a time, as many lanes as fit the bits of a word.
constexpr int kGroupVectors = 4;
template <class T>
constexpr int64_t kGroup = kGroupVectors * kLanes<T>;

template <class T>
inline uint64_t group_bits(const Vec<T>* masks) {
  uint64_t bits = 0;
  for (int v = 0; v < kGroupVectors; ++v) bits |= uint64_t(lane_bits<T>(masks[v])) << v * kLanes<T>;
  return bits;
}

}  // namespace zsu

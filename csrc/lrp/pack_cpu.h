// As many numbers as fit one vector register, which take one path through the arithmetic: what stands for a number in
// the rules and activations on the CPU. The compiler would not vectorise all of them by itself; this always does, for
// whatever instruction set the library is compiled for.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "common/dispatch.h"
#include "lrp/host_device.h"

namespace zsu::lrp {

#if defined(__AVX512F__)
constexpr int kPackBytes = 64;
#elif defined(__AVX__)
constexpr int kPackBytes = 32;
#else
constexpr int kPackBytes = 16;
#endif

// GCC's and Clang's vector types: arithmetic, comparison and ?: work on all elements at once.
template <class Element, int kCount>
struct VectorOf {
  typedef Element type __attribute__((vector_size(kCount * sizeof(Element))));
};

template <class T>
struct Pack {
  static constexpr int kLanes = kPackBytes / sizeof(T);
  using Vector = typename VectorOf<T, kLanes>::type;
  using Mask = decltype(Vector{} < Vector{});

  Vector v;

  Pack() = default;
  ZSU_HOST_DEVICE Pack(T x) : v(x - Vector{}) {}  // every element x, -0 too
  ZSU_HOST_DEVICE explicit Pack(Vector elements) : v(elements) {}

  friend ZSU_HOST_DEVICE Pack operator+(Pack a, Pack b) { return Pack(a.v + b.v); }
  friend ZSU_HOST_DEVICE Pack operator-(Pack a, Pack b) { return Pack(a.v - b.v); }
  friend ZSU_HOST_DEVICE Pack operator*(Pack a, Pack b) { return Pack(a.v * b.v); }
  friend ZSU_HOST_DEVICE Pack operator/(Pack a, Pack b) { return Pack(a.v / b.v); }
  friend ZSU_HOST_DEVICE Pack operator-(Pack a) { return Pack(-a.v); }
  friend ZSU_HOST_DEVICE Pack& operator+=(Pack& a, Pack b) { return a = a + b; }

  friend ZSU_HOST_DEVICE Mask operator<(Pack a, Pack b) { return a.v < b.v; }
  friend ZSU_HOST_DEVICE Mask operator>(Pack a, Pack b) { return a.v > b.v; }
  friend ZSU_HOST_DEVICE Mask operator<=(Pack a, Pack b) { return a.v <= b.v; }
  friend ZSU_HOST_DEVICE Mask operator>=(Pack a, Pack b) { return a.v >= b.v; }
  friend ZSU_HOST_DEVICE Mask operator==(Pack a, Pack b) { return a.v == b.v; }
  friend ZSU_HOST_DEVICE Mask operator!=(Pack a, Pack b) { return a.v != b.v; }
  friend ZSU_HOST_DEVICE Pack select(Mask condition, Pack a, Pack b) { return Pack(condition ? a.v : b.v); }
};

template <class Vector>
ZSU_HOST_DEVICE Vector load_vector(const void* memory) {
  Vector v;
  std::memcpy(&v, memory, sizeof(v));
  return v;
}

template <class Vector>
ZSU_HOST_DEVICE void store_vector(Vector v, void* memory) {
  std::memcpy(memory, &v, sizeof(v));
}

// The elements that begin at `memory`, in the type of the arithmetic.
template <class Scalar>
ZSU_HOST_DEVICE Pack<accumulate_t<Scalar>> load(const Scalar* memory) {
  using P = Pack<accumulate_t<Scalar>>;
  if constexpr (std::is_same_v<Scalar, accumulate_t<Scalar>>) {
    return P(load_vector<typename P::Vector>(memory));
  } else if constexpr (std::is_same_v<Scalar, c10::BFloat16>) {
    using Bits = typename VectorOf<uint32_t, P::kLanes>::type;
#if defined(__AVX512F__)  // where the compiler would convert each half
    const Bits upper = (Bits)_mm512_maskz_cvtepu16_epi32(0xffff, load_vector<__m256i>(memory));
#else
    const auto halves = load_vector<typename VectorOf<uint16_t, P::kLanes>::type>(memory);
    const Bits upper = __builtin_convertvector(halves, Bits);
#endif
    return P((typename P::Vector)(upper << 16));
  } else {
#if defined(__AVX512F__)
    return P(_mm512_maskz_cvtph_ps(0xffff, load_vector<__m256i>(memory)));
#elif defined(__F16C__)
    return P(_mm256_cvtph_ps(load_vector<__m128i>(memory)));
#else
    typename P::Vector v;
    for (int i = 0; i < P::kLanes; ++i) v[i] = static_cast<float>(memory[i]);
    return P(v);
#endif
  }
}

// To nearest, ties to even.
template <class Scalar>
ZSU_HOST_DEVICE void store(Pack<accumulate_t<Scalar>> pack, Scalar* memory) {
  using P = Pack<accumulate_t<Scalar>>;
  if constexpr (std::is_same_v<Scalar, accumulate_t<Scalar>>) {
    store_vector(pack.v, memory);
  } else if constexpr (std::is_same_v<Scalar, c10::BFloat16>) {
    using Bits = typename VectorOf<uint32_t, P::kLanes>::type;
    using Halves = typename VectorOf<uint16_t, P::kLanes>::type;
    const Bits bits = (Bits)pack.v;
    const Bits rounded = (bits + (0x7fff + ((bits >> 16) & 1))) >> 16;
    const Bits quiet_nan = Bits{} + 0x7fc0;  // rounding could carry a NaN's payload into infinity
    store_vector(__builtin_convertvector(pack != pack ? quiet_nan : rounded, Halves), memory);
  } else {
#if defined(__AVX512F__)
    store_vector(_mm512_maskz_cvtps_ph(0xffff, pack.v, _MM_FROUND_TO_NEAREST_INT), memory);
#elif defined(__F16C__)
    store_vector(_mm256_cvtps_ph(pack.v, _MM_FROUND_TO_NEAREST_INT), memory);
#else
    for (int i = 0; i < P::kLanes; ++i) memory[i] = static_cast<c10::Half>(pack.v[i]);
#endif
  }
}

}  // namespace zsu::lrp

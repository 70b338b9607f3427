// The exponential and the normal distribution function behind the smooth activations.
//
// On the device and for double these are the libraries' own. For float on the host they are polynomials, in steps that
// the compiler turns into vector instructions, where a call per element would make the gate several times slower.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "lrp/host_device.h"

namespace zsu::lrp {

// 2^n for a float n that holds an integer in [-126, 127], given n + 1.5 * 2^23, whose low bits are those of n.
inline float power_of_two(uint32_t shifted_bits) { return std::bit_cast<float>((shifted_bits + 127u) << 23); }

// exp(x), error at most two units in the last place; 0, infinity and NaN where exp is so.
inline float host_exponential(float x) {
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float floored = x < -105.0f ? -105.0f : x;
  const float clamped = floored > 89.0f ? 89.0f : floored;
  const float shifted = clamped * 1.44269504f + kShift;
  const float n = shifted - kShift;
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;  // x - n ln 2, ln 2 in two parts; |r| <= 0.35
  float p = 1.0f / 5040.0f;
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  // 2^n in two factors, so that neither overflows: n is -152 to 129, its half at most 76 in magnitude.
  const float half_shifted = 0.5f * n + kShift;
  const float rest_shifted = (n - (half_shifted - kShift)) + kShift;
  return p * power_of_two(std::bit_cast<uint32_t>(half_shifted)) * power_of_two(std::bit_cast<uint32_t>(rest_shifted));
}

// Phi(x) = erfc(-x / sqrt(2)) / 2 with erfc(z) = exp(-z^2) t P(t), t = 1 / (1 + z / 2) for z >= 0: P is a least-squares
// fit of erfcx(z) / t over 0 <= z <= 10.5 (relative error 2.5e-8), so that the tail keeps its relative accuracy.
inline float host_normal_cdf(float x) {
  const float z = (x < 0.0f ? -x : x) * 0.70710678f;
  const float t = 1.0f / (1.0f + 0.5f * z);
  const float u = 2.38095238f * t - 1.38095238f;  // [0.16, 1] to [-1, 1]
  float p = 4.902285127172945e-06f;
  p = p * u - 5.693634375347756e-05f;
  p = p * u + 1.3494269296643324e-05f;
  p = p * u + 6.130409892648458e-04f;
  p = p * u - 6.776191876269877e-04f;
  p = p * u - 6.32315780967474e-03f;
  p = p * u + 6.309180520474911e-03f;
  p = p * u + 1.0352049767971039e-01f;
  p = p * u + 3.2718783617019653e-01f;
  p = p * u + 5.694087147712708e-01f;
  const float tail = 0.5f * t * p * host_exponential(-0.5f * x * x);
  return x < 0.0f ? tail : 1.0f - tail;
}

template <class T>
ZSU_HOST_DEVICE T exponential(T x) {
#if !defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<T, float>) return host_exponential(x);
#endif
  return std::exp(x);
}

template <class T>
ZSU_HOST_DEVICE T normal_cdf(T x) {
#if !defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<T, float>) return host_normal_cdf(x);
#endif
  return T(0.5) * std::erfc(x * T(-0.70710678118654752440));  // 1 + erf would cancel for x << 0
}

}  // namespace zsu::lrp

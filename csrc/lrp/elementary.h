// The transcendental functions behind the smooth activations: for single numbers those of the libraries. Packs of
// floats have their own (lrp/elementary_cpu.h), found by their argument.
#pragma once

#include <cmath>

#include "lrp/host_device.h"

namespace zsu::lrp {

template <class T>
ZSU_HOST_DEVICE T exponential(T x) {
  return std::exp(x);
}

// Phi(x), the distribution function of the standard normal distribution.
template <class T>
ZSU_HOST_DEVICE T normal_cdf(T x) {
  return T(0.5) * std::erfc(x * T(-0.70710678118654752440));  // 1 + erf would cancel for x << 0
}

// The same for what is stored in 16 bits: relative error below 3e-5, a tenth of the rounding of float16, in less than
// half the instructions. Phi(-m) = exp(-m^2 / 2) N(m) / D(m), where the fraction is a minimax fit of
// erfcx(m / sqrt(2)) / 2; its coefficients are all positive, so that nothing cancels. Beyond 13.25 it is 0.
ZSU_HOST_DEVICE float coarse_normal_cdf(float x) {
  const float magnitude = std::fabs(x), m = magnitude > 13.25f ? 13.25f : magnitude;
  const float n = 0.5000113213f + m * (0.2770055571f + m * 0.06199069899f);
  const float d = 1.0f + m * (1.352607729f + m * (0.6996427784f + m * 0.1551985729f));
  const float bell = std::exp2(m * m * -0.72134752f) * n;
#if defined(__CUDA_ARCH__)
  const float tail = __fdividef(bell, d);
#else
  const float tail = bell / d;
#endif
  return x < 0.0f ? tail : 1.0f - tail;
}

template <class T>
ZSU_HOST_DEVICE T hyperbolic_tangent(T x) {
  return std::tanh(x);
}

}  // namespace zsu::lrp

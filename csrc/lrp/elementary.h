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

// Phi(x), the distribution function of the standard normal distribution. A shorter fit where results are stored in 16
// bits was tried: sums per neuron, which stay float32, are wrong by more than their rounding then.
template <class T>
ZSU_HOST_DEVICE T normal_cdf(T x) {
  return T(0.5) * std::erfc(x * T(-0.70710678118654752440));  // 1 + erf would cancel for x << 0
}

template <class T>
ZSU_HOST_DEVICE T hyperbolic_tangent(T x) {
  return std::tanh(x);
}

}  // namespace zsu::lrp

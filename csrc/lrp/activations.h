// Activations and their gates act(x) / x, for host and device. Specification: zsu_fast/reference/gates.py.
#pragma once

#include "lrp/elementary.h"
#include "lrp/host_device.h"

namespace zsu::lrp {

enum Activation : int {
  kRelevance = -1,  // only in the passes: the incoming gradient already is relevance
  kIdentity = 0,
  kRelu = 1,
  kGelu = 2,
  kGeluTanh = 3,
  kSilu = 4,
  kRelu6 = 5,
  kHardswish = 6,
  kTanh = 7,
};
constexpr int kActivations = 8;

template <class T>
ZSU_HOST_DEVICE T sigmoid(T x) {
  return T(1) / (T(1) + exponential(-x));
}

// act(x) / x, written without the division, so that it is finite everywhere and takes its limit at x = 0. NaN stays
// NaN.
template <int kCode, class T>
ZSU_HOST_DEVICE T gate(T x) {
  if constexpr (kCode == kRelu) {
    return select(x > T(0), T(1), select(x <= T(0), T(0), x));
  } else if constexpr (kCode == kGelu) {
    return normal_cdf(x);
  } else if constexpr (kCode == kGeluTanh) {
    // (1 + tanh(u)) / 2 = sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3): does not cancel for u << 0.
    return sigmoid(T(1.59576912160573071176) * x * (T(1) + T(0.044715) * x * x));
  } else if constexpr (kCode == kSilu) {
    return sigmoid(x);
  } else if constexpr (kCode == kRelu6) {
    const T saturated = T(6) / select(x < T(6), T(6), x);
    return select(x > T(0), saturated, select(x <= T(0), T(0), x));
  } else if constexpr (kCode == kHardswish) {
    const T line = (x + T(3)) / T(6);
    return select(x <= T(-3), T(0), select(x >= T(3), T(1), line));
  } else if constexpr (kCode == kTanh) {
    const T quotient = hyperbolic_tangent(x) / x;
    return select(x == T(0), T(1), quotient);
  } else {
    static_assert(kCode == kIdentity);
    return T(1);
  }
}

template <int kCode, class T>
ZSU_HOST_DEVICE T activate(T x) {
  if constexpr (kCode == kIdentity) {
    return x;
  } else if constexpr (kCode == kRelu) {
    return select(x < T(0), T(0), x);
  } else if constexpr (kCode == kRelu6) {
    const T floored = select(x < T(0), T(0), x);
    return select(floored > T(6), T(6), floored);
  } else if constexpr (kCode == kTanh) {
    return hyperbolic_tangent(x);
  } else {
    return x * gate<kCode>(x);
  }
}

}  // namespace zsu::lrp

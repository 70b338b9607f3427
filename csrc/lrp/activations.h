// Activations and their gates act(x) / x, for host and device. Specification: zsu_fast/reference/gates.py.
#pragma once

#include <cmath>

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
    return x > T(0) ? T(1) : (x <= T(0) ? T(0) : x);
  } else if constexpr (kCode == kGelu) {
    return normal_cdf(x);
  } else if constexpr (kCode == kGeluTanh) {
    // (1 + tanh(u)) / 2 = sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3): does not cancel for u << 0.
    return sigmoid(T(1.59576912160573071176) * x * (T(1) + T(0.044715) * x * x));
  } else if constexpr (kCode == kSilu) {
    return sigmoid(x);
  } else if constexpr (kCode == kRelu6) {
    const T saturated = T(6) / (x < T(6) ? T(6) : x);
    return x > T(0) ? saturated : (x <= T(0) ? T(0) : x);
  } else if constexpr (kCode == kHardswish) {
    const T line = (x + T(3)) / T(6);
    return x <= T(-3) ? T(0) : (x >= T(3) ? T(1) : line);
  } else if constexpr (kCode == kTanh) {
    const T quotient = std::tanh(x) / x;
    return x == T(0) ? T(1) : quotient;
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
    return x < T(0) ? T(0) : x;
  } else if constexpr (kCode == kRelu6) {
    const T floored = x < T(0) ? T(0) : x;
    return floored > T(6) ? T(6) : floored;
  } else if constexpr (kCode == kTanh) {
    return std::tanh(x);
  } else {
    return x * gate<kCode>(x);
  }
}

// The same for an activation known at run time: act(x), or with kGate act(x) / x.
template <bool kGate, class T>
ZSU_HOST_DEVICE T activation_value(int code, T x) {
  switch (code) {
#define ZSU_ACTIVATION(CODE) \
  case CODE:                 \
    if constexpr (kGate)     \
      return gate<CODE>(x);  \
    else                     \
      return activate<CODE>(x);
    ZSU_ACTIVATION(kRelu)
    ZSU_ACTIVATION(kGelu)
    ZSU_ACTIVATION(kGeluTanh)
    ZSU_ACTIVATION(kSilu)
    ZSU_ACTIVATION(kRelu6)
    ZSU_ACTIVATION(kHardswish)
    ZSU_ACTIVATION(kTanh)
#undef ZSU_ACTIVATION
    default:
      return kGate ? T(1) : x;
  }
}

}  // namespace zsu::lrp

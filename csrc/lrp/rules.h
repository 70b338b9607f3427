// The arithmetic of every element-wise pass, once for host and device. Specification: zsu_fast/reference/lrp.py.
//
// An operation sees one element at a time: `tensors` are the operands at that element, `vectors` the per-unit
// parameters of its unit, `staged` what its stage computed from the first two operands:
//   numerator: tensors[0] * act(tensors[1]), the relevance of a unit from its modified gradient;
//   gate:      tensors[0] * act(tensors[1]) / tensors[1].
// Numerators are also what is summed per unit where the sum is asked for. T is the type of the arithmetic, float or
// (for double) double; V is T or, on the CPU, a pack of them.
#pragma once

#include "lrp/activations.h"
#include "lrp/host_device.h"

namespace zsu::lrp {

constexpr int kMaxTensors = 3, kMaxVectors = 2, kMaxOutputs = 2;

enum class Stage { kNone, kNumerator, kGate };

template <class T>
ZSU_HOST_DEVICE T positive_part(T x) {
  return select(x < T(0), T(0), x);
}

template <class T>
ZSU_HOST_DEVICE T negative_part(T x) {
  return select(x > T(0), T(0), x);
}

template <class T>
ZSU_HOST_DEVICE T magnitude_of(T x) {
  return select(x < T(0), -x, x);
}

template <class T>
ZSU_HOST_DEVICE T sign_of(T x) {
  return select(x > T(0), T(1), select(x < T(0), T(-1), x));
}

// numerator / (z + epsilon sgn(z)) with sgn(0) = 1; 0 where the stabilised z is exactly 0 (only epsilon = 0 allows it).
template <class T>
ZSU_HOST_DEVICE T ratio(T numerator, T z, T epsilon) {
  const T stabilized = z + select(z >= T(0), epsilon, -epsilon);
  const T quotient = numerator / stabilized;
  return select(stabilized == T(0), T(0), quotient);
}

// gradient, output, denominator; scale -> s
template <class T>
struct EpsilonRule {
  static constexpr Stage kStage = Stage::kNumerator;
  static constexpr int kTensors = 3, kVectors = 1, kOutputs = 1;
  static constexpr T neutral(int) { return T(1); }  // what an absent vector stands for
  T epsilon;

  template <class V>
  ZSU_HOST_DEVICE void operator()(V staged, const V* tensors, const V* vectors, V* outputs) const {
    outputs[0] = ratio(staged, tensors[2], V(epsilon)) * vectors[0];
  }
};

// gradient, output, magnitude; bias, scale -> s, signed s
template <class T>
struct GammaRule {
  static constexpr Stage kStage = Stage::kNumerator;
  static constexpr int kTensors = 3, kVectors = 2, kOutputs = 2;
  static constexpr T neutral(int vector) { return vector == 0 ? T(0) : T(1); }
  T gamma, epsilon;

  template <class V>
  ZSU_HOST_DEVICE void operator()(V staged, const V* tensors, const V* vectors, V* outputs) const {
    const V y = tensors[1], bias = vectors[0], scale = vectors[1], absolute_scale = magnitude_of(scale);
    const V linear = y - bias, absolute = tensors[2] * absolute_scale, side = sign_of(y), half = gamma / T(2);
    const V favoured = select(y > V(0), positive_part(bias), negative_part(bias));
    const V z = (V(1) + half) * linear + side * half * absolute + bias + gamma * favoured;
    const V quotient = ratio(staged, z, V(epsilon));
    const V v = select(y == V(0), V(0), quotient);  // at y = 0 no side is favoured, and relevance is dropped
    outputs[0] = v * scale;
    outputs[1] = side * v * absolute_scale;
  }
};

// gradient, output, magnitude; bias, scale -> u, v
template <class T>
struct AlphaBetaRule {
  static constexpr Stage kStage = Stage::kNumerator;
  static constexpr int kTensors = 3, kVectors = 2, kOutputs = 2;
  static constexpr T neutral(int vector) { return vector == 0 ? T(0) : T(1); }
  T alpha, beta, epsilon, noise;  // noise: how much of |W||x| + |y| rounding may leave in a half that is empty

  template <class V>
  ZSU_HOST_DEVICE void operator()(V staged, const V* tensors, const V* vectors, V* outputs) const {
    const V bias = vectors[0], scale = vectors[1], absolute_scale = magnitude_of(scale);
    const V linear = tensors[1] - bias, absolute = tensors[2] * absolute_scale;
    const V floor = noise * (absolute + magnitude_of(tensors[1]));
    const V activating = alpha * half(staged, (absolute + linear) * V(0.5) + positive_part(bias), floor);
    const V inhibiting = beta * half(staged, (linear - absolute) * V(0.5) + negative_part(bias), floor);
    outputs[0] = (activating - inhibiting) * scale;
    outputs[1] = (activating + inhibiting) * absolute_scale;
  }

  template <class V>
  ZSU_HOST_DEVICE V half(V staged, V z, V floor) const {
    const V quotient = ratio(staged, z, V(epsilon));
    return select(magnitude_of(z) <= floor, V(0), quotient);
  }
};

// W^T s, |W|^T s', input -> the sum of both, the second with the sign of the input
template <class T>
struct Combine {
  static constexpr Stage kStage = Stage::kNone;
  static constexpr int kTensors = 3, kVectors = 0, kOutputs = 1;
  T plain_factor, absolute_factor;

  template <class V>
  ZSU_HOST_DEVICE void operator()(V, const V* tensors, const V*, V* outputs) const {
    outputs[0] = plain_factor * tensors[0] + absolute_factor * sign_of(tensors[2]) * tensors[1];
  }
};

// gradient, input -> gradient * act(input) / input
template <class T>
struct ActivationGate {
  static constexpr Stage kStage = Stage::kGate;
  static constexpr int kTensors = 2, kVectors = 0, kOutputs = 1;

  template <class V>
  ZSU_HOST_DEVICE void operator()(V staged, const V*, const V*, V* outputs) const {
    outputs[0] = staged;
  }
};

// gradient; scale -> gradient * scale
template <class T>
struct BatchNormGate {
  static constexpr Stage kStage = Stage::kNone;
  static constexpr int kTensors = 1, kVectors = 1, kOutputs = 1;
  static constexpr T neutral(int) { return T(1); }  // what an absent vector stands for

  template <class V>
  ZSU_HOST_DEVICE void operator()(V, const V* tensors, const V* vectors, V* outputs) const {
    outputs[0] = tensors[0] * vectors[0];
  }
};

// gradient, activation -> nothing but the sum per unit
template <class T>
struct NeuronSum {
  static constexpr Stage kStage = Stage::kNumerator;
  static constexpr int kTensors = 2, kVectors = 0, kOutputs = 0;

  template <class V>
  ZSU_HOST_DEVICE void operator()(V, const V*, const V*, V*) const {}
};

}  // namespace zsu::lrp

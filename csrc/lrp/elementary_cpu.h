// Exponential, normal distribution function and hyperbolic tangent of packs. For float they are polynomials, for double
// calls of the library for each element.
#pragma once

#include <cmath>
#include <cstdint>

#include "lrp/pack_cpu.h"

namespace zsu::lrp {

template <class Function>
ZSU_HOST_DEVICE Pack<double> for_each(Pack<double> x, const Function& function) {
  for (int i = 0; i < Pack<double>::kLanes; ++i) x.v[i] = function(x.v[i]);
  return x;
}

ZSU_HOST_DEVICE Pack<double> exponential(Pack<double> x) {
  return for_each(x, [](double each) { return std::exp(each); });
}

ZSU_HOST_DEVICE Pack<double> normal_cdf(Pack<double> x) {
  return for_each(x, [](double each) { return 0.5 * std::erfc(each * -0.70710678118654752440); });
}

ZSU_HOST_DEVICE Pack<double> hyperbolic_tangent(Pack<double> x) {
  return for_each(x, [](double each) { return std::tanh(each); });
}

// exp(x), error at most two units in the last place; 0 below 2^-126.5, infinity above 2^127.5; NaN stays NaN.
ZSU_HOST_DEVICE Pack<float> exponential(Pack<float> x) {
  using P = Pack<float>;
  using Bits = VectorOf<uint32_t, P::kLanes>::type;
  const P floored = select(x < P(-88.3f), P(-88.3f), x), clamped = select(floored > P(88.8f), P(88.8f), floored);
  // Adding 1.5 * 2^23 rounds n = x / ln 2 to an integer in the low bits; 127 more make it the exponent of 2^n, which is
  // 0 for n = -127 and infinite for n = 128.
  const P shift = 12582912.0f + 127.0f;
  const P shifted = clamped * 1.44269504f + shift, n = shifted - shift;
  const P power = P((P::Vector)((Bits)shifted.v << 23));
  const P r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;  // x - n ln 2, ln 2 in two parts; |r| <= 0.3475
  const P r2 = r * r;
  // Minimax fit of exp(r), relative error 3e-9.
  const P high = (0.04166840389370918f + 0.00836889911442995f * r) + r2 * 0.001381422160193324f;
  const P low = 0.4999999403953552f + 0.1666651964187622f * r;
  return (1.0f + (r + r2 * (low + r2 * high))) * power;
}

// Phi(x) = erfc(-x / sqrt(2)) / 2 with erfc(z) / 2 = exp(-z^2) t P(t), t = 1 / (1 + z / 2) for z >= 0: P is a minimax
// fit over 0 <= z <= 9.4 (relative error 4e-8), so that the tail keeps its relative accuracy: 1e-6
// for |x| < 4, 4e-6 at worst, from rounding x^2.
ZSU_HOST_DEVICE Pack<float> normal_cdf(Pack<float> x) {
  using P = Pack<float>;
  const P z = select(x < P(0), -x, x) * 0.70710678f;
  const P t = 1.0f / (1.0f + 0.5f * z);
  const P u = t - 0.588f, u2 = u * u, u4 = u2 * u2;
  const P p01 = 0.28783923387527466f + 0.39421194791793823f * u, p23 = 0.2944087088108063f + 0.03932470828294754f * u;
  const P p45 = -0.10260193794965744f - 0.023525727912783623f * u;
  const P p67 = 0.0561046227812767f + 0.0033354295883327723f * u;
  const P p = (p01 + u2 * p23) + u4 * ((p45 + u2 * p67) + u4 * -0.029423514381051064f);
  const P tail = t * p * exponential(-0.5f * x * x);
  return select(x < P(0), tail, 1.0f - tail);
}

// For |x| < 0.625 an odd polynomial (minimax, relative error 5e-9), beyond it 1 - 2 / (exp(2 |x|) + 1).
ZSU_HOST_DEVICE Pack<float> hyperbolic_tangent(Pack<float> x) {
  using P = Pack<float>;
  const P magnitude = select(x < P(0), -x, x), x2 = x * x;
  const P high = 0.02060610870783995f + x2 * -0.0056668988410284405f;
  const P p = -0.3333327805047949f + x2 * (0.1333133077146421f + x2 * (-0.05372998705636112f + x2 * high));
  const P saturating = 1.0f - 2.0f / (exponential(2.0f * magnitude) + 1.0f);
  return select(magnitude < P(0.625f), x + x * x2 * p, select(x < P(0), -saturating, saturating));
}

}  // namespace zsu::lrp

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

// Phi(-m) = exp(-m^2 / 2) N(m) / D(m) for m = |x|, beyond 13.25 it is 0. The fraction is a minimax fit of
// erfcx(m / sqrt(2)) / 2, relative error 6e-8 at 0, 5e-6 at 13; its coefficients are all positive, so that nothing
// cancels. The tail keeps its relative accuracy: 1.2e-6 for m < 4, 8e-6 at worst, from rounding m^2.
ZSU_HOST_DEVICE Pack<float> normal_cdf(Pack<float> x) {
  using P = Pack<float>;
  using Bits = VectorOf<uint32_t, P::kLanes>::type;
  const P magnitude = P((P::Vector)((Bits)x.v & 0x7fffffffu));
  const P m = select(magnitude > P(13.25f), P(13.25f), magnitude);
  const P exponent = m * m * -0.72134752f;  // of 2; split as in `exponential`
  const P shift = 12582912.0f + 127.0f;
  const P shifted = exponent + shift, r = exponent - (shifted - shift), r2 = r * r;
  const P power = P((P::Vector)((Bits)shifted.v << 23));
  const P low = 0.24022242426872253f + 0.05550733581185341f * r;
  const P high = 0.009671512991189957f + 0.001326472731307149f * r;
  const P bell = ((1.0f + 0.6931470036506653f * r) + r2 * (low + r2 * high)) * power;
  const P n = 0.4999999701486053f + m * (0.3421363405716723f + m * (0.10826207018066002f + m * 0.01441313996693386f));
  const P d = 1.0f + m * (1.482153480715154f +
                          m * (0.8991494081727709f + m * (0.27098031942588635f + m * 0.036140279945254074f)));
  const P tail = n * bell / d;
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

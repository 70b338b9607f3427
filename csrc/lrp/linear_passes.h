// lrp_epsilon_pass, lrp_gamma_pass, lrp_alpha_beta_pass, lrp_combine: everything but the kernels, for any backend.
#pragma once

#include <limits>
#include <tuple>

#include "lrp/operands.h"

namespace zsu::lrp {

template <class Backend>
struct LinearPasses {
  static std::tuple<Tensor, Tensor> epsilon(const Tensor& gradient, const Tensor& output,
                                            std::optional<Tensor> denominator, std::optional<Tensor> scale,
                                            double epsilon, int64_t activation, int64_t unit_dim, bool collect) {
    constexpr const char* op = "lrp_epsilon_pass";
    check_activation(op, activation, kRelevance);
    const Operands operands(op, gradient);
    const Layout layout = operands.layout(unit_dim);
    const Tensor y = operands.match("output", output);
    const Tensor z = denominator ? operands.match("denominator", *denominator) : y;
    const auto factor = operands.vector("scale", scale, layout.units);
    const Tensor s = operands.empty_like_first(), neurons = operands.empty_neurons(layout, collect);
    ZSU_DISPATCH_FLOATS(operands.dtype(), op, [&] {
      using T = accumulate_t<scalar_t>;
      run_pass<Backend, scalar_t>(EpsilonRule<T>{T(epsilon)}, layout, activation, {operands.first(), y, z}, {factor},
                                  {s}, collect ? &neurons : nullptr);
    });
    return {s, neurons};
  }

  static std::tuple<Tensor, Tensor, Tensor> gamma(const Tensor& gradient, const Tensor& output, const Tensor& magnitude,
                                                  std::optional<Tensor> bias, std::optional<Tensor> scale, double gamma,
                                                  double epsilon, int64_t activation, int64_t unit_dim, bool collect) {
    return signed_pass("lrp_gamma_pass", gradient, output, magnitude, bias, scale, activation, unit_dim, collect,
                       [&]<class Scalar>() {
                         using T = accumulate_t<Scalar>;
                         return GammaRule<T>{T(gamma), T(epsilon)};
                       });
  }

  static std::tuple<Tensor, Tensor, Tensor> alpha_beta(const Tensor& gradient, const Tensor& output,
                                                       const Tensor& magnitude, std::optional<Tensor> bias,
                                                       std::optional<Tensor> scale, double alpha, double beta,
                                                       double epsilon, int64_t activation, int64_t unit_dim,
                                                       bool collect) {
    return signed_pass("lrp_alpha_beta_pass", gradient, output, magnitude, bias, scale, activation, unit_dim, collect,
                       [&]<class Scalar>() {
                         using T = accumulate_t<Scalar>;
                         // Half precision rounds each operand once, at the end; wider types add up their own errors.
                         const T roundings = sizeof(Scalar) == 2 ? T(1) : T(4);
                         const T noise = roundings * static_cast<T>(std::numeric_limits<Scalar>::epsilon());
                         return AlphaBetaRule<T>{T(alpha), T(beta), T(epsilon), noise};
                       });
  }

  static Tensor combine(const Tensor& plain, const Tensor& absolute, const Tensor& input, double plain_factor,
                        double absolute_factor) {
    constexpr const char* op = "lrp_combine";
    const Operands operands(op, plain);
    const Tensor a = operands.match("absolute", absolute), x = operands.match("input", input);
    const Tensor combined = operands.empty_like_first();
    ZSU_DISPATCH_FLOATS(operands.dtype(), op, [&] {
      using T = accumulate_t<scalar_t>;
      run_pass<Backend, scalar_t>(Combine<T>{T(plain_factor), T(absolute_factor)}, operands.flat(), kIdentity,
                                  {operands.first(), a, x}, {}, {combined}, nullptr);
    });
    return combined;
  }

 private:
  // The passes that split the layer into positive and negative parts by its magnitude |W||x|.
  template <class MakeRule>
  static std::tuple<Tensor, Tensor, Tensor> signed_pass(const char* op, const Tensor& gradient, const Tensor& output,
                                                        const Tensor& magnitude, const std::optional<Tensor>& bias,
                                                        const std::optional<Tensor>& scale, int64_t activation,
                                                        int64_t unit_dim, bool collect, const MakeRule& make_rule) {
    check_activation(op, activation, kRelevance);
    const Operands operands(op, gradient);
    const Layout layout = operands.layout(unit_dim);
    const Tensor y = operands.match("output", output), absolute = operands.match("magnitude", magnitude);
    const auto shift = operands.vector("bias", bias, layout.units),
               factor = operands.vector("scale", scale, layout.units);
    const Tensor first = operands.empty_like_first(), second = operands.empty_like_first();
    const Tensor neurons = operands.empty_neurons(layout, collect);
    ZSU_DISPATCH_FLOATS(operands.dtype(), "signed_pass", [&] {
      run_pass<Backend, scalar_t>(make_rule.template operator()<scalar_t>(), layout, activation,
                                  {operands.first(), y, absolute}, {shift, factor}, {first, second},
                                  collect ? &neurons : nullptr);
    });
    return {first, second, neurons};
  }
};

}  // namespace zsu::lrp

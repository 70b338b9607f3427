"""Every rule as the papers write it: a linear layer as one matrix, relevance distributed over contributions.

Nothing here is shared with the code under test. A layer of any kind is a matrix W [out, in] and a vector b [out], read
off by Jacobians; z_kj = w_kj x_j is what input j contributes to output k. Each function takes x [in], W, b and the
relevance of the outputs R [out], and returns the relevance of the inputs [in].
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zsu_fast.lrp import AlphaBeta, Epsilon, Flat, Gamma, Pass, Rule, WSquare, ZBox, Zero, ZPlus


def as_matrix(layer: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """W and b of an affine function of one sample x: the Jacobian, and the value at zero."""
    flat = lambda t: layer(t.view(1, *x.shape)).flatten()  # noqa: E731
    zero = torch.zeros(x.numel(), dtype=x.dtype)
    return torch.func.jacrev(flat)(zero).detach(), flat(zero).detach()


def connections(layer: nn.Module, x: Tensor) -> Tensor:
    """[out, in]: 1 where an input and an output are connected: the matrix of the layer with weights of 1."""
    for module in layer.modules():
        if hasattr(module, "weight") and not isinstance(module, nn.modules.batchnorm._BatchNorm):
            parameters = {"weight": torch.ones_like(module.weight)}
            if module.bias is not None:
                parameters["bias"] = torch.zeros_like(module.bias)
            return as_matrix(lambda t, m=module, p=parameters: torch.func.functional_call(m, p, (t,)), x)[0]
    raise ValueError(f"{layer} has no weight")


def distribute(shares: Tensor, total: Tensor, relevance: Tensor) -> Tensor:
    """R_j = sum_k shares_kj / total_k R_k; an output whose total is exactly 0 has nothing to distribute over."""
    s = torch.where(total == 0, 0.0, relevance / torch.where(total == 0, 1.0, total))
    return (shares * s[:, None]).sum(0)


def stabilized(z: Tensor, epsilon: float) -> Tensor:
    return torch.where(z >= 0, z + epsilon, z - epsilon)


def lrp_zero(x: Tensor, w: Tensor, b: Tensor, r: Tensor) -> Tensor:
    """Bach et al. 2015, eq. 56."""
    z = w * x
    return distribute(z, z.sum(1) + b, r)


def lrp_epsilon(x: Tensor, w: Tensor, b: Tensor, r: Tensor, epsilon: float) -> Tensor:
    """Bach et al. 2015, eq. 58."""
    z = w * x
    return distribute(z, stabilized(z.sum(1) + b, epsilon), r)


def lrp_gamma(x: Tensor, w: Tensor, b: Tensor, r: Tensor, gamma: float, epsilon: float) -> Tensor:
    """Andeol et al. 2021: contributions of the sign of the output (bias included) count 1 + gamma fold.

    For x >= 0 and outputs > 0 that is the rule of Montavon et al. 2019, with w + gamma w^+.
    """
    z = w * x
    y = z.sum(1) + b
    up, down = z + gamma * z.clamp(min=0), z + gamma * z.clamp(max=0)
    shares = torch.where((y > 0)[:, None], up, down)
    bias = torch.where(y > 0, b + gamma * b.clamp(min=0), b + gamma * b.clamp(max=0))
    return distribute(shares, stabilized(shares.sum(1) + bias, epsilon), r * (y != 0))


def lrp_alpha_beta(x: Tensor, w: Tensor, b: Tensor, r: Tensor, alpha: float, beta: float, epsilon: float) -> Tensor:
    """Bach et al. 2015, eq. 60, with b^+ among the positive contributions and b^- among the negative ones."""
    z = w * x
    positive, negative = z.clamp(min=0), z.clamp(max=0)
    activating = distribute(positive, stabilized(positive.sum(1) + b.clamp(min=0), epsilon), r)
    inhibiting = distribute(negative, stabilized(negative.sum(1) + b.clamp(max=0), epsilon), r)
    return alpha * activating - beta * inhibiting


def lrp_z_plus(x: Tensor, w: Tensor, b: Tensor, r: Tensor, epsilon: float) -> Tensor:
    """Montavon et al. 2017, for inputs of any sign: alpha-beta with alpha 1 and beta 0."""
    z = (w * x).clamp(min=0)
    return distribute(z, stabilized(z.sum(1) + b.clamp(min=0), epsilon), r)


def lrp_z_box(x: Tensor, w: Tensor, r: Tensor, low: Tensor, high: Tensor, epsilon: float) -> Tensor:
    """Montavon et al. 2017; the bias cancels."""
    z = w * x - w.clamp(min=0) * low - w.clamp(max=0) * high
    return distribute(z, stabilized(z.sum(1), epsilon), r)


def lrp_w_square(w: Tensor, b: Tensor, r: Tensor, bias: bool) -> Tensor:
    """Montavon et al. 2017; `bias`: with b^2 in the denominator."""
    return distribute(w**2, (w**2).sum(1) + (b**2 if bias else 0.0), r)


def lrp_flat(connected: Tensor, r: Tensor) -> Tensor:
    """Lapuschkin et al. 2019: the same share for every input that an output is connected to."""
    return distribute(connected, connected.sum(1), r)


class Matrix(NamedTuple):
    """A layer for one shape of samples: W, b, connections, and the dimension of the input's channels."""

    w: Tensor
    b: Tensor
    connected: Tensor
    channel_dim: int

    @staticmethod
    def of(layer: nn.Module, x: Tensor) -> "Matrix":
        """`x` [N, ...]: inputs of the shape in question."""
        linear = any(isinstance(module, nn.Linear) for module in layer.modules())
        return Matrix(*as_matrix(layer, x[0]), connections(layer, x[0]), x.dim() - 1 if linear else 1)


def by_definition(rule: Rule, layer: Matrix, x: Tensor, relevance: Tensor) -> Tensor:
    """Relevance of x [N, ...] from that of the layer's outputs [N, ...], sample by sample."""
    found = [_of_sample(rule, layer, v, r.flatten()).view_as(v) for v, r in zip(x, relevance, strict=True)]
    return torch.stack(found)


def _of_sample(rule: Rule, layer: Matrix, sample: Tensor, r: Tensor) -> Tensor:
    w, b, x = layer.w, layer.b, sample.flatten()
    match rule:
        case Zero():
            return lrp_zero(x, w, b, r)
        case Epsilon():
            return lrp_epsilon(x, w, b, r, rule.epsilon)
        case Gamma():
            return lrp_gamma(x, w, b, r, rule.gamma, rule.epsilon)
        case ZPlus():
            return lrp_z_plus(x, w, b, r, rule.epsilon)
        case AlphaBeta():
            return lrp_alpha_beta(x, w, b, r, rule.alpha, rule.beta, rule.epsilon)
        case ZBox():
            shape = [1] * sample.dim()
            shape[layer.channel_dim - 1] = -1
            low, high = (torch.tensor(bound, dtype=x.dtype).view(shape) for bound in (rule.low, rule.high))
            low, high = low.expand_as(sample).flatten(), high.expand_as(sample).flatten()
            return lrp_z_box(x, w, r, low, high, rule.epsilon)
        case WSquare():
            return lrp_w_square(w, b, r, rule.bias)
        case Flat():
            return lrp_flat(layer.connected, r)
        case Pass():
            return r
        case _:
            raise TypeError(f"no definition of {rule!r}")

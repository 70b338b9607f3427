"""A matrix product times a factor per element, in one kernel where there is one."""

import torch
from torch import Tensor

from ..reference import matmul as reference
from .check import check_shape, check_tensors
from .constant import define_constant

define_constant(
    "matmul_multiply(Tensor input, Tensor weight, Tensor factor) -> Tensor",
    reference.matmul_multiply,
    lambda input, weight, factor: factor.new_empty(factor.shape),
)


@torch.no_grad()
def matmul_multiply(input: Tensor, weight: Tensor, factor: Tensor) -> Tensor:
    """(input @ weight) * factor.

    The last step of relevance through a linear layer. With s = R / st(y) and the layer's weight [out, in]:

    - s times the weight, times the layer's input, is the relevance of the input (Bach et al. 2015, eq. 58);
    - times a / st(z) of the layer below, kept from the forward pass, it is that layer's s at once: relevance then
      goes down a stack of layers, for any number of targets, in one matrix product each.

    On Hopper (sm_90), float16 and bfloat16 are one kernel that accumulates in float32 and rounds once, if all operands
    are contiguous, aligned to 16 bytes, and K and N multiples of 8. Anything else is ATen's matrix product, rounded to
    the dtype, and one pass over it. `lrp_linear` takes the latter way everywhere: the kernel has not been measured yet.

    Args:
        input: [*, K].
        weight: [K, N].
        factor: [*, N].

    All share one floating dtype and device.

    Returns:
        [*, N], contiguous. A constant: gradients do not flow through this function.

    Raises:
        TypeError, ValueError: an argument is not what is asked for above.
    """
    check_tensors(input=input, weight=weight, factor=factor)
    check_shape("weight", weight, "[K, N]", weight.dim() == 2)
    rows, width = weight.shape
    check_shape("input", input, f"[*, {rows}]", input.dim() > 0 and input.shape[-1] == rows)
    expected = (*input.shape[:-1], width)
    check_shape("factor", factor, f"{expected}, the product's", factor.shape == expected)
    return torch.ops.zsu_fast.matmul_multiply(input, weight, factor)

"""The maps that LRP rules act on: linear layers and convolutions, forwards and transposed, by ATen's own kernels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


@dataclass(frozen=True)
class LinearMap:
    """y = forward(x, w), linear in x and in w: `F.linear`, or a (transposed) convolution of any rank and grouping.

    `end_padding` counts zeros appended after the padding proper, per spatial dimension: padding="same" needs one where
    the kernel is even. Build convolutions with `LinearMap.conv`, which takes what `torch.nn.functional` takes.
    """

    kind: Literal["linear", "conv"] = "linear"
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    transposed: bool = False
    output_padding: tuple[int, ...] = ()
    end_padding: tuple[int, ...] = ()

    @staticmethod
    def conv(
        kernel_size: Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        transposed: bool = False,
        output_padding: int | Sequence[int] = 0,
    ) -> "LinearMap":
        """The map of a convolution with kernels of shape `kernel_size`; scalars hold for every spatial dimension."""
        rank = len(kernel_size)
        stride = _spread("stride", stride, rank, 1)
        dilation = _spread("dilation", dilation, rank, 1)
        end_padding = (0,) * rank
        if isinstance(padding, str):
            if padding == "valid":
                padding = (0,) * rank
            elif padding == "same":
                if set(stride) != {1} or transposed:
                    raise ValueError(f'padding="same" needs stride 1 and no transposition, got stride {stride}')
                total = [d * (k - 1) for d, k in zip(dilation, kernel_size, strict=True)]
                padding = tuple(t // 2 for t in total)
                end_padding = tuple(t % 2 for t in total)
            else:
                raise ValueError(f'padding must be an int, one per dimension, "same" or "valid", got {padding!r}')
        padding = _spread("padding", padding, rank, 0)
        output_padding = _spread("output_padding", output_padding, rank, 0)
        return LinearMap("conv", stride, padding, dilation, groups, transposed, output_padding, end_padding)

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """[*input shape], weight, [units] or None -> [*output shape], in their dtype: the layer itself."""
        if self.kind == "linear":
            return F.linear(x, weight, bias)
        if any(self.end_padding):
            x = F.pad(x, [p for end in reversed(self.end_padding) for p in (0, end)])
        dense = weight.is_contiguous()
        layout = torch.contiguous_format if dense else _CHANNELS_LAST.get(weight.dim(), torch.contiguous_format)
        return torch.convolution(
            x,
            _canonical(weight, layout),
            bias,
            self.stride,
            self.padding,
            self.dilation,
            self.transposed,
            self.output_padding,
            self.groups,
        )

    def transpose(self, s: Tensor, weight: Tensor, input_shape: Sequence[int]) -> Tensor:
        """The adjoint: [*output shape] -> [*input_shape]; one backward-data GEMM or convolution."""
        if self.kind == "linear":
            return torch.matmul(s, weight)
        padded = list(input_shape)
        for i, end in enumerate(self.end_padding):
            padded[2 + i] += end
        # ATen takes the memory format from the weight and from the (here unneeded) input, not from s.
        layout = torch.contiguous_format
        channels_last = _CHANNELS_LAST.get(s.dim())
        if channels_last is not None and s.is_contiguous(memory_format=channels_last) and not s.is_contiguous():
            layout = channels_last
            weight = weight.contiguous(memory_format=layout)
        weight = _canonical(weight, layout)
        result = torch.ops.aten.convolution_backward(
            s,
            _unread(s, padded, layout),
            weight,
            None,
            self.stride,
            self.padding,
            self.dilation,
            self.transposed,
            self.output_padding,
            self.groups,
            [True, False, False],
        )[0]
        for i, end in enumerate(self.end_padding):
            if end:
                result = result.narrow(2 + i, 0, input_shape[2 + i])
        return result

    def output_shape(self, input_shape: Sequence[int], weight_shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of forward(x, w) (for convolutions: of a batch)."""
        if self.kind == "linear":
            return (*input_shape[:-1], weight_shape[0])
        spatial = []
        for i, (size, kernel) in enumerate(zip(input_shape[2:], weight_shape[2:], strict=True)):
            span = self.dilation[i] * (kernel - 1) + 1
            if self.transposed:
                spatial.append((size - 1) * self.stride[i] - 2 * self.padding[i] + span + self.output_padding[i])
            else:
                spatial.append((size + 2 * self.padding[i] + self.end_padding[i] - span) // self.stride[i] + 1)
        units = weight_shape[1] * self.groups if self.transposed else weight_shape[0]
        return (input_shape[0], units, *spatial)

    def fold(self, weight: Tensor, scale: Tensor) -> Tensor:
        """The weight of y = scale * forward(x, weight), `scale` per output unit, in the dtype of the weight."""
        if not self.transposed:
            return (weight * scale.view(-1, *[1] * (weight.dim() - 1))).to(weight.dtype)
        # A transposed convolution's weight is [in, out / groups, ...]: group g owns rows g * in / groups onwards.
        grouped = weight.unflatten(0, (self.groups, -1))
        factors = scale.view(self.groups, 1, -1, *[1] * (weight.dim() - 2))
        return (grouped * factors).flatten(0, 1).to(weight.dtype)


def _canonical(weight: Tensor, layout: torch.memory_format) -> Tensor:
    """`weight` with the strides that `layout` gives to dimensions of size 1, where it is dense in it.

    Their strides hold no information, but ATen guesses a memory format from them: kernels of (3, 1) that lie transposed
    count as channels_last, and grouped convolutions of torch 2.13 came out wrong, forwards and backwards (oneDNN).
    """
    if 1 not in weight.shape or not weight.is_contiguous(memory_format=layout):
        return weight
    order = [0, *range(2, weight.dim()), 1] if layout is not torch.contiguous_format else range(weight.dim())
    strides, step = [0] * weight.dim(), 1
    for d in reversed(order):
        strides[d] = step
        step *= weight.shape[d]
    return weight if weight.stride() == tuple(strides) else weight.as_strided(weight.shape, strides)


def _unread(like: Tensor, shape: Sequence[int], layout: torch.memory_format) -> Tensor:
    """A tensor of `shape` whose values do not matter, at no cost.

    On the CPU, ATen makes the input of a backward-data convolution dense before it ignores it: there it must be dense.
    """
    if like.device.type != "cpu":
        return like.new_empty(1).expand(shape)
    size = math.prod(shape)
    if layout is torch.contiguous_format and like.is_contiguous() and like.numel() >= size:
        return like.view(-1)[:size].view(shape)
    return torch.empty(shape, dtype=like.dtype, memory_format=layout)  # memory that is never touched


def _spread(name: str, value: int | Sequence[int], rank: int, least: int) -> tuple[int, ...]:
    if not isinstance(value, int | Sequence) or isinstance(value, str):
        raise TypeError(f"{name} must be an int or {rank} of them, got {type(value).__name__}")
    values = (value,) * rank if isinstance(value, int) else tuple(value)
    if len(values) == 1:
        values *= rank
    if len(values) != rank or any(isinstance(v, bool) or not isinstance(v, int) or v < least for v in values):
        raise ValueError(f"{name} must be an int >= {least} or {rank} of them, got {value!r}")
    return values

"""The functions that need no rule, because their ordinary backward is the rule in modified-gradient form.

Everything is listed by name and looked up in torch's namespaces, so that `torch.flatten`, `Tensor.flatten` and the like
are one entry. What stands in no table and has no handler is refused.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F

_SPACES = (torch, torch.Tensor, F, torch._C._nn, torch.special, torch.linalg)


def functions_named(*names: str) -> Iterator[Callable]:
    """Every function of torch, its tensors and its functional modules of these names. Raises KeyError for a typo."""
    for name in names:
        found = [getattr(space, name) for space in _SPACES if hasattr(space, name)]
        if not found:
            raise KeyError(f"torch has no function {name!r}")
        for function in found:
            yield function.__get__ if type(function).__name__ == "getset_descriptor" else function


# fmt: off
MOVES = frozenset(functions_named(
    "H", "T", "__getitem__", "adjoint", "atleast_1d", "atleast_2d", "atleast_3d", "bfloat16", "broadcast_to", "cat",
    "channel_shuffle", "chunk", "clone", "concat", "concatenate", "contiguous", "cpu", "cuda", "diagonal", "double",
    "dstack", "expand", "expand_as", "flatten", "flip", "fliplr", "flipud", "float", "gather", "half", "hstack",
    "index_select", "mH", "mT", "moveaxis", "movedim", "narrow", "pad", "permute", "pixel_shuffle", "pixel_unshuffle",
    "ravel", "repeat", "repeat_interleave", "reshape", "reshape_as", "roll", "rot90", "select", "split",
    "split_with_sizes", "squeeze", "stack", "swapaxes", "swapdims", "t", "take_along_dim", "tensor_split", "tile", "to",
    "transpose", "tril", "triu", "type", "type_as", "unbind", "unflatten", "unfold", "unsqueeze", "view", "view_as",
    "vstack",
))
"""Values are moved, repeated or dropped, never mixed: a fact about all values stays true (non-negative, gate ...)."""

AVERAGES = frozenset(functions_named(
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "cumsum", "fold", "mean", "sum",
))
"""Linear with weights >= 0: non-negative stays non-negative."""

RESAMPLING = frozenset(functions_named("interpolate", "upsample", "upsample_bilinear", "upsample_nearest"))
"""Linear, the weights of each output add up to 1 (some modes have negative ones): carries R as it carries c."""

HOMOGENEOUS = frozenset(functions_named(
    "adaptive_max_pool1d", "adaptive_max_pool1d_with_indices", "adaptive_max_pool2d",
    "adaptive_max_pool2d_with_indices", "adaptive_max_pool3d", "adaptive_max_pool3d_with_indices", "amax", "amin",
    "fmax", "fmin", "kthvalue", "max", "max_pool1d", "max_pool1d_with_indices", "max_pool2d", "max_pool2d_with_indices",
    "max_pool3d", "max_pool3d_with_indices", "maximum", "median", "min", "minimum", "sort", "topk",
))
"""The winner takes all, f(x) = f'(x) x: the ordinary backward gives c to the winner. Non-negative stays so."""

PIECEWISE_LINEAR = frozenset(functions_named(
    "diagonal_scatter", "grid_sample", "index_add", "index_copy", "index_fill", "leaky_relu", "masked_fill",
    "masked_scatter", "masked_select", "max_unpool1d", "max_unpool2d", "max_unpool3d", "neg", "negative", "prelu",
    "scatter_add", "select_scatter", "slice_scatter", "where",
))
"""f(x) = f'(x) x for the part that depends on x; values may be negative."""

SIGNALS = MOVES | RESAMPLING | HOMOGENEOUS | frozenset(functions_named(
    "__add__", "__radd__", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "add",
    "alpha_dropout", "avg_pool1d", "avg_pool2d", "avg_pool3d", "batch_norm", "clamp", "clamp_min", "conv1d", "conv2d",
    "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "dropout", "dropout1d", "dropout2d",
    "dropout3d", "expand_as", "feature_dropout", "hardtanh", "linear", "mean", "relu", "relu6", "reshape_as", "view_as",
))
"""What may stand in a network that PatternNet or PatternAttribution explains: its ordinary backward conserves R."""
# fmt: on

SOFTMAX = frozenset(functions_named("softmax", "softmin"))
"""Their results are attention weights: the strongest gates there are."""

GATES = frozenset(functions_named("hardsigmoid", "sigmoid"))
"""Their results are gates."""

TAYLOR = SOFTMAX | GATES | frozenset(functions_named("softplus"))
"""Positive functions; the ordinary gradient is the first-order Taylor rule, its constant absorbed (softmax: AttnLRP,
Prop. 3.1)."""

UNTOUCHED = MOVES | AVERAGES | RESAMPLING | HOMOGENEOUS | PIECEWISE_LINEAR | TAYLOR

HINTS = {
    "exp": "a softmax is covered where it is written as torch.softmax",
    "log": "if it is the logarithm of probabilities, explain the logits",
    "log_softmax": "explain the logits that go into it: leave it out of the model",
}
"""What to do about functions that are refused, by name."""

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


MOVES = frozenset(
    functions_named(
        *"view view_as reshape reshape_as flatten unflatten ravel permute transpose swapaxes swapdims t T mT H mH adjoint "
        "movedim moveaxis squeeze unsqueeze expand expand_as broadcast_to contiguous clone to type type_as float double "
        "half bfloat16 cpu cuda __getitem__ select narrow split split_with_sizes chunk tensor_split unbind index_select "
        "gather take_along_dim roll flip fliplr flipud rot90 cat concat concatenate stack hstack vstack dstack repeat tile "
        "repeat_interleave pad pixel_shuffle pixel_unshuffle channel_shuffle unfold diagonal alias_copy "
        "atleast_1d atleast_2d atleast_3d tril triu".split()
    )
)
"""Values are moved, repeated or dropped, never mixed: a fact about all values stays true (non-negative, gate ...)."""

AVERAGES = frozenset(
    functions_named(
        *"mean sum avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d cumsum "
        "fold index_add".split()
    )
)
"""Linear with weights >= 0: non-negative stays non-negative."""

RESAMPLING = frozenset(functions_named("interpolate", "upsample", "upsample_nearest", "upsample_bilinear"))
"""Linear, weights of each output add up to 1 (bicubic weights may be negative): carries R as it carries c."""

HOMOGENEOUS = frozenset(
    functions_named(
        *"max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices "
        "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d adaptive_max_pool1d_with_indices "
        "adaptive_max_pool2d_with_indices adaptive_max_pool3d_with_indices amax amin max min maximum minimum fmax fmin "
        "topk sort".split()
    )
)
"""The winner takes all, f(x) = f'(x) x: the ordinary backward passes c to the winner. Non-negative stays non-negative."""

PIECEWISE_LINEAR = frozenset(functions_named("leaky_relu", "prelu", "masked_fill", "where", "masked_select", "neg", "negative"))
"""f(x) = f'(x) x for the part that depends on x; values may be negative."""

TAYLOR = frozenset(functions_named("softmax", "sigmoid", "hardsigmoid", "softmin"))
"""The ordinary gradient is the first-order Taylor rule, its constant absorbed (softmax: AttnLRP, Prop. 3.1)."""

UNTOUCHED = MOVES | AVERAGES | RESAMPLING | HOMOGENEOUS | PIECEWISE_LINEAR | TAYLOR

"""What torch.distributed puts into autograd's graph: identities, and hooks that gather weights when they are needed."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

_IDENTITIES = ("RegisterPostBackwardFunction", "_DDPSink")  # FSDP2's and DDP's
_PLACEMENTS = ("_FromTorchTensor", "_ToTorchTensor", "Redistribute")  # DTensor's: whose gradients are sums and parts


def passes_on(function: type) -> bool:
    """Whether an autograd.Function is torch.distributed's, and leaves values as they are, wherever they are."""
    return function.__module__.startswith(("torch.distributed.", "torch.nn.parallel.")) and (
        function.__name__ in _IDENTITIES + _PLACEMENTS
    )


def passed_on(tensor: Tensor) -> bool:
    """Whether `tensor` is what such a function made of another one."""
    function = getattr(tensor.grad_fn, "_forward_cls", None)
    return function is not None and passes_on(function)


def move_hooks(tensor: Tensor, other: Tensor) -> None:
    """FSDP2 gathers a module's weights when a gradient arrives at its output: let that be at `other`, if the graph of
    the rules leads through it and not through `tensor`."""
    for hook in (tensor._backward_hooks or {}).values():
        if (getattr(hook, "__module__", None) or "").startswith("torch.distributed."):
            other.register_hook(hook)


def is_freed(weight: Tensor) -> bool:
    """Whether FSDP2 has taken its memory away, from which a kernel would read all the same."""
    return type(weight) in (Tensor, nn.Parameter) and weight.untyped_storage().nbytes() == 0 < weight.numel()


def layer_behind(tensor: Tensor) -> str | None:
    """Name of the layer that put out `tensor`, if nothing came between but its way from process to process."""
    node: Any = tensor.grad_fn
    while (function := getattr(node, "_forward_cls", None)) is not None and passes_on(function):
        node = node.next_functions[0][0]
    unit = getattr(getattr(node, "call", None), "unit", None)
    return None if unit is None else unit.name

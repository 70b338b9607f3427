"""What torch.distributed puts into autograd's graph: identities, and hooks that gather weights when they are needed."""

from __future__ import annotations

from torch import Tensor, nn

_IDENTITIES = ("RegisterPostBackwardFunction", "_DDPSink")


def passes_on(function: type) -> bool:
    """Whether an autograd.Function is the identity, put there to learn when gradients are ready."""
    return function.__module__.startswith(("torch.distributed.", "torch.nn.parallel.")) and (
        function.__name__ in _IDENTITIES
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

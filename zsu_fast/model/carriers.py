"""Modules whose weights or functions cannot be reached, known by name: most of their packages are not installed."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

_PACKED = (
    "torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "bitsandbytes", "optimum.quanto", "hqq", "awq",
    "auto_gptq", "gptqmodel", "compressed_tensors",
)  # fmt: skip
_PACKED_FUNCTIONS = ("quantized", "quantized_decomposed", "torchao", "bitsandbytes", "quanto")  # namespaces of ops
_FLOATING = "pass the floating point model that it was made from, and quantise after (zeros survive it)"


def why_unreachable(module: nn.Module) -> str | None:
    """Why neither relevance nor an edit reaches the layers of `module` itself, with what to pass instead; or None."""
    kind: Any = type(module)
    why = _why_kind(kind)
    if why is None and any(is_packed(tensor) for tensor in module._parameters.values()):
        return f"({kind.__name__}) is quantised by torchao: {_FLOATING}"
    if why is None and any(hasattr(tensor, "ds_id") for tensor in module._parameters.values()):
        return (
            f"({kind.__name__}) is partitioned by DeepSpeed (ZeRO stage 3), each process holds a part of its weights, "
            "flattened: load the whole model (its zero_to_fp32.py writes the weights of a checkpoint), or use "
            "torch.distributed.fsdp.fully_shard"
        )
    if why is None and isinstance(module, GraphModule) and _calls_packed(module):
        return f"({kind.__name__}) is quantised: {_FLOATING}"
    return why


def is_packed(tensor: Any, but: str = "Float8Tensor") -> bool:
    """Whether a parameter is of torchao; `but` names the kind that has products and a transpose like any other."""
    kind = type(tensor)
    return kind is not nn.Parameter and kind.__module__.startswith("torchao") and kind.__name__ != but


@lru_cache
def _why_kind(kind: Any) -> str | None:
    if issubclass(kind, torch.jit.ScriptModule):
        return "is TorchScript, whose layers and functions cannot be seen; pass the original module"
    if kind.__module__.startswith(_PACKED):
        return f"({kind.__name__}) is quantised: no rule covers its packed weights; {_FLOATING}"
    if any(base.__name__ == "FakeQuantizeBase" for base in kind.__mro__):
        return f"({kind.__name__}) quantises as it runs: pass the floating point model that it was made from"
    return None


def _calls_packed(graph: GraphModule) -> bool:
    return any(getattr(node.target, "namespace", None) in _PACKED_FUNCTIONS for node in graph.graph.nodes)

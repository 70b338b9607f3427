"""Floor 1: torch ops under `torch.ops.zsu_fast`, with validated wrappers here.

Importing a subject module defines its ops; the compiled libraries, where there are any, then override the references.
"""

from zsu_fast.ops import _load
from zsu_fast.ops.gates import activation_gate
from zsu_fast.ops.lrp import LinearMap, lrp_conv1d, lrp_conv2d, lrp_conv3d, lrp_linear
from zsu_fast.ops.mask_neurons import mask_neurons_
from zsu_fast.ops.neurons import neuron_relevance
from zsu_fast.ops.norms import batch_norm_gate, layer_norm_gate, rms_norm_gate
from zsu_fast.ops.prepared_mask import PreparedMask
from zsu_fast.ops.selection import topk_count, topk_indices
from zsu_fast.ops.topk_mask import topk_mask_

_load.load_libraries()

__all__ = [
    "LinearMap",
    "PreparedMask",
    "activation_gate",
    "batch_norm_gate",
    "layer_norm_gate",
    "lrp_conv1d",
    "lrp_conv2d",
    "lrp_conv3d",
    "lrp_linear",
    "mask_neurons_",
    "neuron_relevance",
    "rms_norm_gate",
    "topk_count",
    "topk_indices",
    "topk_mask_",
]

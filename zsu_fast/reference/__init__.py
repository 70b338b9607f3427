"""The specification: every op in plain PyTorch, written to be read. It serves wherever no compiled library does.

The functions take what the op's schema says, in its order, and check nothing: the wrappers in `zsu_fast.ops` do that.
"""

from .gates import activation_gate
from .lrp import lrp_alpha_beta_pass, lrp_combine, lrp_epsilon_pass, lrp_gamma_pass
from .masking import mask_neurons_, topk_mask_
from .neurons import neuron_relevance
from .norms import batch_norm_gate, layer_norm_gate, rms_norm_gate
from .selection import topk_count, topk_indices

__all__ = [
    "activation_gate",
    "batch_norm_gate",
    "layer_norm_gate",
    "lrp_alpha_beta_pass",
    "lrp_combine",
    "lrp_epsilon_pass",
    "lrp_gamma_pass",
    "mask_neurons_",
    "neuron_relevance",
    "rms_norm_gate",
    "topk_count",
    "topk_indices",
    "topk_mask_",
]

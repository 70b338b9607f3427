"""Methods of the literature, from their formulas, to be measured beside the house's own."""

from __future__ import annotations

from zsu_fast.unlearn.methods.base import Method
from zsu_fast.unlearn.methods.baselines.boundary import BoundaryExpand, BoundaryShrink
from zsu_fast.unlearn.methods.baselines.damp import Damp
from zsu_fast.unlearn.methods.baselines.dampening import Dampening, LabelFreeDampening
from zsu_fast.unlearn.methods.baselines.finetune import Finetune, L1Sparse
from zsu_fast.unlearn.methods.baselines.jit import Jit
from zsu_fast.unlearn.methods.baselines.kodge import Kodge
from zsu_fast.unlearn.methods.baselines.neggrad import NegGrad, NegGradPlus
from zsu_fast.unlearn.methods.baselines.noise import Noise
from zsu_fast.unlearn.methods.baselines.relabel import RandomLabel, Salun
from zsu_fast.unlearn.methods.baselines.retrain import Retrain
from zsu_fast.unlearn.methods.baselines.scrub import Scrub
from zsu_fast.unlearn.methods.baselines.unsir import Unsir

_KINDS: tuple[type[Method], ...] = (
    Retrain, Finetune, L1Sparse, RandomLabel, Salun, NegGrad, NegGradPlus, Scrub, BoundaryShrink, BoundaryExpand, Unsir,
    Dampening, LabelFreeDampening, Jit, Damp, Kodge, Noise,
)  # fmt: skip
BASELINES = {kind.name: kind for kind in _KINDS}

__all__ = ["BASELINES"]

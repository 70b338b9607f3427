"""Floor 3, metrics: what a model still knows about the forgotten classes.

In its answers (`evaluate`), in its features (`linear_probe` and the attacks), after a little fine-tuning (`relearn`),
about the images that it was trained on (`membership`), and how far it is from a retrained one (`depth`, `distances`).
Also relevance of more images than memory holds (`relevance_batches`, `mean_relevance`).

The package is called like its function: `zsu_fast.evaluate(model, images, labels, target)` measures, and
`zsu_fast.evaluate.linear_probe` is found too.
"""

import inspect
import sys
import types
from typing import Any

from zsu_fast.evaluate import attacks, distances
from zsu_fast.evaluate.accuracy import Evaluation, evaluate
from zsu_fast.evaluate.attacker import Attacked, Attacker
from zsu_fast.evaluate.attacks import mlp_probe, nearest_prototype, neighbour_probe, prototype_row
from zsu_fast.evaluate.depth import Attack, Depth, compare, depth, share_of_the_way
from zsu_fast.evaluate.images import ImageStream, images_of
from zsu_fast.evaluate.intervals import auc_interval, upper_bound, wilson_interval
from zsu_fast.evaluate.lira import LikelihoodRatio, likelihood_ratio
from zsu_fast.evaluate.many_images import MeanRelevance, mean_relevance, relevance_batches
from zsu_fast.evaluate.membership import Membership, membership
from zsu_fast.evaluate.probe import ProbeResult, features, linear_probe
from zsu_fast.evaluate.relearn import Relearning, anamnesis_index, relearn

__all__ = [
    "Attack",
    "Attacked",
    "Attacker",
    "Depth",
    "Evaluation",
    "ImageStream",
    "LikelihoodRatio",
    "MeanRelevance",
    "Membership",
    "ProbeResult",
    "Relearning",
    "anamnesis_index",
    "attacks",
    "auc_interval",
    "compare",
    "depth",
    "distances",
    "evaluate",
    "features",
    "images_of",
    "likelihood_ratio",
    "linear_probe",
    "mean_relevance",
    "membership",
    "mlp_probe",
    "nearest_prototype",
    "neighbour_probe",
    "prototype_row",
    "relearn",
    "relevance_batches",
    "share_of_the_way",
    "upper_bound",
    "wilson_interval",
]


class _Package(types.ModuleType):
    """The package, which can be called."""

    __signature__ = inspect.signature(evaluate)

    def __call__(self, *args: Any, **kwargs: Any) -> Evaluation:
        return evaluate(*args, **kwargs)


sys.modules[__name__].__class__ = _Package

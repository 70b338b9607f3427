"""Floor 3, metrics: what a model still knows about the forgotten classes.

In its answers (`evaluate`), in its features (`linear_probe`), after a little fine-tuning (`relearn`), and about the
images that it was trained on (`membership`).
"""

from zsu_fast.evaluate.accuracy import Evaluation, evaluate
from zsu_fast.evaluate.intervals import auc_interval, wilson_interval
from zsu_fast.evaluate.membership import Membership, membership
from zsu_fast.evaluate.probe import ProbeResult, features, linear_probe
from zsu_fast.evaluate.relearn import Relearning, relearn

__all__ = [
    "Evaluation",
    "Membership",
    "ProbeResult",
    "Relearning",
    "auc_interval",
    "evaluate",
    "features",
    "linear_probe",
    "membership",
    "relearn",
    "wilson_interval",
]

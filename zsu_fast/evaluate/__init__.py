"""Floor 3, metrics: what a model still knows about the forgotten classes, in its answers and in its features."""

from zsu_fast.evaluate.accuracy import Evaluation, evaluate
from zsu_fast.evaluate.intervals import wilson_interval
from zsu_fast.evaluate.probe import ProbeResult, features, linear_probe

__all__ = ["Evaluation", "ProbeResult", "evaluate", "features", "linear_probe", "wilson_interval"]

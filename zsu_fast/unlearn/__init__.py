"""Unlearning: analyse -> select -> perturb -> verify -> record."""

from zsu_fast.unlearn.forget import forget, select
from zsu_fast.unlearn.hashing import model_digest
from zsu_fast.unlearn.patch import Entry, Patch
from zsu_fast.unlearn.perturb import perturb_
from zsu_fast.unlearn.picks import Picks
from zsu_fast.unlearn.presets import AUTHORS_PRESETS, Preset
from zsu_fast.unlearn.result import ForgetResult

__all__ = [
    "AUTHORS_PRESETS",
    "Entry",
    "ForgetResult",
    "Patch",
    "Picks",
    "Preset",
    "forget",
    "model_digest",
    "perturb_",
    "select",
]

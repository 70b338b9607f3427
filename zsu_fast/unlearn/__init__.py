"""Unlearning: analyse -> select -> perturb -> verify -> record."""

from zsu_fast.model.tensors import model_digest
from zsu_fast.unlearn.compact import Compact, compact, load_compact
from zsu_fast.unlearn.concept import ForgetConcept
from zsu_fast.unlearn.entry import Entry
from zsu_fast.unlearn.forget import forget, method_options, select
from zsu_fast.unlearn.generated import ForgetGenerated
from zsu_fast.unlearn.instances import ForgetInstances
from zsu_fast.unlearn.items import ForgetItems
from zsu_fast.unlearn.methods import method_names
from zsu_fast.unlearn.patch import Patch
from zsu_fast.unlearn.perturb import perturb_
from zsu_fast.unlearn.picks import Picks
from zsu_fast.unlearn.presets import AUTHORS_PRESETS, Preset
from zsu_fast.unlearn.requests import ForgetClass
from zsu_fast.unlearn.result import ForgetResult
from zsu_fast.unlearn.synthetic import SyntheticProbes, synthesise
from zsu_fast.unlearn.texts import ForgetText, TextRecord, sensitive_words
from zsu_fast.unlearn.verdict import Verdict

__all__ = [
    "AUTHORS_PRESETS",
    "Compact",
    "Entry",
    "ForgetClass",
    "ForgetConcept",
    "ForgetGenerated",
    "ForgetInstances",
    "ForgetItems",
    "ForgetResult",
    "ForgetText",
    "Patch",
    "Picks",
    "Preset",
    "SyntheticProbes",
    "TextRecord",
    "Verdict",
    "compact",
    "forget",
    "load_compact",
    "method_names",
    "method_options",
    "model_digest",
    "perturb_",
    "select",
    "sensitive_words",
    "synthesise",
]

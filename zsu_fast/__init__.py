"""zsu_fast: zero-shot unlearning for PyTorch vision models.

Find the neurons that carry a class by layer-wise relevance propagation, mask their paths in place, prove what was
forgotten and what was kept, and keep a record that can be audited and undone.

    result = zsu_fast.forget(model, target=3, probes=images)   # analyse, select, perturb, verify, record
    result.patch.revert(model)                                  # bit for bit what it was

Floors, each built on the one before: `zsu_fast.ops` (torch ops; `zsu_fast.reference` says what is right),
`zsu_fast.lrp` (rules, composites, `relevance`), `zsu_fast.unlearn` and `zsu_fast.evaluate`.
"""

from typing import TYPE_CHECKING

from zsu_fast import waiting_threads  # isort: skip  # before anything that loads torch
from zsu_fast import ops, plot, reference
from zsu_fast.evaluate import Evaluation
from zsu_fast.lrp import Relevance, relevance
from zsu_fast.ops.build_info import build_info
from zsu_fast.unlearn import ForgetResult, Patch, Picks, compact, forget, perturb_, select
from zsu_fast.version import __version__

if TYPE_CHECKING:
    from zsu_fast.evaluate import evaluate
else:
    from zsu_fast import evaluate  # the package, which can be called like its function

del waiting_threads

__all__ = [
    "Evaluation",
    "ForgetResult",
    "Patch",
    "Picks",
    "Relevance",
    "__version__",
    "build_info",
    "compact",
    "evaluate",
    "forget",
    "ops",
    "perturb_",
    "plot",
    "reference",
    "relevance",
    "select",
]

"""What `import zsu_fast` offers. Imports torch, and registers the ops with it."""

from typing import TYPE_CHECKING

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

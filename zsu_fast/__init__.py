"""zsu_fast: zero-shot unlearning for PyTorch vision models.

Find the neurons that carry a class by layer-wise relevance propagation, mask their paths in place, prove what was
forgotten and what was kept, and keep a record that can be audited and undone.

    result = zsu_fast.forget(model, target=3, probes=images)   # analyse, select, perturb, verify, record
    result.patch.revert(model)                                  # bit for bit what it was

Floors, each built on the one before: `zsu_fast.ops` (torch ops; `zsu_fast.reference` says what is right),
`zsu_fast.lrp` (rules, composites, `relevance`), `zsu_fast.unlearn` and `zsu_fast.evaluate`.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from zsu_fast import command_line
from zsu_fast.version import __version__ as __version__

logging.getLogger(__name__).addHandler(logging.NullHandler())

if TYPE_CHECKING or not command_line.IS_OURS:
    from zsu_fast.api import *  # noqa: F403
    from zsu_fast.api import __all__ as __all__
else:

    def __getattr__(name: str) -> Any:
        """All the same, when it is first asked for: the command line loads torch when work begins."""
        if name.startswith("__") and name != "__all__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module("zsu_fast.api"), name)

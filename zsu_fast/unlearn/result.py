"""What `forget` hands back, and the record it leaves."""

from __future__ import annotations

import datetime
import platform
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zsu_fast.unlearn.hashing import tensor_digest
from zsu_fast.unlearn.patch import Patch
from zsu_fast.version import __version__


@dataclass(frozen=True)
class ForgetResult:
    """What `forget` did.

    patch: undoes it (`patch.revert(model)`) and can be saved; without entries if nothing was changed.
    reached: False if no budget met `until` above the utility floor; the model is then as it was.
    picks: layer name -> indices; inputs of the classifier stand under "<classifier>.input".
    budget: number of neurons (per target class for "lra-npp", in all for "channels").
    before, after: "forget_accuracy" on the probes ("after": each judged by an edit chosen without it) and
        "retain_accuracy" on the retain probes (None without them).
    trace: what the search tried, [{"layers", "mode", "budget", "forget_accuracy"}].
    record: JSON-able, also in the patch.
    """

    patch: Patch
    reached: bool
    picks: dict[str, list[int]]
    budget: int
    before: dict[str, float | None]
    after: dict[str, float | None]
    trace: list[dict[str, Any]]
    record: dict[str, Any]

    def summary(self) -> str:
        """A few lines for people."""
        request = self.record["request"]
        name = "class " + ", ".join(map(str, request["targets"]))
        if not self.reached:
            return f"{name}: not forgotten, the model is as it was. {self.record['reason']}"
        count = sum(map(len, self.picks.values()))
        lines = [f"{name} forgotten by {request['method']}: {count} neurons in {len(self.picks)} layer(s)"]
        for key, what in (("forget_accuracy", "on the class (held-out probes)"), ("retain_accuracy", "on the others")):
            if self.before[key] is not None:
                lines.append(f"  accuracy {what}: {self.before[key]:.3f} -> {self.after[key]:.3f}")
        return "\n".join(lines)


def provenance() -> dict[str, Any]:
    """Versions and time, for a record."""
    return {
        "versions": {"zsu_fast": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def described(images: Tensor) -> dict[str, Any]:
    """Digest and shape of images, for a record."""
    return {"sha256": tensor_digest(images), "shape": list(images.shape)}


def jsonable(value: Any) -> Any:
    """`value` with everything that JSON does not know as its repr."""
    if isinstance(value, dict):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(v) for v in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)

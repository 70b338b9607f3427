"""What `forget` hands back, and the record it leaves."""

from __future__ import annotations

import datetime
import hashlib
import hmac
import math
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import torch
from torch import Tensor

from zsu_fast.evaluate.images import images_digest
from zsu_fast.unlearn.patch import Patch
from zsu_fast.unlearn.shard import Shard
from zsu_fast.unlearn.verdict import Verdict
from zsu_fast.version import __version__


@dataclass(frozen=True, repr=False)
class ForgetResult:
    """What `forget` did.

    patch: undoes it (`patch.revert(model)`) and can be saved; without entries if nothing was changed.
    verdict: what may be said of it; nothing else says "forgotten".
    reached: whether an edit is in place that met `until` (with a fixed budget: whether it did).
    picks: layer name -> indices; inputs of the classifier stand under "<classifier>.input".
    budget: number of neurons (per target class for "lra-npp", in all for "channels"), or size as the method counts it.
    before, after: "forget_accuracy" on the probes ("after": each judged by an edit chosen without it, where there are
        enough), "margin": median lead of the class over the best other logit on them, and "retain_accuracy" on the
        retain probes (None without them). Of instances: the share of them short of the goal, and how far in the median.
    trace: what the search tried, [{"layers", "mode", "budget", "forget_accuracy"}].
    certificate: what was proved or checked of the edit, see `zsu_fast.unlearn.certificate`; None without an edit.
    record: JSON-able, also in the patch.

        result = zsu_fast.forget(model, 3, probes, evaluate_on=(images, labels))
        print(result.summary())
        if result.verdict.level == "answers":
            result.patch.save("class3.safetensors")
            result.report("class3.html")
    """

    patch: Patch
    verdict: Verdict
    reached: bool
    picks: dict[str, list[int]]
    budget: int
    before: dict[str, float | None]
    after: dict[str, float | None]
    trace: list[dict[str, Any]]
    certificate: dict[str, Any] | None
    record: dict[str, Any]

    @property
    def front(self) -> list[dict[str, Any]]:
        """What other sizes of the edit would leave and cost, with `forget(.., front=(images, labels))`; else empty.

        Each point: "budget" (0: the unedited model), "layers", "mode", what is left of the class in "answers", to a
        "linear_probe" and to a "prototype" row, "others": their accuracy; whether it was "chosen", and "undominated".
        """
        return self.record.get("front", [])

    def report(
        self,
        path: str | os.PathLike[str],
        *,
        model: str = "the model",
        names: Mapping[int, str] | None = None,
        author: str | None = None,
    ) -> None:
        """Write what was asked, shown and not shown, in plain words, with the figures of the record.

        path: .html, .md or .pdf. model: what it is called. names: class -> name. author: who makes it; it stands there
        as given, marked as not checked. More (heatmaps, photos) is in `zsu_fast.report` and on the command line.

        Raises:
            ValueError: another suffix.
            ImportError: matplotlib is missing (extra "report"; not for .md).
            FileNotFoundError: no browser to make a .pdf with.
        """
        from zsu_fast.report import report_of, write_report  # the roof, which stands on this floor

        write_report(report_of(self, model=model, names=names, author=author), path)

    def to_dict(self) -> dict[str, Any]:
        """All of it but the erased values, JSON-able: as in result.json of the command line."""
        return {
            "verdict": self.verdict.to_dict(),
            "reached": self.reached,
            "summary": self.summary(),
            "budget": self.budget,
            "picks": self.picks,
            "record": self.record,
        }

    def metrics(self) -> dict[str, float]:
        """The figures, flat, as loggers take them: "before/forget_accuracy", "evaluation/after/retain_accuracy" ..."""
        found: dict[str, float] = {"reached": float(self.reached), "budget": float(self.budget)}
        parts = {"before": self.before, "after": self.after}
        for when, seen in (self.record["evaluation"] or {}).items():
            parts[f"evaluation/{when}"] = seen
        for part, figures in parts.items():
            numbers = {name: value for name, value in figures.items() if isinstance(value, int | float)}
            found |= {f"{part}/{name}": float(value) for name, value in numbers.items()}
        return found

    def __repr__(self) -> str:
        units = sum(map(len, self.picks.values()))
        return (
            f"ForgetResult({self.verdict.level!r}, {self.record['request']['method']}, {units} neurons in "
            f"{len(self.picks)} layers, {len(self.patch.entries)} edits: {self.verdict.sentence})"
        )

    def _repr_html_(self) -> str:
        """For notebooks: the verdict, and the figures before and after. `report` has the rest."""
        lines = [(name, self.before[name], self.after[name]) for name in self.before if self.before[name] is not None]
        rows = "".join(
            f"<tr><th>{escape(name)}</th><td>{before:.4g}</td><td>{after:.4g}</td></tr>"
            for name, before, after in lines
        )
        return (
            f"<b>{escape(self.verdict.level)}</b>: {escape(self.summary())}"
            f"<table><tr><th></th><th>before</th><th>after</th></tr>{rows}</table>"
        )

    def summary(self) -> str:
        """The verdict and the figures, in one line."""
        said = self.verdict.sentence
        if self.patch.entries:
            count = sum(map(len, self.picks.values()))
            judged = "held-out probes" if self.record["metrics"]["held_out"] else "the very probes that chose the edit"
            if "synthetic" in self.record["request"]:
                judged += ", synthesised"
            extent = f"{count} neurons in {len(self.picks)} layer(s)"
            if not count:
                entries = self.patch.entries
                extent = f"{sum(e.new.numel() for e in entries)} values of {len({e.tensor for e in entries})} tensor(s)"
            said += f" Edited by {self.record['request']['method']}: {extent}"
            forgotten = f"accuracy on the class ({judged})"
            if self.record["request"]["kind"] != "class":
                forgotten = f"share of {self.record['metrics']['counted']}"
            for key, what in (("forget_accuracy", forgotten), ("retain_accuracy", "accuracy on the retain images")):
                if self.before[key] is not None:
                    said += f"; {what} {self.before[key]:.3f} -> {self.after[key]:.3f}"
            said += "."
        return said


def provenance() -> dict[str, Any]:
    """Versions and time, for a record."""
    return {
        "versions": {"zsu_fast": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def described(shard: Shard, key: str) -> dict[str, Any]:
    """Keyed digest and shape of images: who has the key (it is in the undo file) can confirm that they were used.

    Of images in several processes: the sum of the digests of each, modulo 2**256, in whatever order they came.
    """
    shape = [shard.total, *shard.images.shape[1:]]
    if shard.filler is None:
        return {"hmac_sha256": _digest(shard.images, key), "shape": shape}
    # Words of 32 bits, so that the sums of thousands of processes fit.
    words = torch.zeros(8, dtype=torch.int64)
    for image in shard.images:
        words += torch.tensor([int(word, 16) for word in re.findall(".{8}", _digest(image, key))])
    total = 0
    for word in shard.group.sum(words).tolist():
        total = (total << 32) + word
    return {"hmac_sha256": f"{total % 2**256:064x}", "of": "each image, added up", "shape": shape}


def _digest(images: Tensor, key: str) -> str:
    return hmac.new(bytes.fromhex(key), images_digest(images).encode(), hashlib.sha256).hexdigest()


def jsonable(value: Any) -> Any:
    """`value` in JSON's types: numbers that JSON does not know become null, other things their repr."""
    if isinstance(value, dict):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)

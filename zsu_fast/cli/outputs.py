"""The folder that ``zsu-fast forget`` writes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zsu_fast.cli.forget_run import Run
from zsu_fast.cli.models import LoadedModel
from zsu_fast.cli.weights import write_weights
from zsu_fast.extras import require
from zsu_fast.report import write_report
from zsu_fast.report.files import write_text
from zsu_fast.version import __version__

FILES = {
    "weights": "model.safetensors",
    "patch": "patch.safetensors",
    "report": "report.html",
    "result": "result.json",
}


class OutputFolder:
    """Where the results go. What an earlier run left is not overwritten unless asked: its patch is its only undo.

    Raises:
        FileExistsError: results are there and ``force`` is not given.
        NotADirectoryError: the path is a file.
        ValueError: the weights to be read are among the files to be overwritten.
    """

    def __init__(self, path: Path, force: bool, weights: Path | None = None) -> None:
        self.path = path
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(f"--out: {path} is not a folder")
        if weights is not None and weights.resolve() in [(path / name).resolve() for name in FILES.values()]:
            raise ValueError(f"--out: would overwrite {weights}, the weights to start from: give another folder")
        there = [name for name in FILES.values() if (path / name).exists()]
        if there and not force:
            raise FileExistsError(f"--out: {path} holds {there[0]} of an earlier run (--force overwrites)")

    def write(self, loaded: LoadedModel, run: Run, seconds: float) -> dict[str, Any]:
        """Write everything; returns what result.json holds."""
        self.path.mkdir(parents=True, exist_ok=True)
        for name in FILES.values():
            # Nothing of an earlier run must be taken for a part of this one.
            (self.path / name).unlink(missing_ok=True)
        result = run.result
        files: dict[str, str] = {}
        if result.patch.entries:
            # The undo first: there is no moment at which edited weights lie there without it.
            result.patch.save(self._file(files, "patch"))
            write_weights(loaded.model.state_dict(), self._file(files, "weights"), loaded.metadata)
        destination = self._file(files, "result")
        probe = {"before": run.probe_before, "after": run.probe_after}
        content: dict[str, Any] = {
            "zsu_fast": __version__,
            "model": {"spec": loaded.spec, "weights": loaded.weights},
            "reached": result.reached,
            "summary": result.summary(),
            "budget": result.budget,
            "picks": result.picks,
            "evaluation": None
            if run.before is None or run.after is None
            else {"before": run.before.to_dict(), "after": run.after.to_dict()},
            "linear_probe": None
            if run.probe_before is None
            else {when: None if value is None else asdict(value) for when, value in probe.items()},
            "warnings": list(run.warnings),
            "seconds": round(seconds, 3),
            "files": files,
            "record": result.record,
        }
        # The report last: should it fail, everything else is there.
        page = None if run.report is None else self._file(files, "report")
        write_text(json.dumps(content, indent=2) + "\n", destination)
        if run.report is not None and page is not None:
            write_report(run.report, page)
        return content

    def _file(self, files: dict[str, str], kind: str) -> Path:
        path = self.path / FILES[kind]
        files[kind] = str(path)
        return path


def check_report_extra() -> None:
    """Refuse before the work, not after it, if the report cannot be drawn."""
    require("matplotlib", "report")

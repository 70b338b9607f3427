"""The folder that ``zsu-fast forget`` writes."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from zsu_fast import folder
from zsu_fast.cli.console import Console
from zsu_fast.cli.declared import LEDGER
from zsu_fast.cli.forget_run import Run
from zsu_fast.cli.manifest import COPIED, FILES, KINDS, NAMES, is_the_file, manifest_of, read_result
from zsu_fast.cli.models import LoadedModel
from zsu_fast.cli.parsing import parse_bytes, split_key
from zsu_fast.cli.signing import check_key, sign
from zsu_fast.cli.tables import before_after
from zsu_fast.extras import require
from zsu_fast.lock import Lock
from zsu_fast.report import FORMATS, Report, write_report
from zsu_fast.report.files import write_text
from zsu_fast.report.pdf import find_browser
from zsu_fast.sharded import SHARDS, write_model, written_in
from zsu_fast.version import __version__

LOG = logging.getLogger(__name__)


class OutputFolder:
    """Where the results go. What an earlier run left is not overwritten unless asked: its patch is its only undo.

    undo: where the undo file goes instead; keep_undo: whether there is one at all; key: private key to sign with.
    formats: of the report, see `report_formats`. author: as the user typed it. shard: `--max-shard-size`.

    Raises:
        FileExistsError: results are there and ``force`` is not given; a queue of requests, which is never overwritten.
        BlockingIOError: another run is writing there.
        OSError: the path is a file, or cannot be made or written to.
        ValueError: the weights to be read are among the files to be overwritten, a key that cannot sign, an undo file
            that is asked for and not to be kept.
    """

    def __init__(
        self,
        path: Path,
        force: bool,
        weights: Path | None = None,
        undo: Path | None = None,
        keep_undo: bool = True,
        key: Path | None = None,
        formats: Sequence[str] = (),
        author: str | None = None,
        shard: str | None = None,
    ) -> None:
        self.path, self.undo, self.keep_undo, self.key = path, undo, keep_undo, key
        self.formats, self.author, self.shard = formats, author, parse_bytes(shard)
        if undo is not None and not keep_undo:
            raise ValueError("--no-undo: --undo asks for one")
        if key is not None:
            check_key(key)
        weights = None if weights is None else split_key(weights)[0]
        if weights is not None and weights.resolve() in [path.resolve(), *_results(path)]:
            raise ValueError(f"--out: would overwrite {weights}, the weights to start from: give another folder")
        if undo is not None:
            if undo.resolve() in _results(path) or (weights is not None and undo.resolve() == weights.resolve()):
                raise ValueError(f"--undo: {undo} would overwrite weights or a result: give another file")
            ours = any(fnmatch(undo.name, name) for name in NAMES)
            if undo.is_dir() or not undo.resolve().parent.is_dir() or ours:
                raise ValueError(f"--undo: expected a file of another name in a folder that is there, got {undo}")
        self._lock = Lock(path, "--out")
        try:
            if folder.holds(path, LEDGER):
                raise FileExistsError(
                    f"--out: {path} is the folder of a queue of requests, whose files belong together: "
                    "give another folder, or add to the queue (--requests)"
                )
            folder.settle(path, NAMES)
            if (there := folder.found(path, NAMES)) and not force:
                raise FileExistsError(f"--out: {path} holds {there[0]} of an earlier run (--force overwrites)")
            if undo is not None and undo.exists() and not force:
                raise FileExistsError(f"--undo: {undo} is there already (--force overwrites)")
        except BaseException:
            self._lock.close()
            raise

    def close(self) -> None:
        """Let other runs in."""
        self._lock.close()

    def write(self, loaded: LoadedModel, run: Run, seconds: float) -> dict[str, Any]:
        """Write everything, or nothing; returns what result.json holds.

        Edited weights that are there are not given up for a run that edited nothing: then "files" is empty.
        """
        if not _edited(run) and written_in(self.path) is not None:
            return _content(loaded, run, seconds, {}, self.author)
        new = folder.begin(self.path)
        try:
            return self._write(new, loaded, run, seconds)
        except BaseException:
            folder.settle(self.path, NAMES)
            raise

    def _write(self, new: Path, loaded: LoadedModel, run: Run, seconds: float) -> dict[str, Any]:
        files: dict[str, Path] = {}
        problems: list[str] = []
        if _edited(run):
            if self.keep_undo:
                # Not in place before the rest is: an earlier undo there belongs to the earlier weights.
                files["patch"] = new / FILES["patch"] if self.undo is None else folder.elsewhere(new, self.undo)
                run.result.patch.save(files["patch"])
            shard = loaded.shard if self.shard is None else self.shard
            for name in write_model(loaded.model.state_dict(), new, loaded.metadata, shard):
                files[KINDS.get(name, name)] = new / name
            for kind, copied in loaded.beside.items():
                files[kind] = new / FILES[kind]
                write_text(copied, files[kind])
        if run.report is not None:
            report = replace(run.report, author=self.author, sources=run.hashed, overlap=run.overlap, in_folder=True)
            written, problems = _write_report(report, self.formats, new)
            files |= written
        content = _content(loaded, run, seconds, files, self.author)
        content["warnings"] += problems
        content["files"]["result"] = FILES["result"]
        if self.key is not None:
            content["signature"] = sign(content, self.key)
        write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", new / FILES["result"])
        folder.commit(self.path, NAMES, keep=self._not_ours())
        LOG.info("wrote to %s: %s", self.path, ", ".join(content["files"].values()))
        return content

    def _not_ours(self) -> list[str]:
        """Names of files that are there, under a name that others give as well, and are not of an earlier run."""
        try:
            earlier = read_result(self.path)
        except (OSError, ValueError):
            earlier = {}
        there = {kind: self.path / FILES[kind] for kind in COPIED if (self.path / FILES[kind]).is_file()}
        shards = [name for name in folder.found(self.path, [SHARDS]) if name not in earlier.get("manifest", {})]
        return [path.name for kind, path in there.items() if not is_the_file(earlier, kind, path)] + shards


def write_and_tell(console: Console, results: OutputFolder, loaded: LoadedModel, run: Run, seconds: float) -> None:
    """Write the folder, and say what came out and where it is."""
    written = results.write(loaded, run, seconds)
    console.show(run.result.summary())
    if run.before is not None:
        console.show(before_after(f"{loaded.spec} on --eval", run.before, run.after, run.probe_before, run.probe_after))
    if "patch" in written["files"]:
        where = results.undo or results.path / written["files"]["patch"]
        console.show(f"who has {where} has what was forgotten back: keep it apart from the weights")
    if written["files"]:
        console.show(f"wrote to {results.path}: " + ", ".join(written["files"].values()))
    else:
        console.note(f"nothing was edited: {results.path} keeps the weights and the result of the earlier run")
    for problem in written["warnings"][len(run.warnings) :]:
        console.note(problem)
    console.emit(written)


def _write_report(report: Report, formats: Sequence[str], path: Path) -> tuple[dict[str, Path], list[str]]:
    """Kind -> file, and what went wrong: a browser that fails costs a PDF and no result, the page stands in for it."""
    files, problems = {}, []
    for name in formats:
        kind = "report" if name == "html" else name
        try:
            write_report(report, path / FILES[kind], name)
        except RuntimeError as error:
            if name != "pdf":
                raise
            problems.append(f"{FILES['report']} instead of {FILES[kind]}: {error}")
            kind = "report"
            write_report(report, path / FILES[kind])
        files[kind] = path / FILES[kind]
    return files, problems


def _results(path: Path) -> list[Path]:
    return [(path / name).resolve() for name in (*FILES.values(), *folder.found(path, [SHARDS]))]


def _edited(run: Run) -> bool:
    return run.result.reached or bool(run.result.patch.entries)


def _content(
    loaded: LoadedModel, run: Run, seconds: float, files: dict[str, Path], author: str | None
) -> dict[str, Any]:
    """What result.json says of the run and of the other files that were written."""
    result = run.result
    probe = {"before": run.probe_before, "after": run.probe_after}
    return {
        "zsu_fast": __version__,
        "model": {"spec": loaded.spec, "weights": None if loaded.weights is None else Path(loaded.weights).name},
        **result.to_dict(),
        "evaluation": result.record["evaluation"]
        if run.before is None or run.after is None
        else {"before": run.before.to_dict(), "after": run.after.to_dict()},
        "linear_probe": None
        if run.probe_before is None
        else {when: None if value is None else value.to_dict() for when, value in probe.items()},
        "warnings": list(run.warnings),
        "author": author,
        "images": run.hashed,
        "seconds": round(seconds, 3),
        "files": {kind: path.name for kind, path in files.items()},
        "manifest": manifest_of(files),
    }


def report_formats(report: bool, formats: Sequence[str] | None, drawn: bool = True) -> list[str]:
    """Of the report that is to be written. What cannot be written is refused before the work, not after it.

    drawn: whether this report has pictures.
    """
    if not report:
        if formats:
            raise ValueError("--report-format: --no-report asks for none")
        return []
    chosen = list(dict.fromkeys(formats or ["html"]))
    for name in chosen:
        if name not in FORMATS:
            raise ValueError(f"--report-format: expected {', '.join(FORMATS)}, got {name!r}")
    if drawn and not {"html", "pdf"}.isdisjoint(chosen):
        require("matplotlib", "report")
    if "pdf" in chosen:
        find_browser()
    return chosen

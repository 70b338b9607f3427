"""The manifest in result.json: what the other files of a result must be, byte for byte."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from zsu_fast.folder import file_digest
from zsu_fast.sharded import INDEX, SHARDS, WEIGHTS

FILES = {
    "patch": "patch.safetensors",
    "weights": WEIGHTS,
    "index": f"{WEIGHTS}{INDEX}",  # of weights in several files, instead
    "report": "report.html",
    "config": "config.json",
    "processor": "preprocessor_config.json",
    "md": "report.md",
    "pdf": "report.pdf",
    "card": "model_card.md",
    "result": "result.json",  # holds the manifest: moved last
}
"""Kind -> name of the files of a result. The patch may have been put elsewhere, under a name of its own. Weights in
several files have their names as kinds."""

KINDS = {name: kind for kind, name in FILES.items()}
NAMES = (SHARDS, *FILES.values())
"""All names, as `zsu_fast.folder` takes them."""

COPIED = ("config", "processor")
"""Kinds that are copies of what a folder of transformers holds beside its weights, so that `from_pretrained` takes the
result. Others have files of these names, too: one that is not of an earlier result is left alone."""

LIMIT = 256 * 2**20
"""Bytes of a result.json that is read at all."""


def manifest_of(files: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Kind -> SHA-256 and size. Names are left out: a file that was renamed is the same file."""
    return {kind: {"sha256": file_digest(path), "bytes": path.stat().st_size} for kind, path in files.items()}


def read_result(folder: Path) -> dict[str, Any]:
    """result.json of a folder. FileNotFoundError, or ValueError naming the file for anything else that is wrong."""
    path = folder / "result.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no result.json: it is no result of zsu-fast forget, or an interrupted one"
        )
    if path.stat().st_size > LIMIT:
        raise ValueError(f"{path}: larger than any result")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__}") from None
    record = content.get("record") if isinstance(content, dict) else None
    if not isinstance(record, dict) or not all(isinstance(record.get(key, {}), dict) for key in ("model", "verdict")):
        raise ValueError(f"{path} is no result of zsu-fast forget")
    return content


def patch_file(content: dict[str, Any], folder: Path) -> Path:
    """Where the undo file lies if nobody says otherwise: in the folder, under the name that it was written with."""
    files = content.get("files")
    return folder / Path(str(files.get("patch", FILES["patch"]) if isinstance(files, dict) else FILES["patch"])).name


def is_the_file(content: dict[str, Any], kind: str, path: Path) -> bool | None:
    """Whether a file is, byte for byte, the one in the manifest; None if the manifest has none of this kind."""
    manifest = content.get("manifest")
    facts = manifest.get(kind) if isinstance(manifest, dict) else None
    return file_digest(path) == facts.get("sha256") if isinstance(facts, dict) else None


def wrong_files(content: dict[str, Any], folder: Path, undo: Path) -> list[str]:
    """What is wrong with the files that the manifest should have: one line each. `undo`: where the patch lies."""
    found = []
    manifest, files = content.get("manifest"), content.get("files")
    if not isinstance(manifest, dict):
        return ["result.json has no manifest (written by an earlier version): no file can be checked"]
    edited = ["index" if "index" in manifest else "weights"] if content["record"].get("edits") else []
    for kind in dict.fromkeys([*(files if isinstance(files, dict) else ()), *edited, *manifest]):
        if kind == "result":
            continue
        if kind not in FILES and not fnmatch(kind, SHARDS):
            found.append(f"a result has no file of kind {kind!r}")
            continue
        path = undo if kind == "patch" else folder / FILES.get(kind, kind)
        if kind not in manifest:
            found.append(f"{path.name} is not in the manifest")
        elif not path.is_file():
            found.append(f"{path.name} is missing" + (" (give it with --patch)" if kind == "patch" else ""))
        elif not is_the_file(content, kind, path):
            found.append(f"{path.name} is not the file that was written")
    return found

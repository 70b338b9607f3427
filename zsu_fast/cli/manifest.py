"""The manifest in result.json: what the other files of a result must be, byte for byte."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LIMIT = 256 * 2**20
"""Bytes of a result.json that is read at all."""


def manifest_of(files: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Name -> SHA-256 and size of those of the files that are there."""
    return {f.name: {"sha256": file_digest(f), "bytes": f.stat().st_size} for f in files if f.exists()}


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


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
    if not isinstance(content, dict) or not isinstance(content.get("record"), dict):
        raise ValueError(f"{path} is no result of zsu-fast forget")
    return content


def wrong_files(content: dict[str, Any], folder: Path, undo: Path | None = None) -> list[str]:
    """What is wrong with the files that the manifest names: one line each."""
    found = []
    manifest = content.get("manifest")
    if not isinstance(manifest, dict):
        return ["result.json has no manifest (written by an earlier version): no file can be checked"]
    listed = content.get("files")
    named = [str(name) for name in listed.values()] if isinstance(listed, dict) else []
    edited = ["model.safetensors"] if content["record"].get("edits") else []
    for name in dict.fromkeys([*named, *edited]):
        if name not in manifest and name != "result.json":
            found.append(f"{name} is not in the manifest")
    for name, facts in manifest.items():
        elsewhere = undo is not None and Path(name).name == undo.name
        path = undo if elsewhere and undo is not None else folder / Path(name).name
        if not path.is_file():
            found.append(f"{name} is missing" + (" (give it with --patch)" if "patch" in name else ""))
        elif not isinstance(facts, dict) or file_digest(path) != facts.get("sha256"):
            found.append(f"{name} is not the file that was written")
    return found

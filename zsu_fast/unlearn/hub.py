"""Undo files on the Hugging Face Hub (extra "hub"): private unless said otherwise, with a model card."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsu_fast.extras import require

if TYPE_CHECKING:
    from zsu_fast.unlearn.patch import Patch

FILE, CARD = "patch.safetensors", "README.md"
SECRET = (
    "This repository holds an undo file of zsu_fast: the weights that were erased. Who can read it and has the edited "
    "model has what was forgotten back. Keep it private, and apart from the edited model."
)


def push(
    patch: Patch,
    repo_id: str,
    *,
    private: bool,
    allow_public: bool,
    model: str,
    names: Mapping[int, str] | None,
    author: str | None,
    revision: str | None,
    token: str | bool | None,
    message: str,
) -> str:
    """See `Patch.push_to_hub`."""
    if not isinstance(repo_id, str) or not repo_id.strip():
        raise ValueError(f"repo_id: expected the name of a repository, OWNER/NAME, got {repo_id!r}")
    if not private and not allow_public:
        raise ValueError(
            "private: an undo file has back what was forgotten, and in a public repository everybody has it; "
            "allow_public=True says that this is meant"
        )
    text = card(patch, model, names, author)
    hub = require("huggingface_hub", "hub")
    api = hub.HfApi(token=token)
    name = api.create_repo(repo_id, repo_type="model", private=private, exist_ok=True).repo_id
    # One that was there keeps its visibility.
    if not allow_public and not api.repo_info(name, repo_type="model").private:
        raise ValueError(
            f"repo_id: {name} is public, and an undo file has back what was forgotten; nothing was uploaded; "
            "allow_public=True says that this is meant"
        )
    with tempfile.TemporaryDirectory() as folder:
        patch.save(Path(folder) / FILE)
        (Path(folder) / CARD).write_text(text, encoding="utf-8")
        commit = api.upload_folder(
            repo_id=name, repo_type="model", folder_path=folder, revision=revision, commit_message=message
        )
    return str(commit.commit_url)


def fetch(
    source: str | os.PathLike[str], *, filename: str, revision: str | None, token: str | bool | None, offline: bool
) -> Path:
    """The undo file in a folder, or of a repository; see `Patch.from_pretrained`."""
    try:
        folder = Path(source)
    except TypeError:
        raise TypeError(f"source: expected a folder or OWNER/NAME, got {type(source).__name__}") from None
    if folder.is_dir():
        return folder / filename
    if folder.is_file():
        return folder
    if not isinstance(source, str) or source.count("/") > 1 or source.startswith((".", "/", "~")):
        raise FileNotFoundError(f"source: no such folder or file: {source}")
    hub = require("huggingface_hub", "hub")
    path = hub.hf_hub_download(
        source, filename, repo_type="model", revision=revision, token=token, local_files_only=offline
    )
    return Path(path)


def card(patch: Patch, model: str, names: Mapping[int, str] | None, author: str | None) -> str:
    """What is said of the edit, as in the report, behind the Hub's header; and what the file is, above it."""
    from zsu_fast.report.markdown import model_card  # the roof, which stands on this floor
    from zsu_fast.report.of_result import KINDS, report_of_record

    record: dict[str, Any] = patch.record
    if (record.get("request") or {}).get("kind") not in KINDS or "verdict" not in record:
        return f"---\ntags:\n- machine-unlearning\n- zsu-fast\n---\n\n# Undo file\n\n> {SECRET}\n"
    picked = record.get("picks") or {}
    inputs = sorted({unit for units in (picked.get("edges") or {}).values() for unit in units})
    picks = dict(picked.get("neurons") or {}) | ({"the classifier's input": inputs} if inputs else {})
    text = model_card(report_of_record(record, picks, model=model, names=names, author=author))
    header, end, body = text.partition("\n---\n")
    return f"{header}{end}\n> {SECRET}\n{body}"

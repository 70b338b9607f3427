"""What ``zsu-fast verify`` checks beyond the manifest: the images, the weights, the undo file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from zsu_fast.cli.checkpoints import fitted
from zsu_fast.cli.images import read_images
from zsu_fast.cli.signing import signed_by
from zsu_fast.cli.sources import keyed_hash
from zsu_fast.cli.weights import read_weights
from zsu_fast.model.tensors import same_bits
from zsu_fast.unlearn import Patch, model_digest
from zsu_fast.unlearn.queue import Ledger
from zsu_fast.unlearn.queue.chain import undone


def roles_of(images: Sequence[Path], undo: Path, content: dict[str, Any]) -> dict[Path, list[str]]:
    """As which options of the run each of these was given, by the key in the undo file."""
    if not images:
        return {}
    given = content.get("images")
    if not isinstance(given, dict) or not given:
        raise ValueError("--images: result.json has no keyed hashes of images to compare with")
    if not undo.is_file():
        raise FileNotFoundError(f"--images: the key is in the undo file, and there is none at {undo} (see --patch)")
    try:
        key = Patch.load(undo).key
    except ValueError as error:
        raise ValueError(f"--images: the undo file, which has the key, is damaged: {error}") from None
    found = {path: keyed_hash(read_images(path, {}, "--images").digests(), key) for path in images}
    return {path: [option for option, one in given.items() if one == hashed] for path, hashed in found.items()}


def check_queue(folder: Path, original: Path | None, public_key: Path | None) -> dict[str, Any]:
    """Every file, the chain of hashes from the model as it is, edit by edit, to the original, and the signature."""
    ledger = Ledger(folder)
    files, chain, state = ledger.problems()
    problems = files + chain
    checks = {"files": not files, "chain": not chain}
    if original is not None:
        checks["original"] = state is not None and _same(state, read_weights(original)[0])
        if not checks["original"]:
            problems.append(f"{original.name} is not the model before the first request, as far as it can be told")
    if public_key is not None:
        checks["signature"] = signed_by(ledger.to_dict(), public_key)
        if not checks["signature"]:
            problems.append(f"no valid signature of {public_key.name}")
    return {
        "verified": not problems,
        "checks": checks,
        "problems": problems,
        "edits": len(ledger.placed),
        "signed": ledger.signed,
        "vouched_for_by": public_key.name if public_key is not None and checks["signature"] else None,
    }


def check_edit(
    weights: Path, undo: Path, original: Path | None, record: dict[str, Any], checks: dict[str, Any]
) -> list[str]:
    """That the weights are the original plus the edits; what does not fit."""
    digests = record.get("model", {})
    given = None if original is None else read_weights(original)[0]
    try:
        state, _ = read_weights(weights)
    except ValueError as error:
        checks["weights"] = False
        return [str(error)]
    problems = []
    checks["weights"] = model_digest(state) == digests.get("after")
    if not checks["weights"]:
        problems.append("the weights are not those that the record describes")
    if undo.is_file():
        problems += _check_undo(state, undo, record, digests, checks)
    if given is None:
        return problems
    if not checks.get("undo"):
        problems.append("without the edit undone it cannot be told whether the model is the original plus the edits")
    else:
        checks["original"] = _same(state, given)
        if not checks["original"]:
            problems.append(f"{Path(str(original)).name} is not the model that was edited")
    return problems


def _check_undo(
    state: dict[str, Tensor], path: Path, record: dict[str, Any], digests: dict[str, Any], checks: dict[str, Any]
) -> list[str]:
    """Undo the edit in `state`; what does not fit."""
    checks["undo"] = False
    try:
        undo = Patch.load(path)
    except ValueError as error:
        return [str(error).removeprefix("path: ")]
    problems = []
    checks["record"] = undo.record == record
    if not checks["record"]:
        problems.append("the record in the undo file is not that of result.json")
    try:
        state |= undone(state, undo, digests.get("before"))
    except ValueError as error:
        problems.append(f"the undo file does not fit the weights: {error}")
    else:
        checks["undo"] = model_digest(state) == digests.get("before")
        if not checks["undo"]:
            problems.append("with the edit undone the weights are not those that the record describes")
    return problems


def _same(state: dict[str, Tensor], original: dict[str, Tensor]) -> bool:
    """Whether the original, loaded as `load_into` does it, gives this state.

    It may have a tied tensor once. What has another name there is known by its values.
    """
    original = fitted(original, state)
    # Left over, each of them once: transformers loads under other names than it saves.
    renamed = {name: value for name, value in original.items() if name not in state}
    for name, value in state.items():
        if name in original:
            continue
        twins = (other for other in original if other in state and same_bits(state[other], value))
        if (twin := next(twins, None)) is not None:
            original[name] = original[twin]
        elif (twin := next((other for other in renamed if same_bits(renamed[other], value)), None)) is not None:
            original[name] = renamed.pop(twin)
    loaded = {}
    for name, value in state.items():
        given = original.get(name, value if name.endswith("num_batches_tracked") else None)
        if given is None:
            return False
        floats = given.is_floating_point() and value.is_floating_point()
        loaded[name] = given.to(value.dtype) if floats else given
    return model_digest(loaded) == model_digest(state)

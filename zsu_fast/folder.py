"""One commit protocol for a folder of results: a reader finds the old ones or the new ones, after any crash.

All files are written and flushed in a hidden folder beside the old ones. One rename declares them complete; from then
on whoever looks first, after a crash too, finishes moving them into place (`settle`). The manifest, which holds the
hashes of the others, is moved last. A file that shall go to another folder waits in a hidden folder there, which a note
in ours names. A lock on the folder keeps a second run out for as long as the first one works.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Collection, Sequence
from contextlib import closing
from pathlib import Path

from zsu_fast.atomic import flush, remove_partial
from zsu_fast.lock import Lock

WRITING, READY, ELSEWHERE = ".zsu-writing", ".zsu-ready", ".zsu-elsewhere-"


def found(path: Path, names: Sequence[str]) -> list[str]:
    """Those of the files of a result that are there. names: each a name, or a pattern as for `Path.glob`."""
    return list(dict.fromkeys(file.name for name in names for file in sorted(path.glob(name))))


def settle(path: Path, names: Sequence[str]) -> None:
    """Finish what an interrupted run had completed, throw away what it had not. To be called under the lock.

    names: as `commit` takes them.
    """
    ready = path / READY
    if ready.is_dir():
        if (there := _elsewhere(ready)) is not None:
            for file in there.iterdir():
                os.replace(file, there.parent / file.name)
            flush(there.parent)
            there.rmdir()
        moving = found(ready, names)
        if names[-1] in moving and (ready / "absent").exists():  # the manifest is last: after it nothing is left to do
            absent = (ready / "absent").read_text().split("\n")
            for name in found(path, names):
                if name in absent:
                    (path / name).unlink()
        for name in moving:
            os.replace(ready / name, path / name)
        flush(path)
        shutil.rmtree(ready, ignore_errors=True)
    if (there := _elsewhere(path / WRITING)) is not None:
        shutil.rmtree(there, ignore_errors=True)
    shutil.rmtree(path / WRITING, ignore_errors=True)
    remove_partial(path)


def settle_left_over(path: Path, names: Sequence[str], argument: str) -> None:
    """For those who read: settle, if an interrupted run left something.

    Raises:
        BlockingIOError: a run is writing there.
        PermissionError: a complete result has to be moved into place, and the folder cannot be written to.
    """
    if (path / READY).exists() or (path / WRITING).exists():
        try:
            with closing(Lock(path, argument)):
                settle(path, names)
        except PermissionError as error:
            if (path / READY).exists():
                raise PermissionError(f"{error}, and an interrupted run has left a result to be moved there") from None
            # Nothing had been moved yet: what is there is whole.


def holds(path: Path, name: str) -> bool:
    """Whether the folder has this file, or will have it once it is settled."""
    return (path / name).is_file() or (path / READY / name).is_file()


def begin(path: Path) -> Path:
    """The hidden folder to write to. The folder must be settled."""
    (path / WRITING).mkdir()
    return path / WRITING


def elsewhere(writing: Path, path: Path) -> Path:
    """Where to write the file that is to be `path`, in another folder, once `writing` is committed."""
    there = path.parent.resolve() / f"{ELSEWHERE}{secrets.token_hex(6)}"
    (writing / "elsewhere").write_text(str(there))
    flush(writing / "elsewhere")
    flush(writing)
    there.mkdir(mode=0o700)
    flush(there.parent)
    return there / path.name


def _elsewhere(hidden: Path) -> Path | None:
    """The folder that the note names. Nothing but a folder that `elsewhere` made is believed to be it."""
    note = hidden / "elsewhere"
    there = Path(note.read_text()) if note.is_file() else Path()
    ours = there.name.startswith(ELSEWHERE) and there.is_absolute() and there.is_dir() and not there.is_symlink()
    return there if ours else None


def commit(path: Path, names: Sequence[str], keep: Collection[str] = ()) -> None:
    """What has been written replaces what was there, and what of `names` was not written goes, but for those to `keep`.

    names: all files of a result, or patterns of them (see `found`), the manifest last.
    """
    writing = path / WRITING
    absent = [name for name in found(path, names) if not (writing / name).exists() and name not in keep]
    (writing / "absent").write_text("\n".join(absent))
    for file in writing.iterdir():
        flush(file)
    flush(writing)
    os.rename(writing, path / READY)
    flush(path)
    settle(path, names)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

"""One commit protocol for a folder of results: a reader finds the old ones or the new ones, after any crash.

All files are written and flushed in a hidden folder beside the old ones. One rename declares them complete; from then
on whoever looks first, after a crash too, finishes moving them into place (`settle`). The manifest, which holds the
hashes of the others, is moved last. A lock on the folder keeps a second run out for as long as the first one works.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from zsu_fast.atomic import PARTIAL, flush

try:
    import fcntl
except ImportError:  # no such locks on this system
    fcntl = None  # type: ignore[assignment]

WRITING, READY = ".zsu-writing", ".zsu-ready"


class Lock:
    """An exclusive lock on a folder, which is made if it is not there. Given up on close, and when the process dies.

    Raises:
        BlockingIOError: another run holds it.
        OSError: the folder cannot be made or written to.
    """

    def __init__(self, path: Path) -> None:
        self._made = not path.exists()
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(f"--out: {path} cannot be written to")
        self._path = path
        self._handle: int | None = os.open(path, os.O_RDONLY)
        try:
            if fcntl is not None:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._made = False
            self.close()
            raise BlockingIOError(f"--out: another run is writing to {path}") from None

    def close(self) -> None:
        """Safe to repeat. A folder that was made for nothing goes away again."""
        if self._handle is not None:
            if self._made and not any(self._path.iterdir()):
                self._path.rmdir()
            os.close(self._handle)
            self._handle = None

    def __del__(self) -> None:
        self.close()


def settle(path: Path, names: Sequence[str]) -> None:
    """Finish what an interrupted run had completed, throw away what it had not. To be called under the lock."""
    ready = path / READY
    if ready.is_dir():
        # Once result.json has gone into place (it is last), everything else has.
        complete = (ready / names[-1]).exists()
        for name in names:
            if (ready / name).exists():
                os.replace(ready / name, path / name)
            elif complete and (path / name).exists() and name != names[-1]:
                _unlink_unless_moved(path, ready, name)
        flush(path)
        shutil.rmtree(ready, ignore_errors=True)
    shutil.rmtree(path / WRITING, ignore_errors=True)
    for left in path.glob(f".*{PARTIAL}"):
        left.unlink(missing_ok=True)


def _unlink_unless_moved(path: Path, ready: Path, name: str) -> None:
    """A file of the earlier run that the new one does not have. `absent` lists those."""
    listed = ready / "absent"
    if listed.exists() and name in listed.read_text().split("\n"):
        (path / name).unlink(missing_ok=True)


def begin(path: Path) -> Path:
    """The hidden folder to write to."""
    shutil.rmtree(path / WRITING, ignore_errors=True)
    (path / WRITING).mkdir()
    return path / WRITING


def commit(path: Path, names: Sequence[str]) -> None:
    """What has been written replaces what was there. `names`: all files of a result, the manifest last."""
    writing = path / WRITING
    absent = [name for name in names if not (writing / name).exists()]
    (writing / "absent").write_text("\n".join(absent))
    for file in writing.iterdir():
        flush(file)
    flush(writing)
    os.rename(writing, path / READY)
    flush(path)
    settle(path, names)


def interrupted(path: Path) -> bool:
    """Whether a run was killed while it wrote here."""
    return (path / READY).exists() or (path / WRITING).exists()

"""An exclusive lock on a folder of results."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # no such locks on this system
    fcntl = None  # type: ignore[assignment]


class Lock:
    """An exclusive lock on a folder, which is made if it is not there. Given up on close, and when the process dies.

    argument: what the errors call the folder.

    Raises:
        BlockingIOError: another run holds it.
        OSError: the folder cannot be made or written to.
    """

    def __init__(self, path: Path, argument: str) -> None:
        self._handle: int | None = None
        self._made: list[Path] = []
        try:
            self._made = [folder for folder in (path, *path.parents) if not folder.exists()]
            path.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(path, os.O_RDONLY)
        except OSError as error:
            self.close()
            reason = f"is not a folder that can be opened or made: {error.strerror}"
            raise type(error)(f"{argument}: {path} {reason}") from None
        try:
            if not os.access(path, os.W_OK | os.X_OK):
                raise PermissionError(f"{argument}: {path} cannot be written to")
            if fcntl is not None:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._made = []
            self.close()
            raise BlockingIOError(f"{argument}: another run is writing to {path}") from None
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Safe to repeat. Folders that were made for nothing go away again."""
        for folder in self._made:
            with suppress(OSError):  # not empty, or the making failed before it
                folder.rmdir()
        self._made = []
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __del__(self) -> None:
        self.close()

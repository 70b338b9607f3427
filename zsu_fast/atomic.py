"""Files that are there whole or not at all, also after a crash or a loss of power."""

import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOG = logging.getLogger(__name__)
PARTIAL = ".zsu-part"
"""End of the name of a file, or a folder, that is being written: one that is left lying was interrupted."""


@contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[Path]:
    """A temporary path beside `path`, to be written inside; then it is flushed to the disk and renamed to `path`.

    mode: permissions, from which the process's umask takes (by the kernel: it is never read or changed here).
    """
    temporary = path.with_name(f".{path.name[:64]}.{secrets.token_hex(6)}{PARTIAL}")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
    granted = temporary.stat().st_mode & 0o777
    try:
        yield temporary
        os.chmod(temporary, granted)  # a writer may have put another file in its place
        flush(temporary)
        os.replace(temporary, path)
        flush(path.parent)
        LOG.debug("wrote %s", path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_partial(folder: Path) -> None:
    """What runs that were killed were writing there: files, and folders of a result in parts."""
    for left in folder.glob(f".*{PARTIAL}"):
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """The file's contents, or the folder's names, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

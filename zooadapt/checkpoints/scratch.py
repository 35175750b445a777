"""Room for files on their way: a folder of this process that is gone when it ends."""

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "zooadapt-spool-"
_LOCK = ".lock"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder, removed at the end; what killed processes left behind is removed too.

    A folder is its process's as long as a lock in it is held, and the kernel lets that go when the
    process ends, however it ends and whichever container it ran in.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        _remove_if_left(left)
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name:
        folder = Path(name)
        unseen = folder / f"{_LOCK}.new"
        with unseen.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            unseen.rename(folder / _LOCK)  # seen only when it is held
            files = folder / "files"  # none of which can be taken for the lock
            files.mkdir()
            yield files


def _remove_if_left(folder: Path) -> None:
    with suppress(OSError), (folder / _LOCK).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)

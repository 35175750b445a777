"""A temporary folder for files on their way, which is removed when its process ends."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ModuleNotFoundError:  # on Windows
    fcntl = None  # type: ignore[assignment]

_PREFIX = "zooadapt-spool-"
_LOCK = ".lock"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder, removed after the block. Folders of killed processes are removed too.

    A process holds a lock in its folder. The kernel releases the lock when the process ends,
    however it ends and whichever container it ran in; then any other process can remove the folder.
    Windows has no such locks: there a killed process leaves its folder.
    """
    if fcntl is None:
        with tempfile.TemporaryDirectory(prefix=_PREFIX) as name:
            yield Path(name)
        return
    for other in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        _remove_if_left(other)
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name:
        folder = Path(name)
        hidden = folder / f"{_LOCK}.new"
        with hidden.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            hidden.rename(folder / _LOCK)  # others see the lock only once it is held
            files = folder / "files"  # so that no file can be taken for the lock
            files.mkdir()
            yield files


def _remove_if_left(folder: Path) -> None:
    with suppress(OSError), (folder / _LOCK).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)

"""A store in a folder of this machine, or in one that all nodes share."""

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from filelock import FileLock

from zooadapt.errors import Conflict, redact
from zooadapt.stores.shared_bytes import SharedBytes
from zooadapt.stores.store import Store

_BLOCK = 2**20


class LocalStore(Store):
    """A store in a folder of this machine, or in one that all nodes share."""

    protocols = ("file",)
    is_local = composes = True

    @property
    def url(self) -> str:
        """The folder's path."""
        return redact(self.root)

    def compose(self, key: str, head: bytes, shared: SharedBytes) -> bool | None:
        """See `Store.compose`. The kernel copies, or shares disk blocks if it can; Linux only."""
        if not hasattr(os, "copy_file_range"):
            return None
        final = Path(self.path(key))
        final.parent.mkdir(parents=True, exist_ok=True)
        partial = final.with_name(f"{final.name}.{uuid.uuid4().hex}.tmp")
        try:
            with partial.open("wb") as out, Path(self.path(shared.key)).open("rb") as source:
                out.write(head)
                out.flush()
                source.seek(shared.start)
                while os.copy_file_range(source.fileno(), out.fileno(), 2**30):
                    pass
            partial.replace(final)
        except OSError as error:
            if error.errno in (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
                return None
            raise
        finally:
            partial.unlink(missing_ok=True)
        return False

    def _move(self, temporary: str, final: str) -> None:
        os.replace(temporary, final)  # noqa: PTH105 - one atomic call on two fsspec paths

    def list(self, prefix: str) -> list[str]:
        """See `Store.list`. This one is faster, takes less memory, and follows no links to folders.

        Raises OSError for a folder that can't be read.
        """
        start = len(self.root) + 1
        folders = os.walk(self.path(prefix).rstrip("/"), onerror=_unless_gone)
        return sorted(f"{at}/{name}"[start:] for at, _, names in folders for name in names)

    def chunks(self, key: str, start: int = 0) -> Iterator[bytes]:
        """The object's bytes from `start`, in blocks that fit into a core's cache."""
        with Path(self.path(key)).open("rb", buffering=0) as file:
            file.seek(start)
            while chunk := file.read(_BLOCK):
                yield chunk

    def local_file(self, key: str, folder: Path) -> tuple[Path, str]:
        """The file itself, not copied, and its sha256 in hex."""
        with Path(self.path(key)).open("rb") as file:
            return Path(self.path(key)), hashlib.file_digest(file, "sha256").hexdigest()

    def version(self, key: str) -> str | None:
        """Tells one file at this path from any other, without reading it; None if it is absent."""
        try:
            facts = Path(self.path(key)).stat()
        except FileNotFoundError:
            return None
        return f"{facts.st_ino} {facts.st_mtime_ns} {facts.st_size}"

    def replace(self, key: str, data: bytes, version: str | None) -> None:
        """See `Store.replace`. A lock on a file in the root is held only while this compares and
        writes. The system releases it when the process ends.
        """
        Path(self.root).mkdir(parents=True, exist_ok=True)
        with _locked(Path(self.root) / ".lock"):
            if self.version(key) != version:
                raise Conflict(f"{key} was changed by another job")
            self.write(key, [data])

    def session(self, run_id: str) -> AbstractContextManager[None]:
        """Do nothing: any number of jobs can share a local mirror."""
        return nullcontext()

    def remove_empty(self, folder: str) -> None:
        """Call ``rmdir``, which removes no folder that has something in it."""
        with suppress(OSError):
            Path(self.path(folder)).rmdir()

    def free_bytes(self) -> int | None:
        """Free bytes of the filesystem that holds the root, or its nearest existing parent."""
        folder = Path(self.root)
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Lock the file as zooadapt 0.1 does, which can be at work too; on Windows as filelock does."""
    try:
        import fcntl
    except ModuleNotFoundError:
        with FileLock(file):
            yield
        return
    with file.open("w") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield


def _unless_gone(error: OSError) -> None:
    """Raise the error of a listing, unless the error is that there is no such folder."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error

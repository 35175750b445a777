"""The cache of mirrors' objects on this machine. The first process that needs one pulls it.

Below the cache's root each object lies under the key that it has in the mirror. `derived/` holds
variants made on this machine, and `manifests/` holds the manifests as they were last read.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

from zooadapt import progress
from zooadapt.errors import FetchError, UsageError, one_line
from zooadapt.names import CONFIG, SECTION, WEIGHTS, companions, content_id
from zooadapt.stores.store import Store
from zooadapt.types import Row

Got = TypeVar("Got")

ROW = "row.json"
"""The file in a variant's folder below `derived/` that holds its row."""

_log = logging.getLogger("zooadapt")


@dataclass(frozen=True)
class Cache:
    """A local folder with objects of one or more mirrors. Any number of processes can share it."""

    root: Path
    stores: Sequence[Store]
    """The mirrors, in the order in which they are tried."""

    def pull(self, row: Row, to: Path | None = None) -> Path:
        """The local folder of a row's variant, verified: the cache's, or a local mirror's own.

        With `to`, the variant is written to that folder, from the cache if the cache has it. Files
        already in `to` are kept only if their hash is right. An interrupted transfer resumes where
        it stopped. Raises FetchError if no mirror gives the bytes that the row states.
        """
        kept = self._place(row["folder"])
        folder = to or kept
        if to and is_whole(kept, row):
            return copy(kept, to)

        def is_there() -> bool:
            return is_whole(folder, row) and (to is None or _digest(to) == row["sha256"])

        with self.made_once(folder, is_there) as is_made:
            found = folder if is_made else self.first(lambda s: _variant(s, row, folder))
            used(kept)
            return copy(found, to) if to else found

    def stem(self, key: str) -> Path:
        """The local file of an original stem, verified by the id in its key. Raises FetchError."""
        file = self._place(key)
        with self.made_once(file.parent, file.exists) as is_made:
            return file if is_made else self.first(lambda store: _stem(store, key, file.parent))

    def _place(self, key: str) -> Path:
        """The path of a key in the cache. Raises UsageError for a key that leads outside it."""
        if not all(part.strip(".") for part in key.split("/")):
            raise UsageError(f"{key!r} isn't the name of anything in a mirror")
        return self.root / key

    @contextmanager
    def made_once(self, folder: Path, is_made: Callable[[], bool]) -> Iterator[bool]:
        """Yields whether the folder is complete; if not, this process holds its lock in the block.

        The lock ends with the block, or with the process if it is killed.
        """
        if is_made():
            yield True
            return
        make_folder(folder)
        make_folder(self.root / "locks")
        with FileLock(lock_of(self.root, folder)):
            make_folder(folder)  # another process may have removed it meanwhile
            yield is_made()

    def first(self, get: Callable[[Store], Got]) -> Got:
        """The result of `get` for the first mirror with which it succeeds; logs the failures.

        Raises FetchError if `get` fails with every mirror.
        """
        failed = []
        for store in self.stores:
            try:
                return get(store)
            except Exception as error:  # whatever the error is, try the next mirror
                failed.append(f"{store.url}: {one_line(error)}")
                if len(self.stores) > len(failed):
                    _log.warning("%s; the next mirror is tried", failed[-1])
        if not self.stores:
            raise FetchError(
                f"what is needed isn't in the cache {self.root}, and offline no mirror is asked: "
                f"pull it once while online"
            )
        raise FetchError("; ".join(failed))


def lock_of(root: Path, folder: Path) -> Path:
    """The lock of a folder in the cache. It is held on NFS, too, as Linux mounts it today."""
    name = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:32]
    return root / "locks" / name


def used(folder: Path) -> None:
    """Note that a variant was used now, for `prune`. A cache that can't be written stays as is."""
    with suppress(OSError):
        os.utime(folder / CONFIG)


def write_row(folder: Path, row: Row) -> None:
    """Write the row of a variant that was made in the cache, for `read_row`."""
    with replacing(folder / ROW) as file:
        file.write_text(json.dumps({**row, "created_at": row["created_at"].isoformat()}))


def read_row(folder: Path) -> Row | None:
    """The row of a variant that was made in the cache; None for one that zooadapt 0.1 made."""
    if not (folder / ROW).exists():
        return None
    row: Row = json.loads((folder / ROW).read_text())
    return {**row, "created_at": datetime.fromisoformat(row["created_at"])}


def is_whole(folder: Path, row: Row) -> bool:
    """Whether the folder holds all of a row's variant. config.json is always written last."""
    weights = folder / WEIGHTS
    if not (folder / CONFIG).exists() or not weights.exists():
        return False
    made_of = content_id(row["sha256"], (folder / CONFIG).read_bytes())
    return str(row["folder"]).endswith(made_of) and weights.stat().st_size == row["bytes"]


def make_folder(folder: Path) -> None:
    """Make the folder, if it isn't there. Raises UsageError if it can't be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as cause:
        raise UsageError(
            f"the folder {folder} can't be written ({cause.strerror}): choose another one; for the "
            f"cache ZOOADAPT_CACHE names it"
        ) from cause


def check_folder(to: Path) -> None:
    """Raise UsageError if the folder holds a model of one's own, which a copy would replace."""
    try:
        config = json.loads((to / CONFIG).read_text())
    except (OSError, ValueError):
        return
    if SECTION not in config:
        raise UsageError(f"{to} holds another model: give an empty folder, or that of a variant")


def copy(folder: Path, to: Path) -> Path:
    """Copy a variant's files to the folder `to`; returns `to`."""
    if folder != to:
        make_folder(to)
        (to / CONFIG).unlink(missing_ok=True)  # it describes the old weights
        with replacing(to / WEIGHTS) as file:
            shutil.copyfile(folder / WEIGHTS, file)
        write_description(to, (folder / CONFIG).read_bytes())
    return to


def _digest(folder: Path) -> str:
    with (folder / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yields a temporary path that becomes `file` at the end, so that `file` is never partial."""
    unfinished = file.with_name(f"{file.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield unfinished
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def _variant(store: Store, row: Row, folder: Path) -> Path:
    key = row["folder"]
    weights = f"{key}/{WEIGHTS}"
    (folder / CONFIG).unlink(missing_ok=True)  # it describes the old weights
    file, _ = _get(store, weights, folder, row["bytes"], row["sha256"], key.rsplit("/", 2)[1])
    config = store.read(f"{key}/{CONFIG}")
    if not key.endswith(content_id(row["sha256"], config)):
        raise FetchError(f"{key}/{CONFIG} has other bytes than were written: the copy is damaged")
    if file.parent == folder:
        write_description(folder, config)
    return file.parent


def write_description(folder: Path, config: bytes) -> None:
    """Write the files that are derived from a variant's config.json, then config.json itself."""
    for name, content in [*companions(json.loads(config)).items(), (CONFIG, config)]:
        with replacing(folder / name) as unfinished:
            unfinished.write_bytes(content)


def _stem(store: Store, key: str, folder: Path) -> Path:
    file, digest = _get(store, key, folder, store.size(key))
    if content_id(digest) not in key:
        if file.parent == folder:
            file.unlink()
        raise FetchError(f"{key} has other bytes than were written: the copy is damaged")
    return file


def _get(
    store: Store, key: str, folder: Path, size: int, sha256: str = "", title: str = ""
) -> tuple[Path, str]:
    """Fetch an object; returns its local file and its sha256. A title shows a progress bar."""
    from zooadapt.checkpoints.fetch import fetch  # it imports aiohttp

    with progress.bar(total=size, unit="B", unit_scale=True, desc=title, shown=bool(title)) as bar:
        return fetch(store.source(key, size, sha256), folder, bar.update)

"""A store: a folder on any fsspec filesystem in which objects appear whole or not at all.

Keys are relative to the store's root, with "/" between their parts. `Store` works on every
filesystem; its subclasses use what their filesystem does better:

- `local` writes a temporary file and calls ``os.replace``; a file lock is held while it compares
  and replaces an object;
- `s3` makes an upload visible when it is complete; it replaces with If-Match / If-None-Match;
- `web` only reads, from a folder behind a web server;
- any other store writes under a temporary name and then moves the object; one job at a time holds
  a lease on it, so that no other job replaces objects.
"""

import hashlib
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from zooadapt.errors import RunError, redact
from zooadapt.ranges import BLOCK
from zooadapt.stores import lease
from zooadapt.stores.multipart import Unfinished
from zooadapt.stores.shared_bytes import SharedBytes
from zooadapt.types import Located, Source

Chunks = Iterable[bytes | memoryview]


class Store:
    """A store on any fsspec filesystem; each subclass is better at filesystems of one kind."""

    protocols: tuple[str, ...] = ()
    """The fsspec protocols that a subclass is for."""
    is_local = False
    """Whether the objects are files on this machine or in a folder that all nodes share."""
    composes = False
    """Whether `compose` can copy bytes within the store."""

    def __init__(self, filesystem: Any, root: str) -> None:
        self.fs = filesystem
        self.root = root.rstrip("/")

    @property
    def url(self) -> str:
        """The store's URL, or the path of a local folder, without secrets."""
        return redact(self.fs.unstrip_protocol(self.root))

    def path(self, key: str) -> str:
        """The path of `key` on the filesystem."""
        return f"{self.root}/{key}"

    def read(self, key: str) -> bytes:
        """All bytes of the object. Raises FileNotFoundError."""
        data: bytes = self.fs.cat_file(self.path(key))
        return data

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        """The object's bytes from `start` to `stop`. Raises FileNotFoundError."""
        data: bytes = self.fs.cat_file(self.path(key), start=start, end=stop)
        # a server may ignore the range and send the whole object (RFC 9110, 14.2)
        return data[start:stop] if len(data) > stop - start else data

    def size(self, key: str) -> int:
        """The object's size in bytes. Raises FileNotFoundError."""
        self.fs.invalidate_cache()
        return int(self.fs.size(self.path(key)))

    def read_many(self, keys: list[str]) -> dict[str, bytes]:
        """The bytes of many small objects, by key; read concurrently where the filesystem can."""
        if not keys:
            return {}
        bounds: list[None] = [None] * len(keys)  # none, as whole objects are read
        paths = [self.path(key) for key in keys]
        return dict(
            zip(keys, self.fs.cat_ranges(paths, bounds, bounds, on_error="raise"), strict=True)
        )

    def list(self, prefix: str) -> list[str]:
        """All keys below the folder `prefix`, sorted; [] if there is no such folder."""
        self.fs.invalidate_cache()
        start, folder = len(self.root) + 1, self.path(prefix)
        # SeaweedFS lists an emptied folder as an object
        return sorted(path[start:] for path in self.fs.find(folder) if path != folder)

    def list_top(self) -> Sequence[str]:
        """The keys of the objects right below the root, sorted. Raises FileNotFoundError."""
        self.fs.invalidate_cache()
        start = len(self.root) + 1
        entries = self.fs.ls(self.root, detail=True)
        return sorted(entry["name"][start:] for entry in entries if entry["type"] == "file")

    def exists(self, key: str) -> bool:
        """Whether the object is there now."""
        self.fs.invalidate_cache()
        return bool(self.fs.exists(self.path(key)))

    def chunks(self, key: str, start: int = 0) -> Iterator[bytes]:
        """The object's bytes from `start`, in blocks of 16 MiB. Raises FileNotFoundError."""
        with self.fs.open(self.path(key), "rb", block_size=BLOCK, cache_type="readahead") as file:
            file.seek(start)
            while chunk := file.read(BLOCK):
                yield chunk

    def source(self, key: str, size: int, sha256: str = "") -> Located:
        """The object as a located checkpoint, which `checkpoints.fetch` can read.

        `size` is in bytes; `sha256` is in hex, "" if it isn't known.
        """
        path = self.path(key)
        identity = f"sha256={sha256}" if sha256 else Source.identity_of(self.fs.info(path))
        return Located(Source(redact(path), identity, size, sha256), self.fs, path)

    def local_file(self, key: str, folder: Path) -> tuple[Path, str]:
        """A local file with the object's bytes, and their sha256 in hex.

        The file is a copy in `folder`, unless the store is local. Every byte is read.
        """
        copy = folder / hashlib.sha256(key.encode()).hexdigest()  # keys can be too long for names
        digest = hashlib.sha256()
        with copy.open("wb") as file:
            for chunk in self.chunks(key):
                digest.update(chunk)
                file.write(chunk)
        return copy, digest.hexdigest()

    def write(self, key: str, chunks: Chunks) -> None:
        """Write an object that becomes visible whole, at the end, or not at all."""
        temporary = f"{self.path(key)}.{uuid.uuid4().hex}.tmp"
        self.fs.makedirs(self.fs._parent(temporary), exist_ok=True)
        try:
            with self.fs.open(temporary, "wb") as file:
                for chunk in chunks:
                    file.write(chunk)
            self._move(temporary, self.path(key))
        except BaseException:
            self._remove(temporary)
            raise

    def compose(self, key: str, head: bytes, shared: SharedBytes) -> bool | None:
        """Write `head` and all of `shared` as one object, most of `shared` by a copy in the store.

        Returns True if the store stated the right checksum for every copied part, False if it
        stated none for some part, and None if the store can't copy; then nothing was written.
        The object becomes visible whole, at the end, or not at all. Raises PublishError if a
        checksum is wrong.
        """
        return None

    def _move(self, temporary: str, final: str) -> None:
        self.fs.mv(temporary, final)

    def _remove(self, path: str) -> None:
        if self.fs.exists(path):
            self.fs.rm_file(path)

    def remove(self, key: str) -> None:
        """Remove the object, if it is there."""
        self._remove(self.path(key))

    def modified(self, key: str) -> datetime:
        """The time when the object was written.

        Raises FileNotFoundError, and RunError if the store doesn't state the time.
        """
        self.fs.invalidate_cache()
        try:
            when: datetime = self.fs.modified(self.path(key))
        except NotImplementedError as cause:
            raise RunError(f"this kind of store doesn't state how old {key} is") from cause
        return when if when.tzinfo else when.replace(tzinfo=UTC)

    def age(self, key: str) -> timedelta:
        """How long ago the object was written, by the store's clock where the store tells it.

        Raises as `modified` does.
        """
        return datetime.now(UTC) - self.modified(key)

    def unfinished(self, prefix: str) -> Iterable[Unfinished]:
        """The uploads that were begun and neither completed nor aborted, to objects in the folder
        `prefix` or to the object of that name.
        """
        return []

    def abort(self, upload: Unfinished) -> None:
        """Abort an unfinished upload; its parts are removed."""

    def remove_empty(self, folder: str) -> None:
        """Remove an empty folder, on stores where a folder is more than a part of a key."""

    def version(self, key: str) -> str | None:
        """The token that `replace` compares, such as an ETag; None if the object is absent."""
        return "present" if self.exists(key) else None

    def replace(self, key: str, data: bytes, version: str | None) -> None:
        """Write `key` if it is still at `version`. Raises Conflict otherwise.

        A store that can't compare relies on `session`: there one job at a time replaces objects.
        """
        self.write(key, [data])

    def session(self, run_id: str) -> AbstractContextManager[None]:
        """Hold the store for a job. Raises RunError if it allows one job and another holds it."""
        return lease.held(self, run_id)

    def free_bytes(self) -> int | None:
        """The free space in bytes; None if the store doesn't state it."""
        return None

"""A folder on any fsspec filesystem in which objects appear whole or not at all.

Keys are relative to the store's root, with "/" between their parts. `Store` works on any
filesystem; its subclasses know better ways for theirs:

- `local`: temporary file and ``os.replace``; replacing under a file lock;
- `s3`: an upload becomes visible when it is complete; replacing with If-Match / If-None-Match;
- `web`: a folder behind a web server, only read;
- any other: temporary name and move; replacing under a lease that a single job holds.
"""

import hashlib
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
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
    """A store on any fsspec filesystem; a subclass knows better ways for its own."""

    protocols: tuple[str, ...] = ()
    """The fsspec protocols that a subclass is for."""
    is_local = False
    """Whether the objects are files of this machine, or of a folder that all nodes share."""
    composes = False
    """Whether `compose` can copy."""

    def __init__(self, filesystem: Any, root: str) -> None:
        self.fs = filesystem
        self.root = root.rstrip("/")

    @property
    def url(self) -> str:
        """Where others find the store: a URL, or a local folder's path; without secrets."""
        return redact(self.fs.unstrip_protocol(self.root))

    def path(self, key: str) -> str:
        """The filesystem's own path of `key`."""
        return f"{self.root}/{key}"

    def read(self, key: str) -> bytes:
        """The whole object. Raises FileNotFoundError."""
        data: bytes = self.fs.cat_file(self.path(key))
        return data

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        """The object's bytes from `start` to `stop`. Raises FileNotFoundError."""
        data: bytes = self.fs.cat_file(self.path(key), start=start, end=stop)
        return data

    def size(self, key: str) -> int:
        """The object's bytes. Raises FileNotFoundError."""
        self.fs.invalidate_cache()
        return int(self.fs.size(self.path(key)))

    def read_many(self, keys: list[str]) -> dict[str, bytes]:
        """Many small objects at once, concurrently where the filesystem can."""
        if not keys:
            return {}
        whole: list[None] = [None] * len(keys)
        paths = [self.path(key) for key in keys]
        return dict(
            zip(keys, self.fs.cat_ranges(paths, whole, whole, on_error="raise"), strict=True)
        )

    def list(self, prefix: str) -> list[str]:
        """All keys below the folder `prefix`, sorted; [] where there is none."""
        self.fs.invalidate_cache()
        start, folder = len(self.root) + 1, self.path(prefix)
        # SeaweedFS lists a folder that has become empty as itself
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

    def chunks(self, key: str) -> Iterator[bytes]:
        """The object's bytes in order, in blocks of 16 MiB. Raises FileNotFoundError."""
        with self.fs.open(self.path(key), "rb", block_size=BLOCK, cache_type="readahead") as file:
            while chunk := file.read(BLOCK):
                yield chunk

    def source(self, key: str, size: int, sha256: str = "") -> Located:
        """The object as a checkpoint that was located, for `checkpoints.fetch`.

        `size` in bytes; `sha256` in hex, "" where it isn't known.
        """
        path = self.path(key)
        identity = f"sha256={sha256}" if sha256 else Source.identity_of(self.fs.info(path))
        return Located(Source(redact(path), identity, size, sha256), self.fs, path)

    def local_file(self, key: str, folder: Path) -> tuple[Path, str]:
        """The object as a local file, copied below `folder` if need be, and its sha256 in hex.

        Every byte is read from the store.
        """
        copy = folder / hashlib.sha256(key.encode()).hexdigest()  # the key may be too long a name
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
        """Write `head` and all of `shared` as one object, the second by a copy within the store.

        Returns True where the store stated a checksum of every copied part and each was right,
        False where it stated none, and None where the store can't copy and nothing was written.
        The object becomes visible whole, at the end, or not at all. Raises PublishError where a
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
        """When the object was written.

        Raises FileNotFoundError, and RunError where the store doesn't say.
        """
        self.fs.invalidate_cache()
        try:
            when: datetime = self.fs.modified(self.path(key))
        except NotImplementedError as cause:
            raise RunError(f"this kind of store doesn't say how old {key} is") from cause
        return when if when.tzinfo else when.replace(tzinfo=UTC)

    def unfinished(self, prefix: str) -> Iterable[Unfinished]:
        """Uploads below the folder `prefix`, or to an object of that name, that were begun and
        neither completed nor aborted.
        """
        return []

    def abort(self, upload: Unfinished) -> None:
        """Give up such an upload; its parts are removed."""

    def remove_empty(self, folder: str) -> None:
        """Remove a folder that has become empty, where folders are more than parts of keys."""

    def version(self, key: str) -> str | None:
        """What `replace` compares: a token that changes when the object does; None if absent."""
        return "present" if self.exists(key) else None

    def replace(self, key: str, data: bytes, version: str | None) -> None:
        """Write `key` if it is still at `version`. Raises Conflict otherwise.

        Call it, and `version` before it, within `exclusive()`.
        """
        self.write(key, [data])

    def exclusive(self) -> AbstractContextManager[None]:
        """Keeps others from replacing objects meanwhile, where the store needs that."""
        return nullcontext()

    def session(self, run_id: str) -> AbstractContextManager[None]:
        """Held for a whole job. Raises RunError where only one job may run and one does."""
        return lease.held(self, run_id)

    def free_bytes(self) -> int | None:
        """Free space in bytes; None where the store doesn't say."""
        return None

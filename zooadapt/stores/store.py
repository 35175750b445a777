"""A folder on any fsspec filesystem in which objects appear whole or not at all.

Three kinds, by what the filesystem can promise:

- local folders: temporary file and ``os.replace``; replacing under ``flock``;
- S3: an upload becomes visible when it is complete; replacing with If-Match / If-None-Match;
- anything else: temporary name and move; replacing under a lease that a single job holds.

Keys are relative to the store's root, with "/" between their parts.
"""

import errno
import fcntl
import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import fsspec
from fsspec.implementations.local import LocalFileSystem

from zooadapt.errors import Conflict, RunError, UsageError, one_line
from zooadapt.ranges import BLOCK, in_order
from zooadapt.stores import lease, multipart

Chunks = Iterable[bytes | memoryview]


def open_store(url: str, options: dict[str, Any] | None = None) -> "Store":
    """The store at `url`, an absolute fsspec URL or a local path. Nothing is created yet.

    Make it in the process that uses it, never before a fork. Raises UsageError where fsspec knows
    no such filesystem.
    """
    try:
        filesystem, root = fsspec.core.url_to_fs(
            url, **{"use_listings_cache": False, **(options or {})}
        )
    except Exception as cause:
        raise UsageError(f"can't open {one_line(Exception(url))}: {one_line(cause)}") from cause
    if isinstance(filesystem, LocalFileSystem):
        return LocalStore(filesystem, root)
    if "s3" in filesystem.protocol:
        return S3Store(filesystem, root)
    if "https" in filesystem.protocol:
        return WebStore(filesystem, root)
    return Store(filesystem, root)


class Store:
    """Any fsspec filesystem; the two subclasses know better ways for theirs."""

    def __init__(self, filesystem: Any, root: str) -> None:
        self.fs = filesystem
        self.root = root.rstrip("/")

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

    def local_file(self, key: str, spool: Path) -> tuple[Path, str]:
        """The object as a local file, copied below `spool` if need be, and its sha256 in hex.

        Every byte is read from the store.
        """
        copy = spool / hashlib.sha256(key.encode()).hexdigest()  # the key may be too long a name
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

    def unfinished(self, prefix: str) -> Iterable[multipart.Unfinished]:
        """Uploads below the folder `prefix`, or to an object of that name, that were begun and
        neither completed nor aborted.
        """
        return []

    def abort(self, upload: multipart.Unfinished) -> None:
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


class LocalStore(Store):
    """A folder of this machine, or one that all nodes share."""

    def _move(self, temporary: str, final: str) -> None:
        os.replace(temporary, final)  # noqa: PTH105 - one atomic call on two fsspec paths

    def list(self, prefix: str) -> list[str]:
        """As of any store, in a fraction of the time and memory; links to folders aren't followed.

        Raises OSError for a folder that can't be read.
        """
        start = len(self.root) + 1
        folders = os.walk(self.path(prefix).rstrip("/"), onerror=_unless_gone)
        return sorted(f"{at}/{name}"[start:] for at, _, names in folders for name in names)

    def local_file(self, key: str, spool: Path) -> tuple[Path, str]:
        """The file itself, not copied, and its sha256 in hex."""
        with Path(self.path(key)).open("rb") as file:
            return Path(self.path(key)), hashlib.file_digest(file, "sha256").hexdigest()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """An flock on a file in the root, released by the kernel when the process ends."""
        Path(self.root).mkdir(parents=True, exist_ok=True)
        with (Path(self.root) / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def session(self, run_id: str) -> AbstractContextManager[None]:
        """Any number of jobs may share a local mirror."""
        return nullcontext()

    def remove_empty(self, folder: str) -> None:
        """One ``rmdir``, which refuses where there is something in it."""
        with suppress(OSError):
            Path(self.path(folder)).rmdir()

    def free_bytes(self) -> int | None:
        """Free bytes of the filesystem that holds the root, or its nearest existing parent."""
        folder = Path(self.root)
        while not folder.exists():
            folder = folder.parent
        status = os.statvfs(folder)
        return status.f_bavail * status.f_frsize


class WebStore(Store):
    """A folder behind any web server; it is only read, and needn't be listed."""

    def path(self, key: str) -> str:
        """The URL of `key`, in which "%" is part of a name."""
        return f"{self.root}/{quote(key)}"


class S3Store(Store):
    """A prefix of an S3 bucket."""

    def write(self, key: str, chunks: Chunks) -> None:
        """Write an object, in parts if it is large; one that fails is aborted, never visible."""
        multipart.upload(self.fs, self.path(key), chunks)

    def chunks(self, key: str) -> Iterator[bytes]:
        """As of any store, several blocks at once."""
        return in_order(lambda start, stop: self.read_range(key, start, stop), self.size(key))

    def list(self, prefix: str) -> list[str]:
        """As of any store, without keeping what S3 says of each: of a million that is gigabytes."""
        bucket, folder, _ = self.fs.split_path(f"{self.path(prefix).rstrip('/')}/")
        start = len(self.root) - len(bucket)
        page, found = {"Bucket": bucket, "Prefix": folder}, []
        while page:
            try:
                answer = multipart.call_s3(self.fs, "list_objects_v2", **page)
            except FileNotFoundError:  # there is no such bucket
                return []
            # SeaweedFS lists a folder that has become empty as itself
            keys = (entry["Key"] for entry in answer.get("Contents", ()))
            found += [key[start:] for key in keys if not key.endswith("/")]
            following = answer.get("NextContinuationToken")
            page = {**page, "ContinuationToken": following} if following else {}
        return sorted(found)

    def version(self, key: str) -> str | None:
        """The object's ETag; None if absent."""
        self.fs.invalidate_cache()
        try:
            return str(self.fs.info(self.path(key))["ETag"])
        except FileNotFoundError:
            return None

    def replace(self, key: str, data: bytes, version: str | None) -> None:
        """A PUT with If-Match, or If-None-Match: * for an object not there yet."""
        where = multipart.place(self.fs, self.path(key))
        condition = {"IfMatch": version} if version else {"IfNoneMatch": "*"}
        try:
            self.fs.call_s3("put_object", **where, Body=data, **condition)
        except OSError as cause:
            if not _refused(cause):
                raise
            # The answer to a write that took effect may have been lost, and its repetition refused.
            if not self.exists(key) or self.read(key) != data:
                raise Conflict(f"{key} was changed by another job") from cause

    def session(self, run_id: str) -> AbstractContextManager[None]:
        """Any number of jobs may share an S3 mirror."""
        return nullcontext()

    def unfinished(self, prefix: str) -> Sequence[multipart.Unfinished]:
        """Multipart uploads, whose parts cost as much as objects and that no listing shows."""
        start = len(self.root) + 1
        found = multipart.unfinished(self.fs, self.path(prefix))
        uploads = [replace(upload, key=upload.key[start:]) for upload in found]
        return [each for each in uploads if f"{each.key}/".startswith(f"{prefix}/")]

    def abort(self, upload: multipart.Unfinished) -> None:
        """Nothing, where it was completed or aborted since."""
        multipart.abort(self.fs, self.path(upload.key), upload.id)


def _unless_gone(error: OSError) -> None:
    """Raise what befell a listing, unless there is no such folder."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _refused(error: OSError) -> bool:
    """Whether S3 refused a precondition: 412, or 409 for a write that was overtaken.

    s3fs translates the first to EINVAL (errors.py of s3fs 2026.9).
    """
    refused = isinstance(error, FileExistsError) or error.errno == errno.EINVAL
    return refused or multipart.http_status(error) in (409, 412)

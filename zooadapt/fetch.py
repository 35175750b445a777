"""Source → verified local file: where a checkpoint is, what its source says of it, its bytes."""

import hashlib
import importlib.resources
import re
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Any

import aiohttp
import fsspec
from fsspec.implementations.http import HTTPFileSystem
from fsspec.implementations.local import LocalFileSystem
from tenacity import (
    retry,
    retry_if_exception,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from zooadapt import hub
from zooadapt.blocks import BLOCK, in_order
from zooadapt.errors import FetchError, Unreachable, one_line, redact, stage
from zooadapt.names import safe
from zooadapt.records import Job, Located, ModelEntry, Source

_ATTEMPTS = 5
"""To read a block."""
_DOWNLOADS = 2
"""Of a checkpoint whose hash turns out wrong."""
_FRESH = 600
"""Seconds for which what was found is taken as it is, where it isn't pinned."""
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.")


class _Wrong(FetchError):
    """Other bytes came than the source states."""


def location(entry: ModelEntry, source_root: str | None) -> str:
    """The stable name of where a model's checkpoint is asked for; nothing is looked up.

    Raises FetchError where the entry names no source.
    """
    if not entry.hub_id and not entry.url:
        raise FetchError("the zoo names no source for its weights")
    if source_root and not _in_package(entry.url):
        name = entry.hub_id or _file_name(entry.url or "")
        return f"{source_root.rstrip('/')}/{name}"
    return f"hf://{entry.hub_id}" if entry.hub_id else str(entry.url)


def recorded_location(entry: ModelEntry, source_root: str | None) -> str:
    """`location` as records hold it: without secrets."""
    return redact(location(entry, source_root))


def locate(entry: ModelEntry, job: Job) -> Located:
    """Ask the source for the checkpoint's URI, size, hash and identity; reads none of it.

    Raises FetchError where it isn't there or may not be read.
    """
    where = location(entry, job.source_root)
    with stage(FetchError):
        try:
            return _locate(entry, where, job)
        except FileNotFoundError as cause:
            raise FetchError(f"{redact(where)} isn't there") from cause


def _locate(entry: ModelEntry, where: str, job: Job) -> Located:
    if where.startswith("hf://"):
        return hub.locate(where.removeprefix("hf://"))
    if _in_package(where):
        return _at(_package_file(where), where, {})
    if entry.hub_id:
        return _first_of([f"{where}/{file}" for file in hub.FILES], job.source_options)
    return _at(where, where, job.source_options if job.source_root else {})


def still(located: Located | None, entry: ModelEntry, job: Job) -> Located:
    """What was found if it is fresh or pinned, else what `locate` finds now."""
    if located and (hub.holds(located.source) or time.time() - located.when < _FRESH):
        return located
    return locate(entry, job)


def fetch(located: Located, spool: Path) -> tuple[Path, str]:
    """The checkpoint as a local file, and its sha256 (64 hex digits).

    A file of this machine is read where it is; any other is copied below `spool`, block by block,
    taking up where it stopped after a broken connection or when the Hub's signed URL has run out,
    and gets its name when it is whole. Where other bytes come than were stated, it is read once
    more.

    Raises FetchError where it can't be read, or its size or hash isn't the stated one.
    """
    if isinstance(located.filesystem, LocalFileSystem):
        file = Path(located.path)
        digest, size = _hash(file)
        _verify(located.source, digest, size)
    else:
        file = spool / safe(_file_name(located.source.uri))
        digest = _verified(located, file)
    return file, digest


@retry(retry=retry_if_exception_type(_Wrong), stop=stop_after_attempt(_DOWNLOADS), reraise=True)
def _verified(located: Located, file: Path) -> str:
    """The file's sha256; it is read once more if other bytes came than were stated."""
    try:
        digest, size = _download(located, file)
        _verify(located.source, digest, size)
        if not located.source.sha256:
            _check_unchanged(located)
    except FetchError:
        file.unlink()
        raise
    except (OSError, aiohttp.ClientError) as cause:
        raise FetchError(f"{located.source.uri} can't be read: {one_line(cause)}") from cause
    return digest


def _check_unchanged(located: Located) -> None:
    """Raise FetchError if a file without a stated hash was replaced while it was read."""
    located.filesystem.invalidate_cache()
    if _identity(located.filesystem.info(located.path)) != located.source.identity:
        raise FetchError(
            f"{located.source.uri} was replaced while it was read; try again with --retry-failed"
        )


def _verify(source: Source, digest: str, size: int) -> None:
    if source.bytes is not None and size != source.bytes:
        raise _Wrong(
            f"{source.uri} has {size} bytes instead of the stated {source.bytes}: it is truncated "
            f"or was replaced meanwhile; try again with --retry-failed"
        )
    if not digest.startswith(source.sha256):
        raise _Wrong(
            f"{source.uri} has sha256 {digest[:16]}… instead of the stated {source.sha256[:16]}…: "
            f"replace the damaged copy, then --retry-failed"
        )


def _hash(file: Path) -> tuple[str, int]:
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return digest, file.stat().st_size


def _download(located: Located, file: Path) -> tuple[str, int]:
    """Copy to `file`; returns sha256 and size of the bytes that were read."""
    unfinished = file.with_name(file.name + ".partial")
    try:
        try:
            facts = _copy(located, unfinished, ranges=True)
        except ValueError:  # fsspec: the server ignores ranges, so read its answer as it comes
            facts = _copy(located, unfinished, ranges=False)
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)
    return facts


def _copy(located: Located, unfinished: Path, ranges: bool) -> tuple[str, int]:
    size, digest = located.source.bytes, hashlib.sha256()
    with _open(located, BLOCK if ranges else 0) as source, unfinished.open("wb") as out:
        at_once = ranges and size is not None and located.filesystem.async_impl
        blocks = in_order(_Ranges(located, source), size or 0) if at_once else _blocks(source)
        for block in blocks:
            digest.update(block)
            out.write(block)
        return digest.hexdigest(), out.tell()


def _open(located: Located, block_size: int) -> Any:
    # With the size known, no second look-up is made; a signed URL may not allow one.
    known = {"size": located.source.bytes} if isinstance(located.filesystem, HTTPFileSystem) else {}
    return located.filesystem.open(
        located.path, "rb", block_size=block_size, cache_type="none", **known
    )


def _blocks(file: Any) -> Iterator[bytes]:
    """The file's bytes as they come; asked for again where an answer breaks off."""
    position = 0
    while block := _read_at(file, position):
        position += len(block)
        yield block


def _passing(error: BaseException) -> bool:
    """Whether asking again may help: a broken connection, a busy or failing server."""
    if isinstance(error, aiohttp.ClientResponseError):
        return error.status in (408, 429) or error.status >= 500
    if isinstance(error, FileNotFoundError | PermissionError):
        return False
    return isinstance(error, OSError | aiohttp.ClientError)


_again = retry(
    retry=retry_if_exception(_passing),
    stop=stop_after_attempt(_ATTEMPTS),
    wait=wait_random_exponential(max=20),
    reraise=True,
)


class _Ranges:
    """Reads an open file's ranges, from several threads; a signed URL that ran out is renewed."""

    def __init__(self, located: Located, file: Any) -> None:
        self._located, self._file, self._lock = located, file, Lock()

    def __call__(self, start: int, stop: int) -> bytes:
        file = self._file
        try:
            return _range(file, start, stop)
        except aiohttp.ClientResponseError as refusal:
            if refusal.status != 403 or not hub.holds(self._located.source):
                raise
        with self._lock:
            if self._file is file:  # else another thread has renewed it meanwhile
                self._file = _open(hub.renewed(self._located), BLOCK)
        return _range(self._file, start, stop)


@_again
def _range(file: Any, start: int, stop: int) -> bytes:
    block: bytes = file._fetch_range(start, stop)  # what fsspec's caches call: has no state
    if len(block) != stop - start:
        raise OSError(f"{len(block)} bytes came where {stop - start} were asked for")
    return block


@_again
def _read_at(file: Any, position: int) -> bytes:
    if file.tell() != position:
        file.seek(position)
    block: bytes = file.read(BLOCK)
    return block


def _first_of(urls: list[str], options: dict[str, Any]) -> Located:
    for url in urls:
        try:
            return _at(url, url, options)
        except FileNotFoundError:
            continue
    folder, _, _ = urls[0].rpartition("/")
    names = " nor ".join(url.rpartition("/")[2] for url in urls)
    raise FetchError(f"{redact(folder)} has neither {names}")


def _at(url: str, uri: str, options: dict[str, Any]) -> Located:
    """The file at `url`, described by its filesystem. Raises FileNotFoundError, FetchError."""
    try:
        if url.startswith(("http://", "https://")):
            options = {"client_kwargs": hub.http_client({}), **options}
        filesystem, path = fsspec.core.url_to_fs(url, **options)
        facts = filesystem.info(path)
    except Exception as cause:
        if isinstance(cause, FileNotFoundError) and _absent(cause):
            raise
        refused = isinstance(cause, FileNotFoundError | PermissionError)
        error = FetchError if refused or not isinstance(cause, OSError) else Unreachable
        raise error(f"{redact(uri)} can't be looked up: {one_line(cause)}") from cause
    stated = _HASH_IN_NAME.search(_file_name(uri))
    source = Source(
        uri=redact(uri),
        identity=f"sha256={stated.group(1)}" if stated else _identity(facts),
        bytes=facts.get("size"),
        sha256=stated.group(1) if stated else "",
    )
    return Located(source, filesystem, path)


def _absent(error: FileNotFoundError) -> bool:
    """Whether the file isn't there, rather than fsspec's rendering of any other HTTP error."""
    cause = error.__cause__
    return not isinstance(cause, aiohttp.ClientError) or getattr(cause, "status", 0) in (404, 410)


def _identity(facts: dict[str, Any]) -> str:
    """What tells one content from another: ETag or last change, and size."""
    changed = next(
        (
            f"{key}={facts[key]}"
            for key in ("ETag", "Last-Modified", "LastModified", "mtime")
            if facts.get(key)
        ),
        "unstated",
    )
    return f"{changed} bytes={facts.get('size')}"


def _file_name(url: str) -> str:
    """What follows the last "/" of a URL's path."""
    return re.split("[?#]", url)[0].rpartition("/")[2]


def _in_package(url: str | None) -> bool:
    return bool(url and url.startswith("package://"))


def _package_file(url: str) -> str:
    """``package://name/path`` as a file of the installed Python package `name`."""
    package, _, path = url.removeprefix("package://").partition("/")
    try:
        file = importlib.resources.files(package) / path
    except ModuleNotFoundError as cause:
        raise FetchError(
            f"the Python package {package} isn't installed here; the sample zoo's comes with "
            f"pip install 'zooadapt[sample]'"
        ) from cause
    return str(file)

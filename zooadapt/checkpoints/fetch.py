"""Fetch a located checkpoint as a local file with the size and hash that its source states."""

import errno
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from threading import Lock
from typing import IO, Any

import aiohttp
from fsspec.implementations.http import HTTPFileSystem
from fsspec.implementations.local import LocalFileSystem
from tenacity import (
    retry,
    retry_if_exception,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from zooadapt.errors import FetchError, Unreachable, one_line
from zooadapt.names import safe
from zooadapt.ranges import BLOCK, in_order
from zooadapt.types import DESCRIBED, Located, Source

_ATTEMPTS = 5
"""The most attempts to read a block."""
_DOWNLOADS = 2
"""The most downloads of a checkpoint that arrives with the wrong size or hash."""


_PAGES = (b"<!doctype", b"<html", b"<?xml")
"""How pages begin."""

Came = Callable[[int], object]
"""A function that is told the number of bytes of each block that arrived."""


class _Wrong(FetchError):
    """The source sent other bytes than it states."""


def fetch(located: Located, folder: Path, came: Came = lambda size: None) -> tuple[Path, str]:
    """The checkpoint as a local file, and its sha256 (64 hex digits).

    A local file is read where it is. Any other file is copied to `folder`, block by block, and gets
    its name when it is whole. After a broken connection, or when the Hub's signed URL has expired,
    the copy continues where it stopped. It also continues an unfinished copy of an earlier call, so
    `folder` must be for this content alone. If the bytes aren't the stated ones, the file is copied
    once more, from the start. `came` is told the size of every block.

    Raises FetchError if the file can't be read, or if its size or hash isn't the stated one.
    """
    if isinstance(located.filesystem, LocalFileSystem):
        file = Path(located.path)
        try:
            digest, size = _hash(file)
        except OSError as cause:
            raise unread(f"{located.source.uri} can't be read", cause) from cause
        _verify(located.source, digest, size)
    else:
        file = folder / safe(located.source.file_name)
        digest = _verified(located, file, came)
    return file, digest


@retry(retry=retry_if_exception_type(_Wrong), stop=stop_after_attempt(_DOWNLOADS), reraise=True)
def _verified(located: Located, file: Path, came: Came) -> str:
    """Download to `file`, once more if the bytes aren't the stated ones; returns the sha256."""
    try:
        digest, size = _download(located, file, came)
        if not digest.startswith(located.source.sha256 or "unstated"):
            _check_no_page(located, file)
        _verify(located.source, digest, size)
        if not located.source.sha256:
            _check_unchanged(located)
    except FetchError:
        file.unlink(missing_ok=True)
        raise
    except (OSError, aiohttp.ClientError) as cause:
        raise unread(f"{located.source.uri} can't be read", cause) from cause
    return digest


def _check_no_page(located: Located, file: Path) -> None:
    """Raise Unreachable if a page came by HTTP instead of a checkpoint, as portals send it."""
    with file.open("rb") as opened:
        begins = opened.read(64).lstrip().lower()
    if begins.startswith(_PAGES) and isinstance(located.filesystem, HTTPFileSystem):
        raise Unreachable(
            f"{located.source.uri} came as an HTML or XML page: something else answers for it"
        )


def _check_unchanged(located: Located) -> None:
    """Raise FetchError if a file without a stated hash was replaced while it was read."""
    located.filesystem.invalidate_cache()
    facts = located.filesystem.info(located.path)
    if Source.identity_of(facts) != located.source.identity.partition(DESCRIBED)[0]:
        raise FetchError(f"{located.source.uri} was replaced while it was read; try again")


def _verify(source: Source, digest: str, size: int) -> None:
    if source.bytes is not None and size != source.bytes:
        raise _Wrong(
            f"{source.uri} has {size} bytes instead of the stated {source.bytes}: it is truncated "
            f"or was replaced meanwhile; try again"
        )
    if not digest.startswith(source.sha256):
        raise _Wrong(
            f"{source.uri} has sha256 {digest[:16]}… instead of the stated {source.sha256[:16]}…: "
            f"the copy is damaged; replace it, then try again"
        )


def _hash(file: Path) -> tuple[str, int]:
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return digest, file.stat().st_size


def _download(located: Located, file: Path, came: Came) -> tuple[str, int]:
    """Copy the checkpoint to `file`; returns the sha256 and the number of its bytes."""
    unfinished = file.with_name(file.name + ".partial")
    try:
        facts = _copy(located, unfinished, True, came)
    except ValueError:  # from fsspec: the server ignores ranges, so read its answer as it comes
        unfinished.unlink(missing_ok=True)
        facts = _copy(located, unfinished, False, came)
    unfinished.replace(file)
    return facts


def _copy(located: Located, unfinished: Path, ranges: bool, came: Came) -> tuple[str, int]:
    size, digest = located.source.bytes, hashlib.sha256()
    with _open(located, BLOCK if ranges else 0) as source, unfinished.open("a+b") as out:
        start = _left_over(out, digest, size if ranges else None)
        came(start)
        concurrent = ranges and size is not None and located.filesystem.async_impl
        blocks = (
            in_order(_Ranges(located, source), size or 0, start)
            if concurrent
            else _blocks(source, start)
        )
        for block in blocks:
            digest.update(block)
            out.write(block)
            came(len(block))
        return digest.hexdigest(), out.tell()


def _left_over(out: IO[bytes], digest: "hashlib._Hash", size: int | None) -> int:
    """Hash what an earlier call left in `out`, or empty it if useless; returns the bytes kept."""
    left = out.seek(0, os.SEEK_END)
    if size is None or left > size:
        out.truncate(0)
        return 0
    out.seek(0)
    while block := out.read(BLOCK):
        digest.update(block)
    return left


def _open(located: Located, block_size: int) -> Any:
    # If fsspec knows the size, it doesn't look it up, which a signed URL might not allow.
    known = {"size": located.source.bytes} if isinstance(located.filesystem, HTTPFileSystem) else {}
    return located.filesystem.open(
        located.path, "rb", block_size=block_size, cache_type="none", **known
    )


def _blocks(file: Any, position: int) -> Iterator[bytes]:
    """The file's blocks from `position`, as they come. A read that breaks off is retried."""
    while block := read_at(file, position):
        position += len(block)
        yield block


def _passing(error: BaseException) -> bool:
    """Whether a retry can help: after a broken connection, or if the server is busy or failing."""
    if isinstance(error, aiohttp.ClientResponseError):
        return error.status in (408, 429) or error.status >= 500
    if isinstance(error, FileNotFoundError | PermissionError):
        return False
    return isinstance(error, OSError | aiohttp.ClientError)


LONGEST_WAIT = 3600.0
"""Seconds. A server that says to come back later than that isn't waited for: it is an outage."""
_INVALID = re.compile(
    r"ExpiredToken|InvalidToken|InvalidAccessKeyId|SignatureDoesNotMatch|token.*expired", re.I
)
"""What stores say of credentials that aren't valid, or no longer."""
_OF_THE_FILE = {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL}
_OF_NETWORKS = {
    "aiohttp", "azure", "botocore", "gcsfs", "google", "httpcore", "httpx", "requests", "urllib3",
}  # fmt: skip
"""The packages whose errors tell of a network or a server, not of one file."""


def passes(error: BaseException) -> bool:
    """Whether an error of a source may pass by itself, because it isn't about one file."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and isinstance(cause, aiohttp.ClientError | OSError):
        return passes(cause)  # fsspec says "not found" of whatever a web server does
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return status in (401, 407, 408, 429) or status >= 500
    if _INVALID.search(f"{error} {getattr(cause, 'response', '')}"):
        return True
    if isinstance(error, FileNotFoundError | PermissionError | aiohttp.InvalidURL):
        return False
    if isinstance(error, OSError):
        return error.errno not in _OF_THE_FILE
    return type(error).__module__.partition(".")[0] in _OF_NETWORKS


def unread(what: str, cause: BaseException) -> FetchError:
    """The error for a source that raised `cause`: Unreachable if that may pass by itself."""
    message = f"{what}: {one_line(cause)}"
    if not passes(cause):
        return FetchError(message)
    refusals = (getattr(error, "headers", None) or {} for error in (cause, cause.__cause__))
    return with_wait(Unreachable(message), max(map(told_to_wait, refusals)))


def told_to_wait(headers: Mapping[str, str]) -> float:
    """The seconds to wait that a refusal states in ``Retry-After``; 0 if it states none.

    The header is a number of seconds or a date (RFC 9110, 10.2.3).
    """
    after = headers.get("Retry-After", "")
    if after.isascii() and after.isdigit():
        return float(after)
    with suppress(ValueError, OverflowError):
        return max(0.0, parsedate_to_datetime(after).timestamp() - time.time())
    return 0.0


def with_wait(error: Unreachable, seconds: float) -> Unreachable:
    """The same error, which tells when to try again, unless that is later than LONGEST_WAIT."""
    error.until = time.time() + seconds if 0 < seconds <= LONGEST_WAIT else 0.0
    return error


_again = retry(
    retry=retry_if_exception(_passing),
    stop=stop_after_attempt(_ATTEMPTS),
    wait=wait_random_exponential(max=20),
    reraise=True,
)


class _Ranges:
    """Read ranges of an open file, from several threads; renew a signed URL that has expired."""

    def __init__(self, located: Located, file: Any) -> None:
        self._located, self._file, self._lock = located, file, Lock()

    def __call__(self, start: int, stop: int) -> bytes:
        file = self._file
        try:
            return read_range(file, start, stop)
        except aiohttp.ClientResponseError as refusal:
            if refusal.status != 403 or self._located.renew is None:
                raise
        with self._lock:
            if self._file is file:  # else another thread has renewed it
                self._file = _open(self._located.renew(self._located), BLOCK)
        return self._read_anew(start, stop)

    def _read_anew(self, start: int, stop: int) -> bytes:
        """Read by the new URL. If it is refused too, that isn't about the file: the source itself
        would refuse to give a URL of a file that can't be had."""
        try:
            return read_range(self._file, start, stop)
        except aiohttp.ClientResponseError as refusal:
            if refusal.status != 403:
                raise
            raise Unreachable(
                f"{self._located.source.uri} is refused by a URL that is new: {one_line(refusal)}"
            ) from refusal


@_again
def read_range(file: Any, start: int, stop: int) -> bytes:
    block: bytes = file._fetch_range(start, stop)  # what fsspec's caches call: it keeps no state
    if len(block) != stop - start:
        raise OSError(f"{len(block)} bytes came where {stop - start} were asked for")
    return block


@_again
def read_at(file: Any, position: int) -> bytes:
    if file.tell() != position:
        file.seek(position)
    block: bytes = file.read(BLOCK)
    return block

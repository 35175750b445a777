"""Find a checkpoint and what its source states of it, before reading any of it."""

import hashlib
import importlib.resources
import re
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

import aiohttp
import fsspec
from fsspec.implementations.local import LocalFileSystem

from zooadapt.checkpoints import hf_cache, hub
from zooadapt.checkpoints.fetch import unread
from zooadapt.errors import Absent, FetchError, redact, stage
from zooadapt.names import file_name
from zooadapt.types import DESCRIBED, Job, Located, ModelEntry, Source

_FRESH = 600
"""Seconds for which an unpinned checkpoint, once located, isn't looked up again."""
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.")
"""The hash in a file's name, as in ``resnet18-f37072fd.pth``: the first digits of its SHA-256."""


def location(entry: ModelEntry, source_root: str | None) -> str:
    """The stable address at which a model's checkpoint is asked for; nothing is looked up.

    Raises FetchError if the entry names no source.
    """
    if not entry.hub_id and not entry.url:
        raise FetchError("the zoo names no source for the model's weights")
    if source_root and not entry.in_place and not _in_package(entry.url):
        name = entry.hub_id or file_name(entry.url or "")
        return f"{source_root.rstrip('/')}/{name}"
    return f"hf://{entry.hub_id}" if entry.hub_id else str(entry.url)


def recorded_location(entry: ModelEntry, source_root: str | None) -> str:
    """`location` without secrets, as records hold it."""
    return redact(location(entry, source_root))


def place(entry: ModelEntry, source_root: str | None) -> str:
    """The server, or the folder, that is asked for a model's checkpoint, without secrets."""
    where = location(entry, source_root)
    if where.startswith("hf://"):
        return f"the Hub at {hub.endpoint()}"
    if source_root and where.startswith(source_root.rstrip("/")):
        return redact(source_root)
    scheme, slashes, rest = redact(where).partition("://")
    return scheme + slashes + rest.partition("/")[0] if slashes else where


def locate(entry: ModelEntry, job: Job) -> Located:
    """Ask the source for the checkpoint's URI, size, hash and identity, without reading any of it.

    Raises Absent if the checkpoint isn't there, FetchError if it isn't readable, and Unreachable
    if the source doesn't answer.
    """
    where = location(entry, job.source_root)
    with stage(FetchError):
        try:
            return _described(_locate(entry, where, job), entry)
        except FileNotFoundError as cause:
            raise Absent(f"{redact(where)} isn't there") from cause


def _locate(entry: ModelEntry, where: str, job: Job) -> Located:
    if where.startswith("hf://"):
        hub_id = where.removeprefix("hf://")
        return (None if job.asks_hub else hf_cache.cached(hub_id)) or hub.locate(hub_id)
    if _in_package(where):
        return find_file(_package_file(where), where, {})
    if entry.hub_id:
        if "://" not in where and (found := hf_cache.cached(entry.hub_id, job.source_root)):
            return found
        return _first_of([f"{where}/{file}" for file in hub.FILES], job.source_options)
    if where.endswith(hub.SHARDED):
        raise hub.split(where.rpartition("/")[0])
    return find_file(where, where, job.source_options if job.source_root or entry.in_place else {})


def _described(located: Located, entry: ModelEntry) -> Located:
    """`located`, with the hash of the description beside it, if there is one, in its identity."""
    if not entry.in_place:
        return located
    digest = hashlib.sha256((entry.config or "").encode()).hexdigest()[:16]
    identity = f"{located.source.identity}{DESCRIBED}{digest}"
    return replace(located, source=replace(located.source, identity=identity))


def still(located: Located | None, entry: ModelEntry, job: Job) -> Located:
    """`located` if it is recent or pinned, else what `locate` finds now; as near as can be."""
    recent = located and (hub.holds(located.source) or time.time() - located.when < _FRESH)
    found = located if located and recent else locate(entry, job)
    if not hub.holds(found.source):
        return found
    found = hub.near(found)
    if job.keep_sources and not isinstance(found.filesystem, LocalFileSystem):
        return hub.kept(found, entry.hub_id or "")
    return found


def _first_of(urls: list[str], options: dict[str, Any]) -> Located:
    for url in urls:
        try:
            return find_file(url, url, options)
        except FileNotFoundError:
            continue
    folder, _, _ = urls[0].rpartition("/")
    for file in hub.SHARDED:
        with suppress(FileNotFoundError):
            find_file(f"{folder}/{file}", folder, options)
            raise hub.split(folder)
    names = " nor ".join(url.rpartition("/")[2] for url in urls)
    raise Absent(f"{redact(folder)} has neither {names}")


def find_file(url: str, uri: str, options: dict[str, Any]) -> Located:
    """Locate the file at `url`, called `uri` in records. Raises FileNotFoundError, FetchError."""
    try:
        if url.startswith(("http://", "https://")):
            options = {"client_kwargs": hub.http_client({}), **options}
        filesystem, path = fsspec.core.url_to_fs(url, **options)
        facts = _facts(filesystem, path)
    except Exception as cause:
        if isinstance(cause, FileNotFoundError) and _absent(cause):
            raise
        raise unread(f"{redact(uri)} can't be looked up", cause) from cause
    stated = _HASH_IN_NAME.search(file_name(uri))
    source = Source(
        uri=redact(uri),
        identity=f"sha256={stated.group(1)}" if stated else Source.identity_of(facts),
        bytes=facts.get("size") or None,  # a portal states 0, and then sends a page
        sha256=stated.group(1) if stated else "",
    )
    return Located(source, filesystem, path)


def _facts(filesystem: Any, path: str) -> Any:
    """What the filesystem says of a file. A refusal is repeated by reading a byte: only then does
    a store say whether it refuses the file or the credentials."""
    try:
        return filesystem.info(path)
    except PermissionError:
        filesystem.cat_file(path, start=0, end=1)
        raise


def _absent(error: FileNotFoundError) -> bool:
    """Whether the file isn't there: fsspec raises the same error for other HTTP failures."""
    cause = error.__cause__
    if isinstance(cause, aiohttp.ClientResponseError):
        return cause.status in (404, 410)
    return not isinstance(cause, aiohttp.ClientError | TimeoutError | ConnectionError)


def _in_package(url: str | None) -> bool:
    return bool(url and url.startswith("package://"))


def _package_file(url: str) -> str:
    """The file at `path` in the installed Python package `name`, for ``package://name/path``."""
    package, _, path = url.removeprefix("package://").partition("/")
    try:
        file = importlib.resources.files(package) / path
    except ModuleNotFoundError as cause:
        raise FetchError(
            f"the Python package {package} isn't installed here; for the sample zoo run "
            f"pip install 'zooadapt[sample]'"
        ) from cause
    return str(file)

"""Find the checkpoints below a URL: the folders that hold both a config.json and weights."""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import fsspec

from zooadapt.checkpoints.hub import FILES, SHARDED
from zooadapt.errors import UsageError, one_line, redact, some
from zooadapt.names import CONFIG
from zooadapt.types import Listing
from zooadapt.urls import absolute

README = "README.md"
_LARGEST = 2**24
"""The largest size, in bytes, of a text file that is read."""
_READERS = 16
"""Text files that are read at once."""

Files = Mapping[str, Mapping[str, Any]]
"""Files below a URL: what fsspec says of each, by its path below the URL, which begins with "/"."""

_log = logging.getLogger("zooadapt")


@dataclass(frozen=True)
class Folder:
    """One folder with a checkpoint."""

    name: str
    """The folder's path below the URL; for the URL itself, the URL's last component."""
    texts: Mapping[str, str]
    """The text files that were asked for and are there, by name; "" for one that can't be read."""
    weights: str
    """The URL of the weights, or of the index of weights that are split into several files. It
    contains any secret that the listed URL contains."""


def found(listing: Listing, zoo: str, texts: Sequence[str]) -> list[Folder]:
    """Every folder with a checkpoint below `listing.place`, at any depth, sorted by path.

    `listing.place` is a URL or a path; a relative path is made absolute. `texts` are the names of
    the text files to read, `zoo` is the name of the zoo for messages. Raises UsageError where there
    is no checkpoint, or the URL can't be listed.
    """
    option = f"--zoo {zoo}"
    url = absolute(listing.place, option)
    parts = url.split("::")
    named = parts[_place(parts)]
    if "?" in named and named.startswith(("http://", "https://")):
        raise UsageError(
            f"{option}: {redact(url)} has a query (?…), so that files below it have no URL; "
            f"give credentials as source_storage_options instead"
        )
    filesystem, files = _files(url, listing.options, option)
    held = {_parent(path) for path in files if path == f"{_parent(path)}/{CONFIG}"}
    weights = {folder: _weights(folder, files) for folder in sorted(held)}
    there = {folder: path for folder, path in weights.items() if path}
    _say_ignored(url, [folder for folder in weights if folder not in there])
    if not there:
        raise UsageError(
            f"{option}: no folder below {redact(url)} holds a {CONFIG} together with a "
            f"{' or a '.join(FILES)}"
        )
    wanted = [f"{folder}/{name}" for folder in there for name in texts]
    read = _texts(filesystem, {path: files[path] for path in wanted if path in files})
    return [
        Folder(
            name=folder.lstrip("/") or _last(redact(url)),
            texts={name: read[f"{folder}/{name}"] for name in texts if f"{folder}/{name}" in read},
            weights=below(url, path),
        )
        for folder, path in there.items()
    ]


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _files(url: str, options: Mapping[str, Any], option: str) -> tuple[Any, Files]:
    """The URL's filesystem, and all files below the URL. Raises UsageError."""
    try:
        filesystem, root = fsspec.core.url_to_fs(url, **{"use_listings_cache": False, **options})
        files = filesystem.find(root, detail=True)
        if not files:  # perhaps because the place gave no answer: then ls raises
            filesystem.ls(root)
    except Exception as cause:
        raise UsageError(f"{option}: {redact(url)} can't be listed: {one_line(cause)}") from cause
    root = root.rstrip("/")
    return filesystem, {"/" + path.removeprefix(root).lstrip("/"): files[path] for path in files}


def _weights(folder: str, files: Files) -> str | None:
    paths = (f"{folder}/{name}" for name in (*FILES, *SHARDED))
    return next((path for path in paths if path in files), None)


def _say_ignored(url: str, folders: Sequence[str]) -> None:
    if folders:
        names = [folder.lstrip("/") or "." for folder in folders]
        _log.warning(
            "folders below %s that hold a %s but no weights (%s) are left out: %s",
            redact(url), CONFIG, " or ".join(FILES), some(names, 5),
        )  # fmt: skip


def _texts(filesystem: Any, files: Files) -> dict[str, str]:
    """The texts of the files, by path; "" where one can't be read, which a warning says."""

    def text(path: str) -> str:
        facts = files[path]
        try:
            if (facts.get("size") or 0) > _LARGEST:
                raise ValueError(f"it has {facts['size']} bytes, more than {_LARGEST}")
            content: bytes = filesystem.cat_file(facts["name"])
            return content.decode()
        except Exception as cause:  # filesystems may raise anything; the other files are still read
            _log.warning("%s can't be read: %s", path.lstrip("/"), one_line(cause))
            return ""

    with ThreadPoolExecutor(_READERS) as pool:
        return dict(zip(files, pool.map(text, files), strict=True))


def _last(url: str) -> str:
    """The last component of a URL's path; "root" where it has none."""
    path = url.partition("::")[0].partition("://")
    return (path[2] or path[0]).rstrip("/").rpartition("/")[2] or "root"


def below(url: str, path: str) -> str:
    """The URL of the file at `path`, which begins with "/", below another URL.

    In a chained URL the path goes into the first part that is a URL.

    >>> below("zip://models::s3://bucket/all.zip", "/net/config.json")
    'zip://models/net/config.json::s3://bucket/all.zip'
    """
    parts = url.split("::")
    place = _place(parts)
    slashes = "" if parts[place].endswith("://") else "/"
    parts[place] = parts[place].rstrip("/") if slashes else parts[place]
    parts[place] += slashes + path.lstrip("/")
    return "::".join(parts)


def _place(parts: Sequence[str]) -> int:
    """The index of the part of a chained URL to which the path of a file is added."""
    return next((at for at, part in enumerate(parts) if "://" in part), len(parts) - 1)

"""Read a list of Hub repositories, and from each the small files that describe its model."""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import fsspec
import yaml

from zooadapt.checkpoints import hf_cache, hub
from zooadapt.errors import FetchError, RunError, Unreachable, UsageError, one_line, redact
from zooadapt.types import Listing

_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?", re.ASCII)
_REPOS_AT_ONCE = 16
"""Repositories that are read at once."""
_NOTHING = ("", "~", "null")
"""The texts that mean "no value" in YAML."""


@dataclass(frozen=True)
class Repo:
    """A repository of the list, and its description."""

    id: str
    """``owner/name`` or ``owner/name@revision``."""
    texts: dict[str, str | None] = field(default_factory=dict)
    """The description's files: text by file name; None for a file that isn't there."""
    error: str = ""
    """Why this repository can't be read; "" where it was read."""


def read_list(listing: Listing, files: Sequence[str]) -> list[Repo]:
    """The repositories that the file at `listing.place` lists, with these text files of each.

    A repository that isn't there, or that the user may not read, has an `error`. Raises UsageError
    where the list can't be read, RunError where the Hub doesn't answer.
    """
    return read(names(listing), listing, files)


def is_list(listing: Listing) -> bool:
    """Whether the place is a file, as a list is, and no folder.

    The last part of a web address is a file where it has a dot in it.
    """
    place = listing.place
    if place.startswith(("http://", "https://")):
        return "." in place.rpartition("/")[2]
    try:
        filesystem, path = fsspec.core.url_to_fs(place, **listing.options if "://" in place else {})
        return not filesystem.isdir(path)
    except Exception:  # reading the list says what is wrong
        return True


def names(listing: Listing) -> list[str]:
    """The ids in the file at `listing.place`, a path or any fsspec URL. Raises UsageError."""
    options = listing.options if "://" in listing.place else {}
    try:
        with fsspec.open(listing.place, "rt", encoding="utf-8", **options) as file:
            text = file.read()
    except Exception as cause:
        where = redact(listing.place)
        raise UsageError(f"the list {where} can't be read: {one_line(cause)}") from cause
    return parsed(text, redact(listing.place))


def parsed(text: str, where: str) -> list[str]:
    """The ids in the text of a list: one a line, without "#" comments and repetitions.

    `where` names the list in messages. Raises UsageError for a line that isn't an id, or no id.
    """
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    for number, line in enumerate(lines, 1):
        if line and not _ID.fullmatch(line):
            raise UsageError(f"{where}, line {number}: {line!r} isn't owner/name[@revision]")
    ids = list(dict.fromkeys(line for line in lines if line))
    if not ids:
        raise UsageError(f"{where} lists no repository")
    return ids


def read(ids: Sequence[str], listing: Listing, files: Sequence[str]) -> list[Repo]:
    """The repositories with these ids, read from the Hub or from below `listing.source_root`.

    Errors are those of `read_list`.
    """
    with ThreadPoolExecutor(_REPOS_AT_ONCE) as pool:
        return list(pool.map(lambda name: _read(name, listing, files), ids))


def license_of(readme: str | None) -> str | None:
    """The licence in the YAML front matter of a README; None where it states none."""
    front = re.match(r"\ufeff?---\s*\n(.*?)\n---\s*(\n|$)", readme or "", re.DOTALL)
    try:
        # BaseLoader reads all values as text; others may raise anything for a bad date or number.
        stated = yaml.load(front[1], Loader=yaml.BaseLoader) if front else None
    except (yaml.YAMLError, RecursionError):
        return None
    if not isinstance(stated, dict):
        return None
    found, name = (_first(stated.get(key)) for key in ("license", "license_name"))
    # "other" is what the Hub calls a licence that it has no name for.
    return name or found if found == "other" else found


def _first(value: Any) -> str | None:
    """A text, or the first text of a list; None where YAML states no value."""
    found = value[0] if isinstance(value, list) and value else value
    return found if isinstance(found, str) and found not in _NOTHING else None


def _read(name: str, listing: Listing, files: Sequence[str]) -> Repo:
    """One repository. Raises RunError where the Hub doesn't answer: no other can be read either."""
    try:
        return Repo(name, {file: _text(name, file, listing) for file in files})
    except Unreachable as cause:
        raise RunError(f"{one_line(cause)}; the list of models can't be made") from cause
    except FetchError as error:
        return Repo(name, error=one_line(error))


def _text(name: str, file: str, listing: Listing) -> str | None:
    if not listing.source_root:
        return hub.text(name, file)
    url = f"{listing.source_root.rstrip('/')}/{name}/{file}"
    if "://" not in url and (kept := hf_cache.beside(name, file, listing.source_root)):
        url = str(kept)
    try:
        with fsspec.open(url, "rb", **listing.options) as opened:
            return hub.decoded(opened.read(hub.LONGEST_TEXT + 1), redact(url))
    except FileNotFoundError:
        return None
    except FetchError:
        raise
    except Exception as cause:
        raise FetchError(f"{redact(url)} can't be read: {one_line(cause)}") from cause

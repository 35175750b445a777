"""An explicit list of repositories of the Hub, one id a line.

A stand-in with the least that `folder` needs: it reads below ``--source-root`` only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import fsspec

from zooadapt.errors import UsageError
from zooadapt.records import Listing


@dataclass(frozen=True)
class Repo:
    """A repository, and the text of some of its files."""

    id: str
    texts: Mapping[str, str]
    """By file name; without those that aren't there."""


def listed(listing: Listing, files: Sequence[str]) -> list[Repo]:
    """The repositories whose ids the file `listing.place` holds. Raises UsageError."""
    try:
        lines = Path(listing.place).read_text().splitlines()
    except OSError as cause:
        raise UsageError(f"{listing.place} can't be read: {cause.strerror}") from cause
    ids = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not ids or listing.source_root is None:
        raise UsageError(f"{listing.place} holds no id, one a line, or there is no --source-root")
    filesystem, root = fsspec.core.url_to_fs(listing.source_root, **listing.options)
    found = []
    for id_ in dict.fromkeys(ids):
        paths = {file: f"{root}/{id_}/{file}" for file in files}
        texts = {
            file: filesystem.cat_file(path).decode()
            for file, path in paths.items()
            if filesystem.exists(path)
        }
        found.append(Repo(id_, texts))
    return found

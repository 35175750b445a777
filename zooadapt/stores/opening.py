"""Open the store at a URL."""

from typing import Any

import fsspec

from zooadapt.errors import UsageError, one_line
from zooadapt.stores.local import LocalStore
from zooadapt.stores.s3 import S3Store
from zooadapt.stores.store import Store
from zooadapt.stores.web import WebStore

KINDS: tuple[type[Store], ...] = (LocalStore, S3Store, WebStore)
"""The kinds of store. The first that lists a filesystem's protocol is used, else `Store`."""


def open_store(url: str, options: dict[str, Any] | None = None) -> Store:
    """The store at `url`, an absolute fsspec URL or a local path. Nothing is created yet.

    Open the store in the process that uses it, never before a fork. Raises UsageError if fsspec
    can't open the URL.
    """
    try:
        filesystem, root = fsspec.core.url_to_fs(
            url, **{"use_listings_cache": False, **(options or {})}
        )
    except Exception as cause:
        raise UsageError(
            f"can't open {one_line(Exception(url))} ({one_line(cause)}); check the URL and options"
        ) from cause
    protocols = (
        {filesystem.protocol} if isinstance(filesystem.protocol, str) else {*filesystem.protocol}
    )
    kind = next((kind for kind in KINDS if protocols & {*kind.protocols}), Store)
    return kind(filesystem, root)

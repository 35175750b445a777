"""Which kind of store a URL is of."""

from typing import Any

import fsspec

from zooadapt.errors import UsageError, one_line
from zooadapt.stores.local import LocalStore
from zooadapt.stores.s3 import S3Store
from zooadapt.stores.store import Store
from zooadapt.stores.web import WebStore

KINDS: tuple[type[Store], ...] = (LocalStore, S3Store, WebStore)
"""A filesystem's store is the first of these that names its protocol, else a plain `Store`."""


def open_store(url: str, options: dict[str, Any] | None = None) -> Store:
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
    spoken = (
        {filesystem.protocol} if isinstance(filesystem.protocol, str) else {*filesystem.protocol}
    )
    kind = next((kind for kind in KINDS if spoken & {*kind.protocols}), Store)
    return kind(filesystem, root)

"""A folder behind any web server; it is only read, and needn't be listed."""

from urllib.parse import quote

from zooadapt.stores.store import Store


class WebStore(Store):
    """A folder behind any web server; it is only read, and needn't be listed."""

    protocols = ("https",)

    def path(self, key: str) -> str:
        """The URL of `key`, in which "%" is part of a name."""
        return f"{self.root}/{quote(key)}"

"""A read-only store: a folder behind any web server, which needn't list its files."""

from urllib.parse import quote

from zooadapt.stores.store import Store


class WebStore(Store):
    """A read-only store: a folder behind any web server, which needn't list its files."""

    protocols = ("https",)

    def path(self, key: str) -> str:
        """The URL of `key`. A "%" in the key is part of a name, so it is encoded too."""
        return f"{self.root}/{quote(key)}"

"""Pretrained image models for any number of channels: whole zoos adapted, proved and mirrored."""

from importlib.metadata import version
from typing import Any

__version__ = version("zooadapt")
__all__ = ["__version__", "open_mirror"]


def __getattr__(name: str) -> Any:
    """`open_mirror` is imported when it is first asked for: it needs torch."""
    if name == "open_mirror":
        from zooadapt.mirror import open_mirror

        return open_mirror
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

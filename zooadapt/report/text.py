"""Numbers as people read them, and colours."""

import os
from typing import TextIO

import click


def size(count: float) -> str:
    """A number of bytes for people, such as ``18.8 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def counted(number: int, noun: str) -> str:
    """A number with its noun, such as ``1 model`` or ``2,000 models``."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def painted(text: str, colour: str, stream: TextIO) -> str:
    """The text in a colour, where the stream is a terminal and NO_COLOR isn't set."""
    wanted = stream.isatty() and not os.environ.get("NO_COLOR")
    return click.style(text, fg=colour) if wanted else text


def duration(seconds: float) -> str:
    """A duration for people, such as 8.1 s, 12.4 min or 3 h 5 min."""
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{seconds / 60:.3g} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"

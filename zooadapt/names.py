"""Any name as one part of a key or path, on any store."""

import hashlib
from urllib.parse import quote

LONGEST = 200
"""Bytes of a part; filesystems take 255, and something may be added to it."""
_HASH = 32
"""Hex digits."""


def safe(name: str) -> str:
    """`name` as one part of a key: printable ASCII, no "/", never empty, "." or "..".

    Different names stay different. Unusual characters are percent-encoded; of a name that is too
    long the beginning stays, with "~", which stands in no other part, and a hash of the whole.

    Names that differ in nothing but case may share a folder, where a store knows no case. So what
    lies in a model's folder is named by its content or at random, never by what the model is.
    """
    part = quote(name, safe="").replace("~", "%7E") if name.strip(".") else quote(name) + "%"
    if len(part) <= LONGEST:
        return part
    digest = hashlib.sha256(name.encode()).hexdigest()[:_HASH]
    return f"{part[: LONGEST - 1 - _HASH]}~{digest}"

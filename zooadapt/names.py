"""What is called how in a mirror, on any store."""

import hashlib
import json
import posixpath
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

WEIGHTS = "model.safetensors"
CONFIG = "config.json"

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


def model_folder(zoo: str, model: str) -> str:
    """The key below which a model's objects lie."""
    return f"weights/{safe(zoo)}/{safe(model)}"


def content_id(digest: str, config: bytes = b"") -> str:
    """The first 16 hex digits of sha256(hex digest of the weights ‖ config.json)."""
    return hashlib.sha256(digest.encode() + config).hexdigest()[:16]


def source_stem(folder: str, config: dict[str, Any]) -> str:
    """The key of the original stem that the config.json of a variant's folder names."""
    return posixpath.normpath(f"{folder}/{config['zooadapt']['source_stem']}")


def companions(config: Mapping[str, Any]) -> dict[str, bytes]:
    """The further files of a variant's folder, by name: its config.json holds what is in them.

    Raises ValueError for a name that isn't one of a file in that folder.
    """
    files: dict[str, Any] = config.get("zooadapt", {}).get("companions", {})
    for name in files:
        if safe(name) != name or name in (WEIGHTS, CONFIG):
            raise ValueError(f"{name!r} can't be the name of a file beside {CONFIG}")
    return {name: json.dumps(content, indent=2).encode() for name, content in files.items()}


def file_name(url: str) -> str:
    """What follows the last "/" of a URL's path."""
    return re.split("[?#]", url)[0].rpartition("/")[2]

"""The names of a mirror's files and folders, which are valid on every kind of store."""

import hashlib
import json
import posixpath
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
MANIFEST = "manifest.parquet"
SECTION = "zooadapt"
"""The section of config.json that tells how a variant was made, and the attribute of loaded models
that holds it."""
NOTE = "zooadapt bands: "
"""Begins the note in timm's ``pretrained_cfg`` that names a variant's bands, joined by commas."""

LONGEST = 200
"""The most bytes of one part of a key. Filesystems take 255; the rest is room for a suffix."""
_HASH = 32
"""Hex digits of the hash in a shortened name."""


def safe(name: str) -> str:
    """`name` as one part of a key: printable ASCII, no "/", never empty, "." or "..".

    Different names give different parts. Unusual characters are percent-encoded. A name that is
    too long is cut, and "~" and a hash of the whole name are appended; no other part has a "~".

    On a store that ignores case, names that differ only in case share a folder. That is why the
    objects in a model's folder are named by their content or at random, never after the model.
    """
    part = quote(name, safe="").replace("~", "%7E") if name.strip(".") else quote(name) + "%"
    if len(part) <= LONGEST:
        return part
    digest = hashlib.sha256(name.encode()).hexdigest()[:_HASH]
    return f"{part[: LONGEST - 1 - _HASH]}~{digest}"


def model_folder(zoo: str, model: str) -> str:
    """The key of the folder that holds a model's variants and original stems."""
    return f"weights/{safe(zoo)}/{safe(model)}"


def content_id(digest: str, config: bytes = b"") -> str:
    """The first 16 hex digits of sha256(hex digest of the weights ‖ config.json)."""
    return hashlib.sha256(digest.encode() + config).hexdigest()[:16]


def source_stem(folder: str, config: dict[str, Any]) -> str:
    """The key of a variant's original stem, which the `config` in the variant's `folder` names."""
    return posixpath.normpath(f"{folder}/{config['zooadapt']['source_stem']}")


def companions(config: Mapping[str, Any]) -> dict[str, bytes]:
    """The additional files of a variant's folder by name; their content comes from its `config`.

    Raises ValueError for a name that no file beside config.json can have.
    """
    files: dict[str, Any] = config.get("zooadapt", {}).get("companions", {})
    for name in files:
        if safe(name) != name or name in (WEIGHTS, CONFIG):
            raise ValueError(f"{name!r} can't be the name of a file beside {CONFIG}")
    return {name: json.dumps(content, indent=2).encode() for name, content in files.items()}


def file_name(url: str) -> str:
    """The file name in a URL: what follows the last "/" of its path."""
    return re.split("[?#]", url)[0].rpartition("/")[2]

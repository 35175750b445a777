"""What the cache of this machine holds, and making room in it: each variant is a whole copy.

A variant can always be pulled or made again, so any of them can be removed.
"""

import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from zooadapt.errors import UsageError
from zooadapt.names import CONFIG, WEIGHTS
from zooadapt.reader.cache import lock_of

LIMIT = "ZOOADAPT_CACHE_LIMIT"
"""The environment variable that names the most bytes of variants in the cache, such as 20GB."""
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B", re.I)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True)
class Kept:
    """A variant in the cache."""

    folder: Path
    kind: str
    """Where it comes from: "pulled" from a mirror, "derived" from another variant, or "made"."""
    zoo: str
    model: str
    variant: str
    """The name of the variant's folder, such as ``8ch-repeat-cd31993023d573b9``."""
    bytes: int
    used: float
    """When it was last pulled or loaded, in seconds since the epoch."""


def found(root: Path) -> list[Kept]:
    """The variants in the cache folder `root`, the one that was used last first."""
    return sorted(_found(root), key=lambda kept: -kept.used)


def _found(root: Path) -> Iterator[Kept]:
    kinds = {"weights": "pulled"}
    for place in sorted(path for path in root.glob("*") if path.is_dir()):
        kind = place.name.partition("-")[0]
        if kind not in ("weights", "derived", "made"):
            continue
        for config in place.rglob(CONFIG):
            folder = config.parent
            if (folder / WEIGHTS).exists():
                zoo, model, variant = folder.parts[-3:]
                size = (folder / WEIGHTS).stat().st_size
                of = kinds.get(kind, kind)
                yield Kept(folder, of, zoo, model, variant, size, config.stat().st_mtime)


def prune(root: Path, most: int | None = None, older_than: float | None = None) -> list[Kept]:
    """Remove variants from the cache; returns those removed.

    All that weren't used for `older_than` seconds are removed; then those used longest ago, until
    at most `most` bytes are left. A variant that a process is writing now stays.
    """
    gone, left = [], 0
    for kept in found(root):
        too_old = older_than is not None and time.time() - kept.used > older_than
        too_much = most is not None and left + kept.bytes > most
        if (too_old or too_much) and _remove(root, kept.folder):
            gone.append(kept)
        else:
            left += kept.bytes
    return gone


def _remove(root: Path, folder: Path) -> bool:
    """Remove a variant's folder, unless a process holds its lock; returns whether it did."""
    try:
        with FileLock(lock_of(root, folder), timeout=0):
            (folder / CONFIG).unlink()  # without it, the rest counts as unfinished
            shutil.rmtree(folder)
    except (Timeout, OSError):
        return False
    return True


def keep_limit(root: Path, just_used: Path) -> None:
    """Remove what is too much for the limit in the environment; never the one just used.

    Raises UsageError if the limit isn't a size.
    """
    stated = os.environ.get(LIMIT)
    if not stated:
        return
    most, size = parse_size(stated, LIMIT), (just_used / WEIGHTS).stat().st_size
    if just_used.is_relative_to(root.absolute()):
        prune(root, max(most, size))


def parse_size(text: str, what: str) -> int:
    """The bytes of a size such as ``20GB``. Raises UsageError, which names `what`."""
    stated = _SIZE.fullmatch(text.strip())
    if not stated:
        raise UsageError(f"{what} {text}: give a size, such as 500MB or 20GB")
    return int(float(stated[1]) * _UNITS[stated[2].upper()])

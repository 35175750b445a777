"""What the cache of this machine holds, and making room in it: each variant is a whole copy.

A variant can always be pulled or made again, so any of them can be removed.
"""

import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from zooadapt.errors import UsageError
from zooadapt.names import CONFIG, WEIGHTS
from zooadapt.reader.cache import lock_of

LIMIT = "ZOOADAPT_CACHE_LIMIT"
"""The environment variable that names the most bytes of variants in the cache, such as 20GB."""
_KINDS = {"weights": "pulled", "derived": "derived", "made": "made"}
"""Folders of the cache, and where the variants in them come from."""
_TRASH = "trash"
_RECENT = 300.0
"""Seconds."""
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
    for place in sorted(path for path in root.glob("*") if path.is_dir()):
        kind = _KINDS.get(place.name.partition("-")[0])
        if kind is None:
            continue
        for name, _, files in os.walk(place):  # it passes over what another process removes
            folder = Path(name)
            if WEIGHTS in files and CONFIG in files:
                with suppress(OSError):
                    yield _kept(folder, kind)


def _kept(folder: Path, kind: str) -> Kept:
    zoo, model, variant = folder.parts[-3:]
    used, size = (folder / CONFIG).stat().st_mtime, (folder / WEIGHTS).stat().st_size
    return Kept(folder, kind, zoo, model, variant, size, used)


def prune(
    root: Path,
    most: int | None = None,
    older_than: float | None = None,
    spare: Path | None = None,
) -> list[Kept]:
    """Remove variants from the cache; returns those removed.

    All that weren't used for `older_than` seconds are removed. Of the others those used last stay,
    as far as they fit in `most` bytes, and all older ones are removed. A variant that a process is
    making now stays. With `spare`, the folder of the variant just used, that one stays, and so does
    all that was used within the last minutes: another process may be about to load it.
    """
    shutil.rmtree(root / _TRASH, ignore_errors=True)  # of a process that was killed
    gone, left, is_full, now = list[Kept](), 0, False, time.time()
    for kept in found(root):
        left += kept.bytes
        is_full = is_full or (most is not None and left > most)
        too_old = older_than is not None and now - kept.used > older_than
        spared = spare is not None and (
            now - kept.used < _RECENT or kept.folder.absolute() == spare.absolute()
        )
        if (too_old or is_full) and not spared and _remove(root, kept):
            gone.append(kept)
    return gone


def _remove(root: Path, kept: Kept) -> bool:
    """Remove a variant, unless a process is making it; returns whether it did."""
    making = kept.folder.parent if kept.kind == "made" else kept.folder
    trash = root / _TRASH / uuid.uuid4().hex
    try:
        (root / "locks").mkdir(exist_ok=True)
        with FileLock(lock_of(root, making), timeout=0):
            trash.parent.mkdir(exist_ok=True)
            kept.folder.rename(trash)
    except (Timeout, OSError):
        return False
    shutil.rmtree(trash, ignore_errors=True)
    return True


def limit() -> int | None:
    """The limit in the environment, in bytes; None for none. Raises UsageError for no size."""
    stated = os.environ.get(LIMIT)
    return parse_size(stated, LIMIT) if stated else None


def parse_size(text: str, what: str) -> int:
    """The bytes of a size such as ``20GB``. Raises UsageError, which names `what`."""
    stated = _SIZE.fullmatch(text.strip())
    if not stated:
        raise UsageError(f"{what} {text}: give a size, such as 500MB or 20GB")
    return int(float(stated[1]) * _UNITS[stated[2].upper()])

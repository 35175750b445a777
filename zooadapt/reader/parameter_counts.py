"""Count the parameters of models by building them on the meta device; keep counts in the cache.

A build takes 0.1 to 0.5 s. Models with the same architecture, arguments and image size share one
build.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

from zooadapt import progress
from zooadapt.errors import StageError
from zooadapt.names import safe
from zooadapt.reader.cache import make_folder
from zooadapt.types import ModelEntry
from zooadapt.zoos import registry

BUILDS_A_PROCESS = 32
"""Builds that justify another process, which must import torch before it starts."""
_PROCESSES = 8
"""The most processes that build at the same time."""
_KEPT_EVERY = 50
"""Builds after which the counts are saved. A killed process loses only the counts since then."""

Counts = Mapping[str, int | None]
"""The parameter count of each build, by `_key`; None for a model that can't be built."""


def counted(entries: Sequence[ModelEntry], root: Path) -> list[int | None]:
    """The parameter count of each entry of one zoo; None for a model that can't be built.

    Counts made before with the same release of the zoo's library are read from the cache folder
    `root`. New counts are saved there from time to time.
    """
    if not entries:
        return []
    library = registry.library(entries[0].zoo)
    file = root / "parameters" / f"{safe(library)}-{version(library)}.json"
    keys = [_key(entry) for entry in entries]
    known = _kept(file)
    todo = {k: e for k, e in zip(keys, entries, strict=True) if k is not None and k not in known}
    new: dict[str, int | None] = {}
    with closing(build_all([*todo.values()])) as numbers:
        for key, number in zip(todo, numbers, strict=True):
            new[key] = number
            if len(new) % _KEPT_EVERY == 0 or len(new) == len(todo):
                _keep(file, {**_kept(file), **new})
    counts = {**known, **new}
    return [None if key is None else counts[key] for key in keys]


def _key(entry: ModelEntry) -> str | None:
    """A hash of all that a build depends on; None if the model's description is invalid."""
    try:
        with registry.blaming(entry.zoo):
            facts = registry.facts(entry)
            size = facts.chans, facts.size, facts.num_classes
            given = registry.arguments(entry) or entry.config
    except StageError:
        return None
    what = json.dumps([entry.zoo, entry.architecture, given, size], sort_keys=True)
    return hashlib.sha256(what.encode()).hexdigest()[:32]


def _kept(file: Path) -> Counts:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _keep(file: Path, counts: Counts) -> None:
    make_folder(file.parent)
    unfinished = file.with_name(f"{file.name}.{uuid.uuid4().hex}")
    # Models that can't be built aren't kept: what they lack can be installed next time.
    numbers = {key: number for key, number in counts.items() if number is not None}
    unfinished.write_text(json.dumps(numbers))
    unfinished.replace(file)


def build_all(entries: Sequence[ModelEntry]) -> Generator[int | None, None, None]:
    """Yields each entry's parameter count. Shows a bar; uses several processes for many entries."""
    processes = min(os.cpu_count() or 1, _PROCESSES, len(entries) // BUILDS_A_PROCESS)
    if processes < 2:
        yield from _shown(map(parameters, entries), len(entries))
        return
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        try:
            yield from _shown(pool.map(parameters, entries, chunksize=4), len(entries))
        finally:
            pool.shutdown(cancel_futures=True)


def _shown(numbers: Iterable[int | None], total: int) -> Iterator[int | None]:
    yield from progress.bar(numbers, total=total, desc="parameters", unit=" models")


def parameters(entry: ModelEntry) -> int | None:
    """The number of a model's parameters; None if it can't be built."""
    import torch  # takes seconds, which a list without counts needn't take

    zoo = registry.get(entry.zoo)
    try:
        with torch.device("meta"):
            model = zoo.build(entry, zoo.facts(entry).chans)
    except Exception:  # any library can raise any error; a run reports it
        return None
    return sum(parameter.numel() for parameter in model.parameters())

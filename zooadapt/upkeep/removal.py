"""Take models down from a mirror: remove their rows, their weights and their original stems.

The takedown is recorded first, so that no job makes the models again, whatever happens next. Then
the rows go, then the objects. If this is interrupted, the same call finishes it.
"""

import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from zooadapt import progress
from zooadapt.errors import RunError, UsageError, one_line
from zooadapt.mirror import manifest
from zooadapt.mirror.records import write_record
from zooadapt.mirror.scan import Records
from zooadapt.mirror.takedowns import LISTS, Takedowns
from zooadapt.names import model_folder
from zooadapt.stores.store import Store
from zooadapt.types import Row
from zooadapt.upkeep import garbage
from zooadapt.zoos import registry

_OBJECTS_AT_ONCE = 16
"""How many objects are looked up or removed at the same time."""

_log = logging.getLogger("zooadapt")


@dataclass(frozen=True)
class Pattern:
    """A pattern that matches variants of a model by their channel count and bands."""

    in_chans: int | None = None
    """The number of channels; None matches any."""
    bands: str | None = None
    """The comma-joined names of the bands; None matches any."""

    def means(self, row: Row) -> bool:
        """Whether the pattern matches the variant of a row."""
        return self.in_chans in (None, row["in_chans"]) and self.bands in (None, row["bands"])


ALL = (Pattern(),)
"""Matches the whole model, including variants that will be asked for later."""


@dataclass(frozen=True)
class Removal:
    """The rows and objects of one model that a takedown removes."""

    zoo: str
    model: str
    patterns: tuple[Pattern, ...]
    variants: tuple[Row, ...]
    """The rows that leave the manifest."""
    keys: tuple[str, ...]
    """The keys of the objects to remove, also of variants that aren't in the manifest."""
    bytes: int
    """The size of these objects."""

    @property
    def whole(self) -> bool:
        """Whether the whole model goes, including its original stems."""
        return self.patterns == ALL


def find(
    store: Store, glob: str, zoo: str | None = None, patterns: Sequence[Pattern] = ALL
) -> list[Removal]:
    """What a takedown of the models that match `glob` would remove; removes nothing itself.

    Includes models taken down before. Raises UsageError if the mirror never had such a model.
    """
    names = _models(store, glob, zoo)
    records = _records_of(store, names)
    usable = manifest.merge(records).usable
    return [_removal(store, name, tuple(patterns), records, usable) for name in names]


def _records_of(store: Store, names: Iterable[tuple[str, str]]) -> list[Row]:
    """The records of the models, and of others that share their folders where case is ignored."""
    return [record for history in Records(store, models=names).histories() for record in history]


def _models(store: Store, glob: str, zoo: str | None) -> list[tuple[str, str]]:
    """The zoo and name of each model that is called `glob` or, if none is, that matches it."""
    known = {(history[0]["zoo"], history[0]["model"]) for history in manifest.histories(store)}
    asked = [name for name in known if zoo in (None, name[0])]
    exact = [name for name in asked if glob in (name[1], "/".join(name))]
    found = exact or [name for name in asked if registry.named(*name, glob)]
    if not found:
        raise UsageError(f"{store.url} has no record of {glob}; zooadapt ls shows what it has")
    return sorted(found)


def _removal(
    store: Store, name: tuple[str, str], patterns: tuple[Pattern, ...],
    records: Sequence[Row], usable: Sequence[Row],
) -> Removal:  # fmt: skip
    zoo, model = name
    going, staying = [], set()
    for row in usable:
        mine = (row["zoo"], row["model"]) == (zoo, model)
        if mine and any(pattern.means(row) for pattern in patterns):
            going.append(row)
        else:
            staying.add(row["folder"].lower())  # because some stores ignore case
    listed = store.list(model_folder(zoo, model))
    folders = {match[1] for key in listed if (match := garbage.OURS.fullmatch(key))}
    if patterns == ALL:
        if any(folder.lower() in staying for folder in folders):  # another model shares a folder
            folders = {folder for folder in folders if "/source-" not in folder}
    else:
        folders &= _recorded(zoo, model, patterns, records)
    folders = {folder for folder in folders if folder.lower() not in staying}
    keys = tuple(key for key in listed if key.rpartition("/")[0] in folders)
    return Removal(zoo, model, patterns, tuple(going), keys, _bytes(store, keys))


def _recorded(
    zoo: str, model: str, patterns: Iterable[Pattern], records: Iterable[Row]
) -> set[str]:
    """The folders that any record of the model names for variants that the patterns match."""
    mine = [record for record in records if (record["zoo"], record["model"]) == (zoo, model)]
    variants = [variant for record in mine for variant in record["variants"]]
    return {v["folder"] for v in variants if any(pattern.means(v) for pattern in patterns)}


def _bytes(store: Store, keys: Sequence[str]) -> int:
    def size(key: str) -> int:
        with suppress(FileNotFoundError):
            return store.size(key)
        return 0

    with ThreadPoolExecutor(_OBJECTS_AT_ONCE) as pool:
        return sum(pool.map(size, keys))


def remove(store: Store, found: Sequence[Removal], reason: str, run_id: str) -> None:
    """Take down what was found, until `undo`. Takedowns on record aren't recorded again.

    If a running job publishes such a variant meanwhile, it gets no row; its objects go with the
    next call, or as garbage. Raises RunError if the store refuses to write or remove.
    """
    try:
        _record(store, found, "removed", reason, run_id)
        manifest.compact(store)
        with ThreadPoolExecutor(_OBJECTS_AT_ONCE) as pool:
            keys = [key for removal in found for key in removal.keys]
            list(progress.bar(pool.map(store.remove, keys), total=len(keys), desc="removed"))
        for removal in found:
            _tidy(store, removal)
    except OSError as cause:
        raise RunError(
            f"not everything could be removed ({one_line(cause)}): run the same command again to "
            f"finish"
        ) from cause


def _tidy(store: Store, removal: Removal) -> None:
    """Remove the folders that became empty; of a whole model, abort its unfinished uploads too."""
    for folder in {key.rpartition("/")[0] for key in removal.keys}:
        store.remove_empty(folder)
    if removal.whole:
        folder = model_folder(removal.zoo, removal.model)
        store.remove_empty(folder)
        try:
            for upload in store.unfinished(folder):
                store.abort(upload)
        except OSError as error:
            _log.warning("unfinished uploads can't be listed: %s", one_line(error))


def undo(store: Store, found: Sequence[Removal], reason: str, run_id: str) -> None:
    """Undo takedowns: the next job that is asked for these variants makes them again."""
    _record(store, found, "restored", reason, run_id)
    manifest.compact(store)


def _record(store: Store, found: Sequence[Removal], kind: str, reason: str, run_id: str) -> None:
    assert kind in LISTS
    taken = Takedowns(_records_of(store, [(removal.zoo, removal.model) for removal in found]))
    for removal in found:
        patterns = [
            {"in_chans": pattern.in_chans, "bands": pattern.bands, "reason": reason}
            for pattern in removal.patterns
            if kind == "restored"
            or not taken.holds(removal.zoo, removal.model, pattern.in_chans, pattern.bands)
        ]
        if patterns:
            write_record(store, removal.zoo, removal.model, run_id, content_of(kind, patterns))


def content_of(kind: str, patterns: list[Row]) -> Row:
    """The content of a record that takes variants down or undoes that; `kind` is one of `LISTS`."""
    nowhere = {"location": "", "identity": ""}
    now = datetime.now(UTC).isoformat()
    head = {"created_at": now, "adapter_version": 0, "versions": {}, "source": nowhere}
    return {**head, "variants": [], "failures": [], kind: patterns}

"""Models taken down from a mirror: their rows, their weights and their original stems.

The record goes first, so that whatever happens nobody makes them again; then the rows; then the
objects. The same call finishes what was interrupted.
"""

import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from tqdm import tqdm

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
"""Objects removed, or asked after, at once."""

_log = logging.getLogger("zooadapt")


@dataclass(frozen=True)
class Pattern:
    """Some variants of a model."""

    in_chans: int | None = None
    """None: any."""
    bands: str | None = None
    """Comma-joined names; None: any."""

    def means(self, row: Row) -> bool:
        """Whether the variant of a row is one of them."""
        return self.in_chans in (None, row["in_chans"]) and self.bands in (None, row["bands"])


ALL = (Pattern(),)
"""The whole model, whatever may be asked of it later."""


@dataclass(frozen=True)
class Removal:
    """What of one model goes, or went."""

    zoo: str
    model: str
    patterns: tuple[Pattern, ...]
    variants: tuple[Row, ...]
    """Rows of the manifest that go."""
    keys: tuple[str, ...]
    """Objects, those of variants that were never listed or are no longer included."""
    bytes: int

    @property
    def whole(self) -> bool:
        """Whether nothing of the model stays, its original stems included."""
        return self.patterns == ALL


def find(
    store: Store, glob: str, zoo: str | None = None, patterns: Sequence[Pattern] = ALL
) -> list[Removal]:
    """What would go of the models that match, those taken down already included; removes nothing.

    Raises UsageError where the mirror has no such model, or never had.
    """
    names = _models(store, glob, zoo)
    records = _records_of(store, names)
    usable = manifest.merge(records).usable
    return [_removal(store, name, tuple(patterns), records, usable) for name in names]


def _records_of(store: Store, names: Iterable[tuple[str, str]]) -> list[Row]:
    """Those of models, and of others that share their folders, as some stores know no case."""
    return [record for history in Records(store, models=names).histories() for record in history]


def _models(store: Store, glob: str, zoo: str | None) -> list[tuple[str, str]]:
    """Zoo and name of the models; one that is called just so goes before those that match."""
    known = {(history[0]["zoo"], history[0]["model"]) for history in manifest.histories(store)}
    asked = [name for name in known if zoo in (None, name[0])]
    exact = [name for name in asked if glob in (name[1], "/".join(name))]
    found = exact or [name for name in asked if registry.named(*name, glob)]
    if not found:
        raise UsageError(f"{store.root} has no record of {glob}; zooadapt ls shows what it has")
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
            staying.add(row["folder"].lower())  # some stores know no upper and lower case
    listed = store.list(model_folder(zoo, model))
    folders = {match[1] for key in listed if (match := garbage.OURS.fullmatch(key))}
    if patterns == ALL:
        if any(folder.lower() in staying for folder in folders):  # another model's, of such a store
            folders = {folder for folder in folders if "/source-" not in folder}
    else:
        folders &= _recorded(zoo, model, patterns, records)
    folders = {folder for folder in folders if folder.lower() not in staying}
    keys = tuple(key for key in listed if key.rpartition("/")[0] in folders)
    return Removal(zoo, model, patterns, tuple(going), keys, _bytes(store, keys))


def _recorded(
    zoo: str, model: str, patterns: Iterable[Pattern], records: Iterable[Row]
) -> set[str]:
    """The folders that some record gives for variants of the patterns."""
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
    """Take down what was found, for good; a model that is down already isn't recorded again.

    What a job that is at work publishes meanwhile doesn't become a row; its objects go with the
    next call, or with `garbage`. Raises RunError where the store refuses.
    """
    try:
        _record(store, found, "removed", reason, run_id)
        manifest.compact(store)
        with ThreadPoolExecutor(_OBJECTS_AT_ONCE) as pool:
            keys = [key for removal in found for key in removal.keys]
            list(tqdm(pool.map(store.remove, keys), total=len(keys), desc="removed", disable=None))
        for removal in found:
            _tidy(store, removal)
    except OSError as cause:
        raise RunError(
            f"not all could be removed ({one_line(cause)}); what is recorded stays, and the same "
            f"command goes on"
        ) from cause


def _tidy(store: Store, removal: Removal) -> None:
    """Folders that became empty, and what killed jobs or those at work have sent of uploads."""
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
    """Allow what was taken down again: the next job that is asked for it makes it anew."""
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
    nowhere = {"location": "", "identity": ""}
    now = datetime.now(UTC).isoformat()
    head = {"created_at": now, "adapter_version": 0, "versions": {}, "source": nowhere}
    return {**head, "variants": [], "failures": [], kind: patterns}

"""Find and remove the objects that no row of the manifest and no record needs any more.

Garbage is only what zooadapt itself wrote, and what nobody has written or named since a given time:

- a variant's folder that neither the manifest nor the latest record of the variant names. If a
  newer record replaced the folder, its age counts from then, not from when it was written;
- an original stem that none of the remaining variants' config.json names;
- temporary objects of processes that were killed while writing;
- on S3, multipart uploads that were begun and never completed.

Records are never garbage. Nothing is removed of a model that has a damaged record, or whose damaged
record was set aside since the given time: nobody knows which folders that record names.
"""

import json
import logging
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from zooadapt import progress
from zooadapt.errors import RunError, one_line
from zooadapt.mirror import columns, manifest, runs
from zooadapt.mirror.manifest import FAILURES, MANIFEST, PAGE
from zooadapt.mirror.run_files import began
from zooadapt.mirror.scan import ARCHIVE
from zooadapt.mirror.takedowns import Takedowns
from zooadapt.names import CONFIG, source_stem
from zooadapt.stores.multipart import Unfinished
from zooadapt.stores.store import Store
from zooadapt.types import Row
from zooadapt.upkeep.rebuild import ASIDE

_log = logging.getLogger("zooadapt")

OURS = re.compile(r"(weights/[^/]+/[^/]+/(?:\d+ch-[^/]+|source)-[0-9a-f]{16})/[^/]+")
"""A key in the folder of a variant or of an original stem; its first group is the folder."""
_TEMPORARY = re.compile(r".+\.[0-9a-f]{32}\.tmp")
_PLACES = ("weights", "records", "runs")
_TOP = (MANIFEST, FAILURES, PAGE, ARCHIVE)
_OBJECTS_AT_ONCE = 16
"""How many objects are looked up or removed at the same time."""

Folders = dict[str, list[str]]
"""The keys of the objects in each folder, by folder."""


@dataclass(frozen=True)
class Garbage:
    """One folder, object or unfinished upload that can be removed."""

    name: str
    """The path of the folder or object, relative to the mirror's root."""
    bytes: int
    """The size of its objects, or of the upload's parts."""
    since: datetime
    """When it was last written or named."""
    keys: tuple[str, ...] = ()
    """The keys of its objects."""
    upload: Unfinished | None = None
    """The unfinished upload, if this garbage is one; `keys` is then empty."""


def spared(store: Store, before: datetime) -> datetime:
    """`before`, or when the oldest run that is at work began, if that is earlier.

    Such a run publishes objects that no record names yet.
    """
    at_work = runs.at_work(store)
    for seen in at_work:
        _log.warning("run %s is at work: nothing that was written since is removed", seen.run_id)
    return min([before, *(began(seen.run_id) for seen in at_work)])


def find(store: Store, before: datetime) -> list[Garbage]:
    """The garbage that nobody has written or named since `before`, sorted by name; removes nothing.

    Raises UsageError if there is no mirror, and RunError if the manifest can't be read or no record
    says what is needed.
    """
    rows = manifest.read_table(store, MANIFEST).to_pylist()
    keys = _keys(store)
    records, damaged = manifest.scan_records(store)
    unknown = {*damaged, *_set_aside(store, before)}
    folders = _without_models_of(unknown, _folders(keys))
    if folders and not records:
        raise RunError(
            f"{store.url} has no sound record that says what it needs, so nothing is removed: "
            f"restore its records"
        )
    live, replaced = _named(rows, records)
    variants = {folder for folder in folders if not _is_source(folder)}
    found = _old(store, {name: folders[name] for name in variants - live}, replaced, before)
    staying = variants - {garbage.name for garbage in found}
    needed = _sources_of(store, staying, folders)
    sources = {name: folders[name] for name in folders.keys() - variants - needed}
    found += _old(store, sources, {}, before)
    going = {key for garbage in found for key in garbage.keys}
    temporary = {key: [key] for key in keys if _TEMPORARY.fullmatch(key) and key not in going}
    found += _old(store, temporary, {}, before)
    return sorted([*found, *_uploads(store, before)], key=lambda garbage: garbage.name)


def remove(store: Store, found: Sequence[Garbage], before: datetime) -> list[Garbage]:
    """Remove the garbage except what was written again since it was found; returns what went."""
    with ThreadPoolExecutor(_OBJECTS_AT_ONCE) as pool:
        one = partial(_remove, store, before)
        gone = list(progress.bar(pool.map(one, found), total=len(found), desc="removed"))
    return [garbage for garbage, went in zip(found, gone, strict=True) if went]


def _remove(store: Store, before: datetime, garbage: Garbage) -> bool:
    if garbage.upload:
        store.abort(garbage.upload)
        return True
    now = _garbage(store, {}, garbage.name, garbage.keys)
    if now is None or now.since >= before:
        return False
    for key in garbage.keys:
        store.remove(key)
    store.remove_empty(garbage.name)
    return True


def _keys(store: Store) -> list[str]:
    """The keys of all objects that zooadapt writes. Other objects in the root aren't listed."""
    top = [key for key in store.list_top() if key.startswith(_TOP)]
    return [*top, *(key for place in _PLACES for key in store.list(place))]


def _folders(keys: Iterable[str]) -> Folders:
    """The folders of variants and original stems; other objects below weights/ are ignored."""
    found: Folders = {}
    for key in keys:
        if ours := OURS.fullmatch(key):
            found.setdefault(ours[1], []).append(key)
    return found


def _set_aside(store: Store, before: datetime) -> list[str]:
    """The former keys of the damaged records that were set aside at or after `before`."""
    aside = [key for key in store.list(ASIDE) if store.modified(key) >= before]
    return [key.removeprefix(f"{ASIDE}/") for key in aside]


def _without_models_of(damaged: Iterable[str], folders: Folders) -> Folders:
    """The folders, without those of the models that the `damaged` records belong to."""
    for key in damaged:
        _log.warning("%s is or was damaged: nothing of its model is removed", key)
    models = {posixpath.dirname(key).replace("records", "weights", 1) for key in damaged}
    return {name: keys for name, keys in folders.items() if _model(name) not in models}


def _model(folder: str) -> str:
    return posixpath.dirname(folder)


def _is_source(folder: str) -> bool:
    return posixpath.basename(folder).startswith("source-")


def _named(rows: Iterable[Row], records: Sequence[Row]) -> tuple[set[str], dict[str, datetime]]:
    """The folders of the current variants, and the time at which each older one was replaced."""
    now: dict[tuple[object, ...], str] = {}
    replaced: dict[str, datetime] = {}
    taken = Takedowns(records)
    for place, record in enumerate(records):  # oldest first
        for row in [] if record.get("amends") else manifest.merge([record]).usable:
            previous = now.get(columns.key(row))
            if previous and previous != row["folder"]:
                replaced[previous] = row["created_at"]
            if taken.voids(place, row) and (event := taken.of(row)):
                replaced[row["folder"]] = datetime.fromisoformat(event.created_at)
                now.pop(columns.key(row), None)
            else:
                now[columns.key(row)] = row["folder"]
    return {*now.values(), *(row["folder"] for row in rows)}, replaced


def _sources_of(store: Store, variants: Iterable[str], folders: Folders) -> set[str]:
    """The folders of the original stems that the variants name.

    If a model has only one stem, the variants name that one, so no config.json is read. If a
    config.json is damaged, all stems of its model count as named.
    """
    sources: dict[str, set[str]] = {}
    for folder in filter(_is_source, folders):
        sources.setdefault(_model(folder), set()).add(folder)
    needed: set[str] = set()
    configs = []
    for variant in variants:
        of_model = sources.get(_model(variant), set())
        if len(of_model) < 2:
            needed |= of_model
        elif f"{variant}/{CONFIG}" in folders[variant]:
            configs.append(f"{variant}/{CONFIG}")
    for key, data in store.read_many(configs).items():
        try:
            stem = source_stem(posixpath.dirname(key), json.loads(data))
            needed.add(posixpath.dirname(stem))
        except (ValueError, KeyError, TypeError):
            needed |= sources[_model(posixpath.dirname(key))]
    return needed


def _old(
    store: Store, folders: Folders, replaced: Mapping[str, datetime], before: datetime
) -> list[Garbage]:
    """The folders whose objects were all written, and replaced if at all, before `before`."""
    with ThreadPoolExecutor(_OBJECTS_AT_ONCE) as pool:
        found = list(pool.map(partial(_garbage, store, replaced), folders, folders.values()))
    return [garbage for garbage in found if garbage and garbage.since < before]


def _garbage(
    store: Store, replaced: Mapping[str, datetime], name: str, keys: Sequence[str]
) -> Garbage | None:
    """A folder's or object's size and age; None if one of its objects has gone meanwhile."""
    try:
        size = sum(store.size(key) for key in keys)
        written = [store.modified(key) for key in keys]
    except FileNotFoundError:
        return None
    since = max([*written, *([replaced[name]] if name in replaced else [])])
    return Garbage(name, size, since, tuple(keys))


def _uploads(store: Store, before: datetime) -> list[Garbage]:
    try:
        uploads = [upload for place in (*_PLACES, ARCHIVE) for upload in store.unfinished(place)]
    except OSError as error:
        _log.warning("unfinished uploads can't be listed: %s", one_line(error))
        return []
    found = [Garbage(upload.key, upload.bytes, upload.begun, upload=upload) for upload in uploads]
    return [garbage for garbage in found if garbage.since < before]

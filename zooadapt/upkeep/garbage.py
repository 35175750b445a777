"""What a mirror no longer needs: found by what its manifest and records name, and by its age.

Garbage is only what zooadapt itself wrote below weights/, records/ and runs/, and what was left
alone since a given time:

- a variant's folder that neither the manifest nor the latest record of the variant names. One that
  a newer record replaced was left alone since then, not since it was written;
- an original stem that none of the remaining variants' config.json names;
- temporary objects of writers that were killed;
- on S3, multipart uploads that were begun and never completed.

Records stay, and so does all of a model that has a damaged record, or had one until that time:
nobody knows what it names.
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

from tqdm import tqdm

from zooadapt.errors import RunError, one_line
from zooadapt.mirror import columns, manifest
from zooadapt.mirror.manifest import FAILURES, MANIFEST, PAGE
from zooadapt.mirror.scan import ARCHIVE
from zooadapt.mirror.takedowns import Takedowns
from zooadapt.names import CONFIG, source_stem
from zooadapt.stores.multipart import Unfinished
from zooadapt.stores.store import Store
from zooadapt.types import Row
from zooadapt.upkeep.rebuild import ASIDE

_log = logging.getLogger("zooadapt")

OURS = re.compile(r"(weights/[^/]+/[^/]+/(?:\d+ch-[^/]+|source)-[0-9a-f]{16})/[^/]+")
_TEMPORARY = re.compile(r".+\.[0-9a-f]{32}\.tmp")
_PLACES = ("weights", "records", "runs")
_TOP = (MANIFEST, FAILURES, PAGE, ARCHIVE)
_OBJECTS_AT_ONCE = 16
"""Objects asked after at once."""

Folders = dict[str, list[str]]
"""Folders and the keys of their objects."""


@dataclass(frozen=True)
class Garbage:
    """Something that may go."""

    name: str
    """A folder or an object, relative to the mirror's root."""
    bytes: int
    since: datetime
    """Nobody has written or named it since."""
    keys: tuple[str, ...] = ()
    """Its objects."""
    upload: Unfinished | None = None
    """Instead of objects."""


def find(store: Store, before: datetime) -> list[Garbage]:
    """What nobody has written or named since `before`, sorted by name; removes nothing.

    Raises UsageError where there is no mirror, RunError where its manifest or its records can't
    tell what is needed.
    """
    rows = manifest.read_table(store, MANIFEST).to_pylist()
    keys = _keys(store)
    records, damaged = manifest.scan_records(store)
    spared = {*damaged, *_set_aside(store, before)}
    folders = _without_models_of(spared, _folders(keys))
    if folders and not records:
        raise RunError(f"{store.root} has no records that say what is needed: nothing is removed")
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
    """Remove what was found, and return it, but for what was written again meanwhile."""
    with ThreadPoolExecutor(_OBJECTS_AT_ONCE) as pool:
        one = partial(_remove, store, before)
        gone = list(tqdm(pool.map(one, found), total=len(found), desc="removed", disable=None))
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
    """Of all that zooadapt writes; what else may lie in the mirror's root isn't looked at."""
    top = [key for key in store.list_top() if key.startswith(_TOP)]
    return [*top, *(key for place in _PLACES for key in store.list(place))]


def _folders(keys: Iterable[str]) -> Folders:
    """The folders of variants and stems; anything else below weights/ isn't ours to judge."""
    found: Folders = {}
    for key in keys:
        if ours := OURS.fullmatch(key):
            found.setdefault(ours[1], []).append(key)
    return found


def _set_aside(store: Store, before: datetime) -> list[str]:
    """The keys that damaged records had until they were set aside, which was since that time."""
    aside = [key for key in store.list(ASIDE) if store.modified(key) >= before]
    return [key.removeprefix(f"{ASIDE}/") for key in aside]


def _without_models_of(records: Iterable[str], folders: Folders) -> Folders:
    """The folders but for those of the models of some damaged records."""
    for key in records:
        _log.warning("%s is or was damaged: nothing of its model is removed", key)
    models = {posixpath.dirname(key).replace("records", "weights", 1) for key in records}
    return {name: keys for name, keys in folders.items() if _model(name) not in models}


def _model(folder: str) -> str:
    return posixpath.dirname(folder)


def _is_source(folder: str) -> bool:
    return posixpath.basename(folder).startswith("source-")


def _named(rows: Iterable[Row], records: Sequence[Row]) -> tuple[set[str], dict[str, datetime]]:
    """The folders of the variants as they are now, and since when others aren't any more."""
    now: dict[tuple[object, ...], str] = {}
    replaced: dict[str, datetime] = {}
    taken = Takedowns(records)
    for place, record in enumerate(records):  # oldest first
        for row in [] if record.get("amends") else manifest.merge([record]).usable:
            before = now.get(columns.key(row))
            if before and before != row["folder"]:
                replaced[before] = row["created_at"]
            if taken.voids(place, row) and (event := taken.of(row)):
                replaced[row["folder"]] = datetime.fromisoformat(event.created_at)
                now.pop(columns.key(row), None)
            else:
                now[columns.key(row)] = row["folder"]
    return {*now.values(), *(row["folder"] for row in rows)}, replaced


def _sources_of(store: Store, variants: Iterable[str], folders: Folders) -> set[str]:
    """The original stems that the variants name.

    A model's only stem needs no reading; where a config.json can't be understood all stay.
    """
    sources: dict[str, set[str]] = {}
    for folder in filter(_is_source, folders):
        sources.setdefault(_model(folder), set()).add(folder)
    needed: set[str] = set()
    reading = []
    for variant in variants:
        of_model = sources.get(_model(variant), set())
        if len(of_model) < 2:
            needed |= of_model
        elif f"{variant}/{CONFIG}" in folders[variant]:
            reading.append(f"{variant}/{CONFIG}")
    for key, data in store.read_many(reading).items():
        try:
            stem = source_stem(posixpath.dirname(key), json.loads(data))
            needed.add(posixpath.dirname(stem))
        except (ValueError, KeyError, TypeError):
            needed |= sources[_model(posixpath.dirname(key))]
    return needed


def _old(
    store: Store, folders: Folders, replaced: Mapping[str, datetime], before: datetime
) -> list[Garbage]:
    """Those of which all was written, and replaced, before that time."""
    with ThreadPoolExecutor(_OBJECTS_AT_ONCE) as pool:
        found = list(pool.map(partial(_garbage, store, replaced), folders, folders.values()))
    return [garbage for garbage in found if garbage and garbage.since < before]


def _garbage(
    store: Store, replaced: Mapping[str, datetime], name: str, keys: Sequence[str]
) -> Garbage | None:
    """What the store says of the objects; None where one went meanwhile."""
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

"""Copy a mirror, or part of it, to another place. The copy is a mirror that jobs can work on."""

import itertools
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Any

import pandas as pd
import pyarrow as pa

from zooadapt import progress
from zooadapt.errors import FetchError, RunError, UsageError, one_line
from zooadapt.mirror import manifest
from zooadapt.mirror.columns import MANIFEST_SCHEMA, stated
from zooadapt.mirror.records import write_record
from zooadapt.mirror.takedowns import LISTS, Takedowns
from zooadapt.names import CONFIG, WEIGHTS, companions, content_id, source_stem
from zooadapt.stores.store import Store
from zooadapt.types import Row
from zooadapt.zoos.registry import named

_MODELS_AT_ONCE = 4
"""How many models are copied at the same time."""

_log = logging.getLogger("zooadapt")


@dataclass(frozen=True)
class Synced:
    """The outcome of a sync."""

    copied: int
    """How many variants were copied."""
    already: int
    """How many variants the destination had before."""
    bytes: int
    """The bytes of the copied model.safetensors files."""
    wrong: Mapping[str, str]
    """Why a folder couldn't be copied, by folder."""


def select(
    manifest: pd.DataFrame,
    models: Sequence[str] = (),
    exclude: Sequence[str] = (),
    licenses: Sequence[str] = (),
    chans: Sequence[int] = (),
) -> list[Row]:
    """The rows that match one of `models`, one of `licenses` and one of `chans`, and no `exclude`.

    An empty argument matches every row. Models and licences are globs; a row without a licence has
    the licence "unknown". Raises UsageError if no row is left.
    """
    table = pa.Table.from_pandas(manifest, MANIFEST_SCHEMA, preserve_index=False)
    found = [
        row
        for row in table.to_pylist()
        if (not models or any(named(row["zoo"], row["model"], glob) for glob in models))
        and not any(named(row["zoo"], row["model"], glob) for glob in exclude)
        and (not licenses or any(fnmatchcase(row["license"] or "unknown", g) for g in licenses))
        and (not chans or row["in_chans"] in chans)
    ]
    if not found:
        raise UsageError(f"none of the {len(manifest)} variants matches; zooadapt ls lists them")
    return found


def sync(source: Store, dest: Store, rows: Sequence[Row]) -> Synced:
    """Copy the variants of some rows of the source's manifest; the manifest is written last.

    Every byte is verified on the way. Variants that the destination has recorded aren't copied
    again, so the same command resumes a stopped sync. If one variant can't be copied, the others
    still are. Raises RunError if the destination can't be used.
    """
    recorded = manifest.read_records(dest)
    taken = Takedowns(recorded)
    rows = _without_removed(rows, taken, dest)
    there = {row["folder"] for row in manifest.merge(recorded).usable}
    due = [row for row in rows if row["folder"] not in there]
    models: dict[tuple[str, str], list[Row]] = {}
    for row in due:
        models.setdefault((row["zoo"], row["model"]), []).append(row)
    size = sum(row["bytes"] for row in due)
    bar = progress.bar(total=size, unit="B", unit_scale=True, desc="copied")
    with closing(bar), ThreadPoolExecutor(_MODELS_AT_ONCE) as pool:
        copy = Copying(source, dest, _recorded(source, due), taken, bar)
        wrong = {}
        for failed in pool.map(copy.model, models.values()):
            wrong.update(failed)
    try:
        manifest.compact(dest)
    except OSError as cause:
        raise RunError(f"{dest.url} can't be written: {one_line(cause)}") from cause
    done = [row for row in due if row["folder"] not in wrong]
    return Synced(len(done), len(rows) - len(due), sum(row["bytes"] for row in done), wrong)


def _without_removed(rows: Sequence[Row], taken: Takedowns, dest: Store) -> list[Row]:
    """The rows, without those that were taken down from the destination."""
    left = [row for row in rows if not taken.removed(row)]
    if len(left) < len(rows):
        _log.warning(
            "%d variants were taken down from %s and aren't copied; zooadapt remove --undo allows "
            "them again", len(rows) - len(left), dest.url,
        )  # fmt: skip
    return left


def _recorded(source: Store, rows: Sequence[Row]) -> dict[str, Row]:
    """The source's record of each row, by folder; incomplete if the source can't be listed."""
    wanted, found = {row["folder"] for row in rows}, dict[str, Row]()
    try:
        for record in itertools.chain.from_iterable(manifest.histories(source)):
            found |= {v["folder"]: record for v in record["variants"] if v["folder"] in wanted}
    except Exception as error:
        _log.warning("the records of %s can't be read: %s", source.url, one_line(error))
    lacking = len(wanted - found.keys())
    if lacking:
        _log.warning(
            "%d variants have no record in %s, or none that can be listed; a job at the new place "
            "won't know what they were made from, and will make them again",
            lacking, source.url,
        )  # fmt: skip
    return found


class Copying:
    """Copies models. Several threads can call `model` at the same time."""

    def __init__(
        self, source: Store, dest: Store, records: Mapping[str, Row], taken: Takedowns,
        bar: Any,
    ) -> None:  # fmt: skip
        self.source, self.dest, self.bar = source, dest, bar
        self.records, self.taken = records, taken
        self.run_id = f"sync-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"

    def model(self, rows: Sequence[Row]) -> dict[str, str]:
        """Copy and record some variants of one model; returns why a folder failed, by folder."""
        wrong = {}
        for row in rows:
            try:
                config = self._variant(row)
                self._stem(source_stem(row["folder"], config))
                self._record(row, config)
            except Exception as error:  # whatever the error is, try the other variants
                wrong[row["folder"]] = one_line(error)
        return wrong

    def _variant(self, row: Row) -> dict[str, Any]:
        """Copy the objects of a row's variant; returns the parsed config.json."""
        folder = row["folder"]
        config = self.source.read(f"{folder}/{CONFIG}")
        if not folder.endswith(content_id(row["sha256"], config)):
            key = f"{folder}/{CONFIG}"
            raise FetchError(f"{key} has other bytes than were written: verify the source")
        chunks = self._checked(f"{folder}/{WEIGHTS}", lambda digest: digest == row["sha256"])
        self.dest.write(f"{folder}/{WEIGHTS}", chunks)
        described: dict[str, Any] = json.loads(config)
        for name, content in [*companions(described).items(), (CONFIG, config)]:
            self.dest.write(f"{folder}/{name}", [content])
        return described

    def _stem(self, key: str) -> None:
        if not self.dest.exists(key):
            self.dest.write(key, self._checked(key, lambda digest: content_id(digest) in key))

    def _checked(self, key: str, is_right: Any) -> Iterator[bytes]:
        """Yields an object's bytes; raises FetchError after the last if their hash is wrong."""
        digest = sha256()
        for chunk in self.source.chunks(key):
            digest.update(chunk)
            yield chunk
            self.bar.update(len(chunk))
        if not is_right(digest.hexdigest()):
            raise FetchError(f"{key} has other bytes than were written: verify the source")

    def _record(self, row: Row, config: dict[str, Any]) -> None:
        """Record the variant as the source did or, without its record, from row and config."""
        found = self.records.get(row["folder"]) or {
            "created_at": row["created_at"].isoformat(),
            "adapter_version": config["zooadapt"]["adapter_version"],
            "versions": {},
            "source": {"location": "", "identity": "", "uri": row["source_uri"],
                       "sha256": row["source_sha256"], "bytes": row["source_bytes"]},
        }  # fmt: skip
        content = {**found, "variants": [stated(row)], "failures": []}
        for name in (*LISTS, "amends"):
            content.pop(name, None)
        if self.taken.of(row):  # an undone takedown voids records made before it
            content["created_at"] = datetime.now(UTC).isoformat()
        write_record(self.dest, row["zoo"], row["model"], self.run_id, content)

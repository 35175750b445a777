"""Verify that a mirror holds what its manifest says: every object of every row, byte for byte.

A row is right if a record says the same, model.safetensors has the row's size and sha256, the
folder's id is that of its content, config.json agrees with the row, the original stem is there, and
the row's proof figures are good enough for the manifest. A deep check also proves every variant
again, from the stored objects alone.
"""

import json
import posixpath
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from zooadapt import progress, targets
from zooadapt.errors import (
    Damaged,
    RunError,
    StageError,
    UsageError,
    ValidationError,
    one_line,
    reason,
    stage,
)
from zooadapt.mirror import columns, layout, manifest, runs
from zooadapt.mirror.columns import MANIFEST_SCHEMA
from zooadapt.mirror.manifest import FAILURES, MANIFEST
from zooadapt.names import CONFIG, WEIGHTS, companions, content_id, model_folder, source_stem
from zooadapt.proof import verdict
from zooadapt.reader.cache import Cache
from zooadapt.stores.store import Store
from zooadapt.types import ProofResult, Row, Stem
from zooadapt.zoos import registry

_VARIANTS_AT_ONCE = 4
"""How many variants are read at the same time, each in up to four blocks of 16 MiB."""


@dataclass(frozen=True)
class Wrong:
    """One fault of the mirror."""

    where: str
    """The path of the folder or object, relative to the mirror's root."""
    what: str
    """What is wrong there; it reads on after `where`."""


@dataclass(frozen=True)
class Findings:
    """The outcome of a check."""

    wrong: list[Wrong]
    variants: int
    """How many rows the manifest has."""
    bytes: int
    """The bytes of these variants' model.safetensors files."""
    unlisted: int
    """How many recorded variants the manifest lacks, because a job is running or was killed."""
    at_work: bool = False
    """Whether a job is running, which will list them."""


def verify(store: Store, deep: bool = False) -> Findings:
    """Verify every row of the manifest; with `deep` also prove its variant again. Changes nothing.

    Without `deep` objects are read as streams. Raises UsageError if there is no mirror, RunError if
    the manifest or the store can't be read.
    """
    rows = manifest.read_table(store, MANIFEST).select(MANIFEST_SCHEMA.names).to_pylist()
    records, damaged = manifest.scan_records(store)  # read last, so that no row lacks its record
    wrong = [Wrong(key, _without_name(key, error)) for key, error in damaged.items()]
    wrong += [*_failures_table(store), *_unrecorded(rows, records)]
    check = _Check(store, deep)
    size = sum(row["bytes"] for row in rows)
    with (
        progress.bar(total=size, unit="B", unit_scale=True, desc="verified") as bar,
        ThreadPoolExecutor(1 if deep else _VARIANTS_AT_ONCE) as pool,
        check.stopped_at_the_end(),
    ):
        for row, found in zip(rows, pool.map(check.variant, rows), strict=True):
            wrong += found
            bar.update(row["bytes"])
    listed = {columns.key(row) for row in rows}
    unlisted = sum(columns.key(row) not in listed for row in manifest.merge(records).usable)
    at_work = bool(unlisted and runs.at_work(store))
    return Findings(list(dict.fromkeys(wrong)), len(rows), size, unlisted, at_work)


def _failures_table(store: Store) -> list[Wrong]:
    try:
        manifest.read_table(store, FAILURES)
    except Damaged as error:
        return [Wrong(FAILURES, _without_name(store.path(FAILURES), error))]
    except UsageError:
        return [Wrong(FAILURES, "isn't there: run zooadapt rebuild to make it from the records")]
    return []


def _without_name(name: str, error: Damaged) -> str:
    """The error's message without the file's name, because `Wrong.where` names the file."""
    return str(error).removeprefix(f"{name} ")


def _unrecorded(rows: list[Row], records: list[Row]) -> list[Wrong]:
    """The rows of the manifest that differ in any value from what the records say."""
    stated = [row for record in records for row in manifest.merge([record]).usable]
    stated += manifest.merge(records).usable  # rows stated by a record and its amendments
    known = {str(row) for row in layout.table(stated, MANIFEST_SCHEMA).to_pylist()}
    what = "no record says what the manifest says of it: run zooadapt rebuild"
    return [Wrong(row["folder"], what) for row in rows if str(row) not in known]


class _Check:
    """Checks variants. Unless `deep`, several threads can call `variant` at the same time."""

    def __init__(self, store: Store, deep: bool) -> None:
        self.store, self.deep = store, deep
        self._stopped = threading.Event()
        self._stems: dict[str, str] = {}
        """What is wrong with each original stem read so far, by key; "" if nothing is."""

    @contextmanager
    def stopped_at_the_end(self) -> Iterator[None]:
        """Stop the threads that still read objects when the block ends."""
        try:
            yield
        finally:
            self._stopped.set()

    def variant(self, row: Row) -> list[Wrong]:
        """What is wrong with the variant of a row. Raises RunError if the store can't be read."""
        folder = row["folder"]
        if posixpath.dirname(folder) != model_folder(row["zoo"], row["model"]):
            return [Wrong(folder, f"isn't a folder of {row['zoo']}'s {row['model']}")]
        try:
            found = [*self._weights(row), *self._config(row)]
            return found if found or not self.deep else self._proof(row)
        except OSError as cause:
            raise RunError(f"{folder} can't be read: {one_line(cause)}; check the store") from cause

    def _weights(self, row: Row) -> list[Wrong]:
        key = f"{row['folder']}/{WEIGHTS}"
        try:
            size = self.store.size(key)
            if size != row["bytes"]:
                return [Wrong(key, f"has {size} bytes, the manifest says {row['bytes']}")]
            # A deep check reads and verifies the bytes for the proof.
            if not self.deep and self._digest(key) != row["sha256"]:
                return [Wrong(key, "has other bytes: its sha256 isn't the manifest's")]
        except FileNotFoundError:
            return [Wrong(key, "isn't there")]
        return []

    def _config(self, row: Row) -> list[Wrong]:
        key = f"{row['folder']}/{CONFIG}"
        try:
            data = self.store.read(key)
        except FileNotFoundError:
            return [Wrong(key, "isn't there")]
        if not row["folder"].endswith(content_id(row["sha256"], data)):
            return [Wrong(key, "has other bytes: they don't give the folder's id")]
        try:
            config = json.loads(data)
            found = [Wrong(key, what) for what in _disagreements(config, row)]
            found += self._companions(row["folder"], config)
            stem = source_stem(row["folder"], config)
        except (ValueError, KeyError, TypeError, IndexError, UsageError) as cause:
            return [Wrong(key, f"can't be understood: {reason(cause)}")]
        what = self._stem(stem)
        return [*found, *([Wrong(stem, what)] if what else [])]

    def _companions(self, folder: str, config: dict[str, Any]) -> Iterator[Wrong]:
        for name, content in companions(config).items():
            key = f"{folder}/{name}"
            try:
                if self.store.read(key) != content:
                    yield Wrong(key, f"has other bytes than {CONFIG} says")
            except FileNotFoundError:
                yield Wrong(key, "isn't there")

    def _stem(self, key: str) -> str:
        """What is wrong with an original stem, or ""; read once, as a model's variants share it."""
        if key not in self._stems:
            try:
                is_right = f"/source-{content_id(self._digest(key))}/" in key
                self._stems[key] = "" if is_right else "has other bytes: they don't give its id"
            except FileNotFoundError:
                self._stems[key] = "isn't there"
        return self._stems[key]

    def _digest(self, key: str) -> str:
        digest = sha256()
        for chunk in self.store.chunks(key):
            if self._stopped.is_set():
                raise RunError("stopped")
            digest.update(chunk)
        return digest.hexdigest()

    def _proof(self, row: Row) -> list[Wrong]:
        from zooadapt.proof import devices  # torch is needed for a deep check only
        from zooadapt.reader import derived

        try:
            with tempfile.TemporaryDirectory() as name, stage(ValidationError):
                stored = derived.pulled(Cache(Path(name), [self.store]), row)
                result = stored.prove(devices.best())
        except (UsageError, StageError) as error:
            return [Wrong(row["folder"], f"can't be proved: {one_line(error)}")]
        if result.equivalent != row["equivalent"]:
            what = f"gives equivalent = {result.equivalent} when it is proved again"
            return [Wrong(row["folder"], f"{what}; the manifest says {row['equivalent']}")]
        return []


def _disagreements(config: dict[str, Any], row: Row) -> Iterator[str]:
    """What config.json and the row disagree in, and proof figures that don't do for the variant."""
    facts, ours = registry.stated_facts(row["zoo"], config), config["zooadapt"]
    stated = {
        "architecture": config.get("architecture", row["architecture"]),
        "num_classes": facts.num_classes,
        "in_chans": facts.chans,
        "input_height": facts.height,
        "input_width": facts.width,
        "input_mean": list(facts.mean) or None,
        "input_std": list(facts.std) or None,
        "bands": ",".join(ours["bands"]),
        "scheme": ours["scheme"],
        "stems": [stem["name"] for stem in ours["stems"]],
        "source_sha256": ours["source_sha256"],
    }
    others = [name for name, value in stated.items() if value != row[name]]
    if others:
        yield f"differs from the manifest in {', '.join(others)}"
    try:
        rule = targets.get_scheme(ours["scheme"])
        verdict.check(ProofResult.of(row), [*map(Stem.of, ours["stems"])], rule, ours["matrix"])
    except ValidationError as error:
        yield f"contradicts the manifest's figures: {error}"

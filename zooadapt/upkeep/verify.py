"""Whether a mirror holds what its manifest says: every object of every row, byte for byte.

A row is right if a record says the same, model.safetensors has the size and sha256, the folder's id
is that of the content, config.json agrees with the row, the original stem is there, and the figures
are those of a variant that may be in a manifest. A deep check also proves every variant again, from
what is stored alone.
"""

import json
import posixpath
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

from tqdm import tqdm

from zooadapt import targets
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
from zooadapt.mirror import columns, layout, manifest
from zooadapt.mirror.columns import MANIFEST_SCHEMA
from zooadapt.mirror.manifest import FAILURES, MANIFEST
from zooadapt.mirror.variant_config import described_stems, stored_matrix
from zooadapt.names import CONFIG, WEIGHTS, companions, content_id, model_folder, source_stem
from zooadapt.proof import compare, devices
from zooadapt.reader import derived
from zooadapt.reader.cache import Cache
from zooadapt.stores.store import Store
from zooadapt.types import ProofResult, Row
from zooadapt.zoos import registry

_VARIANTS_AT_ONCE = 4
"""Variants read at once, each in up to four blocks of 16 MiB."""


@dataclass(frozen=True)
class Wrong:
    """One thing that is not as it should be."""

    where: str
    """A folder or an object, relative to the mirror's root."""
    what: str


@dataclass(frozen=True)
class Findings:
    """What a check found."""

    wrong: list[Wrong]
    variants: int
    """Rows of the manifest."""
    bytes: int
    """Of their model.safetensors."""
    unlisted: int
    """Variants that are recorded and not in the manifest: a job is at work, or was killed."""


def verify(store: Store, deep: bool = False) -> Findings:
    """Check every row of the manifest, and with `deep` prove it again; changes nothing.

    Objects are read as streams. Raises UsageError where there is no mirror, RunError where the
    manifest or the store can't be read.
    """
    rows = manifest.read_table(store, MANIFEST).select(MANIFEST_SCHEMA.names).to_pylist()
    records, damaged = manifest.scan_records(store)  # after the manifest: no fewer variants
    wrong = [Wrong(key, _without(key, error)) for key, error in damaged.items()]
    wrong += [*_failures_table(store), *_unrecorded(rows, records)]
    check = _Check(store, deep)
    size = sum(row["bytes"] for row in rows)
    with (
        tqdm(total=size, unit="B", unit_scale=True, desc="verified", disable=None) as bar,
        ThreadPoolExecutor(1 if deep else _VARIANTS_AT_ONCE) as pool,
        check.stopped_at_the_end(),
    ):
        for row, found in zip(rows, pool.map(check.variant, rows), strict=True):
            wrong += found
            bar.update(row["bytes"])
    listed = {columns.key(row) for row in rows}
    unlisted = sum(columns.key(row) not in listed for row in manifest.merge(records).usable)
    return Findings(list(dict.fromkeys(wrong)), len(rows), size, unlisted)


def _failures_table(store: Store) -> list[Wrong]:
    try:
        manifest.read_table(store, FAILURES)
    except Damaged as error:
        return [Wrong(FAILURES, _without(store.path(FAILURES), error))]
    except UsageError:
        return [Wrong(FAILURES, "isn't there: zooadapt rebuild makes it from the records")]
    return []


def _without(name: str, error: Damaged) -> str:
    """What the error says of the file of that name, which a table has in another column."""
    return str(error).removeprefix(f"{name} ")


def _unrecorded(rows: list[Row], records: list[Row]) -> list[Wrong]:
    """The rows of the manifest that no record states, to the last figure, nor all together."""
    stated = [row for record in records for row in manifest.merge([record]).usable]
    stated += manifest.merge(records).usable  # where several have amended one
    known = {str(row) for row in layout.columns(stated, MANIFEST_SCHEMA)}
    what = "no record says what the manifest says of it: zooadapt rebuild"
    return [Wrong(row["folder"], what) for row in rows if str(row) not in known]


class _Check:
    """Checks one variant after the other; from several threads unless it is deep."""

    def __init__(self, store: Store, deep: bool) -> None:
        self.store, self.deep = store, deep
        self._stopped = threading.Event()
        self._stems: dict[str, str] = {}
        """The keys of original stems, and what is wrong with each."""

    @contextmanager
    def stopped_at_the_end(self) -> Iterator[None]:
        """What is still being read when the block ends is given up."""
        try:
            yield
        finally:
            self._stopped.set()

    def variant(self, row: Row) -> list[Wrong]:
        """What is wrong with the variant of a row. Raises RunError where it can't be told."""
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
            if (
                not self.deep and self._digest(key) != row["sha256"]
            ):  # else it is read for the proof
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
            return [Wrong(key, "has other bytes: the folder's id isn't made from them")]
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
        """What is wrong with an original stem, which the variants of a model share; else ""."""
        if key not in self._stems:
            try:
                named = f"/source-{content_id(self._digest(key))}/" in key
                self._stems[key] = "" if named else "has other bytes: its id isn't made from them"
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
        try:
            with tempfile.TemporaryDirectory() as name, stage(ValidationError):
                stored = derived.pulled(Cache(Path(name), [self.store]), row)
                result = stored.prove(devices.best())
        except (UsageError, StageError) as error:
            return [Wrong(row["folder"], f"isn't proved again: {one_line(error)}")]
        if result.equivalent != row["equivalent"]:
            return [Wrong(row["folder"], f"is proved with equivalent = {result.equivalent} now")]
        return []


def _disagreements(config: dict[str, Any], row: Row) -> Iterator[str]:
    """What a config.json says otherwise than the row, and figures that it doesn't allow."""
    facts, ours = registry.get(row["zoo"]).stated(config), config["zooadapt"]
    stated = {
        "architecture": config.get("architecture", row["architecture"]),
        "num_classes": facts.num_classes,
        "in_chans": facts.chans,
        "input_height": facts.height,
        "input_width": facts.width,
        "input_mean": list(facts.mean),
        "input_std": list(facts.std),
        "bands": ",".join(ours["bands"]),
        "scheme": ours["scheme"],
        "stems": [stem["name"] for stem in ours["stems"]],
        "source_sha256": ours["source_sha256"],
    }
    others = [name for name, value in stated.items() if value != row[name]]
    if others:
        yield f"and the manifest differ in {', '.join(others)}"
    figures = ProofResult(**{part.name: row[part.name] for part in fields(ProofResult)})
    try:
        rule = targets.get_scheme(ours["scheme"])
        compare.check(figures, described_stems(config), rule, stored_matrix(config))
    except ValidationError as error:
        yield f"and the manifest's figures don't agree: {error}"

"""What must hold for every mirror, checked without any code of zooadapt.

`check` raises AssertionError with all faults: a row of the manifest without its objects, the right
bytes, a record or a proof; an object without a row; an incomplete folder. `summary` states what a
mirror holds in a form in which two mirrors can be compared.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any

import fsspec
import pyarrow.parquet as pq
import safetensors

Row = dict[str, Any]

WEIGHTS, CONFIG, STEM = "model.safetensors", "config.json", "stem.safetensors"
KEY = ("zoo", "model", "in_chans", "bands", "scheme")
LARGEST_ERROR = {"float32": 1e-3, "float16": 0.5, "bfloat16": 0.5}
"""The largest error of an equivalent variant of the tests' models, by dtype: that of rounding."""
LEAST_CONTROL = 1e-2
PASSING = {
    "run_id", "created_at", "equivalence_error", "control_error", "checked_on", "verification",
    "zooadapt_version", "timm_version", "torch_version", "error", "attempts",
}  # fmt: skip
"""Columns that differ between two runs with the same outcome."""


@dataclass(frozen=True)
class Summary:
    """What two mirrors of the same models have in common."""

    objects: dict[str, str]
    """The sha256 of each object below weights/, by key."""
    manifest: list[Row]
    failures: list[Row]


def check(url: str, options: Mapping[str, Any] | None = None) -> None:
    """Raise AssertionError, with a line for each fault, if anything is wrong."""
    wrong = []
    try:
        for line in _Mirror(url, options).wrong():
            wrong.append(line)
    except (OSError, ValueError, KeyError, TypeError) as error:
        wrong.append(f"something can't be read: {error!r}")
    assert not wrong, "\n".join([f"{url}:", *wrong])


def summary(url: str, options: Mapping[str, Any] | None = None) -> Summary:
    """The mirror's objects and rows, without the columns that differ from run to run."""
    mirror = _Mirror(url, options)
    return Summary(
        objects={key: _sha256(mirror.read(key)) for key in mirror.keys if _top(key) == "weights"},
        manifest=_lasting(mirror.rows("manifest")),
        failures=_lasting(mirror.rows("failures")),
    )


def _lasting(rows: list[Row]) -> list[Row]:
    return [{name: row[name] for name in row.keys() - PASSING} for row in rows]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _tensors(data: bytes) -> dict[str, Any]:
    return dict(safetensors.deserialize(data))  # type: ignore[no-untyped-call]


def _top(key: str) -> str:
    return key.partition("/")[0]


class _Mirror:
    def __init__(self, url: str, options: Mapping[str, Any] | None) -> None:
        self.fs, root = fsspec.url_to_fs(url, use_listings_cache=False, **(options or {}))
        self.root = root.rstrip("/")
        self.fs.invalidate_cache()
        self.keys = sorted(path[len(self.root) + 1 :] for path in self.fs.find(self.root))

    def read(self, key: str) -> bytes:
        data: bytes = self.fs.cat_file(f"{self.root}/{key}")
        return data

    def rows(self, table: str) -> list[Row]:
        rows: list[Row] = pq.read_table(BytesIO(self.read(f"{table}.parquet"))).to_pylist()
        return rows

    def wrong(self) -> Iterator[str]:
        yield from (f"{key} was left behind" for key in self.keys if key.endswith(".tmp"))
        yield from self._half_there()
        rows, failures = self.rows("manifest"), self.rows("failures")
        for table in (rows, failures):
            keys = [tuple(row[name] for name in KEY) for row in table]
            if keys != sorted(set(keys)):
                yield "a table isn't sorted, or has a key twice"
        records = [json.loads(self.read(key)) for key in self.keys if key.startswith("records/")]
        for row in rows:
            yield from (f"{row['folder']}: {what}" for what in self._of_row(row, records))
        for row in failures:
            backs = _takes_down if row["status"] == "removed" else _states_failure
            if not any(backs(record, row) for record in records):
                yield f"no record backs the failure of {row['model']} with {row['in_chans']}"
        yield from self._strays(rows)

    def _half_there(self) -> Iterator[str]:
        """The faults of folders below weights/ that lack objects or hold others."""
        folders: dict[str, set[str]] = {}
        for key in (PurePosixPath(key) for key in self.keys if _top(key) == "weights"):
            folders.setdefault(str(key.parent), set()).add(key.name)
        for folder, names in folders.items():
            source = PurePosixPath(folder).name.startswith("source-")
            if names != ({STEM} if source else {WEIGHTS, CONFIG}):
                yield f"{folder} holds {sorted(names)}"

    def _strays(self, rows: list[Row]) -> Iterator[str]:
        """The faults of folders below weights/ to which no row refers."""
        needed = {row["folder"] for row in rows}
        for folder in list(needed):
            if f"{folder}/{CONFIG}" in self.keys:
                needed.add(str(PurePosixPath(self._stem(folder)).parent))
        present = {str(PurePosixPath(key).parent) for key in self.keys if _top(key) == "weights"}
        yield from (f"{folder} belongs to no row" for folder in sorted(present - needed))

    def _stem(self, folder: str) -> str:
        stem = json.loads(self.read(f"{folder}/{CONFIG}"))["zooadapt"]["source_stem"]
        return str(PurePosixPath(folder).parent / stem.removeprefix("../"))

    def _of_row(self, row: Row, records: list[Row]) -> Iterator[str]:
        if not any(_states(record, "variants", row) for record in records):
            yield "no record backs the row"
        if not _proved(row):
            yield "the figures don't prove it"
        absent = [name for name in (WEIGHTS, CONFIG) if f"{row['folder']}/{name}" not in self.keys]
        if absent:
            yield f"{absent} not there"
            return
        weights, config = (self.read(f"{row['folder']}/{name}") for name in (WEIGHTS, CONFIG))
        digest = _sha256(weights)
        if (digest, len(weights)) != (row["sha256"], row["bytes"]):
            yield "other bytes than the row's sha256"
            return
        if not row["folder"].endswith("-" + _sha256(digest.encode() + config)[:16]):
            yield "the id isn't that of the content"
            return
        described, tensors = json.loads(config), _tensors(weights)
        if described["model_args"]["in_chans"] != row["in_chans"]:
            yield "config.json is for another number of channels"
        ratio = row["in_chans"], len(described["zooadapt"]["source"]["bands"])
        yield from self._of_stem(row, self._stem(row["folder"]), tensors, ratio)

    def _of_stem(
        self, row: Row, key: str, tensors: dict[str, Any], ratio: tuple[int, int]
    ) -> Iterator[str]:
        """The faults of the original stem, and of a variant's stem that isn't N/B times as wide."""
        if key not in self.keys:
            yield f"{key} not there"
            return
        data = self.read(key)
        if f"/source-{_sha256(_sha256(data).encode())[:16]}/" not in key:
            yield f"{key}: the id isn't that of the content"
            return
        originals = _tensors(data)
        for name in row["stems"]:
            made, original = tensors[name]["shape"], originals[name]["shape"]
            if made[0] != original[0] or made[1] * ratio[1] != original[1] * ratio[0]:
                yield f"{name} has the shape {made}, made from {original}"


def _states(record: Row, outcomes: str, row: Row) -> bool:
    """Whether the record is of the row's run and states the same about the variant."""
    if any(record[name] != row[name] for name in ("zoo", "model", "run_id")):
        return False
    return any(
        all(_same(row[name], value) for name, value in outcome.items() if name in row)
        for outcome in record[outcomes]
        if all(outcome[name] == row[name] for name in KEY[2:])
    )


def _states_failure(record: Row, row: Row) -> bool:
    return _states(record, "failures", row)


def _takes_down(record: Row, row: Row) -> bool:
    """Whether the record removed the row's variant, alone or with all of its model."""
    same = all(record[name] == row[name] for name in ("zoo", "model", "run_id"))
    return same and any(
        each["reason"] == row["error"] and each["in_chans"] in (None, row["in_chans"])
        for each in record.get("removed", ())
    )


def _same(one: object, other: object) -> bool:
    return one == other or (one != one and other != other)  # NaN equals NaN here


def _proved(row: Row) -> bool:
    """Whether the figures agree with `equivalent`; if it is false they can be any."""
    if not row["equivalent"]:
        return True
    error, control = float(row["equivalence_error"]), float(row["control_error"])
    return error <= LARGEST_ERROR[row["weights_dtype"]] and LEAST_CONTROL <= control < math.inf

"""Records, and the objects that they name, written by hand as a job would write them."""

import json
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from zooadapt import types
from zooadapt.mirror.columns import MANIFEST_SCHEMA
from zooadapt.mirror.records import write_record
from zooadapt.mirror.run_files import Heartbeat, Run, write_heartbeat
from zooadapt.stores.local import LocalStore
from zooadapt.stores.store import Store
from zooadapt.types import Row


def by_model(records: Sequence[Row]) -> list[list[Row]]:
    """The records of each model, as `manifest.histories` gives them."""
    models = dict.fromkeys(record["model"] for record in records)
    return [[record for record in records if record["model"] == model] for model in models]


def variant(chans: int, **changes: Any) -> types.Row:
    """A record's entry for a variant that was proved."""
    row: types.Row = {}
    for field in MANIFEST_SCHEMA:
        samples: dict[str, Any] = {"int64": 1, "double": 0.5, "bool": True, "string": field.name}
        row[field.name] = samples.get(str(field.type), [])
    for name in ("zoo", "model", "run_id", "created_at"):
        del row[name]
    return {**row, "in_chans": chans, "bands": "", "scheme": "repeat", **changes}


def failure(chans: int, error: str = "broken", status: str = "failed") -> types.Row:
    """A record's entry for a variant that wasn't made."""
    return {
        "in_chans": chans, "bands": "", "scheme": "repeat", "status": status,
        "stage": "fetch", "error_type": "FetchError", "error": error,
    }  # fmt: skip


def record(
    store: Store,
    minute: int,
    variants: list[types.Row],
    failures: list[types.Row],
    model: str = "net",
) -> str:
    """Write a record that was created at that minute; returns its key."""
    content = {
        "created_at": datetime(2026, 1, 1, 0, minute, tzinfo=UTC).isoformat(),
        "adapter_version": 1,
        "source": {"location": "here", "identity": "1"},
        "variants": variants,
        "failures": failures,
    }
    return write_record(store, "zoo", model, f"run{minute}", content)


def table(store: Store, name: str = "manifest") -> pd.DataFrame:
    """A table of a mirror in a local folder."""
    return pd.read_parquet(Path(store.root) / f"{name}.parquet")


DAY = 86_400.0


def write(store: Store, key: str, data: bytes = b"", days: float = 90) -> str:
    """Write an object, dated `days` ago if the store is local; returns its key."""
    store.write(key, [data])
    if isinstance(store, LocalStore):
        then = time.time() - days * DAY
        os.utime(store.path(key), (then, then))
    return key


def put(store: Store, name: str, days: float = 90, stem: int = 1) -> str:
    """Write a folder as a job does, dated `days` ago; returns its name."""
    config = {"zooadapt": {"source_stem": f"../source-{stem:016x}/stem.safetensors"}}
    objects = {"model.safetensors": b"weights", "config.json": json.dumps(config).encode()}
    if "/source-" in name:
        objects = {"stem.safetensors": b"stem"}
    for part, data in objects.items():
        write(store, f"{name}/{part}", data, days)
    return name


def keys(store: Store) -> list[str]:
    """The keys of all objects."""
    return store.list("")


def variant_folder(model: str, chans: int) -> str:
    """The folder of a variant under `repeat`."""
    return f"weights/zoo/{model}/{chans}ch-repeat-{chans:016x}"


def made(store: Store, minute: int, model: str, *chans: int) -> str:
    """Write a model as a job leaves it, objects and record; returns the record's key."""
    for number in chans:
        put(store, variant_folder(model, number))
    put(store, f"weights/zoo/{model}/source-{1:016x}")
    rows = [variant(number, folder=variant_folder(model, number)) for number in chans]
    return record(store, minute, rows, [], model=model)


def later(store: Store, key: str) -> None:
    """Date a record in the future."""
    content = {**json.loads(store.read(key)), "created_at": "2999-01-01T00:00:00+00:00"}
    store.write(key, [json.dumps(content).encode()])


def at_work(store: Store, began: datetime) -> str:
    """A run that began then, and has just given a sign of life; its id."""
    run_id = f"{began:%Y%m%dT%H%M%SZ}-abcdef"
    write_heartbeat(store, Heartbeat(Run(run_id, 1, 1, 0, 0, 5, 7, 60.0, {}, left=2, due=3), 1))
    return run_id

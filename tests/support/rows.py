"""Made-up rows of a mirror's tables, and summaries of runs."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from zooadapt import bands
from zooadapt.mirror.columns import MANIFEST_SCHEMA
from zooadapt.mirror.run_files import Run
from zooadapt.stores.store import Store
from zooadapt.types import Row

SENTINEL = ",".join(bands.preset("sentinel2-l2a").names)


def usable(model: str = "net.in1k", chans: int = 4, **changes: Any) -> Row:
    """A row of the manifest."""
    row: Row = {}
    for field in MANIFEST_SCHEMA:
        samples: dict[str, Any] = {"int64": 1, "double": 0.5, "bool": True, "string": field.name}
        row[field.name] = samples.get(str(field.type), [])
    figures = {
        "bytes": 4_000_000, "params": 1_000_000, "input_height": 224, "input_width": 224,
        "equivalence_error": 2e-6, "control_error": 1.5, "weights_dtype": "float32",
        "created_at": datetime(2026, 11, 24, 3, 12, tzinfo=UTC), "license": "apache-2.0",
        "proof": "forward", "zoo": "timm", "architecture": model.partition(".")[0],
        "macs": chans * 10**8, "source_uri": f"hf://timm/{model}@c0ffee/model.safetensors",
    }  # fmt: skip
    target = {"in_chans": chans, "bands": "", "scheme": "repeat"}
    return {**row, **figures, **target, "model": model, **changes}


def lacking(model: str = "net.in1k", chans: int = 4, **changes: Any) -> Row:
    """A row of the table of failures."""
    row = {
        "zoo": "timm", "model": model, "in_chans": chans, "bands": "", "scheme": "repeat",
        "status": "failed", "stage": "fetch", "error_type": "FetchError",
        "error": f"{model} isn't there", "attempts": 1, "run_id": "run",
    }  # fmt: skip
    return {**row, **changes}


def many(number: int, chans: Sequence[int] = (1, 4, 8, 25)) -> list[Row]:
    """`number` rows of the manifest, of models with 1, 2, 3 … million parameters."""
    rows = []
    for index in range(number):
        model, figures = index // len(chans), {"equivalence_error": 1e-9 * (1 + index % 997)}
        size = {"params": (model + 1) * 10**6, "bytes": (model + 1) * 4 * 10**6}
        rows.append(usable(f"net{model}.in1k", chans[index % len(chans)], **size, **figures))
    return rows


def run(number: int = 1, **changes: Any) -> Run:
    """A run that took a minute, on day `number` of November 2026."""
    figures: dict[str, Any] = {
        "models": 3, "new": 12, "unsupported": 1, "failed": 2, "bytes_read": 3 * 10**9,
        "bytes_written": 12 * 10**9, "seconds": 60.0,
        "stages": {"fetch": 20.0, "adapt": 10.0, "publish": 30.0, "validate": 40.0},
    }  # fmt: skip
    return Run(f"202611{number:02}T020000Z-abc123", **{**figures, **changes})


def summarise(store: Store, day: int, text: str | None = None) -> None:
    stages = {"fetch": 1.5, "validate": 2.0}
    summary = {"dest": "x", "new": 8, "usable": 9, "unsupported": 0, "failed": 1, "seconds": 4.5,
               "models": 2, "bytes_read": 10, "bytes_written": 80, "stages": stages}  # fmt: skip
    content = json.dumps(summary) if text is None else text
    store.write(f"runs/202611{day:02}T020000Z-abc123/summary.json", [content.encode()])

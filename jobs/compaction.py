"""Measure what it takes to list, read and compact a mirror's records.

    python jobs/compaction.py --counts 25000,50000,100000

Writes records to a folder, each of a model with four variants. Then measures four calls, each in a
process of its own for its peak memory: `Store.list` (list); `manifest.compact`, which reads every
record and makes the archive (first); a plan's pass over all records (read); a compaction (again).
On S3 each call takes a LIST request for 1,000 records, and the first also a GET for each record.
"""

import hashlib
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from zooadapt.mirror import manifest  # noqa: E402
from zooadapt.mirror.columns import LAYOUT_VERSION, MANIFEST_SCHEMA, stated_schema  # noqa: E402
from zooadapt.mirror.manifest import MANIFEST  # noqa: E402
from zooadapt.mirror.scan import ARCHIVE  # noqa: E402
from zooadapt.stores.opening import open_store  # noqa: E402

CHANS = (1, 4, 8, 25)
MEASURED: dict[str, Callable[[Any], object]] = {
    "list": lambda store: store.list("records"),
    "first": manifest.compact,
    "read": lambda store: sum(map(len, manifest.histories(store))),
    "again": manifest.compact,
}


@click.command(help=__doc__)
@click.option("--counts", default="10000,20000", show_default=True, help="Numbers of records.")
@click.option("--folder", type=Path, help="The folder to work in; by default a temporary one.")
def main(counts: str, folder: Path | None) -> None:
    """Print a line for each number of records and each measured call."""
    click.echo("  records  what    CPU s  ms each  peak MB")
    with tempfile.TemporaryDirectory(dir=folder) as name:
        there = 0
        for count in map(int, counts.split(",")):
            write(Path(name), range(there, count))
            there = count
            (Path(name) / ARCHIVE).unlink(missing_ok=True)
            for what in MEASURED:
                seconds, peak = _alone(name, what)
                each = 1000 * seconds / count
                click.echo(f"{count:>9,}  {what:<8}{seconds:>7.1f}{each:>8.3f}{peak / 1e6:>9,.0f}")
            sizes = [(Path(name) / table).stat().st_size for table in (MANIFEST, ARCHIVE)]
            click.echo(
                "{:>9,}  manifest {:,.0f} MB, archive {:,.0f} MB".format(
                    count, *(size / 1e6 for size in sizes)
                )
            )


def _alone(folder: str, what: str) -> tuple[float, int]:
    """Seconds of CPU time, and peak bytes of memory, of one call in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (folder, what))


def measure(folder: str, what: str) -> tuple[float, int]:
    """Seconds of CPU time of one call in this process, and the process's peak bytes of memory."""
    store = open_store(folder)
    started = time.process_time()
    MEASURED[what](store)
    seconds = time.process_time() - started
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def write(root: Path, numbers: range) -> None:
    """Write records with the content and names that a run gives them, as plain files."""
    for number in numbers:
        name = f"some_architecture_patch16_224_{number}.in1k"
        folder = root / "records" / "timm" / name
        folder.mkdir(parents=True)
        (folder / "20261124T000000Z-abcdef-123456.json").write_bytes(record(name, number))


def record(name: str, number: int) -> bytes:
    """A model's record, with as many bytes as a real one."""
    content = {
        "created_at": (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)).isoformat(),
        "adapter_version": 1,
        "source": {"location": f"hf://timm/{name}", "identity": f"sha256={_digest(name)} bytes=1"},
        "versions": {"zooadapt": "0.1.0", "timm": "1.0.31"},
        "variants": [_variant(name, chans) for chans in CHANS],
        "failures": [],
        "layout_version": LAYOUT_VERSION,
        "zoo": "timm",
        "model": name,
        "run_id": "20261124T000000Z-abcdef",
    }
    return json.dumps(content, indent=1).encode()


def _variant(name: str, chans: int) -> dict[str, Any]:
    samples: dict[str, Any] = {"int64": 10**8, "double": 1.2e-6, "bool": True, "string": name}
    columns = stated_schema(MANIFEST_SCHEMA)
    row = {field.name: samples.get(str(field.type), []) for field in columns}
    digest = _digest(f"{name} {chans}")
    unlike = {
        "folder": f"weights/timm/{name}/{chans}ch-repeat-{digest[:16]}",
        "sha256": digest,
        "source_sha256": _digest(name),
        "equivalence_error": int(digest[:8], 16) / 1e15,
        "control_error": int(digest[8:16], 16) / 1e9,
    }
    lists = {"input_mean": [0.485] * chans, "input_std": [0.229] * chans, "stems": ["conv1.weight"]}
    return {**row, **unlike, **lists, "in_chans": chans, "bands": "", "scheme": "repeat"}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


if __name__ == "__main__":
    main()

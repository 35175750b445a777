"""What a job prints: its progress, and the closing lines that say how to use what was made."""

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from types import TracebackType
from typing import Any

import click
from tqdm import tqdm

from zooadapt.mirror.run_files import Run
from zooadapt.report.text import counted, duration, size
from zooadapt.types import ModelEntry, ModelSummary, Request, Row

_EVERY = 60.0
"""Seconds between two lines that say how far the run has come."""


class Progress:
    """Prints a line for each model that has ended, and every minute how far the run has come.

    On a terminal a tqdm bar says how far it has come, and only models with failures get a line.
    """

    def __init__(self, requests: Sequence[Request]) -> None:
        self._work = Work(requests)
        self._models, self._ended = len(requests), 0
        self._variants = sum(len(request.targets) for request in requests)
        self._made = self._bytes = 0
        self._failures: Counter[str] = Counter()
        """Models that failed, by stage."""
        self._terminal = sys.stderr.isatty()
        self._began = self._told = time.monotonic()

    def __enter__(self) -> "Progress":
        self._bar = tqdm(
            total=self._models, unit="model", disable=not self._terminal,
            bar_format="{n_fmt}/{total_fmt} models |{bar}| {elapsed}{postfix}",
        )  # fmt: skip
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()

    def located(self, request: Request, size: int | None) -> None:
        """Note the bytes of a checkpoint that was looked up; None where its source states none."""
        self._work.located(request.entry, size)

    def model_ended(self, summary: ModelSummary) -> None:
        """Count a model that has ended."""
        self._ended += 1
        self._work.ended(summary.entry)
        self._made += len(summary.made)
        self._bytes += summary.bytes_read + summary.bytes_written
        failed = [failure.stage for failure in summary.failures if failure.status == "failed"]
        self._failures.update(failed[:1])
        line = f"{_now()} [{self._ended}/{self._models}] {model_line(summary)}"
        if not self._terminal:
            click.echo(line)
        elif summary.failures:
            self._bar.write(line)
        self._bar.set_postfix_str(self.so_far(), refresh=False)
        self._bar.update()

    def tell(self) -> None:
        """Print how far the run has come, if the last such line is a minute old."""
        if not self._terminal and time.monotonic() - self._told >= _EVERY:
            self._told = time.monotonic()
            done = f"{self._ended:,} of {counted(self._models, 'model')}"
            click.echo(f"{_now()} so far: {done}, {self.so_far()}")

    def so_far(self) -> str:
        """Variants made and asked for, models that failed by stage, the rate and the time left."""
        parts = [f"{self._made:,} of {counted(self._variants, 'variant')} made"]
        if self._failures:
            stages = ", ".join(f"{stage} {count:,}" for stage, count in self._failures.items())
            parts.append(f"{counted(self._failures.total(), 'model')} failed ({stages})")
        parts.append(f"{size(self._bytes / self._seconds())}/s")
        if (left := self.seconds_left()) is not None:
            parts.append(f"about {duration(left)} left")
        return ", ".join(parts)

    def seconds_left(self) -> float | None:
        """An estimate of the time until the run ends; None where nothing has ended yet."""
        share = self._work.share()
        return self._seconds() * (1 - share) / share if 0 < share < 1 else None

    def _seconds(self) -> float:
        return max(time.monotonic() - self._began, 1e-3)


class Work:
    """How much of a run's work is done.

    A model's work grows with the bytes of its checkpoint, which is read once, and written and run
    once for each variant. Models of unknown size count as the average one.
    """

    def __init__(self, requests: Sequence[Request]) -> None:
        self._passes = {_key(each.entry): 1 + len(each.targets) for each in requests}
        self._sizes: dict[tuple[str, str], int] = {}
        self._all, self._done = _Share(sum(self._passes.values())), _Share()
        self._bytes = 0

    def located(self, entry: ModelEntry, size: int | None) -> None:
        """Note the bytes of a model's checkpoint; None where its source states none."""
        key = _key(entry)
        if size is not None and key not in self._sizes:
            self._sizes[key] = size
            self._bytes += size
            self._all.add(-self._passes[key], self._passes[key] * size)

    def ended(self, entry: ModelEntry) -> None:
        """Count a model as done."""
        key = _key(entry)
        size = self._sizes.get(key)
        passes = self._passes[key]
        self._done.add(*((passes, 0) if size is None else (0, passes * size)))

    def share(self) -> float:
        """The part of the work that is done, 0 to 1."""
        average = self._bytes / len(self._sizes) if self._bytes else 1.0
        return self._done.of(average) / max(1.0, self._all.of(average))


@dataclass
class _Share:
    """Some of the work: passes over checkpoints of unknown size, and bytes of all others."""

    passes: int = 0
    bytes: int = 0

    def add(self, passes: int, bytes_: int) -> None:
        self.passes += passes
        self.bytes += bytes_

    def of(self, average: float) -> float:
        return self.passes * average + self.bytes


def _key(entry: ModelEntry) -> tuple[str, str]:
    return entry.zoo, entry.name


def _now() -> str:
    return f"{datetime.now():%H:%M:%S}"


def model_line(summary: ModelSummary) -> str:
    """What became of a model: what was made, what failed and why, the time and the bytes."""
    parts = []
    proved = [each for each in summary.made if each not in summary.changed]
    if proved:
        parts.append(f"{shortened(proved)} channels proved on {summary.checked_on}")
    if summary.changed:
        parts += _changed(summary)
    whys = {(each.status, each.stage, each.error) for each in summary.failures}
    for status, stage, error in sorted(whys):
        alike = [
            f for f in summary.failures if (f.status, f.stage, f.error) == (status, stage, error)
        ]
        which = shortened([f.bands or str(f.in_chans) for f in alike])
        parts.append(f"{which} channels {status} at {stage}: {error}")
    if summary.outage:
        why = f"{summary.outage.task} from {summary.outage.place}: {summary.outage.reason}"
        parts.append(f"{shortened(summary.postponed)} channels postponed ({why})")
    moved = summary.bytes_read + summary.bytes_written
    took = duration(sum(summary.seconds.values()))
    return f"{summary.entry.name}: {'; '.join(parts)} ({took}{f', {size(moved)}' * bool(moved)})"


def _changed(summary: ModelSummary) -> list[str]:
    """The variants with another function, those with the same reason together."""
    by_reason: dict[str, list[str]] = {}
    for target, why in zip(summary.changed, summary.why_changed, strict=True):
        by_reason.setdefault(why.partition(": ")[2], []).append(target)
    return [
        f"{shortened(found)} channels made, with another function: {why}"
        for why, found in by_reason.items()
    ]


def shortened(targets: Sequence[str]) -> str:
    """Channel counts and bands, with three or more counts in a row as a range: ``1–4, 8, RGB``."""
    counts = sorted({int(target) for target in targets if target.isdigit()})
    rest = [target for target in targets if not target.isdigit()]
    parts: list[str] = []
    for _, run in groupby(enumerate(counts), key=lambda pair: pair[1] - pair[0]):
        numbers = [count for _, count in run]
        together = f"{numbers[0]}–{numbers[-1]}"
        parts += [together] if len(numbers) > 2 else map(str, numbers)
    return ", ".join([*parts, *rest])


def closing(run: Run, dest: str, usable: int, example: Row | None, options: bool = False) -> str:
    """What was written where, and Python to paste that queries the mirror and loads `example`.

    `dest` is the mirror's URL without secrets, `usable` the number of its variants. `options` says
    whether the mirror's store was given storage options. These aren't shown.
    """
    lines = [
        f"{counted(run.new, 'new variant')} in {run.seconds:.0f} s. Of all variants asked for: "
        f"{run.unsupported} unsupported, {run.failed} failed{_postponed(run)}.",
        f"The mirror {dest} holds {counted(usable, 'variant')}:",
        f"  {dest}/manifest.parquet   the table of usable variants",
        f"  {dest}/failures.parquet   which variants aren't there, and why",
        f"  {dest}/index.html         the mirror's page{_how_to_open(dest)}",
    ]
    if example:
        lines += [
            "",
            "Query the mirror, then load a variant, in Python:",
            "",
            *query_and_load(dest, example, options),
        ]
    return "\n".join(lines)


def _how_to_open(dest: str) -> str:
    return f": zooadapt report {dest} --open" if "://" in dest else ", for a browser"


def _postponed(run: Run) -> str:
    if not run.postponed:
        return ""
    models = counted(run.postponed, "model")
    return f". Outages postponed {models}, which the same command takes up again"


def creating(row: Row, **arguments: Any) -> str:
    """The Python call that loads the model of a row by zooadapt; empty arguments are left out."""
    name = json.dumps(f"{row['zoo']}/{row['model']}")
    given = [f"{key}={json.dumps(value)}" for key, value in arguments.items() if value]
    return f"zooadapt.create_model({', '.join([name, *given])})"


def query_and_load(dest: str, row: Row, options: bool) -> list[str]:
    """Lines of Python that query the mirror at `dest` and load the variant of `row`."""
    lines = [
        f"import pandas as pd, {'timm' if row['min_timm'] else 'zooadapt'}",
        *(["options = {}  # the storage_options of your config"] if options else []),
        f'rows = pd.read_parquet("{dest}/manifest.parquet"{_given(options, "storage_options=")})',
        'print(rows[["model", "in_chans", "scheme", "equivalence_error", "folder"]])',
    ]
    how = _by_timm if row["min_timm"] else _by_zooadapt
    return [*lines, *how(dest, row, options), f"# {row['in_chans']} channels of {_pixels(row)}"]


def _by_timm(dest: str, row: Row, options: bool) -> list[str]:
    folder, lines = f"{dest}/{row['folder']}", []
    if "://" in dest:
        local = folder.rpartition("/")[2]
        lines = [
            "import fsspec",
            f'filesystem, path = fsspec.url_to_fs("{folder}"{_given(options, "**")})',
            f'filesystem.get(path, "{local}", recursive=True)',
        ]
        folder = local
    return [*lines, f'model = timm.create_model("local-dir:{folder}", pretrained=True).eval()']


def _by_zooadapt(dest: str, row: Row, options: bool) -> list[str]:
    chans: dict[str, Any] = {} if row["bands"] else {"in_chans": row["in_chans"]}
    scheme = row["scheme"].partition(".")[0]
    call = creating(row, **chans, bands=row["bands"], scheme=scheme, mirror=dest)
    return [f"model = {call[:-1]}{_given(options, 'storage_options=')})"]


def _pixels(row: Row) -> str:
    return f"{row['input_height']} x {row['input_width']} pixels"


def _given(options: bool, how: str) -> str:
    return f", {how}options" if options else ""

"""What an operator reads: progress, the failure table, the closing lines."""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from zooadapt.errors import FetchError
from zooadapt.mirror.layout import Row
from zooadapt.types import ModelSummary, Source

if TYPE_CHECKING:
    from zooadapt.job.estimate import Estimate
    from zooadapt.job.plan import Plan
    from zooadapt.upkeep.garbage import Garbage
    from zooadapt.upkeep.removal import Removal
    from zooadapt.upkeep.verify import Findings, Wrong


def size(count: float) -> str:
    """A number of bytes for people: 18.8 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def counted(number: int, noun: str) -> str:
    """Such as ``1 model`` or ``2,000 models``."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def plan_line(plan: "Plan") -> str:
    """What is there, what is due."""
    parts = [counted(plan.models, "model"), f"{counted(plan.due, 'variant')} to make"]
    parts += [f"{plan.done} done already"] if plan.done else []
    parts += [f"{plan.unsupported} known to be unsupported"] if plan.unsupported else []
    parts += [f"{plan.failed} failed before (--retry-failed takes them up)"] if plan.failed else []
    parts += [f"{plan.removed} taken down"] if plan.removed else []
    return ", ".join(parts)


class Progress:
    """tqdm bars on a terminal, one plain line a model elsewhere."""

    def __init__(self, models: int) -> None:
        self.models, self.ended = models, 0
        self.terminal = sys.stderr.isatty()

    def __enter__(self) -> "Progress":
        quiet = not self.terminal
        self._models = tqdm(total=self.models, unit="model", desc="models", disable=quiet)
        self._bytes = tqdm(unit="B", unit_scale=True, desc="written", disable=quiet)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._models.close()
        self._bytes.close()

    def model_ended(self, summary: ModelSummary) -> None:
        """Count a model that is recorded; on a terminal only a failing one gets a line."""
        self.ended += 1
        self._models.update()
        self._bytes.update(summary.bytes_written)
        line = f"[{self.ended}/{self.models}] {_model_line(summary)}"
        if not self.terminal:
            click.echo(line)
        elif summary.failures:
            self._models.write(line)


def _model_line(summary: ModelSummary) -> str:
    parts = []
    if summary.made:
        parts.append(f"{','.join(summary.made)} channels proved on {summary.checked_on}")
    if summary.failures:
        failure = summary.failures[0]
        parts.append(f"{failure.status} at {failure.stage}")
    return f"{summary.entry.name}: {'; '.join(parts)} ({sum(summary.seconds.values()):.1f} s)"


@dataclass(frozen=True)
class Group:
    """Failures for the same reason."""

    status: str
    stage: str
    reason: str
    models: dict[str, list[int]]
    """With the channel counts of their variants."""

    def named(self, most: int) -> str:
        """The first models with their channel counts, and how many more there are."""
        first = list(self.models.items())[:most]
        shown = ", ".join(f"{name} ({','.join(map(str, counts))})" for name, counts in first)
        more = len(self.models) - most
        return shown + (f" and {more} more" if more > 0 else "")


def reason(row: Row) -> str:
    """Why a variant isn't there, in the same words for all models."""
    error: str = row["error"]
    return error.replace(row["model"], "…")


def grouped(failures: Iterable[Row]) -> list[Group]:
    """Failures by status, stage and reason, the largest group first."""
    groups: dict[tuple[str, str, str], dict[str, list[int]]] = {}
    for row in failures:
        models = groups.setdefault((row["status"], row["stage"], reason(row)), {})
        models.setdefault(row["model"], []).append(row["in_chans"])
    found = [Group(*why, models) for why, models in groups.items()]
    return sorted(found, key=lambda group: -len(group.models))


def failure_table(failures: Iterable[Row]) -> str:
    """Failures grouped by status, stage and reason, the largest group first."""
    lines = [f"  {'status':<11}  {'stage':<10}  {'models':>6}  reason"]
    for group in grouped(failures):
        shown = f"{group.status:<11}  {group.stage:<10}  {len(group.models):>6}"
        lines.append(f"  {shown}  {group.reason}")
        lines.append(f"  {'':<33}{group.named(3)}")
    return "\n".join(lines)


def wrong_table(wrong: "Sequence[Wrong]") -> str:
    """A line for each thing that is wrong."""
    width = max(len(found.where) for found in wrong)
    return "\n".join(f"  {found.where:<{width}}  {found.what}" for found in wrong)


def verified(findings: "Findings", deep: bool) -> str:
    """The closing line of a check."""
    checked = f"{counted(findings.variants, 'variant')}, {size(findings.bytes)}"
    proved = ", each proved again" if deep else ""
    verdict = f"{len(findings.wrong)} wrong" if findings.wrong else f"all is well{proved}"
    unlisted = (
        f"; {findings.unlisted} more are recorded: a job is at work, or zooadapt rebuild lists them"
        if findings.unlisted
        else ""
    )
    return f"{checked}: {verdict}{unlisted}"


def garbage_table(garbage: "Sequence[Garbage]", now: datetime) -> str:
    """A line for each thing that may go, with its size and age."""
    lines = []
    for item in garbage:
        kind = "  unfinished upload" if item.upload else ""
        lines.append(f"  {size(item.bytes):>8}  {(now - item.since).days:>5} d  {item.name}{kind}")
    return "\n".join(lines)


def removal_table(removals: "Sequence[Removal]") -> str:
    """A line for each model that goes: its listed variants, and the bytes of all its objects."""
    lines = []
    for removal in removals:
        rows = removal.variants
        widths = ",".join(row["bands"].replace(",", "-") or str(row["in_chans"]) for row in rows)
        shown = widths or ("nothing listed" if removal.keys else "nothing left")
        stems = " and its original stems" if removal.whole and removal.keys else ""
        lines.append(f"  {size(removal.bytes):>8}  {removal.zoo}/{removal.model}  {shown}{stems}")
    return "\n".join(lines)


def dry_run(
    plan: "Plan",
    sources: Sequence[Source | FetchError],
    free: int | None,
    estimated: "Estimate",
    bandwidth: float,
) -> str:
    """A line for each model that is due, and what it costs to read and write.

    `estimated` is of those of known size, and `bandwidth` in MB a second.
    """
    lines, read, written, unknown = [], 0, 0, []
    for request, source in zip(plan.requests, sources, strict=True):
        bytes_ = source.bytes if isinstance(source, Source) else None
        if bytes_ is None:
            unknown.append(source)
        read += bytes_ or 0
        written += (bytes_ or 0) * len(request.targets)
        shown = "size unknown" if bytes_ is None else size(bytes_)
        targets = ",".join(target.short for target in request.targets)
        lines.append(f"  {request.entry.name}  {targets}  {shown}")
    lines.append(f"to read:  {size(read)}{_unknown(unknown)}")
    lines.append(f"to write: about {size(written)}")
    lines.append(f"free:     {size(free) if free is not None else 'the store does not say'}")
    return "\n".join([*lines, *_estimate(estimated, bandwidth)])


def _estimate(of: "Estimate", bandwidth: float) -> list[str]:
    """Lines of what a run takes; `zooadapt.estimate` has the formulas."""
    return [
        "estimated:",
        f"  requests  {counted(of.lookups, 'look-up')} and {counted(of.source_reads, 'read')} of "
        f"sources; {counted(of.writes, 'write')} and {counted(of.reads, 'read')} of the store",
        f"  bytes     {size(of.bytes_in)} from sources, {size(of.bytes_sent)} to the store and "
        f"{size(of.bytes_back)} back",
        f"  transfer  {of.seconds(bandwidth) / 3600:,.2f} hours at {bandwidth:g} MB/s",
        f"  proofs    {of.gpu_seconds / 3600:,.2f} GPU hours",
        f"  storage   {size(of.stored)}",
    ]


def _unknown(sources: Sequence[Source | FetchError]) -> str:
    if not sources:
        return ""
    reason = next((f" ({source})" for source in sources if isinstance(source, FetchError)), "")
    return f", and {len(sources)} checkpoints of unknown size{reason}"


@dataclass(frozen=True)
class Ending:
    """The figures of the closing lines."""

    dest: str
    new: int
    usable: int
    """Rows of the manifest, other runs' included."""
    unsupported: int
    failed: int
    seconds: float
    models: int
    """Worked on."""
    bytes_read: int
    bytes_written: int
    stages: dict[str, float]
    """Seconds by stage, of all workers together."""
    left: int = 0
    """Models that weren't begun, as the time was up."""


def closing(ending: Ending, example: Row | None, options: bool = False) -> str:
    """What was written where, and lines to paste that query it and load `example`.

    `options` says that the mirror's store was given storage options, which aren't shown.
    """
    lines = [
        f"{counted(ending.new, 'new variant')} in {ending.seconds:.0f} s; of what was asked for, "
        f"{ending.unsupported} unsupported, {ending.failed} failed.",
        f"The mirror {ending.dest} holds {counted(ending.usable, 'variant')}:",
        f"  {ending.dest}/manifest.parquet   the usable variants",
        f"  {ending.dest}/failures.parquet   what isn't there, and why",
        f"  {ending.dest}/index.html         a page to look at",
    ]
    if example:
        lines += [
            "",
            "Query it, then load a variant, in Python:",
            "",
            *_snippet(ending.dest, example, options),
        ]
    return "\n".join(lines)


def creating(row: Row, **arguments: Any) -> str:
    """The call that loads a model of another zoo than timm's; empty arguments are left out."""
    name = json.dumps(f"{row['zoo']}/{row['model']}")
    given = [f"{key}={json.dumps(value)}" for key, value in arguments.items() if value]
    return f"zooadapt.create_model({', '.join([name, *given])})"


def _snippet(dest: str, row: Row, options: bool) -> list[str]:
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

"""What a job prints: its progress, and the closing lines that say how to use what was made."""

import json
import sys
from types import TracebackType
from typing import Any

import click
from tqdm import tqdm

from zooadapt.mirror.run_files import Run
from zooadapt.report.text import counted
from zooadapt.types import ModelSummary, Row


class Progress:
    """Shows tqdm bars on a terminal, and elsewhere one plain line for each model."""

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
        """Count a model that has ended. On a terminal, only a model with failures gets a line."""
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


def closing(run: Run, dest: str, usable: int, example: Row | None, options: bool = False) -> str:
    """What was written where, and Python to paste that queries the mirror and loads `example`.

    `dest` is the mirror's URL without secrets, `usable` the number of its variants. `options` says
    whether the mirror's store was given storage options. These aren't shown.
    """
    lines = [
        f"{counted(run.new, 'new variant')} in {run.seconds:.0f} s. Of all variants asked for: "
        f"{run.unsupported} unsupported, {run.failed} failed.",
        f"The mirror {dest} holds {counted(usable, 'variant')}:",
        f"  {dest}/manifest.parquet   the table of usable variants",
        f"  {dest}/failures.parquet   which variants aren't there, and why",
        f"  {dest}/index.html         the mirror's page, for a browser",
    ]
    if example:
        lines += [
            "",
            "Query the mirror, then load a variant, in Python:",
            "",
            *query_and_load(dest, example, options),
        ]
    return "\n".join(lines)


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

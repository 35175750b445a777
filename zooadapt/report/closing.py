"""The closing lines of a job: what was written where, and how to query and load it."""

import json
from typing import Any

from zooadapt.mirror.run_files import Run
from zooadapt.report.text import counted
from zooadapt.types import Row


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

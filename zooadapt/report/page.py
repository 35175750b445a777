"""The mirror's page: one HTML file beside the manifest. It needs no network and no server.

Whatever the tables say appears as text: Jinja2 escapes it, and the page's script makes no HTML from
it. The page's Content-Security-Policy lets no other script run, and lets nothing be loaded.
"""

import base64
import hashlib
import logging
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zooadapt.errors import UsageError, one_line, redact
from zooadapt.mirror import manifest, run_files
from zooadapt.mirror.manifest import FAILURES, MANIFEST, PAGE, Compacted
from zooadapt.reader import cache
from zooadapt.report import failures, page_data, plots, text
from zooadapt.stores.store import Store
from zooadapt.types import Row

if TYPE_CHECKING:
    from jinja2 import Environment

_log = logging.getLogger("zooadapt")

LARGEST = 20_000_000
"""Most bytes of a manifest for which a page is made. Each variant has about 150."""
_GROUPS = 100
"""Most groups of failures on the page. failures.parquet has all failures."""
_RUNS = 30
"""Most runs in the page's table. The sums are of all runs that were read."""


@dataclass(frozen=True)
class Contents:
    """What the page shows."""

    url: str
    """The mirror's URL, without secrets."""
    rows: Sequence[Row]
    """The rows of the manifest."""
    failed: Sequence[Row]
    """The rows of failures.parquet."""
    runs: Sequence[run_files.Run]
    """The runs, the latest first."""


def write(store: Store, tables: Compacted | None = None) -> str:
    """Make the page of a mirror, write it to the mirror, and return its URL without secrets.

    `tables` are the mirror's tables, if they were just written; otherwise they are read. Raises
    UsageError where there is no mirror or it is too large for a page, and RunError where its tables
    can't be understood.
    """
    size = 0
    with suppress(FileNotFoundError):
        if (size := store.size(MANIFEST)) > LARGEST:
            store.remove(PAGE)  # it is out of date, and may show what was taken down
            raise UsageError(
                f"manifest.parquet has {text.size(size)}, and no browser shows a page of so many "
                f"variants; query the file instead, for example with pandas"
            )
    if tables and size == len(tables.usable.data):  # otherwise they were replaced meanwhile
        rows, failed = [*tables.usable.rows(page_data.COLUMNS)], [*tables.failures]
    else:
        rows = manifest.read_table(store, MANIFEST).select(page_data.COLUMNS).to_pylist()
        failed = manifest.read_table(store, FAILURES).to_pylist()
    contents = Contents(store.url, rows, failed, run_files.read(store))
    store.write(PAGE, [render(contents).encode()])
    return f"{contents.url}/{PAGE}"


def local_file(store: Store, folder: Path) -> Path:
    """The mirror's page as a file on this machine; of a remote mirror a copy in `folder`.

    Raises UsageError where the mirror has no page.
    """
    try:
        page = store.read(PAGE)
    except FileNotFoundError as cause:
        raise UsageError(
            f"{store.url} has no page: a job writes one, and so does zooadapt report"
        ) from cause
    if store.is_local:
        return Path(store.path(PAGE))
    cache.make_folder(folder)
    file = folder / f"{hashlib.sha256(store.url.encode()).hexdigest()[:32]}.html"
    file.write_bytes(page)
    return file


def prepare() -> None:
    """Import what a page needs. It takes seconds, so a job does it while models are made."""
    import jinja2  # noqa: F401
    import matplotlib.figure  # noqa: F401


def leave(store: Store, tables: Compacted | None = None) -> None:
    """Write the page, as `write` does. A failure is only a warning, as nothing else needs it."""
    try:
        write(store, tables)
    except Exception as error:
        _log.warning("the mirror's page wasn't written: %s", one_line(error))


def render(contents: Contents) -> str:
    """The page as HTML. The same contents give the same bytes."""
    from markupsafe import Markup

    script = _file("report.js")
    template = _environment().get_template("report.html.j2")
    return template.render(
        **_figures(contents),
        style=Markup(_file("report.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        errors_plot=Markup(plots.errors(contents.rows)),
        stages_plot=Markup(plots.stages(contents.runs)),
    )


def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined  # only where a page is made

    environment = Environment(
        loader=PackageLoader("zooadapt.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.filters |= {
        "size": text.size,
        "duration": text.duration,
        "figure": figure,
        "redact": redact,
    }
    return environment


def _file(name: str) -> str:
    return (resources.files("zooadapt.report") / "templates" / name).read_text(encoding="utf-8")


def _figures(contents: Contents) -> dict[str, Any]:
    """The values for the template, by the names that it uses."""
    rows, failed, runs = contents.rows, contents.failed, contents.runs
    spent = run_files.together(runs)
    return {
        "url": contents.url,
        "rows": rows,
        "failures": failed,
        "models": len({(row["zoo"], row["model"]) for row in rows}),
        "bytes": sum(row["bytes"] for row in rows),
        "latest": max((row["created_at"] for row in rows), default=None),
        "coverage": page_data.coverage(rows, failed),
        "groups": failures.grouped(failed),
        "most_groups": _GROUPS,
        "proofs": proofs(rows),
        "runs": runs,
        "most_runs": _RUNS,
        "stages": spent,
        "seconds": sum(spent.values()),
        "bytes_by_stage": {
            "fetch": sum(run.bytes_read for run in runs),
            "publish": sum(run.bytes_written for run in runs),
        },
        "data": page_data.embedded(contents.url, rows, failed),
    }


@dataclass(frozen=True)
class ProofFigures:
    """How the proofs of the variants of one dtype are distributed."""

    dtype: str
    variants: int
    changed: int
    """Variants whose function isn't kept. The figures below leave them out."""
    errors: tuple[float, float, float]
    """Three errors: half of the variants, 99 % and all have at most this one."""
    controls: tuple[float, float, float]
    """Three controls: all of the variants, 99 % and half have at least this one."""


def proofs(rows: Iterable[Row]) -> list[ProofFigures]:
    """The figures of the proofs for each dtype of weights, sorted by dtype."""
    by_dtype: dict[str, list[Row]] = {}
    for row in rows:
        by_dtype.setdefault(row["weights_dtype"], []).append(row)
    return [_proofs(dtype, by_dtype[dtype]) for dtype in sorted(by_dtype)]


def _proofs(dtype: str, rows: Sequence[Row]) -> ProofFigures:
    kept = [row for row in rows if row["equivalent"]]
    errors = sorted(row["equivalence_error"] for row in kept)
    controls = sorted(row["control_error"] for row in kept)
    return ProofFigures(
        dtype,
        len(rows),
        len(rows) - len(kept),
        (_at(errors, 0.5), _at(errors, 0.99), _at(errors, 1)),
        (_at(controls, 0), _at(controls, 0.01), _at(controls, 0.5)),
    )


def _at(ordered: Sequence[float], share: float) -> float:
    """The value that this share of the values doesn't exceed; NaN where there are none."""
    return ordered[round(share * (len(ordered) - 1))] if ordered else math.nan


def figure(value: float) -> str:
    """An error or a control as the page's script writes it: 2.1e-6, 0.63; "–" if not finite."""
    if not math.isfinite(value):
        return "–"
    if value >= 10:
        return f"{value:.0f}"
    return f"{value:#.2g}" if value >= 0.01 else f"{value:.1e}".replace("e-0", "e-")

"""Rows of the manifest for people to read, and as JSON for their scripts."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd

from zooadapt.errors import UsageError
from zooadapt.mirror.run_files import Seen
from zooadapt.report.text import size

_FORMATS: dict[str, Callable[[Any], str]] = {
    "bytes": size,
    "source_bytes": size,
    "params": lambda count: f"{count / 1e6:.3g} M",
    "equivalence_error": lambda error: f"{error:.1e}",
    "control_error": lambda error: f"{error:.2g}",
    "license": lambda name: name or "unknown",
    "created_at": lambda when: f"{when:%Y-%m-%d %H:%M}",
}
_MOST_NAMED = 5
_RUN = (
    "run_id", "began", "seconds", "ended", "models", "new", "failed", "unsupported",
    "bytes_read", "bytes_written", "left", "zooadapt_version",
)  # fmt: skip


def selected(rows: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Some columns. Raises UsageError for one that isn't there."""
    unknown = [name for name in columns if name not in rows]
    if unknown or not columns:
        raise UsageError(f"no column {', '.join(unknown)}; there are {', '.join(rows.columns)}")
    return rows[list(columns)]


def sorted_by(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """By a column, the largest first with "-" before it. Raises UsageError for no such column."""
    name = column.removeprefix("-")
    selected(rows, [name])
    return rows.sort_values(name, ascending=not column.startswith("-"), kind="stable")


def as_json(rows: pd.DataFrame) -> str:
    """A list of objects; times in ISO 8601."""
    return str(rows.to_json(orient="records", date_format="iso", indent=1))


def table(rows: pd.DataFrame) -> str:
    """Aligned columns under their names; a column that is empty throughout is left out."""
    columns = {name: [_cell(name, value) for value in rows[name]] for name in rows.columns}
    return aligned({name: cells for name, cells in columns.items() if any(cells) or not cells})


def aligned(columns: Mapping[str, Sequence[str]]) -> str:
    """Columns of text under their names."""
    padded = []
    for name, cells in columns.items():
        width = max(len(cell) for cell in [name, *cells])
        padded.append([cell.ljust(width) for cell in [name, *cells]])
    return "\n".join("  ".join(line).rstrip() for line in zip(*padded, strict=True))


def facts(rows: pd.DataFrame, names: Sequence[str]) -> str:
    """A line for each of these columns, of the first row."""
    width = max(map(len, names))
    return "\n".join(f"{name:<{width}}  {_cell(name, rows.iloc[0][name])}" for name in names)


def _cell(name: str, value: Any) -> str:
    if value is None or value is pd.NA:
        return "unknown" if name == "license" else ""
    if name in _FORMATS:
        return _FORMATS[name](value)
    listed = hasattr(value, "__len__") and not isinstance(value, str)
    return ", ".join(map(str, value)) if listed else str(value)


def runs(seen: Sequence[Seen]) -> pd.DataFrame:
    """A row for each run; what isn't known of it is None."""
    return pd.DataFrame([_run(each) for each in seen], columns=_RUN, dtype=object)


def _run(seen: Seen) -> list[Any]:
    names = ("models", "new", "failed", "unsupported", "bytes_read", "bytes_written")
    figures = [getattr(seen.run, name, None) for name in names]
    took = round(seen.run.seconds, 1) if seen.run else None
    left = seen.run.left if seen.run else None
    began = f"{seen.began:%Y-%m-%d %H:%M}"
    return [seen.run_id, began, took, seen.ended, *figures, left, seen.zooadapt_version]


def run_lines(found: pd.DataFrame) -> str:
    """Runs for people."""
    cells = {name: [_known(value) for value in found[name]] for name in _RUN}
    cells["seconds"] = [_took(seconds) for seconds in cells["seconds"]]
    for name in ("bytes_read", "bytes_written"):
        cells[name] = ["" if count is None else size(count) for count in cells[name]]
    titles = {"seconds": "took", "bytes_read": "read", "bytes_written": "written",
              "zooadapt_version": "zooadapt"}  # fmt: skip
    columns = {
        titles.get(name, name): ["" if value is None else str(value) for value in values]
        for name, values in cells.items()
    }
    return aligned({title: texts for title, texts in columns.items() if any(texts)})


def _known(value: Any) -> Any:
    return None if pd.isna(value) else value


def _took(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.0f} s" if seconds < 100 else f"{timedelta(seconds=round(seconds))}"


def status(rows: pd.DataFrame) -> dict[str, Any]:
    """What a manifest holds, when its latest variant was made, and what timm has besides."""
    latest = rows["created_at"].max() if len(rows) else None
    there = set(rows.loc[rows["zoo"] == "timm", "model"])
    known = _known_to_timm()
    return {
        "variants": len(rows),
        "models": len(rows[["zoo", "model"]].drop_duplicates()),
        "bytes": int(rows["bytes"].sum()),
        "channels": sorted(map(int, rows["in_chans"].unique())),
        "bands": sorted(set(rows["bands"]) - {""}),
        "latest": latest.isoformat() if latest is not None else None,
        "timm": known and known[0],
        "lacking": sorted(set(known[1]) - there) if known else None,
    }


def _known_to_timm() -> tuple[str, list[str]] | None:
    """The installed timm's release and its pretrained models; None where it isn't installed."""
    try:
        import timm
    except ModuleNotFoundError:
        return None
    return timm.__version__, timm.list_models(pretrained=True)


def status_lines(found: Mapping[str, Any]) -> str:
    """A `status` for people."""
    lines = [
        f"{_counted(found['variants'], 'variant')} of {_counted(found['models'], 'model')}, "
        f"{size(found['bytes'])}"
    ]
    if found["channels"]:
        lines.append(f"channels: {', '.join(map(str, found['channels']))}")
    lines += [f"bands: {bands}" for bands in found["bands"]]
    if found["latest"]:
        age = datetime.now(UTC) - datetime.fromisoformat(found["latest"])
        lines.append(f"the latest was made {_ago(age)}, at {found['latest'][:16]} UTC")
    if found["timm"] is None:
        return "\n".join(
            [*lines, "timm isn't installed here: what the mirror lacks of it is unknown"]
        )
    lacking = found["lacking"]
    named = ", ".join(lacking[:_MOST_NAMED]) + (" …" if len(lacking) > _MOST_NAMED else "")
    has = f"timm {found['timm']}, installed here, has"
    if lacking:
        return "\n".join([*lines, f"{has} {len(lacking):,} pretrained models besides: {named}"])
    return "\n".join([*lines, f"{has} no pretrained model besides"])


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _ago(age: timedelta) -> str:
    for unit, seconds in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        count = int(age.total_seconds() // seconds)
        if count:
            return f"{count} {unit}{'s' * (count > 1)} ago"
    return "just now"

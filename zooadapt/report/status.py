"""What a mirror holds."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any

import pandas as pd

from zooadapt.errors import UsageError
from zooadapt.report.text import counted, size
from zooadapt.zoos import registry

_MOST_NAMED = 5


def status(rows: pd.DataFrame) -> dict[str, Any]:
    """What a manifest holds, when its latest variant was made, and which timm models it lacks."""
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
        names = [entry.name for entry in registry.list_models("timm")]
    except UsageError:
        return None
    return version("timm"), names


def status_lines(found: Mapping[str, Any]) -> str:
    """The result of `status` as text for people."""
    lines = [
        f"{counted(found['variants'], 'variant')} of {counted(found['models'], 'model')}, "
        f"{size(found['bytes'])}"
    ]
    if found["channels"]:
        lines.append(f"channels: {', '.join(map(str, found['channels']))}")
    lines += [f"bands: {bands}" for bands in found["bands"]]
    if found["latest"]:
        age = datetime.now(UTC) - datetime.fromisoformat(found["latest"])
        lines.append(f"the latest variant was made {_ago(age)}, at {found['latest'][:16]} UTC")
    if found["timm"] is None:
        return "\n".join(
            [*lines, "timm isn't installed here: which of its models the mirror lacks is unknown"]
        )
    lacking = found["lacking"]
    named = ", ".join(lacking[:_MOST_NAMED]) + (" …" if len(lacking) > _MOST_NAMED else "")
    has = f"timm {found['timm']}, installed here, has"
    what = f"{counted(len(lacking), 'pretrained model')} that the mirror lacks: {named}"
    return "\n".join([*lines, f"{has} {what if lacking else 'no model that the mirror lacks'}"])


def _ago(age: timedelta) -> str:
    for unit, seconds in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        count = int(age.total_seconds() // seconds)
        if count:
            return f"{count} {unit}{'s' * (count > 1)} ago"
    return "just now"

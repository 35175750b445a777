"""List the models that a zoo offers. This needs no mirror."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from zooadapt.checkpoints import sources
from zooadapt.errors import StageError
from zooadapt.reader import manifests, parameter_counts
from zooadapt.types import ModelEntry, ModelFacts
from zooadapt.zoos import registry

COLUMNS = (
    "zoo", "model", "architecture", "pretrained_tag", "license", "params", "in_chans",
    "num_classes", "input_height", "input_width", "source",
)  # fmt: skip


def offered(
    spec: str,
    source_root: str | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    model: str = "*",
    license: str | None = None,
    cache: Path | None = None,
) -> pd.DataFrame:
    """One row for each matching model of `spec`, a ``--zoo`` option. Unknown values are missing.

    `model` and `license` are globs. The column `params` exists only if `cache` is given, the folder
    in which counts are kept. Raises UsageError if the zoo can't be listed.
    """
    entries = [
        entry
        for entry in registry.list_models(spec, source_root, options)
        if registry.named(entry.zoo, entry.name, model)
    ]
    rows = pd.DataFrame(
        [_row(e, source_root) for e in entries], columns=list(COLUMNS), dtype=object
    )
    rows = rows.astype(dict.fromkeys(_NUMBERS, "Int64"))
    if license is not None:
        rows = manifests.where(rows, "license", license)
    if cache is None:
        return rows.drop(columns="params")
    counts = parameter_counts.counted([entries[index] for index in rows.index], cache)
    return rows.assign(params=pd.array(counts, dtype="Int64"))


_NUMBERS = ("params", "in_chans", "num_classes", "input_height", "input_width")


def _row(entry: ModelEntry, source_root: str | None) -> dict[str, Any]:
    facts = _facts(entry)
    return {
        "zoo": entry.zoo,
        "model": entry.name,
        "architecture": entry.architecture,
        "pretrained_tag": entry.pretrained_tag,
        "license": entry.license,
        "params": None,
        "in_chans": facts and facts.chans,
        "num_classes": facts and facts.num_classes,
        "input_height": facts and facts.height,
        "input_width": facts and facts.width,
        "source": _source(entry, source_root),
    }


def _facts(entry: ModelEntry) -> ModelFacts | None:
    try:
        return registry.facts(entry)
    except StageError:
        return None


def _source(entry: ModelEntry, source_root: str | None) -> str | None:
    try:
        return sources.recorded_location(entry, source_root)
    except StageError:
        return None

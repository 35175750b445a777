"""The columns of the mirror's two tables, and how their rows are put together.

A record states most columns of a variant's row; the others follow from the record's head. To add a
column, add a `Column` with its value for older records (`older`), and set it in `stated_variant`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from zooadapt.types import Adapted, ModelFacts, ProofResult, Published, Row

LAYOUT_VERSION = 1
REMOVING = 2
"""The layout version of records that take variants down, or undo that. A zooadapt that doesn't know
takedowns refuses such a record; otherwise it would make the variants again."""
VERSION_KEY = "zooadapt_layout_version"
"""The key in a table's Parquet metadata that holds its layout version."""

KEY = ("zoo", "model", "in_chans", "bands", "scheme")
"""The columns that identify a row within its table."""

AMENDABLE = ("license", "source_gone")
"""The columns that a later record can change while a variant's weights stay the same."""

_ALWAYS = object()
"""Marks a column that every record has, as it exists since the first layout."""


@dataclass(frozen=True)
class Column:
    """A column of one of the mirror's tables."""

    name: str
    type: pa.DataType
    description: str
    nullable: bool = False
    older: Any = _ALWAYS
    """The column's value in records and tables that were written before the column existed. Every
    added column needs one; without it all older records would count as damaged."""


_FLOATS = pa.list_(pa.float64())
_STRINGS = pa.list_(pa.string())
_TIME = pa.timestamp("us", tz="UTC")

_KEY_COLUMNS = (
    Column("zoo", pa.string(), "the zoo that lists the model"),
    Column("model", pa.string(), "the model's name in its zoo"),
    Column("in_chans", pa.int64(), "number of input channels N"),
    Column("bands", pa.string(), 'comma-joined names of the channels; "" where they are unnamed'),
    Column("scheme", pa.string(), "how the channel matrix M was made"),
)
MANIFEST_COLUMNS = (
    *_KEY_COLUMNS,
    Column("architecture", pa.string(), "the architecture's name"),
    Column("pretrained_tag", pa.string(), "which weights of the architecture"),
    Column("folder", pa.string(), "where the variant lies, relative to the mirror's root"),
    Column("bytes", pa.int64(), "size of model.safetensors"),
    Column("sha256", pa.string(), "of model.safetensors, hex"),
    Column("params", pa.int64(), "number of parameters"),
    Column("weights_dtype", pa.string(), "the dtype that holds most of the bytes"),
    Column("num_classes", pa.int64(), "outputs of the classifier; 0 where there is none"),
    Column("input_height", pa.int64(), "pixels"),
    Column("input_width", pa.int64(), "pixels"),
    Column(
        "input_mean",
        _FLOATS,
        "per channel, for images in 0..1; null where the source states none",
        nullable=True,
    ),
    Column("input_std", _FLOATS, "as input_mean", nullable=True),
    Column("license", pa.string(), "as the source states it", nullable=True, older=None),
    Column("source_uri", pa.string(), "the checkpoint, pinned where the source can pin"),
    Column("source_sha256", pa.string(), "of the checkpoint, hex"),
    Column("source_bytes", pa.int64(), "size of the checkpoint"),
    Column("stems", _STRINGS, "the tensors that read the image"),
    Column("filled", _STRINGS, "tensors absent from the checkpoint, computed by the model itself"),
    Column("equivalence_error", pa.float64(), "max|adapted(x) - base(Mx)| by the image's effect"),
    Column("control_error", pa.float64(), "the same figure for a stem known to be wrong"),
    Column("equivalent", pa.bool_(), "error within tolerance and control far above it"),
    Column("proof", pa.string(), "what was compared: forward (outputs), stem or none"),
    Column("verification", pa.string(), "how the object was read back: full or composed"),
    Column("checked_on", pa.string(), 'the device of the forward pass; "" where none was run'),
    Column("min_timm", pa.string(), 'the oldest timm that loads the variant; "" where timm can\'t'),
    Column("zooadapt_version", pa.string(), "that wrote the variant"),
    Column(
        "timm_version",
        pa.string(),
        "that built the model; of another library than timm with its name",
    ),
    Column("torch_version", pa.string(), "that computed the proof"),
    Column("run_id", pa.string(), "the run that recorded the variant"),
    Column("created_at", _TIME, "when it was recorded"),
    Column(
        "source_gone",
        pa.string(),
        "since when its source was found gone, ISO 8601",
        nullable=True,
        older=None,
    ),
    Column(
        "changed",
        pa.string(),
        "where equivalent is false: why, and which scheme keeps the function",
        nullable=True,
        older=None,
    ),
    Column(
        "source_note",
        pa.string(),
        "how the model was found in its checkpoint, where that isn't the model alone",
        nullable=True,
        older=None,
    ),
    Column(
        "macs",
        pa.int64(),
        "multiply-accumulates for one image of N channels; null where they can't be counted",
        nullable=True,
        older=None,
    ),
    Column(
        "activations",
        pa.int64(),
        "values of the outputs of convolutions, matrix products and attention, as macs",
        nullable=True,
        older=None,
    ),
)
FAILURES_COLUMNS = (
    *_KEY_COLUMNS,
    Column(
        "status",
        pa.string(),
        "unsupported: known not to be adaptable; failed: may be tried again; "
        "removed: taken down, and not made again",
    ),
    Column("stage", pa.string(), "where it failed"),
    Column("error_type", pa.string(), "the class of the error"),
    Column("error", pa.string(), "the error in one line"),
    Column("attempts", pa.int64(), "runs that failed so far; 0 where it was removed"),
    Column("run_id", pa.string(), "the last run that failed, or the removal"),
)

OLDER = {
    column.name: column.older
    for column in (*MANIFEST_COLUMNS, *FAILURES_COLUMNS)
    if column.older is not _ALWAYS
}
"""The columns that an older record or table can lack, each with the value it then has."""


def _schema(columns: Iterable[Column]) -> pa.Schema:
    fields = [
        pa.field(each.name, each.type, each.nullable, {"description": each.description})
        for each in columns
    ]
    return pa.schema(fields, {VERSION_KEY: str(LAYOUT_VERSION)})


MANIFEST_SCHEMA = _schema(MANIFEST_COLUMNS)
FAILURES_SCHEMA = _schema(FAILURES_COLUMNS)

_OF_RECORD = ("zoo", "model", "run_id", "created_at", "attempts")
"""The columns that a record doesn't state for each variant: `attempts` is counted from all records,
and the others are in the record's head."""


@dataclass(frozen=True)
class Loaded:
    """The facts that reading a variant back and loading it has shown."""

    params: int
    """Number of parameters."""
    weights_dtype: str
    """The dtype that holds most of the bytes, such as "float32"."""
    verification: str
    """How the object was read back: "full" or "composed", as the mirror's README explains."""
    checked_on: str
    """The name of the device that ran the forward pass."""
    zooadapt_version: str
    timm_version: str
    """The release of the zoo's library, as `Zoo.version` states it."""
    torch_version: str


def stated_variant(
    adapted: Adapted, variant: Published, facts: ModelFacts, proof: ProofResult, loaded: Loaded
) -> Row:
    """A proved variant, as its record states it; `facts` are those of the variant's N channels."""
    entry, source = adapted.entry, adapted.checkpoint
    return {
        "in_chans": variant.target.in_chans,
        "bands": variant.target.names,
        "scheme": variant.target.scheme,
        "architecture": entry.architecture,
        "pretrained_tag": entry.pretrained_tag,
        "folder": variant.folder,
        "bytes": variant.bytes,
        "sha256": variant.sha256,
        "num_classes": facts.num_classes,
        "input_height": facts.height,
        "input_width": facts.width,
        "input_mean": list(facts.mean) or None,
        "input_std": list(facts.std) or None,
        "license": entry.license,
        "source_uri": source.uri,
        "source_sha256": source.sha256,
        "source_bytes": source.bytes,
        "source_note": source.note or None,
        "stems": [stem.name for stem in adapted.stems],
        "filled": list(adapted.filled),
        "min_timm": facts.min_timm,
        **_complexity(adapted, variant.target.in_chans),
        **asdict(proof),
        **asdict(loaded),
    }


def _complexity(adapted: Adapted, in_chans: int) -> Row:
    """What an image of so many channels costs: the stems' share grows with the channels."""
    if (counted := adapted.complexity) is None:
        return {"macs": None, "activations": None}
    more = (in_chans - adapted.facts.chans) * counted.macs_of_channel
    return {"macs": counted.macs + more, "activations": counted.activations}


def manifest_row(record: Row, stated: Row) -> Row:
    """The manifest's row for `stated`, one of the variants of `record`."""
    created = datetime.fromisoformat(record["created_at"])
    return {**_head(record), **OLDER, **stated, "created_at": created}


def failure_row(record: Row, stated: Row, attempts: int) -> Row:
    """The row of failures.parquet for `stated`, one of the failures of `record`."""
    return {**_head(record), **stated, "attempts": attempts}


def removed_row(row: Row, reason: str, run_id: str) -> Row:
    """The row of failures.parquet for a variant that was taken down; `row` is any of its rows."""
    why = {"status": "removed", "stage": "remove", "error_type": "Removed", "error": reason}
    return {**{name: row[name] for name in KEY}, **why, "attempts": 0, "run_id": run_id}


def amended_row(current: Row, row: Row, columns: Iterable[str]) -> Row:
    """The `current` row with some `columns` amended by a later record, which states `row`."""
    changed = {name: row.get(name) for name in AMENDABLE if name in columns}
    return {**current, **changed, "run_id": row["run_id"], "created_at": row["created_at"]}


def stated(row: Row) -> Row:
    """The part of a manifest row that a record states."""
    return {name: value for name, value in row.items() if name not in _OF_RECORD}


def stated_schema(schema: pa.Schema) -> pa.Schema:
    """The part of a table's schema that records state."""
    return pa.schema([field for field in schema if field.name not in _OF_RECORD])


def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """The values that identify a row within its table."""
    return tuple(row[name] for name in KEY)


def _head(record: Row) -> Row:
    return {name: record[name] for name in ("zoo", "model", "run_id")}

"""The columns of the two tables, each with its description."""

from collections.abc import Iterable

import pyarrow as pa

from zooadapt.mirror import layout
from zooadapt.types import Adapted, ModelFacts, Published

KEY = ("zoo", "model", "in_chans", "bands", "scheme")
"""The columns by which a row is one of its table."""

_FLOATS = pa.list_(pa.float64())
_STRINGS = pa.list_(pa.string())
_TIME = pa.timestamp("us", tz="UTC")


def _schema(columns: Iterable[tuple[str, pa.DataType, str]]) -> pa.Schema:
    fields = [
        pa.field(name.rstrip("?"), kind, name.endswith("?"), {"description": text})
        for name, kind, text in columns
    ]
    return pa.schema(fields, {layout.VERSION_KEY: str(layout.LAYOUT_VERSION)})


_KEY_COLUMNS = [
    ("zoo", pa.string(), "the zoo that lists the model"),
    ("model", pa.string(), "the model's name in its zoo"),
    ("in_chans", pa.int64(), "number of input channels N"),
    ("bands", pa.string(), 'comma-joined names of the channels; "" where they are unnamed'),
    ("scheme", pa.string(), "how the channel matrix M was made"),
]

MANIFEST_SCHEMA = _schema(
    [
        *_KEY_COLUMNS,
        ("architecture", pa.string(), "the architecture's name"),
        ("pretrained_tag", pa.string(), "which weights of the architecture"),
        ("folder", pa.string(), "where the variant lies, relative to the mirror's root"),
        ("bytes", pa.int64(), "size of model.safetensors"),
        ("sha256", pa.string(), "of model.safetensors, hex"),
        ("params", pa.int64(), "number of parameters"),
        ("weights_dtype", pa.string(), "the dtype that holds most of the bytes"),
        ("num_classes", pa.int64(), "outputs of the classifier; 0 where there is none"),
        ("input_height", pa.int64(), "pixels"),
        ("input_width", pa.int64(), "pixels"),
        ("input_mean", _FLOATS, "per channel, for images in 0..1"),
        ("input_std", _FLOATS, "per channel, for images in 0..1"),
        ("license?", pa.string(), "as the source states it"),
        ("source_uri", pa.string(), "the checkpoint, pinned where the source can pin"),
        ("source_sha256", pa.string(), "of the checkpoint, hex"),
        ("source_bytes", pa.int64(), "size of the checkpoint"),
        ("stems", _STRINGS, "the tensors that read the image"),
        ("filled", _STRINGS, "tensors absent from the checkpoint, computed by the model itself"),
        ("equivalence_error", pa.float64(), "max|adapted(x) - base(Mx)| by the image's effect"),
        ("control_error", pa.float64(), "the same figure for a stem known to be wrong"),
        ("equivalent", pa.bool_(), "error within tolerance and control far above it"),
        ("proof", pa.string(), "what was compared: forward (outputs) or stem (stem outputs)"),
        ("verification", pa.string(), "how the object was read back: full or composed"),
        ("checked_on", pa.string(), "the device of the forward pass"),
        ("min_timm", pa.string(), 'the oldest timm that loads the variant; "" where timm can\'t'),
        ("zooadapt_version", pa.string(), "that wrote the variant"),
        (
            "timm_version",
            pa.string(),
            "that built the model; of another library than timm with its name",
        ),
        ("torch_version", pa.string(), "that computed the proof"),
        ("run_id", pa.string(), "the run that recorded the variant"),
        ("created_at", _TIME, "when it was recorded"),
        ("source_gone?", pa.string(), "since when its source was found gone, ISO 8601"),
    ]
)

FAILURES_SCHEMA = _schema(
    [
        *_KEY_COLUMNS,
        (
            "status",
            pa.string(),
            "unsupported: known not to be adaptable; failed: may be tried again; "
            "removed: taken down, and not made again",
        ),
        ("stage", pa.string(), "where it failed"),
        ("error_type", pa.string(), "the class of the error"),
        ("error", pa.string(), "the error in one line"),
        ("attempts", pa.int64(), "runs that failed so far; 0 where it was removed"),
        ("run_id", pa.string(), "the last run that failed, or the removal"),
    ]
)


def variant_columns(adapted: Adapted, variant: Published, facts: ModelFacts) -> layout.Row:
    """The columns that are known once a variant is published; `facts` are for its channels."""
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
        "input_mean": list(facts.mean),
        "input_std": list(facts.std),
        "license": entry.license,
        "source_uri": source.uri,
        "source_sha256": source.sha256,
        "source_bytes": source.bytes,
        "stems": [stem.name for stem in adapted.stems],
        "filled": list(adapted.filled),
        "min_timm": facts.min_timm,
    }

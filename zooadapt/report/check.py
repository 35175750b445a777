"""What `zooadapt check` prints of one checkpoint."""

from collections.abc import Sequence

from zooadapt.errors import redact
from zooadapt.proof import verdict
from zooadapt.report.job import shortened
from zooadapt.report.text import size
from zooadapt.types import Failure, ModelEntry, ProofResult, Row


def lines(entry: ModelEntry, rows: Sequence[Row], failures: Sequence[Failure]) -> str:
    """Whether the checkpoint can be adapted, by which stems, for which counts; if not, why."""
    verdict = "can be adapted" if rows else "can't be adapted"
    told = [f"{entry.name} of the zoo {entry.zoo} {verdict}"]
    if rows:
        told += [f"  {name:<13}{value}" for name, value in _facts(rows).items()]
    for status, stage, error in sorted({(f.status, f.stage, f.error) for f in failures}):
        which = [f for f in failures if (f.status, f.stage, f.error) == (status, stage, error)]
        told.append(f"  {status:<13}{_named(which)} channels, at {stage}: {error}")
    return "\n".join(told)


def _named(failures: Sequence[Failure]) -> str:
    return shortened([failure.bands or str(failure.in_chans) for failure in failures])


def _facts(rows: Sequence[Row]) -> dict[str, str]:
    first = rows[0]
    exact = [row for row in rows if row["equivalent"]]
    other = [row for row in rows if not row["equivalent"]]
    mean = first["input_mean"]
    facts = {
        "source": f"{redact(first['source_uri'])}, {size(first['source_bytes'])}",
        "model": f"{first['architecture']}, {first['params'] / 1e6:.3g} M parameters, "
        f"{first['weights_dtype']}, {first['num_classes']} classes",
        "images": f"{first['input_height']} x {first['input_width']} pixels"
        + ("" if mean else ", mean and std not stated"),
        "stems": ", ".join(first["stems"]),
    }
    if first["source_note"]:
        facts["read"] = first["source_note"]
    if exact:
        error = max(row["equivalence_error"] for row in exact)
        facts["proved"] = f"{_channels(exact)} channels, largest error {error:.1e}"
    if other:
        told = [f"{_channels([row])} channels {verdict.said(ProofResult.of(row))}" for row in other]
        facts["changed"] = "\n               ".join(told)
    return facts


def _channels(rows: Sequence[Row]) -> str:
    return shortened([row["bands"] or str(row["in_chans"]) for row in rows])

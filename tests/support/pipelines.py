"""One model through the whole pipeline, in the process of the test."""

from pathlib import Path

from zooadapt import pipeline
from zooadapt.mirror import manifest
from zooadapt.stores.opening import open_store
from zooadapt.targets import Bands, Target
from zooadapt.types import Job, Listing, ModelEntry, Request, Row
from zooadapt.zoos.timm import TimmZoo


def entry(name: str) -> ModelEntry:
    """The entry of timm's model of that name."""
    return next(entry for entry in TimmZoo().models(Listing()) if entry.name == name)


def counted(*counts: int, scheme: str = "repeat") -> tuple[Target, ...]:
    """The targets with these numbers of unnamed channels."""
    return tuple(Target(Bands.counted(count), scheme) for count in counts)


def run(
    entry: ModelEntry, targets: tuple[Target, ...], root: Path | None, dest: Path | str
) -> list[Row]:
    """The rows of the manifest after one model's run; without a root it comes from the Hub."""
    job = Job("run", str(dest), source_root=str(root) if root else None)
    summary = pipeline.make(Request(entry, targets), job)
    assert not summary.failures, summary.failures
    return list(manifest.compact(open_store(str(dest))).usable)

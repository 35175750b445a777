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


def run(entry: ModelEntry, targets: tuple[Target, ...], root: Path, dest: Path | str) -> list[Row]:
    """The rows of the manifest after one model's run."""
    job = Job("run", str(dest), source_root=str(root))
    summary = pipeline.make(Request(entry, targets), job)
    assert not summary.failures, summary.failures
    return list(manifest.compact(open_store(str(dest))).usable)

"""Check one checkpoint: do for it all that a run does, in this process and without a mirror."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from zooadapt import pipeline
from zooadapt.errors import FetchError
from zooadapt.mirror import manifest
from zooadapt.reader import original
from zooadapt.stores.opening import open_store
from zooadapt.targets import Target
from zooadapt.types import Failure, Job, ModelEntry, Request, Row
from zooadapt.zoos import registry


@dataclass(frozen=True)
class Checked:
    """What became of one checkpoint."""

    entry: ModelEntry
    rows: Sequence[Row]
    """The rows of the manifest that a run would have made."""
    failures: Sequence[Failure]


def check(what: str, targets: Sequence[Target]) -> Iterator[Checked]:
    """Adapt and prove each checkpoint that `what` names, in a folder that is removed again.

    `what` is what `original.entries` takes. Raises UsageError where it names nothing, and
    FetchError where its source doesn't answer.
    """
    for entry in original.entries(what):
        with tempfile.TemporaryDirectory() as dest:
            request = Request(entry, registry.for_model(entry, targets))
            summary = pipeline.make(request, Job("check", dest))
            if summary.outage:
                raise FetchError(summary.outage.reason)
            rows = [*manifest.compact(open_store(dest)).usable]
        yield Checked(entry, rows, summary.failures)

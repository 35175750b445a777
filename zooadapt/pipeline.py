"""The stages composed for one model. Knows nothing of Ray: a process, a spool, a store.

`adapt` fetches, adapts and publishes; `prove` reads back, runs and records what was published.
What passes between the two is a small record, so that they may run in different processes.
Whichever ends a model writes its record, last.
"""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import nn

from zooadapt import types
from zooadapt.adapt import contract, schemes, stems
from zooadapt.checkpoints import checkpoint, fetch, sources
from zooadapt.checkpoints.scratch import spool
from zooadapt.errors import (
    CheckpointError,
    FetchError,
    PublishError,
    StageError,
    StemError,
    Unsupported,
    stage,
)
from zooadapt.mirror import publish, safetensors_file
from zooadapt.mirror.records import ADAPTER_VERSION, write_record
from zooadapt.mirror.variant_config import describe
from zooadapt.names import model_folder
from zooadapt.proof import devices, published
from zooadapt.stores.opening import open_store
from zooadapt.stores.shared_bytes import SharedBytes
from zooadapt.stores.store import Store
from zooadapt.targets import Target
from zooadapt.types import (
    Adapted,
    Checkpoint,
    Failure,
    Job,
    Located,
    ModelEntry,
    ModelFacts,
    ModelSummary,
    Published,
    Request,
    Stem,
)
from zooadapt.zoos import protocol, registry
from zooadapt.zoos.meta import shapes_only

_SIBLINGS = 4
"""Variants published at once: one is hashed while the store copies another."""


def adapt(request: Request, job: Job, located: Located | None = None) -> Adapted | ModelSummary:
    """Fetch, adapt and publish one model: what `prove` goes on with, or the end of the model.

    `located` is its checkpoint, where that was looked up already.
    What is wrong with the model is recorded, not raised; raises only where the mirror can't be
    written to at all.
    """
    watch = Stopwatch()
    try:
        with stage(FetchError), spool() as folder:
            return _adapt(request, job, located, folder, watch)
    except StageError as error:
        return fail(request, job, error, watch.seconds)


def prove(adapted: Adapted, job: Job) -> ModelSummary:
    """Read back, run and prove every published variant of a model on this process's device.

    Writes the model's record and returns what became of it. Raises as `adapt`, and DeviceLost after
    an error from which CUDA doesn't recover in the same process; then nothing is recorded.
    """
    watch = Stopwatch()
    device = devices.best()
    store = open_store(job.dest, job.dest_options)
    with watch.measured("validate"):
        proofs = published.prove(adapted, store, device)
    failures = (*adapted.failures, *proofs.failures)
    _record(store, job, adapted.entry, adapted.checkpoint, proofs.rows, failures)
    return ModelSummary(
        entry=adapted.entry,
        made=proofs.made,
        failures=failures,
        bytes_read=adapted.checkpoint.bytes,
        bytes_written=sum(variant.bytes for variant in adapted.variants),
        seconds=adapted.seconds | watch.seconds,
        checked_on=devices.name(device),
    )


def use_threads(number: int) -> None:
    """How many threads torch may use in this process."""
    torch.set_num_threads(number)


def fail(
    request: Request, job: Job, error: StageError, seconds: dict[str, float] | None = None
) -> ModelSummary:
    """Record that all of a request failed, for one reason, after `seconds` by stage."""
    failures = [Failure.of(target, error) for target in request.targets]
    store = open_store(job.dest, job.dest_options)
    source = Checkpoint(sources.recorded_location(request.entry, job.source_root), "", "", "", 0)
    _record(store, job, request.entry, source, [], failures)
    return ModelSummary(request.entry, (), tuple(failures), 0, 0, seconds or {}, "")


def _adapt(
    request: Request, job: Job, located: Located | None, folder: Path, watch: "Stopwatch"
) -> Adapted:
    entry, zoo = request.entry, registry.get(request.entry.zoo)
    with watch.measured("adapt"), stage(StemError):
        facts = zoo.facts(entry)
        base, found = inspect(entry, zoo, facts)
        targets, failures = _makeable(request.targets, facts)
    with watch.measured("fetch"), stage(FetchError):
        located = sources.still(located, entry, job)
        file, digest = fetch.fetch(located, folder)
    with watch.measured("adapt"), stage(CheckpointError):
        content, strict = zoo.convert(entry, base, checkpoint.read(file))
        filled = checkpoint.assign(base, content, strict, lambda: zoo.build(entry, facts.chans))
    source = Checkpoint(
        location=sources.recorded_location(entry, job.source_root),
        uri=located.source.uri,
        identity=located.source.identity,
        sha256=digest,
        bytes=file.stat().st_size,
    )
    adapted = Adapted(entry, source, facts, found, filled, "", (), failures, {})
    with watch.measured("publish"), stage(PublishError):
        adapted = _publish(adapted, targets, base, zoo, job)
    return dataclasses.replace(adapted, seconds=watch.seconds)


def _makeable(
    targets: Sequence[Target], facts: ModelFacts
) -> tuple[list[Target], tuple[Failure, ...]]:
    """The targets that have a matrix for the model's channels, and the failures of the others.

    Raises Unsupported where none has.
    """
    makeable, failures = [], []
    for target in targets:
        try:
            schemes.matrix(target.scheme, facts.bands, target.bands)
            makeable.append(target)
        except Unsupported as error:
            failures.append(Failure.of(target, error))
            if len(failures) == len(targets):
                raise
    return makeable, tuple(failures)


def inspect(
    entry: ModelEntry, zoo: protocol.Zoo, facts: ModelFacts
) -> tuple[nn.Module, tuple[Stem, ...]]:
    """The model on the meta device, in eval mode, and its stems. Raises StemError."""
    with shapes_only():
        base = zoo.build(entry, facts.chans).eval()
        probe = zoo.build(entry, facts.chans + 1)
    return base, stems.find(base, probe, facts.chans, zoo.stems(entry, base), zoo.layer)


def _publish(
    adapted: Adapted, targets: Sequence[Target], base: nn.Module, zoo: protocol.Zoo, job: Job
) -> Adapted:
    """`adapted` with the original stem and a variant for each target in the mirror."""
    store = open_store(job.dest, job.dest_options)
    folder = model_folder(adapted.entry.zoo, adapted.entry.name)
    body = base.state_dict()
    original = {name: body.pop(name) for stem in adapted.stems for name in stem.tensors}
    body = safetensors_file.arranged(body)
    source_stem = publish.publish_stem(store, folder, safetensors_file.arranged(original))
    adapted = dataclasses.replace(adapted, source_stem=source_stem)

    def published(target: Target, shared: SharedBytes | None = None) -> Published:
        matrix = schemes.matrix(target.scheme, adapted.facts.bands, target.bands)
        made = contract.adapt(original, adapted.stems, schemes.get(target.scheme), matrix)
        config = describe(adapted, zoo, base, target, matrix)
        stem = safetensors_file.arranged(made)
        return publish.publish_variant(store, folder, target, stem, body, config, shared)

    first = published(targets[0])
    shared = publish.shared_bytes(body, first)
    with ThreadPoolExecutor(_SIBLINGS) as pool:
        others = pool.map(lambda target: published(target, shared), targets[1:])
        return dataclasses.replace(adapted, variants=(first, *others))


def _record(
    store: Store,
    job: Job,
    entry: ModelEntry,
    source: Checkpoint,
    rows: Sequence[types.Row],
    failures: Sequence[Failure],
) -> None:
    content = {
        "created_at": datetime.now(UTC).isoformat(),
        "adapter_version": ADAPTER_VERSION,
        "versions": registry.versions(entry.zoo),
        "source": dataclasses.asdict(source),
        "variants": list(rows),
        "failures": [dataclasses.asdict(failure) for failure in failures],
    }
    write_record(store, entry.zoo, entry.name, job.run_id, content)


class Stopwatch:
    """Adds up the seconds that stages take, those that end with an error included."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        """By stage, in the order in which they began."""

    @contextmanager
    def measured(self, stage: str) -> Iterator[None]:
        """Count the time of the block for a stage."""
        started = time.monotonic()
        self.seconds.setdefault(stage, 0.0)
        try:
            yield
        finally:
            self.seconds[stage] += time.monotonic() - started

"""One model through all stages: locate, fetch, adapt, publish, prove, record. Read this file first.

`adapt` composes the stages up to publishing, `prove` the others. What passes between the two is a
small frozen record, so that they can run in different processes. Whichever of them ends a model
writes its record, as the last thing.

Nothing here knows of Ray: all that is needed is a process, a scratch folder and a store.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import nn

from zooadapt.adapt import contract, schemes, stems
from zooadapt.checkpoints import checkpoint, fetch, sources
from zooadapt.checkpoints.scratch import scratch_folder
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
from zooadapt.targets import Target, check_scheme, get_scheme
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
    Row,
    Stem,
)
from zooadapt.zoos import registry
from zooadapt.zoos.meta import shapes_only
from zooadapt.zoos.protocol import Zoo

_SIBLINGS = 4
"""Variants published at once: one is hashed while the store copies another."""


def adapt(request: Request, job: Job, located: Located | None = None) -> Adapted | ModelSummary:
    """Locate, fetch, adapt and publish one model.

    Returns what `prove` continues with, or a summary where the model ended here. `located` is the
    model's checkpoint, where it was located before. A fault of the model is recorded, not raised.
    Raises only where nothing can be written to the mirror.
    """
    watch = Stopwatch()
    try:
        with stage(FetchError), scratch_folder() as folder:
            with watch.measured("adapt"), stage(StemError):
                model = _inspected(request)
            with watch.measured("fetch"), stage(FetchError):
                file, source = _fetched(request.entry, job, located, folder)
            with watch.measured("adapt"), stage(CheckpointError):
                filled = _filled(model, file)
            with watch.measured("publish"), stage(PublishError):
                adapted = _published(model, source, filled, job)
            return replace(adapted, seconds=watch.seconds)
    except StageError as error:
        return fail(request, job, error, watch.seconds)


def prove(adapted: Adapted, job: Job) -> ModelSummary:
    """Read back and prove every published variant on this process's device; record the model.

    Raises where nothing can be written to the mirror, and DeviceLost after an error from which CUDA
    doesn't recover in the same process; then nothing is recorded.
    """
    watch, device = Stopwatch(), devices.best()
    store = open_store(job.dest, job.dest_options)
    with watch.measured("validate"):
        proved = published.prove(adapted, store, device)
    failures = (*adapted.failures, *proved.failures)
    _record(store, job, adapted.entry, adapted.checkpoint, proved.rows, failures)
    return ModelSummary(
        entry=adapted.entry,
        made=proved.made,
        failures=failures,
        bytes_read=adapted.checkpoint.bytes,
        bytes_written=sum(variant.bytes for variant in adapted.variants),
        seconds=adapted.seconds | watch.seconds,
        checked_on=devices.name(device),
    )


def fail(
    request: Request, job: Job, error: StageError, seconds: dict[str, float] | None = None
) -> ModelSummary:
    """Record that no target of a request was made, for one reason, after `seconds` by stage."""
    failures = [Failure.of(target, error) for target in request.targets]
    store = open_store(job.dest, job.dest_options)
    source = Checkpoint(sources.recorded_location(request.entry, job.source_root), "", "", "", 0)
    _record(store, job, request.entry, source, [], failures)
    return ModelSummary(request.entry, (), tuple(failures), 0, 0, seconds or {}, "")


def use_threads(number: int) -> None:
    """Set how many threads torch uses in this process."""
    torch.set_num_threads(number)


# Before anything is fetched: can the model be adapted at all?


@dataclass(frozen=True)
class _Inspected:
    """A model before its checkpoint is read."""

    entry: ModelEntry
    zoo: Zoo
    facts: ModelFacts
    """For the checkpoint's own number of channels, B."""
    base: nn.Module
    """The model with B channels, in eval mode, on the meta device."""
    stems: tuple[Stem, ...]
    targets: list[Target]
    """The targets that have a matrix for the model's channels."""
    failures: tuple[Failure, ...]
    """The failures of the other targets."""


def _inspected(request: Request) -> _Inspected:
    """Raises StemError, and Unsupported where no target has a matrix."""
    entry, zoo = request.entry, registry.get(request.entry.zoo)
    facts = zoo.facts(entry)
    base, found = inspect(entry, zoo, facts)
    targets, failures = [], []
    for target in request.targets:
        try:
            check_scheme(target.scheme, facts.bands, target.bands)
            targets.append(target)
        except Unsupported as error:
            failures.append(Failure.of(target, error))
            if len(failures) == len(request.targets):
                raise
    return _Inspected(entry, zoo, facts, base, found, targets, tuple(failures))


def inspect(entry: ModelEntry, zoo: Zoo, facts: ModelFacts) -> tuple[nn.Module, tuple[Stem, ...]]:
    """The model on the meta device, in eval mode, and its stems. Raises StemError."""
    with shapes_only():
        base = zoo.build(entry, facts.chans).eval()
        probe = zoo.build(entry, facts.chans + 1)
    return base, stems.find(base, probe, facts.chans, zoo.stems(entry, base), zoo.layer)


# Locate and fetch


def _fetched(
    entry: ModelEntry, job: Job, located: Located | None, folder: Path
) -> tuple[Path, Checkpoint]:
    """The checkpoint as a verified local file, perhaps in `folder`, and the facts of its source."""
    located = sources.still(located, entry, job)
    file, digest = fetch.fetch(located, folder)
    source = Checkpoint(
        location=sources.recorded_location(entry, job.source_root),
        uri=located.source.uri,
        identity=located.source.identity,
        sha256=digest,
        bytes=file.stat().st_size,
    )
    return file, source


# Adapt


def _filled(model: _Inspected, file: Path) -> tuple[str, ...]:
    """Put the checkpoint's tensors into the base; the names of those that the model computed."""
    content, strict = model.zoo.convert(model.entry, model.base, checkpoint.read(file))

    def rebuild() -> nn.Module:
        return model.zoo.build(model.entry, model.facts.chans)

    return checkpoint.assign(model.base, content, strict, rebuild)


# Publish


def _published(model: _Inspected, source: Checkpoint, filled: tuple[str, ...], job: Job) -> Adapted:
    """Write the original stem, then for each target the stems W·M with the body that all share."""
    store = open_store(job.dest, job.dest_options)
    folder = model_folder(model.entry.zoo, model.entry.name)
    body = model.base.state_dict()
    original = {name: body.pop(name) for stem in model.stems for name in stem.tensors}
    body = safetensors_file.arranged(body)
    source_stem = publish.publish_stem(store, folder, safetensors_file.arranged(original))
    adapted = Adapted(
        model.entry, source, model.facts, model.stems, filled, source_stem, (), model.failures, {}
    )

    def publish_one(target: Target, shared: SharedBytes | None = None) -> Published:
        matrix = schemes.matrix(target.scheme, model.facts.bands, target.bands)
        made = contract.adapt(original, model.stems, get_scheme(target.scheme), matrix)
        config = describe(adapted, model.zoo, model.base, target, matrix)
        stem = safetensors_file.arranged(made)
        return publish.publish_variant(store, folder, target, stem, body, config, shared)

    first = publish_one(model.targets[0])
    shared = publish.shared_bytes(body, first)
    with ThreadPoolExecutor(_SIBLINGS) as pool:
        others = pool.map(lambda target: publish_one(target, shared), model.targets[1:])
        return replace(adapted, variants=(first, *others))


# Record


def _record(
    store: Store,
    job: Job,
    entry: ModelEntry,
    source: Checkpoint,
    rows: Sequence[Row],
    failures: Sequence[Failure],
) -> None:
    """Write what became of the model: the truth, of which the mirror's tables are made."""
    content = {
        "created_at": datetime.now(UTC).isoformat(),
        "adapter_version": ADAPTER_VERSION,
        "versions": registry.versions(entry.zoo),
        "source": asdict(source),
        "variants": list(rows),
        "failures": [asdict(failure) for failure in failures],
    }
    write_record(store, entry.zoo, entry.name, job.run_id, content)


class Stopwatch:
    """Adds up the seconds of each stage; a stage that ends with an error counts too."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        """Seconds by stage, in the order in which the stages began."""

    @contextmanager
    def measured(self, stage: str) -> Iterator[None]:
        """Count the time of the block for a stage."""
        started = time.monotonic()
        self.seconds.setdefault(stage, 0.0)
        try:
            yield
        finally:
            self.seconds[stage] += time.monotonic() - started

"""One model through all stages: locate, fetch, adapt, publish, prove, record. Read this file first.

`make` composes all of them in one process. Where there are GPUs, `adapt` composes the
stages up to publishing and `prove` the others. What passes between these two is a small frozen
record, so that they can run in different processes. Whichever ends a model writes its record, as
the last thing.

Nothing here knows of Ray: all that is needed is a process, a scratch folder and a store.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor, nn

from zooadapt.adapt import contract, schemes, stems
from zooadapt.checkpoints import checkpoint, fetch, sources, wrapped
from zooadapt.checkpoints.scratch import scratch_folder
from zooadapt.errors import (
    CheckpointError,
    FetchError,
    PublishError,
    StageError,
    StemError,
    StoreUnreachable,
    Unsupported,
    ValidationError,
    one_line,
    reaching_store,
    redact,
    stage,
)
from zooadapt.mirror import publish, safetensors_file
from zooadapt.mirror.read_back import Reader
from zooadapt.mirror.records import ADAPTER_VERSION, write_record
from zooadapt.mirror.variant_config import describe
from zooadapt.names import CONFIG, companions, model_folder
from zooadapt.proof import complexity, cores, devices, published
from zooadapt.stores.opening import open_store
from zooadapt.stores.shared_bytes import SharedBytes
from zooadapt.stores.store import Store
from zooadapt.targets import Target, check_scheme, get_scheme
from zooadapt.types import (
    Adapted,
    Checkpoint,
    Complexity,
    Failure,
    Job,
    Located,
    ModelEntry,
    ModelFacts,
    ModelSummary,
    Outage,
    Published,
    Request,
    Row,
    Stem,
)
from zooadapt.zoos import registry
from zooadapt.zoos.meta import shapes_only
from zooadapt.zoos.protocol import Zoo

_CPU = torch.device("cpu")
_AT_ONCE = 4
"""Variants published at once to a remote store: one is hashed while the store copies another."""


def make(
    request: Request,
    job: Job,
    located: Located | None = None,
    device: torch.device = _CPU,
    proves: bool = True,
) -> ModelSummary:
    """Take one model through all stages, in this process.

    Variants are published while others are proved on the `device`. If not `proves`, only their
    stored bits are compared. `located` is the model's checkpoint, where it was located before. A
    fault of the model is recorded, not raised. Nothing is recorded where a source or the store is
    out of reach: then the summary has an outage.
    """
    watch = Stopwatch()
    try:
        with (
            stage(FetchError),
            scratch_folder() as folder,
            scratch_folder() as read_back,
            _published(request, job, located, folder, watch) as publishing,
            watch.measured("validate"),
        ):
            store, adapted = publishing.store, publishing.adapted
            reader = Reader(store, read_back, publishing.body)
            with stage(ValidationError):
                base = _runnable_base(publishing, read_back)
                series = published.Series(adapted, reader, device, base, proves)
            with stage(ValidationError), devices.turn(device):
                series.measure()  # while the first variant is being published
                proved = series.prove(publishing.variants())
        return _recorded(store, job, replace(adapted, seconds=watch.seconds), proved, device)
    except StageError as error:
        return fail(request, job, error, watch.seconds)


def adapt(request: Request, job: Job, located: Located | None = None) -> Adapted | ModelSummary:
    """Locate, fetch, adapt and publish one model.

    Returns what `prove` continues with, or a summary where the model ended here. The arguments and
    errors are those of `make`.
    """
    watch = Stopwatch()
    try:
        with (
            stage(FetchError),
            scratch_folder() as folder,
            _published(request, job, located, folder, watch) as publishing,
        ):
            variants = tuple(publishing.variants())
            return replace(publishing.adapted, variants=variants, seconds=watch.seconds)
    except StageError as error:
        return fail(request, job, error, watch.seconds)


def prove(adapted: Adapted, job: Job) -> ModelSummary:
    """Read back and prove every published variant on this process's device; record the model.

    Raises DeviceLost after an error from which CUDA doesn't recover in the same process; then
    nothing is recorded. Nothing is recorded in an outage of the store either.
    """
    watch, device = Stopwatch(), devices.best()
    store = open_store(job.dest, job.dest_options)
    try:
        with watch.measured("validate"):
            proved = published.prove(adapted, store, device)
        adapted = replace(adapted, seconds=adapted.seconds | watch.seconds)
        return _recorded(store, job, adapted, proved, device)
    except StoreUnreachable as error:
        targets = tuple(variant.target for variant in adapted.variants)
        return fail(Request(adapted.entry, targets), job, error, adapted.seconds | watch.seconds)


def fail(
    request: Request, job: Job, error: StageError, seconds: dict[str, float] | None = None
) -> ModelSummary:
    """Record that no target of a request was made, for one reason, after `seconds` by stage.

    Nothing is recorded where the reason may pass by itself, or the store is out of reach.
    """
    if error.passes:
        return _postponed(request, job, error, seconds or {})
    failures = [Failure.of(target, error) for target in request.targets]
    store = open_store(job.dest, job.dest_options)
    source = Checkpoint(sources.recorded_location(request.entry, job.source_root), "", "", "", 0)
    try:
        _record(store, job, request.entry, source, [], failures)
    except StoreUnreachable as outage:
        return _postponed(request, job, outage, seconds or {})
    return ModelSummary(request.entry, (), tuple(failures), 0, 0, seconds or {}, "")


def _postponed(
    request: Request, job: Job, error: StageError, seconds: dict[str, float]
) -> ModelSummary:
    """The summary of a model of which nothing is recorded, because of an outage."""
    if isinstance(error, StoreUnreachable):
        outage = Outage(redact(job.dest), "write", one_line(error))
    else:
        place = sources.place(request.entry, job.source_root)
        outage = Outage(place, "download", one_line(error), error.until)
    targets = tuple(target.short for target in request.targets)
    return ModelSummary(request.entry, (), (), 0, 0, seconds, "", targets, outage)


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
    complexity: Complexity | None
    targets: list[Target]
    """The targets that have a matrix for the model's channels."""
    failures: tuple[Failure, ...]
    """The failures of the other targets."""


def _inspected(request: Request) -> _Inspected:
    """Raises StemError, and Unsupported where no target has a matrix."""
    entry, zoo = request.entry, registry.get(request.entry.zoo)
    facts = zoo.facts(entry)
    base, probe, found = inspect(entry, zoo, facts)
    targets, failures = [], []
    for target in request.targets:
        try:
            check_scheme(target.scheme, facts.bands, target.bands)
            targets.append(target)
        except Unsupported as error:
            failures.append(Failure.of(target, error))
            if len(failures) == len(request.targets):
                raise
    counted = complexity.count(base, probe, found, (facts.chans, *facts.size))
    return _Inspected(entry, zoo, facts, base, found, counted, targets, tuple(failures))


def inspect(
    entry: ModelEntry, zoo: Zoo, facts: ModelFacts
) -> tuple[nn.Module, nn.Module, tuple[Stem, ...]]:
    """The model, the model with one channel more, and the model's stems. Raises StemError.

    Both models are on the meta device and in eval mode.
    """
    with shapes_only():
        base = zoo.build(entry, facts.chans).eval()
        probe = zoo.build(entry, facts.chans + 1).eval()
    return base, probe, stems.find(base, probe, facts.chans, zoo.stems(entry, base), zoo.layer)


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


def _filled(model: _Inspected, file: Path) -> tuple[tuple[str, ...], str]:
    """Put the checkpoint's tensors into the base.

    Returns the names of those that the model computed, and how the others were found in the file,
    "" where all of it was used as it is.
    """
    content, found = checkpoint.read(file), ""
    if model.entry.config is not None and registry.is_ours(model.entry.zoo):
        # one's own checkpoint; any script can have saved it
        part, found = wrapped.found(content, checkpoint.learnt(model.base))
        content = dict(part)
    tensors, strict = model.zoo.convert(model.entry, model.base, content)
    _check_channels(model, tensors)

    def rebuild() -> nn.Module:
        return model.zoo.build(model.entry, model.facts.chans)

    return checkpoint.assign(model.base, tensors, strict, rebuild), found


def _check_channels(model: _Inspected, tensors: Mapping[str, object]) -> None:
    """Raise CheckpointError if the stems are for another number of channels than is stated."""
    expected, chans = model.base.state_dict(), model.facts.chans
    for stem in model.stems:
        held, wanted = tensors.get(stem.name), expected[stem.name]
        if not isinstance(held, Tensor) or held.dim() != wanted.dim():
            continue
        width, odd = divmod(held.shape[stem.axis] * chans, wanted.shape[stem.axis])
        if width != chans and not odd:
            raise CheckpointError(
                f"{stem.name} reads {width} channels, and {CONFIG} states {chans}: state them "
                f'there, for timm as "model_args": {{"in_chans": {width}}}, for transformers as '
                f'"num_channels": {width}'
            )


# Publish


@dataclass(frozen=True)
class _Publishing:
    """A model whose variants are being published, in threads."""

    store: Store
    model: _Inspected
    adapted: Adapted
    """What is known of the model: all but its variants."""
    original: Mapping[str, Tensor]
    """The checkpoint's stem tensors."""
    body: Mapping[str, Tensor]
    """The tensors that all variants share, in the order of the file."""
    futures: Sequence["Future[Published]"]
    watch: "Stopwatch"
    """Counts the time for which the process waits until a variant is published."""

    def variants(self) -> Iterator[Published]:
        """Each variant once it is published. Raises PublishError where one can't be."""
        for future in self.futures:
            with self.watch.measured("publish"), stage(PublishError), reaching_store():
                variant = future.result()
            yield variant


@contextmanager
def _published(
    request: Request, job: Job, located: Located | None, folder: Path, watch: "Stopwatch"
) -> Iterator[_Publishing]:
    """Locate, fetch and adapt one model, and publish it during the block.

    `folder` is for the checkpoint, which the model's tensors are mapped from.
    """
    with watch.measured("adapt"), stage(StemError):
        model = _inspected(request)
    with watch.measured("fetch"), stage(FetchError):
        file, source = _fetched(request.entry, job, located, folder)
    with watch.measured("adapt"), stage(CheckpointError):
        filled, found = _filled(model, file)
        source = replace(source, note=found)
    read = file.stat()
    with stage(PublishError), reaching_store():
        store = open_store(job.dest, job.dest_options)
    place = model_folder(request.entry.zoo, request.entry.name)
    body = model.base.state_dict()
    original = {name: body.pop(name) for stem in model.stems for name in stem.tensors}
    body = safetensors_file.arranged(body)
    with watch.measured("publish"), stage(PublishError), reaching_store():
        stem = publish.publish_stem(store, place, safetensors_file.arranged(original))
    adapted = Adapted(
        request.entry, source, model.facts, model.stems, model.complexity, filled, stem, (),
        model.failures, {},
    )  # fmt: skip

    def publish_one(target: Target, shared: SharedBytes | None) -> Published:
        with cores.used():
            matrix = schemes.matrix(target.scheme, model.facts.bands, target.bands)
            made = contract.adapt(original, model.stems, get_scheme(target.scheme), matrix)
            config = describe(adapted, model.zoo, model.base, target, matrix)
            stems = safetensors_file.arranged(made)
            return publish.publish_variant(store, place, target, stems, body, config, shared)

    with ThreadPoolExecutor(1 if store.is_local else _AT_ONCE) as pool:
        first = pool.submit(publish_one, model.targets[0], None)
        shared = pool.submit(lambda: publish.shared_bytes(body, first.result()))
        others = [
            pool.submit(lambda target: publish_one(target, shared.result()), target)
            for target in model.targets[1:]
        ]
        try:
            yield _Publishing(store, model, adapted, original, body, (first, *others), watch)
            _check_unchanged(file, read, source)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _check_unchanged(file: Path, read: os.stat_result, source: Checkpoint) -> None:
    """Raise FetchError if a file that was mapped into memory was written to meanwhile."""
    now = file.stat()
    if (now.st_ino, now.st_size, now.st_mtime_ns) != (read.st_ino, read.st_size, read.st_mtime_ns):
        raise FetchError(f"{source.uri} was replaced while it was read; try again")


def _runnable_base(publishing: _Publishing, folder: Path) -> nn.Module:
    """The model with the checkpoint's tensors, built in the way in which variants are loaded.

    The base on the meta device can't be run: it may have buffers that no checkpoint holds. `folder`
    gets the config that the library builds the model from. Buffers are copied, because a forward
    pass might write to them while they are published.
    """
    model, target = publishing.model, publishing.model.targets[0]
    matrix = schemes.matrix(target.scheme, model.facts.bands, target.bands)
    config = describe(publishing.adapted, model.zoo, model.base, target, matrix)
    (folder / CONFIG).write_text(json.dumps(config))
    for name, content in companions(config).items():
        (folder / name).write_bytes(content)
    tensors = {**publishing.body, **publishing.original}
    buffers = {name for name, _ in model.base.named_buffers()} & tensors.keys()
    tensors |= {name: tensors[name].clone() for name in buffers}
    return model.zoo.load(folder, tensors, in_chans=model.facts.chans)


# Record


def _recorded(
    store: Store, job: Job, adapted: Adapted, proved: published.Proved, device: torch.device
) -> ModelSummary:
    """Record a model that was proved, and sum up what became of it."""
    failures = (*adapted.failures, *proved.failures)
    _record(store, job, adapted.entry, adapted.checkpoint, proved.rows, failures)
    return ModelSummary(
        entry=adapted.entry,
        made=proved.made,
        failures=failures,
        bytes_read=adapted.checkpoint.bytes,
        bytes_written=proved.bytes,
        seconds=adapted.seconds,
        checked_on=devices.name(device),
        changed=proved.changed,
        why_changed=proved.why_changed,
    )


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
    with reaching_store():
        write_record(store, entry.zoo, entry.name, job.run_id, content)


class Stopwatch:
    """Adds up the seconds of each stage; a stage that ends with an error counts too."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        """Seconds by stage, in the order in which the stages began."""
        self._stage, self._since = "", 0.0

    @contextmanager
    def measured(self, stage: str) -> Iterator[None]:
        """Count the time of the block for a stage, and not for the one that is measured already."""
        outer = self._switch(stage)
        try:
            yield
        finally:
            self._switch(outer)

    def _switch(self, stage: str) -> str:
        """Count from now on for another stage, "" for none; returns the one until now."""
        now, before = time.monotonic(), self._stage
        if before:
            self.seconds[before] += now - self._since
        if stage:
            self.seconds.setdefault(stage, 0.0)
        self._stage, self._since = stage, now
        return before

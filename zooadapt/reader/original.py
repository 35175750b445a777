"""Make variants from original checkpoints, for readers without a mirror, or where it has no model.

What is made lies in a mirror of this machine's own, in the cache. The job's code makes it, with the
same records and the same proof. So each file has the same bytes as in a mirror that a job made.
"""

import hashlib
import json
import logging
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec

from zooadapt import costs
from zooadapt.errors import FetchError, StageError, UsageError, ValidationError, one_line, redact
from zooadapt.mirror import manifest
from zooadapt.names import CONFIG
from zooadapt.proof import verdict
from zooadapt.reader import manifests
from zooadapt.reader.making import Making
from zooadapt.stores.opening import open_store
from zooadapt.stores.store import Store
from zooadapt.targets import Target
from zooadapt.types import Job, ModelEntry, ProofResult, Request, Row
from zooadapt.urls import absolute
from zooadapt.zoos import registry

if TYPE_CHECKING:
    from torch import nn

_PREFIXES = ("hf-hub:", "hf_hub:", "hf://")
"""What people write before the id of a repository."""
_LISTED = ("timm", "torchvision", "sample")
"""The zoos whose models are known by name."""

_LONG = 20.0
"""Seconds; what takes longer is told before it begins."""

_log = logging.getLogger("zooadapt")


def own_mirror(root: Path, entry: ModelEntry | None = None, kind: str = "made") -> Store:
    """The mirror of this machine's own, in the folder `kind` of the cache folder `root`.

    A checkpoint in a folder of one's own has a mirror for itself, as long as the checkpoint is the
    same: other folders can have the same name. Raises FetchError where it can't be looked up.
    """
    place = root.absolute() / kind
    if entry is None or not entry.in_place:
        return open_store(str(place))
    from zooadapt.checkpoints import sources

    source = sources.locate(entry, Job("", "")).source
    digest = hashlib.sha256(f"{source.uri} {source.identity}".encode()).hexdigest()[:16]
    return open_store(f"{place}-{digest}")


def is_here(entry: ModelEntry) -> bool:
    """Whether a model's checkpoint is on this machine."""
    from zooadapt.checkpoints import hf_cache

    if entry.hub_id:
        return hf_cache.cached(entry.hub_id) is not None
    return bool(entry.url) and "://" not in str(entry.url).removeprefix("package://")


def is_current(row: Row) -> bool:
    """Whether a variant in this machine's mirror is of the weights that would be taken today.

    These are the weights in the Hugging Face cache, at the revision that the model's name pins, if
    it pins one. Where the cache lacks them the variant stays current.
    """
    if not row["source_uri"].startswith("hf://"):
        return True
    from zooadapt.checkpoints import hf_cache  # it takes huggingface_hub, which readers may lack

    repo = row["source_uri"].removeprefix("hf://").partition("@")[0]
    pinned = row["model"].partition("@")[2]
    located = hf_cache.cached(f"{repo}@{pinned}" if pinned else repo)
    return located is None or located.source.sha256 in ("", row["source_sha256"])


def make(entry: ModelEntry, target: Target, store: Store, making: Making) -> None:
    """Adapt and prove one model, and keep it in a mirror on this machine.

    The checkpoint is taken from the Hugging Face cache, and is left there if it comes from the Hub.
    Raises UsageError if the model can't be adapted to the target, FetchError if its checkpoint
    can't be read, and ValidationError if it can't be proved.
    """
    from zooadapt import pipeline  # it imports torch
    from zooadapt.checkpoints import sources
    from zooadapt.proof import devices

    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}"
    job = Job(run_id, store.root, keep_sources=True)
    try:
        located = sources.locate(entry, job)
    except FetchError as error:
        raise FetchError(f"{entry.name} can't be made: {error}") from error
    _tell_time(entry, located.source.bytes or 0, making)
    device = devices.named(making.device)
    summary = pipeline.make(Request(entry, (target,)), job, located, device, making.prove)
    if summary.outage:
        raise FetchError(f"{entry.name} can't be made: {summary.outage.reason}")
    for failure in summary.failures:
        kinds: dict[str, type[StageError | UsageError]] = {"fetch": FetchError}
        unsupported = failure.status == "unsupported"
        kind = UsageError if unsupported else kinds.get(failure.stage, ValidationError)
        raise kind(f"{entry.name} can't be made: {failure.error}")
    (row,) = [row for row in manifest.compact(store).usable if row["run_id"] == run_id]
    _log.warning(
        "made %s for %s from %s (licence %s) under %s, %s",
        entry.name, target.spoken, redact(row["source_uri"]), row["license"] or "unknown",
        row["scheme"], verdict.said(ProofResult.of(row)),
    )  # fmt: skip


def _tell_time(entry: ModelEntry, size: int, making: Making) -> None:
    """Say how long a model will take, if that is long."""
    seconds = costs.cpu_seconds(size, variants=1)
    if making.prove:
        proving = costs.proof_seconds if making.device == "cpu" else costs.gpu_seconds
        seconds += proving(size, 1)
    if seconds > _LONG:
        proved = "adapting and proving" if making.prove else "adapting"
        _log.warning(
            "%s %s, with a checkpoint of %.0f MB, takes about %.0f s here",
            proved, entry.name, size / 1e6, seconds,
        )  # fmt: skip


def untrained(
    what: str | PathLike[str],
    in_chans: int | None,
    bands: str | Sequence[str] | None,
    options: Mapping[str, Any],
) -> "nn.Module":
    """A model for these channels without pretrained weights, in train mode.

    `options` go to timm; the models of other zoos take none. Raises UsageError.
    """
    from zooadapt.zoos import stored_names

    target, entry = manifests.target(in_chans, bands, None), named(fspath(what))
    zoo = registry.get(entry.zoo)
    model: Any
    if not options:
        model = zoo.build(entry, target.in_chans)
        for name in zoo.stems(entry, model) if zoo.library != "timm" else ():
            model.get_submodule(name).reset_parameters()  # a wider one holds zeros
        model = stored_names.plain(model).train()
    elif zoo.name == "timm":
        import timm

        model = timm.create_model(entry.name, **{**options, "in_chans": target.in_chans})
    else:
        raise UsageError(f"leave out {', '.join(options)}: {entry.name} isn't of timm's own zoo")
    if isinstance(cfg := getattr(model, "pretrained_cfg", None), Mapping):
        model.pretrained_cfg = {**cfg, **_statistics(entry, target)}
    return model  # type: ignore[no-any-return]


def _statistics(entry: ModelEntry, target: Target) -> dict[str, Any]:
    """The input size, mean and std of a variant's channels, as timm's `pretrained_cfg` has them."""
    from zooadapt.adapt import schemes
    from zooadapt.mirror.variant_config import facts_for

    (target,) = registry.for_model(entry, (target,))
    base = registry.facts(entry)
    facts = facts_for(base, target.bands, schemes.matrix(target.scheme, base.bands, target.bands))
    size = (target.in_chans, facts.height, facts.width)
    return {"input_size": size, "mean": facts.mean, "std": facts.std}


def named(what: str, zoo: str | None = None, offline: bool = False) -> ModelEntry:
    """The one model that a reader means, as `entries` finds it. Raises UsageError for several.

    With `offline` an id on the Hub must be in the Hugging Face cache.
    """
    if offline and what.startswith(_PREFIXES) and not _is_cached(what):
        raise UsageError(
            f"{redact(what)} isn't in the Hugging Face cache, and offline nothing is asked"
        )
    found = [entry for entry in entries(what, zoo) if zoo in (None, entry.zoo)]
    if len(found) > 1:
        found = _by_default(what, found)
    if len(found) != 1:
        names = ", ".join(f"{entry.zoo}/{entry.name}" for entry in found[:20])
        raise UsageError(
            f"{redact(what)} could be {names}: name one, with its tag and zoo, or a folder below"
            if found
            else f"the zoo {zoo} has no model {redact(what)}"
        )
    return found[0]


def _is_cached(what: str) -> bool:
    from zooadapt.checkpoints import hf_cache

    return hf_cache.cached(what.rpartition(":")[2].removeprefix("//")) is not None


def _by_default(what: str, found: list[ModelEntry]) -> list[ModelEntry]:
    """Of several tags of an architecture the one that timm takes by default."""
    architecture = what.removeprefix("timm/")
    if any(entry.zoo != "timm" or entry.architecture != architecture for entry in found):
        return found
    tag = registry.default_tag(architecture)
    return [entry for entry in found if entry.pretrained_tag == tag] or found


def entries(what: str, zoo: str | None = None) -> list[ModelEntry]:
    """The models that a folder or URL holds, that an id on the Hub means, or that a name means.

    A name is looked for in `zoo`, or else in timm's zoo first. Raises UsageError where there is
    none.
    """
    listed = [zoo] if zoo in _LISTED else _LISTED
    is_id = what.startswith(_PREFIXES)
    name = what.partition("://" if "://" in what else ":")[2] if is_id else what
    if not {"/", os.sep} & {*what} and (found := _known(name, listed)):
        return found
    if not is_id and ("://" in what or Path(what).expanduser().is_dir()):
        place = absolute(what, "the folder")
        return registry.list_models(f"{_kind(_text_below(place))}:{place}")
    if not is_id and Path(what).expanduser().is_file():
        raise UsageError(f"{what} is a file: give the folder that holds it beside its {CONFIG}")
    if not is_id and (found := _known(name, listed)):
        return found
    if "/" not in name:
        raise UsageError(
            f"{what} is no folder, no repository on the Hub (OWNER/NAME) and no model of "
            f"{', '.join(_LISTED)}{registry.similar(name, _LISTED)}"
        )
    with _list_of(name) as file:
        return registry.list_models(f"{_kind_on_hub(name)}:{file}")


def _known(name: str, zoos: Sequence[str]) -> list[ModelEntry]:
    """The models that the name means, in the first of the zoos that has any."""
    today = registry.today(name)
    for zoo in zoos:
        try:
            listed = registry.list_models(zoo)
        except UsageError:  # its library isn't installed
            continue
        for each in dict.fromkeys((name, today)):
            if found := [entry for entry in listed if registry.named(zoo, entry.name, each)]:
                return found
    return []


def _kind(config: str) -> str:
    """The zoo that reads checkpoints described in this way."""
    try:
        return "transformers" if "architecture" not in json.loads(config) else "folder"
    except (ValueError, TypeError):
        return "folder"


def _text_below(place: str) -> str:
    """The text of the first config.json at or below a place; "" where there is none."""
    try:
        filesystem, root = fsspec.core.url_to_fs(place)
        found = sorted(path for path in filesystem.find(root) if path.endswith(f"/{CONFIG}"))
        return str(filesystem.cat_file(found[0]).decode()) if found else ""
    except Exception as cause:
        raise UsageError(f"{redact(place)} can't be read: {one_line(cause)}") from cause


def _kind_on_hub(name: str) -> str:
    from zooadapt.checkpoints import hub  # it takes huggingface_hub, which readers may lack

    kind = _kind(hub.text(name, CONFIG) or "")
    return "hub" if kind == "folder" else kind


@contextmanager
def _list_of(name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ids.txt"
        file.write_text(name)
        yield file

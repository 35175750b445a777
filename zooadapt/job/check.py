"""Check one checkpoint: do for it all that a run does, in this process and without a mirror."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import fsspec

from zooadapt import pipeline
from zooadapt.checkpoints import hub
from zooadapt.errors import FetchError, UsageError, one_line, redact
from zooadapt.job.plan import matching
from zooadapt.mirror import manifest
from zooadapt.names import CONFIG
from zooadapt.stores.opening import open_store
from zooadapt.targets import Target
from zooadapt.types import Failure, Job, ModelEntry, Request, Row
from zooadapt.urls import absolute
from zooadapt.zoos import registry

_PREFIXES = ("hf-hub:", "hf_hub:", "hf://")
"""What people write before the id of a repository."""
_LISTED = ("timm", "torchvision", "sample")
"""The zoos whose models are known by name."""


@dataclass(frozen=True)
class Checked:
    """What became of one checkpoint."""

    entry: ModelEntry
    rows: Sequence[Row]
    """The rows of the manifest that a run would have made."""
    failures: Sequence[Failure]


def check(what: str, targets: Sequence[Target]) -> Iterator[Checked]:
    """Adapt and prove each checkpoint that `what` names, in a folder that is removed again.

    `what` is a folder or a URL with a checkpoint or several, the id of a repository on the Hub, or
    the name of a model of timm, torchvision or the sample zoo. Raises UsageError where it names
    nothing.
    """
    for entry in _entries(what):
        with tempfile.TemporaryDirectory() as dest:
            summary = pipeline.make(Request(entry, tuple(targets)), Job("check", dest))
            if summary.outage:
                raise FetchError(summary.outage.reason)
            rows = [*manifest.compact(open_store(dest)).usable]
        yield Checked(entry, rows, summary.failures)


def _entries(what: str) -> list[ModelEntry]:
    is_id = what.startswith(_PREFIXES)
    name = what.partition("://" if "://" in what else ":")[2] if is_id else what
    if not is_id and ("://" in what or Path(what).expanduser().is_dir()):
        place = absolute(what, "the folder")
        return registry.list_models(f"{_kind(_text_below(place))}:{place}")
    if not is_id and Path(what).expanduser().is_file():
        raise UsageError(f"{what} is a file: give the folder that holds it beside its {CONFIG}")
    if not is_id and (found := _known(name)):
        return found
    if "/" not in name:
        raise UsageError(
            f"{what} is no folder, no repository on the Hub (OWNER/NAME) and no model of "
            f"{', '.join(_LISTED)}; zooadapt ls --available lists timm's"
        )
    with _list_of(name) as file:
        return registry.list_models(f"{_kind_on_hub(name)}:{file}")


def _known(name: str) -> list[ModelEntry]:
    """The models of the listed zoos that the name means."""
    for zoo in _LISTED:
        try:
            return matching(registry.list_models(zoo), [name], "")
        except UsageError:  # the zoo has no such model, or its library isn't installed
            continue
    return []


def _kind(config: str) -> str:
    """The zoo that reads checkpoints described in this way."""
    try:
        described = json.loads(config)
        return "transformers" if "architecture" not in described else "folder"
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
    kind = _kind(hub.text(name, CONFIG) or "")
    return "hub" if kind == "folder" else kind


@contextmanager
def _list_of(name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ids.txt"
        file.write_text(name)
        yield file

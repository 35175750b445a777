"""The models of a library's release: listed once, then read from a file in the user's cache.

The lists of timm and torchvision depend on their releases alone, but importing them takes seconds.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, fields
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from zooadapt import __version__
from zooadapt.bands import RGB
from zooadapt.errors import StageError
from zooadapt.targets import Bands
from zooadapt.types import Listing, ModelEntry, ModelFacts
from zooadapt.urls import cache_root
from zooadapt.zoos.protocol import Zoo


@dataclass(frozen=True)
class Listed:
    """The models of a zoo, and what it states about each."""

    entries: Sequence[ModelEntry]
    facts: Sequence[ModelFacts | None]
    """In the order of the entries; None for a model of which the zoo can't state them."""
    arguments: Sequence[Mapping[str, Any]]
    """`Zoo.arguments`, in the order of the entries."""


def read(zoo: str, library: str) -> Listed | None:
    """The list as it was kept for the installed releases; None where there is none."""
    with suppress(OSError, ValueError, KeyError, TypeError, ImportError):
        kept = json.loads(_file(zoo).read_bytes())
        if kept["of"] == _releases(zoo, library):
            entries = [ModelEntry(*values) for values in kept["entries"]]
            facts = [each and _facts(each) for each in kept["facts"]]
            return Listed(entries, facts, kept["arguments"])
    return None


def make(zoo: Zoo) -> Listed:
    """List the models, and keep the list where the cache can be written."""
    entries = list(zoo.models(Listing()))
    facts = [_stated(zoo, entry) for entry in entries]
    listed = Listed(entries, facts, [zoo.arguments(entry) for entry in entries])
    content = {
        "of": _releases(zoo.name, zoo.library),
        "entries": [astuple(entry) for entry in entries],
        "facts": [each and _described(each) for each in facts],
        "arguments": [dict(each) for each in listed.arguments],
    }
    file = _file(zoo.name)
    temporary = file.with_name(f"{file.name}.{uuid.uuid4().hex}.tmp")
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(content))
        temporary.replace(file)
    return listed


def _file(zoo: str) -> Path:
    return cache_root() / "zoos" / f"{zoo}.json"


def _releases(zoo: str, library: str) -> list[Any]:
    """What a list depends on: the releases, and which files they are, as a checkout can change.

    torch is one of them: a library that was built for another torch can't be imported.
    """
    spec = find_spec(library)
    models = Path((spec and spec.origin) or "").parent / "models"
    latest = [
        max((file.stat().st_mtime_ns for file in folder.glob("*.py")), default=0)
        for folder in (models, Path(__file__).parent)
    ]
    return [__version__, version(library), version("torch"), str(models), *latest]


def _stated(zoo: Zoo, entry: ModelEntry) -> ModelFacts | None:
    try:
        return zoo.facts(entry)
    except StageError:
        return None


def _described(facts: ModelFacts) -> dict[str, Any]:
    """The facts as JSON. Channels are RGB, or only counted."""
    return {**asdict(facts), "bands": None if facts.bands == RGB else facts.chans}


def _facts(described: dict[str, Any]) -> ModelFacts:
    chans = described["bands"]
    values = {field.name: described[field.name] for field in fields(ModelFacts)}
    for name in ("mean", "std"):
        values[name] = tuple(values[name])
    return ModelFacts(**{**values, "bands": RGB if chans is None else Bands.counted(chans)})

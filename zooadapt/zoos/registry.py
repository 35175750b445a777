"""Zoos by name: those of zooadapt itself, and those that other installed packages add."""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points, version
from typing import Any

from zooadapt import __version__
from zooadapt.bands import RGB
from zooadapt.errors import StageError, UsageError, ZooadaptError, one_line
from zooadapt.targets import Target
from zooadapt.types import Listing, ModelEntry, ModelFacts
from zooadapt.zoos import listed, stated
from zooadapt.zoos.protocol import Zoo

_GROUP = "zooadapt.zoos"
"""The group of entry points in which packages add zoos, each a class called without arguments."""

_NEW = ("layer", "arguments", "version")
"""Members of the protocol that zoos for zooadapt 0.1 lack, unless they derive from `FixedZoo`."""

_OURS = {
    "folder": ("own.folder:FolderZoo", "timm"),
    "hub": ("own.folder:HubZoo", "timm"),
    "sample": ("sample:SampleZoo", "timm"),
    "timm": ("timm:TimmZoo", "timm"),
    "transformers": ("hf.transformers:TransformersZoo", "transformers"),
    "torchvision": ("torchvision:TorchvisionZoo", "torchvision"),
}
"""The class of each of our own zoos, and the library that builds its models."""

_STATED = {"timm": stated.timm, "sample": stated.timm, "torchvision": stated.fixed}
"""How to read a config.json of these zoos without their library."""
_LISTED = ("timm", "torchvision")
"""The zoos whose models are all in the installed release of their library: see `listed`."""


def names() -> list[str]:
    """The names of all zoos: our own, and those that installed packages add."""
    return sorted({*_OURS, *(point.name for point in entry_points(group=_GROUP))})


def get(name: str) -> Zoo:
    """The zoo of that name. Raises UsageError where there is none, or its code can't be used."""
    if name in _OURS:  # a package can't replace one of our own zoos
        module, _, kind = _OURS[name][0].partition(":")
        try:
            ours: Zoo = getattr(import_module(f"zooadapt.zoos.{module}"), kind)()
        except ModuleNotFoundError as cause:
            raise UsageError(
                f"--zoo {name} needs {cause.name}: pip install 'zooadapt[{name}]'"
            ) from cause
        return ours
    for point in entry_points(group=_GROUP, name=name):
        try:
            zoo: Zoo = point.load()()
        except Exception as cause:
            raise UsageError(
                f"--zoo {name}: {point.value} can't be loaded: {one_line(cause)}"
            ) from cause
        if zoo.name != name:  # the manifest would store a name that nobody can look up
            raise UsageError(
                f"--zoo {name}: {point.value} calls itself {zoo.name!r} instead: tell its author"
            )
        if lacking := [member for member in _NEW if not hasattr(zoo, member)]:
            raise UsageError(
                f"--zoo {name}: {point.value} lacks {', '.join(lacking)}, new in zooadapt 0.2: "
                f"derive it from FixedZoo, or see zooadapt.zoos.protocol"
            )
        return zoo
    raise UsageError(
        f"--zoo {name}: no such zoo is installed; choose from {', '.join(names())}, or install the "
        f"package that adds it"
    )


def is_ours(name: str) -> bool:
    """Whether a zoo is zooadapt's own, not one that a package adds."""
    return name in _OURS


@cache
def versions(name: str) -> dict[str, str]:
    """The installed releases of zooadapt and of the zoo's library, as records keep them.

    When either has changed, models that were unsupported are tried again.
    """
    used = library(name)
    return {"zooadapt": __version__, used: version(used)}


def library(name: str) -> str:
    """The distribution that builds a zoo's models, such as ``timm``."""
    return _OURS[name][1] if name in _OURS else get(name).library


def list_models(
    spec: str, source_root: str | None = None, options: Mapping[str, Any] | None = None
) -> list[ModelEntry]:
    """The models of a ``--zoo``, such as ``timm`` or ``folder:URL``.

    `source_root` and `options` are those of `Listing`. Raises UsageError where the zoo can't be
    used or lists no model.
    """
    name, colon, place = spec.partition(":")
    if name in _LISTED and not colon:
        return [*_listed(name).entries]
    zoo = get(name)
    if colon and not zoo.place:
        raise UsageError(f"--zoo {spec}: {name} takes no place after a colon; write --zoo {name}")
    if not place and zoo.place and not zoo.place.startswith("["):
        raise UsageError(f"--zoo {spec}: the place is missing; write --zoo {name}:{zoo.place}")
    with blaming(name):
        entries = list(zoo.models(Listing(place, source_root, dict(options or {}))))
        nowhere = [entry.name for entry in entries if not entry.hub_id and not entry.url]
    if nowhere:
        raise UsageError(
            f"--zoo {name}: its model {nowhere[0]} has neither url nor hub_id: tell its author"
        )
    return entries


@cache
def _listed(name: str) -> listed.Listed:
    """Raises UsageError as `get` does."""
    return listed.read(name, _OURS[name][1]) or listed.make(get(name))


def facts(entry: ModelEntry) -> ModelFacts:
    """What the zoo states about a model. Raises StageError, and UsageError as `blaming` does."""
    with blaming(entry.zoo):
        place = _places(entry.zoo).get(entry.name)
        known = None if place is None else _listed(entry.zoo).facts[place]
        return known or get(entry.zoo).facts(entry)


def for_model(entry: ModelEntry, targets: Sequence[Target]) -> tuple[Target, ...]:
    """The targets with the schemes that this model's own channels decide.

    A model whose facts can't be had is taken for an RGB model: it fails later, by itself.
    """
    if not any(target.is_open for target in targets):
        return tuple(targets)
    base = RGB
    with suppress(StageError, UsageError):
        base = facts(entry).bands
    return tuple(target.for_base(base) for target in targets)


def arguments(entry: ModelEntry) -> Mapping[str, Any]:
    """The arguments of a model, as `Zoo.arguments` gives them. Raises as `facts` does."""
    with blaming(entry.zoo):
        place = _places(entry.zoo).get(entry.name)
        known = None if place is None else _listed(entry.zoo).arguments[place]
        return get(entry.zoo).arguments(entry) if known is None else known


def stated_facts(zoo: str, config: Mapping[str, Any]) -> ModelFacts:
    """What a variant's config.json states. Raises UsageError as `get` does."""
    read = _STATED.get(zoo) or get(zoo).stated
    return read(config)


@cache
def _places(name: str) -> Mapping[str, int]:
    """Where each model stands in the list that is kept of a zoo; {} where none is kept."""
    entries = _listed(name).entries if name in _LISTED else ()
    return {entry.name: place for place, entry in enumerate(entries)}


@contextmanager
def blaming(name: str) -> Iterator[None]:
    """Within the block, turn an unexpected error of a package's zoo into a UsageError."""
    try:
        yield
    except Exception as cause:
        if name in _OURS or isinstance(cause, ZooadaptError):
            raise
        why = f"{type(cause).__name__}: {one_line(cause)}"
        raise UsageError(f"--zoo {name}: it raises {why}: tell its author") from cause


def today(name: str) -> str:
    """timm's present name for a model of an older release, such as ``tf_efficientnet_b0_ns``."""
    try:
        from timm.models._registry import get_deprecated_models
    except ImportError:
        return name
    return get_deprecated_models().get(name) or name


def default_tag(architecture: str) -> str | None:
    """The tag that timm loads by default for an architecture; None where timm isn't installed."""
    try:
        from timm import get_pretrained_cfg
    except ImportError:
        return None
    cfg = get_pretrained_cfg(architecture, allow_unregistered=True)
    tag: str | None = cfg.tag if cfg else None
    return tag


def similar(name: str, zoos: Iterable[str]) -> str:
    """ "; did you mean …?" with the most similar name of a model of the zoos; "" for none."""
    known: list[str] = []
    for zoo in zoos:
        with suppress(UsageError):  # its library isn't installed
            known += [each for e in list_models(zoo) for each in (e.name, e.architecture)]
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def named(zoo: str, model: str, glob: str) -> bool:
    """Whether a glob matches a model's name, or its name with its zoo's before it, "zoo/model"."""
    prefix, slash, rest = glob.partition("/")
    return matches(model, glob) or bool(slash and prefix == zoo and matches(model, rest))


def matches(name: str, glob: str) -> bool:
    """Whether a glob matches a model's name; as in timm, a glob without a tag matches every tag.

    A name always matches itself, even where it contains a glob's special characters.
    """
    untagged = "." not in glob and fnmatchcase(name, f"{glob}.*")
    return name == glob or fnmatchcase(name, glob) or untagged

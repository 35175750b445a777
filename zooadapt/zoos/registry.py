"""Where models come from. A zoo lists its models, builds them, and knows its checkpoints."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from zooadapt.errors import UsageError, ZooadaptError, one_line
from zooadapt.types import Listing, ModelEntry, ModelFacts

if TYPE_CHECKING:
    from torch import Tensor, nn


class Zoo(Protocol):
    """A list of models, a way to build each with any number of channels, and its conventions."""

    name: str
    library: str
    """The distribution that builds the models, such as ``timm``."""
    place: str
    """What ``--zoo NAME:…`` takes behind the colon, such as ``URL``; in brackets where it may be
    left out, "" where there is nothing to say."""

    def models(self, listing: Listing) -> Iterable[ModelEntry]:
        """Every model with pretrained weights, in a stable order.

        Reads nothing remote but what describes the models where `listing` says that they are.
        Raises UsageError where something the zoo needs isn't installed, or nothing is there.
        """
        ...

    def facts(self, entry: ModelEntry) -> ModelFacts:
        """What is known of the model for the number of channels of its own weights.

        Raises StageError, and nothing else, where its description is no good: the others go on.
        """
        ...

    def build(self, entry: ModelEntry, in_chans: int) -> "nn.Module":
        """The model for `in_chans` channels, untrained, on the current default device."""
        ...

    def stems(self, entry: ModelEntry, model: "nn.Module") -> Iterable[str]:
        """The names of the modules that the zoo says read the image."""
        ...

    def convert(
        self, entry: ModelEntry, model: "nn.Module", content: dict[str, Any]
    ) -> tuple[Mapping[str, Any], bool]:
        """A checkpoint's content under the names of `model`, and whether extra names are errors."""
        ...

    def config(self, entry: ModelEntry, base: "nn.Module", facts: ModelFacts) -> dict[str, Any]:
        """The ``config.json`` that loads a variant with the channels, mean and std of `facts`.

        `base` is the model with the channels of its own weights. Nothing that may change while
        the weights don't (a licence) belongs here.
        """
        ...

    def stated(self, config: Mapping[str, Any]) -> ModelFacts:
        """What a variant's ``config.json`` states of it; its channels are only counted."""
        ...

    def companions(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """What further JSON files of a variant's folder hold, by name, by its ``config.json``."""
        ...

    def with_channels(
        self, config: dict[str, Any], mean: Sequence[float], std: Sequence[float]
    ) -> dict[str, Any]:
        """A variant's ``config.json`` for other channels, with their mean and std.

        `config` is that of any variant of the model.
        """
        ...

    def check_version(self, least: str) -> None:
        """Raise UsageError where the zoo's library is older than the release `least`."""
        ...

    def open(self, folder: Path, options: Mapping[str, Any]) -> "nn.Module":
        """The variant in `folder` as the zoo's own library loads it, in eval mode.

        `options` are the library's, such as ``num_classes``.
        """
        ...

    def load(
        self, folder: Path, tensors: Mapping[str, "Tensor"], in_chans: int | None = None
    ) -> "nn.Module":
        """The model that ``config.json`` in `folder` describes, in eval mode, holding `tensors`.

        With another number of input channels where `in_chans` is given. The tensors are taken as
        they are, without a copy, and must be exactly the model's.
        """
        ...


_GROUP = "zooadapt.zoos"
"""The entry points by which installed packages add zoos: a class, called without arguments."""

_OURS = {
    "folder": "zooadapt.zoos.own.folder:FolderZoo",
    "hub": "zooadapt.zoos.own.folder:HubZoo",
    "sample": "zooadapt.zoos.sample:SampleZoo",
    "timm": "zooadapt.zoos.timm:TimmZoo",
    "transformers": "zooadapt.zoos.hf.transformers:TransformersZoo",
    "torchvision": "zooadapt.zoos.torchvision:TorchvisionZoo",
}


def names() -> list[str]:
    """Of all zoos: ours, and those that installed packages add."""
    return sorted({*_OURS, *(point.name for point in entry_points(group=_GROUP))})


def get(name: str) -> Zoo:
    """The zoo of that name. Raises UsageError where there is none, or it can't be imported."""
    if name in _OURS:  # none can take the place of one of ours
        module, _, kind = _OURS[name].partition(":")
        try:
            zoo: Zoo = getattr(import_module(module), kind)()
        except ModuleNotFoundError as cause:
            raise UsageError(
                f"--zoo {name} needs {cause.name}: pip install 'zooadapt[{name}]'"
            ) from cause
        return zoo
    for point in entry_points(group=_GROUP, name=name):
        try:
            zoo = point.load()()
        except Exception as cause:
            raise UsageError(
                f"--zoo {name}: {point.value} can't be loaded: {one_line(cause)}"
            ) from cause
        if zoo.name != name:  # by which the mirror's rows would ask for it
            raise UsageError(f"--zoo {name}: {point.value} calls itself {zoo.name!r} instead")
        return zoo
    raise UsageError(
        f"--zoo {name}: no such zoo is installed; there are {', '.join(names())}, and packages may "
        f"add others"
    )


def listed(
    spec: str, source_root: str | None = None, options: Mapping[str, Any] | None = None
) -> list[ModelEntry]:
    """The models of a ``--zoo``, such as ``timm`` or ``folder:URL``. Raises UsageError."""
    name, colon, place = spec.partition(":")
    zoo = get(name)
    if colon and not zoo.place:
        raise UsageError(f"--zoo {spec}: {name} takes nothing behind its name")
    if not place and zoo.place and not zoo.place.startswith("["):
        raise UsageError(f"--zoo {spec}: say which, as {name}:{zoo.place}")
    with blaming(name):
        entries = list(zoo.models(Listing(place, source_root, dict(options or {}))))
        nowhere = [entry.name for entry in entries if not entry.hub_id and not entry.url]
    if nowhere:
        raise UsageError(
            f"--zoo {name}: it says of {nowhere[0]} neither url nor hub_id: tell its author"
        )
    return entries


@contextmanager
def blaming(name: str) -> Iterator[None]:
    """Turn what a zoo of another package shouldn't raise into UsageError, which names it."""
    try:
        yield
    except Exception as cause:
        if name in _OURS or isinstance(cause, ZooadaptError):
            raise
        why = f"{type(cause).__name__}: {one_line(cause)}"
        raise UsageError(f"--zoo {name}: it raises {why}: tell its author") from cause


def named(zoo: str, model: str, glob: str) -> bool:
    """Whether a model is meant by a glob of names, or by one that begins with its zoo's, "zoo/"."""
    prefix, slash, rest = glob.partition("/")
    return matches(model, glob) or bool(slash and prefix == zoo and matches(model, rest))


def matches(name: str, glob: str) -> bool:
    """Whether a model's name matches; as in timm, a glob without a tag matches every tag.

    A name matches itself, whatever is in it.
    """
    untagged = "." not in glob and fnmatchcase(name, f"{glob}.*")
    return name == glob or fnmatchcase(name, glob) or untagged

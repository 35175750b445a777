"""Where models come from. A zoo lists its models, builds them, and knows its checkpoints."""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from zooadapt.errors import UsageError
from zooadapt.records import ModelEntry, ModelFacts

if TYPE_CHECKING:
    from torch import Tensor, nn


class Zoo(Protocol):
    """A list of models, a way to build each with any number of channels, and its conventions."""

    name: str

    def models(self) -> Iterable[ModelEntry]:
        """Every model with pretrained weights, in a stable order; reads nothing remote.

        Raises UsageError where something the zoo needs isn't installed.
        """
        ...

    def facts(self, entry: ModelEntry) -> ModelFacts:
        """What is known of the model for the number of channels of its own weights."""
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

    def with_channels(
        self, config: dict[str, Any], mean: Sequence[float], std: Sequence[float]
    ) -> dict[str, Any]:
        """A variant's ``config.json`` for other channels, with their mean and std."""
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


def get(name: str) -> Zoo:
    """The zoo of that name. Raises UsageError where there is none."""
    from zooadapt.zoos.sample import SampleZoo
    from zooadapt.zoos.timm import TimmZoo

    zoos: dict[str, type[Zoo]] = {zoo.name: zoo for zoo in (SampleZoo, TimmZoo)}
    if name not in zoos:
        raise UsageError(f"--zoo {name}: no such zoo; there are {', '.join(sorted(zoos))}")
    return zoos[name]()


def matches(name: str, glob: str) -> bool:
    """Whether a model's name matches; as in timm, a glob without a tag matches every tag."""
    return fnmatchcase(name, glob) or ("." not in glob and fnmatchcase(name, f"{glob}.*"))

"""What a zoo can do: list its models, build them, and know their layers, files and configs."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from zooadapt.types import Layer, Listing, ModelEntry, ModelFacts

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

    def layer(self, model: "nn.Module", name: str, chans: int) -> Layer | None:
        """How the library's own module `name` reads the image, in a model with `chans` channels.

        None for a module that is torch's own.
        """
        ...

    def arguments(self, entry: ModelEntry) -> Mapping[str, Any]:
        """What the library builds the model with besides its architecture; fit for JSON.

        Models of one architecture with the same arguments have the same tensors.
        """
        ...

    def version(self) -> str:
        """The installed library's release, as the manifest's `timm_version` states it.

        Of another library than timm with its name before it.
        """
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

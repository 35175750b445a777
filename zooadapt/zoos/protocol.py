"""The protocol of a zoo: what a class must have so that zooadapt can adapt and load its models.

A plug-in is a class with all of these members; zooadapt calls it without arguments. A class that
derives from `zooadapt.zoos.fixed.FixedZoo` inherits most of them, and finds stems by itself.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from zooadapt.types import Layer, Listing, ModelEntry, ModelFacts

if TYPE_CHECKING:
    from torch import Tensor, nn


class Zoo(Protocol):
    """A list of pretrained models, and the library that builds each for any number of channels."""

    name: str
    """The zoo's name: that of its entry point, of ``--zoo`` and of the manifest's column `zoo`."""
    library: str
    """The distribution that builds the models, such as ``timm``; records keep its version."""
    place: str
    """What users write after the colon in ``--zoo NAME:PLACE``, as messages name it, such as
    ``URL``. In brackets where it is optional, as in ``[FILE]``; "" where the zoo takes no place."""

    def models(self, listing: Listing) -> Iterable[ModelEntry]:
        """List every model with pretrained weights, in the same order each time.

        Read no checkpoint; read at most the small files that describe the models, from the place
        that `listing` names.

        Raises UsageError where a package that the zoo needs isn't installed, or the place holds no
        model.
        """
        ...

    def facts(self, entry: ModelEntry) -> ModelFacts:
        """The model's input size, mean, std and classes, for the channels of its own weights.

        Raises StageError where the model's description can't be used, and no other error: the run
        records the failure of this model and goes on with the others.
        """
        ...

    def build(self, entry: ModelEntry, in_chans: int) -> "nn.Module":
        """The model with `in_chans` input channels, untrained, on torch's current default device.

        The device is often ``meta``: the job builds models without values to learn their shapes.
        """
        ...

    def stems(self, entry: ModelEntry, model: "nn.Module") -> Iterable[str]:
        """The names of all modules whose ``weight`` reads the image, such as ``conv1``.

        A model fails unless exactly these weights change their shape with the number of channels.
        Where none is named, the weights that do so are the stems.
        """
        ...

    def layer(self, model: "nn.Module", name: str, chans: int) -> Layer | None:
        """How the module `name` applies its weight to the image, in a model with `chans` channels.

        None where the module does what torch's own layer of its kind does.
        """
        ...

    def arguments(self, entry: ModelEntry) -> Mapping[str, Any]:
        """The arguments, besides the architecture, that the library builds this model with.

        They can be written as JSON. Models with the same architecture and the same arguments have
        tensors of the same names and shapes.
        """
        ...

    def version(self) -> str:
        """The release of the installed library, for the manifest's column `timm_version`.

        timm's release stands alone, as in ``1.0.31``; any other follows its library's name, as in
        ``torchvision 0.29.0``.
        """
        ...

    def convert(
        self, entry: ModelEntry, model: "nn.Module", content: dict[str, Any]
    ) -> tuple[Mapping[str, Any], bool]:
        """A checkpoint's tensors under `model`'s names for them, and whether to be strict.

        `content` is what was read from the checkpoint file. If strict, a tensor that the model
        doesn't have is an error, and so is a missing weight.
        """
        ...

    def config(self, entry: ModelEntry, base: "nn.Module", facts: ModelFacts) -> dict[str, Any]:
        """The ``config.json`` from which a variant is built and loaded.

        `facts` has the variant's channels, mean and std; `base` is the model with its own channels.
        Leave out what can change while the weights stay the same, such as the licence: other
        content makes another variant.
        """
        ...

    def stated(self, config: Mapping[str, Any]) -> ModelFacts:
        """The facts that a variant's ``config.json``, as `config` makes it, states.

        Its channels are only counted, not named.
        """
        ...

    def companions(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """The other JSON files of the variant with this ``config.json``: content by file name.

        Empty where ``config.json`` is all that the library needs.
        """
        ...

    def with_channels(
        self, config: dict[str, Any], chans: int, mean: Sequence[float], std: Sequence[float]
    ) -> dict[str, Any]:
        """The ``config.json`` of a variant with `chans` channels, given their mean and std.

        `config` is the ``config.json`` of any variant of the same model. `mean` and `std` have one
        value for each new channel, or none where the model's facts state none.
        """
        ...

    def check_version(self, least: str) -> None:
        """Raise UsageError if the installed library is older than release `least`.

        `least` is the `min_timm` of the model's facts; "" allows every release.
        """
        ...

    def open(self, folder: Path, options: Mapping[str, Any]) -> "nn.Module":
        """The variant in `folder`, loaded by the zoo's own library, in eval mode.

        `options` are passed on to the library, such as ``num_classes``.
        """
        ...

    def load(
        self, folder: Path, tensors: Mapping[str, "Tensor"], in_chans: int | None = None
    ) -> "nn.Module":
        """The model that ``config.json`` in `folder` describes, in eval mode, holding `tensors`.

        `in_chans` is the number of input channels, where it isn't that of ``config.json``. The
        tensors are used without a copy, and must have exactly the model's names and shapes.
        """
        ...

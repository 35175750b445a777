"""The base class of zoos whose library builds a model for its own number of channels only."""

import json
import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from zooadapt.errors import Unsupported, UsageError, one_line
from zooadapt.names import CONFIG, WEIGHTS
from zooadapt.types import Layer, Listing, ModelEntry, ModelFacts
from zooadapt.zoos import stated, tracing
from zooadapt.zoos.meta import shapes_only

Build = Callable[[], nn.Module]
Got = TypeVar("Got")

_log = logging.getLogger("zooadapt")

_found: dict[tuple[Any, ...], Sequence[str]] = {}
"""The names of the stems' weights, for each architecture that was run in this process."""


class FixedZoo(ABC):
    """A zoo that finds stems by running the model, and gives the built model wider stems.

    A subclass must define `name`, `library`, `models`, `facts` and `module`; it may override
    `arguments` and `convert`. A variant's ``config.json`` says how to build the model, and names
    the stems' weights, which replace those of the built model before ``load_state_dict``.
    """

    name: str
    library: str
    place: str = ""

    @abstractmethod
    def models(self, listing: Listing) -> Iterable[ModelEntry]:
        """Every model with pretrained weights, in a stable order."""

    @abstractmethod
    def facts(self, entry: ModelEntry) -> ModelFacts:
        """The model's input size, mean, std and classes, for the channels of its own weights."""

    @abstractmethod
    def module(self, architecture: str, arguments: Mapping[str, Any]) -> nn.Module:
        """The model with its own channels, untrained, on torch's current default device."""

    def arguments(self, entry: ModelEntry) -> dict[str, Any]:
        """The arguments of `module` for these weights, such as the number of classes, as JSON."""
        return {}

    def convert(
        self, entry: ModelEntry, model: nn.Module, content: dict[str, Any]
    ) -> tuple[Mapping[str, Any], bool]:
        """The checkpoint unchanged: it must hold exactly the model's tensors."""
        return content, True

    def build(self, entry: ModelEntry, in_chans: int) -> nn.Module:
        """The model of `module`, with stems of zeros where `in_chans` isn't its own channel count.

        Raises Unsupported where the model can't be run at all, or can't with these channels.
        """
        model = self._module(entry.architecture, self.arguments(entry))
        facts = self.facts(entry)
        if in_chans == facts.chans:
            return model
        for name in self._stem_weights(entry):
            stem = model.get_parameter(name)
            chans = stem.shape[1] // facts.chans * in_chans
            put(model, name, stem.new_zeros(stem.shape[0], chans, *stem.shape[2:]))
        if next(model.parameters()).is_meta:
            check_runs(model, in_chans, facts, lambda: self.build(entry, in_chans))
        return model

    def stems(self, entry: ModelEntry, model: nn.Module) -> Iterable[str]:
        """The modules whose weights read the image, found by running the model."""
        return [name.removesuffix(".weight") for name in self._stem_weights(entry)]

    def layer(self, model: nn.Module, name: str, chans: int) -> Layer | None:
        """timm's own layers; else `standardise` for a class of the name that transformers uses."""
        if "timm" in sys.modules:  # otherwise no layer can be timm's
            from zooadapt.zoos import timm_layers

            if found := timm_layers.layer(model, name, chans):
                return found
        kind = type(model.get_submodule(name)).__name__
        return Layer(use="standardise") if kind == "WeightStandardizedConv2d" else None

    def version(self) -> str:
        """The library's name and release, such as ``torchvision 0.29.0``."""
        return f"{self.library} {version(self.library)}"

    def config(self, entry: ModelEntry, base: nn.Module, facts: ModelFacts) -> dict[str, Any]:
        """The ``config.json``: how to build the model, and what images it takes."""
        config = {
            "library": self.library,
            "architecture": entry.architecture,
            "model_args": self.arguments(entry),
            "stems": list(self._stem_weights(entry)),
            "num_classes": facts.num_classes,
            "input_size": [facts.chans, *facts.size],
        }
        return self.with_channels(config, facts.chans, facts.mean, facts.std)

    def stated(self, config: Mapping[str, Any]) -> ModelFacts:
        """The facts that a variant's ``config.json`` states; its channels are only counted."""
        return stated.fixed(config)

    def companions(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """No other file: ``config.json`` says it all."""
        return {}

    def with_channels(
        self, config: dict[str, Any], chans: int, mean: Sequence[float], std: Sequence[float]
    ) -> dict[str, Any]:
        """The ``config.json`` with another number of channels, mean and std."""
        size = [chans, *config["input_size"][1:]]
        return {**config, "input_size": size, "mean": list(mean), "std": list(std)}

    def check_version(self, least: str) -> None:
        """Accept every release: none is known to be too old."""
        return

    def open(self, folder: Path, options: Mapping[str, Any]) -> nn.Module:
        """The variant, built with `options` added to its own arguments, in eval mode.

        A tensor to which the options give another shape stays random, and a warning names it.
        Raises UsageError where the library refuses the options.
        """
        import safetensors.torch

        config = json.loads((folder / CONFIG).read_text())
        tensors = safetensors.torch.load_file(folder / WEIGHTS)
        try:
            model = self._module(config["architecture"], {**config["model_args"], **options})
        except (TypeError, ValueError) as cause:
            raise UsageError(f"{self.library} refuses {', '.join(options)}: {cause}") from cause
        _put_stems(model, config, tensors)
        expected = model.state_dict()
        kept = {
            name: tensor
            for name, tensor in tensors.items()
            if name in expected and tensor.shape == expected[name].shape
        }
        random = sorted(expected.keys() - kept.keys())
        if random:
            names = ", ".join(random)
            _log.warning("left random, because the options change the tensors' shapes: %s", names)
        model.load_state_dict(kept, strict=False)
        return model.eval()

    def load(
        self, folder: Path, tensors: Mapping[str, Tensor], in_chans: int | None = None
    ) -> nn.Module:
        """The model of ``config.json``, holding `tensors`; their shapes give the channels."""
        config = json.loads((folder / CONFIG).read_text())
        with shapes_only():
            model = self._holding(config, tensors)
        return model.eval() if _has_values(model) else self._holding(config, tensors).eval()

    def _holding(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
        """The model that a config describes, holding `tensors`, on the current default device."""
        model = self._module(config["architecture"], config["model_args"])
        _put_stems(model, config, tensors)
        model.load_state_dict(tensors, strict=True, assign=True)
        return model

    def _module(self, architecture: str, arguments: Mapping[str, Any]) -> nn.Module:
        """The model of `module`; built on the CPU first where `module` reads tensors' values."""
        try:
            return self.module(architecture, arguments)
        except (RuntimeError, TypeError):  # what torch raises on the meta device
            with torch.device("cpu"):
                model = self.module(architecture, arguments)
            return model.to(torch.get_default_device())

    def _stem_weights(self, entry: ModelEntry) -> Sequence[str]:
        """The names of the weights that read the image, found once a process.

        Raises Unsupported where the model can't be run, or reads the image in another way.
        """
        arguments, facts = self.arguments(entry), self.facts(entry)
        key = self.name, entry.architecture, json.dumps(arguments), facts.chans, facts.size
        if key not in _found:
            with shapes_only():
                model = self._module(entry.architecture, arguments)
            own = partial(self._module, entry.architecture, arguments)
            _found[key] = first_weights(model, facts, own)
        return _found[key]


def put(model: nn.Module, name: str, weight: Tensor) -> None:
    """Replace the parameter `name`, of a convolution or a linear layer, by `weight`."""
    module = model.get_submodule(name.rpartition(".")[0])
    module.weight = nn.Parameter(weight, requires_grad=weight.is_floating_point())
    width = "in_features" if isinstance(module, nn.Linear) else "in_channels"
    setattr(module, width, weight.shape[1])


def _has_values(model: nn.Module) -> bool:
    """Whether no tensor of a model is on the meta device, plain attributes included."""
    held = (value for module in model.modules() for value in tree_leaves(vars(module)))
    return not any(isinstance(value, Tensor) and value.is_meta for value in held)


def _put_stems(model: nn.Module, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Replace the model's stems, which `config` names, by the weights in `tensors`."""
    for name in config["stems"]:
        put(model, name, tensors[name])


def _run(
    model: nn.Module, chans: int, facts: ModelFacts, rebuild: Build, do: Callable[..., Got]
) -> Got:
    """`do(model, images)` on the meta device; on the CPU where the model reads tensors' values.

    `rebuild` builds the model on the current default device. Whatever the model raises is passed
    on.
    """
    shape = 2, chans, *facts.size
    try:
        return do(model.eval(), torch.zeros(shape, device="meta"))
    except Exception as cause:
        if "meta" not in str(cause):
            raise
    with torch.device("cpu"):
        return do(rebuild().eval(), torch.zeros(shape))


def check_runs(model: nn.Module, chans: int, facts: ModelFacts, rebuild: Build) -> None:
    """Raise Unsupported if a model with `chans` channels, on the meta device, can't be run.

    `facts` are those of the model with its own channels. `rebuild` builds the same model again, for
    one that reads tensors' values.
    """

    def forward(runs: nn.Module, images: Tensor) -> None:
        with torch.no_grad():
            runs(images)

    try:
        _run(model, chans, facts, rebuild, forward)
    except Exception as cause:
        raise Unsupported(
            f"the model needs {facts.chans} channels outside its stem too: with {chans} its "
            f"forward pass raises: {one_line(cause)}"
        ) from cause


def first_weights(model: nn.Module, facts: ModelFacts, rebuild: Build) -> Sequence[str]:
    """The names of the weights that read the image, in a model on the meta device.

    `rebuild` builds the model again, for one that reads tensors' values. Raises Unsupported where
    the model can't be run, or reads the image in another way.
    """
    try:
        uses = _run(model, facts.chans, facts, rebuild, tracing.first_uses)
    except Exception as cause:  # the model's own code may raise anything
        raise Unsupported(
            f"the model can't be run on a batch of images: {one_line(cause)}"
        ) from cause
    odd = [use for use in uses if not (use.weight or "").endswith(".weight")]
    if odd or not uses:
        how = f"by {odd[0].function} with {odd[0].parameters[0]}" if odd else "by no weight at all"
        raise Unsupported(f"the model reads the image {how}, which can't be adapted")
    return tuple(dict.fromkeys(str(use.weight) for use in uses))

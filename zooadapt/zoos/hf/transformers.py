"""The zoo of Hugging Face transformers' image models, from a list of Hub ids.

A repository's ``config.json`` and ``preprocessor_config.json`` describe its model. The model's
class is one of the installed transformers: code from a repository is never run. Variants are stored
under the tensor names that transformers writes to files, which differ from those in memory.
"""

import importlib.resources
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.initialization import no_init_weights
from transformers.models.auto import modeling_auto

from zooadapt.errors import FetchError, Unsupported, UsageError, one_line
from zooadapt.names import CONFIG
from zooadapt.types import Layer, Listing, ModelEntry, ModelFacts
from zooadapt.zoos import fixed, meta
from zooadapt.zoos.hf import configs, models, tensor_names
from zooadapt.zoos.own import folder_search, id_lists
from zooadapt.zoos.own.folder_search import README
from zooadapt.zoos.stored_names import Renamed

PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
_FILES = (CONFIG, PREPROCESSOR, PROCESSOR, README)
_LISTED = (
    modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_BACKBONE_MAPPING_NAMES,
)


class TransformersZoo:
    """The image models in the Hub repositories of a list, or in the folders below a URL.

    By default they are those of a list of well-known ones.
    """

    name = "transformers"
    library = "transformers"
    place = "[FILE or URL]"

    def models(self, listing: Listing) -> Iterable[ModelEntry]:
        """One model for each id of the list, in the order of the list; or for each folder, sorted.

        A model whose description can't be read is listed too; it fails when it is built. Raises
        UsageError where the list can't be read or no folder holds a checkpoint, RunError where the
        Hub doesn't answer.
        """
        if listing.place and not id_lists.is_list(listing):
            found = folder_search.found(listing, self.name, _FILES)
            return [_entry(each.name, each.texts, "", url=each.weights) for each in found]
        shipped = importlib.resources.files("zooadapt.zoos.hf") / "transformers.txt"
        names = (
            id_lists.names(listing)
            if listing.place
            else id_lists.parsed(shipped.read_text(), shipped.name)
        )
        repos = id_lists.read(names, listing, _FILES)
        return [_entry(repo.id, repo.texts, repo.error, hub_id=repo.id) for repo in repos]

    def architectures(self) -> Iterable[ModelEntry]:
        """Every image classifier and backbone class of transformers, with its default config.

        Classes that wrap a timm model are left out: their config has to name one.
        """
        mapped = [item for mapping in _LISTED for item in mapping.items()]
        listed = [kinds for model_type, kinds in mapped if not configs.wraps_timm(model_type)]
        names = [
            name for kinds in listed for name in ([kinds] if isinstance(kinds, str) else kinds)
        ]
        return [_by_default(name) for name in dict.fromkeys(names)]

    def facts(self, entry: ModelEntry) -> ModelFacts:
        """The facts that the repository's files state. Raises FetchError if they weren't read."""
        described = _described(entry)
        if described["error"]:
            raise FetchError(described["error"])
        return configs.facts(described["config"], described["preprocessor"])

    def build(self, entry: ModelEntry, in_chans: int) -> nn.Module:
        """The untrained model of the class that the config names, with `in_chans` channels.

        Raises FetchError where the repository's files weren't read, Unsupported where the class
        isn't one of transformers' for images, or can't be built with other channels.
        """
        described, facts = _described(entry), self.facts(entry)
        model = models.built(configs.with_channels(described["config"], in_chans))
        if in_chans != facts.chans and next(model.parameters()).is_meta:
            self._check_runs(entry, model, in_chans)
        return model

    def _check_runs(self, entry: ModelEntry, model: nn.Module, chans: int) -> None:
        """Raise Unsupported where a model with `chans` channels can't be run on the meta device."""
        try:
            with meta.nothing_kept():
                rebuild = partial(self.build, entry, chans)
                fixed.check_runs(model, chans, self.facts(entry), rebuild)
        except Unsupported:
            with torch.device("meta"):
                own = self.build(entry, self.facts(entry).chans)
            self.stems(entry, own)  # has a better message where no number of channels can be run
            raise

    def stems(self, entry: ModelEntry, model: nn.Module) -> Iterable[str]:
        """The modules whose weights read the image, found by running the model."""
        with meta.nothing_kept():
            facts = self.facts(entry)
            weights = fixed.first_weights(model, facts, partial(self.build, entry, facts.chans))
        return [name.removesuffix(".weight") for name in weights]

    def layer(self, model: nn.Module, name: str, chans: int) -> Layer | None:
        """A standardised weight for the convolutions of BiT; None for all others."""
        kind = type(model.get_submodule(name)).__name__
        return Layer(use="standardise") if kind == "WeightStandardizedConv2d" else None

    def arguments(self, entry: ModelEntry) -> Mapping[str, Any]:
        """No arguments: the config in the entry determines the model."""
        return {}

    def version(self) -> str:
        """The library's name and release, such as ``transformers 5.24.0``."""
        return f"{self.library} {transformers.__version__}"

    def convert(
        self, entry: ModelEntry, model: nn.Module, content: dict[str, Any]
    ) -> tuple[Mapping[str, Any], bool]:
        """The checkpoint under today's names, without the tensors that transformers ignores."""
        assert isinstance(model, Renamed)
        return tensor_names.converted(model, content), True

    def config(self, entry: ModelEntry, base: nn.Module, facts: ModelFacts) -> dict[str, Any]:
        """The repository's ``config.json`` for other channels, without keys that would run code.

        Its key ``preprocessor`` holds the content of the variant's ``preprocessor_config.json``.
        """
        assert isinstance(base, Renamed)
        described = _described(entry)
        config = configs.cleaned(described["config"])
        config.pop("bands", None)  # they are those of the original
        config["dtype"] = str(base.model.dtype).removeprefix("torch.")
        config["preprocessor"] = configs.cleaned(described["preprocessor"])
        return self.with_channels(config, facts.chans, facts.mean, facts.std)

    def stated(self, config: Mapping[str, Any]) -> ModelFacts:
        """The facts that a variant's ``config.json`` states; its channels are only counted."""
        return configs.facts(config, config["preprocessor"])

    def companions(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """The ``preprocessor_config.json`` that ``AutoImageProcessor`` reads, if there is one."""
        preprocessor = config["preprocessor"]
        return {PREPROCESSOR: preprocessor} if preprocessor else {}

    def with_channels(
        self, config: dict[str, Any], chans: int, mean: Sequence[float], std: Sequence[float]
    ) -> dict[str, Any]:
        """The ``config.json`` with another ``num_channels``, mean and std."""
        preprocessor = config["preprocessor"]
        if mean:
            preprocessor = {**preprocessor, "image_mean": list(mean), "image_std": list(std)}
        return {**configs.with_channels(config, chans), "preprocessor": preprocessor}

    def check_version(self, least: str) -> None:
        """Accept every release: none is known to be too old."""
        return

    def open(self, folder: Path, options: Mapping[str, Any]) -> nn.Module:
        """The model that the class's ``from_pretrained(folder, …)`` loads, in eval mode.

        Raises UsageError where transformers refuses the options.
        """
        kind = models.kind(json.loads((folder / CONFIG).read_text()))
        try:
            model: nn.Module = kind.from_pretrained(folder, local_files_only=True, **options)
        except (TypeError, ValueError, RuntimeError) as cause:
            given = ", ".join(options)
            raise UsageError(f"transformers refuses {given}: {one_line(cause)}") from cause
        return model.eval()

    def load(
        self, folder: Path, tensors: Mapping[str, Tensor], in_chans: int | None = None
    ) -> nn.Module:
        """The model as `Renamed`, built uninitialised on the CPU so that buffers have values."""
        config = json.loads((folder / CONFIG).read_text())
        chans = in_chans or self.stated(config).chans
        with torch.device("cpu"), no_init_weights():
            model = models.built(configs.with_channels(config, chans))
        model.load_state_dict(tensors, strict=True, assign=True)
        return model.eval()


def _entry(name: str, texts: Mapping[str, str | None], error: str, **place: str) -> ModelEntry:
    """The model that files describe; if the description can't be used, `facts` and `build` say why.

    `texts` are the files by name; `error` says why they couldn't be read.
    """
    config, preprocessor = None, None
    if not error:
        try:
            config, preprocessor = _parsed(texts)
            configs.facts(config, preprocessor)
        except Exception as cause:
            error = f"{name}: {one_line(cause)}"
    return ModelEntry(
        zoo=TransformersZoo.name,
        name=name,
        architecture=(configs.architecture(config) if config and not error else ""),
        pretrained_tag="",
        license=id_lists.license_of(texts.get(README)),
        config=_description(config, preprocessor, error),
        **place,
    )


def _parsed(texts: Mapping[str, str | None]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The content of config.json, and that of the image processor; {} where there is none.

    Raises ValueError where there is no config.json, or one of the files isn't a JSON object.
    """
    text = texts.get(CONFIG)
    if text is None:
        raise ValueError("the repository has no config.json, or doesn't exist")
    config, preprocessor, processor = (
        json.loads(each or "{}") for each in (text, texts.get(PREPROCESSOR), texts.get(PROCESSOR))
    )
    if not all(isinstance(each, dict) for each in (config, preprocessor, processor)):
        raise ValueError(f"{CONFIG}, {PREPROCESSOR} or {PROCESSOR} isn't a JSON object")
    # A processor of images and texts keeps the image processor's part here; it goes first, as in
    # transformers' ImageProcessingMixin.get_image_processor_dict.
    return config, processor.get("image_processor") or preprocessor


def _description(config: Any, preprocessor: Any, error: str) -> str:
    described = {"config": config, "preprocessor": preprocessor, "error": error}
    return json.dumps(described, sort_keys=True)


def _described(entry: ModelEntry) -> dict[str, Any]:
    described: dict[str, Any] = json.loads(entry.config or "")
    return described


def _by_default(name: str) -> ModelEntry:
    config, error = None, ""
    try:
        config = getattr(transformers, name).config_class().to_dict() | {"architectures": [name]}
        config = json.loads(json.dumps(config, default=str))
    except Exception as cause:
        error = f"its default config can't be made: {one_line(cause)}"
    described = _description(config, {}, error)
    return ModelEntry(TransformersZoo.name, name, name, "", None, config=described)

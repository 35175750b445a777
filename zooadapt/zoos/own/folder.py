"""The zoos of fine-tuned timm models with any bands and classes: below a URL, or on the Hub."""

import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import timm
from timm.models._helpers import clean_state_dict
from torch import nn

from zooadapt.errors import CheckpointError, one_line
from zooadapt.names import CONFIG
from zooadapt.types import Listing, ModelEntry, ModelFacts
from zooadapt.zoos.own import folder_search, id_lists, timm_configs
from zooadapt.zoos.own.folder_search import README
from zooadapt.zoos.timm import TimmZoo

_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""The keys under which training scripts save weights; timm uses the first that a file has."""


class FolderZoo(TimmZoo):
    """Every folder below a URL that has a timm ``config.json`` and weights beside it."""

    name = "folder"
    place = "URL"

    def models(self, listing: Listing) -> Iterable[ModelEntry]:
        """All models below the URL, named and sorted by their paths there.

        Raises UsageError where there is none, or the URL can't be listed.
        """
        found = folder_search.found(listing, self.name, (CONFIG, README))
        return [
            self._entry_of(each.name, each.texts[CONFIG], each.texts.get(README, ""),
                           url=each.weights)
            for each in found
        ]  # fmt: skip

    def _entry_of(self, name: str, config: str, readme: str, **place: str) -> ModelEntry:
        stated = timm_configs.stated(config)
        return ModelEntry(
            zoo=self.name,
            name=name,
            architecture=stated.get("architecture", ""),
            pretrained_tag=stated.get("tag", ""),
            license=stated.get("license") or id_lists.license_of(readme),
            config=config,
            **place,
        )

    def facts(self, entry: ModelEntry) -> ModelFacts:
        """The facts that the model's config.json states.

        Raises CheckpointError where it can't be understood, FetchError where it couldn't be read,
        and Unsupported for an architecture that the installed timm doesn't know.
        """
        return timm_configs.described(entry.config or "").facts

    def arguments(self, entry: ModelEntry) -> Mapping[str, Any]:
        """The arguments that timm builds the model with. Raises the same errors as `facts`."""
        return timm_configs.described(entry.config or "").arguments

    def _created(self, entry: ModelEntry, **options: Any) -> nn.Module:
        """The model that timm creates from a folder with the model's config.json."""
        described = timm_configs.described(entry.config or "")
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / CONFIG).write_text(json.dumps(described.config))
            try:
                layers = timm_configs.layers(described.arguments)
                model: nn.Module = timm.create_model(f"local-dir:{folder}", **layers, **options)
            except Exception as cause:
                raise CheckpointError(
                    f"timm can't build what its {CONFIG} describes: {one_line(cause)}"
                ) from cause
        return model

    def _layers(self, folder: Path) -> Mapping[str, Any]:
        """The classes of ``timm.layers`` that ``model_args`` names."""
        return timm_configs.layers(json.loads((folder / CONFIG).read_text())["model_args"])

    def convert(
        self, entry: ModelEntry, model: nn.Module, content: dict[str, Any]
    ) -> tuple[Mapping[str, Any], bool]:
        """The checkpoint as timm loads it from a folder: unwrapped, then through timm's filter."""
        found = (content[key] for key in _WRAPPERS if isinstance(content.get(key), dict))
        return super().convert(entry, model, clean_state_dict(next(found, content)))

    def config(self, entry: ModelEntry, base: nn.Module, facts: ModelFacts) -> dict[str, Any]:
        """The ``config.json`` of a timm variant, with this model's own arguments and classes."""
        config = super().config(entry, base, facts)
        size = {"input_size": [facts.chans, *facts.size], "num_classes": facts.num_classes}
        own = {name: value for name, value in self.arguments(entry).items() if name not in config}
        return {
            **config,
            "model_args": {**own, **config["model_args"]},
            "pretrained_cfg": {**config["pretrained_cfg"], **size},
        }


class HubZoo(FolderZoo):
    """Fine-tuned timm models in repositories on the Hub, whose ids a file lists, one a line."""

    name = "hub"
    place = "FILE"

    def models(self, listing: Listing) -> Iterable[ModelEntry]:
        """One model for each id, named by it, in the order of the file.

        Raises UsageError where the file can't be read, RunError where the Hub doesn't answer.
        """
        return [
            self._entry_of(
                repo.id,
                repo.texts.get(CONFIG)
                or timm_configs.unread(repo.error or f"{repo.id} has no {CONFIG}"),
                repo.texts.get(README) or "",
                hub_id=repo.id,
            )
            for repo in id_lists.read_list(listing, (CONFIG, README))
        ]
